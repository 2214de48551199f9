//! `gose-eap/1` between a guest and the authentication server: frame by frame up to EAP-Success, then
//! bytes that nobody here reads.

use std::{io, sync::Arc, time::Duration};

use gose_proto::identity::eap_frames::{self, End, FrameError, Next};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Time for one frame in the lock-step.
pub const STEP: Duration = Duration::from_secs(60);

/// Time to connect to the authentication server, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// How a relayed conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// EAP-Success; then so many bytes went to the server and to the guest.
    Success {
        /// From the guest.
        up: u64,
        /// From the server.
        down: u64,
    },
    /// EAP-Failure.
    Failure,
    /// One side closed before a verdict.
    Closed,
}

/// Why a relayed conversation broke.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The guest's stream.
    #[error("the guest's end: {0}")]
    Guest(FrameFault),
    /// The authentication server's stream.
    #[error("the authentication server's end: {0}")]
    Server(FrameFault),
    /// The stream after EAP-Success.
    #[error("after EAP-Success: {0}")]
    Stream(io::Error),
}

/// Why no frame came or went.
#[derive(Debug, thiserror::Error)]
pub enum FrameFault {
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No frame within 60 s.
    #[error("no frame within 60 s")]
    Slow,
}

/// The authentication server, where `gose-eap/1` of guests goes.
pub(super) struct Upstream {
    pub(super) node: String,
    pub(super) name: ServerName<'static>,
    pub(super) config: Arc<ClientConfig>,
}

impl Upstream {
    pub(super) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connect = async {
            let tcp = TcpStream::connect(&self.node).await?;
            tcp.set_nodelay(true)?;
            let connector = TlsConnector::from(self.config.clone());
            connector.connect(self.name.clone(), tcp).await
        };
        timeout(CONNECT, connect).await?
    }
}

/// Relays a conversation until it ends. The server speaks first.
///
/// # Errors
/// [`RelayError`]; both streams are to be closed.
pub async fn relay<G, S>(guest: &mut G, server: &mut S) -> Result<Relayed, RelayError>
where
    G: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let Some(packet) = receive(server).await.map_err(RelayError::Server)? else {
            let _ = close(guest).await;
            return Ok(Relayed::Closed);
        };
        send(guest, &packet).await.map_err(RelayError::Guest)?;
        match eap_frames::end(&packet) {
            Some(End::Success) => break,
            Some(End::Failure) => return Ok(Relayed::Failure),
            None => {}
        }
        let Some(packet) = receive(guest).await.map_err(RelayError::Guest)? else {
            let _ = close(server).await;
            return Ok(Relayed::Closed);
        };
        send(server, &packet).await.map_err(RelayError::Server)?;
    }
    let copied = copy_bidirectional(guest, server).await;
    let (up, down) = copied.map_err(RelayError::Stream)?;
    Ok(Relayed::Success { up, down })
}

/// The next packet, within [`STEP`]; `None` when the other end closes.
///
/// # Errors
/// [`FrameFault`].
pub async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, FrameFault> {
    let frame = async {
        let mut field = [0; 2];
        stream.read_exact(&mut field).await?;
        let Next::Packet(length) = eap_frames::next(field)? else {
            return Ok(None);
        };
        let mut packet = vec![0; length];
        stream.read_exact(&mut packet).await?;
        eap_frames::check(&packet)?;
        Ok(Some(packet))
    };
    timeout(STEP, frame).await.map_err(|_| FrameFault::Slow)?
}

/// Sends a packet, within [`STEP`].
///
/// # Errors
/// [`FrameFault`].
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), packet: &[u8]) -> Result<(), FrameFault> {
    let frame = eap_frames::encode(packet)?;
    write(stream, &frame).await
}

/// Says that no further packet comes.
///
/// # Errors
/// [`FrameFault`].
pub async fn close(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), FrameFault> {
    write(stream, &eap_frames::CLOSE).await
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), FrameFault> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    Ok(timeout(STEP, written)
        .await
        .map_err(|_| FrameFault::Slow)??)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const REQUEST: [u8; 5] = [1, 7, 0, 5, 1];
    const RESPONSE: [u8; 6] = [2, 7, 0, 6, 1, b'x'];
    const SUCCESS: [u8; 4] = [3, 7, 0, 4];
    const FAILURE: [u8; 4] = [4, 7, 0, 4];

    /// A relay between two ends.
    fn relayed() -> (
        DuplexStream,
        DuplexStream,
        tokio::task::JoinHandle<Result<Relayed, RelayError>>,
    ) {
        let (guest, mut guest_end) = duplex(64);
        let (server, mut server_end) = duplex(64);
        let task = tokio::spawn(async move { relay(&mut guest_end, &mut server_end).await });
        (guest, server, task)
    }

    #[tokio::test]
    async fn success_opens_the_stream() {
        let (mut guest, mut server, task) = relayed();
        send(&mut server, &REQUEST).await.unwrap();
        assert_eq!(receive(&mut guest).await.unwrap().unwrap(), REQUEST);
        send(&mut guest, &RESPONSE).await.unwrap();
        assert_eq!(receive(&mut server).await.unwrap().unwrap(), RESPONSE);
        send(&mut server, &SUCCESS).await.unwrap();
        assert_eq!(receive(&mut guest).await.unwrap().unwrap(), SUCCESS);
        // what looks like a frame no more is one
        guest.write_all(&[0xFF, 0xFF, 0xFF]).await.unwrap();
        let mut bytes = [0; 3];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0xFF; 3]);
        server.write_all(b"ok").await.unwrap();
        drop(server);
        let mut rest = Vec::new();
        guest.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"ok");
        drop(guest);
        let ended = task.await.unwrap().unwrap();
        assert_eq!(ended, Relayed::Success { up: 3, down: 2 });
    }

    #[tokio::test]
    async fn failure_and_close_end() {
        let (mut guest, mut server, task) = relayed();
        send(&mut server, &FAILURE).await.unwrap();
        assert_eq!(receive(&mut guest).await.unwrap().unwrap(), FAILURE);
        assert_eq!(task.await.unwrap().unwrap(), Relayed::Failure);

        let (mut guest, mut server, task) = relayed();
        send(&mut server, &REQUEST).await.unwrap();
        receive(&mut guest).await.unwrap();
        close(&mut guest).await.unwrap();
        assert!(receive(&mut server).await.unwrap().is_none());
        assert_eq!(task.await.unwrap().unwrap(), Relayed::Closed);
    }

    #[tokio::test]
    async fn lengths_that_lie_break_it() {
        let (mut guest, mut server, task) = relayed();
        send(&mut server, &REQUEST).await.unwrap();
        receive(&mut guest).await.unwrap();
        guest.write_all(&[0x20, 0x00]).await.unwrap();
        let ended = task.await.unwrap();
        assert!(matches!(
            ended,
            Err(RelayError::Guest(FrameFault::Frame(_)))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let (_guest, _server, task) = relayed();
        let ended = task.await.unwrap();
        assert!(matches!(ended, Err(RelayError::Server(FrameFault::Slow))));
    }
}
