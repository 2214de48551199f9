//! A request on its way to a server and its answer back, as a client has it.

use std::{io, time::Duration};

use gose_proto::radius::{
    PacketError,
    client::{Answer, Exchange, Step},
    packet::MAX_PACKET,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::front::random;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The system's.
    #[error("the network: {0}")]
    Io(#[from] io::Error),
    /// A stream that cannot go on behind what came.
    #[error("the server's stream: {0}")]
    Packet(#[from] PacketError),
    /// No answer in time.
    #[error(
        "no answer after {0} transmissions; compare addresses, clients and secrets of both ends"
    )]
    NoAnswer(u32),
}

/// Sends a request until its answer is there. The socket is connected.
///
/// # Errors
/// [`Unanswered`].
pub async fn over_udp(socket: &UdpSocket, mut exchange: Exchange) -> Result<Answer, Unanswered> {
    let start = Instant::now();
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let [varies] = random();
        let until = match exchange.poll(start.elapsed(), varies) {
            Step::Send(bytes) => {
                match socket.send(bytes).await {
                    // The answer to an earlier packet: nobody listened then. It is tried again.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    sent => drop(sent?),
                }
                continue;
            }
            Step::Wait(until) => start + until,
            Step::GiveUp => return Err(Unanswered::NoAnswer(exchange.sent())),
        };
        match timeout_at(until, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                if let Ok(answer) = exchange.receive(&buffer[..length]) {
                    return Ok(answer);
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tokio::time::sleep_until(until).await;
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
}

/// Sends a request on a stream, once (RFC 6613, 2.6.1), and waits for its answer, so long at most.
///
/// # Errors
/// [`Unanswered`]; the stream is to be closed.
pub async fn over_stream(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut exchange: Exchange,
    patience: Duration,
) -> Result<Answer, Unanswered> {
    let until = Instant::now() + patience;
    let Step::Send(bytes) = exchange.poll(Duration::ZERO, 0) else {
        return Err(Unanswered::NoAnswer(0));
    };
    let bytes = bytes.to_vec();
    let asked = async {
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        loop {
            let mut packet = vec![0; 4];
            stream.read_exact(&mut packet).await?;
            // Its Length field frames a packet (RFC 6613, 2.6).
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            if !(20..=MAX_PACKET).contains(&length) {
                return Err(PacketError::Length(length).into());
            }
            packet.resize(length, 0);
            stream.read_exact(&mut packet[4..]).await?;
            // An answer to something else; or one that lies.
            if let Ok(answer) = exchange.receive(&packet) {
                return Ok(answer);
            }
        }
    };
    timeout_at(until, asked)
        .await
        .map_err(|_| Unanswered::NoAnswer(1))?
}
