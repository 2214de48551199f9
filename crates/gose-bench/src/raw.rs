//! The raw limit: a TLS 1.3 server with client certificates that answers every so many bytes with so many bytes,
//! by the same library and runtime as the daemon's.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// One ping: bytes in, bytes out.
#[derive(Clone, Copy)]
pub(crate) struct Ping {
    /// Bytes of a request.
    pub(crate) request: usize,
    /// Bytes of its answer.
    pub(crate) answer: usize,
}

/// Answers each `ping.request` bytes by `ping.answer` bytes, one write for all that have arrived.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    ping: Ping,
) -> std::io::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut stream = acceptor.accept(tcp).await?;
            let mut buffer = vec![0; 16 * 1024];
            let answers = vec![b'x'; ping.answer * (buffer.len() / ping.request + 1)];
            let mut pending = 0;
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return stream.shutdown().await;
                }
                pending += n;
                let complete = pending / ping.request;
                pending %= ping.request;
                if complete > 0 {
                    stream.write_all(&answers[..complete * ping.answer]).await?;
                    stream.flush().await?;
                }
            }
        });
    }
}
