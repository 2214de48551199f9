//! Attestation (vendor command F9, in the form of the YubiKey's): certificates that the attestation key signs over
//! keys that the card made. The attestation key signs nothing else.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use gose_element::{
    Algorithm,
    drive::piv::{
        ATTESTATION_CERTIFICATE, ATTESTATION_KEY, KEY_ATTESTATION_OID, KeyAttestation, PinPolicy,
        Slot,
    },
};
use gose_proto::{
    apdu::{Response, StatusWord, tlv},
    hex,
};

use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::{
    Next,
    key::{status, template},
    objects,
};
use crate::{
    card::Env,
    factory,
    keystore::{PrivateKey, Scheme},
    random::Random,
};

/// A certificate's outer form, with what differs between the two kinds.
struct Certificate<'a> {
    serial: [u8; 16],
    issuer: &'a [u8],
    subject: &'a [u8],
    public_key: &'a [u8],
    extensions: &'a [u8],
}

/// Makes the attestation key and its certificate: whole, or not at all.
pub(super) fn generate(
    algorithm: Algorithm,
    random: &Random,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let made = make(algorithm, random, env);
    if made.is_err() {
        env.nvm.roll_back();
        env.keys.forget();
    }
    made
}

fn make(algorithm: Algorithm, random: &Random, env: &mut Env<'_>) -> Result<Next, StatusWord> {
    env.cost.key_generate += 1;
    let key = env
        .keys
        .generate(env.nvm, ATTESTATION_KEY, algorithm)
        .map_err(status)?;
    let name = issuer(env);
    let certificate = Certificate {
        serial: serial(random)?,
        issuer: &name,
        subject: &name,
        public_key: key.public_key_info(),
        // Basic constraints: CA, path length 0; key usage: keyCertSign; subject key identifier.
        extensions: &[
            extension(
                &[0x55, 0x1D, 0x13],
                true,
                &[0x30, 0x06, 0x01, 0x01, 0xFF, 0x02, 0x01, 0x00],
            ),
            extension(&[0x55, 0x1D, 0x0F], true, &[0x03, 0x02, 0x02, 0x04]),
            extension(
                &[0x55, 0x1D, 0x0E],
                false,
                &tlv::object(0x04, &key_identifier(&*key)?),
            ),
        ]
        .concat(),
    }
    .sign(&*key, env)?;
    let mut object = tlv::object(0x70, &certificate);
    object.extend_from_slice(&[0x71, 0x01, 0x00, 0xFE, 0x00]);
    objects::put(ATTESTATION_CERTIFICATE, &object, env)?;
    Ok(Response::ok(tlv::object(0x7F49, &template(&*key)?)).into())
}

/// Attests the key of a slot: `6A88` without a key, `6985` for one that was not made here, `6A82` without an
/// attestation key.
pub(super) fn attest(slot: Slot, random: &Random, env: &mut Env<'_>) -> Result<Next, StatusWord> {
    let key = env
        .keys
        .get(env.nvm, slot.id())
        .map_err(status)?
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    if !env.keys.was_generated(env.nvm, slot.id()) {
        return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
    }
    let signer = env
        .keys
        .get(env.nvm, ATTESTATION_KEY)
        .map_err(status)?
        .ok_or(StatusWord::FILE_NOT_FOUND)?;
    let said = KeyAttestation {
        slot,
        pin_policy: PinPolicy::of(slot),
    };
    let certificate = Certificate {
        serial: serial(random)?,
        issuer: &issuer(env),
        subject: &name(&format!("GoSE PIV attestation {slot}"), None),
        public_key: key.public_key_info(),
        extensions: &[
            extension(
                &[0x55, 0x1D, 0x23],
                false,
                &tlv::object(0x30, &tlv::object(0x80, &key_identifier(&*signer)?)),
            ),
            extension(&KEY_ATTESTATION_OID, false, &said.encode()),
        ]
        .concat(),
    };
    Ok(Response::ok(certificate.sign(&*signer, env)?).into())
}

impl Certificate<'_> {
    /// An X.509 certificate of version 3 (RFC 5280, 4.1). A card has no clock: the dates are those of a thing that
    /// has no well-defined end (4.1.2.5).
    fn sign(&self, key: &dyn PrivateKey, env: &mut Env<'_>) -> Result<Vec<u8>, StatusWord> {
        let (scheme, algorithm) = signature(key.algorithm())?;
        let mut validity = tlv::object(0x17, b"240101000000Z");
        tlv::write(&mut validity, 0x18, b"99991231235959Z");
        let mut body = tlv::object(0xA0, &tlv::object(0x02, &[2]));
        tlv::write(&mut body, 0x02, &self.serial);
        body.extend_from_slice(&algorithm);
        body.extend_from_slice(self.issuer);
        tlv::write(&mut body, 0x30, &validity);
        body.extend_from_slice(self.subject);
        body.extend_from_slice(self.public_key);
        tlv::write(&mut body, 0xA3, &tlv::object(0x30, self.extensions));
        let body = tlv::object(0x30, &body);

        env.cost.hash_blocks += (body.len() as u64 + 9).div_ceil(64);
        if key.algorithm().is_rsa() {
            env.cost.rsa_private += 1;
        } else {
            env.cost.ecdsa_sign += 1;
        }
        let signature = key.sign(scheme, &body).map_err(status)?;
        let mut whole = body;
        whole.extend_from_slice(&algorithm);
        tlv::write(&mut whole, 0x03, &[&[0], signature.as_slice()].concat());
        Ok(tlv::object(0x30, &whole))
    }
}

/// The scheme of a key and its AlgorithmIdentifier.
fn signature(algorithm: Algorithm) -> Result<(Scheme, Vec<u8>), StatusWord> {
    const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02];
    const ECDSA_SHA384: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x03];
    const RSA_SHA256: &[u8] = &[
        0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0B, 0x05, 0x00,
    ];
    let (scheme, identifier) = match algorithm {
        Algorithm::P256 => (Scheme::EcdsaP256Sha256, ECDSA_SHA256),
        Algorithm::P384 => (Scheme::EcdsaP384Sha384, ECDSA_SHA384),
        algorithm if algorithm.is_rsa() => (Scheme::RsaPkcs1Sha256, RSA_SHA256),
        _ => return Err(StatusWord::FUNCTION_NOT_SUPPORTED),
    };
    Ok((scheme, tlv::object(0x30, identifier)))
}

/// The attestation key's name: with the card's GUID, so that each card is an issuer of its own.
fn issuer(env: &Env<'_>) -> Vec<u8> {
    let guid = factory::guid(env.nvm).unwrap_or_default();
    name("GoSE PIV attestation", Some(&hex::encode(&guid)))
}

/// A distinguished name of a common name and, where given, a serial number.
fn name(common: &str, serial: Option<&str>) -> Vec<u8> {
    let attribute = |oid: [u8; 3], tag: u32, value: &str| {
        let mut pair = tlv::object(0x06, &oid);
        tlv::write(&mut pair, tag, value.as_bytes());
        tlv::object(0x31, &tlv::object(0x30, &pair))
    };
    let mut names = attribute([0x55, 0x04, 0x03], 0x0C, common);
    if let Some(serial) = serial {
        names.extend(attribute([0x55, 0x04, 0x05], 0x13, serial));
    }
    tlv::object(0x30, &names)
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut body = tlv::object(0x06, oid);
    if critical {
        tlv::write(&mut body, 0x01, &[0xFF]);
    }
    tlv::write(&mut body, 0x04, value);
    tlv::object(0x30, &body)
}

/// SHA-1 of the public key's bits (RFC 5280, 4.2.1.2, method 1), as authorities compute it too: a name, no proof.
fn key_identifier(key: &dyn PrivateKey) -> Result<[u8; 20], StatusWord> {
    let (_, info) = SubjectPublicKeyInfo::from_der(key.public_key_info())
        .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &info.subject_public_key.data)
        .as_ref()
        .try_into()
        .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)
}

/// A positive number of sixteen bytes.
fn serial(random: &Random) -> Result<[u8; 16], StatusWord> {
    let mut serial: [u8; 16] = random
        .bytes()
        .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
    serial[0] = serial[0] & 0x7F | 0x40;
    Ok(serial)
}
