//! The command table (draft-urien-eap-smartcard-25, 9.23) as an enum.

use gose_proto::{
    apdu::{Command, StatusWord},
    eap::records::MEMORY,
};
use zeroize::Zeroizing;

/// A padded PIN.
pub(super) type Pin = Zeroizing<[u8; 8]>;

/// Whose PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// P2 = 00: the user.
    Bearer,
    /// P2 = 01: the issuer, who writes records.
    Operator,
}

/// What the host wants.
pub(super) enum EapTlsCommand {
    PinStatus(Holder),
    Verify(Holder, Pin),
    ChangePin {
        holder: Holder,
        old: Pin,
        new: Pin,
    },
    EnablePin(Pin),
    DisablePin(Pin),
    UnblockPin {
        code: Pin,
        new: Pin,
    },
    SetIdentity(Vec<u8>),
    SetMultipleIdentity(Vec<u8>),
    NextIdentity,
    PreferredIdentity,
    AddIdentity(Vec<u8>),
    DeleteIdentity(Vec<u8>),
    CurrentIdentity {
        handle: u8,
    },
    MethodVersion,
    State {
        handle: u8,
    },
    ResetState {
        handle: u8,
    },
    ProfileData {
        handle: u8,
    },
    Process {
        more: bool,
        target: Target,
        data: Zeroizing<Vec<u8>>,
    },
    ExportedParameter {
        handle: u8,
        index: u8,
    },
    SessionKey {
        handle: u8,
    },
    Random(u32),
    /// Method-FCT's certificate read.
    Certificate {
        handle: u8,
    },
    Generate {
        algorithm: u8,
        place: Place,
    },
    Read {
        offset: usize,
        length: usize,
    },
    Write {
        offset: usize,
        data: Zeroizing<Vec<u8>>,
    },
}

/// What a Process-EAP command carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// An EAP packet for an identity, or a TLS record to open.
    Packet { handle: u8 },
    /// An EAP packet in ETSI's form: it is whole when as many bytes are there as its Length says.
    Implicit { handle: u8 },
    /// Clear text to seal as records of this content type.
    Encrypt { content_type: u8 },
}

/// Where GENERATE puts a key.
pub(super) enum Place {
    /// A slot that PIV shares.
    Slot(u8),
    /// The own key of the identity with this label.
    Label(Vec<u8>),
    /// The own key of the identity that was appended last, or of the one with this handle.
    Handle(u8),
}

/// Handles of Set-Multiple-Identity and the current identity's 00; above are content types.
pub(super) const LAST_HANDLE: u8 = 0x0F;

impl EapTlsCommand {
    /// The identity that the command is for: the current one where it names none.
    pub(super) fn handle(&self) -> u8 {
        match self {
            Self::CurrentIdentity { handle }
            | Self::State { handle }
            | Self::ResetState { handle }
            | Self::ProfileData { handle }
            | Self::ExportedParameter { handle, .. }
            | Self::SessionKey { handle }
            | Self::Certificate { handle }
            | Self::Process {
                target: Target::Packet { handle } | Target::Implicit { handle },
                ..
            } => *handle,
            _ => 0,
        }
    }

    pub(super) fn parse(command: &Command) -> Result<Self, StatusWord> {
        if command.cla != 0xA0 {
            return Err(StatusWord::CLA_NOT_SUPPORTED);
        }
        let (p1, p2) = (command.p1, command.p2);
        match command.ins {
            0x20 | 0x2A | 0x24 | 0x26 | 0x28 | 0x2C => Self::parse_pin(command),
            0x16..=0x18 => Self::parse_identity(command),
            0x19 => match p1 {
                0x00 => exact(command, 1).and(Ok(Self::State {
                    handle: handle(p2)?,
                })),
                0x10 => no_data(command).and(Ok(Self::ResetState {
                    handle: handle(p2)?,
                })),
                _ => Err(StatusWord::WRONG_P1_P2),
            },
            0x1A => {
                p1_zero(p1)?;
                let handle = handle(p2)?;
                no_data(command).and(Ok(Self::ProfileData { handle }))
            }
            0x46 => Self::parse_generate(command),
            0x60 | 0x82 => Self::parse_method_function(command),
            0x80 => Self::parse_process(command),
            0x88 => Self::parse_implicit(command),
            0x86 => {
                p1_zero(p1)?;
                let [index] = *command.data else {
                    return Err(StatusWord::WRONG_LENGTH);
                };
                Ok(Self::ExportedParameter {
                    handle: handle(p2)?,
                    index,
                })
            }
            0xA6 => Self::parse_session_key(command),
            0xB0 | 0xD0 => Self::parse_memory(command),
            _ => Err(StatusWord::INS_NOT_SUPPORTED),
        }
    }

    fn parse_pin(command: &Command) -> Result<Self, StatusWord> {
        p1_zero(command.p1)?;
        let holder = match command.p2 {
            0x00 => Holder::Bearer,
            0x01 if matches!(command.ins, 0x20 | 0x2A | 0x24) => Holder::Operator,
            _ => return Err(StatusWord::WRONG_P1_P2),
        };
        let data = command.data.as_slice();
        match command.ins {
            0x20 | 0x2A if data.is_empty() => Ok(Self::PinStatus(holder)),
            0x20 | 0x2A => Ok(Self::Verify(holder, pin(data)?)),
            0x26 => Ok(Self::EnablePin(pin(data)?)),
            0x28 => Ok(Self::DisablePin(pin(data)?)),
            ins => {
                let (first, second) = match data.len() {
                    16 => data.split_at(8),
                    _ => return Err(StatusWord::WRONG_LENGTH),
                };
                let (first, second) = (pin(first)?, pin(second)?);
                Ok(match ins {
                    0x24 => Self::ChangePin {
                        holder,
                        old: first,
                        new: second,
                    },
                    _ => Self::UnblockPin {
                        code: first,
                        new: second,
                    },
                })
            }
        }
    }

    fn parse_identity(command: &Command) -> Result<Self, StatusWord> {
        let label = || match command.data.len() {
            1..=255 => Ok(command.data.clone()),
            _ => Err(StatusWord::WRONG_LENGTH),
        };
        match (command.ins, command.p1, command.p2) {
            (0x16, 0, 0x80) => Ok(Self::SetIdentity(label()?)),
            (0x16, 0, 0x83) => Ok(Self::SetMultipleIdentity(label()?)),
            (0x17, 0, 0x01) => no_data(command).and(Ok(Self::NextIdentity)),
            (0x17, 0, 0x02) => no_data(command).and(Ok(Self::PreferredIdentity)),
            (0x17, 0, 0x81) => Ok(Self::AddIdentity(label()?)),
            (0x17, 0, 0x82) => Ok(Self::DeleteIdentity(label()?)),
            (0x18, 0, ii) => {
                let handle = handle(ii)?;
                no_data(command).and(Ok(Self::CurrentIdentity { handle }))
            }
            (0x18, 1, ii) => handle(ii)
                .and_then(|_| exact(command, 2))
                .and(Ok(Self::MethodVersion)),
            _ => Err(StatusWord::WRONG_P1_P2),
        }
    }

    fn parse_generate(command: &Command) -> Result<Self, StatusWord> {
        p1_zero(command.p1)?;
        let handle = handle(command.p2)?;
        let (algorithm, place) = match command.data.as_slice() {
            [algorithm, 0x00] => (algorithm, Place::Handle(handle)),
            [algorithm, slot] => (algorithm, Place::Slot(*slot)),
            [algorithm, 0x00, label @ ..] if !label.is_empty() => {
                (algorithm, Place::Label(label.to_vec()))
            }
            _ => return Err(StatusWord::WRONG_LENGTH),
        };
        Ok(Self::Generate {
            algorithm: *algorithm,
            place,
        })
    }

    /// Of Method-FCT only what uses no private key: certificate read (function 0) and random (function 1).
    fn parse_method_function(command: &Command) -> Result<Self, StatusWord> {
        let handle = handle(command.p2)?;
        no_data(command)?;
        match (command.p1, command.ne) {
            (0x00 | 0x40, _) => Ok(Self::Certificate { handle }),
            (0x02, Some(ne)) => Ok(Self::Random(ne)),
            (0x02, None) => Err(StatusWord::WRONG_LENGTH),
            _ => Err(StatusWord::WRONG_P1_P2),
        }
    }

    /// Get-AMSK has the same INS with the index in P1; it is offered as an exported parameter only.
    fn parse_implicit(command: &Command) -> Result<Self, StatusWord> {
        p1_zero(command.p1)?;
        let handle = handle(command.p2)?;
        if command.data.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        Ok(Self::Process {
            more: false,
            target: Target::Implicit { handle },
            data: command.data.clone().into(),
        })
    }

    fn parse_process(command: &Command) -> Result<Self, StatusWord> {
        let more = match command.p1 {
            0 => false,
            1 => true,
            _ => return Err(StatusWord::WRONG_P1_P2),
        };
        let target = match command.p2 {
            p2 @ 0x80.. => Target::Encrypt {
                content_type: p2 & 0x7F,
            },
            p2 => Target::Packet {
                handle: handle(p2)?,
            },
        };
        Ok(Self::Process {
            more,
            target,
            data: command.data.clone().into(),
        })
    }

    fn parse_session_key(command: &Command) -> Result<Self, StatusWord> {
        p1_zero(command.p1)?;
        let handle = handle(command.p2)?;
        exact(command, 64).and(Ok(Self::SessionKey { handle }))
    }

    fn parse_memory(command: &Command) -> Result<Self, StatusWord> {
        let address = usize::from(u16::from_be_bytes([command.p1, command.p2]));
        let offset = match address {
            0x8000.. => (MEMORY + address).checked_sub(0x1_0000),
            _ => Some(address),
        };
        let offset = offset
            .filter(|o| *o < MEMORY)
            .ok_or(StatusWord::WRONG_P1_P2)?;
        let length = match command.ins {
            0xB0 => command
                .ne
                .map_or(256, |ne| ne as usize)
                .min(MEMORY - offset),
            _ => command.data.len(),
        };
        match command.ins {
            _ if offset + length > MEMORY || length == 0 => Err(StatusWord::WRONG_LENGTH),
            0xB0 if !command.data.is_empty() => Err(StatusWord::WRONG_LENGTH),
            0xB0 => Ok(Self::Read { offset, length }),
            _ => Ok(Self::Write {
                offset,
                data: command.data.clone().into(),
            }),
        }
    }
}

fn handle(p2: u8) -> Result<u8, StatusWord> {
    (p2 <= LAST_HANDLE)
        .then_some(p2)
        .ok_or(StatusWord::WRONG_P1_P2)
}

fn p1_zero(p1: u8) -> Result<(), StatusWord> {
    (p1 == 0).then_some(()).ok_or(StatusWord::WRONG_P1_P2)
}

fn no_data(command: &Command) -> Result<(), StatusWord> {
    command
        .data
        .is_empty()
        .then_some(())
        .ok_or(StatusWord::WRONG_LENGTH)
}

/// Reads of a fixed length: another Le is answered with the right one.
fn exact(command: &Command, length: u8) -> Result<(), StatusWord> {
    no_data(command)?;
    match command.ne {
        Some(ne) if ne != u32::from(length) && ne != 256 => Err(StatusWord::wrong_le(length)),
        _ => Ok(()),
    }
}

/// A PIN shorter than eight bytes is padded with FF by the card.
fn pin(data: &[u8]) -> Result<Pin, StatusWord> {
    match data.len() {
        1..=8 => crate::pin::pad(data)
            .map(Zeroizing::new)
            .ok_or(StatusWord::WRONG_LENGTH),
        _ => Err(StatusWord::WRONG_LENGTH),
    }
}
