//! One EAP-TLS conversation between a peer and the server.
//!
//! Host and element share the work so that the element is asked seldom, in scripts: the host answers the peer's
//! identity with EAP-TLS Start, acknowledges the peer's fragments and hands out the server's; TLS gets whole flights.
//! An element is taken only when the peer's first TLS message is there, so that silent peers and those that want
//! another method cost no element.

use std::sync::Arc;

use gose_element::{
    Outcomes, Script,
    drive::eap_tls::{Reply, SessionKeys},
};
use gose_proto::{
    eap::{Code, Fragment, Hello, Packet, Reassembled, Reassembler, Type},
    identity::{Certificate, Form, VmAuthToken},
};

use super::{
    CertificateId, EapConversation, Facts, Pending, Success, Turn,
    tls::{Broken, Ended, Tls},
    verdict::{Verdict, Verdicts},
};

/// Fragments that a flight of the peer may have.
const MAX_FRAGMENTS: usize = 700;

/// A conversation.
pub struct Conversation {
    phase: Phase,
    /// Identifier of the request that is open.
    identifier: u8,
    /// Fragments of the flight that is arriving.
    arriving: Vec<Vec<u8>>,
    /// What those fragments say together.
    joined: Reassembler,
    /// Where TLS runs.
    tls: Tls,
    hello: Option<Hello>,
    /// The last alert that went over the line in the clear.
    alert: Option<u8>,
    verdict: Verdict,
    verdicts: Arc<Verdicts>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.verdicts.add(self.verdict);
    }
}

enum Phase {
    /// Nothing came yet.
    Idle,
    /// The peer was told to start; its identity waits for an element.
    Started { identity: Vec<u8> },
    /// TLS runs.
    Running {
        /// Fragments of the server's flight that the peer did not ask for yet, last one first.
        leaving: Vec<Vec<u8>>,
    },
    /// A verdict is out.
    Over,
}

impl EapConversation for Conversation {
    fn receive<'a>(&'a mut self, response: &'a [u8]) -> Pending<'a, Turn> {
        Box::pin(async move {
            let turn = self.take(response).await;
            match &turn {
                Turn::Success(_) => self.verdict = Verdict::Accepted,
                Turn::Failure { .. } => self.verdict = Verdict::Rejected,
                _ => {}
            }
            turn
        })
    }

    fn element(&self) -> String {
        self.tls.place()
    }
}

impl Conversation {
    pub(super) fn new(tls: Tls, verdicts: Arc<Verdicts>) -> Self {
        Self {
            phase: Phase::Idle,
            identifier: 0,
            arriving: Vec::new(),
            joined: Reassembler::default(),
            tls,
            hello: None,
            alert: None,
            verdict: Verdict::Abandoned,
            verdicts,
        }
    }

    /// Runs a script on the element after EAP-Success, for as long as this conversation holds it: records.
    ///
    /// # Errors
    /// Why not, for the record: no success yet, TLS runs on the host, the element failed, or another conversation
    /// has it.
    pub async fn use_element(&mut self, script: Script) -> Result<Outcomes, String> {
        self.is_over()?;
        match &mut self.tls {
            Tls::Element(element) => {
                let done = element.run(false, script).await;
                done.map_err(|Broken(reason)| reason)
            }
            Tls::Host(_) => Err("TLS runs on the host: no element has the session".into()),
        }
    }

    /// The keys of the session, after EAP-Success, once.
    ///
    /// # Errors
    /// As [`Conversation::use_element`].
    pub async fn session_keys(&mut self) -> Result<SessionKeys, String> {
        self.is_over()?;
        let keys = self.tls.session_keys().await;
        keys.map_err(|Broken(reason)| reason)
    }

    fn is_over(&self) -> Result<(), String> {
        match self.phase {
            Phase::Over => Ok(()),
            _ => Err("the conversation had no success yet".into()),
        }
    }

    async fn take(&mut self, response: &[u8]) -> Turn {
        let Ok((packet, _)) = Packet::parse(response) else {
            return Turn::Discarded;
        };
        if packet.code != Code::Response {
            return Turn::Discarded;
        }
        match (&mut self.phase, packet.kind) {
            (Phase::Idle, Some(Type::IDENTITY)) => {
                self.phase = Phase::Started {
                    identity: packet.encode(),
                };
                self.request(packet.identifier.wrapping_add(1), &Fragment::START.encode())
            }
            (Phase::Idle | Phase::Over, _) => Turn::Discarded,
            _ if packet.identifier != self.identifier => Turn::Discarded,
            (Phase::Started { .. }, Some(Type::NAK)) => {
                self.fail(&packet, "the peer wants another method than EAP-TLS".into())
            }
            (_, Some(Type::TLS)) => self.tls(&packet, response).await,
            _ => Turn::Discarded,
        }
    }

    async fn tls(&mut self, packet: &Packet<'_>, response: &[u8]) -> Turn {
        let fragment = match Fragment::parse(packet.data) {
            Ok(fragment) if !fragment.start => fragment,
            _ => return self.fail(packet, "EAP-TLS flags".into()),
        };
        if fragment.is_acknowledgement()
            && let Phase::Running { leaving } = &mut self.phase
            && let Some(next) = leaving.pop()
        {
            self.identifier = next.get(1).copied().unwrap_or_default();
            return Turn::Request(next);
        }
        match self.joined.receive(&fragment) {
            // What contradicts itself costs no element.
            Err(error) => return self.fail(packet, error.to_string()),
            Ok(Reassembled::More) if self.arriving.len() >= MAX_FRAGMENTS => {
                return self.fail(packet, "fragments that never end".into());
            }
            Ok(Reassembled::More) => {
                self.arriving.push(response.to_vec());
                return self.request(
                    packet.identifier.wrapping_add(1),
                    &Fragment::ACKNOWLEDGEMENT.encode(),
                );
            }
            Ok(Reassembled::Whole(message)) => {
                if let [21, _, _, 0, 2, _, description] = *message {
                    self.alert = Some(description);
                }
            }
        }
        match self.flight(response).await {
            Ok(turn) => turn,
            Err(Broken(reason)) => self.fail(packet, reason),
        }
    }

    /// The peer's flight is whole: the server's turn.
    async fn flight(&mut self, last: &[u8]) -> Result<Turn, Broken> {
        if !self.tls.is_ready().await {
            return Ok(Turn::Busy);
        }
        let mut flight = std::mem::take(&mut self.arriving);
        flight.push(last.to_vec());
        let begins = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Started { identity } => {
                flight.insert(0, identity);
                true
            }
            _ => false,
        };
        let packet = match self.tls.deliver(&flight, begins).await? {
            Reply::Packet(packet) => packet,
            Reply::Discarded => {
                self.phase = Phase::Running {
                    leaving: Vec::new(),
                };
                return Ok(Turn::Discarded);
            }
            Reply::Taken => return Err(self.tls.sick("a flight was taken without an answer")),
        };
        let code = Packet::parse(&packet).map(|(parsed, _)| parsed.code);
        match code {
            Ok(Code::Request) => self.pass_on(packet).await,
            Ok(Code::Success) => self.finish(packet).await,
            Ok(Code::Failure) => Ok(self.refused(packet)),
            _ => Err(self.tls.sick("the answer is no EAP packet")),
        }
    }

    /// The server's flight: its first fragment goes out, the others wait here.
    async fn pass_on(&mut self, first: Vec<u8>) -> Result<Turn, Broken> {
        let mut leaving = self.tls.rest_of(&first).await?;
        self.look_at(std::iter::once(&first).chain(&leaving));
        leaving.reverse();
        self.identifier = first.get(1).copied().unwrap_or_default();
        self.phase = Phase::Running { leaving };
        Ok(Turn::Request(first))
    }

    /// Reads what the server's flight tells in the clear, for the record.
    fn look_at<'p>(&mut self, packets: impl Iterator<Item = &'p Vec<u8>>) {
        let mut flight = Vec::new();
        for packet in packets {
            let fragment = packet.get(5..).and_then(|data| Fragment::parse(data).ok());
            flight.extend_from_slice(fragment.map(|fragment| fragment.data).unwrap_or_default());
        }
        self.hello = self.hello.or_else(|| Hello::read(&flight));
        if let [21, _, _, 0, 2, _, description] = *flight {
            self.alert = Some(description);
        }
    }

    /// EAP-Success: keys, the peer's certificate, policy.
    async fn finish(&mut self, packet: Vec<u8>) -> Result<Turn, Broken> {
        let Ended {
            msk,
            session_id,
            certificate,
        } = self.tls.ended().await?;
        let Identified { name, serial } = certified(&certificate)?;
        if !self.tls.admits(&name) {
            return Err(Broken(format!(
                "policy of {} does not admit {name}",
                self.tls.identity().name
            )));
        }
        let reply = self.tls.reply();
        self.phase = Phase::Over;
        let hello = self.hello.unwrap_or(Hello {
            version: 0,
            suite: 0,
            resumed: false,
        });
        Ok(Turn::Success(Box::new(Success {
            packet,
            msk,
            peer: name,
            certificate: serial,
            reply,
            facts: Facts {
                version: hello.version,
                suite: hello.suite,
                resumed: hello.resumed,
                session_id,
            },
        })))
    }

    fn refused(&mut self, packet: Vec<u8>) -> Turn {
        self.phase = Phase::Over;
        let reason = match self.alert {
            Some(alert) => format!("TLS alert {alert}"),
            None => "TLS refuses".into(),
        };
        Turn::Failure { packet, reason }
    }

    fn request(&mut self, identifier: u8, data: &[u8]) -> Turn {
        self.identifier = identifier;
        Turn::Request(Packet::request(identifier, Type::TLS, data).encode())
    }

    fn fail(&mut self, packet: &Packet<'_>, reason: String) -> Turn {
        self.phase = Phase::Over;
        self.tls.let_go();
        Turn::Failure {
            packet: Packet::failure(packet.identifier).encode(),
            reason,
        }
    }
}

/// What a verified certificate says of its holder.
struct Identified {
    /// The name that policy knows it by: the SPIFFE identifier, or the common name.
    name: String,
    /// Its certificate among those of its issuer.
    serial: CertificateId,
}

/// Reads a certificate that TLS verified. A token in attachment form counts at its hypervisor alone.
fn certified(certificate: &[u8]) -> Result<Identified, Broken> {
    if VmAuthToken::parse(certificate).is_ok_and(|token| token.binding().form == Form::Attachment) {
        return Err(Broken(
            "a token in attachment form is no identity here".into(),
        ));
    }
    let unreadable = |error: gose_proto::identity::CertificateError| {
        Broken(format!("the peer's certificate: {error}"))
    };
    let certificate = Certificate::parse(certificate).map_err(unreadable)?;
    let name = match certificate.spiffe().map_err(unreadable)? {
        Some(spiffe) => spiffe.to_string(),
        // What looks like an identifier must be one.
        None => match certificate.common_name().map_err(unreadable)? {
            name if name.starts_with("spiffe:") => {
                return Err(Broken(
                    "the peer's common name poses as a SPIFFE identifier".into(),
                ));
            }
            name => name.to_owned(),
        },
    };
    Ok(Identified {
        name,
        serial: CertificateId {
            issuer: certificate.issuer().to_vec(),
            serial: certificate.serial().to_vec(),
        },
    })
}
