//! The authenticator: sends requests, TLS server (RFC 5216; RFC 9190).

use gose_proto::{
    apdu::StatusWord,
    eap::{Code, Fragment, Packet, Reassembled, Type},
};

use super::{Conversation, Message, Output, Phase};
use crate::applet::eap_tls::{
    engine::{Engine, Failed},
    session::Session,
};

impl Conversation {
    pub(super) fn answer_response(&mut self, packet: &Packet<'_>) -> Result<Output, StatusWord> {
        match (packet.code, packet.kind) {
            (Code::Response, Some(Type::IDENTITY)) => self.begin(packet),
            (Code::Response, _) if !self.is_expected(packet) => Ok(Output::Discarded),
            (Code::Response, Some(Type::TLS)) => match Fragment::parse(packet.data) {
                Ok(fragment) if !fragment.start => {
                    Ok(self.take_response_fragment(packet, &fragment))
                }
                _ => Ok(self.fail(packet)),
            },
            (Code::Response, Some(Type::NAK)) => Ok(self.fail(packet)),
            _ => Ok(Output::Discarded),
        }
    }

    /// A response counts while a conversation runs, to the request that is open.
    fn is_expected(&self, packet: &Packet<'_>) -> bool {
        let runs = matches!(
            self.phase,
            Phase::Handshaking { .. } | Phase::Finished(_) | Phase::Failing
        );
        runs && packet.identifier == self.identifier
    }

    fn begin(&mut self, packet: &Packet<'_>) -> Result<Output, StatusWord> {
        self.reset();
        let engine = self.start_engine()?;
        self.phase = Phase::Handshaking {
            engine,
            bridge: false,
        };
        self.identifier = packet.identifier;
        Ok(self.request(&Fragment::START.encode()))
    }

    fn request(&mut self, data: &[u8]) -> Output {
        self.identifier = self.identifier.wrapping_add(1);
        Output::Packet(Packet::request(self.identifier, Type::TLS, data).encode())
    }

    fn fail(&mut self, packet: &Packet<'_>) -> Output {
        self.phase = Phase::Failed;
        Output::Packet(Packet::failure(packet.identifier).encode())
    }

    fn succeed(&mut self, packet: &Packet<'_>, session: Box<Session>) -> Output {
        self.phase = Phase::Authenticated(session);
        Output::Packet(Packet::success(packet.identifier).encode())
    }

    fn take_response_fragment(&mut self, packet: &Packet<'_>, fragment: &Fragment<'_>) -> Output {
        let records = match self.join_response(packet, fragment) {
            Message::Answered(output) => return output,
            Message::Whole(records) => records,
        };
        match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Handshaking { engine, .. } if !records.is_empty() => {
                self.take_client_flight(packet, engine, &records)
            }
            Phase::Finished(session) if records.is_empty() => self.succeed(packet, session),
            // An alert of the peer, its answer to ours, or nothing where a flight is due.
            _ => self.fail(packet),
        }
    }

    fn join_response(&mut self, packet: &Packet<'_>, fragment: &Fragment<'_>) -> Message {
        if !self.leaving.is_done() {
            return Message::Answered(if fragment.is_acknowledgement() {
                let next = self.next_fragment();
                self.request(&next)
            } else {
                self.fail(packet)
            });
        }
        match self.arriving.receive(fragment) {
            Ok(Reassembled::Whole(records)) => Message::Whole(records),
            Ok(Reassembled::More) => {
                Message::Answered(self.request(&Fragment::ACKNOWLEDGEMENT.encode()))
            }
            Err(_) => Message::Answered(self.fail(packet)),
        }
    }

    fn take_client_flight(
        &mut self,
        packet: &Packet<'_>,
        engine: Box<Engine>,
        records: &[u8],
    ) -> Output {
        match self
            .advance(engine, false, records)
            .and_then(protect_success)
        {
            Ok((Phase::Finished(session), out)) if out.is_empty() => self.succeed(packet, session),
            Ok((phase, out)) if !out.is_empty() => {
                self.phase = phase;
                let fragment = self.cut(out);
                self.request(&fragment)
            }
            Err(Failed { alert }) if !alert.is_empty() => {
                self.phase = Phase::Failing;
                let fragment = self.cut(alert);
                self.request(&fragment)
            }
            _ => self.fail(packet),
        }
    }
}

/// TLS 1.3: one byte of application data after the client's Finished, with the tickets (RFC 9190, 2.1.1).
/// A client that sent application data already does not speak EAP-TLS.
fn protect_success((phase, mut out): (Phase, Vec<u8>)) -> Result<(Phase, Vec<u8>), Failed> {
    let Phase::Finished(mut session) = phase else {
        return Ok((phase, out));
    };
    let is_tls13 = session.is_tls13();
    let engine = session.engine().ok_or(Failed { alert: Vec::new() })?;
    if !engine.take_clear().is_empty() {
        return Err(Failed { alert: Vec::new() });
    }
    if is_tls13 {
        out.extend(engine.send(&[0x00])?);
    }
    Ok((Phase::Finished(session), out))
}
