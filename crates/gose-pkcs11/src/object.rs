//! Objects and their attributes (PKCS#11 v3.0, 4).

use cryptoki_sys::*;
use gose_element::{
    Algorithm, SecretAlgorithm,
    drive::{
        piv::{Inventory, Slot},
        storage::KeyReference,
    },
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{
    names::{self, Name},
    public::Public,
    rv::{Result, Rv},
};

/// The handle of an object.
pub(crate) type Handle = CK_OBJECT_HANDLE;

/// Handles of session objects begin here; those of token objects are made of slot, class and key slot.
pub(crate) const SESSION_OBJECTS: Handle = 0x4000_0000;

/// An object: what it is, and its attributes.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) handle: Handle,
    pub(crate) kind: Kind,
    attributes: Vec<(CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>)>,
}

/// What an object is, with what operations need of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Public(Public),
    Private(Private),
    Certificate(Option<Slot>),
    /// A secret of the session: an agreed one, or one that the application gave.
    Secret,
    Data,
    /// A secret key in an element, and whether it may leave wrapped.
    Stored {
        key: KeyReference,
        algorithm: SecretAlgorithm,
        wrappable: bool,
    },
    /// A data object in an element.
    StoredData(u8),
}

/// A private key in an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Private {
    pub(crate) slot: Slot,
    pub(crate) algorithm: Algorithm,
    pub(crate) public: Public,
}

impl Private {
    /// Slot 9E needs no PIN.
    pub(crate) fn needs_login(&self) -> bool {
        self.slot != Slot::CARD_AUTHENTICATION
    }
}

/// Attributes that an object has and does not tell.
const SENSITIVE: [CK_ATTRIBUTE_TYPE; 8] = [
    CKA_VALUE,
    CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_EXPONENT_1,
    CKA_EXPONENT_2,
    CKA_COEFFICIENT,
    CKA_SEED,
];

/// A value in an application's memory order.
pub(crate) fn ulong(value: CK_ULONG) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn flag(value: bool) -> Vec<u8> {
    vec![if value { CK_TRUE } else { CK_FALSE }]
}

/// Collects attributes.
#[derive(Default)]
pub(crate) struct Attributes(Vec<(CK_ATTRIBUTE_TYPE, Zeroizing<Vec<u8>>)>);

impl Attributes {
    pub(crate) fn of(class: CK_OBJECT_CLASS) -> Self {
        let mut attributes = Self::default();
        attributes.put(CKA_CLASS, ulong(class));
        attributes
    }

    pub(crate) fn put(&mut self, kind: CK_ATTRIBUTE_TYPE, value: impl Into<Vec<u8>>) {
        self.0.retain(|(other, _)| *other != kind);
        self.0.push((kind, Zeroizing::new(value.into())));
    }

    /// Where the application gave none.
    pub(crate) fn put_default(&mut self, kind: CK_ATTRIBUTE_TYPE, value: impl Into<Vec<u8>>) {
        if self.0.iter().all(|(other, _)| *other != kind) {
            self.put(kind, value);
        }
    }

    pub(crate) fn flags(&mut self, yes: &[CK_ATTRIBUTE_TYPE], no: &[CK_ATTRIBUTE_TYPE]) {
        for kind in yes {
            self.put(*kind, flag(true));
        }
        for kind in no {
            self.put(*kind, flag(false));
        }
    }

    fn public(&mut self, public: &Public) {
        match public {
            Public::Rsa(key) => {
                self.put(CKA_MODULUS, key.modulus.clone());
                self.put(CKA_PUBLIC_EXPONENT, key.exponent.clone());
            }
            Public::Ec(curve, point) => {
                self.put(CKA_EC_PARAMS, curve.parameters());
                self.put(CKA_EC_POINT, Public::ec_point(point));
            }
        }
        self.put(CKA_PUBLIC_KEY_INFO, public.info());
    }

    fn key(&mut self, public: &Public, name: &Naming) {
        self.put(CKA_KEY_TYPE, ulong(public.key_type()));
        self.put(CKA_ID, name.id.clone());
        self.put(CKA_LABEL, name.label.clone());
        self.put(CKA_SUBJECT, name.subject.clone());
        self.put(CKA_START_DATE, []);
        self.put(CKA_END_DATE, []);
        let mechanism = match public {
            Public::Rsa(_) => CKM_RSA_PKCS_KEY_PAIR_GEN,
            Public::Ec(..) => CKM_EC_KEY_PAIR_GEN,
        };
        self.put(CKA_KEY_GEN_MECHANISM, ulong(mechanism));
        self.public(public);
        self.flags(
            &[CKA_TOKEN, CKA_LOCAL, CKA_MODIFIABLE],
            &[CKA_COPYABLE, CKA_DESTROYABLE],
        );
    }

    pub(crate) fn object(self, handle: Handle, kind: Kind) -> Object {
        Object {
            handle,
            kind,
            attributes: self.0,
        }
    }
}

/// What the objects of a key slot are called.
struct Naming {
    id: Vec<u8>,
    label: Vec<u8>,
    subject: Vec<u8>,
}

impl Object {
    /// The value of an attribute.
    ///
    /// # Errors
    /// CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID
    pub(crate) fn attribute(&self, kind: CK_ATTRIBUTE_TYPE) -> Result<&[u8]> {
        let secret = match self.kind {
            Kind::Private(_) | Kind::Stored { .. } => true,
            Kind::Secret => self.is(CKA_SENSITIVE) || !self.is(CKA_EXTRACTABLE),
            _ => false,
        };
        if secret && SENSITIVE.contains(&kind) {
            return Err(Rv(CKR_ATTRIBUTE_SENSITIVE));
        }
        self.raw(kind).ok_or(Rv(CKR_ATTRIBUTE_TYPE_INVALID))
    }

    fn raw(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(other, _)| *other == kind)?;
        Some(&found.1)
    }

    /// Whether a boolean attribute is true.
    pub(crate) fn is(&self, kind: CK_ATTRIBUTE_TYPE) -> bool {
        self.raw(kind).is_some_and(|value| value == [CK_TRUE])
    }

    /// Whether every attribute of a template has this value; sensitive ones never match.
    pub(crate) fn matches(&self, template: &[(CK_ATTRIBUTE_TYPE, Vec<u8>)]) -> bool {
        template
            .iter()
            .all(|(kind, value)| self.attribute(*kind).is_ok_and(|own| own == value))
    }

    /// Changes an attribute of a session object.
    pub(crate) fn set(&mut self, kind: CK_ATTRIBUTE_TYPE, value: Vec<u8>) {
        self.attributes.retain(|(other, _)| *other != kind);
        self.attributes.push((kind, Zeroizing::new(value)));
    }

    /// The same object under another handle.
    pub(crate) fn under(self, handle: Handle) -> Self {
        Self { handle, ..self }
    }

    /// Bytes of all attributes.
    pub(crate) fn size(&self) -> usize {
        self.attributes
            .iter()
            .map(|(_, value)| value.len() + 8)
            .sum()
    }
}

/// The objects of an element: for each key slot a private and a public key, and a certificate.
pub(crate) fn of_inventory(token: CK_SLOT_ID, inventory: &Inventory, always: bool) -> Vec<Object> {
    let names = inventory.key_history.as_deref().map(names::read);
    let names = names.unwrap_or_default();
    let mut objects = Vec::new();
    for entry in &inventory.entries {
        let slot = entry.slot;
        let certificate = entry.certificate.as_deref();
        let parsed = certificate.and_then(|der| Some(X509Certificate::from_der(der).ok()?.1));
        let certified = parsed
            .as_ref()
            .and_then(|found| Public::of_info(found.public_key().raw));
        let own = entry
            .key
            .as_ref()
            .and_then(|key| Public::of_info(&key.info));
        let Some(public) = own.or_else(|| certified.clone()) else {
            continue;
        };
        let name = names.iter().find(|name| name.slot == slot);
        let subject = parsed
            .as_ref()
            .map(|found| found.subject().as_raw().to_vec());
        let naming = Naming {
            id: name
                .and_then(|name| name.id.clone())
                .unwrap_or_else(|| public.id()),
            label: name
                .and_then(|name| name.label.clone())
                .unwrap_or_else(|| slot.to_string().into_bytes()),
            subject: subject.unwrap_or_default(),
        };
        if let Some(algorithm) = algorithm(&public) {
            let private = Private {
                slot,
                algorithm,
                public: public.clone(),
            };
            objects.push(private_key(token, private, &naming, always));
        }
        objects.push(public_key(token, slot, public, &naming));
        if let (Some(der), Some(parsed)) = (certificate, parsed) {
            objects.push(certificate_object(token, slot, der, &parsed, &naming));
        }
    }
    objects
}

fn algorithm(public: &Public) -> Option<Algorithm> {
    use crate::public::Curve;
    match public {
        Public::Rsa(key) => Algorithm::rsa(key.modulus.len()),
        Public::Ec(Curve::P256, _) => Some(Algorithm::P256),
        Public::Ec(Curve::P384, _) => Some(Algorithm::P384),
        Public::Ec(..) => None,
    }
}

/// The same object has the same handle whenever the token is read.
pub(crate) fn handle(token: CK_SLOT_ID, class: CK_OBJECT_CLASS, slot: Slot) -> Handle {
    handle_of(token, class, slot.id())
}

/// The same for what has a number of its own.
pub(crate) fn handle_of(token: CK_SLOT_ID, class: CK_OBJECT_CLASS, number: u8) -> Handle {
    (token + 1) << 16 | (class + 1) << 8 | Handle::from(number)
}

fn private_key(token: CK_SLOT_ID, key: Private, name: &Naming, always: bool) -> Object {
    let mut attributes = Attributes::of(CKO_PRIVATE_KEY);
    attributes.key(&key.public, name);
    attributes.flags(
        &[
            CKA_SENSITIVE,
            CKA_ALWAYS_SENSITIVE,
            CKA_NEVER_EXTRACTABLE,
            CKA_SIGN,
        ],
        &[
            CKA_EXTRACTABLE,
            CKA_SIGN_RECOVER,
            CKA_UNWRAP,
            CKA_WRAP_WITH_TRUSTED,
            CKA_DECRYPT,
            CKA_DERIVE,
        ],
    );
    let other = match key.public {
        Public::Rsa(_) => CKA_DECRYPT,
        Public::Ec(..) => CKA_DERIVE,
    };
    attributes.put(other, flag(true));
    attributes.put(CKA_PRIVATE, flag(key.needs_login()));
    let asks = always && key.slot == Slot::SIGNATURE;
    attributes.put(CKA_ALWAYS_AUTHENTICATE, flag(asks));
    let handle = handle(token, CKO_PRIVATE_KEY, key.slot);
    attributes.object(handle, Kind::Private(key))
}

fn public_key(token: CK_SLOT_ID, slot: Slot, public: Public, name: &Naming) -> Object {
    let mut attributes = Attributes::of(CKO_PUBLIC_KEY);
    attributes.key(&public, name);
    attributes.flags(
        &[CKA_VERIFY],
        &[
            CKA_PRIVATE,
            CKA_VERIFY_RECOVER,
            CKA_WRAP,
            CKA_TRUSTED,
            CKA_DERIVE,
            CKA_ENCRYPT,
        ],
    );
    if let Public::Rsa(key) = &public {
        let bits = key.modulus.len() * 8
            - key
                .modulus
                .first()
                .map_or(0, |b| b.leading_zeros() as usize);
        attributes.put(CKA_MODULUS_BITS, ulong(bits as CK_ULONG));
        attributes.put(CKA_ENCRYPT, flag(true));
    }
    let handle = handle(token, CKO_PUBLIC_KEY, slot);
    attributes.object(handle, Kind::Public(public))
}

fn certificate_object(
    token: CK_SLOT_ID,
    slot: Slot,
    der: &[u8],
    parsed: &X509Certificate<'_>,
    name: &Naming,
) -> Object {
    let mut attributes = Attributes::of(CKO_CERTIFICATE);
    attributes.put(CKA_ID, name.id.clone());
    attributes.put(CKA_LABEL, name.label.clone());
    certificate_attributes(&mut attributes, der, parsed);
    attributes.flags(
        &[CKA_TOKEN, CKA_MODIFIABLE, CKA_DESTROYABLE],
        &[CKA_PRIVATE, CKA_TRUSTED, CKA_COPYABLE],
    );
    let handle = handle(token, CKO_CERTIFICATE, slot);
    attributes.object(handle, Kind::Certificate(Some(slot)))
}

/// What an X.509 certificate says of itself.
pub(crate) fn certificate_attributes(
    attributes: &mut Attributes,
    der: &[u8],
    parsed: &X509Certificate<'_>,
) {
    use gose_proto::apdu::tlv;
    attributes.put(CKA_CERTIFICATE_TYPE, ulong(CKC_X_509));
    attributes.put(CKA_CERTIFICATE_CATEGORY, ulong(0));
    attributes.put(CKA_SUBJECT, parsed.subject().as_raw());
    attributes.put(CKA_ISSUER, parsed.issuer().as_raw());
    attributes.put(CKA_SERIAL_NUMBER, tlv::object(2, parsed.raw_serial()));
    attributes.put(CKA_VALUE, der);
    attributes.put(CKA_PUBLIC_KEY_INFO, parsed.public_key().raw);
    let check = crate::hash::Hash::Sha1.digest(der);
    attributes.put(CKA_CHECK_VALUE, &check.as_ref()[..3]);
    attributes.put(CKA_START_DATE, []);
    attributes.put(CKA_END_DATE, []);
    attributes.put(CKA_JAVA_MIDP_SECURITY_DOMAIN, ulong(0));
    attributes.put(CKA_URL, []);
}

/// The names that stay when a key is called otherwise.
pub(crate) fn rename(inventory: Option<&[u8]>, name: Name, retired: u8) -> Vec<u8> {
    let mut names = inventory.map(names::read).unwrap_or_default();
    names.retain(|other| other.slot != name.slot);
    if name.id.is_some() || name.label.is_some() {
        names.push(name);
    }
    names::write(inventory, &names, retired)
}
