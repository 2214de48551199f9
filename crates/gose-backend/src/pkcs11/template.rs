//! What key pairs on a token look like.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use gose_card::keystore::Algorithm;
use gose_element::drive::piv::public_key_info;
use gose_proto::apdu::tlv;

use super::HsmError;
use crate::der::{self, PrivateParts, RsaNumbers};

/// OBJECT IDENTIFIERs of the curves (CKA_EC_PARAMS).
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22];

/// A mechanism that makes pairs, and the attributes of public and private key.
pub(super) type Templates = (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>);

/// On the token, by this CKA_ID.
pub(super) fn named(id: &[u8]) -> Vec<Attribute> {
    let label = format!("GoSE {}", gose_proto::hex::encode(id));
    vec![
        Attribute::Token(true),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.into()),
    ]
}

/// A pair that is made.
pub(super) fn pair(algorithm: Algorithm, id: &[u8]) -> Option<Templates> {
    let mut public = named(id);
    let mut private = named(id);
    public.extend([Attribute::Private(false), Attribute::Verify(true)]);
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    let mechanism = match algorithm {
        Algorithm::P256 | Algorithm::P384 => {
            let curve = if algorithm == Algorithm::P256 {
                P256
            } else {
                P384
            };
            public.push(Attribute::EcParams(curve.to_vec()));
            private.push(Attribute::Derive(true));
            Mechanism::EccKeyPairGen
        }
        _ => {
            let bits = u64::try_from(algorithm.modulus_len()?).ok()? * 8;
            public.push(Attribute::ModulusBits(bits.into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            private.push(Attribute::Decrypt(true));
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    Some((mechanism, public, private))
}

/// The objects of a pair from outside.
pub(super) fn imported(
    algorithm: Algorithm,
    id: &[u8],
    info: &[u8],
    parts: &PrivateParts,
) -> Option<[Vec<Attribute>; 2]> {
    let (_, mut public, mut private) = pair(algorithm, id)?;
    public.retain(|attribute| !matches!(attribute, Attribute::ModulusBits(_)));
    public.push(Attribute::Class(ObjectClass::PUBLIC_KEY));
    private.push(Attribute::Class(ObjectClass::PRIVATE_KEY));
    match parts {
        PrivateParts::Elliptic(scalar) => {
            let curve = if algorithm == Algorithm::P256 {
                P256
            } else {
                P384
            };
            public.push(Attribute::KeyType(KeyType::EC));
            public.push(Attribute::EcPoint(tlv::object(
                0x04,
                der::public_bits(info)?,
            )));
            private.push(Attribute::KeyType(KeyType::EC));
            private.push(Attribute::EcParams(curve.to_vec()));
            private.push(Attribute::Value(scalar.to_vec()));
        }
        PrivateParts::Rsa(RsaNumbers(numbers)) => {
            let [n, e, d, p, q, dp, dq, inverse] = numbers.each_ref().map(|number| number.to_vec());
            public.push(Attribute::KeyType(KeyType::RSA));
            public.push(Attribute::Modulus(n.clone()));
            private.extend([
                Attribute::KeyType(KeyType::RSA),
                Attribute::Modulus(n),
                Attribute::PublicExponent(e),
                Attribute::PrivateExponent(d),
                Attribute::Prime1(p),
                Attribute::Prime2(q),
                Attribute::Exponent1(dp),
                Attribute::Exponent2(dq),
                Attribute::Coefficient(inverse),
            ]);
        }
    }
    Some([public, private])
}

/// Algorithm and SubjectPublicKeyInfo of a public key object.
pub(super) fn public_key(
    session: &Session,
    handle: ObjectHandle,
) -> Result<(Algorithm, Vec<u8>), HsmError> {
    use AttributeType as Kind;
    let wanted = [
        Kind::KeyType,
        Kind::EcParams,
        Kind::EcPoint,
        Kind::Modulus,
        Kind::PublicExponent,
    ];
    let (mut kind, mut curve, mut point, mut modulus, mut exponent) =
        (None, Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for attribute in session.get_attributes(handle, &wanted)? {
        match attribute {
            Attribute::KeyType(value) => kind = Some(value),
            Attribute::EcParams(value) => curve = value,
            Attribute::EcPoint(value) => point = value,
            Attribute::Modulus(value) => modulus = value,
            Attribute::PublicExponent(value) => exponent = value,
            _ => {}
        }
    }
    let (algorithm, template) = match kind {
        Some(KeyType::EC) => {
            let algorithm = match curve.as_slice() {
                P256 => Algorithm::P256,
                P384 => Algorithm::P384,
                _ => return Err(HsmError::Unsupported),
            };
            // An OCTET STRING around the point, as the standard wants and not all modules do.
            let bare = tlv::find(&point, 0x04)
                .filter(|_| point.len() % 2 == 1 && point.get(2) == Some(&0x04));
            (algorithm, tlv::object(0x86, bare.unwrap_or(&point)))
        }
        Some(KeyType::RSA) => {
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            let modulus = modulus.get(zeros..).unwrap_or_default();
            let algorithm = Algorithm::rsa(modulus.len()).ok_or(HsmError::Unsupported)?;
            let mut template = tlv::object(0x81, modulus);
            tlv::write(&mut template, 0x82, &exponent);
            (algorithm, template)
        }
        _ => return Err(HsmError::Unsupported),
    };
    let info = public_key_info(algorithm, &template).ok_or(HsmError::Unsupported)?;
    Ok((algorithm, info))
}
