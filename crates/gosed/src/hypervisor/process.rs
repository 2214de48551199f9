//! Driver `process`: a guest is a process that this node starts, with one inherited socket.
//!
//! The domain of every further socket is known before its first byte, because it is passed over the
//! guest's own control socket. There is no path that another guest could open.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use gose_client::guest::{Request, serve_request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

use super::driver::Sockets;

/// Time that a guest may take to read its join record or a socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest that runs.
pub struct Guest {
    child: Child,
}

/// The node's end of a guest's control socket.
pub struct ControlSocket(UnixStream);

/// Starts a guest. Its standard input is its control socket; it inherits the node's standard output and
/// error, no environment but PATH, and no other descriptor.
///
/// # Errors
/// What the system says.
pub fn start(argv: &[String]) -> io::Result<(Guest, ControlSocket)> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let control = ControlSocket(UnixStream::from_std(ours)?);
    Ok((Guest { child }, control))
}

impl Guest {
    /// The process.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What the system says.
    pub async fn ended(&mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    /// Kills it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

impl ControlSocket {
    /// Takes the node's end of a socket pair.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// Sends the join record, then gives sockets until the guest is gone.
    ///
    /// # Errors
    /// What the system says; `InvalidData` if the guest asks for something else.
    pub async fn serve(mut self, record: &[u8], sockets: Arc<dyn Sockets>) -> io::Result<()> {
        timeout(PATIENCE, self.0.write_all(record)).await??;
        loop {
            let mut byte = [0];
            if self.0.read(&mut byte).await? == 0 {
                return Ok(());
            }
            let request = Request::from_byte(byte[0])
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            let (ours, theirs) = StdStream::pair()?;
            ours.set_nonblocking(true)?;
            let taken = sockets.serve(request, Box::new(UnixStream::from_std(ours)?));
            let answer = taken.then(|| OwnedFd::from(theirs));
            let sent = self.0.async_io(Interest::WRITABLE, || {
                serve_request(&self.0, request, answer.as_ref())
            });
            timeout(PATIENCE, sent).await??;
        }
    }
}
