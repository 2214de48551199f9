//! What a card says of itself, so that a slot can mean a card wherever it is plugged in.

use std::{fmt, str::FromStr};

use gose_element::{
    ElementError, Outcome, SecureElement, Step,
    drive::piv::{self, CHUID, Piv, PivError},
    element::run_step,
};
use gose_proto::{
    apdu::{StatusWord, tlv},
    hex,
    racs::script::GET_RESPONSE,
};

/// Security domains that answer INITIALIZE UPDATE: GlobalPlatform's own (Card Specification 2.3.1, annex H.1.3), that of
/// cards before it, and Gemalto's.
const SECURITY_DOMAINS: [&[u8]; 3] = [
    &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00],
    &[0xA0, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00],
    &[0xA0, 0x00, 0x00, 0x00, 0x18, 0x43, 0x4D, 0x00],
];

/// A card's own number; which one it is, its length tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CardSerial {
    /// The GUID in the card holder unique identifier of its PIV application (NIST SP 800-73-4, part 1, 3.1.2): 32 digits.
    Guid([u8; 16]),
    /// Key diversification data: the first ten bytes that answer INITIALIZE UPDATE (draft-urien-core-racs-03, SEID;
    /// GlobalPlatform Card Specification 2.3.1, E.5.1): 20 digits.
    Diversification([u8; 10]),
    /// The serial number that its PIV application tells by the command F8, as YubiKeys do: 8 digits.
    Number([u8; 4]),
}

/// Text is not a card's number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no card's number: 32 hexadecimal digits of a PIV card's GUID, 20 of the first bytes that answer \
     INITIALIZE UPDATE, or 8 of the serial number by PIV's command F8"
)]
pub struct CardSerialError(String);

impl FromStr for CardSerial {
    type Err = CardSerialError;

    fn from_str(text: &str) -> Result<Self, CardSerialError> {
        let wrong = || CardSerialError(text.into());
        let bytes = hex::decode(text).map_err(|_| wrong())?;
        if let Ok(guid) = bytes.as_slice().try_into() {
            Ok(Self::Guid(guid))
        } else if let Ok(data) = bytes.as_slice().try_into() {
            Ok(Self::Diversification(data))
        } else {
            let number = bytes.as_slice().try_into().map_err(|_| wrong())?;
            Ok(Self::Number(number))
        }
    }
}

impl fmt::Display for CardSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(match self {
            Self::Guid(bytes) => bytes,
            Self::Diversification(bytes) => bytes,
            Self::Number(bytes) => bytes,
        }))
    }
}

impl fmt::Debug for CardSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CardSerial({self})")
    }
}

impl CardSerial {
    /// The numbers that a card, freshly powered, tells. It selects applications: reset the card after it.
    ///
    /// # Errors
    /// [`ElementError`] when no answer came.
    pub(super) fn told_by(card: &mut dyn SecureElement) -> Result<Vec<Self>, ElementError> {
        let guid = guid(card)?.map(Self::Guid);
        let number = number(card)?.map(Self::Number);
        let diversification = key_diversification(card)?.map(Self::Diversification);
        Ok([guid, diversification, number]
            .into_iter()
            .flatten()
            .collect())
    }

    /// Whether the card, freshly powered, says that this is its number: the one command that tells it is sent, no other.
    /// It selects applications: reset the card after it.
    ///
    /// # Errors
    /// [`ElementError`] when no answer came. A card that knows no such number is another one.
    pub(super) fn is_of(self, card: &mut dyn SecureElement) -> Result<bool, ElementError> {
        Ok(match self {
            Self::Guid(wanted) => guid(card)? == Some(wanted),
            Self::Diversification(wanted) => key_diversification(card)? == Some(wanted),
            Self::Number(wanted) => number(card)? == Some(wanted),
        })
    }
}

fn guid(card: &mut dyn SecureElement) -> Result<Option<[u8; 16]>, ElementError> {
    match Piv::open(card).object(CHUID) {
        Ok(content) => Ok(tlv::find(&content, 0x34).and_then(|guid| guid.try_into().ok())),
        Err(PivError::Element(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn number(card: &mut dyn SecureElement) -> Result<Option<[u8; 4]>, ElementError> {
    if !select(card, &piv::AID[..9])? {
        return Ok(None);
    }
    let answer = send(card, &[0x00, 0xF8, 0x00, 0x00, 0x00])?;
    let told = answer.body.as_slice().try_into().ok();
    Ok(told.filter(|_| answer.sw == StatusWord::NORMAL))
}

/// The first ten bytes of the answer to INITIALIZE UPDATE, of the first security domain that gives one. The command
/// alone costs a card none of its tries: those are counted by EXTERNAL AUTHENTICATE, which does not follow.
fn key_diversification(card: &mut dyn SecureElement) -> Result<Option<[u8; 10]>, ElementError> {
    for domain in SECURITY_DOMAINS {
        if !select(card, domain)? {
            continue;
        }
        let challenge = [0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00];
        let answer = send(card, &challenge)?;
        if let (StatusWord::NORMAL, Some(first)) = (answer.sw, answer.body.first_chunk()) {
            return Ok(Some(*first));
        }
    }
    Ok(None)
}

fn select(card: &mut dyn SecureElement, aid: &[u8]) -> Result<bool, ElementError> {
    let length = u8::try_from(aid.len()).unwrap_or(u8::MAX);
    let mut apdu = vec![0x00, 0xA4, 0x04, 0x00, length];
    apdu.extend_from_slice(aid);
    apdu.push(0x00);
    Ok(send(card, &apdu)?.sw == StatusWord::NORMAL)
}

fn send(card: &mut dyn SecureElement, apdu: &[u8]) -> Result<Outcome, ElementError> {
    run_step(card, &Step::new(apdu).collect(GET_RESPONSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_tells_which_number_it_is() {
        let check = |text: &str, expected: Option<CardSerial>| {
            assert_eq!(text.parse().ok(), expected, "{text}");
        };
        check(&"0a".repeat(16), Some(CardSerial::Guid([10; 16])));
        check(
            &"0A".repeat(10),
            Some(CardSerial::Diversification([10; 10])),
        );
        check("00bc614e", Some(CardSerial::Number([0, 0xBC, 0x61, 0x4E])));
        for wrong in ["", "0", "alice", &"0a".repeat(15), &"0a".repeat(17)] {
            check(wrong, None);
        }
        assert_eq!(
            CardSerial::Number([0, 0xBC, 0x61, 0x4E]).to_string(),
            "00BC614E"
        );
    }
}
