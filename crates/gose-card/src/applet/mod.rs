//! Card applications.

pub mod eap_tls;
pub mod piv;
pub mod storage;

use gose_proto::apdu::{Command, Response};

use crate::{card::Env, pin};

/// A card application: selected by its AID, answers commands.
///
/// An applet keeps what must survive in [`Env::nvm`] (staged writes become durable before the answer goes
/// out) and everything else in itself.
pub trait Applet: Send {
    /// The full application identifier.
    fn aid(&self) -> &[u8];

    /// The applet was selected: what SELECT answers. Verified PINs and running exchanges are forgotten.
    fn select(&mut self, env: &mut Env<'_>) -> Response;

    /// Another applet was selected, or the card was reset: forget verified PINs and running exchanges.
    fn deselect(&mut self);

    /// Executes a command (chains of CLA 10 are joined already).
    fn process(&mut self, command: &Command, env: &mut Env<'_>) -> Next;

    /// Goes on with a PIN comparison, now that its counter is durable.
    fn resume(&mut self, attempt: pin::Attempt, env: &mut Env<'_>) -> Next;

    /// The host could not write what was staged: it is gone; forget what was derived from it.
    fn rolled_back(&mut self, env: &mut Env<'_>);

    /// What a command without Le gets: its data at once where they fit into 256 bytes (true), or `61xx`
    /// and nothing (false).
    fn answers_without_le(&self) -> bool;
}

/// What a command came to.
#[derive(Debug)]
pub enum Next {
    /// Answer this, after what is staged is durable.
    Answer(Response),
    /// The same; over 256 bytes it is announced by `9Fxx` and fetched from the first byte on
    /// (draft-urien-eap-smartcard-25, annex 6).
    LegacyAnswer(Response),
    /// Make the staged counter durable, then call [`Applet::resume`].
    ComparePin(pin::Attempt),
}

impl<T: Into<Response>> From<T> for Next {
    fn from(response: T) -> Self {
        Self::Answer(response.into())
    }
}
