//! The attach endpoint: one a domain, on a channel that belongs to it.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use gose_proto::identity::attach::{
    AttachError, Chain, MessageError, SignRequest, ToEndpoint, ToGuest, message_len,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    domain::{Domain, REFILL},
    key::tls13_scheme,
};

/// Time in which a message that began must be complete, and a message that is sent must be taken.
const MESSAGE: Duration = Duration::from_secs(10);

/// Gives the token in form `identity`, for the key in the element that is bound to the domain.
pub trait IdentityTokens: Send + Sync {
    /// The chain of a fresh token. Blocks while elements work.
    ///
    /// # Errors
    /// [`AttachError::NoElement`] or [`AttachError::Element`]; the cause is logged.
    fn identity(&self, domain: &Domain) -> Result<Chain, AttachError>;

    /// The guest has joined: its secret is used up. May block.
    fn joined(&self, _domain: &Domain) {}
}

/// Why a channel ended, other than by the guest's wish.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The channel broke.
    #[error("attach channel: {0}")]
    Io(#[from] io::Error),
    /// The guest does not speak the protocol.
    #[error("attach channel: {0}")]
    Message(#[from] MessageError),
    /// A message was begun and not finished.
    #[error("attach channel: a message was not finished in time")]
    Slow,
}

/// Serves one attach channel of a domain until the guest closes it.
///
/// # Errors
/// [`ChannelError`]; the channel is closed.
pub async fn serve<S>(
    stream: S,
    domain: Arc<Domain>,
    identities: Arc<dyn IdentityTokens>,
) -> Result<(), ChannelError>
where
    S: AsyncRead + AsyncWrite + Send,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut tokens = domain.tokens();
    let mut endpoint = Endpoint {
        domain,
        identities,
        joined: false,
    };
    let mut field = [0; 2];
    let mut read = 0;
    loop {
        tokio::select! {
            biased;
            count = reader.read(&mut field[read..]) => {
                let count = count?;
                if count == 0 && read == 0 {
                    return Ok(());
                } else if count == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                read += count;
                if read < field.len() {
                    continue;
                }
                read = 0;
                let message = rest(&mut reader, field).await?;
                let answer = endpoint.answer(&message);
                send(&mut writer, &answer).await?;
                if matches!(answer, ToGuest::Refused(AttachError::RateLimited)) {
                    // Who floods waits; neither the processor nor the log is its.
                    tokio::time::sleep(REFILL).await;
                }
            }
            changed = tokens.changed(), if endpoint.joined => {
                if changed.is_err() {
                    return Ok(());
                }
                let chain = tokens.borrow_and_update().chain.clone();
                send(&mut writer, &ToGuest::Renewed(chain)).await?;
            }
        }
    }
}

async fn rest(
    reader: &mut (impl AsyncRead + Unpin),
    field: [u8; 2],
) -> Result<Zeroizing<Vec<u8>>, ChannelError> {
    let mut message = Zeroizing::new(vec![0; message_len(field)?]);
    timeout(MESSAGE, reader.read_exact(&mut message))
        .await
        .map_err(|_| ChannelError::Slow)??;
    Ok(message)
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &ToGuest,
) -> Result<(), ChannelError> {
    timeout(MESSAGE, writer.write_all(&message.encode()))
        .await
        .map_err(|_| ChannelError::Slow)??;
    Ok(())
}

/// One channel.
struct Endpoint {
    domain: Arc<Domain>,
    identities: Arc<dyn IdentityTokens>,
    joined: bool,
}

impl Endpoint {
    /// Every refusal is logged with its reason here.
    fn answer(&mut self, message: &[u8]) -> ToGuest {
        let answer = ToEndpoint::parse(message)
            .map_err(|error| {
                tracing::info!(vm = %self.domain.vm(), %error, "attach: malformed message");
                AttachError::Malformed
            })
            .and_then(|request| {
                self.domain.admit(Instant::now())?;
                self.grant(&request)
            });
        answer.unwrap_or_else(|error| {
            tracing::warn!(vm = %self.domain.vm(), code = error.code(), reason = %error, "attach refused");
            ToGuest::Refused(error)
        })
    }

    fn grant(&mut self, request: &ToEndpoint) -> Result<ToGuest, AttachError> {
        match request {
            ToEndpoint::Join(secret) => {
                let next = self.domain.join(secret)?;
                self.joined = true;
                crate::long_step(|| self.identities.joined(&self.domain));
                tracing::info!(vm = %self.domain.vm(), "attach: guest joined");
                let chain = self.domain.token().chain.clone();
                Ok(ToGuest::Joined { next, chain })
            }
            _ if !self.joined => Err(AttachError::NotJoined),
            ToEndpoint::Sign(request) => self.sign_and_count(request),
            ToEndpoint::Identity => {
                crate::long_step(|| self.identities.identity(&self.domain)).map(ToGuest::Identity)
            }
        }
    }

    fn sign_and_count(&self, request: &SignRequest) -> Result<ToGuest, AttachError> {
        let signed = self.sign(request);
        let asked = self.domain.issuer().asked();
        let counter = match signed {
            Ok(_) => &asked.signed,
            Err(_) => &asked.refused,
        };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        signed
    }

    fn sign(&self, request: &SignRequest) -> Result<ToGuest, AttachError> {
        let domain = &self.domain;
        domain
            .check_serial(&request.serial, Instant::now())
            .inspect_err(|_| {
                tracing::warn!(vm = %domain.vm(), asked = %request.serial, "attach: signature asked for a serial that is not this domain's");
            })?;
        let key = domain.issuer().key();
        let scheme = tls13_scheme(key.algorithm(), request.scheme).ok_or(AttachError::Scheme)?;
        let content = request.hash.content();
        let signature = crate::long_step(|| key.sign(scheme, &content)).map_err(|error| {
            tracing::error!(vm = %domain.vm(), %error, "attach: no signature");
            AttachError::Element
        })?;
        tracing::debug!(vm = %domain.vm(), serial = %request.serial, "attach: handshake signed");
        Ok(ToGuest::Signature(signature))
    }
}
