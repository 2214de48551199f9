//! Keys and data objects.

use gose_proto::apdu::{Command, StatusWord, tlv};
use zeroize::Zeroizing;

use super::{Pin, Piv, PivError, Slot, encode, padded_pin};
use crate::{Algorithm, Outcome, Scheme};

/// The public half of a key in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
    pub info: Vec<u8>,
}

impl Piv<'_> {
    /// Makes a key pair in a slot, in place of the one there; gives its SubjectPublicKeyInfo (DER).
    /// Needs [`Piv::authenticate_management`].
    ///
    /// # Errors
    /// [`PivError::NotAuthenticated`], or [`PivError::Conditions`] before the element is initialised.
    pub fn generate(&mut self, slot: Slot, algorithm: Algorithm) -> Result<Vec<u8>, PivError> {
        let template = tlv::object(0xAC, &tlv::object(0x80, &[algorithm.id()]));
        let command = Command::new(0x00, 0x47, 0x00, slot.id())
            .with_data(template)
            .with_ne(256);
        self.keys.retain(|(other, _)| *other != slot);
        let outcome = self.one(Pin::Unneeded, command)?;
        let body = normal("GENERATE ASYMMETRIC KEY PAIR", outcome)?;
        let info = tlv::find(&body, 0x7F49)
            .and_then(|template| encode::public_key_info(algorithm, template))
            .ok_or(PivError::Malformed("public key template 7F49"))?;
        let key = PublicKey {
            algorithm,
            info: info.clone(),
        };
        self.keys.push((slot, key));
        Ok(info)
    }

    /// The public key of a slot, as the card's GET METADATA (vendor command F7) tells it.
    ///
    /// # Errors
    /// [`PivError::NoKey`] where the slot is empty.
    pub fn public_key(&mut self, slot: Slot) -> Result<PublicKey, PivError> {
        if let Some((_, key)) = self.keys.iter().find(|(other, _)| *other == slot) {
            return Ok(key.clone());
        }
        let command = Command::new(0x00, 0xF7, 0x00, slot.id()).with_ne(256);
        let outcome = self.one(Pin::Unneeded, command)?;
        if outcome.sw == StatusWord::REFERENCED_DATA_NOT_FOUND {
            return Err(PivError::NoKey(slot));
        }
        let body = normal("GET METADATA", outcome)?;
        let key = metadata(&body).ok_or(PivError::Malformed("key metadata"))?;
        self.keys.push((slot, key.clone()));
        Ok(key)
    }

    /// Tells the key of a slot that the caller knows from before: saves asking the card.
    pub fn know(&mut self, slot: Slot, key: PublicKey) {
        self.keys.retain(|(other, _)| *other != slot);
        self.keys.push((slot, key));
    }

    /// Signs a message; ECDSA signatures are DER. One script, the PIN included, where the algorithm
    /// tells the length of the block (elliptic curves) or the slot's key is known already.
    ///
    /// # Errors
    /// [`PivError::NotAuthenticated`] without a PIN, [`PivError::NoKey`], [`PivError::Algorithm`].
    pub fn sign(
        &mut self,
        slot: Slot,
        scheme: Scheme,
        message: &[u8],
    ) -> Result<Vec<u8>, PivError> {
        let algorithm = match scheme {
            Scheme::EcdsaP256Sha256 => Algorithm::P256,
            Scheme::EcdsaP384Sha384 => Algorithm::P384,
            Scheme::RsaPkcs1Sha256 | Scheme::RsaPssSha256 => {
                let algorithm = self.public_key(slot)?.algorithm;
                if !algorithm.is_rsa() {
                    return Err(PivError::Algorithm(slot));
                }
                algorithm
            }
        };
        let input = encode::input(scheme, algorithm, message)?;
        let signature = self.compute(slot, algorithm, 0x81, &input)?;
        Ok(signature.to_vec())
    }

    /// ECDSA over a digest, as long as the curve's order at most; the signature is DER.
    ///
    /// # Errors
    /// As [`Piv::sign`].
    pub fn ecdsa(
        &mut self,
        slot: Slot,
        algorithm: Algorithm,
        digest: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, PivError> {
        self.compute(slot, algorithm, 0x81, digest)
    }

    /// The raw RSA private operation on a block as long as the modulus.
    ///
    /// # Errors
    /// As [`Piv::sign`].
    pub fn rsa_raw(&mut self, slot: Slot, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, PivError> {
        let algorithm = Algorithm::rsa(block.len()).ok_or(PivError::Algorithm(slot))?;
        self.compute(slot, algorithm, 0x81, block)
    }

    /// ECDH with an uncompressed point: the shared X coordinate.
    ///
    /// # Errors
    /// As [`Piv::sign`].
    pub fn agree(&mut self, slot: Slot, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, PivError> {
        let algorithm = match point.len() {
            65 => Algorithm::P256,
            97 => Algorithm::P384,
            _ => return Err(PivError::Algorithm(slot)),
        };
        self.compute(slot, algorithm, 0x85, point)
    }

    /// The X.509 certificate of a slot (DER).
    ///
    /// # Errors
    /// [`PivError::NoObject`] where there is none, [`PivError::Malformed`] for a compressed one.
    pub fn certificate(&mut self, slot: Slot) -> Result<Vec<u8>, PivError> {
        let object = self.object(slot.certificate_tag())?;
        certificate(&object)
    }

    /// Puts the certificate of a slot. Needs [`Piv::authenticate_management`].
    ///
    /// # Errors
    /// As [`Piv::put_object`].
    pub fn put_certificate(&mut self, slot: Slot, der: &[u8]) -> Result<(), PivError> {
        self.put_object(slot.certificate_tag(), &certificate_object(der))
    }

    /// The content of a data object (what stands inside tag 53).
    ///
    /// # Errors
    /// [`PivError::NoObject`] where there is none, [`PivError::NotAuthenticated`] where it needs the PIN.
    pub fn object(&mut self, tag: u32) -> Result<Vec<u8>, PivError> {
        let command = Command::new(0x00, 0xCB, 0x3F, 0xFF)
            .with_data(tag_list(tag))
            .with_ne(256);
        let outcome = self.one(Pin::Once, command)?;
        if outcome.sw == StatusWord::FILE_NOT_FOUND {
            return Err(PivError::NoObject(tag));
        }
        let body = normal("GET DATA", outcome)?;
        let object = tlv::find(&body, 0x53).ok_or(PivError::Malformed("object without tag 53"))?;
        Ok(object.to_vec())
    }

    /// Puts the content of a data object; an empty one deletes it. Needs
    /// [`Piv::authenticate_management`].
    ///
    /// # Errors
    /// [`PivError::NotAuthenticated`], or [`PivError::Conditions`] before the element is initialised.
    pub fn put_object(&mut self, tag: u32, content: &[u8]) -> Result<(), PivError> {
        let mut data = tag_list(tag);
        tlv::write(&mut data, 0x53, content);
        let command = Command::new(0x00, 0xDB, 0x3F, 0xFF).with_data(data);
        normal("PUT DATA", self.one(Pin::Unneeded, command)?).map(drop)
    }

    /// Changes the PIN.
    ///
    /// # Errors
    /// [`PivError::WrongPin`], [`PivError::PinBlocked`], [`PivError::PinForm`].
    pub fn change_pin(&mut self, old: &[u8], new: &[u8]) -> Result<(), PivError> {
        let data = Zeroizing::new([*padded_pin(old)?, *padded_pin(new)?].concat());
        self.compare(Command::new(0x00, 0x24, 0x00, 0x80), &data)
    }

    /// Changes the PUK: eight bytes.
    ///
    /// # Errors
    /// As [`Piv::change_pin`].
    pub fn change_puk(&mut self, old: &[u8; 8], new: &[u8; 8]) -> Result<(), PivError> {
        let data = Zeroizing::new([*old, *new].concat());
        self.compare(Command::new(0x00, 0x24, 0x00, 0x81), &data)
    }

    /// Sets a new PIN with its full number of tries, by the PUK.
    ///
    /// # Errors
    /// As [`Piv::change_pin`], for the PUK.
    pub fn unblock_pin(&mut self, puk: &[u8; 8], new: &[u8]) -> Result<(), PivError> {
        let data = Zeroizing::new([*puk, *padded_pin(new)?].concat());
        self.compare(Command::new(0x00, 0x2C, 0x00, 0x80), &data)
    }

    fn compare(&mut self, command: Command, data: &[u8]) -> Result<(), PivError> {
        // What was kept is about to be another PIN.
        self.pin = None;
        self.pin_shown = false;
        let outcome = self.one(Pin::Unneeded, command.with_data(data))?;
        match outcome.sw {
            StatusWord::NORMAL => Ok(()),
            sw => Err(PivError::of_pin("the change of a PIN", sw)),
        }
    }

    /// GENERAL AUTHENTICATE with a key of a slot.
    fn compute(
        &mut self,
        slot: Slot,
        algorithm: Algorithm,
        tag: u32,
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, PivError> {
        let mut template = tlv::object(0x82, &[]);
        tlv::write(&mut template, tag, input);
        let command = Command::new(0x00, 0x87, algorithm.id(), slot.id())
            .with_data(tlv::object(0x7C, &template))
            .with_ne(256);
        let outcome = self.one(pin_policy(slot), command)?;
        match outcome.sw {
            StatusWord::REFERENCED_DATA_NOT_FOUND => return Err(PivError::NoKey(slot)),
            StatusWord::INCORRECT_P1_P2 => return Err(PivError::Algorithm(slot)),
            _ => {}
        }
        let body = Zeroizing::new(normal("GENERAL AUTHENTICATE", outcome)?);
        response(&body)
            .map(|result| Zeroizing::new(result.to_vec()))
            .ok_or(PivError::Malformed("dynamic authentication template 7C"))
    }
}

/// The content of a certificate's container: not compressed.
pub(super) fn certificate_object(der: &[u8]) -> Vec<u8> {
    let mut object = tlv::object(0x70, der);
    object.extend_from_slice(&[0x71, 0x01, 0x00, 0xFE, 0x00]);
    object
}

/// The response (tag 82) of a dynamic authentication template.
pub(super) fn response(body: &[u8]) -> Option<&[u8]> {
    tlv::find(tlv::find(body, 0x7C)?, 0x82)
}

/// The body of an outcome whose status word is `9000`.
pub(super) fn normal(what: &'static str, outcome: Outcome) -> Result<Vec<u8>, PivError> {
    match outcome.sw {
        StatusWord::NORMAL => Ok(outcome.body),
        sw => Err(PivError::refused(what, sw)),
    }
}

fn pin_policy(slot: Slot) -> Pin {
    match slot {
        Slot::SIGNATURE => Pin::Always,
        Slot::CARD_AUTHENTICATION => Pin::Unneeded,
        _ => Pin::Once,
    }
}

pub(super) fn tag_list(tag: u32) -> Vec<u8> {
    let bytes = tag.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(3);
    tlv::object(0x5C, &bytes[zeros..])
}

/// The certificate in the content of its container (part 1, table 10).
pub(super) fn certificate(object: &[u8]) -> Result<Vec<u8>, PivError> {
    if tlv::find(object, 0x71).is_some_and(|info| info.first().is_some_and(|b| b & 1 != 0)) {
        return Err(PivError::Malformed("compressed certificate"));
    }
    tlv::find(object, 0x70)
        .map(<[u8]>::to_vec)
        .ok_or(PivError::Malformed("certificate object without tag 70"))
}

pub(super) fn metadata(body: &[u8]) -> Option<PublicKey> {
    let algorithm = Algorithm::from_id(*tlv::find(body, 0x01)?.first()?)?;
    let info = encode::public_key_info(algorithm, tlv::find(body, 0x04)?)?;
    Some(PublicKey { algorithm, info })
}
