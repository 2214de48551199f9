//! `gose-eap/1`: conversations that hypervisors carry for their guests, and what is served on the session that
//! the elements made.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use gose_client::record::{ContentType, Exported, Opened, Opener, RecordError, Side, host_layer};
use gose_element::drive::eap_tls::{self, SessionKeys, scripts};
use gose_proto::eap::{Code, Packet, PacketError, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Conversation, EapConversation, Pool, Success, Turn};
use crate::{
    config::{Caller, Service},
    grid::Names,
    hypervisor::eap_relay::{FrameFault, receive, send},
    listen::{BoxedStream, Connection, Handler},
};

/// Identifier of the first request.
const FIRST: u8 = 1;

/// Time without a byte in phase 3.
const IDLE: Duration = Duration::from_secs(60);

/// Records of one read that an element gets in one script.
const RECORDS: usize = 16;

/// Serves `gose-eap/1`.
pub struct EapChannel {
    pool: Arc<Pool>,
    terms: ArcSwap<Terms>,
}

/// Whom it serves, and with what.
struct Terms {
    callers: Vec<Caller>,
    service: Service,
}

/// Why a conversation ended without EAP-Success, or its session broke.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("frame: {0}")]
    Frame(#[from] FrameFault),
    #[error("not an EAP packet: {0}")]
    Packet(#[from] PacketError),
    #[error("{0}")]
    Refused(String),
    #[error("the peer closed the conversation")]
    Closed,
    #[error("stream: {0}")]
    Stream(#[from] io::Error),
    #[error("record: {0}")]
    Record(#[from] RecordError),
    #[error("element: {0}")]
    Element(#[from] eap_tls::Error),
    #[error("silent for 60 s")]
    Idle,
}

impl EapChannel {
    /// Serves these callers with the elements of a pool.
    #[must_use]
    pub fn new(pool: Arc<Pool>, callers: Vec<Caller>, service: Service) -> Self {
        Self {
            pool,
            terms: ArcSwap::from_pointee(Terms { callers, service }),
        }
    }

    /// Conversations that begin from now on are these callers', with this service.
    pub fn reload(&self, callers: Vec<Caller>, service: Service) {
        self.terms.store(Arc::new(Terms { callers, service }));
    }

    fn admits(&self, names: &Names) -> bool {
        self.terms.load().callers.iter().any(|caller| match caller {
            Caller::Anybody => true,
            Caller::Named(name) => names.is(name),
        })
    }

    /// One conversation; its record is one line of the log, without secrets.
    async fn converse(&self, connection: &mut Connection) {
        let caller = connection.peer.to_string();
        if !self.admits(&connection.peer.names) {
            tracing::warn!(
                caller,
                "refused: not among the authentication server's callers"
            );
            return;
        }
        let names = connection.peer.names.to_string();
        let stream = &mut connection.stream;
        let (identity, answered) = match self.authenticate(stream, &names).await {
            Ok(authenticated) => authenticated,
            Err(reason) => {
                tracing::info!(caller, %reason, verdict = "failure", "EAP conversation");
                return;
            }
        };
        let (conversation, success) = answered;
        let element = conversation.element();
        tracing::info!(
            caller,
            identity,
            element,
            peer = success.peer,
            verdict = "success",
            version = format!("{:04X}", success.facts.version),
            suite = format!("{:04X}", success.facts.suite),
            resumed = success.facts.resumed,
            "EAP conversation"
        );
        if let Err(reason) = self.serve_session(stream, conversation, &success).await {
            tracing::info!(caller, peer = success.peer, %reason, "session after EAP-Success ended");
        }
    }

    /// Up to EAP-Success, which is not sent yet.
    async fn authenticate(
        &self,
        stream: &mut BoxedStream,
        caller: &str,
    ) -> Result<(String, (Conversation, Box<Success>)), Broken> {
        send(
            stream,
            &Packet::request(FIRST, Type::IDENTITY, &[]).encode(),
        )
        .await?;
        let mut response = receive(stream).await?.ok_or(Broken::Closed)?;
        let identity = identity(&response)?;
        let mut conversation = match self.pool.conversation(&identity, caller) {
            Ok(conversation) => conversation,
            Err(error) => {
                send(stream, &Packet::failure(FIRST).encode()).await?;
                return Err(Broken::Refused(error.to_string()));
            }
        };
        loop {
            match conversation.receive(&response).await {
                Turn::Request(request) => send(stream, &request).await?,
                Turn::Success(success) => return Ok((identity, (conversation, success))),
                Turn::Failure { packet, reason } => {
                    send(stream, &packet).await?;
                    return Err(Broken::Refused(reason));
                }
                // In lock-step nothing else would come.
                Turn::Discarded => {
                    return Err(Broken::Refused("a response out of turn".to_owned()));
                }
                Turn::Busy => {
                    let identifier = response.get(1).copied().unwrap_or_default();
                    send(stream, &Packet::failure(identifier).encode()).await?;
                    return Err(Broken::Refused("no element is free".to_owned()));
                }
            }
            response = receive(stream).await?.ok_or(Broken::Closed)?;
        }
    }

    /// The keys first, then EAP-Success: a session that nobody could serve is none.
    async fn serve_session(
        &self,
        stream: &mut BoxedStream,
        mut conversation: Conversation,
        success: &Success,
    ) -> Result<(), Broken> {
        let service = self.terms.load().service;
        match service {
            Service::None => Ok(send(stream, &success.packet).await?),
            Service::ElementEcho => {
                send(stream, &success.packet).await?;
                element_echo(stream, &mut conversation).await
            }
            Service::Echo | Service::Discard => {
                let keys = conversation.session_keys().await;
                let keys = keys.map_err(Broken::Refused)?;
                // The element is free for the next conversation.
                drop(conversation);
                send(stream, &success.packet).await?;
                host_service(stream, &keys, service).await
            }
        }
    }
}

impl Handler for EapChannel {
    fn serve(&self, mut connection: Connection) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let stop = connection.stop.clone();
            let evictions = connection.peer.evictions.clone();
            tokio::select! {
                biased;
                () = self.converse(&mut connection) => {}
                () = stop.stopped() => tracing::info!("EAP conversation cut: the node stops"),
                () = ended(&evictions) => tracing::info!("EAP conversation cut: the caller's certificate is no longer good"),
            }
            let _ = timeout(Duration::from_secs(5), connection.stream.shutdown()).await;
        })
    }
}

async fn ended(evictions: &crate::grid::Evictions) {
    while evictions.wait().await != crate::grid::Eviction::End {}
}

/// The name in EAP-Response/Identity (RFC 3748, 5.1).
fn identity(response: &[u8]) -> Result<String, Broken> {
    let (packet, _) = Packet::parse(response)?;
    match (packet.code, packet.kind) {
        (Code::Response, Some(Type::IDENTITY)) => {
            Ok(String::from_utf8_lossy(packet.data).into_owned())
        }
        _ => Err(Broken::Refused("no EAP-Response/Identity".to_owned())),
    }
}

/// Records on the host: [`Service::Echo`], [`Service::Discard`].
async fn host_service(
    stream: &mut BoxedStream,
    keys: &SessionKeys,
    service: Service,
) -> Result<(), Broken> {
    let exported = Exported {
        version: keys.version,
        suite: keys.suite,
        key_block: &keys.key_block,
        client_seq: keys.client_sequence,
        server_seq: keys.server_sequence,
    };
    let (mut sealer, mut opener) = host_layer(Side::Server, &exported)?;
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut total = 0_u64;
    while fill(stream, &mut input).await? {
        let mut at = 0;
        while let Some(record) = whole_record(&mut input, &mut at)? {
            match opener.open(record)? {
                Opened::Data(data) if service == Service::Echo => {
                    sealer.seal(ContentType::ApplicationData, data, &mut output)?;
                }
                Opened::Data(data) => total += data.len() as u64,
                Opened::PostHandshake => {}
                Opened::Alert(description) => {
                    return Err(Broken::Refused(format!("TLS alert {description}")));
                }
                Opened::Close => {
                    if service == Service::Discard {
                        let length = total.to_be_bytes();
                        sealer.seal(ContentType::ApplicationData, &length, &mut output)?;
                    }
                    sealer.close(&mut output)?;
                    return write(stream, &mut output).await;
                }
            }
        }
        input.drain(..at);
        write(stream, &mut output).await?;
    }
    Ok(())
}

/// Records in the element: [`Service::ElementEcho`].
async fn element_echo(
    stream: &mut BoxedStream,
    conversation: &mut Conversation,
) -> Result<(), Broken> {
    let mut input = Vec::new();
    while fill(stream, &mut input).await? {
        let mut at = 0;
        loop {
            let mut records = Vec::new();
            while records.len() < RECORDS
                && let Some(record) = whole_record(&mut input, &mut at)?
            {
                records.push(record.to_vec());
            }
            if records.is_empty() {
                break;
            }
            let payloads = convert(conversation, &records, DECRYPT).await?;
            let payloads: Vec<_> = payloads
                .into_iter()
                .filter(|data| !data.is_empty())
                .collect();
            let mut sealed = convert(conversation, &payloads, scripts::APPLICATION_DATA)
                .await?
                .concat();
            write(stream, &mut sealed).await?;
        }
        input.drain(..at);
    }
    Ok(())
}

/// P2 of Process-EAP-Decrypt.
const DECRYPT: u8 = 0;

async fn convert(
    conversation: &mut Conversation,
    inputs: &[Vec<u8>],
    p2: u8,
) -> Result<Vec<Vec<u8>>, Broken> {
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut outputs = Vec::new();
    for group in scripts::groups(&inputs) {
        let script = scripts::convert(group, p2);
        let outcomes = conversation.use_element(script.clone()).await;
        let outcomes = outcomes.map_err(Broken::Refused)?;
        outputs.extend(scripts::told(&outcomes, &script, "record")?);
    }
    Ok(outputs)
}

/// Reads what has arrived; `false` at the end of the stream.
async fn fill(stream: &mut BoxedStream, input: &mut Vec<u8>) -> Result<bool, Broken> {
    const CHUNK: usize = 64 * 1024;
    input.reserve(CHUNK);
    let read = timeout(IDLE, stream.read_buf(input)).await;
    Ok(read.map_err(|_| Broken::Idle)?? > 0)
}

/// The whole record at `at`, which moves behind it.
fn whole_record<'a>(
    input: &'a mut [u8],
    at: &mut usize,
) -> Result<Option<&'a mut [u8]>, RecordError> {
    let rest = &mut input[*at..];
    match Opener::record_length(rest)? {
        Some(length) if rest.len() >= length => {
            *at += length;
            Ok(Some(&mut rest[..length]))
        }
        _ => Ok(None),
    }
}

async fn write(stream: &mut BoxedStream, output: &mut Vec<u8>) -> Result<(), Broken> {
    let written = async {
        stream.write_all(output).await?;
        stream.flush().await
    };
    timeout(IDLE, written).await.map_err(|_| Broken::Idle)??;
    output.clear();
    Ok(())
}
