//! Xen's store of names and values, as bytes on a socket of dom0 or on a guest's device (xen/io/xs_wire.h).

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Bytes that a message may have (XENSTORE_PAYLOAD_MAX).
pub const MAX_PAYLOAD: usize = 4096;

/// Where xenstored listens in dom0.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];

/// Where a guest, or a dom0 without the socket, finds the store.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// Time that xenstored may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events of watches that are kept until somebody asks.
const EVENTS: usize = 256;

/// Message types.
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const WRITE: u32 = 11;
const MKDIR: u32 = 12;
const RM: u32 = 13;
const SET_PERMS: u32 = 14;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// A connection to the store.
pub struct Xenstore<S> {
    stream: S,
    next: u32,
    events: VecDeque<String>,
}

/// Why the store gives no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum XenstoreError {
    /// The connection.
    #[error("xenstore: {0}")]
    Io(#[from] io::Error),
    /// The store refuses: `ENOENT`, `EACCES` and so on.
    #[error("xenstore: {0}")]
    Refused(String),
    /// A path or value that does not fit a message.
    #[error("xenstore: a message has at most 4096 bytes, and a path no NUL")]
    Length,
    /// An answer of another kind.
    #[error("xenstore: an answer that nobody asked for")]
    Unexpected,
}

impl XenstoreError {
    /// Whether there is no such node.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(code) if code == "ENOENT")
    }
}

impl Xenstore<UnixStream> {
    /// Connects to xenstored as dom0 does.
    ///
    /// # Errors
    /// [`XenstoreError::Io`]: this is no Xen host, or one whose xenstored does not run.
    pub fn of_host() -> Result<Self, XenstoreError> {
        let path = SOCKETS.iter().find(|path| Path::new(path).exists());
        let path =
            path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "xenstored does not run"))?;
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::new(stream))
    }

    /// Waits for events without end from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn without_end(self) -> Result<Self, XenstoreError> {
        self.stream.set_read_timeout(None)?;
        Ok(self)
    }
}

impl Xenstore<File> {
    /// Whether this machine is a guest of Xen, as far as its devices tell.
    #[must_use]
    pub fn is_there() -> bool {
        DEVICES.iter().any(|path| Path::new(path).exists())
    }

    /// Opens the device of a guest.
    ///
    /// # Errors
    /// [`XenstoreError::Io`]: this is no guest of Xen.
    pub fn of_guest() -> Result<Self, XenstoreError> {
        let path = DEVICES.iter().find(|path| Path::new(path).exists());
        let path = path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no Xen"))?;
        Ok(Self::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }
}

impl<S: Read + Write> Xenstore<S> {
    /// Takes a connection.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            next: 1,
            events: VecDeque::new(),
        }
    }

    /// The value of a node.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, XenstoreError> {
        self.ask(READ, &[path.as_bytes(), b"\0"])
    }

    /// The names below a node.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, XenstoreError> {
        let names = self.ask(DIRECTORY, &[path.as_bytes(), b"\0"])?;
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    /// Gives a node a value; it is made with the rights of the node above where it is missing.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), XenstoreError> {
        self.ask(WRITE, &[path.as_bytes(), b"\0", value]).map(drop)
    }

    /// Makes a node, and those above it.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn make(&mut self, path: &str) -> Result<(), XenstoreError> {
        self.ask(MKDIR, &[path.as_bytes(), b"\0"]).map(drop)
    }

    /// Takes a node away, and those below it.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn remove(&mut self, path: &str) -> Result<(), XenstoreError> {
        self.ask(RM, &[path.as_bytes(), b"\0"]).map(drop)
    }

    /// Says who may do what with a node: `n0` (dom0 owns it, others nothing), then `r7` (domain 7 reads).
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn permit(&mut self, path: &str, permissions: &[&str]) -> Result<(), XenstoreError> {
        let mut parts: Vec<&[u8]> = vec![path.as_bytes(), b"\0"];
        for permission in permissions {
            parts.extend([permission.as_bytes(), b"\0"]);
        }
        self.ask(SET_PERMS, &parts).map(drop)
    }

    /// Asks to be told of changes: of a node, or of domains (`@introduceDomain`, `@releaseDomain`).
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn watch(&mut self, path: &str) -> Result<(), XenstoreError> {
        self.ask(WATCH, &[path.as_bytes(), b"\0", path.as_bytes(), b"\0"])
            .map(drop)
    }

    /// Waits for the next change; gives what is watched.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn event(&mut self) -> Result<String, XenstoreError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.receive()? {
            (WATCH_EVENT, _, payload) => Ok(first(&payload)),
            _ => Err(XenstoreError::Unexpected),
        }
    }

    fn ask(&mut self, kind: u32, parts: &[&[u8]]) -> Result<Vec<u8>, XenstoreError> {
        let payload = zeroize::Zeroizing::new(parts.concat());
        // The first part is a path; what ends it stands once.
        let path = parts.first().copied().unwrap_or_default();
        if payload.len() > MAX_PAYLOAD || path.contains(&0) {
            return Err(XenstoreError::Length);
        }
        let request = self.next;
        self.next = self.next.wrapping_add(1);
        let length = u32::try_from(payload.len()).map_err(|_| XenstoreError::Length)?;
        let mut message = zeroize::Zeroizing::new(Vec::with_capacity(16 + payload.len()));
        for word in [kind, request, 0, length] {
            message.extend_from_slice(&word.to_ne_bytes());
        }
        message.extend_from_slice(&payload);
        self.stream.write_all(&message)?;
        self.stream.flush()?;
        loop {
            match self.receive()? {
                (WATCH_EVENT, _, payload) => {
                    if self.events.len() < EVENTS {
                        self.events.push_back(first(&payload));
                    }
                }
                (ERROR, answered, payload) if answered == request => {
                    return Err(XenstoreError::Refused(first(&payload)));
                }
                (answer, answered, payload) if answered == request && answer == kind => {
                    return Ok(payload);
                }
                _ => return Err(XenstoreError::Unexpected),
            }
        }
    }

    /// Type, request and payload of the next message.
    fn receive(&mut self) -> Result<(u32, u32, Vec<u8>), XenstoreError> {
        let mut header = [[0; 4]; 4];
        self.stream.read_exact(header.as_flattened_mut())?;
        let [kind, request, _, length] = header.map(u32::from_ne_bytes);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(XenstoreError::Length);
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, request, payload))
    }
}

/// Text up to the first NUL.
fn first(payload: &[u8]) -> String {
    let text = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let words = [kind, request, 0, length].map(u32::to_ne_bytes);
        [words.as_flattened(), payload].concat()
    }

    /// What the store answers, and what is then asked of it.
    fn store(answers: &[Vec<u8>]) -> (Xenstore<UnixStream>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&answers.concat()).unwrap();
        (Xenstore::new(ours), theirs)
    }

    fn asked(mut theirs: UnixStream, expected: &[Vec<u8>]) {
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn questions_and_answers() {
        let (mut xenstore, theirs) = store(&[
            message(READ, 1, b"value"),
            message(DIRECTORY, 2, b"a\0b\0"),
            message(WRITE, 3, b"OK\0"),
            message(SET_PERMS, 4, b"OK\0"),
            message(ERROR, 5, b"ENOENT\0"),
        ]);
        assert_eq!(xenstore.read("/a").unwrap(), b"value");
        assert_eq!(xenstore.list("/").unwrap(), ["a", "b"]);
        xenstore.write("/a/b", b"x").unwrap();
        xenstore.permit("/a", &["n0", "r7"]).unwrap();
        assert!(xenstore.read("/gone").unwrap_err().is_missing());
        drop(xenstore);
        asked(
            theirs,
            &[
                message(READ, 1, b"/a\0"),
                message(DIRECTORY, 2, b"/\0"),
                message(WRITE, 3, b"/a/b\0x"),
                message(SET_PERMS, 4, b"/a\0n0\0r7\0"),
                message(READ, 5, b"/gone\0"),
            ],
        );
    }

    #[test]
    fn events_between_answers_are_kept() {
        let event = message(WATCH_EVENT, 0, b"@releaseDomain\0token\0");
        let (mut xenstore, _theirs) = store(&[
            message(WATCH, 1, b"OK\0"),
            event.clone(),
            message(READ, 2, b"1"),
            event,
        ]);
        xenstore.watch("@releaseDomain").unwrap();
        assert_eq!(xenstore.read("domid").unwrap(), b"1");
        assert_eq!(xenstore.event().unwrap(), "@releaseDomain");
        assert_eq!(xenstore.event().unwrap(), "@releaseDomain");
    }

    #[test]
    fn what_does_not_fit() {
        let (mut xenstore, _theirs) = store(&[message(READ, 9, b"x")]);
        assert!(matches!(
            xenstore.write("/a", &[0; 4096]),
            Err(XenstoreError::Length)
        ));
        assert!(matches!(xenstore.read("/a\0b"), Err(XenstoreError::Length)));
        assert!(matches!(
            xenstore.read("/a"),
            Err(XenstoreError::Unexpected)
        ));
        let mut long = message(READ, 1, b"");
        long[12..16].copy_from_slice(&4097_u32.to_ne_bytes());
        let (mut xenstore, _theirs) = store(&[long]);
        assert!(matches!(xenstore.read("/a"), Err(XenstoreError::Length)));
    }
}
