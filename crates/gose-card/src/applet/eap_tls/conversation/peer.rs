//! The peer: answers requests, TLS client (RFC 5216; RFC 9190).

use gose_proto::{
    apdu::StatusWord,
    eap::{Code, Fragment, Packet, Reassembled, Type},
};

use super::{Conversation, Message, Output, Phase};
use crate::applet::eap_tls::{engine::Engine, session::Session};

/// EAP-TLS 1.3's protected success indication (RFC 9190, 2.1.1): one byte of application data.
const COMMITMENT: [u8; 1] = [0x00];

impl Conversation {
    pub(super) fn answer_request(&mut self, packet: &Packet<'_>) -> Result<Output, StatusWord> {
        match (packet.code, packet.kind) {
            (Code::Success, _) => Ok(self.take_success()),
            (Code::Failure, _) => {
                // Protected success is not undone by a packet that anybody can forge (RFC 9190, 2.1.1).
                if !matches!(self.phase, Phase::Authenticated(_)) {
                    self.phase = Phase::Failed;
                }
                Ok(Output::Discarded)
            }
            (Code::Request, Some(Type::IDENTITY)) => {
                self.reset();
                self.phase = Phase::Identified;
                let eap_id = self.identity.eap_id.clone();
                Ok(respond(packet, Type::IDENTITY, &eap_id))
            }
            (Code::Request, Some(Type::NOTIFICATION)) => {
                Ok(respond(packet, Type::NOTIFICATION, &[]))
            }
            (Code::Request, Some(Type::TLS)) => match Fragment::parse(packet.data) {
                Ok(fragment) if fragment.start => self.start(packet),
                Ok(fragment) => Ok(self.take_request_fragment(packet, &fragment)),
                Err(_) => Ok(self.refuse(packet)),
            },
            (Code::Request, Some(_)) => Ok(self.refuse(packet)),
            _ => Ok(Output::Discarded),
        }
    }

    /// Start comes after the identity, or straight after Reset-State: then an ordinary TLS server is at the
    /// other end, which knows nothing of EAP's own success.
    fn start(&mut self, packet: &Packet<'_>) -> Result<Output, StatusWord> {
        let bridge = match self.phase {
            Phase::Identified => false,
            Phase::Reset => true,
            _ => return Ok(self.refuse(packet)),
        };
        let mut engine = self.start_engine()?;
        let hello = engine.take_output();
        self.phase = Phase::Handshaking { engine, bridge };
        let fragment = self.cut(hello);
        Ok(respond(packet, Type::TLS, &fragment))
    }

    /// The sequence is broken: Nak, and the conversation is over.
    fn refuse(&mut self, packet: &Packet<'_>) -> Output {
        self.phase = Phase::Failed;
        respond(packet, Type::NAK, &[Type::TLS.0])
    }

    fn take_request_fragment(&mut self, packet: &Packet<'_>, fragment: &Fragment<'_>) -> Output {
        let records = match self.join_request(packet, fragment) {
            Message::Answered(output) => return output,
            Message::Whole(records) => records,
        };
        match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Handshaking { engine, bridge } => {
                self.take_server_flight(packet, engine, bridge, &records)
            }
            Phase::Finished(session) => self.take_end(packet, session, &records),
            // After success the authenticator has nothing more to say in EAP-TLS.
            Phase::Authenticated(session) => {
                self.phase = Phase::Authenticated(session);
                Output::Discarded
            }
            _ => self.refuse(packet),
        }
    }

    fn join_request(&mut self, packet: &Packet<'_>, fragment: &Fragment<'_>) -> Message {
        if !self.leaving.is_done() {
            // Only an acknowledgement can come between two fragments of ours.
            return Message::Answered(if fragment.is_acknowledgement() {
                let next = self.next_fragment();
                respond(packet, Type::TLS, &next)
            } else {
                self.refuse(packet)
            });
        }
        match self.arriving.receive(fragment) {
            Ok(Reassembled::Whole(records)) => Message::Whole(records),
            Ok(Reassembled::More) => Message::Answered(respond(
                packet,
                Type::TLS,
                &Fragment::ACKNOWLEDGEMENT.encode(),
            )),
            Err(_) => Message::Answered(self.refuse(packet)),
        }
    }

    fn take_server_flight(
        &mut self,
        packet: &Packet<'_>,
        engine: Box<Engine>,
        bridge: bool,
        records: &[u8],
    ) -> Output {
        let records = match self.advance(engine, bridge, records) {
            Ok((Phase::Finished(session), out)) if bridge => {
                self.phase = Phase::Authenticated(session);
                out
            }
            Ok((phase, out)) => {
                self.phase = phase;
                out
            }
            Err(failed) => failed.alert,
        };
        let fragment = self.cut(records);
        respond(packet, Type::TLS, &fragment)
    }

    /// TLS is done: tickets may come, then in TLS 1.3 the byte that protects success.
    fn take_end(
        &mut self,
        packet: &Packet<'_>,
        mut session: Box<Session>,
        records: &[u8],
    ) -> Output {
        let is_tls13 = session.is_tls13();
        let received = session
            .engine()
            .map(|engine| (engine.receive(records), engine.take_clear()));
        let out = match received {
            Some((Ok(out), clear)) if is_tls13 && clear.as_slice() == COMMITMENT => {
                self.phase = Phase::Authenticated(session);
                out
            }
            Some((Ok(out), clear)) if clear.is_empty() => {
                self.phase = Phase::Finished(session);
                out
            }
            Some((Err(failed), _)) => failed.alert,
            _ => Vec::new(),
        };
        let fragment = self.cut(out);
        respond(packet, Type::TLS, &fragment)
    }

    fn take_success(&mut self) -> Output {
        match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Finished(session)
                if !session.is_tls13() || self.identity.policy.accept_missing_commitment =>
            {
                self.phase = Phase::Authenticated(session);
                Output::Taken
            }
            phase @ Phase::Authenticated(_) => {
                self.phase = phase;
                Output::Taken
            }
            // The host is told what the other end does not know: it failed here.
            Phase::Failed => Output::Failed,
            // Success before the method allows it is ignored (RFC 3748, 4.2).
            phase => {
                self.phase = phase;
                Output::Discarded
            }
        }
    }
}

fn respond(packet: &Packet<'_>, kind: Type, data: &[u8]) -> Output {
    Output::Packet(Packet::response(packet.identifier, kind, data).encode())
}
