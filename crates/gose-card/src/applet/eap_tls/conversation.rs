//! A conversation of one identity: what both roles share.

mod authenticator;
mod peer;

use std::sync::Arc;

use gose_proto::{
    apdu::StatusWord,
    eap::{Code, Fragment, Fragmenter, Identifier, Packet, Reassembler, Role, Type},
};

use super::{
    clock::Clock,
    engine::{Engine, Failed},
    identity::Identity,
    session::Session,
    state::State,
};

/// What an EAP packet came to.
pub(super) enum Output {
    /// Send this packet.
    Packet(Vec<u8>),
    /// Taken; nothing to send.
    Taken,
    /// Silently discarded.
    Discarded,
    /// EAP-Success after the peer's own authentication failed: there is none, and no key.
    Failed,
}

/// A conversation: its phase, and fragments on their way.
pub(super) struct Conversation {
    pub(super) identity: Arc<Identity>,
    clock: Arc<Clock>,
    phase: Phase,
    arriving: Reassembler,
    leaving: Fragmenter,
    /// Authenticator: the identifier of the request that waits for its response.
    identifier: Identifier,
    /// The last packet that was answered, and the answer: retransmissions run nothing.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

/// How far it got.
enum Phase {
    /// Identity set; the first packet must be about identities.
    Idle,
    /// Reset-State: EAP-TLS may start without identities, to an ordinary TLS server.
    Reset,
    /// Peer: EAP-Request/Identity was answered.
    Identified,
    /// TLS runs.
    Handshaking { engine: Box<Engine>, bridge: bool },
    /// TLS is done; the protected success byte, the last response or EAP-Success is still to come.
    Finished(Box<Session>),
    /// Success: keys are readable.
    Authenticated(Box<Session>),
    /// Authenticator: the alert is out, EAP-Failure follows.
    Failing,
    /// Failure: keys are erased.
    Failed,
}

/// What to do with a TLS message that is whole.
enum Message {
    /// It is not: the fragment was answered.
    Answered(Output),
    Whole(Vec<u8>),
}

impl Conversation {
    pub(super) fn new(identity: Arc<Identity>, clock: Arc<Clock>) -> Self {
        Self {
            identity,
            clock,
            phase: Phase::Idle,
            arriving: Reassembler::default(),
            leaving: Fragmenter::new(Vec::new(), 1),
            identifier: 0,
            last: None,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Idle | Phase::Failed => State::NotAuthenticated,
            Phase::Authenticated(_) => State::Authenticated,
            _ => State::Authenticating,
        }
    }

    /// Reset-State.
    pub(super) fn reset(&mut self) {
        *self = Self {
            phase: Phase::Reset,
            ..Self::new(self.identity.clone(), self.clock.clone())
        };
    }

    /// The session, in state 03.
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        match &mut self.phase {
            Phase::Authenticated(session) => Some(session),
            _ => None,
        }
    }

    /// Takes an EAP packet; `time` is what stood behind it.
    ///
    /// # Errors
    /// `6985` where a certificate would have to be checked without a time.
    pub(super) fn process(&mut self, bytes: &[u8]) -> Result<Output, StatusWord> {
        let Ok((packet, rest)) = Packet::parse(bytes) else {
            return Ok(Output::Discarded);
        };
        let bytes = &bytes[..bytes.len() - rest.len()];
        let role = self.identity.role;
        if let Some((last, answer)) = &self.last
            && last == bytes
        {
            return Ok(match role {
                Role::Peer => Output::Packet(answer.clone()),
                Role::Authenticator => Output::Discarded,
            });
        }
        if takes_time(&packet, role)
            && let [a, b, c, d] = *rest
        {
            self.clock.set(u32::from_be_bytes([a, b, c, d]));
        }
        let output = match role {
            Role::Peer => self.answer_request(&packet)?,
            Role::Authenticator => self.answer_response(&packet)?,
        };
        if let Output::Packet(answer) = &output {
            self.last = Some((bytes.to_vec(), answer.clone()));
        }
        Ok(output)
    }

    /// An engine, where the time that it needs is known or the policy does without.
    fn start_engine(&self) -> Result<Box<Engine>, StatusWord> {
        if self.clock.now().is_none() && !self.identity.policy.allow_no_clock {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        let engine = Engine::new(&self.identity, &self.clock);
        engine
            .map(Box::new)
            .map_err(|_| StatusWord::CONDITIONS_NOT_SATISFIED)
    }

    /// Cuts records into fragments; gives the first one's Type-Data.
    fn cut(&mut self, records: Vec<u8>) -> Vec<u8> {
        let size = usize::from(self.identity.policy.fragment_size);
        self.leaving = Fragmenter::new(records, size);
        self.next_fragment()
    }

    fn next_fragment(&mut self) -> Vec<u8> {
        let next = self.leaving.next_fragment();
        next.unwrap_or_else(|| Fragment::ACKNOWLEDGEMENT.encode())
    }

    /// Gives records to the engine and looks whether the handshake is done.
    fn advance(
        &self,
        mut engine: Box<Engine>,
        bridge: bool,
        records: &[u8],
    ) -> Result<(Phase, Vec<u8>), Failed> {
        let out = engine.receive(records)?;
        if engine.is_handshaking() {
            return Ok((Phase::Handshaking { engine, bridge }, out));
        }
        let session = Session::new(*engine, &self.identity)?;
        Ok((Phase::Finished(Box::new(session)), out))
    }
}

/// EAP-TLS Start towards a peer, EAP-Response/Identity towards an authenticator.
fn takes_time(packet: &Packet<'_>, role: Role) -> bool {
    match (role, packet.code, packet.kind) {
        (Role::Authenticator, Code::Response, Some(Type::IDENTITY)) => true,
        (Role::Peer, Code::Request, Some(Type::TLS)) => {
            Fragment::parse(packet.data).is_ok_and(|fragment| fragment.start)
        }
        _ => false,
    }
}
