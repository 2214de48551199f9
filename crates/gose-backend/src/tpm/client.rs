//! Typed commands on a line (TCG TPM 2.0 Library, part 1, 18: structure of commands and responses).

use std::{thread, time::Duration};

use tpm2_protocol::{
    TpmWriter,
    basic::TpmHandle,
    data::{Tpm2bAuth, TpmSt, TpmaSession, TpmsAuthCommand},
    frame::{TpmFrame, TpmUnmarshalBody, tpm_marshal_command},
};
use zeroize::Zeroizing;

use super::transport::{Address, Line, MAX_SIZE};
use crate::tpm::TpmError;

/// TPM_RS_PW: authorisation by the value itself.
const PASSWORD: u32 = 0x4000_0009;

/// How often a command is sent again that the TPM has not begun to execute.
const RETRIES: u32 = 200;

/// A response code (part 2, 6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    const TESTING: Self = Self(0x90A);
    const YIELDED: Self = Self(0x908);
    const NV_RATE: Self = Self(0x920);
    const RETRY: Self = Self(0x922);
    pub(super) const OBJECT_MEMORY: Self = Self(0x902);
    pub(super) const LOCKOUT: Self = Self(0x921);
    const REFERENCE_H0: Self = Self(0x910);

    /// The command was not begun; the same bytes may be sent again.
    fn is_transient(self) -> bool {
        [Self::TESTING, Self::YIELDED, Self::NV_RATE, Self::RETRY].contains(&self)
    }

    /// The base code of a format-one code, which also names a parameter, handle or session.
    pub(super) fn base(self) -> u32 {
        if self.0 & 0x80 != 0 {
            self.0 & 0xBF
        } else {
            self.0
        }
    }

    /// A handle or a saved context that this TPM does not know (any more).
    pub(super) fn is_stale(self) -> bool {
        const HANDLE: u32 = 0x08B;
        const INTEGRITY: u32 = 0x09F;
        self == Self::REFERENCE_H0 || [HANDLE, INTEGRITY].contains(&self.base())
    }
}

/// A TPM to send commands to.
pub(super) struct Client {
    address: Address,
    line: Option<Line>,
    /// Counts lines, so that owners of handles see that theirs are gone.
    pub(super) epoch: u64,
}

impl Client {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            line: None,
            epoch: 0,
        }
    }

    /// Sends a command with one password authorisation for each of `auths`, in handle order.
    pub(super) fn call<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        auths: &[&[u8]],
    ) -> Result<R, TpmError> {
        let sessions = auths
            .iter()
            .map(|value| session(value))
            .collect::<Result<Vec<_>, _>>()?;
        let tag = if sessions.is_empty() {
            TpmSt::NoSessions
        } else {
            TpmSt::Sessions
        };
        let mut buffer = Zeroizing::new([0_u8; MAX_SIZE]);
        let mut writer = TpmWriter::new(buffer.as_mut_slice());
        tpm_marshal_command(command, tag, &sessions, &mut writer).map_err(TpmError::wire)?;
        let len = writer.len();
        for round in 0..RETRIES {
            let response = self.exchange(&buffer[..len])?;
            let code = Code(u32::from_be_bytes(
                *response[6..].first_chunk().ok_or(TpmError::Malformed)?,
            ));
            match code {
                Code(0) => return body(&response),
                code if code.is_transient() => {
                    thread::sleep(Duration::from_millis(u64::from(round.min(20))));
                }
                code => return Err(TpmError::Refused(code.0)),
            }
        }
        Err(TpmError::Busy)
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let line = match &mut self.line {
            Some(line) => line,
            none => {
                self.epoch += 1;
                none.insert(Line::open(&self.address).map_err(|error| TpmError::line(&error))?)
            }
        };
        let result = line.exchange(command);
        result.map_err(|error| {
            self.line = None;
            TpmError::line(&error)
        })
    }
}

fn session(value: &[u8]) -> Result<TpmsAuthCommand, TpmError> {
    Ok(TpmsAuthCommand {
        session_handle: TpmHandle::new(PASSWORD),
        nonce: Default::default(),
        session_attributes: TpmaSession::CONTINUE_SESSION,
        hmac: Tpm2bAuth::try_from(value).map_err(TpmError::wire)?,
    })
}

/// Takes handles and parameters out of a response that tells success.
fn body<R: TpmUnmarshalBody>(response: &[u8]) -> Result<R, TpmError> {
    let tag = u16::from_be_bytes(*response.first_chunk().ok_or(TpmError::Malformed)?);
    let rest = response.get(10..).ok_or(TpmError::Malformed)?;
    let (handles, mut parameters) = rest
        .split_at_checked(4 * R::HANDLES)
        .ok_or(TpmError::Malformed)?;
    if tag == TpmSt::Sessions.value() {
        let (size, rest) = parameters.split_first_chunk().ok_or(TpmError::Malformed)?;
        let size = usize::try_from(u32::from_be_bytes(*size)).map_err(|_| TpmError::Malformed)?;
        parameters = rest.get(..size).ok_or(TpmError::Malformed)?;
    }
    R::unmarshal_body(handles, parameters).map_err(TpmError::wire)
}
