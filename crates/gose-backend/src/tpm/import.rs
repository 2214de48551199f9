//! A key from outside, wrapped for its parent (part 1, 23.3; TPM2_Import), so that it crosses the bus encrypted.

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use gose_card::keystore::Algorithm;
use tpm2_protocol::{
    data::{
        Tpm2bAuth, Tpm2bData, Tpm2bDigest, Tpm2bEccParameter, Tpm2bEncryptedSecret, Tpm2bPrivate,
        Tpm2bPrivateKeyRsa, TpmAlgId, TpmtPublic, TpmtSensitive, TpmtSymDef, TpmuPublicId,
        TpmuSensitiveComposite,
    },
    frame::{TpmImportCommand, TpmImportResponse},
};
use zeroize::Zeroizing;

use super::{
    TpmError,
    authorisation::Cover,
    kdf::{self, Cfb, Secret},
    key::{Blob, Session},
    template,
};
use crate::der::PrivateParts;

const LABEL: &[u8] = b"DUPLICATE";

impl Session<'_> {
    /// Takes in a key whose algorithm and SubjectPublicKeyInfo are known.
    pub(super) fn import(
        &mut self,
        algorithm: Algorithm,
        info: &[u8],
        parts: &PrivateParts,
    ) -> Result<Blob, TpmError> {
        let object_public = template::imported(algorithm, info, !self.settings.auth.is_empty())
            .ok_or(TpmError::Malformed)?;
        let sensitive = self.sensitive(parts)?;
        self.under_parent(|client, parent| {
            let (seed, in_sym_seed) = seed_for(&parent.public)?;
            let command = TpmImportCommand {
                handles: [parent.handle],
                encryption_key: Tpm2bData::default(),
                duplicate: wrapped(&sensitive, &seed, &object_public.inner)?,
                object_public: object_public.clone(),
                in_sym_seed: Tpm2bEncryptedSecret::try_from(in_sym_seed.as_slice())
                    .map_err(TpmError::wire)?,
                symmetric_alg: TpmtSymDef {
                    algorithm: TpmAlgId::Null,
                    ..TpmtSymDef::default()
                },
            };
            let taken: TpmImportResponse =
                client.call(&command, &[parent.subject()], Cover::COMMAND)?;
            Ok(Blob::new(taken.out_private, object_public))
        })
    }

    /// TPM2B_SENSITIVE.
    fn sensitive(&self, parts: &PrivateParts) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let (sensitive_type, sensitive) = match parts {
            PrivateParts::Elliptic(scalar) => (
                TpmAlgId::Ecc,
                TpmuSensitiveComposite::Ecc(
                    Tpm2bEccParameter::try_from(scalar.as_slice()).map_err(TpmError::wire)?,
                ),
            ),
            PrivateParts::Rsa(numbers) => (
                TpmAlgId::Rsa,
                TpmuSensitiveComposite::Rsa(
                    Tpm2bPrivateKeyRsa::try_from(numbers.prime1()).map_err(TpmError::wire)?,
                ),
            ),
        };
        let sensitive = TpmtSensitive {
            sensitive_type,
            auth_value: Tpm2bAuth::try_from(self.settings.auth.as_slice())
                .map_err(TpmError::wire)?,
            seed_value: Tpm2bDigest::default(),
            sensitive,
        };
        sized(&Zeroizing::new(kdf::marshalled(&sensitive)?))
    }
}

/// A seed that only the holder of the storage key learns, and what tells it.
fn seed_for(parent: &TpmtPublic) -> Result<(Secret, Vec<u8>), TpmError> {
    if matches!(parent.unique, TpmuPublicId::Ecc(_)) {
        return kdf::shared_secret(LABEL, parent);
    }
    // A storage key of RSA (part 1, B.10.3): the label ends with a zero.
    let (_, info) = template::read(parent).ok_or(TpmError::Malformed)?;
    let key = PublicEncryptingKey::from_der(&info).map_err(|_| TpmError::Malformed)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| TpmError::Crypto)?;
    let seed = Zeroizing::new(super::authorisation::nonce()?);
    let mut sent = vec![0; key.ciphertext_size()];
    let label = [LABEL, &[0]].concat();
    key.encrypt(
        &OAEP_SHA256_MGF1SHA256,
        seed.as_slice(),
        &mut sent,
        Some(&label),
    )
    .map_err(|_| TpmError::Crypto)?;
    Ok((seed, sent))
}

/// The outer wrapping: encrypted, and bound to the object's name.
fn wrapped(sensitive: &[u8], seed: &Secret, public: &TpmtPublic) -> Result<Tpm2bPrivate, TpmError> {
    let name = template::name(public)?;
    let key = kdf::kdf_a(seed.as_slice(), b"STORAGE", &name, &[], 128);
    let mut body = sensitive.to_vec();
    Cfb::once(&key).encrypt(&mut body)?;
    let integrity = kdf::kdf_a(seed.as_slice(), b"INTEGRITY", &[], &[], 256);
    let tag = kdf::mac(integrity.as_slice(), &[&body, &name]);
    let duplicate = [&sized(&tag)?[..], &body].concat();
    Tpm2bPrivate::try_from(duplicate.as_slice()).map_err(TpmError::wire)
}

/// The bytes as a TPM2B.
fn sized(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let len = u16::try_from(bytes.len()).map_err(|_| TpmError::Malformed)?;
    Ok(Zeroizing::new([&len.to_be_bytes()[..], bytes].concat()))
}
