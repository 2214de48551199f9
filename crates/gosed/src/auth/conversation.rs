//! One EAP-TLS conversation between a peer and a server element.
//!
//! Host and element share the work so that the element is asked seldom, in scripts: the host answers the peer's
//! identity with EAP-TLS Start, acknowledges the peer's fragments and hands out the element's; the element gets whole
//! flights. It is taken only when the peer's first TLS message is there, so that silent peers and those that want
//! another method cost no element.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use gose_element::{
    Outcomes, Script, Seid, announced,
    drive::eap_tls::{Reply, scripts},
};
use gose_proto::{
    eap::{Code, Fragment, Hello, Packet, Reassembled, Reassembler, Type},
    identity::{Certificate, Form, VmAuthToken},
};
use zeroize::Zeroizing;

use super::{
    EapConversation, Facts, Pending, Success, Turn,
    pool::{Acquaintance, Claim, Members},
};
use crate::grid::{Lease, Ran, Refusal};

/// Fragments that a flight of the peer may have.
const MAX_FRAGMENTS: usize = 700;

/// A conversation.
pub struct Conversation {
    members: Arc<Members>,
    acquaintance: Acquaintance,
    phase: Phase,
    /// Identifier of the request that is open.
    identifier: u8,
    /// Fragments of the flight that is arriving.
    arriving: Vec<Vec<u8>>,
    /// What those fragments say together.
    joined: Reassembler,
    claimed: Option<Claimed>,
    hello: Option<Hello>,
    /// The last alert that went over the line in the clear.
    alert: Option<u8>,
}

/// What a conversation holds of the pool; gives it back when it is dropped.
struct Claimed {
    members: Arc<Members>,
    seid: Seid,
    claim: Arc<Claim>,
    took: Duration,
    healthy: bool,
}

enum Phase {
    /// Nothing came yet.
    Idle,
    /// The peer was told to start; its identity waits for an element.
    Started { identity: Vec<u8> },
    /// TLS runs in the element.
    Running {
        /// Fragments of the element's flight that the peer did not ask for yet, last one first.
        leaving: Vec<Vec<u8>>,
    },
    /// A verdict is out.
    Over,
}

/// Why a conversation fails.
struct Broken(String);

impl Drop for Claimed {
    fn drop(&mut self) {
        self.members
            .give_back(self.seid, &self.claim, self.took, self.healthy);
    }
}

impl EapConversation for Conversation {
    fn receive<'a>(&'a mut self, response: &'a [u8]) -> Pending<'a, Turn> {
        Box::pin(self.take(response))
    }

    fn element(&self) -> String {
        self.claimed
            .as_ref()
            .map(|claimed| claimed.seid.to_string())
            .unwrap_or_default()
    }
}

impl Conversation {
    pub(super) fn new(members: Arc<Members>, acquaintance: Acquaintance) -> Self {
        Self {
            members,
            acquaintance,
            phase: Phase::Idle,
            identifier: 0,
            arriving: Vec::new(),
            joined: Reassembler::default(),
            claimed: None,
            hello: None,
            alert: None,
        }
    }

    /// Runs a script on the element after EAP-Success, for as long as this conversation holds it: keys for
    /// the session, records.
    ///
    /// # Errors
    /// Why not, for the record: no success yet, the element failed, or another conversation has it.
    pub async fn use_element(&mut self, script: Script) -> Result<Outcomes, String> {
        if !matches!(self.phase, Phase::Over) || self.claimed.is_none() {
            return Err("the conversation has no element".into());
        }
        let done = self.run(false, script).await;
        done.map_err(|Broken(reason)| reason)
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

    /// The peer's flight is whole: the element's turn.
    async fn flight(&mut self, last: &[u8]) -> Result<Turn, Broken> {
        if self.claimed.is_none() && !self.claim().await {
            return Ok(Turn::Busy);
        }
        let mut flight = std::mem::take(&mut self.arriving);
        flight.push(last.to_vec());
        let reply = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Started { identity } => {
                flight.insert(0, identity);
                self.deliver(&flight, true).await?
            }
            _ => self.deliver(&flight, false).await?,
        };
        let packet = match reply {
            Reply::Packet(packet) => packet,
            Reply::Discarded => {
                self.phase = Phase::Running {
                    leaving: Vec::new(),
                };
                return Ok(Turn::Discarded);
            }
            Reply::Taken => return Err(self.sick("the element took a flight without an answer")),
        };
        let code = Packet::parse(&packet).map(|(parsed, _)| parsed.code);
        match code {
            Ok(Code::Request) => self.pass_on(packet).await,
            Ok(Code::Success) => self.finish(packet).await,
            Ok(Code::Failure) => Ok(self.refused(packet)),
            _ => Err(self.sick("the element's answer is no EAP packet")),
        }
    }

    async fn claim(&mut self) -> bool {
        let Some((seid, claim)) = self.members.claim(self.acquaintance).await else {
            return false;
        };
        let members = self.members.clone();
        self.claimed = Some(Claimed {
            members,
            seid,
            claim,
            took: Duration::ZERO,
            healthy: true,
        });
        true
    }

    /// Packets to the element, opened first where it begins with this conversation.
    async fn deliver(&mut self, packets: &[Vec<u8>], begins: bool) -> Result<Reply, Broken> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|time| time.as_secs())
            .unwrap_or_default();
        let deliver = scripts::deliver(packets, u32::try_from(now).ok());
        let outcomes = self.run(begins, deliver).await?;
        scripts::reply(&outcomes).map_err(|error| self.sick(&error.to_string()))
    }

    /// Runs a script on the element, behind its opening where the conversation begins.
    async fn run(&mut self, begins: bool, script: Script) -> Result<Outcomes, Broken> {
        let Some(claimed) = &mut self.claimed else {
            return Err(Broken("no element".into()));
        };
        let mut place = claimed.claim.held.lock().await;
        let Some(held) = place.as_mut() else {
            return Err(Broken(
                "the element was given to another conversation: the peer was silent".into(),
            ));
        };
        let mut steps = if begins {
            self.members.opening(held)
        } else {
            Vec::new()
        };
        let opening = steps.len();
        steps.extend(script.steps);
        if steps.len() > Script::MAX_STEPS {
            return Err(Broken("a flight of too many fragments".into()));
        }
        let begun = Instant::now();
        let Ran { mut done, refused } = run_announced(&mut held.lease, Script::new(steps)).await;
        claimed.took += begun.elapsed();
        claimed.claim.used_now();
        let opened = done.len() > opening;
        held.opened |= opened;
        if let Some(refusal) = refused {
            claimed.healthy = false;
            return Err(Broken(format!("element: {refusal}")));
        }
        if !opened {
            claimed.healthy = false;
            let sw = done
                .last()
                .and_then(Option::as_ref)
                .map(|outcome| outcome.sw);
            return Err(Broken(format!(
                "the element does not open ({sw:?}); look at its PIN and its identity's label"
            )));
        }
        done.drain(..opening);
        Ok(Outcomes { done, failed: None })
    }

    /// The element's flight: its first fragment goes out, the others wait here.
    async fn pass_on(&mut self, first: Vec<u8>) -> Result<Turn, Broken> {
        let rest = scripts::fetch_rest(&first).map_err(|error| self.sick(&error.to_string()))?;
        let mut leaving = Vec::new();
        if !rest.steps.is_empty() {
            let expected = rest.steps.len();
            let outcomes = self.run(false, rest).await?;
            leaving.extend(
                outcomes
                    .done
                    .into_iter()
                    .flatten()
                    .map(|outcome| outcome.body),
            );
            if leaving.len() != expected {
                return Err(self.sick("fragments of the element are missing"));
            }
        }
        self.look_at(std::iter::once(&first).chain(&leaving));
        leaving.reverse();
        self.identifier = first.get(1).copied().unwrap_or_default();
        self.phase = Phase::Running { leaving };
        Ok(Turn::Request(first))
    }

    /// Reads what the element's flight tells in the clear, for the record.
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

    /// EAP-Success of the element: keys, the peer's certificate, policy.
    async fn finish(&mut self, packet: Vec<u8>) -> Result<Turn, Broken> {
        let mut steps = scripts::msk().steps;
        steps.extend([
            scripts::exported(SESSION_ID),
            scripts::exported(PEER_CERTIFICATE),
        ]);
        let script = Script::new(steps.into_iter().map(gose_element::Step::append).collect());
        let outcomes = self.run(false, script).await?;
        let told: Vec<Zeroizing<Vec<u8>>> = outcomes
            .done
            .into_iter()
            .flatten()
            .filter(|o| o.sw.value() == 0x9000)
            .map(|o| Zeroizing::new(o.body))
            .collect();
        let [msk, session_id, certificate] = told.as_slice() else {
            return Err(self.sick("the element does not give keys and certificate"));
        };
        let msk = <[u8; 64]>::try_from(msk.as_slice())
            .map_err(|_| self.sick("the element's MSK has not 64 bytes"))?;
        let msk = Zeroizing::new(msk);
        let peer = certified_name(certificate)?;
        if !self.members.admits(&peer) {
            return Err(Broken(format!(
                "policy of {} does not admit {peer}",
                self.members.identity.name
            )));
        }
        self.phase = Phase::Over;
        let hello = self.hello.unwrap_or(Hello {
            version: 0,
            suite: 0,
            resumed: false,
        });
        Ok(Turn::Success(Box::new(Success {
            packet,
            msk,
            peer,
            reply: self.members.reply(),
            facts: Facts {
                version: hello.version,
                suite: hello.suite,
                resumed: hello.resumed,
                session_id: session_id.to_vec(),
            },
        })))
    }

    fn refused(&mut self, packet: Vec<u8>) -> Turn {
        self.phase = Phase::Over;
        let reason = match self.alert {
            Some(alert) => format!("TLS alert {alert}"),
            None => "the element refuses".into(),
        };
        Turn::Failure { packet, reason }
    }

    /// An element that does not do what it should rests.
    fn sick(&mut self, reason: &str) -> Broken {
        if let Some(claimed) = &mut self.claimed {
            claimed.healthy = false;
        }
        Broken(reason.into())
    }

    fn request(&mut self, identifier: u8, data: &[u8]) -> Turn {
        self.identifier = identifier;
        Turn::Request(Packet::request(identifier, Type::TLS, data).encode())
    }

    fn fail(&mut self, packet: &Packet<'_>, reason: String) -> Turn {
        self.phase = Phase::Over;
        self.claimed = None;
        Turn::Failure {
            packet: Packet::failure(packet.identifier).encode(),
            reason,
        }
    }
}

/// Get-Exported-Parameter: Session-Id, and the certificate that the element verified.
const SESSION_ID: u8 = 0x04;
const PEER_CERTIFICATE: u8 = 0x84;

/// The name that policy knows a peer by: the SPIFFE identifier, or the common name. A token in attachment form
/// counts at its hypervisor alone.
fn certified_name(certificate: &[u8]) -> Result<String, Broken> {
    if VmAuthToken::parse(certificate).is_ok_and(|token| token.binding().form == Form::Attachment) {
        return Err(Broken(
            "a token in attachment form is no identity here".into(),
        ));
    }
    let unreadable = |error: gose_proto::identity::CertificateError| {
        Broken(format!("the peer's certificate: {error}"))
    };
    let certificate = Certificate::parse(certificate).map_err(unreadable)?;
    match certificate.spiffe().map_err(unreadable)? {
        Some(spiffe) => Ok(spiffe.to_string()),
        // What looks like an identifier must be one.
        None => match certificate.common_name().map_err(unreadable)? {
            name if name.starts_with("spiffe:") => Err(Broken(
                "the peer's common name poses as a SPIFFE identifier".into(),
            )),
            name => Ok(name.to_owned()),
        },
    }
}

/// A script on a leased element; what the card announces by `9Fxx` is fetched too.
async fn run_announced(lease: &mut Lease, script: Script) -> Ran {
    let Ran { done, mut refused } = lease.run(script.clone()).await;
    let mut outcomes = Outcomes { done, failed: None };
    while refused.is_none()
        && let Some(fetching) = announced::fetch(&script, &outcomes)
    {
        let ran = lease.run(fetching).await;
        let fetched = Outcomes {
            done: ran.done,
            failed: None,
        };
        announced::join(&script, &mut outcomes, fetched);
        refused = ran
            .refused
            .or_else(|| outcomes.failed.take().map(Refusal::Element));
        if refused.is_none()
            && let Some(rest) = announced::rest(&script, &outcomes)
        {
            let ran = lease.run(rest).await;
            outcomes.done.extend(ran.done);
            refused = ran.refused;
        }
    }
    Ran {
        done: outcomes.done,
        refused,
    }
}
