//! Commands of the storage application, read into what they ask for (ISO/IEC 7816-4, -8, -9).

use gose_element::SecretAlgorithm;
use gose_proto::apdu::{Command, StatusWord, tlv::Tlv};

use super::LABEL;
use crate::{
    applet::piv::{
        command::{Digits, objects, pin, step},
        management::Step,
    },
    keystore::Export,
};

/// A command of the storage application, in the order of its table.
pub(super) enum StorageCommand<'a> {
    Verify(Verify),
    AuthenticateManagement {
        algorithm: u8,
        step: Step<'a>,
    },
    GetChallenge(usize),
    Generate(NewKey<'a>),
    Import {
        new: NewKey<'a>,
        key: &'a [u8],
    },
    DeleteKey(u8),
    Keys,
    SetKey {
        reference: Reference,
        associated: &'a [u8],
    },
    Operation(Operation<'a>),
    Objects,
    Create(NewObject<'a>),
    Get(u8),
    Put {
        id: u8,
        content: &'a [u8],
    },
    Delete(u8),
}

pub(super) enum Verify {
    Compare(Digits),
    LogOut,
    Status,
}

/// A key to be made, and where.
pub(super) struct NewKey<'a> {
    pub(super) reference: u8,
    pub(super) algorithm: SecretAlgorithm,
    pub(super) export: Export,
    pub(super) label: &'a [u8],
}

/// A key for the operations that follow, and the template it was named in.
#[derive(Clone, Copy)]
pub(super) struct Reference {
    pub(super) key: u8,
    pub(super) template: Template,
}

/// Control reference templates (ISO/IEC 7816-4, 10.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Template {
    /// B4: cryptographic checksum.
    Checksum,
    /// B8: confidentiality.
    Confidentiality,
}

/// PERFORM SECURITY OPERATION with the key that was set.
pub(super) enum Operation<'a> {
    Encipher(&'a [u8]),
    Decipher(&'a [u8]),
    Checksum(&'a [u8]),
    VerifyChecksum {
        message: &'a [u8],
        checksum: &'a [u8],
    },
    Wrap(u8),
    Unwrap {
        new: NewKey<'a>,
        wrapped: &'a [u8],
    },
}

/// A data object to be made.
pub(super) struct NewObject<'a> {
    pub(super) id: u8,
    pub(super) read: Access,
    pub(super) write: Access,
    pub(super) label: &'a [u8],
    pub(super) content: &'a [u8],
}

/// Who may read, or write and delete, a data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever can select the application.
    Free,
    /// Who showed the PIN.
    Pin,
    /// Who showed the management key.
    Management,
}

impl Access {
    pub(super) const fn id(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Pin => 1,
            Self::Management => 2,
        }
    }

    pub(super) fn from_id(id: u8) -> Option<Self> {
        [Self::Free, Self::Pin, Self::Management]
            .into_iter()
            .find(|access| access.id() == id)
    }
}

impl<'a> TryFrom<&'a Command> for StorageCommand<'a> {
    type Error = StatusWord;

    fn try_from(command: &'a Command) -> Result<Self, StatusWord> {
        if command.cla != 0x00 {
            return Err(StatusWord::CLA_NOT_SUPPORTED);
        }
        let data = command.data.as_slice();
        match (command.ins, command.p1, command.p2) {
            (0x20, p1, 0x80) => verify(p1, data).map(Self::Verify),
            (0x20, _, _) => Err(StatusWord::REFERENCED_DATA_NOT_FOUND),
            (0x87, algorithm, 0x9B) => Ok(Self::AuthenticateManagement {
                algorithm,
                step: step(data)?,
            }),
            (0x84, 0x00, 0x00) => challenge(command),
            (0x47, 0x00, reference) => generate(reference, data),
            (0xDB, 0x3F, 0xFF) => import(data),
            (0xE4, 0x00, reference) => {
                empty(data)?;
                Ok(Self::DeleteKey(key_reference(&[reference])?))
            }
            (0xCB, 0x3F, 0xFF) => match data {
                [0x5C, 0x01, 0xB8] => Ok(Self::Keys),
                [0x5C, 0x01, 0x62] => Ok(Self::Objects),
                [0x5C, ..] => Err(StatusWord::FILE_NOT_FOUND),
                _ => Err(StatusWord::INCORRECT_DATA),
            },
            (0x22, 0x41 | 0x81 | 0xC1, template) => set_key(template, data),
            (0x2A, p1, p2) => operation(p1, p2, data).map(Self::Operation),
            (0xE0, 0x00, 0x00) => create(data),
            (0xCA, 0x01, id) => {
                empty(data)?;
                Ok(Self::Get(id))
            }
            (0xDA, 0x01, id) => Ok(Self::Put { id, content: data }),
            (0xEE, 0x01, id) => {
                empty(data)?;
                Ok(Self::Delete(id))
            }
            (0x22 | 0x47 | 0x84 | 0x87 | 0xCA | 0xCB | 0xDA | 0xDB | 0xE0 | 0xE4 | 0xEE, _, _) => {
                Err(StatusWord::INCORRECT_P1_P2)
            }
            _ => Err(StatusWord::INS_NOT_SUPPORTED),
        }
    }
}

fn empty(data: &[u8]) -> Result<(), StatusWord> {
    if data.is_empty() {
        Ok(())
    } else {
        Err(StatusWord::WRONG_LENGTH)
    }
}

fn verify(p1: u8, data: &[u8]) -> Result<Verify, StatusWord> {
    match (p1, data) {
        (0x00, []) => Ok(Verify::Status),
        (0x00, _) => pin(data).map(Verify::Compare),
        (0xFF, []) => Ok(Verify::LogOut),
        (0xFF, _) => Err(StatusWord::INCORRECT_DATA),
        _ => Err(StatusWord::INCORRECT_P1_P2),
    }
}

fn challenge<'a>(command: &Command) -> Result<StorageCommand<'a>, StatusWord> {
    empty(&command.data)?;
    match command.ne {
        Some(ne @ 1..=256) => Ok(StorageCommand::GetChallenge(ne as usize)),
        _ => Err(StatusWord::WRONG_LENGTH),
    }
}

fn generate(reference: u8, data: &[u8]) -> Result<StorageCommand<'_>, StatusWord> {
    let [Tlv { tag: 0xAC, value }] = *objects(data)? else {
        return Err(StatusWord::INCORRECT_DATA);
    };
    let fields = Fields::read(value)?;
    match fields {
        Fields {
            reference: None,
            value: None,
            cryptogram: None,
            ..
        } => Ok(StorageCommand::Generate(
            fields.key(key_reference(&[reference])?)?,
        )),
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

fn import(data: &[u8]) -> Result<StorageCommand<'_>, StatusWord> {
    let [Tlv { tag: 0xB8, value }] = *objects(data)? else {
        return Err(StatusWord::INCORRECT_DATA);
    };
    let fields = Fields::read(value)?;
    match fields {
        Fields {
            reference: Some(reference),
            value: Some(key),
            cryptogram: None,
            ..
        } => Ok(StorageCommand::Import {
            new: fields.key(key_reference(reference)?)?,
            key,
        }),
        _ => Err(StatusWord::INCORRECT_DATA),
    }
}

fn set_key(template: u8, data: &[u8]) -> Result<StorageCommand<'_>, StatusWord> {
    let template = match template {
        0xB4 => Template::Checksum,
        0xB8 => Template::Confidentiality,
        _ => return Err(StatusWord::INCORRECT_P1_P2),
    };
    let (reference, associated) = match *objects(data)? {
        [Tlv { tag: 0x83, value }] => (value, &[][..]),
        [
            Tlv { tag: 0x83, value },
            Tlv {
                tag: 0x87,
                value: associated,
            },
        ] if template == Template::Confidentiality => (value, associated),
        _ => return Err(StatusWord::INCORRECT_DATA),
    };
    Ok(StorageCommand::SetKey {
        reference: Reference {
            key: key_reference(reference)?,
            template,
        },
        associated,
    })
}

fn operation(p1: u8, p2: u8, data: &[u8]) -> Result<Operation<'_>, StatusWord> {
    match (p1, p2) {
        (0x86, 0x80) => Ok(Operation::Encipher(data)),
        (0x80, 0x86) => Ok(Operation::Decipher(data)),
        (0x8E, 0x80) => Ok(Operation::Checksum(data)),
        (0x00, 0xA2) => match *objects(data)? {
            [
                Tlv {
                    tag: 0x80,
                    value: message,
                },
                Tlv {
                    tag: 0x8E,
                    value: checksum,
                },
            ] => Ok(Operation::VerifyChecksum { message, checksum }),
            _ => Err(StatusWord::INCORRECT_DATA),
        },
        (0x86, 0x83) => key_reference(data).map(Operation::Wrap),
        (0x83, 0xB8) => {
            let fields = Fields::read(data)?;
            match fields {
                Fields {
                    reference: Some(reference),
                    value: None,
                    cryptogram: Some(wrapped),
                    ..
                } => Ok(Operation::Unwrap {
                    new: fields.key(key_reference(reference)?)?,
                    wrapped,
                }),
                _ => Err(StatusWord::INCORRECT_DATA),
            }
        }
        _ => Err(StatusWord::INCORRECT_P1_P2),
    }
}

fn create(data: &[u8]) -> Result<StorageCommand<'_>, StatusWord> {
    let (parameters, content) = match *objects(data)? {
        [Tlv { tag: 0x62, value }] => (value, &[][..]),
        [
            Tlv { tag: 0x62, value },
            Tlv {
                tag: 0x53,
                value: content,
            },
        ] => (value, content),
        _ => return Err(StatusWord::INCORRECT_DATA),
    };
    let (mut id, mut access, mut label) = (None, [Access::Pin; 2], &[][..]);
    for Tlv { tag, value } in objects(parameters)? {
        match (tag, value) {
            (0x83, [0x01, number]) if id.is_none() => id = Some(*number),
            (0x86, [read, write]) => {
                let known = |id: &u8| Access::from_id(*id).ok_or(StatusWord::INCORRECT_DATA);
                access = [known(read)?, known(write)?];
            }
            (0x84, text) => label = checked_label(text)?,
            _ => return Err(StatusWord::INCORRECT_DATA),
        }
    }
    Ok(StorageCommand::Create(NewObject {
        id: id.ok_or(StatusWord::INCORRECT_DATA)?,
        read: access[0],
        write: access[1],
        label,
        content,
    }))
}

/// The data objects that describe a key.
#[derive(Default)]
struct Fields<'a> {
    /// 83
    reference: Option<&'a [u8]>,
    /// 80
    algorithm: Option<SecretAlgorithm>,
    /// 81
    export: Option<Export>,
    /// 84
    label: Option<&'a [u8]>,
    /// 87
    value: Option<&'a [u8]>,
    /// 86
    cryptogram: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(data: &'a [u8]) -> Result<Self, StatusWord> {
        let mut fields = Self::default();
        for Tlv { tag, value } in objects(data)? {
            let twice = match (tag, value) {
                (0x83, _) => fields.reference.replace(value).is_some(),
                (0x80, [id]) => {
                    let known = SecretAlgorithm::from_id(*id).ok_or(StatusWord::INCORRECT_DATA)?;
                    fields.algorithm.replace(known).is_some()
                }
                (0x81, [0]) => fields.export.replace(Export::Never).is_some(),
                (0x81, [1]) => fields.export.replace(Export::Wrapped).is_some(),
                (0x84, _) => fields.label.replace(checked_label(value)?).is_some(),
                (0x87, _) => fields.value.replace(value).is_some(),
                (0x86, _) => fields.cryptogram.replace(value).is_some(),
                _ => true,
            };
            if twice {
                return Err(StatusWord::INCORRECT_DATA);
            }
        }
        Ok(fields)
    }

    fn key(&self, reference: u8) -> Result<NewKey<'a>, StatusWord> {
        let algorithm = self.algorithm.ok_or(StatusWord::INCORRECT_DATA)?;
        let export = self.export.unwrap_or(Export::Never);
        // A wrapping key that leaves would take every key that it wraps with it.
        if algorithm.wraps() && export == Export::Wrapped {
            return Err(StatusWord::INCORRECT_DATA);
        }
        Ok(NewKey {
            reference,
            algorithm,
            export,
            label: self.label.unwrap_or_default(),
        })
    }
}

/// 01 to 7F: PIV's key references are 80 and above.
fn key_reference(bytes: &[u8]) -> Result<u8, StatusWord> {
    match *bytes {
        [reference @ 0x01..=0x7F] => Ok(reference),
        _ => Err(StatusWord::INCORRECT_P1_P2),
    }
}

/// UTF-8 without control characters.
fn checked_label(label: &[u8]) -> Result<&[u8], StatusWord> {
    let text = std::str::from_utf8(label).map_err(|_| StatusWord::INCORRECT_DATA)?;
    if label.len() > LABEL || text.chars().any(char::is_control) {
        return Err(StatusWord::INCORRECT_DATA);
    }
    Ok(label)
}

#[cfg(test)]
mod tests {
    use gose_proto::apdu::tlv;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_command_does_not_panic(
            header in prop_oneof![
                Just([0x20u8, 0x00, 0x80]), Just([0x47, 0x00, 0x01]), Just([0xDB, 0x3F, 0xFF]),
                Just([0x22, 0x41, 0xB8]), Just([0x2A, 0x83, 0xB8]), Just([0x2A, 0x00, 0xA2]),
                Just([0xE0, 0x00, 0x00]), any::<[u8; 3]>()
            ],
            data in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                proptest::collection::vec(
                    prop_oneof![Just(0x83u8), Just(0x80), Just(0x81), Just(0x84), Just(0x86), Just(0x87), 0u8..4],
                    0..32,
                ).prop_map(|inner| tlv::object(0xB8, &inner)),
            ],
        ) {
            let [ins, p1, p2] = header;
            let command = Command::new(0x00, ins, p1, p2).with_data(data);
            let _ = StorageCommand::try_from(&command).is_ok();
        }
    }
}
