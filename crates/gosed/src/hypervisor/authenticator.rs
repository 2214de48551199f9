//! The hypervisor as the authenticator of its guests (RFC 3748, 1.2; RFC 3579): EAP on the guest's channel, RADIUS towards
//! the server, and a port that opens with Access-Accept and closes when the session ends.
//!
//! The frames on the guest's channel are those of `gose-eap/1`. A guest that answers Request/Identity by closing the
//! conversation logs off. Nothing here reads what EAP carries; the keys in Access-Accept are not used and are wiped.

mod disconnect;
mod servers;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gose_proto::{
    eap::{Code as EapCode, Packet, Type as EapType},
    hex,
    radius::{Builder, Code, Type, client::Answer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinSet, spawn_blocking},
};

use super::{
    domain::Domain,
    eap_relay::{self, FrameFault},
    port::{Gate, PortError, Ports, Session, Terms, Why},
};
use crate::{
    config::{self, Driver},
    keys::KeyError,
    listen::tls::TlsError,
};
use disconnect::DisconnectPort;
use servers::{NotAsked, Servers};

/// Requests that one authentication may take: a flight of 64 KiB in fragments of 100 bytes, both ways.
const MAX_ROUNDS: usize = 1400;

/// Bytes of an EAP packet that fit a frame and a packet of RADIUS with room to spare.
const FRAMED_MTU: u32 = 1400;

/// NAS-Port-Type (RFC 2865, 5.41): Virtual.
const VIRTUAL: u32 = 5;

/// After a port could not be closed, it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Why the role does not start.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticatorError {
    /// The secret cannot be read.
    #[error(transparent)]
    Secret(#[from] KeyError),
    /// The secret is empty.
    #[error("the secret is empty")]
    EmptySecret,
    /// Certificates for RADIUS over TLS.
    #[error("radsec: {0}")]
    Tls(#[from] TlsError),
    /// Names and anchors for it.
    #[error("radsec: {0}")]
    Client(#[from] gose_client::Error),
    /// The socket for Disconnect-Requests.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The packet filter.
    #[error("the ports of guests cannot be closed: {0}")]
    Ports(io::Error),
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Accepted,
    Rejected,
    LoggedOff,
}

/// Why a conversation broke. The port stays as it is.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the guest's end: {0}")]
    Guest(#[from] FrameFault),
    #[error("the guest closed the conversation")]
    Closed,
    #[error("the guest's packet is no EAP response")]
    NoResponse,
    #[error(transparent)]
    Server(#[from] NotAsked),
    #[error("the server's challenge {0} has no EAP request, or there are too many")]
    Challenge(usize),
    #[error("Access-Accept without EAP-Success")]
    Contradiction,
    #[error("the server's answer: {0}")]
    Terms(&'static str),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("a step of the node was cut short")]
    Cut,
}

/// The role.
pub struct Authenticator {
    servers: Servers,
    nas: String,
    ports: Arc<Ports>,
    verdicts: [AtomicU64; 3],
    _disconnects: JoinSet<()>,
}

impl Authenticator {
    /// Closes all ports, listens for Disconnect-Requests. Blocks; called within a runtime.
    ///
    /// # Errors
    /// [`AuthenticatorError`].
    pub(super) fn start(
        section: &config::Authenticator,
        nas: &str,
        driver: Driver,
        tls: &config::Tls,
        identity: &gose_client::tls::Identity,
    ) -> Result<Self, AuthenticatorError> {
        let secret = servers::secret(section)?;
        let servers = Servers::new(section, secret.as_ref(), tls, identity)?;
        let gate = Gate::new(section.port, section.hook.as_ref());
        let ports = Ports::new(gate, driver).map_err(AuthenticatorError::Ports)?;
        let ports = Arc::new(ports);
        let mut disconnects = JoinSet::new();
        if let (Some(address), Some(secret)) = (section.disconnect, secret) {
            let failed = |error| AuthenticatorError::Listen(address, error);
            let port = DisconnectPort::bind(address, secret, section, nas).map_err(failed)?;
            disconnects.spawn(port.serve(ports.clone()));
        }
        Ok(Self {
            servers,
            nas: nas.to_owned(),
            ports,
            verdicts: Default::default(),
            _disconnects: disconnects,
        })
    }

    /// The ports of guests.
    pub(super) fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }

    /// Conversations by verdict: accepted, rejected, broken.
    #[must_use]
    pub fn verdicts(&self) -> [u64; 3] {
        std::array::from_fn(|at| self.verdicts[at].load(Ordering::Relaxed))
    }

    /// Ports opened and closed since the start, and ports that are open.
    #[must_use]
    pub fn port_counts(&self) -> ([u64; 2], usize) {
        (self.ports.counts(), self.ports.open_now())
    }

    /// One conversation of a guest; its record is one line of the log.
    pub(super) async fn converse(
        &self,
        domain: &Arc<Domain>,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) {
        let mut talk = Talk {
            authenticator: self,
            domain,
            user: Vec::new(),
            number: hex::encode(&crate::radius::fresh::<8>()),
            rounds: 0,
        };
        let ended = talk.run(stream).await;
        let vm = domain.vm();
        let (user, session, rounds) = (
            String::from_utf8_lossy(&talk.user),
            &talk.number,
            talk.rounds,
        );
        let verdict = match ended {
            Ok(ended) => {
                tracing::info!(%vm, %user, session, rounds, verdict = ?ended, "EAP conversation of a guest");
                match ended {
                    Ended::Accepted => 0,
                    Ended::Rejected => 1,
                    Ended::LoggedOff => return,
                }
            }
            Err(error) => {
                tracing::warn!(%vm, %user, session, rounds, %error, "EAP conversation of a guest broke");
                let _ = eap_relay::close(stream).await;
                2
            }
        };
        self.verdicts[verdict].fetch_add(1, Ordering::Relaxed);
    }
}

/// One conversation.
struct Talk<'a> {
    authenticator: &'a Authenticator,
    domain: &'a Arc<Domain>,
    user: Vec<u8>,
    number: String,
    rounds: usize,
}

impl Talk<'_> {
    async fn run(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<Ended, Broken> {
        let identity = Packet::request(1, EapType::IDENTITY, &[]).encode();
        eap_relay::send(stream, &identity).await?;
        let Some(mut response) = eap_relay::receive(stream).await? else {
            self.close(Why::Logoff).await;
            return Ok(Ended::LoggedOff);
        };
        self.user = user(&response)?;
        let mut server = self.authenticator.servers.conversation();
        let mut state: Option<Vec<u8>> = None;
        loop {
            self.rounds += 1;
            let answer = server
                .ask(|identifier| self.request(identifier, &response, state.as_deref()))
                .await?;
            let eap = answer.eap.clone().unwrap_or_default();
            let code = Packet::parse(&eap).map(|(packet, _)| packet.code);
            match (answer.code, code) {
                (Code::AccessAccept, Ok(EapCode::Success)) => {
                    // The port first: who is told of success may send at once.
                    self.open(&answer).await?;
                    eap_relay::send(stream, &eap).await?;
                    return Ok(Ended::Accepted);
                }
                (Code::AccessAccept, _) => return Err(Broken::Contradiction),
                (Code::AccessChallenge, Ok(EapCode::Request)) if self.rounds < MAX_ROUNDS => {
                    eap_relay::send(stream, &eap).await?;
                }
                (Code::AccessReject, code) => {
                    self.close(Why::Rejected).await;
                    match code {
                        Ok(EapCode::Failure) => eap_relay::send(stream, &eap).await?,
                        // The server's word is not made up here (RFC 3579, 2.6.3).
                        _ => eap_relay::close(stream).await?,
                    }
                    return Ok(Ended::Rejected);
                }
                _ => return Err(Broken::Challenge(self.rounds)),
            }
            state = answer.state;
            response = eap_relay::receive(stream).await?.ok_or(Broken::Closed)?;
            if response.first() != Some(&RESPONSE) {
                return Err(Broken::NoResponse);
            }
        }
    }

    fn request(&self, identifier: u8, response: &[u8], state: Option<&[u8]>) -> Builder {
        let vm = self.domain.vm();
        let builder = Builder::new(Code::AccessRequest, identifier)
            .attribute(Type::USER_NAME, &self.user)
            .attribute(Type::NAS_IDENTIFIER, self.authenticator.nas.as_bytes())
            .attribute(Type::CALLING_STATION_ID, vm.to_string().as_bytes())
            .integer(Type::NAS_PORT_TYPE, VIRTUAL)
            .attribute(
                Type::NAS_PORT_ID,
                self.authenticator.ports.name(vm).as_bytes(),
            )
            .attribute(Type::ACCT_SESSION_ID, self.number.as_bytes())
            .integer(Type::FRAMED_MTU, FRAMED_MTU)
            .eap(response);
        match state {
            Some(state) => builder.attribute(Type::STATE, state),
            None => builder,
        }
    }

    async fn open(&self, answer: &Answer) -> Result<(), Broken> {
        let terms = terms(answer)?;
        let timeout = session_timeout(answer)?;
        let vm = self.domain.vm();
        let ports = self.authenticator.ports.clone();
        let mut timer = JoinSet::new();
        if let Some(timeout) = timeout {
            let (ports, number) = (ports.clone(), self.number.clone());
            timer.spawn(async move {
                tokio::time::sleep(timeout).await;
                close(ports, vm, Why::TimeOver, move |session| {
                    session.number == number
                })
                .await;
            });
        }
        let session = Session {
            user: self.user.clone(),
            number: self.number.clone(),
            generation: self.domain.generation(),
            _timer: timer,
        };
        let domain = self.domain.clone();
        let opened = spawn_blocking(move || ports.open(&domain, session, &terms)).await;
        opened.map_err(|_| Broken::Cut)??;
        let seconds = timeout.map(|timeout| timeout.as_secs());
        tracing::info!(%vm, session = self.number, ?seconds, "the guest's port is open");
        Ok(())
    }

    async fn close(&self, why: Why) {
        let generation = self.domain.generation();
        let ports = self.authenticator.ports.clone();
        close(ports, self.domain.vm(), why, move |session| {
            session.generation == generation
        })
        .await;
    }
}

/// EAP-Response (RFC 3748, 4).
const RESPONSE: u8 = 2;

/// The name in EAP-Response/Identity, which is User-Name (RFC 3579, 2.1).
fn user(response: &[u8]) -> Result<Vec<u8>, Broken> {
    let (packet, _) = Packet::parse(response).map_err(|_| Broken::NoResponse)?;
    match (packet.code, packet.kind) {
        (EapCode::Response, Some(EapType::IDENTITY)) if packet.data.len() <= 253 => {
            Ok(packet.data.to_vec())
        }
        _ => Err(Broken::NoResponse),
    }
}

/// What Access-Accept asks for. What is not understood is not open.
fn terms(answer: &Answer) -> Result<Terms, Broken> {
    let text = |value: &[u8]| {
        let printable = !value.is_empty() && value.iter().all(|byte| (b' '..=b'~').contains(byte));
        let text = printable.then(|| String::from_utf8_lossy(value).into_owned());
        text.ok_or(Broken::Terms("a filter or a VLAN that is no text"))
    };
    let filter = answer.first(Type::FILTER_ID).map(text).transpose()?;
    // The first byte is a tag where it is below a space (RFC 2868, 3.6).
    let untagged = |value: &[u8]| match value {
        [0..=0x1F, rest @ ..] => text(rest),
        value => text(value),
    };
    let vlan = answer.first(Type::TUNNEL_PRIVATE_GROUP_ID);
    let vlan = vlan.map(untagged).transpose()?;
    Ok(Terms { filter, vlan })
}

fn session_timeout(answer: &Answer) -> Result<Option<Duration>, Broken> {
    let Some(value) = answer.first(Type::SESSION_TIMEOUT) else {
        return Ok(None);
    };
    let seconds = <[u8; 4]>::try_from(value).map(u32::from_be_bytes);
    let seconds = seconds.map_err(|_| Broken::Terms("a Session-Timeout that is no number"))?;
    Ok(Some(Duration::from_secs(seconds.into())))
}

/// Closes the port of a guest whose session matches; tries until it is closed.
pub(super) async fn close(
    ports: Arc<Ports>,
    vm: gose_proto::identity::VmId,
    why: Why,
    matches: impl Fn(&Session) -> bool + Clone + Send + 'static,
) {
    loop {
        let (own, same) = (ports.clone(), matches.clone());
        match spawn_blocking(move || own.close(vm, why, same)).await {
            Ok(Err(error)) => {
                tracing::error!(%vm, %error, "the guest's port is still open; it is tried again");
                tokio::time::sleep(AGAIN).await;
            }
            Ok(Ok(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
