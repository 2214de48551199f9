//! The admin socket: for the daemon's own user, before and beside certificates.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use super::{ADMIN, Handlers, Sessions, Stop, handler::speak};
use crate::{
    config::Limits,
    grid::{Grid, Names, Peer},
    metrics::Metrics,
};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// Bytes that are read at once.
const BUFFER: usize = 4096;

/// The listener of the admin socket. The socket's file goes with it.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens at a path, mode 0600 from the first moment. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrInUse`] if another daemon listens there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before it listens.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, 16)?;
        Ok(Self {
            listener: UnixListener::from_std(socket.into())?,
            path: path.to_owned(),
        })
    }

    /// Serves until the node stops.
    pub(crate) async fn serve(self, shared: AdminShared, stop: Stop) {
        let shared = Arc::new(shared);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.stopped() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, shared.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "admin socket: a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let all = async { while connections.join_next().await.is_some() {} };
        let limit = shared.limits.load().drain_timeout_s.duration();
        let _ = timeout(limit, all).await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What every connection to the admin socket uses.
pub(crate) struct AdminShared {
    pub(crate) grid: Arc<Grid>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) handlers: Handlers,
    pub(crate) limits: Arc<ArcSwap<Limits>>,
}

async fn connection(stream: UnixStream, shared: Arc<AdminShared>, stop: Stop) {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(credentials) if credentials.uid() == own => {}
        Ok(credentials) => {
            tracing::warn!(
                uid = credentials.uid(),
                "refused: the admin socket serves the daemon's own user"
            );
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "refused: the admin socket's peer is not known");
            return;
        }
    }
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    let limit = shared.limits.load().idle_timeout_s.duration();
    let first = match timeout(limit, stream.fill_buf()).await {
        Ok(Ok([first, ..])) => *first,
        _ => return,
    };
    let peer = Peer::new(shared.grid.new_sid(), Names::Operator);
    let registered = shared.sessions.register(&peer, &[]);
    Metrics::add(&shared.grid.metrics().sessions);
    tracing::info!(peer = %peer, "session begins");
    // A length of four bytes, which is never so large that its first byte is not 00.
    let handler = shared.handlers.get(ADMIN).filter(|_| first == 0x00);
    let limits = shared.limits.load_full();
    let with = (&shared.grid, &*limits);
    speak(stream, handler, (peer, None), with, stop).await;
    drop(registered);
}
