//! A guest's sockets: passed over its control socket, or opened on the link that it shares with its hypervisor
//! alone.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{Control, GuestError, JoinRecord, PATIENCE, ReadNow, RecordError, Request};

/// Where the middleware takes TLS sessions of a guest.
pub const SESSION_PORT: u16 = 7778;

/// Where the middleware has a guest's attach endpoint.
pub const ATTACH_PORT: u16 = 7779;

/// Time for a TCP connection on the guest's own link.
const CONNECT: Duration = Duration::from_secs(10);

/// A socket to the hypervisor that no other guest could have opened.
#[derive(Debug)]
pub enum Channel {
    /// One half of a pair.
    Unix(UnixStream),
    /// A connection on the guest's own link.
    Tcp(TcpStream),
}

/// How a guest opens channels.
pub(super) enum Way {
    /// It asks over its control socket.
    Control(Mutex<Control>),
    /// It connects to this address, which is the hypervisor's on the guest's own link.
    Link(IpAddr),
}

impl Way {
    pub(super) fn open(&self, request: Request) -> Result<Channel, GuestError> {
        match self {
            Self::Control(control) => {
                let mut control = control.lock().unwrap_or_else(PoisonError::into_inner);
                control.open(request).map(Channel::Unix)
            }
            Self::Link(address) => {
                let port = match request {
                    Request::Attach => ATTACH_PORT,
                    Request::Session => SESSION_PORT,
                };
                let address = SocketAddr::new(*address, port);
                let socket = TcpStream::connect_timeout(&address, CONNECT)?;
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Channel::Tcp(socket))
            }
        }
    }
}

/// A join record in a file, which is locked while one joins: the secret counts once.
pub(super) struct RecordFile {
    path: PathBuf,
    /// Holds the lock. The lock has a file of its own, because the record's is replaced.
    _lock: File,
}

impl RecordFile {
    /// Opens and locks a record, waiting for whoever joins now.
    pub(super) fn open(path: &Path) -> Result<(Self, JoinRecord), GuestError> {
        let file = Self::lock(path)?;
        let json = Zeroizing::new(std::fs::read(path)?);
        let record = serde_json::from_slice(&json).map_err(RecordError::Json)?;
        Ok((file, record))
    }

    /// Locks the place of a record, waiting for whoever has it now.
    pub(super) fn lock(path: &Path) -> Result<Self, GuestError> {
        let lock = private().append(true).open(path.with_extension("lock"))?;
        lock.lock()?;
        let path = path.to_owned();
        Ok(Self { path, _lock: lock })
    }

    /// Puts a record in the place of the one before, whole or not at all.
    pub(super) fn replace(&self, record: &JoinRecord) -> Result<(), GuestError> {
        let json = Zeroizing::new(serde_json::to_vec(record).map_err(RecordError::Json)?);
        let new = self.path.with_extension("new");
        let mut file = private().write(true).truncate(true).open(&new)?;
        file.write_all(&json)?;
        file.sync_all()?;
        Ok(std::fs::rename(&new, &self.path)?)
    }
}

/// A file of the owner's alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.flush(),
            Self::Tcp(socket) => socket.flush(),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl ReadNow for Channel {
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read_now(buffer),
            Self::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                let read = socket.read(buffer);
                socket.set_nonblocking(false)?;
                read
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gose_proto::identity::{VmId, attach::JoinSecret};

    use super::*;

    #[test]
    fn a_record_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join.json");
        let secret = |byte| JoinSecret::new([byte; 32]);
        let mut record = JoinRecord::new(VmId([7; 16]), "hv-7", &[], &[], &secret(1));
        record.host = Some("169.254.0.1".parse().unwrap());
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        let (file, mut read) = RecordFile::open(&path).unwrap();
        assert_eq!(read.secret().unwrap(), secret(1));
        read.set_secret(&secret(2));
        file.replace(&read).unwrap();
        drop(file);
        let (_file, again) = RecordFile::open(&path).unwrap();
        assert_eq!(again.secret().unwrap(), secret(2));
        assert_eq!(again.host, record.host);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
