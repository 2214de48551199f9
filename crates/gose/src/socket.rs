//! Unix sockets that programs of this machine come to.

use std::{
    io,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Gid, chown},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt::socket_peercred},
};

use crate::{Failure, output::log};

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

/// Between two tries where the system takes no connection.
const AGAIN: Duration = Duration::from_millis(100);

/// A client's process when it connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: i32,
}

/// A socket that listens. Its file goes with it.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens, for the own user alone (mode 0600) or for a group too (0660), from the first moment. A socket that
    /// nobody listens on is replaced.
    pub(crate) fn bind(path: &Path, group: Option<u32>) -> Result<Self, Failure> {
        Self::at(path, group).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "; another service runs there",
                io::ErrorKind::NotFound => "; make its folder first",
                _ => "",
            };
            Failure::local(format!("{}: {error}{hint}", path.display()))
        })
    }

    fn at(path: &Path, group: Option<u32>) -> io::Result<Self> {
        if path.exists() {
            if UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before it listens.
        let mode = if let Some(group) = group {
            chown(path, None, Some(Gid::from_raw(group)))?;
            0o660
        } else {
            0o600
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            listener: socket.into(),
            path: path.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next client, and who it is.
    pub(crate) fn accept(&self) -> (UnixStream, Peer) {
        loop {
            let accepted = self.listener.accept().and_then(|(stream, _)| {
                let credentials = socket_peercred(&stream)?;
                let peer = Peer {
                    uid: credentials.uid.as_raw(),
                    pid: credentials.pid.as_raw_pid(),
                };
                Ok((stream, peer))
            });
            match accepted {
                Ok(client) => return client,
                Err(error) => {
                    log(&format!("no connection is taken: {error}"));
                    thread::sleep(AGAIN);
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
