//! A byte stream with time limits: a socket, with TLS or without, that can read while it writes.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use crate::Error;

/// Anything with a descriptor that can be waited on: TCP, Unix and vsock sockets, one half of a pair.
pub trait Socket: Read + Write + AsFd + Send {}

impl<T: Read + Write + AsFd + Send> Socket for T {}

/// A socket, with TLS above it or without.
///
/// `Read` and `Write` block until the time limit of [`Link::set_timeout`].
pub struct Link {
    socket: Quiet,
    tls: Option<Box<ClientConnection>>,
    /// Plaintext that arrived and was not yet read.
    arrived: Zeroizing<Vec<u8>>,
    /// How much of `arrived` was read.
    read: usize,
    end: bool,
    timeout: Duration,
}

/// Bytes read at once from a socket without TLS.
const CHUNK: usize = 8192;

/// Time limit of `Read` and `Write` unless another is set.
const TIMEOUT: Duration = Duration::from_secs(65);

impl Link {
    /// A socket as it is. It is set to non-blocking.
    ///
    /// # Errors
    /// The system's.
    pub fn plain(socket: impl Socket + 'static) -> io::Result<Self> {
        ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: Quiet(Box::new(socket)),
            tls: None,
            arrived: Zeroizing::default(),
            read: 0,
            end: false,
            timeout: TIMEOUT,
        })
    }

    /// TLS over a socket, the handshake done.
    ///
    /// # Errors
    /// [`Error::Tls`] when one side does not accept the other, [`Error::Connect`] when the socket
    /// fails or `timeout` passes.
    pub fn tls(
        socket: impl Socket + 'static,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let address = name.to_str().into_owned();
        let connect = |cause| Error::Connect {
            address: address.clone(),
            cause,
        };
        let mut link = Self::plain(socket).map_err(connect)?;
        link.tls = Some(Box::new(ClientConnection::new(config, name)?));
        let deadline = Instant::now() + timeout;
        while link.is_handshaking() {
            let outcome = link.flush_some().and_then(|()| {
                if link.end {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if link.is_handshaking() {
                    link.wait(false, deadline)?;
                    link.fill()?;
                }
                Ok(())
            });
            outcome.map_err(|error| {
                error
                    .downcast::<rustls::Error>()
                    .map_or_else(connect, Error::Tls)
            })?;
        }
        link.flush_some().map_err(connect)?;
        Ok(link)
    }

    /// The time limit of `Read` and `Write`.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The TLS connection, for its peer's certificates, ALPN and exporters.
    #[must_use]
    pub fn tls_connection(&self) -> Option<&ClientConnection> {
        self.tls.as_deref()
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Hands over as much as the socket takes now; gives how much that was.
    pub(crate) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.tls {
            // Takes as much as its buffer holds.
            Some(tls) => tls.writer().write(bytes)?,
            None => match self.socket.write(bytes) {
                Ok(written) => written,
                Err(error) if is_transient(&error) => 0,
                Err(error) => return Err(error),
            },
        };
        self.flush_some()?;
        Ok(written)
    }

    /// Sends encrypted bytes until the socket takes no more.
    fn flush_some(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether bytes wait for the socket to take them.
    pub(crate) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Waits until there is something to read, or room to write where `write` says so.
    pub(crate) fn wait(&self, write: bool, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.poll(write || self.has_unsent(), left)? {
            Ok(())
        } else {
            Err(ErrorKind::TimedOut.into())
        }
    }

    fn poll(&self, write: bool, timeout: Duration) -> io::Result<bool> {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, write);
        let timeout = Timespec::try_from(timeout).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.socket.0, flags)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            // The caller looks again.
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what has arrived, without waiting. After the peer's end, see [`Link::is_end`].
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        if self.read == self.arrived.len() {
            self.arrived.fill(0);
            self.arrived.clear();
            self.read = 0;
        }
        match &mut self.tls {
            None => self.fill_plain(),
            Some(_) => self.fill_tls(),
        }
    }

    fn fill_plain(&mut self) -> io::Result<()> {
        let start = self.arrived.len();
        self.arrived.resize(start + CHUNK, 0);
        let outcome = self.socket.read(&mut self.arrived[start..]);
        self.arrived
            .truncate(start + outcome.as_ref().map_or(0, |&size| size));
        match outcome {
            Ok(size) => self.end |= size == 0,
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn fill_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        match tls.read_tls(&mut self.socket) {
            Ok(0) => self.end = true,
            Ok(_) => {}
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let state = match tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // The peer gets the alert if it can.
                let _ = self.flush_some();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        };
        self.end |= state.peer_has_closed();
        let size = state.plaintext_bytes_to_read();
        let start = self.arrived.len();
        self.arrived.resize(start + size, 0);
        tls.reader().read_exact(&mut self.arrived[start..])?;
        // Answers to a key update, for example.
        self.flush_some()
    }

    /// Plaintext that arrived.
    pub(crate) fn take(&mut self) -> &[u8] {
        let start = std::mem::replace(&mut self.read, self.arrived.len());
        &self.arrived[start..]
    }

    /// Whether the peer ended the stream. What arrived before is kept.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.end
    }

    /// Lets go of the socket without a word to the peer: for a process that inherited it by fork, whose
    /// parent goes on using the session.
    pub fn abandon(mut self) {
        self.tls = None;
    }

    /// Whether something can be read at once; looks at the socket.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        if self.poll(false, Duration::ZERO)? {
            self.fill()?;
        }
        Ok(())
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let deadline = Instant::now() + self.timeout;
        while self.read == self.arrived.len() && !self.end && !buffer.is_empty() {
            self.fill()?;
            if self.read == self.arrived.len() && !self.end {
                self.wait(false, deadline)?;
            }
        }
        let size = buffer.len().min(self.arrived.len() - self.read);
        buffer[..size].copy_from_slice(&self.arrived[self.read..self.read + size]);
        self.read += size;
        Ok(size)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let written = self.write_some(bytes)?;
            if written > 0 || bytes.is_empty() {
                return Ok(written);
            }
            self.wait_for_room(deadline)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + self.timeout;
        self.flush_some()?;
        while self.has_unsent() {
            self.wait_for_room(deadline)?;
            self.flush_some()?;
        }
        Ok(())
    }
}

impl Link {
    /// What arrives meanwhile is taken off the socket, so that a peer that writes first goes on.
    fn wait_for_room(&mut self, deadline: Instant) -> io::Result<()> {
        self.wait(true, deadline)?;
        if self.end || self.arrived.len() - self.read > MAX_UNREAD {
            return Ok(());
        }
        self.fill()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.0.as_fd()
    }
}

/// A socket whose closed peer is an error and no signal: a library cannot expect that the program it is
/// loaded into ignores SIGPIPE.
struct Quiet(Box<dyn Socket>);

impl Read for Quiet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Quiet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let nothing = &mut SendAncillaryBuffer::default();
        Ok(sendmsg(&self.0, pieces, nothing, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that are taken off the socket while writing.
const MAX_UNREAD: usize = 4 << 20;

/// Tells the peer that nothing follows, if the socket takes it at once.
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.flush_some();
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
