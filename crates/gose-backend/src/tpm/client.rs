//! Typed commands on a line (TCG TPM 2.0 Library, part 1, 18: structure of commands and responses).

use std::{thread, time::Duration};

use tpm2_protocol::{
    TpmWriter,
    basic::{TpmHandle, TpmUint16},
    data::{
        Tpm2bEncryptedSecret, Tpm2bNonce, TpmAlgId, TpmRh, TpmSe, TpmSt, TpmsAuthCommand,
        TpmtSymDef, TpmuSymKeyBits, TpmuSymMode,
    },
    frame::{
        TpmCreatePrimaryCommand, TpmCreatePrimaryResponse, TpmFlushContextCommand,
        TpmFlushContextResponse, TpmFrame, TpmStartAuthSessionCommand, TpmStartAuthSessionResponse,
        TpmUnmarshalBody, tpm_marshal_command,
    },
};
use zeroize::Zeroizing;

use super::{
    TpmError,
    authorisation::{self, Cover, Session, Subject},
    kdf, template,
    transport::{Address, Line, MAX_SIZE},
};

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
    pub(super) const SESSION_MEMORY: Self = Self(0x903);
    pub(super) const SESSION_HANDLES: Self = Self(0x905);
    pub(super) const LOCKOUT: Self = Self(0x921);
    const REFERENCE_H0: Self = Self(0x910);
    const REFERENCE_S0: Self = Self(0x918);

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

    /// TPM_RC_AUTH_FAIL, which the dictionary-attack protection counts, or TPM_RC_BAD_AUTH, which it does not.
    pub(super) fn is_wrong_auth(self) -> bool {
        [0x08E, 0x0A2].contains(&self.base())
    }
}

/// A TPM to send commands to.
pub(super) struct Client {
    address: Address,
    line: Option<Line>,
    session: Option<Session>,
    /// What was open when a line broke: a bare TPM keeps it.
    orphans: Vec<TpmHandle>,
    /// Counts lines, so that owners of handles see that theirs are gone.
    pub(super) epoch: u64,
}

impl Client {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            line: None,
            session: None,
            orphans: Vec::new(),
            epoch: 0,
        }
    }

    /// Sends a command that needs no authorisation.
    pub(super) fn ask<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
    ) -> Result<R, TpmError> {
        let bytes = marshal(command, &[])?;
        body(&self.send(&bytes)?)
    }

    /// Sends a command on `subjects`, one a handle: an HMAC session authorises the first, and covers what is secret.
    pub(super) fn call<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        subjects: &[Subject<'_>],
        cover: Cover,
    ) -> Result<R, TpmError> {
        match self.call_once(command, subjects, cover) {
            // The TPM was restarted, or another program flushed the session.
            Err(TpmError::Refused(code)) if Code(code) == Code::REFERENCE_S0 => {
                self.session = None;
                self.call_once(command, subjects, cover)
            }
            other => other,
        }
    }

    fn call_once<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        subjects: &[Subject<'_>],
        cover: Cover,
    ) -> Result<R, TpmError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.start_session()?,
        };
        let mut bytes = marshal(command, &session.area(subjects.len(), cover)?)?;
        session.sign(&mut bytes, subjects, cover)?;
        let mut response = match self.send(&bytes) {
            Ok(response) => response,
            Err(error) => {
                if matches!(error, TpmError::Line(_)) {
                    self.orphans.push(session.handle());
                } else {
                    self.session = Some(session);
                }
                return Err(error);
            }
        };
        let auth = subjects.first().map_or(&[][..], |subject| subject.auth);
        let code = command.cc().value();
        match session.verify(&mut response, code, R::HANDLES, auth, cover) {
            Ok(()) => self.session = Some(session),
            Err(error) => {
                // The two ends may have different nonces now: the next command would count as a wrong value.
                let _ = self.flush(session.handle());
                return Err(error);
            }
        }
        body(&response)
    }

    /// A session salted to a key that the null hierarchy has until the TPM's next reset.
    fn start_session(&mut self) -> Result<Session, TpmError> {
        let create = TpmCreatePrimaryCommand {
            handles: [TpmHandle::new(TpmRh::Null.value())],
            in_public: template::primary(),
            ..TpmCreatePrimaryCommand::default()
        };
        let bytes = marshal(&create, &[authorisation::password()])?;
        let made: TpmCreatePrimaryResponse = body(&self.send(&bytes)?)?;
        let key = made.handles[0];
        let started = self.salted_session(key, &made.out_public.inner);
        self.flush(key)?;
        started
    }

    fn salted_session(
        &mut self,
        key: TpmHandle,
        public: &tpm2_protocol::data::TpmtPublic,
    ) -> Result<Session, TpmError> {
        let (salt, sent) = kdf::shared_secret(b"SECRET", public)?;
        let nonce = authorisation::nonce()?;
        let command = TpmStartAuthSessionCommand {
            handles: [key, TpmHandle::new(TpmRh::Null.value())],
            nonce_caller: Tpm2bNonce::try_from(&nonce[..]).map_err(TpmError::wire)?,
            encrypted_salt: Tpm2bEncryptedSecret::try_from(sent.as_slice())
                .map_err(TpmError::wire)?,
            session_type: TpmSe::Hmac,
            symmetric: TpmtSymDef {
                algorithm: TpmAlgId::Aes,
                key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
                mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
            },
            auth_hash: TpmAlgId::Sha256,
        };
        let started: TpmStartAuthSessionResponse = self.ask(&command)?;
        Ok(Session::new(
            started.handles[0],
            &salt,
            &nonce,
            &started.nonce_tpm,
        ))
    }

    /// Frees the place of an object or a session.
    pub(super) fn flush(&mut self, handle: TpmHandle) -> Result<(), TpmError> {
        let command = TpmFlushContextCommand {
            handles: [],
            flush_handle: handle,
        };
        self.ask(&command).map(|_: TpmFlushContextResponse| ())
    }

    /// Frees the place of an object, as soon as there is a line again.
    pub(super) fn abandon(&mut self, handle: TpmHandle) {
        self.orphans.push(handle);
    }

    /// Frees the session's place.
    pub(super) fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            // Gone with its TPM, or flushed.
            let _ = self.flush(session.handle());
        }
    }

    /// The response of a command that succeeded.
    fn send(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        for round in 0..RETRIES {
            let response = self.exchange(command)?;
            let code = Code(u32::from_be_bytes(
                *response[6..].first_chunk().ok_or(TpmError::Malformed)?,
            ));
            match code {
                Code(0) => return Ok(response),
                code if code.is_transient() => {
                    thread::sleep(Duration::from_millis(u64::from(round.min(20))));
                }
                code => return Err(TpmError::Refused(code.0)),
            }
        }
        Err(TpmError::Busy)
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.open()?,
        };
        let response = line
            .exchange(command)
            .map_err(|error| TpmError::line(&error))?;
        self.line = Some(line);
        Ok(response)
    }

    fn open(&mut self) -> Result<Line, TpmError> {
        let mut line = Line::open(&self.address).map_err(|error| TpmError::line(&error))?;
        self.epoch += 1;
        self.orphans
            .extend(self.session.take().map(|session| session.handle()));
        // Most are gone: a resource manager drops what came by a closed line, and a restarted TPM has nothing.
        for flush_handle in std::mem::take(&mut self.orphans) {
            let command = TpmFlushContextCommand {
                handles: [],
                flush_handle,
            };
            line.exchange(&marshal(&command, &[])?)
                .map_err(|error| TpmError::line(&error))?;
        }
        Ok(line)
    }
}

fn marshal<C: TpmFrame>(
    command: &C,
    area: &[TpmsAuthCommand],
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let tag = if area.is_empty() {
        TpmSt::NoSessions
    } else {
        TpmSt::Sessions
    };
    let mut buffer = Zeroizing::new(vec![0; MAX_SIZE]);
    let mut writer = TpmWriter::new(&mut buffer);
    tpm_marshal_command(command, tag, area, &mut writer).map_err(TpmError::wire)?;
    let len = writer.len();
    buffer.truncate(len);
    Ok(buffer)
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
