//! RADIUS over TLS (RFC 6614; RFC 6613 for the stream). DTLS (RFC 7360) is absent: rustls has none.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use gose_proto::radius::{
    Secret,
    packet::MAX_PACKET,
    server::{Client, Origin, Service},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    StartError,
    front::{Channel, Front},
};
use crate::{
    clock::Clock,
    config::{self, Caller},
    grid::{Grid, Names},
    keys,
    listen::{
        Handlers,
        admission::{Admission, Tokens},
        tls::{self, TlsError},
    },
};

/// Answers that may wait for a client that reads slowly; then its connection ends.
const QUEUE: usize = 256;

/// Time for a handshake, and for a client to take an answer.
const STEP: Duration = Duration::from_secs(10);

/// What every connection uses.
pub(super) struct Listener {
    acceptor: TlsAcceptor,
    admission: Arc<Admission>,
    callers: Vec<Caller>,
    front: Arc<Front>,
    connections: usize,
    idle: Duration,
}

struct Stream(mpsc::Sender<Vec<u8>>);

impl Channel for Stream {
    fn send(&self, _to: Origin, bytes: &[u8]) {
        // The writer sees a full queue as a closed one: see `write`.
        if self.0.try_send(bytes.to_vec()).is_err() {
            tracing::debug!("an answer was not sent");
        }
    }
}

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The node's TLS, with the section's own authorities.
fn settings(section: &config::RadSec, node: &config::Tls) -> config::Tls {
    let mut own = node.clone();
    own.client_anchor_files = Vec::new();
    own.user_anchor_files.clone_from(&section.anchor_files);
    own.danger_tls12 = false;
    own
}

/// Reads what the section names.
pub(super) fn check(section: &config::RadSec, node: &config::Tls) -> Result<(), TlsError> {
    tls::admission(&settings(section, node), Tokens::default()).map(drop)
}

impl Listener {
    /// The certificate is the node's, the clients' authorities are the section's own.
    pub(super) fn new(
        section: &config::RadSec,
        node: &config::Tls,
        grid: &Arc<Grid>,
        front: Arc<Front>,
    ) -> Result<Self, StartError> {
        let own = settings(section, node);
        let identity = crate::long_step(|| keys::identity(grid, &own))?;
        let loaded = tls::load(&own, &identity, &Handlers::default(), Tokens::default())?;
        let mut server = (*loaded.server).clone();
        // RADIUS over TLS offers no ALPN (RFC 6614); radius/1.1 (RFC 9765) is another protocol.
        server.alpn_protocols.clear();
        Ok(Self {
            acceptor: Arc::new(server).into(),
            admission: loaded.admission,
            callers: section
                .clients
                .iter()
                .map(|caller| caller.0.clone())
                .collect(),
            front,
            connections: section.connections as usize,
            idle: section.idle_s.duration(),
        })
    }

    pub(super) async fn serve(self, socket: TcpListener) {
        let permits = Arc::new(Semaphore::new(self.connections));
        let listener = Arc::new(self);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match socket.accept().await {
                Ok((tcp, from)) => {
                    let listener = listener.clone();
                    connections.spawn(async move {
                        if let Err(reason) = listener.connection(tcp, from).await {
                            tracing::info!(%from, %reason, "RADIUS over TLS: connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, tcp: TcpStream, from: SocketAddr) -> Result<(), String> {
        let _ = tcp.set_nodelay(true);
        let accepted = timeout(STEP, self.acceptor.accept(tcp)).await;
        let stream = accepted
            .map_err(|_| "the handshake took too long")?
            .map_err(|error| error.to_string())?;
        let name = self.admit(&stream)?;
        tracing::info!(client = name, %from, "RADIUS over TLS: connection begins");
        let secret = Secret::new(Secret::RADSEC.to_vec()).ok_or("no secret")?;
        let client = Arc::new(Client {
            name,
            secret,
            disconnect_port: None,
        });
        let (reader, writer) = tokio::io::split(stream);
        let (answers, queue) = mpsc::channel(QUEUE);
        let channel = self.front.open(Arc::new(Stream(answers)));
        let origin = Origin {
            address: from,
            channel,
            service: Service::Both,
        };
        let ended = tokio::select! {
            ended = self.read(reader, origin, &client) => ended,
            ended = write(writer, queue) => ended,
        };
        self.front.close(channel);
        ended
    }

    /// The name of a client that may ask.
    fn admit(&self, stream: &TlsStream<TcpStream>) -> Result<String, String> {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let admitted = self
            .admission
            .admit(chain, Clock::now())
            .map_err(|error| error.to_string())?;
        let names = admitted.names;
        let may = self.callers.iter().any(|caller| match caller {
            Caller::Anybody => true,
            Caller::Named(name) => names.is(name),
        });
        match (&names, may) {
            (Names::Certified(all), true) if !all.is_empty() => Ok(all[0].to_string()),
            _ => Err("not among the clients of radsec".into()),
        }
    }

    async fn read(
        &self,
        mut reader: ReadHalf<TlsStream<TcpStream>>,
        origin: Origin,
        client: &Arc<Client>,
    ) -> Result<(), String> {
        let mut packet = Vec::with_capacity(MAX_PACKET);
        loop {
            let mut head = [0; 4];
            match timeout(self.idle, reader.read_exact(&mut head)).await {
                Err(_) => return Err("silent for too long".into()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(read) => read.map_err(|error| error.to_string())?,
            };
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            // Where the next packet begins is not known then: the connection ends (RFC 6613, 2.6.4).
            if !(20..=MAX_PACKET).contains(&length) {
                return Err(format!("a packet of {length} bytes"));
            }
            packet.clear();
            packet.extend_from_slice(&head);
            packet.resize(length, 0);
            let rest = timeout(STEP, reader.read_exact(&mut packet[4..])).await;
            rest.map_err(|_| "half a packet")?
                .map_err(|error| error.to_string())?;
            self.front.receive(origin, client, &packet);
        }
    }
}

async fn write(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> Result<(), String> {
    while let Some(bytes) = queue.recv().await {
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        let written = timeout(STEP, written)
            .await
            .map_err(|_| "the client does not read")?;
        written.map_err(|error| error.to_string())?;
    }
    Ok(())
}
