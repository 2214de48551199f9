//! The guest's end of the attach channel.

use std::io::{self, Read, Write};

use gose_element::Algorithm;
use gose_proto::identity::{
    Certificate,
    attach::{
        Chain, JoinSecret, MessageError, Serial, SignRequest, ToEndpoint, ToGuest, TranscriptHash,
        message_len,
    },
};

use super::GuestError;
use crate::identity::key_algorithm;

/// A joined channel: it has a token, signs for it, and takes renewed ones.
pub struct AttachChannel<S> {
    stream: S,
    /// What was read and is not a whole message yet.
    input: Vec<u8>,
    token: Token,
    next: JoinSecret,
}

/// The token of now.
struct Token {
    chain: Chain,
    serial: Serial,
    algorithm: Algorithm,
}

/// A stream that can be read without waiting.
pub trait ReadNow: Read + Write {
    /// Reads what is there; `WouldBlock` if nothing is.
    ///
    /// # Errors
    /// What the system says.
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadNow for std::os::unix::net::UnixStream {
    fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.set_nonblocking(true)?;
        let read = self.read(buffer);
        self.set_nonblocking(false)?;
        read
    }
}

impl<S: ReadNow> AttachChannel<S> {
    /// Joins with the one-time secret.
    ///
    /// # Errors
    /// [`GuestError::Refused`] if the secret is wrong or used up, and as for every channel.
    pub fn join(mut stream: S, secret: &JoinSecret) -> Result<Self, GuestError> {
        stream.write_all(&ToEndpoint::Join(secret.clone()).encode())?;
        let mut input = Vec::new();
        match receive(&mut stream, &mut input)? {
            ToGuest::Joined { next, chain } => Ok(Self {
                stream,
                input,
                token: Token::new(chain)?,
                next,
            }),
            ToGuest::Refused(error) => Err(error.into()),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// The secret of the next join. Keep it where only this guest reads it.
    #[must_use]
    pub fn next_secret(&self) -> &JoinSecret {
        &self.next
    }

    /// The token of now and its chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.token.chain
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.token.serial
    }

    /// The algorithm of the key that signs for it.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.token.algorithm
    }

    /// Takes renewed tokens that have arrived, without waiting.
    ///
    /// # Errors
    /// [`GuestError`] if the channel broke.
    pub fn refresh(&mut self) -> Result<(), GuestError> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read_now(&mut buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            while let Some(message) = take(&mut self.input)? {
                let ToGuest::Renewed(chain) = message else {
                    return Err(GuestError::Unexpected);
                };
                self.token = Token::new(chain)?;
            }
        }
        Ok(())
    }

    /// Has a handshake signed that presents the token with this serial.
    ///
    /// # Errors
    /// [`GuestError::Refused`] with the endpoint's reason.
    pub fn sign(
        &mut self,
        serial: &Serial,
        scheme: u16,
        hash: TranscriptHash,
    ) -> Result<Vec<u8>, GuestError> {
        let request = SignRequest {
            serial: serial.clone(),
            scheme,
            hash,
        };
        match self.ask(&ToEndpoint::Sign(request))? {
            ToGuest::Signature(signature) => Ok(signature),
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Asks for the token in form `identity`.
    ///
    /// # Errors
    /// [`GuestError::Refused`] with the endpoint's reason.
    pub fn identity(&mut self) -> Result<Chain, GuestError> {
        match self.ask(&ToEndpoint::Identity)? {
            ToGuest::Identity(chain) => Ok(chain),
            _ => Err(GuestError::Unexpected),
        }
    }

    fn ask(&mut self, request: &ToEndpoint) -> Result<ToGuest, GuestError> {
        self.stream.write_all(&request.encode())?;
        loop {
            match receive(&mut self.stream, &mut self.input)? {
                ToGuest::Renewed(chain) => self.token = Token::new(chain)?,
                ToGuest::Refused(error) => return Err(error.into()),
                answer => return Ok(answer),
            }
        }
    }
}

impl Token {
    fn new(chain: Chain) -> Result<Self, GuestError> {
        let parts = chain.certificates().first().and_then(|der| {
            let certificate = Certificate::parse(der).ok()?;
            let serial = Serial::new(certificate.serial())?;
            Some((serial, key_algorithm(certificate.public_key())?))
        });
        let (serial, algorithm) = parts.ok_or(GuestError::Unexpected)?;
        Ok(Self {
            chain,
            serial,
            algorithm,
        })
    }
}

fn receive(stream: &mut impl Read, input: &mut Vec<u8>) -> Result<ToGuest, GuestError> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(message) = take(input)? {
            return Ok(message);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the first whole message out of what was read.
fn take(input: &mut Vec<u8>) -> Result<Option<ToGuest>, MessageError> {
    let Some((field, rest)) = input.split_first_chunk() else {
        return Ok(None);
    };
    let length = message_len(*field)?;
    let Some(message) = rest.get(..length) else {
        return Ok(None);
    };
    let message = ToGuest::parse(message)?;
    input.drain(..length + 2);
    Ok(Some(message))
}
