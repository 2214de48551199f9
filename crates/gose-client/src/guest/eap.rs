//! `gose-eap/1`: EAP packets to the authentication server, then the session that the elements made.

use std::io::{self, Read, Write};

use gose_element::{
    SecureElement,
    drive::eap_tls::{self, EapTls},
};
use gose_proto::identity::eap_frames::{self, End, FrameError, Next};

/// An EAP conversation over a stream.
pub struct EapChannel<S> {
    stream: S,
}

/// Why a conversation ended without success, by blame.
#[derive(Debug, thiserror::Error)]
pub enum EapError {
    /// The stream broke or was too slow.
    #[error("the channel to the authentication server: {0}")]
    Io(#[from] io::Error),
    /// The server does not speak `gose-eap/1`.
    #[error("frames of the authentication server: {0}")]
    Frame(#[from] FrameError),
    /// The server closed before a verdict.
    #[error("the authentication server closed the conversation")]
    Closed,
    /// EAP-Failure.
    #[error("the authentication server refuses (EAP-Failure)")]
    Failure,
    /// EAP-Success before the element was ready for it.
    #[error("EAP-Success out of turn")]
    OutOfTurn,
    /// The guest's element.
    #[error("the guest's element: {0}")]
    Element(#[from] eap_tls::Error),
}

impl<S: Read + Write> EapChannel<S> {
    /// A conversation that begins; the server speaks first.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self { stream }
    }

    /// The server's next packet; `None` when it closes.
    ///
    /// # Errors
    /// [`EapError::Io`], [`EapError::Frame`].
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, EapError> {
        let mut field = [0; 2];
        self.stream.read_exact(&mut field)?;
        let Next::Packet(length) = eap_frames::next(field)? else {
            return Ok(None);
        };
        let mut packet = vec![0; length];
        self.stream.read_exact(&mut packet)?;
        eap_frames::check(&packet)?;
        Ok(Some(packet))
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// [`EapError::Io`], [`EapError::Frame`].
    pub fn send(&mut self, packet: &[u8]) -> Result<(), EapError> {
        self.stream.write_all(&eap_frames::encode(packet)?)?;
        Ok(self.stream.flush()?)
    }

    /// Gives the conversation up.
    ///
    /// # Errors
    /// [`EapError::Io`].
    pub fn close(mut self) -> Result<(), EapError> {
        self.stream.write_all(&eap_frames::CLOSE)?;
        Ok(self.stream.flush()?)
    }

    /// The stream. After EAP-Success it carries the records of the elements' session.
    #[must_use]
    pub fn into_stream(self) -> S {
        self.stream
    }
}

/// Carries packets between the authentication server and an element in the role of the peer, up to
/// EAP-Success. `now` gives Unix time in seconds.
///
/// # Errors
/// [`EapError`]; the conversation is over.
pub fn authenticate<S: Read + Write, E: SecureElement + ?Sized>(
    channel: &mut EapChannel<S>,
    element: &mut EapTls<'_, E>,
    now: impl Fn() -> u32,
) -> Result<(), EapError> {
    loop {
        let packet = channel.receive()?.ok_or(EapError::Closed)?;
        let end = eap_frames::end(&packet);
        // Failure goes to the element too: it forgets the session.
        let reply = element.process(&packet, Some(now()));
        match (end, reply) {
            (Some(End::Failure), _) => return Err(EapError::Failure),
            (Some(End::Success), Ok(eap_tls::Reply::Taken)) => return Ok(()),
            (Some(End::Success), Ok(_)) => return Err(EapError::OutOfTurn),
            (None, Ok(eap_tls::Reply::Packet(answer))) => channel.send(&answer)?,
            // Lock-step: a packet that asks for no answer, or an element that has none, ends it here.
            (None, Ok(_)) => return Err(EapError::OutOfTurn),
            (_, Err(error)) => return Err(error.into()),
        }
    }
}
