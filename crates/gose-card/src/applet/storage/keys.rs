//! Secret keys: made, taken in, used (ISO/IEC 7816-8, PERFORM SECURITY OPERATION).

use gose_proto::apdu::{Response, StatusWord, tlv};
use subtle::ConstantTimeEq;

use super::{
    Next, Quotas, StorageApplet,
    command::{NewKey, Operation, Template},
};
use crate::{
    applet::piv::key::status,
    card::Env,
    keyring::{Attributes, Keyring, OpenedSecret, Origin},
    keystore::{Export, KeyError, SecretAlgorithm},
};

/// Padding-content indicator of a cryptogram (ISO/IEC 7816-4, 10.2.2: 80 to 8E are proprietary): AES-GCM, that is
/// `nonce (12) ‖ ciphertext ‖ tag (16)`.
const GCM: u8 = 0x80;
const NONCE: usize = 12;
/// Encryptions that one write of a key's counter covers.
const COVERED: u16 = 256;
/// Writes of a key's counter: 2^32 encryptions under random nonces of 96 bits (NIST SP 800-38D, 8.3).
const COVERS: u32 = 1 << 24;

pub(super) fn generate(
    new: &NewKey<'_>,
    quotas: &Quotas,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    vacant(new.reference, quotas, env)?;
    env.cost.cipher_keys += 1;
    let attributes = attributes(new, Origin::Generated);
    env.keys
        .generate_secret(env.nvm, new.reference, &attributes)
        .map_err(status)?;
    Ok(StatusWord::NORMAL.into())
}

pub(super) fn import(
    new: &NewKey<'_>,
    key: &[u8],
    quotas: &Quotas,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    vacant(new.reference, quotas, env)?;
    env.cost.cipher_keys += 1;
    let attributes = attributes(new, Origin::Imported);
    env.keys
        .import_secret(env.nvm, new.reference, &attributes, key)
        .map_err(status)?;
    Ok(StatusWord::NORMAL.into())
}

pub(super) fn delete(reference: u8, env: &mut Env<'_>) -> Result<Next, StatusWord> {
    // A record that no longer opens can be deleted all the same.
    if !Keyring::secret_references(env.nvm).contains(&reference) {
        return Err(StatusWord::REFERENCED_DATA_NOT_FOUND);
    }
    env.keys.remove_secret(env.nvm, reference);
    if env.nvm.get(&counter(reference)).is_some() {
        env.nvm.delete(counter(reference));
    }
    Ok(StatusWord::NORMAL.into())
}

/// All keys: a confidentiality template each, without the key.
pub(super) fn list(env: &Env<'_>) -> Result<Vec<u8>, StatusWord> {
    let mut out = Vec::new();
    for reference in Keyring::secret_references(env.nvm) {
        let Some(key) = Keyring::secret_attributes(env.nvm, reference).map_err(status)? else {
            continue;
        };
        let mut template = tlv::object(0x83, &[reference]);
        tlv::write(&mut template, 0x80, &[key.algorithm.id()]);
        tlv::write(
            &mut template,
            0x81,
            &[u8::from(key.export == Export::Wrapped)],
        );
        tlv::write(&mut template, 0x82, &[key.origin.id()]);
        tlv::write(&mut template, 0x84, &key.label);
        tlv::write(&mut out, 0xB8, &template);
    }
    Ok(out)
}

/// Whether a key is there and fits the template that names it.
pub(super) fn check(reference: u8, template: Template, env: &Env<'_>) -> Result<(), StatusWord> {
    let key = Keyring::secret_attributes(env.nvm, reference)
        .map_err(status)?
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    let checksums = key.algorithm == SecretAlgorithm::HmacSha256;
    if checksums == (template == Template::Checksum) {
        Ok(())
    } else {
        Err(StatusWord::CONDITIONS_NOT_SATISFIED)
    }
}

impl StorageApplet {
    pub(super) fn operate(
        &mut self,
        operation: Operation<'_>,
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        let reference = self.state.key.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        match operation {
            Operation::Encipher(plaintext) => self.encipher(reference, plaintext, env),
            Operation::Decipher(cryptogram) => self.decipher(reference, cryptogram, env),
            Operation::Checksum(message) => {
                let checksum = checksum(reference, message, env)?;
                Ok(Response::ok(checksum).into())
            }
            Operation::VerifyChecksum {
                message,
                checksum: given,
            } => {
                let own = checksum(reference, message, env)?;
                if bool::from(own.as_slice().ct_eq(given)) {
                    Ok(StatusWord::NORMAL.into())
                } else {
                    Err(StatusWord::NO_INFORMATION)
                }
            }
            Operation::Wrap(key) => wrap(reference, key, env),
            Operation::Unwrap { new, wrapped } => {
                unwrap(reference, &new, wrapped, &self.quotas, env)
            }
        }
    }

    fn encipher(
        &mut self,
        reference: u8,
        plaintext: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        let (attributes, key) = opened(reference, env)?;
        if !attributes.algorithm.encrypts() {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        self.count(reference, env)?;
        let nonce: [u8; NONCE] = self
            .random
            .bytes()
            .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
        let associated = &self.state.associated;
        charge_gcm(associated, plaintext.len(), env);
        let sealed = key.seal(&nonce, associated, plaintext).map_err(status)?;
        Ok(Response::ok([&[GCM], nonce.as_slice(), &sealed].concat()).into())
    }

    fn decipher(
        &self,
        reference: u8,
        cryptogram: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        let (attributes, key) = opened(reference, env)?;
        if !attributes.algorithm.encrypts() {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        let (nonce, sealed) = cryptogram
            .strip_prefix(&[GCM])
            .and_then(|rest| rest.split_first_chunk::<NONCE>())
            .ok_or(StatusWord::INCORRECT_DATA)?;
        let associated = &self.state.associated;
        charge_gcm(associated, sealed.len().saturating_sub(16), env);
        let plaintext = key.unseal(nonce, associated, sealed).map_err(status)?;
        Ok(Response::ok(plaintext.as_slice()).into())
    }

    /// Counts an encryption; the count in memory is ahead of what was done, so that a power cut forgets none.
    fn count(&mut self, reference: u8, env: &mut Env<'_>) -> Result<(), StatusWord> {
        if let Some(left) = self.covered.get_mut(&reference).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(());
        }
        let name = counter(reference);
        let covers = match env.nvm.get(&name) {
            None => 0,
            Some(bytes) => u32::from_be_bytes(
                bytes
                    .try_into()
                    .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?,
            ),
        };
        if covers >= COVERS {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        env.nvm.put(name, (covers + 1).to_be_bytes());
        self.covered.insert(reference, COVERED - 1);
        Ok(())
    }
}

fn checksum(reference: u8, message: &[u8], env: &mut Env<'_>) -> Result<[u8; 32], StatusWord> {
    let (attributes, key) = opened(reference, env)?;
    if attributes.algorithm != SecretAlgorithm::HmacSha256 {
        return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
    }
    // The key's block, the message with its padding; then the outer hash's two.
    env.cost.hash_blocks += 1 + (message.len() as u64 + 9).div_ceil(64) + 2;
    env.cost.hash_messages += 1;
    key.mac(message).map_err(status)
}

fn wrap(wrapping: u8, reference: u8, env: &mut Env<'_>) -> Result<Next, StatusWord> {
    let wrapped = env
        .keys
        .wrap_secret(env.nvm, wrapping, reference)
        .map_err(forbidden)?
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    charge_wrapping(wrapped.len(), env);
    Ok(Response::ok(wrapped).into())
}

fn unwrap(
    wrapping: u8,
    new: &NewKey<'_>,
    wrapped: &[u8],
    quotas: &Quotas,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    // A user may put one unwrapped key in place of another one, never in place of the administrator's.
    let there = Keyring::secret_attributes(env.nvm, new.reference).map_err(status)?;
    if there.is_none_or(|there| there.origin != Origin::Unwrapped) {
        vacant(new.reference, quotas, env)?;
    }
    charge_wrapping(wrapped.len(), env);
    // The key that comes out is set, too.
    env.cost.cipher_keys += 1;
    let attributes = attributes(new, Origin::Unwrapped);
    env.keys
        .unwrap_secret(env.nvm, wrapping, new.reference, &attributes, wrapped)
        .map_err(forbidden)?
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    Ok(StatusWord::NORMAL.into())
}

fn opened(reference: u8, env: &mut Env<'_>) -> Result<OpenedSecret, StatusWord> {
    env.keys
        .secret(env.nvm, reference)
        .map_err(status)?
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)
}

/// A key is never made in place of another one, and there is room for it.
fn vacant(reference: u8, quotas: &Quotas, env: &Env<'_>) -> Result<(), StatusWord> {
    let there = Keyring::secret_references(env.nvm);
    if there.contains(&reference) {
        return Err(StatusWord::FILE_ALREADY_EXISTS);
    }
    if there.len() >= quotas.keys {
        return Err(StatusWord::NOT_ENOUGH_MEMORY);
    }
    Ok(())
}

fn attributes(new: &NewKey<'_>, origin: Origin) -> Attributes {
    Attributes {
        algorithm: new.algorithm,
        export: new.export,
        origin,
        label: new.label.to_vec(),
    }
}

/// The cipher and the hash over text and associated data, and the tag.
fn charge_gcm(associated: &[u8], text: usize, env: &mut Env<'_>) {
    let blocks = text.div_ceil(16) + associated.len().div_ceil(16) + 1;
    env.cost.cipher_keys += 1;
    env.cost.count_cipher(16 * blocks);
}

/// Six rounds over the wrapped key's blocks of eight bytes, one block of AES each (RFC 3394, 2.2.1).
fn charge_wrapping(wrapped: usize, env: &mut Env<'_>) {
    env.cost.cipher_keys += 1;
    env.cost.count_cipher(6 * 16 * (wrapped / 8));
}

fn counter(reference: u8) -> String {
    format!("storage/uses/{reference:02x}")
}

/// Of wrapping, where a key of another use is a condition that is not met.
fn forbidden(error: KeyError) -> StatusWord {
    match error {
        KeyError::Unsupported => StatusWord::CONDITIONS_NOT_SATISFIED,
        error => status(error),
    }
}
