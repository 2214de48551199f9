//! HMAC sessions (TCG TPM 2.0 Library, part 1, 17): authorisation values prove themselves without crossing the bus,
//! and what is secret in a command or a response crosses it encrypted.
//!
//! The session is salted to a primary key of the null hierarchy, which the TPM makes for this purpose: who listens
//! learns nothing that a guess could be tried on.

use std::ops::Range;

use tpm2_protocol::{
    basic::TpmHandle,
    data::{Tpm2bAuth, Tpm2bNonce, TpmaSession, TpmsAuthCommand},
};
use zeroize::Zeroizing;

use super::{
    TpmError,
    kdf::{self, Cfb, DIGEST, Secret},
};

/// TPM_RS_PW: authorisation by the value itself, which is empty wherever it is used here.
const PASSWORD: u32 = 0x4000_0009;

/// Bytes of tag, size and code.
const HEADER: usize = 10;

/// Bytes of this session's part of the authorisation area: handle, nonce, attributes, HMAC.
const PART: usize = 4 + 2 + DIGEST + 1 + 2 + DIGEST;

/// What a command acts on.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The name of the handle's entity (part 1, 16): of an object the digest of its public area, of a hierarchy the
    /// handle itself.
    pub(super) name: &'a [u8],
    /// Its authorisation value.
    pub(super) auth: &'a [u8],
}

/// What crosses the bus encrypted: the first parameter, where it is a TPM2B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cover {
    pub(super) command: bool,
    pub(super) response: bool,
}

impl Cover {
    pub(super) const COMMAND: Self = Self {
        command: true,
        response: false,
    };
    pub(super) const RESPONSE: Self = Self {
        command: false,
        response: true,
    };
    pub(super) const BOTH: Self = Self {
        command: true,
        response: true,
    };

    fn attributes(self) -> TpmaSession {
        let flag = |wanted, flag: TpmaSession| if wanted { flag.bits() } else { 0 };
        TpmaSession::from_bits_truncate(
            TpmaSession::CONTINUE_SESSION.bits()
                | flag(self.command, TpmaSession::DECRYPT)
                | flag(self.response, TpmaSession::ENCRYPT),
        )
    }
}

/// An open HMAC session.
pub(super) struct Session {
    handle: TpmHandle,
    key: Secret,
    nonce_tpm: Vec<u8>,
    nonce_caller: [u8; DIGEST],
}

impl Session {
    /// What TPM2_StartAuthSession agreed on.
    pub(super) fn new(
        handle: TpmHandle,
        salt: &Secret,
        nonce_caller: &[u8; DIGEST],
        nonce_tpm: &[u8],
    ) -> Self {
        Self {
            handle,
            key: kdf::kdf_a(salt.as_slice(), b"ATH", nonce_tpm, nonce_caller, 256),
            nonce_tpm: nonce_tpm.to_vec(),
            nonce_caller: *nonce_caller,
        }
    }

    pub(super) fn handle(&self) -> TpmHandle {
        self.handle
    }

    /// The authorisation area of a command on `subjects`, its HMAC still zeros. The first one is authorised by this
    /// session, the others have empty values.
    pub(super) fn area(
        &mut self,
        subjects: usize,
        cover: Cover,
    ) -> Result<Vec<TpmsAuthCommand>, TpmError> {
        self.nonce_caller = nonce()?;
        let mut area = vec![TpmsAuthCommand {
            session_handle: self.handle,
            nonce: Tpm2bNonce::try_from(&self.nonce_caller[..]).map_err(TpmError::wire)?,
            session_attributes: cover.attributes(),
            hmac: Tpm2bAuth::try_from(&[0; DIGEST][..]).map_err(TpmError::wire)?,
        }];
        area.resize(subjects, password());
        Ok(area)
    }

    /// Encrypts the first parameter of a marshalled command, where wanted, and puts the HMAC into it.
    pub(super) fn sign(
        &self,
        command: &mut [u8],
        subjects: &[Subject<'_>],
        cover: Cover,
    ) -> Result<(), TpmError> {
        let area = HEADER + 4 * subjects.len();
        let size = number(command.get(area..area + 4)).ok_or(TpmError::Malformed)?;
        let parameters = area + 4 + size;
        let auth = subjects.first().map_or(&[][..], |subject| subject.auth);
        if cover.command {
            let first = first_parameter(command, parameters)?;
            let data = command.get_mut(first).ok_or(TpmError::Malformed)?;
            let derived = self.cover_key(auth, &self.nonce_caller, &self.nonce_tpm);
            Cfb::of(&derived).encrypt(data)?;
        }
        let code = command.get(6..HEADER).ok_or(TpmError::Malformed)?;
        let mut hashed = vec![code];
        hashed.extend(subjects.iter().map(|subject| subject.name));
        hashed.push(command.get(parameters..).ok_or(TpmError::Malformed)?);
        let digest = kdf::hash(&hashed);
        let tag = kdf::mac(
            &self.mac_key(auth),
            &[
                &digest,
                &self.nonce_caller,
                &self.nonce_tpm,
                &[cover.attributes().bits()],
            ],
        );
        let place = area + 4 + PART - DIGEST;
        command
            .get_mut(place..place + DIGEST)
            .ok_or(TpmError::Malformed)?
            .copy_from_slice(&tag);
        Ok(())
    }

    /// Checks a response's HMAC, and decrypts its first parameter where that was asked for.
    pub(super) fn verify(
        &mut self,
        response: &mut [u8],
        code: u32,
        handles: usize,
        auth: &[u8],
        cover: Cover,
    ) -> Result<(), TpmError> {
        let parameters = HEADER + 4 * handles + 4;
        let size = number(response.get(parameters - 4..parameters)).ok_or(TpmError::Malformed)?;
        let end = parameters + size;
        let part = response
            .get(end..end + PART - 4)
            .ok_or(TpmError::Malformed)?;
        let (nonce, rest) = part.split_at(2 + DIGEST);
        let (attributes, tag) = rest.split_at(1);
        let (nonce, tag) = (
            nonce.strip_prefix(&[0, 32]).ok_or(TpmError::Malformed)?,
            tag.strip_prefix(&[0, 32]).ok_or(TpmError::Malformed)?,
        );
        let body = response.get(parameters..end).ok_or(TpmError::Malformed)?;
        let digest = kdf::hash(&[&[0; 4], &code.to_be_bytes(), body]);
        let signed: [&[u8]; 4] = [&digest, nonce, &self.nonce_caller, attributes];
        if !kdf::is_mac(&self.mac_key(auth), &signed, tag) {
            return Err(TpmError::NotAuthentic);
        }
        self.nonce_tpm = nonce.to_vec();
        if cover.response {
            let derived = self.cover_key(auth, &self.nonce_tpm, &self.nonce_caller);
            let first = first_parameter(response, parameters)?;
            let data = response.get_mut(first).ok_or(TpmError::Malformed)?;
            Cfb::of(&derived).decrypt(data)?;
        }
        Ok(())
    }

    fn mac_key(&self, auth: &[u8]) -> Zeroizing<Vec<u8>> {
        // The TPM keeps a value without the zeros at its end (part 1, 19.6.4.3).
        let zeros = auth.iter().rev().take_while(|byte| **byte == 0).count();
        let auth = auth.get(..auth.len() - zeros).unwrap_or_default();
        Zeroizing::new([self.key.as_slice(), auth].concat())
    }

    fn cover_key(&self, auth: &[u8], newer: &[u8], older: &[u8]) -> Secret {
        kdf::kdf_a(&self.mac_key(auth), b"CFB", newer, older, 256)
    }
}

/// Authorisation by an empty value.
pub(super) fn password() -> TpmsAuthCommand {
    TpmsAuthCommand {
        session_handle: TpmHandle::new(PASSWORD),
        nonce: Tpm2bNonce::default(),
        session_attributes: TpmaSession::CONTINUE_SESSION,
        hmac: Tpm2bAuth::default(),
    }
}

pub(super) fn nonce() -> Result<[u8; DIGEST], TpmError> {
    let mut nonce = [0; DIGEST];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| TpmError::Crypto)?;
    Ok(nonce)
}

/// Where the content of the TPM2B stands that the parameters begin with.
fn first_parameter(bytes: &[u8], parameters: usize) -> Result<Range<usize>, TpmError> {
    let size = bytes
        .get(parameters..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(TpmError::Malformed)?;
    let begin = parameters + 2;
    Ok(begin..begin + usize::from(u16::from_be_bytes(*size)))
}

fn number(bytes: Option<&[u8]>) -> Option<usize> {
    let number = u32::from_be_bytes(*bytes?.first_chunk()?);
    // A size that is greater than everything that crosses the line.
    usize::try_from(number)
        .ok()
        .filter(|number| *number <= super::transport::MAX_SIZE)
}
