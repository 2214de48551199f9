//! Standard input to the server, and the server to standard output, until one of them ends.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use zeroize::Zeroizing;

use super::layer::{Arrived, CHUNK, Got, Layer};
use crate::Failure;

/// A session with a server.
pub(super) struct Pump<'a, 'e> {
    pub(super) socket: TcpStream,
    /// What the server said behind its last flight.
    pub(super) arrived: Arrived,
    pub(super) layer: Layer<'a, 'e>,
    /// For a server that takes nothing, and for its close_notify.
    pub(super) patience: Duration,
    /// Without data in either direction.
    pub(super) idle: Duration,
}

/// What is ready.
struct Ready {
    input: bool,
    from_server: bool,
    to_server: bool,
}

impl Pump<'_, '_> {
    /// Runs to the server's close_notify.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.socket.set_nonblocking(true).map_err(remote)?;
        let mut leaving: Vec<u8> = Vec::new();
        let mut input_is_open = true;
        let mut last = Instant::now();
        loop {
            if self.give()? {
                // The answer to the server's close_notify is a courtesy: it may be gone.
                if input_is_open && let Ok(close) = self.layer.close() {
                    let _ = self.socket.write(&close);
                }
                return Ok(());
            }
            let limit = if input_is_open && leaving.is_empty() {
                self.idle
            } else {
                self.patience
            };
            let left = limit.saturating_sub(last.elapsed());
            let Some(ready) = self.wait(
                input_is_open && leaving.is_empty(),
                !leaving.is_empty(),
                left,
            )?
            else {
                return self.late(input_is_open, &leaving);
            };
            if ready.from_server && self.fill()? {
                last = Instant::now();
            }
            if ready.to_server {
                let sent = self.send(&leaving)?;
                leaving.drain(..sent);
                last = Instant::now();
            }
            if ready.input {
                let payload = input()?;
                input_is_open = !payload.is_empty();
                leaving = if input_is_open {
                    self.layer.seal(&payload)?
                } else {
                    self.layer.close()?
                };
                last = Instant::now();
            }
        }
    }

    /// Gives what arrived to standard output; says whether the server closed.
    fn give(&mut self) -> Result<bool, Failure> {
        while let Some(record) = self
            .arrived
            .record()
            .map_err(|error| Failure::Remote(error.to_string()))?
        {
            match self.layer.open(record)? {
                Got::Data(data) => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&data)
                        .and_then(|()| out.flush())
                        .map_err(|error| Failure::local(format!("standard output: {error}")))?;
                }
                Got::Close => return Ok(true),
                Got::Nothing => {}
            }
        }
        Ok(false)
    }

    /// Nothing went on for too long: the server is told, where it listens.
    fn late(&mut self, input_is_open: bool, leaving: &[u8]) -> Result<(), Failure> {
        let text = if !leaving.is_empty() {
            "the server takes nothing (--timeout-s)"
        } else if input_is_open {
            let close = self.layer.close()?;
            let _ = self.socket.write(&close);
            "closed after no data in either direction (--idle-s)"
        } else {
            "the server did not answer close_notify; all input was sent (--timeout-s)"
        };
        Err(Failure::Remote(text.into()))
    }

    fn wait(&self, input: bool, write: bool, left: Duration) -> Result<Option<Ready>, Failure> {
        let stdin = std::io::stdin();
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, write);
        let mut fds = vec![PollFd::new(&self.socket, flags)];
        if input {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let left = Timespec::try_from(left).map_err(|error| Failure::local(error.to_string()))?;
        match poll(&mut fds, Some(&left)) {
            Ok(0) => Ok(None),
            Ok(_) => {
                let server = fds[0].revents();
                Ok(Some(Ready {
                    input: fds.get(1).is_some_and(|fd| !fd.revents().is_empty()),
                    from_server: server.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
                    to_server: server.contains(PollFlags::OUT),
                }))
            }
            // The caller looks again.
            Err(Errno::INTR) => Ok(Some(Ready {
                input: false,
                from_server: false,
                to_server: false,
            })),
            Err(error) => Err(remote(error.into())),
        }
    }

    /// Reads what the server sent; says whether there was something.
    fn fill(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; CHUNK];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(Failure::Remote(
                "the server ended the connection without close_notify; what it sent may be cut off"
                    .into(),
            )),
            Ok(size) => {
                self.arrived.extend(&bytes[..size]);
                Ok(true)
            }
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) => Err(remote(error)),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        match self.socket.write(bytes) {
            Ok(size) => Ok(size),
            Err(error) if is_transient(&error) => Ok(0),
            Err(error) => Err(remote(error)),
        }
    }
}

/// What standard input has; nothing at its end.
fn input() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut payload = Zeroizing::new(vec![0; CHUNK]);
    loop {
        match rustix::io::read(std::io::stdin(), &mut payload[..]) {
            Ok(size) => {
                payload.truncate(size);
                return Ok(payload);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::local(format!("standard input: {error}"))),
        }
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn remote(error: std::io::Error) -> Failure {
    Failure::Remote(error.to_string())
}
