//! Commands of PIV, read into what they ask for (NIST SP 800-73-4, part 2, 3).

use gose_element::{
    Algorithm,
    drive::piv::{ATTESTATION_KEY, PinPolicy, Slot},
};
use gose_proto::apdu::{
    Command, StatusWord,
    tlv::{self, Tlv},
};
use zeroize::Zeroizing;

use super::management::{self, Step};
use crate::keystore::Numbers;

/// Eight bytes of a PIN or PUK.
pub(in crate::applet) type Digits = Zeroizing<[u8; 8]>;

/// A command of PIV, in the standard's order; vendor commands last.
pub(super) enum PivCommand<'a> {
    GetData(u32),
    Verify(Verify),
    ChangeReferenceData {
        which: Which,
        old: Digits,
        new: Digits,
    },
    ResetRetryCounter {
        puk: Digits,
        new: Digits,
    },
    GeneralAuthenticate {
        slot: Slot,
        algorithm: Algorithm,
        operation: Operation<'a>,
    },
    AuthenticateManagement {
        algorithm: u8,
        step: Step<'a>,
    },
    PutData {
        tag: u32,
        content: &'a [u8],
    },
    Generate {
        slot: Slot,
        algorithm: Algorithm,
    },
    GenerateAttestationKey(Algorithm),
    Attest(Slot),
    GetMetadata(Reference),
    GetSerial,
    GetVersion,
    Import {
        slot: Slot,
        algorithm: Algorithm,
        numbers: Numbers<'a>,
    },
    SetManagementKey(Zeroizing<Vec<u8>>),
}

pub(super) enum Verify {
    Compare(Digits),
    LogOut,
    Status,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Pin,
    Puk,
}

/// What GET METADATA is asked about.
pub(super) enum Reference {
    Slot(Slot),
    Pin(Which),
    Management,
}

/// What a key of a slot computes.
pub(super) enum Operation<'a> {
    /// RSA's private operation or ECDSA, on a block or a digest.
    Sign(&'a [u8]),
    /// ECDH with a point.
    Agree(&'a [u8]),
}

impl<'a> TryFrom<&'a Command> for PivCommand<'a> {
    type Error = StatusWord;

    fn try_from(command: &'a Command) -> Result<Self, StatusWord> {
        if command.cla != 0x00 {
            return Err(StatusWord::CLA_NOT_SUPPORTED);
        }
        match (command.ins, command.p1, command.p2) {
            (0xCB, 0x3F, 0xFF) => get_data(&command.data),
            (0x20, p1, p2) => verify(p1, p2, &command.data),
            (0x24, 0x00, which) => change_reference_data(which, &command.data),
            (0x2C, 0x00, 0x80) => reset_retry_counter(&command.data),
            (0x2C, 0x00, _) => Err(StatusWord::REFERENCED_DATA_NOT_FOUND),
            (0x87, algorithm, 0x9B) => Ok(Self::AuthenticateManagement {
                algorithm,
                step: step(&command.data)?,
            }),
            (0x87, algorithm, slot) => general_authenticate(algorithm, slot, &command.data),
            (0xDB, 0x3F, 0xFF) => put_data(&command.data),
            (0x47, 0x00, ATTESTATION_KEY) => {
                new_key(&command.data).map(Self::GenerateAttestationKey)
            }
            (0x47, 0x00, slot) => {
                let slot = of_slot(slot)?;
                policies(slot, template(&command.data)?)?;
                Ok(Self::Generate {
                    slot,
                    algorithm: new_key(&command.data)?,
                })
            }
            (0xF7, 0x00, 0x80) => Ok(Self::GetMetadata(Reference::Pin(Which::Pin))),
            (0xF7, 0x00, 0x81) => Ok(Self::GetMetadata(Reference::Pin(Which::Puk))),
            (0xF7, 0x00, 0x9B) => Ok(Self::GetMetadata(Reference::Management)),
            (0xF7, 0x00, slot) => Ok(Self::GetMetadata(Reference::Slot(of_slot(slot)?))),
            (0xF8, 0x00, 0x00) => Ok(Self::GetSerial),
            (0xF9, slot, 0x00) => Ok(Self::Attest(of_slot(slot)?)),
            (0xFD, 0x00, 0x00) => Ok(Self::GetVersion),
            (0xFE, algorithm, slot) => import(algorithm, slot, &command.data),
            (0xFF, 0xFF, 0xFF) => management_key(&command.data),
            (0xCB | 0x24 | 0x2C | 0xDB | 0x47 | 0xF7..=0xF9 | 0xFD | 0xFF, _, _) => {
                Err(StatusWord::INCORRECT_P1_P2)
            }
            _ => Err(StatusWord::INS_NOT_SUPPORTED),
        }
    }
}

fn get_data(data: &[u8]) -> Result<PivCommand<'_>, StatusWord> {
    match *objects(data)? {
        [Tlv { tag: 0x5C, value }] => Ok(PivCommand::GetData(tag(value)?)),
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

fn put_data(data: &[u8]) -> Result<PivCommand<'_>, StatusWord> {
    match *objects(data)? {
        [
            Tlv {
                tag: 0x5C,
                value: list,
            },
            Tlv {
                tag: 0x53,
                value: content,
            },
        ] => Ok(PivCommand::PutData {
            tag: tag(list)?,
            content,
        }),
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

fn verify<'a>(p1: u8, p2: u8, data: &[u8]) -> Result<PivCommand<'a>, StatusWord> {
    if p2 != 0x80 {
        return Err(StatusWord::REFERENCED_DATA_NOT_FOUND);
    }
    let verify = match (p1, data) {
        (0x00, []) => Verify::Status,
        (0x00, _) => Verify::Compare(pin(data)?),
        (0xFF, []) => Verify::LogOut,
        (0xFF, _) => return Err(StatusWord::INCORRECT_DATA),
        _ => return Err(StatusWord::INCORRECT_P1_P2),
    };
    Ok(PivCommand::Verify(verify))
}

fn change_reference_data<'a>(which: u8, data: &[u8]) -> Result<PivCommand<'a>, StatusWord> {
    let (old, new) = halves(data)?;
    let (which, new) = match which {
        0x80 => (Which::Pin, pin(new)?),
        0x81 => (Which::Puk, digits(new)?),
        _ => return Err(StatusWord::REFERENCED_DATA_NOT_FOUND),
    };
    let old = digits(old)?;
    Ok(PivCommand::ChangeReferenceData { which, old, new })
}

fn reset_retry_counter<'a>(data: &[u8]) -> Result<PivCommand<'a>, StatusWord> {
    let (puk, new) = halves(data)?;
    Ok(PivCommand::ResetRetryCounter {
        puk: digits(puk)?,
        new: pin(new)?,
    })
}

fn general_authenticate(
    algorithm: u8,
    slot: u8,
    data: &[u8],
) -> Result<PivCommand<'_>, StatusWord> {
    let slot = of_slot(slot)?;
    let algorithm = Algorithm::from_id(algorithm).ok_or(StatusWord::INCORRECT_P1_P2)?;
    let operation = match Template::read(data)? {
        Template {
            witness: None,
            challenge: Some(input),
            response: None | Some([]),
            point: None,
        } => Operation::Sign(input),
        Template {
            witness: None,
            challenge: None,
            response: None | Some([]),
            point: Some(point),
        } => Operation::Agree(point),
        _ => return Err(StatusWord::INCORRECT_DATA),
    };
    Ok(PivCommand::GeneralAuthenticate {
        slot,
        algorithm,
        operation,
    })
}

pub(in crate::applet) fn step(data: &[u8]) -> Result<Step<'_>, StatusWord> {
    let template = Template::read(data)?;
    if template.point.is_some() {
        return Err(StatusWord::INCORRECT_DATA);
    }
    match (template.witness, template.challenge, template.response) {
        (None, Some([]), None) => Ok(Step::AskChallenge),
        (None, None, Some(response)) => Ok(Step::Respond(response)),
        (Some([]), None, None) => Ok(Step::AskWitness),
        (Some(witness), Some(challenge), None | Some([])) => {
            Ok(Step::Mutual { witness, challenge })
        }
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

/// The algorithm of a key to be made.
fn new_key(data: &[u8]) -> Result<Algorithm, StatusWord> {
    let Some(&[algorithm]) = tlv::find(template(data)?, 0x80) else {
        return Err(StatusWord::INCORRECT_DATA);
    };
    Algorithm::from_id(algorithm).ok_or(StatusWord::INCORRECT_DATA)
}

/// The content of a template of GENERATE.
fn template(data: &[u8]) -> Result<&[u8], StatusWord> {
    match *objects(data)? {
        [Tlv { tag: 0xAC, value }] => Ok(value),
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

/// AA and AB: the PIN policy and the touch policy that a YubiKey's program asks for. A slot has its own PIN policy, and
/// nothing is ever touched: another wish is refused rather than passed over.
fn policies(slot: Slot, objects: &[u8]) -> Result<(), StatusWord> {
    let pin = PinPolicy::of(slot).id();
    match (tlv::find(objects, 0xAA), tlv::find(objects, 0xAB)) {
        (Some(wish), _) if *wish != [0] && *wish != [pin] => {
            Err(StatusWord::FUNCTION_NOT_SUPPORTED)
        }
        (_, Some(wish)) if *wish != [0] && *wish != [1] => Err(StatusWord::FUNCTION_NOT_SUPPORTED),
        _ => Ok(()),
    }
}

/// IMPORT ASYMMETRIC KEY: 01 and 02 the primes of an RSA key, what follows from them is passed over; 06 the number of a
/// key on a curve.
fn import(algorithm: u8, slot: u8, data: &[u8]) -> Result<PivCommand<'_>, StatusWord> {
    let slot = of_slot(slot)?;
    let algorithm = Algorithm::from_id(algorithm).ok_or(StatusWord::INCORRECT_P1_P2)?;
    objects(data)?;
    policies(slot, data)?;
    let find = |tag| tlv::find(data, tag);
    let numbers = match (find(0x01), find(0x02), find(0x06)) {
        (Some(p), Some(q), None) => Numbers::Primes(p, q),
        (None, None, Some(scalar)) => Numbers::Scalar(scalar),
        _ => return Err(StatusWord::INCORRECT_DATA),
    };
    Ok(PivCommand::Import {
        slot,
        algorithm,
        numbers,
    })
}

/// Algorithm (08, 0A, 0C), key reference 9B, length, key.
fn management_key<'a>(data: &[u8]) -> Result<PivCommand<'a>, StatusWord> {
    match data {
        [algorithm, 0x9B, length, key @ ..]
            if usize::from(*length) == key.len()
                && management::algorithm(key.len()) == Some(*algorithm) =>
        {
            Ok(PivCommand::SetManagementKey(Zeroizing::new(key.to_vec())))
        }
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

/// A dynamic authentication template (part 2, table 7).
#[derive(Default)]
struct Template<'a> {
    witness: Option<&'a [u8]>,
    challenge: Option<&'a [u8]>,
    response: Option<&'a [u8]>,
    point: Option<&'a [u8]>,
}

impl<'a> Template<'a> {
    fn read(data: &'a [u8]) -> Result<Self, StatusWord> {
        let [Tlv { tag: 0x7C, value }] = *objects(data)? else {
            return Err(StatusWord::INCORRECT_DATA);
        };
        let mut template = Self::default();
        for object in objects(value)? {
            let field = match object.tag {
                0x80 => &mut template.witness,
                0x81 => &mut template.challenge,
                0x82 => &mut template.response,
                0x85 => &mut template.point,
                _ => return Err(StatusWord::INCORRECT_DATA),
            };
            if field.replace(object.value).is_some() {
                return Err(StatusWord::INCORRECT_DATA);
            }
        }
        Ok(template)
    }
}

/// The data objects of one level, at most as many as any command has.
pub(in crate::applet) fn objects(data: &[u8]) -> Result<Vec<Tlv<'_>>, StatusWord> {
    let objects: Result<Vec<_>, _> = tlv::Reader::new(data).take(8).collect();
    objects.map_err(|_| StatusWord::INCORRECT_DATA)
}

fn tag(bytes: &[u8]) -> Result<u32, StatusWord> {
    match *bytes {
        [a] => Ok(u32::from_be_bytes([0, 0, 0, a])),
        [a, b] => Ok(u32::from_be_bytes([0, 0, a, b])),
        [a, b, c] => Ok(u32::from_be_bytes([0, a, b, c])),
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

fn of_slot(id: u8) -> Result<Slot, StatusWord> {
    Slot::try_from(id).map_err(|_| StatusWord::INCORRECT_P1_P2)
}

fn halves(data: &[u8]) -> Result<(&[u8], &[u8]), StatusWord> {
    match data.len() {
        16 => Ok(data.split_at(8)),
        _ => Err(StatusWord::WRONG_LENGTH),
    }
}

fn digits(bytes: &[u8]) -> Result<Digits, StatusWord> {
    let digits = <[u8; 8]>::try_from(bytes).map_err(|_| StatusWord::WRONG_LENGTH)?;
    Ok(Zeroizing::new(digits))
}

/// Six to eight digits, padded with FF (part 1, 2.4.3): other forms are refused before any comparison,
/// so that they cost no try.
pub(in crate::applet) fn pin(bytes: &[u8]) -> Result<Digits, StatusWord> {
    let pin = digits(bytes)?;
    let length = pin.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let padded = pin.iter().skip(length).all(|byte| *byte == 0xFF);
    if length >= 6 && padded {
        Ok(pin)
    } else {
        Err(StatusWord::INCORRECT_DATA)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_a_pin() {
        for good in [&b"123456\xFF\xFF"[..], b"1234567\xFF", b"12345678"] {
            assert!(pin(good).is_ok());
        }
        for bad in [
            &b"12345\xFF\xFF\xFF"[..],
            b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
            b"123456\xFF7",
            b"12345a\xFF\xFF",
            b"123456\0\0",
        ] {
            assert_eq!(pin(bad).err(), Some(StatusWord::INCORRECT_DATA));
        }
        assert_eq!(pin(b"123456").err(), Some(StatusWord::WRONG_LENGTH));
    }

    proptest! {
        #[test]
        fn any_command_does_not_panic(
            ins in prop_oneof![
                Just(0x20u8), Just(0x24), Just(0x2C), Just(0x47), Just(0x87), Just(0xCB),
                Just(0xDB), Just(0xF7), Just(0xFF), any::<u8>()
            ],
            p1 in any::<u8>(),
            p2 in any::<u8>(),
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let command = Command::new(0x00, ins, p1, p2).with_data(data);
            let _ = PivCommand::try_from(&command).is_ok();
        }
    }
}
