//! Public keys and what the host computes with them.

use aws_lc_rs::{
    digest::Digest,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
        EcdsaVerificationAlgorithm, UnparsedPublicKey,
    },
};
use cryptoki_sys::*;
use gose_proto::apdu::tlv;
use rsa::BigUint;
use x509_parser::{
    prelude::{FromDer, SubjectPublicKeyInfo},
    public_key,
};

use crate::{
    hash::Hash,
    rv::{Result, Rv},
};

/// Bytes of the largest RSA modulus that is computed with.
const LARGEST_MODULUS: usize = 1024;

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Public {
    Rsa(Rsa),
    Ec(Curve, Vec<u8>),
}

/// Numbers of an RSA key, big endian without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rsa {
    pub(crate) modulus: Vec<u8>,
    pub(crate) exponent: Vec<u8>,
}

/// A named curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(crate) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// CKA_EC_PARAMS: the curve's OID in DER.
    pub(crate) fn parameters(self) -> &'static [u8] {
        match self {
            Self::P256 => &[6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7],
            Self::P384 => &[6, 5, 0x2B, 0x81, 4, 0, 0x22],
            Self::P521 => &[6, 5, 0x2B, 0x81, 4, 0, 0x23],
        }
    }

    pub(crate) fn of_parameters(der: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|curve| curve.parameters() == der)
    }

    /// Bytes of a coordinate, and of r and s.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn verification(self) -> (&'static EcdsaVerificationAlgorithm, Hash) {
        match self {
            Self::P256 => (&ECDSA_P256_SHA256_FIXED, Hash::Sha256),
            Self::P384 => (&ECDSA_P384_SHA384_FIXED, Hash::Sha384),
            Self::P521 => (&ECDSA_P521_SHA512_FIXED, Hash::Sha512),
        }
    }
}

impl Public {
    /// The key of a DER SubjectPublicKeyInfo.
    pub(crate) fn of_info(info: &[u8]) -> Option<Self> {
        let (_, info) = SubjectPublicKeyInfo::from_der(info).ok()?;
        match info.parsed().ok()? {
            public_key::PublicKey::RSA(key) => Some(Self::Rsa(Rsa {
                modulus: unsigned(key.modulus).to_vec(),
                exponent: unsigned(key.exponent).to_vec(),
            })),
            public_key::PublicKey::EC(point) => {
                let name = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
                let oid = tlv::object(0x06, name.as_bytes());
                Some(Self::Ec(Curve::of_parameters(&oid)?, point.data().to_vec()))
            }
            _ => None,
        }
    }

    /// The public key as bytes: an RSAPublicKey or a point.
    fn bits(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.der(),
            Self::Ec(_, point) => point.clone(),
        }
    }

    /// CKA_ID: SHA-1 of the public key's bit string, as certificates identify keys (RFC 5280, 4.2.1.2).
    pub(crate) fn id(&self) -> Vec<u8> {
        Hash::Sha1.digest(&self.bits()).as_ref().to_vec()
    }

    /// DER SubjectPublicKeyInfo.
    pub(crate) fn info(&self) -> Vec<u8> {
        let algorithm = match self {
            Self::Rsa(_) => {
                let oid = tlv::object(6, &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1]);
                [oid, tlv::object(5, &[])].concat()
            }
            Self::Ec(curve, _) => {
                let oid = tlv::object(6, &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1]);
                [oid, curve.parameters().to_vec()].concat()
            }
        };
        let bits = [vec![0], self.bits()].concat();
        let body = [tlv::object(0x30, &algorithm), tlv::object(3, &bits)].concat();
        tlv::object(0x30, &body)
    }

    /// CKA_EC_POINT: the point in a DER OCTET STRING.
    pub(crate) fn ec_point(point: &[u8]) -> Vec<u8> {
        tlv::object(0x04, point)
    }

    /// Bytes of a signature.
    pub(crate) fn signature_len(&self) -> usize {
        match self {
            Self::Rsa(key) => key.modulus.len(),
            Self::Ec(curve, _) => 2 * curve.len(),
        }
    }

    pub(crate) fn key_type(&self) -> CK_KEY_TYPE {
        match self {
            Self::Rsa(_) => CKK_RSA,
            Self::Ec(..) => CKK_EC,
        }
    }
}

impl Rsa {
    /// RSAPublicKey (RFC 8017, A.1.1).
    fn der(&self) -> Vec<u8> {
        let integer = |number: &[u8]| {
            let positive = number.first().is_some_and(|byte| byte & 0x80 == 0);
            let sign: &[u8] = if positive { &[] } else { &[0] };
            tlv::object(2, &[sign, number].concat())
        };
        tlv::object(
            0x30,
            &[integer(&self.modulus), integer(&self.exponent)].concat(),
        )
    }

    /// The raw public operation on a block as long as the modulus.
    pub(crate) fn raw(&self, block: &[u8]) -> Result<Vec<u8>> {
        let k = self.modulus.len();
        if k > LARGEST_MODULUS || self.exponent.len() > 8 {
            return Err(Rv(CKR_KEY_SIZE_RANGE));
        }
        let (n, e) = (
            BigUint::from_bytes_be(&self.modulus),
            BigUint::from_bytes_be(&self.exponent),
        );
        let input = BigUint::from_bytes_be(block);
        if block.len() != k || input >= n {
            return Err(Rv(CKR_DATA_INVALID));
        }
        let number = input.modpow(&e, &n).to_bytes_be();
        let mut out = vec![0; k - number.len()];
        out.extend_from_slice(&number);
        Ok(out)
    }
}

/// Whether r ‖ s signs a digest of any length (FIPS 186-5, 6.4.2).
pub(crate) fn ecdsa_verify(curve: Curve, point: &[u8], digest: &[u8], signature: &[u8]) -> bool {
    let (algorithm, hash) = curve.verification();
    let digest = &digest[..digest.len().min(curve.len())];
    let Some(missing) = hash.len().checked_sub(digest.len()) else {
        return false;
    };
    // Zeros in front keep the number that ECDSA computes with.
    let padded = [vec![0; missing], digest.to_vec()].concat();
    Digest::import_less_safe(&padded, hash.algorithm()).is_ok_and(|digest| {
        UnparsedPublicKey::new(algorithm, point)
            .verify_digest(&digest, signature)
            .is_ok()
    })
}

/// r ‖ s of an ECDSA-Sig-Value (RFC 3279, 2.2.3).
pub(crate) fn fixed_signature(der: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut rest = tlv::find(der, 0x30)?;
    let mut out = Vec::with_capacity(2 * len);
    for _ in 0..2 {
        let (&[2, size], value) = rest.split_first_chunk::<2>()? else {
            return None;
        };
        let (number, after) = value.split_at_checked(size.into())?;
        rest = after;
        let number = unsigned(number);
        out.resize(out.len() + len.checked_sub(number.len())?, 0);
        out.extend_from_slice(number);
    }
    rest.is_empty().then_some(out)
}

/// A number without leading zeros.
pub(crate) fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
    };

    use super::*;

    #[test]
    fn signatures_change_their_form_and_verify() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        for _ in 0..50 {
            let der = pair.sign(&SystemRandom::new(), b"message").unwrap();
            let fixed = fixed_signature(der.as_ref(), 32).unwrap();
            let digest = Hash::Sha256.digest(b"message");
            assert!(ecdsa_verify(Curve::P256, point, digest.as_ref(), &fixed));
            let other = Hash::Sha256.digest(b"other");
            assert!(!ecdsa_verify(Curve::P256, point, other.as_ref(), &fixed));
        }
        for wrong in [
            "",
            "30",
            "3000",
            "3003020101",
            "300702010102010100",
            "3006020101020301",
        ] {
            let der = gose_proto::hex::decode(wrong).unwrap();
            assert_eq!(fixed_signature(&der, 32), None, "{wrong}");
        }
    }

    #[test]
    fn keys_of_subject_public_key_infos() {
        let point = [vec![4], vec![7; 96]].concat();
        let rsa = Rsa {
            modulus: vec![0xC5; 256],
            exponent: vec![1, 0, 1],
        };
        for key in [Public::Rsa(rsa), Public::Ec(Curve::P384, point)] {
            assert_eq!(Public::of_info(&key.info()), Some(key.clone()));
            assert_eq!(key.id().len(), 20);
        }
        assert_eq!(Public::of_info(&[0x30, 0]), None);
    }
}
