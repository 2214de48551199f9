//! A RACS session with a node.

use std::{
    io,
    time::{Duration, Instant},
};

use gose_element::Seid;
use gose_proto::racs::{Client, Request, Response};

use crate::{Error, Link};

/// Time for a response to a request of one command: what a node waits for an element, and a little more.
pub const ANSWER: Duration = Duration::from_secs(65);

/// Time for each further command of a request.
pub const FURTHER: Duration = Duration::from_secs(5);

/// A RACS session: one request at a time, blocking.
///
/// When it ends the node powers down and unlocks every element that it holds.
pub struct Connection {
    link: Link,
    client: Client,
    answer: Duration,
    /// Whether a response ever came: before that, a node may still refuse the certificate.
    answered: bool,
    closed: bool,
}

impl Connection {
    /// A session over a link that is ready.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self {
            link,
            client: Client::new(),
            answer: ANSWER,
            answered: false,
            closed: false,
        }
    }

    /// The time for a response to a request of one command; each further one adds [`FURTHER`].
    pub fn set_timeout(&mut self, answer: Duration) {
        self.answer = answer;
    }

    /// The link below.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Lets go of the session without a word to the node: for a process that inherited it by fork.
    pub fn abandon(self) {
        self.link.abandon();
    }

    /// Whether the session is known to be over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the session is over; looks whether the node has closed it meanwhile.
    pub(crate) fn is_over(&mut self) -> bool {
        self.closed || self.look().is_err()
    }

    /// Sends a request in one write and waits for its response, which is read while the request is
    /// written: a long request and a long response never wait for each other. Nothing is ever sent
    /// twice.
    ///
    /// A response with an error status is a response; see [`Response::decide`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Unsolicited`]: nothing was sent. [`Error::is_outcome_unknown`]: something was, and no
    /// response came. After any error the session is over.
    pub fn ask(&mut self, request: Request) -> Result<Response, Error> {
        self.look()?;
        let further = u32::from(request.commands().saturating_sub(1));
        let limit = self.answer + FURTHER * further;
        let bytes = self.client.send(request);
        let outcome = self.exchange(&bytes, Instant::now() + limit);
        self.closed |= outcome.is_err() || self.link.is_end();
        self.answered |= outcome.is_ok();
        outcome.map_err(|error| match error {
            Error::Cut(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                Error::Timeout(limit.as_secs())
            }
            Error::Cut(cause) => self.refused(cause).unwrap_or_else(Error::Cut),
            error => error,
        })
    }

    /// With TLS 1.3 a client learns that its certificate is refused when it first reads: then the
    /// node has read no request.
    fn refused(&self, cause: io::Error) -> Result<Error, io::Error> {
        if self.answered {
            return Err(cause);
        }
        match cause.downcast::<rustls::Error>()? {
            error @ rustls::Error::AlertReceived(_) => Ok(Error::Tls(error)),
            error => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Finds out before sending whether the node has closed, so that nothing is in doubt then.
    fn look(&mut self) -> Result<(), Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        let outcome = self.link.look();
        self.closed = outcome.is_err() || self.link.is_end();
        match outcome {
            Err(cause) => Err(self.refused(cause).unwrap_or(Error::Closed)),
            Ok(()) if !self.link.take().is_empty() => {
                self.closed = true;
                Err(Error::Unsolicited)
            }
            Ok(()) if self.closed => Err(Error::Closed),
            Ok(()) => Ok(()),
        }
    }

    fn exchange(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<Response, Error> {
        let mut response = None;
        loop {
            if !bytes.is_empty() || self.link.has_unsent() {
                match self.link.write_some(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    // A fatal error: the node answers and closes without reading the rest.
                    Err(_) if response.is_some() => self.closed = true,
                    Err(error) => return self.salvage(error),
                }
            }
            let unsent = !self.closed && (!bytes.is_empty() || self.link.has_unsent());
            match response {
                Some(response) if !unsent => return Ok(response),
                _ => {}
            }
            self.link.wait(unsent, deadline).map_err(Error::Cut)?;
            self.link.fill().map_err(Error::Cut)?;
            self.client.receive(self.link.take());
            if response.is_none() {
                response = self.client.poll()?;
            }
            if self.link.is_end() {
                let cut = Error::Cut(io::ErrorKind::UnexpectedEof.into());
                return response.ok_or(cut);
            }
        }
    }

    /// The socket takes nothing more; a response that came before that counts.
    fn salvage(&mut self, error: io::Error) -> Result<Response, Error> {
        self.closed = true;
        while self.link.fill().is_ok() {
            let arrived = self.link.take();
            if arrived.is_empty() {
                break;
            }
            self.client.receive(arrived);
            if let Some(response) = self.client.poll()? {
                return Ok(response);
            }
        }
        Err(Error::Cut(error))
    }

    /// The SEIDs that this client may use.
    ///
    /// # Errors
    /// [`Error::Refused`] with the node's status, and those of [`Connection::ask`].
    pub fn list(&mut self) -> Result<Vec<Seid>, Error> {
        let mut request = Request::new();
        request.list()?;
        let response = self.ask(request)?;
        match response.decide()? {
            Some(status) => Ok(status.seids()?),
            None => Ok(Vec::new()),
        }
    }

    /// The version that the node speaks.
    ///
    /// # Errors
    /// As [`Connection::list`].
    pub fn version(&mut self) -> Result<String, Error> {
        let mut request = Request::new();
        request.get_version()?;
        let response = self.ask(request)?;
        Ok(response
            .decide()?
            .map(|status| String::clone(&status.text))
            .unwrap_or_default())
    }
}
