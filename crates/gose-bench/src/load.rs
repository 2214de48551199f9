//! The load of one measurement: connections that ping and wait, over TLS on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What every connection does until the time is over.
#[derive(Clone)]
pub(crate) struct Exchange {
    /// Written at the start, again while the element is still held by the connection before.
    pub(crate) opening: Vec<u8>,
    /// Bytes that answer the opening when it succeeds.
    pub(crate) opening_answer: usize,
    /// Written again and again, each time in one write.
    pub(crate) request: Vec<u8>,
    /// Bytes that answer one request.
    pub(crate) answer: usize,
    /// APDUs (or pings) that one request stands for.
    pub(crate) weight: u64,
}

/// What a measurement came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// APDUs (or pings) a second, over all connections.
    pub(crate) per_second: f64,
    /// What `used` grew by an APDU (or ping).
    pub(crate) used: f64,
}

/// Where to and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl Target {
    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(self.tls.clone())
            .connect(self.name.clone(), tcp)
            .await
    }
}

/// Runs one exchange on each connection for `time`, after a tenth of it as warm-up. `used` is a meter that is read
/// before and after.
pub(crate) async fn run(
    target: &Target,
    exchanges: Vec<Exchange>,
    time: Duration,
    used: impl Fn() -> f64,
) -> std::io::Result<Rate> {
    let counted = Arc::new(AtomicU64::new(0));
    let counting = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for exchange in exchanges {
        let mut stream = target.connect().await?;
        let (counted, counting, over) = (counted.clone(), counting.clone(), over.clone());
        tasks.push(tokio::spawn(async move {
            open(&mut stream, &exchange).await?;
            let mut buffer = vec![0; exchange.answer];
            while !over.load(Ordering::Relaxed) {
                stream.write_all(&exchange.request).await?;
                stream.flush().await?;
                let answer = stream.read_exact(&mut buffer);
                timeout(PATIENCE, answer).await.map_err(|_| silent())??;
                if counting.load(Ordering::Relaxed) {
                    counted.fetch_add(exchange.weight, Ordering::Relaxed);
                }
            }
            // The answers are counted; how the connection ends does not matter.
            let _ = stream.shutdown().await;
            Ok::<(), std::io::Error>(())
        }));
    }
    tokio::time::sleep(time / 10).await;
    counting.store(true, Ordering::Relaxed);
    let (start, before) = (Instant::now(), used());
    tokio::time::sleep(time).await;
    let count = counted.load(Ordering::Relaxed) as f64;
    let per_second = count / start.elapsed().as_secs_f64();
    let used = (used() - before) / count;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.map_err(std::io::Error::other)??;
    }
    Ok(Rate { per_second, used })
}

/// What repeated flights came to.
pub(crate) struct Flights {
    /// Requests that were written, each after the answer to the one before, for one flight.
    pub(crate) round_trips: u64,
    /// Time for one.
    pub(crate) each: Duration,
}

/// Sends a flight again and again on a connection of its own, for `time`; each one's last answer must be `verdict`.
pub(crate) async fn flights(
    target: &Target,
    exchange: &Exchange,
    requests: &[String],
    verdict: &str,
    time: Duration,
) -> std::io::Result<Flights> {
    let mut stream = target.connect().await?;
    open(&mut stream, exchange).await?;
    let mut answer = vec![0; exchange.answer];
    let (mut turns, mut done) = (0, 0);
    let start = Instant::now();
    while done == 0 || start.elapsed() < time {
        for request in requests {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            let read = stream.read_exact(&mut answer);
            timeout(PATIENCE, read).await.map_err(|_| silent())??;
            turns += 1;
        }
        if answer != verdict.as_bytes() {
            let answer = String::from_utf8_lossy(&answer);
            return Err(std::io::Error::other(format!(
                "a flight ends in {answer:?}"
            )));
        }
        done += 1;
    }
    let each = start.elapsed() / done;
    let _ = stream.shutdown().await;
    Ok(Flights {
        round_trips: turns / u64::from(done),
        each,
    })
}

/// How long an answer may take before the run counts as broken.
const PATIENCE: Duration = Duration::from_secs(20);

fn silent() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "a server does not answer")
}

/// Sends the opening until it is answered as it should be: another answer is a refusal, since the element may
/// still be held by a connection that has just ended.
async fn open(stream: &mut TlsStream<TcpStream>, exchange: &Exchange) -> std::io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        stream.write_all(&exchange.opening).await?;
        stream.flush().await?;
        let mut answer = vec![0; exchange.opening_answer.max(4096)];
        let mut length = 0;
        while length < exchange.opening_answer && !answer[..length].ends_with(b"END\r\n") {
            let read = stream.read(&mut answer[length..]);
            let n = timeout(PATIENCE, read).await.map_err(|_| silent())??;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            length += n;
        }
        if length == exchange.opening_answer
            && !answer[..length].windows(2).any(|pair| pair == b"\n-")
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(silent())
}
