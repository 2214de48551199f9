//! A private key in an element of this node.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gose_client::identity::key_algorithm;
use gose_element::{
    Algorithm, Scheme, Seid,
    drive::piv::{Piv, PivError, PublicKey, Slot},
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    pki_types::SubjectPublicKeyInfoDer,
    sign::{Signer, SigningKey},
};
use zeroize::Zeroizing;

use super::KeyError;
use crate::{
    grid::{Grid, Names, Peer, Plane},
    hypervisor::key::{NoSignature, PrivateKey, tls13_scheme},
    leased::Leased,
};

/// How long an operation waits for an element that another session holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A key in a PIV slot. The element is leased for each operation alone, so that several keys of one
/// element, and its administrators, get along.
#[derive(Clone)]
pub struct LeasedKey(Arc<Inner>);

struct Inner {
    grid: Arc<Grid>,
    seid: Seid,
    slot: Slot,
    pin: Option<Zeroizing<Vec<u8>>>,
    public_key: Vec<u8>,
    algorithm: Algorithm,
    /// Signatures queue here rather than at the element's lock.
    queue: Mutex<()>,
}

impl LeasedKey {
    /// Looks the key up. Blocks.
    ///
    /// # Errors
    /// [`KeyError`] if there is no such element or key.
    pub fn open(
        grid: &Arc<Grid>,
        seid: Seid,
        slot: Slot,
        pin: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, KeyError> {
        let public_key = public_key(grid, seid, slot)?;
        let algorithm = key_algorithm(&public_key).ok_or(KeyError::Algorithm(seid))?;
        Ok(Self(Arc::new(Inner {
            grid: grid.clone(),
            seid,
            slot,
            pin,
            public_key,
            algorithm,
            queue: Mutex::new(()),
        })))
    }

    /// The public half.
    pub(super) fn public(&self) -> PublicKey {
        PublicKey {
            algorithm: self.0.algorithm,
            info: self.0.public_key.clone(),
        }
    }

    fn compute(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let Inner {
            grid,
            seid,
            slot,
            pin,
            ..
        } = &*self.0;
        let _turn = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        with_piv(grid, *seid, |piv| {
            if let Some(pin) = pin {
                piv.with_pin(pin)?;
            }
            piv.sign(*slot, scheme, message)
        })
    }
}

impl PrivateKey for LeasedKey {
    fn public_key(&self) -> &[u8] {
        &self.0.public_key
    }

    fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, NoSignature> {
        let signed = crate::long_step(|| self.compute(scheme, message));
        signed.map_err(|error| NoSignature(error.to_string()))
    }
}

impl SigningKey for LeasedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.iter().find_map(|name| {
            let scheme = tls13_scheme(self.0.algorithm, u16::from(*name))?;
            let signer = LeasedSigner {
                key: self.clone(),
                name: *name,
                scheme,
            };
            Some(Box::new(signer) as Box<dyn Signer>)
        })
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public_key.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.0.algorithm.is_rsa() {
            SignatureAlgorithm::RSA
        } else {
            SignatureAlgorithm::ECDSA
        }
    }
}

#[derive(Debug)]
struct LeasedSigner {
    key: LeasedKey,
    name: SignatureScheme,
    scheme: Scheme,
}

impl Signer for LeasedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        PrivateKey::sign(&self.key, self.scheme, message)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.name
    }
}

impl fmt::Debug for LeasedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeasedKey({} {})", self.0.seid, self.0.slot)
    }
}

/// The public key in a slot of an element: DER SubjectPublicKeyInfo. Blocks.
///
/// # Errors
/// [`KeyError`].
pub fn public_key(grid: &Arc<Grid>, seid: Seid, slot: Slot) -> Result<Vec<u8>, KeyError> {
    with_piv(grid, seid, |piv| piv.public_key(slot).map(|key| key.info))
}

fn with_piv<T>(
    grid: &Arc<Grid>,
    seid: Seid,
    operation: impl FnOnce(&mut Piv<'_>) -> Result<T, PivError>,
) -> Result<T, KeyError> {
    let peer = Peer::new(grid.new_sid(), Names::Operator);
    let mut element = Leased::wait_for(grid, &peer, seid, Plane::User, PATIENCE)
        .map_err(|cause| KeyError::Lease { seid, cause })?;
    operation(&mut Piv::open(&mut element)).map_err(|cause| KeyError::Element { seid, cause })
}
