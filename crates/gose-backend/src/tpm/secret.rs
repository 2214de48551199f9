//! Secret keys in a TPM: HMAC by TPM2_HMAC and its sequences, AES by TPM2_EncryptDecrypt2, which not every TPM has.

use std::{fmt, sync::Arc};

use gose_card::keystore::{self, KeyError, SecretAlgorithm, SecretKey};
use tpm2_protocol::{
    basic::TpmHandle,
    data::{Tpm2bAuth, Tpm2bIv, Tpm2bMaxBuffer, TpmAlgId, TpmRh, TpmiYesNo},
    frame::{
        TpmEncryptDecrypt2Command, TpmEncryptDecrypt2Response, TpmHmacCommand, TpmHmacResponse,
        TpmHmacStartCommand, TpmHmacStartResponse, TpmSequenceCompleteCommand,
        TpmSequenceCompleteResponse, TpmSequenceUpdateCommand, TpmSequenceUpdateResponse,
    },
};
use zeroize::Zeroizing;

use super::{
    Tpm, TpmError,
    authorisation::{Cover, Subject},
    client::Client,
    gcm::{self, CounterMode},
    key::{Blob, Loaded},
};

const MAGIC: &[u8] = b"GoSE-TPM\x02";

/// Bytes that a TPM takes at a time (MAX_DIGEST_BUFFER).
const BUFFER: usize = 1024;

/// What the card keeps: `algorithm (1) ‖ blob`.
pub(super) fn encode(algorithm: SecretAlgorithm, blob: &Blob) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([MAGIC, &[algorithm.id()], &blob.encode()].concat())
}

fn decode(bytes: &[u8]) -> Option<(SecretAlgorithm, Blob)> {
    let (algorithm, blob) = bytes.strip_prefix(MAGIC)?.split_first()?;
    Some((SecretAlgorithm::from_id(*algorithm)?, Blob::decode(blob)?))
}

/// A secret key in a TPM.
pub(super) struct TpmSecret {
    algorithm: SecretAlgorithm,
    key: Loaded,
}

impl TpmSecret {
    /// `None` where the bytes are of no secret key.
    pub(super) fn open(tpm: Arc<Tpm>, bytes: &[u8]) -> Option<Self> {
        let (algorithm, blob) = decode(bytes)?;
        Some(Self {
            algorithm,
            key: Loaded::new(tpm, blob),
        })
    }
}

impl fmt::Debug for TpmSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpmSecret({:?})", self.algorithm)
    }
}

impl CounterMode for TpmSecret {
    type Error = KeyError;

    fn apply(&self, counter: [u8; 16], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.key.run(|client, handle, key| {
            let mut out = Zeroizing::new(Vec::with_capacity(data.len()));
            let mut iv_in = Tpm2bIv::try_from(&counter[..]).map_err(TpmError::wire)?;
            for part in data.chunks(BUFFER) {
                let command = TpmEncryptDecrypt2Command {
                    handles: [handle],
                    in_data: Tpm2bMaxBuffer::try_from(part).map_err(TpmError::wire)?,
                    decrypt: TpmiYesNo::from(false),
                    mode: TpmAlgId::Ctr,
                    iv_in,
                };
                let done: TpmEncryptDecrypt2Response =
                    client.call(&command, &[key], Cover::BOTH)?;
                if done.out_data.len() != part.len() {
                    return Err(TpmError::Malformed);
                }
                out.extend_from_slice(&done.out_data);
                iv_in = done.iv_out;
            }
            Ok(out)
        })
    }
}

impl SecretKey for TpmSecret {
    fn algorithm(&self) -> SecretAlgorithm {
        self.algorithm
    }

    fn seal(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        keystore::only_if(self.algorithm.encrypts())?;
        gcm::seal(self, nonce, associated, plaintext)
    }

    fn unseal(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        keystore::only_if(self.algorithm.encrypts())?;
        gcm::open(self, nonce, associated, sealed)?.ok_or(KeyError::Mismatch)
    }

    fn mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        keystore::only_if(self.algorithm == SecretAlgorithm::HmacSha256)?;
        self.key.run(|client, handle, key| {
            let tag = match message.len() {
                ..=BUFFER => short(client, handle, key, message)?,
                _ => long(client, handle, key, message)?,
            };
            tag.as_slice().try_into().map_err(|_| TpmError::Malformed)
        })
    }
}

fn short(
    client: &mut Client,
    handle: TpmHandle,
    key: Subject<'_>,
    message: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let command = TpmHmacCommand {
        handles: [handle],
        buffer: Tpm2bMaxBuffer::try_from(message).map_err(TpmError::wire)?,
        hash_alg: TpmAlgId::Sha256,
    };
    let done: TpmHmacResponse = client.call(&command, &[key], Cover::BOTH)?;
    Ok(done.out_hmac.to_vec())
}

/// By a sequence, which takes a place of its own meanwhile.
fn long(
    client: &mut Client,
    handle: TpmHandle,
    key: Subject<'_>,
    message: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let command = TpmHmacStartCommand {
        handles: [handle],
        auth: Tpm2bAuth::default(),
        hash_alg: TpmAlgId::Sha256,
    };
    let begun: TpmHmacStartResponse = client.call(&command, &[key], Cover::COMMAND)?;
    let sequence = begun.handles[0];
    let tag = fed(client, sequence, message);
    if tag.is_err() {
        // What completes is flushed by the TPM itself.
        client.flush(sequence)?;
    }
    tag
}

fn fed(client: &mut Client, sequence: TpmHandle, message: &[u8]) -> Result<Vec<u8>, TpmError> {
    // A sequence has no name (part 1, 16), and here no authorisation value.
    let subject = Subject {
        name: &[],
        auth: &[],
    };
    let mut parts = message.chunks(BUFFER).peekable();
    while let Some(part) = parts.next() {
        let buffer = Tpm2bMaxBuffer::try_from(part).map_err(TpmError::wire)?;
        let handles = [sequence];
        if parts.peek().is_some() {
            let command = TpmSequenceUpdateCommand { handles, buffer };
            let _: TpmSequenceUpdateResponse = client.call(&command, &[subject], Cover::COMMAND)?;
        } else {
            let command = TpmSequenceCompleteCommand {
                handles,
                buffer,
                hierarchy: TpmRh::Null,
            };
            let done: TpmSequenceCompleteResponse =
                client.call(&command, &[subject], Cover::BOTH)?;
            return Ok(done.result.to_vec());
        }
    }
    Err(TpmError::Malformed)
}
