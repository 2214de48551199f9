//! The management key 9B: AES-256, mutual authentication (NIST SP 800-73-4, part 2, A.1.2).

use aws_lc_rs::{
    cipher::{AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey},
    constant_time::verify_slices_are_equal,
};
use gose_proto::apdu::{Command, StatusWord, tlv};
use zeroize::Zeroizing;

use super::{
    Pin, Piv, PivError,
    operations::{normal, response},
};

/// PIV's identifier of AES-256 in ECB (SP 800-78-4, table 6-2).
const AES_256_ECB: u8 = 0x0C;

impl Piv<'_> {
    /// Proves knowledge of the management key to the card, and has the card prove the same. The right to
    /// manage ends with the next SELECT.
    ///
    /// # Errors
    /// [`PivError::WrongManagementKey`], [`PivError::Impostor`], [`PivError::Conditions`] where the card
    /// has no management key yet.
    pub fn authenticate_management(&mut self, key: &[u8; 32]) -> Result<(), PivError> {
        let outcome = self.one(Pin::Unneeded, ask_witness())?;
        let body = normal("GENERAL AUTHENTICATE 9B", outcome)?;
        let mutual = Mutual::answer(key, &body)?;
        let outcome = self.one(Pin::Unneeded, mutual.command())?;
        if outcome.sw == StatusWord::SECURITY_STATUS_NOT_SATISFIED {
            return Err(PivError::WrongManagementKey);
        }
        mutual.check(key, &normal("GENERAL AUTHENTICATE 9B", outcome)?)
    }

    /// Sets the management key (vendor command FF): the first one of a card that has none, or a new one
    /// after [`Piv::authenticate_management`].
    ///
    /// # Errors
    /// [`PivError::NotAuthenticated`] where the card has another one.
    pub fn set_management_key(&mut self, key: &[u8; 32]) -> Result<(), PivError> {
        let mut data = Zeroizing::new(vec![AES_256_ECB, 0x9B, 32]);
        data.extend_from_slice(key);
        let command = Command::new(0x00, 0xFF, 0xFF, 0xFF).with_data(data.as_slice());
        normal("SET MANAGEMENT KEY", self.one(Pin::Unneeded, command)?).map(drop)
    }
}

/// Mutual authentication: has the card encrypt a witness.
pub(in crate::drive) fn ask_witness() -> Command {
    authenticate(&tlv::object(0x80, &[]))
}

/// The host's half of a mutual authentication.
pub(in crate::drive) struct Mutual {
    witness: [u8; 16],
    challenge: [u8; 16],
}

impl Mutual {
    /// Decrypts the card's witness and draws a challenge for it.
    pub(in crate::drive) fn answer(key: &[u8; 32], body: &[u8]) -> Result<Self, PivError> {
        let witness = tlv::find(body, 0x7C)
            .and_then(|template| tlv::find(template, 0x80))
            .and_then(|witness| <[u8; 16]>::try_from(witness).ok())
            .ok_or(PivError::Malformed("witness of 16 bytes"))?;
        let mut challenge = [0; 16];
        aws_lc_rs::rand::fill(&mut challenge).map_err(|_| PivError::Host)?;
        let witness = decrypt(key, witness)?;
        Ok(Self { witness, challenge })
    }

    pub(in crate::drive) fn command(&self) -> Command {
        let mut template = tlv::object(0x80, &self.witness);
        tlv::write(&mut template, 0x81, &self.challenge);
        authenticate(&template)
    }

    /// Whether the card knows the key too.
    pub(in crate::drive) fn check(&self, key: &[u8; 32], body: &[u8]) -> Result<(), PivError> {
        let proof = response(body).unwrap_or_default();
        verify_slices_are_equal(proof, &encrypt(key, self.challenge)?)
            .map_err(|_| PivError::Impostor)
    }
}

fn authenticate(template: &[u8]) -> Command {
    Command::new(0x00, 0x87, AES_256_ECB, 0x9B)
        .with_data(tlv::object(0x7C, template))
        .with_ne(256)
}

fn encrypt(key: &[u8; 32], mut block: [u8; 16]) -> Result<[u8; 16], PivError> {
    let key = UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ecb);
    key.and_then(|key| key.encrypt(&mut block))
        .map_err(|_| PivError::Host)?;
    Ok(block)
}

fn decrypt(key: &[u8; 32], mut block: [u8; 16]) -> Result<[u8; 16], PivError> {
    let key = UnboundCipherKey::new(&AES_256, key).and_then(DecryptingKey::ecb);
    key.and_then(|key| key.decrypt(&mut block, DecryptionContext::None).map(|_| ()))
        .map_err(|_| PivError::Host)?;
    Ok(block)
}
