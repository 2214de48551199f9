//! Secret keys and data objects of the storage application, as objects; operations begun with such keys.

use cryptoki_sys::*;
use gose_element::{
    SecretAlgorithm,
    drive::storage::{Access, Inventory, KeyReference, ObjectInfo, Origin, SecretKeyInfo},
};
use zeroize::Zeroizing;

use crate::{
    api::{Attribute, boolean, number, value},
    mechanism::Mechanism,
    object::{Attributes, Kind, Object, handle_of, ulong},
    rv::{Result, Rv},
};

/// Bytes that an element takes for one operation.
pub(crate) const MOST: usize = 16_000;

/// Bytes of a label.
const LABEL: usize = 32;

/// Bytes of a tag of AES-GCM, and of a nonce.
const TAG: usize = 16;
const NONCE: usize = 12;

/// Bytes that RFC 3394 adds to a key.
pub(crate) const WRAPPING: usize = 8;

/// What a secret key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Sign,
    Verify,
    Encrypt,
    Decrypt,
}

/// An operation that was begun with a secret key of an element.
pub(crate) struct Job {
    pub(crate) key: KeyReference,
    pub(crate) mechanism: Mechanism,
    pub(crate) gathered: Zeroizing<Vec<u8>>,
}

impl Job {
    /// Adds a part of the message, or the whole of it.
    ///
    /// # Errors
    /// CKR_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_LEN_RANGE
    pub(crate) fn add(&mut self, work: Work, part: &[u8]) -> Result<()> {
        let room = match work {
            Work::Decrypt => MOST + TAG + NONCE,
            _ => MOST,
        };
        if self.gathered.len() + part.len() > room {
            return Err(Rv(match work {
                Work::Decrypt => CKR_ENCRYPTED_DATA_LEN_RANGE,
                _ => CKR_DATA_LEN_RANGE,
            }));
        }
        self.gathered.extend_from_slice(part);
        Ok(())
    }

    /// Bytes of the result where so many more come.
    ///
    /// # Errors
    /// CKR_ENCRYPTED_DATA_LEN_RANGE for what is shorter than nonce and tag.
    pub(crate) fn result_len(&self, work: Work, more: usize) -> Result<usize> {
        let len = self.gathered.len() + more;
        match work {
            Work::Encrypt => Ok(NONCE + len + TAG),
            Work::Decrypt => {
                let nonce = match &self.mechanism {
                    Mechanism::AesGcm { nonce: Some(_), .. } => 0,
                    _ => NONCE,
                };
                len.checked_sub(nonce + TAG)
                    .ok_or(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE))
            }
            Work::Sign | Work::Verify => Ok(32),
        }
    }
}

/// Whether a key of this algorithm may be used so.
///
/// # Errors
/// CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED
pub(crate) fn permits(work: Work, mechanism: &Mechanism, algorithm: SecretAlgorithm) -> Result<()> {
    match (mechanism, work) {
        (Mechanism::HmacSha256, Work::Sign | Work::Verify) => {
            if algorithm == SecretAlgorithm::HmacSha256 {
                Ok(())
            } else {
                Err(Rv(CKR_KEY_TYPE_INCONSISTENT))
            }
        }
        (Mechanism::AesGcm { nonce, .. }, Work::Encrypt | Work::Decrypt) => {
            if algorithm == SecretAlgorithm::HmacSha256 {
                return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
            }
            if !algorithm.encrypts() {
                return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
            }
            // A nonce that an application chooses may come twice, and betray the key.
            if work == Work::Encrypt && nonce.is_some() {
                return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
            }
            Ok(())
        }
        _ => Err(Rv(CKR_MECHANISM_INVALID)),
    }
}

/// What a template wants a secret key to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) algorithm: SecretAlgorithm,
    pub(crate) wrappable: bool,
    pub(crate) label: String,
    /// CKA_ID, where the template has one: the key's number.
    pub(crate) number: Option<KeyReference>,
}

impl Wanted {
    /// Reads a template for a key of `len` bytes.
    ///
    /// # Errors
    /// CKR_TEMPLATE_INCONSISTENT for what no secret key of an element is, CKR_ATTRIBUTE_VALUE_INVALID,
    /// CKR_KEY_SIZE_RANGE.
    pub(crate) fn read(template: &[Attribute], key_type: CK_KEY_TYPE, len: usize) -> Result<Self> {
        let is = |kind| boolean(template, kind);
        let any = |kinds: [CK_ATTRIBUTE_TYPE; 2]| {
            Ok::<_, Rv>(is(kinds[0])? == Some(true) || is(kinds[1])? == Some(true))
        };
        let class = number(template, CKA_CLASS)?.unwrap_or(CKO_SECRET_KEY);
        let kind = number(template, CKA_KEY_TYPE)?.unwrap_or(key_type);
        if class != CKO_SECRET_KEY
            || kind != key_type
            || is(CKA_TOKEN)? != Some(true)
            || is(CKA_PRIVATE)? == Some(false)
            || is(CKA_SENSITIVE)? == Some(false)
            || is(CKA_DERIVE)? == Some(true)
        {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        let crypts = any([CKA_ENCRYPT, CKA_DECRYPT])?;
        let signs = any([CKA_SIGN, CKA_VERIFY])?;
        let wraps = any([CKA_WRAP, CKA_UNWRAP])?;
        let wrappable = is(CKA_EXTRACTABLE)? == Some(true);
        // One key has one use.
        let algorithm = match (kind, crypts, signs, wraps) {
            (CKK_AES, _, false, false) => [SecretAlgorithm::Aes128Gcm, SecretAlgorithm::Aes256Gcm],
            (CKK_AES, false, false, true) if !wrappable => {
                [SecretAlgorithm::Aes128Kw, SecretAlgorithm::Aes256Kw]
            }
            (CKK_GENERIC_SECRET, false, _, false) => [SecretAlgorithm::HmacSha256; 2],
            _ => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        };
        let algorithm = algorithm
            .into_iter()
            .find(|algorithm| algorithm.takes(len))
            .ok_or(Rv(CKR_KEY_SIZE_RANGE))?;
        let number = match value(template, CKA_ID) {
            None | Some([]) => None,
            Some([id]) => {
                let number = KeyReference::try_from(*id);
                Some(number.map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?)
            }
            Some(_) => return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
        };
        Ok(Self {
            algorithm,
            wrappable,
            label: label(template)?,
            number,
        })
    }
}

/// CKA_LABEL, as an element can keep it.
///
/// # Errors
/// CKR_ATTRIBUTE_VALUE_INVALID
pub(crate) fn label(template: &[Attribute]) -> Result<String> {
    let label = value(template, CKA_LABEL).unwrap_or_default();
    std::str::from_utf8(label)
        .ok()
        .filter(|label| label.len() <= LABEL)
        .map(str::to_owned)
        .ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))
}

/// The objects of an element's storage application. Data that the administrator alone reads is nobody's here.
pub(crate) fn of_inventory(token: CK_SLOT_ID, inventory: &Inventory) -> Vec<Object> {
    let keys = inventory.keys.iter().map(|info| key(token, info));
    let data = inventory
        .objects
        .iter()
        .filter(|info| info.read != Access::Management);
    keys.chain(data.map(|info| data_object(token, info)))
        .collect()
}

fn key(token: CK_SLOT_ID, info: &SecretKeyInfo) -> Object {
    let algorithm = info.algorithm;
    let local = info.origin == Origin::Generated;
    let mut attributes = Attributes::of(CKO_SECRET_KEY);
    let (kind, mechanism) = match algorithm {
        SecretAlgorithm::HmacSha256 => (CKK_GENERIC_SECRET, CKM_GENERIC_SECRET_KEY_GEN),
        _ => (CKK_AES, CKM_AES_KEY_GEN),
    };
    let made_by = if local {
        mechanism
    } else {
        CK_UNAVAILABLE_INFORMATION
    };
    attributes.put(CKA_KEY_TYPE, ulong(kind));
    attributes.put(CKA_KEY_GEN_MECHANISM, ulong(made_by));
    attributes.put(CKA_ID, [info.reference.id()]);
    attributes.put(CKA_LABEL, info.label.as_bytes());
    attributes.put(CKA_START_DATE, []);
    attributes.put(CKA_END_DATE, []);
    // The element does not tell how long an HMAC key is that it did not make.
    if local || algorithm != SecretAlgorithm::HmacSha256 {
        attributes.put(CKA_VALUE_LEN, ulong(algorithm.key_len() as CK_ULONG));
    }
    attributes.flags(
        &[CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_DESTROYABLE],
        &[
            CKA_MODIFIABLE,
            CKA_COPYABLE,
            CKA_DERIVE,
            CKA_TRUSTED,
            CKA_WRAP_WITH_TRUSTED,
        ],
    );
    let signs = algorithm == SecretAlgorithm::HmacSha256;
    for (kind, holds) in [
        (CKA_LOCAL, local),
        (CKA_ALWAYS_SENSITIVE, local),
        (CKA_NEVER_EXTRACTABLE, local && !info.wrappable),
        (CKA_EXTRACTABLE, info.wrappable),
        (CKA_ENCRYPT, algorithm.encrypts()),
        (CKA_DECRYPT, algorithm.encrypts()),
        (CKA_SIGN, signs),
        (CKA_VERIFY, signs),
        (CKA_WRAP, algorithm.wraps()),
        (CKA_UNWRAP, algorithm.wraps()),
    ] {
        attributes.put(kind, [u8::from(holds)]);
    }
    attributes.object(
        handle_of(token, CKO_SECRET_KEY, info.reference.id()),
        Kind::Stored {
            key: info.reference,
            algorithm,
            wrappable: info.wrappable,
        },
    )
}

/// Its content is asked for when an application wants it.
fn data_object(token: CK_SLOT_ID, info: &ObjectInfo) -> Object {
    let mut attributes = Attributes::of(CKO_DATA);
    attributes.put(CKA_LABEL, info.label.as_bytes());
    attributes.put(CKA_APPLICATION, []);
    attributes.put(CKA_OBJECT_ID, []);
    attributes.flags(&[CKA_TOKEN], &[CKA_COPYABLE]);
    let writes = info.write != Access::Management;
    for (kind, holds) in [
        (CKA_PRIVATE, info.read == Access::Pin),
        (CKA_MODIFIABLE, writes),
        (CKA_DESTROYABLE, writes),
    ] {
        attributes.put(kind, [u8::from(holds)]);
    }
    attributes.object(
        handle_of(token, CKO_DATA, info.id),
        Kind::StoredData(info.id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(
        kind: CK_KEY_TYPE,
        len: usize,
        more: &[(CK_ATTRIBUTE_TYPE, &[u8])],
    ) -> Result<SecretAlgorithm> {
        let mut template = vec![(CKA_TOKEN, vec![CK_TRUE])];
        template.extend(more.iter().map(|(kind, value)| (*kind, value.to_vec())));
        Wanted::read(&template, kind, len).map(|wanted| wanted.algorithm)
    }

    #[test]
    fn a_template_says_one_use() {
        use SecretAlgorithm::*;
        const YES: &[u8] = &[CK_TRUE];
        const NO: &[u8] = &[CK_FALSE];
        let inconsistent = Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        type Template<'a> = &'a [(CK_ATTRIBUTE_TYPE, &'a [u8])];
        let cases: [(CK_KEY_TYPE, usize, Template<'_>, _); 15] = [
            (CKK_AES, 16, &[], Ok(Aes128Gcm)),
            (CKK_AES, 32, &[(CKA_ENCRYPT, YES)], Ok(Aes256Gcm)),
            (CKK_AES, 32, &[(CKA_WRAP, YES)], Ok(Aes256Kw)),
            (
                CKK_AES,
                16,
                &[(CKA_UNWRAP, YES), (CKA_ENCRYPT, NO)],
                Ok(Aes128Kw),
            ),
            (CKK_AES, 24, &[], Err(Rv(CKR_KEY_SIZE_RANGE))),
            (
                CKK_AES,
                32,
                &[(CKA_WRAP, YES), (CKA_DECRYPT, YES)],
                inconsistent,
            ),
            (
                CKK_AES,
                32,
                &[(CKA_WRAP, YES), (CKA_EXTRACTABLE, YES)],
                inconsistent,
            ),
            (CKK_AES, 32, &[(CKA_SIGN, YES)], inconsistent),
            (CKK_AES, 32, &[(CKA_SENSITIVE, NO)], inconsistent),
            (CKK_AES, 32, &[(CKA_PRIVATE, NO)], inconsistent),
            (CKK_GENERIC_SECRET, 32, &[(CKA_SIGN, YES)], Ok(HmacSha256)),
            (CKK_GENERIC_SECRET, 64, &[], Ok(HmacSha256)),
            (CKK_GENERIC_SECRET, 20, &[], Err(Rv(CKR_KEY_SIZE_RANGE))),
            (CKK_GENERIC_SECRET, 32, &[(CKA_ENCRYPT, YES)], inconsistent),
            (
                CKK_GENERIC_SECRET,
                32,
                &[(CKA_SIGN, &[])],
                Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
            ),
        ];
        for (kind, len, more, expected) in cases {
            assert_eq!(wanted(kind, len, more), expected, "{kind} {len} {more:x?}");
        }
        // A key of a session has no element to lie in.
        assert_eq!(
            Wanted::read(&[], CKK_AES, 32).err(),
            Some(Rv(CKR_TEMPLATE_INCONSISTENT))
        );
        for (id, expected) in [(&[0x7F][..], Ok(Aes128Gcm)), (&[], Ok(Aes128Gcm))] {
            assert_eq!(wanted(CKK_AES, 16, &[(CKA_ID, id)]), expected);
        }
        for id in [&[0][..], &[0x80], &[1, 2]] {
            let invalid = Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            assert_eq!(wanted(CKK_AES, 16, &[(CKA_ID, id)]), invalid);
        }
        let long = [b'x'; 33];
        assert!(wanted(CKK_AES, 16, &[(CKA_LABEL, &long)]).is_err());
        assert!(wanted(CKK_AES, 16, &[(CKA_LABEL, &long[1..])]).is_ok());
    }

    #[test]
    fn mechanisms_fit_keys() {
        use SecretAlgorithm::*;
        let gcm = |nonce| Mechanism::AesGcm {
            nonce,
            associated: vec![],
        };
        let own = gcm(Some([0; 12]));
        let cases = [
            (Work::Encrypt, gcm(None), Aes128Gcm, Ok(())),
            (Work::Decrypt, own.clone(), Aes256Gcm, Ok(())),
            (
                Work::Encrypt,
                own,
                Aes256Gcm,
                Err(CKR_MECHANISM_PARAM_INVALID),
            ),
            (
                Work::Encrypt,
                gcm(None),
                Aes256Kw,
                Err(CKR_KEY_FUNCTION_NOT_PERMITTED),
            ),
            (
                Work::Decrypt,
                gcm(None),
                HmacSha256,
                Err(CKR_KEY_TYPE_INCONSISTENT),
            ),
            (Work::Sign, gcm(None), Aes128Gcm, Err(CKR_MECHANISM_INVALID)),
            (Work::Sign, Mechanism::HmacSha256, HmacSha256, Ok(())),
            (
                Work::Verify,
                Mechanism::HmacSha256,
                Aes128Gcm,
                Err(CKR_KEY_TYPE_INCONSISTENT),
            ),
            (
                Work::Encrypt,
                Mechanism::HmacSha256,
                HmacSha256,
                Err(CKR_MECHANISM_INVALID),
            ),
        ];
        for (work, mechanism, algorithm, expected) in cases {
            let found = permits(work, &mechanism, algorithm).map_err(|code| code.0);
            assert_eq!(found, expected, "{work:?} {mechanism:?} {algorithm:?}");
        }
    }

    #[test]
    fn lengths_are_known_before_the_element_is_asked() {
        let mut job = Job {
            key: 1.try_into().unwrap(),
            mechanism: Mechanism::AesGcm {
                nonce: None,
                associated: vec![],
            },
            gathered: Zeroizing::default(),
        };
        assert_eq!(job.result_len(Work::Encrypt, 5), Ok(33));
        assert_eq!(job.result_len(Work::Decrypt, 33), Ok(5));
        assert_eq!(
            job.result_len(Work::Decrypt, 27),
            Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE))
        );
        job.add(Work::Encrypt, &[0; MOST]).unwrap();
        assert_eq!(job.add(Work::Encrypt, &[0]), Err(Rv(CKR_DATA_LEN_RANGE)));
        assert_eq!(job.result_len(Work::Encrypt, 0), Ok(MOST + 28));
    }
}
