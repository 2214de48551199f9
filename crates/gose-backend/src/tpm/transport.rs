//! The line to a TPM: bytes of a command there, bytes of a response back.

use std::{
    fs::{File, OpenOptions},
    io::{Error, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use zeroize::Zeroizing;

/// Bytes of the longest command and response (the reference code's TPM_MAX_RESPONSE_SIZE).
pub(super) const MAX_SIZE: usize = 4096;

/// An RSA key may take a minute in a slow TPM.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the TPM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A character device; `/dev/tpmrm0` has the kernel's resource manager in front of the TPM.
    Device(PathBuf),
    /// The command socket of swtpm, `host:port`. It has no encryption: for the same machine only.
    Swtpm(String),
}

/// An open line.
pub(super) enum Line {
    Device(File),
    Swtpm(TcpStream),
}

impl Line {
    pub(super) fn open(address: &Address) -> Result<Self, Error> {
        match address {
            Address::Device(path) => OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .map(Self::Device),
            Address::Swtpm(host) => {
                let address = host.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
                let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(LIMIT))?;
                stream.set_write_timeout(Some(LIMIT))?;
                Ok(Self::Swtpm(stream))
            }
        }
    }

    /// One command, one response.
    pub(super) fn exchange(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut response = Zeroizing::new(vec![0; MAX_SIZE]);
        let len = match self {
            // The driver takes a command in one write and gives a response in one read.
            Self::Device(device) => {
                device.write_all(command)?;
                device.read(&mut response)?
            }
            Self::Swtpm(stream) => {
                stream.write_all(command)?;
                stream.read_exact(&mut response[..10])?;
                let len = announced(&response).ok_or(ErrorKind::InvalidData)?;
                stream.read_exact(&mut response[10..len])?;
                len
            }
        };
        response.truncate(len);
        if announced(&response) == Some(len) {
            Ok(response)
        } else {
            Err(ErrorKind::InvalidData.into())
        }
    }
}

/// The size in a response's header, if it is possible.
fn announced(response: &[u8]) -> Option<usize> {
    let size = u32::from_be_bytes(*response.get(2..6)?.first_chunk()?);
    usize::try_from(size)
        .ok()
        .filter(|size| (10..=MAX_SIZE).contains(size))
}
