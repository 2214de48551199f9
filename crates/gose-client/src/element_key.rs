//! A private key in an element, as TLS and X.509 take keys: the element signs, the host holds its name.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use gose_element::{
    Algorithm, Scheme, SecureElement,
    drive::piv::{Piv, PivError, PublicKey, Slot},
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey},
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use zeroize::Zeroizing;

/// An element that several keys and drivers share; each holds the lock for one operation.
pub type SharedElement = Arc<Mutex<dyn SecureElement>>;

/// A key in a PIV slot of an element. A signature is one script: SELECT, VERIFY, GENERAL AUTHENTICATE.
#[derive(Clone)]
pub struct ElementKey {
    inner: Arc<Inner>,
}

struct Inner {
    element: SharedElement,
    slot: Slot,
    pin: Option<Zeroizing<Vec<u8>>>,
    public: PublicKey,
    /// Why the last signature failed: the traits of TLS and X.509 libraries lose it.
    failure: Mutex<Option<PivError>>,
}

impl ElementKey {
    /// The key of a slot of an element that is powered up. The PIN is shown with each signature; slot 9E needs none.
    ///
    /// # Errors
    /// [`PivError`] where the element does not answer or the slot holds no key.
    pub fn open(element: SharedElement, slot: Slot, pin: Option<&[u8]>) -> Result<Self, PivError> {
        let public = with(&element, |element| Piv::open(element).public_key(slot))?;
        let inner = Inner {
            element,
            slot,
            pin: pin.map(|pin| Zeroizing::new(pin.to_vec())),
            public,
            failure: Mutex::new(None),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.inner.public
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.inner.slot
    }

    /// The element that holds the key.
    #[must_use]
    pub fn element(&self) -> &SharedElement {
        &self.inner.element
    }

    /// Signs a message; ECDSA signatures are DER.
    ///
    /// # Errors
    /// [`PivError`].
    pub fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, PivError> {
        let signed = with(&self.inner.element, |element| {
            let mut piv = Piv::open(element);
            piv.know(self.inner.slot, self.inner.public.clone());
            if let Some(pin) = &self.inner.pin {
                piv.with_pin(pin)?;
            }
            piv.sign(self.inner.slot, scheme, message)
        });
        let failure = signed.as_ref().err().cloned();
        *self.failure_slot() = failure;
        signed
    }

    /// Why the last signature failed, if it did; asked once.
    #[must_use]
    pub fn take_failure(&self) -> Option<PivError> {
        self.failure_slot().take()
    }

    fn failure_slot(&self) -> std::sync::MutexGuard<'_, Option<PivError>> {
        self.inner
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ElementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slot, algorithm) = (self.inner.slot, self.inner.public.algorithm);
        write!(f, "ElementKey({slot}, {algorithm:?})")
    }
}

impl SigningKey for ElementKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let (name, scheme) = schemes(self.inner.public.algorithm)
            .iter()
            .find(|(name, _)| offered.contains(name))?;
        Some(Box::new(ElementSigner {
            key: self.clone(),
            name: *name,
            scheme: *scheme,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(
            self.inner.public.info.as_slice(),
        ))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.inner.public.algorithm.is_rsa() {
            SignatureAlgorithm::RSA
        } else {
            SignatureAlgorithm::ECDSA
        }
    }
}

#[derive(Debug)]
struct ElementSigner {
    key: ElementKey,
    name: SignatureScheme,
    scheme: Scheme,
}

impl Signer for ElementSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key
            .sign(self.scheme, message)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.name
    }
}

/// What a key can sign, in order of preference: for TLS 1.3 first (RFC 8446, 4.2.3).
fn schemes(algorithm: Algorithm) -> &'static [(SignatureScheme, Scheme)] {
    match algorithm {
        Algorithm::P256 => &[(
            SignatureScheme::ECDSA_NISTP256_SHA256,
            Scheme::EcdsaP256Sha256,
        )],
        Algorithm::P384 => &[(
            SignatureScheme::ECDSA_NISTP384_SHA384,
            Scheme::EcdsaP384Sha384,
        )],
        Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => &[
            (SignatureScheme::RSA_PSS_SHA256, Scheme::RsaPssSha256),
            (SignatureScheme::RSA_PKCS1_SHA256, Scheme::RsaPkcs1Sha256),
        ],
        _ => &[],
    }
}

/// Runs an operation on the element, which is powered up, while nobody else uses it.
fn with<T>(
    element: &SharedElement,
    operation: impl FnOnce(&mut dyn SecureElement) -> Result<T, PivError>,
) -> Result<T, PivError> {
    // Whoever panicked in the middle left the element in an unknown state: SELECT comes first anyway.
    let mut element = element.lock().unwrap_or_else(PoisonError::into_inner);
    operation(&mut *element)
}

#[cfg(test)]
mod tests;
