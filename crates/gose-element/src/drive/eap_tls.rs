//! Host side of the EAP-TLS application (draft-urien-eap-smartcard-25): opening, EAP packets, keys, records.
//!
//! Everything is a [`Script`], so that an element of a remote grid gets a flight as one request. A host that
//! runs scripts itself uses [`scripts`]; [`EapTls`] drives any [`SecureElement`].

pub mod bridge;
pub mod personalisation;
pub mod scripts;

use gose_proto::{
    apdu::StatusWord,
    eap::{Code, Fragment, FragmentError, Packet, PacketError, Type},
};
use zeroize::Zeroizing;

pub use personalisation::{Key, Personalisation, Policy};
pub use scripts::{AID, Opening};

use crate::{ElementError, Outcome, Outcomes, Script, SecureElement, announced};

/// An EAP-TLS application that was opened with its PIN and an identity.
///
/// Fragments of one flight go to and from the element in one script: the acknowledgements between them need
/// no decision, so the host gives them.
pub struct EapTls<'e, E: SecureElement + ?Sized> {
    element: &'e mut E,
    /// Fragments of the flight that is arriving; the last one is still to come.
    arriving: Vec<Vec<u8>>,
    /// Fragments of the element's flight that were not asked for yet, last one first.
    leaving: Vec<Vec<u8>>,
    /// The last packet that was answered, and the answer.
    last: Option<(Vec<u8>, Reply)>,
    /// The next identifier in bridge mode.
    identifier: u8,
}

/// What the element answered to an EAP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Send this packet to the other end.
    Packet(Vec<u8>),
    /// The packet was taken and asks for no answer: EAP-Success.
    Taken,
    /// The packet was silently discarded (`7000`), or is EAP-Success after a failure (`7001`).
    Discarded,
}

impl Reply {
    /// The packet to send, if there is one.
    #[must_use]
    pub fn packet(&self) -> Option<&[u8]> {
        match self {
            Self::Packet(packet) => Some(packet),
            Self::Taken | Self::Discarded => None,
        }
    }

    /// Whether it is EAP-Success or EAP-Failure: the authenticator's last packet.
    #[must_use]
    pub fn end(&self) -> Option<Code> {
        let (packet, _) = Packet::parse(self.packet()?).ok()?;
        matches!(packet.code, Code::Success | Code::Failure).then_some(packet.code)
    }
}

/// How far a handshake with an ordinary TLS server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The server has more to say.
    UnderWay,
    /// The session stands.
    Done,
    /// One end did not accept the other.
    Failed,
}

/// Why the element did not do what the host asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No answer came from the element.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// The bearer's or the operator's PIN is wrong or missing, with the tries left.
    #[error("PIN wrong or missing, {0} tries left")]
    Pin(u8),
    /// No try is left: unblock the PIN with the operator's.
    #[error("PIN blocked; unblock it with the operator PIN")]
    PinBlocked,
    /// The element refused a command.
    #[error("{asked} refused with {sw:?}")]
    Refused {
        /// What the host asked for.
        asked: &'static str,
        /// The element's status word.
        sw: StatusWord,
    },
    /// The packet is no EAP packet.
    #[error("not an EAP packet: {0}")]
    Packet(#[from] PacketError),
    /// The fragments contradict each other.
    #[error("EAP-TLS: {0}")]
    Fragment(#[from] FragmentError),
    /// The element's answer does not have the form of the draft.
    #[error("the element's answer to {0} has a wrong form")]
    Malformed(&'static str),
    /// The element has made no key for this identity alone.
    #[error("the identity has no key of its own in the element; make one first")]
    NoOwnKey,
    /// What was to be written does not fit into its field.
    #[error("{0} is too long for the element's records")]
    TooLong(&'static str),
}

/// What phase 3 needs: cipher suite, key block, sequence numbers.
pub struct SessionKeys {
    /// Protocol version as on the line: 0303 or 0304.
    pub version: u16,
    /// Cipher suite as on the line.
    pub suite: u16,
    /// TLS 1.2: client key, server key, client IV, server IV (RFC 5246, 6.3, cut to need).
    /// TLS 1.3: client and server application traffic secret (RFC 8446, 7.1).
    pub key_block: Zeroizing<Vec<u8>>,
    /// Number of the client's next record.
    pub client_sequence: u64,
    /// Number of the server's next record.
    pub server_sequence: u64,
}

impl<'e, E: SecureElement + ?Sized> EapTls<'e, E> {
    /// Selects the application, verifies the PIN, sets the identity, resets the state: one script.
    /// The element is powered up already.
    ///
    /// # Errors
    /// [`Error::Pin`], [`Error::PinBlocked`], [`Error::Refused`] (`6A82` no such application, `6A88` no such
    /// identity), or no answer.
    pub fn open(element: &'e mut E, opening: &Opening<'_>) -> Result<Self, Error> {
        let outcomes = announced::collect(element, &scripts::open(opening));
        scripts::complete(&outcomes, "opening EAP-TLS", 4)?;
        Ok(Self::on(element))
    }

    /// The application on an element where it was opened before, and nothing else was selected since.
    pub fn on(element: &'e mut E) -> Self {
        Self {
            element,
            arriving: Vec::new(),
            leaving: Vec::new(),
            last: None,
            identifier: 0x14,
        }
    }

    /// Back to the state before the first packet, same identity and PIN.
    ///
    /// # Errors
    /// [`Error::Refused`] or no answer.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.forget();
        self.identifier = 0x14;
        let outcomes = announced::collect(self.element, &scripts::reset_state());
        scripts::last(&outcomes, "Reset-State").map(drop)
    }

    /// Gives the element a packet of the other end. `now` is Unix time in seconds; the element needs it with
    /// EAP-TLS Start (peer) and EAP-Response/Identity (authenticator), and takes it there only.
    ///
    /// # Errors
    /// [`Error`]; the element is then in no conversation, see [`EapTls::reset`].
    pub fn process(&mut self, packet: &[u8], now: Option<u32>) -> Result<Reply, Error> {
        let (parsed, _) = Packet::parse(packet)?;
        if let Some((last, reply)) = &self.last
            && last == packet
        {
            let again = parsed.code == Code::Request;
            return Ok(if again {
                reply.clone()
            } else {
                Reply::Discarded
            });
        }
        if !self.is_expected(&parsed) {
            return Ok(Reply::Discarded);
        }
        let reply = self.answer(&parsed, packet, now)?;
        self.last = Some((packet.to_vec(), reply.clone()));
        Ok(reply)
    }

    /// A response answers the request that was sent last; EAP-Response/Identity begins anew.
    fn is_expected(&self, packet: &Packet<'_>) -> bool {
        match &self.last {
            Some((_, Reply::Packet(request)))
                if packet.code == Code::Response && packet.kind != Some(Type::IDENTITY) =>
            {
                request.get(1) == Some(&packet.identifier)
            }
            _ => true,
        }
    }

    fn answer(
        &mut self,
        parsed: &Packet<'_>,
        packet: &[u8],
        now: Option<u32>,
    ) -> Result<Reply, Error> {
        if parsed.kind == Some(Type::TLS) {
            let fragment = Fragment::parse(parsed.data)?;
            if fragment.is_acknowledgement()
                && let Some(mut next) = self.leaving.pop()
            {
                // It was fetched with a guess of the identifier that the other end would choose.
                if let (Code::Request, Some(identifier)) = (parsed.code, next.get_mut(1)) {
                    *identifier = parsed.identifier;
                }
                return Ok(Reply::Packet(next));
            }
            if fragment.more {
                self.arriving.push(packet.to_vec());
                let collected: usize = self.arriving.iter().map(Vec::len).sum();
                if collected > 2 * gose_proto::eap::Reassembler::LIMIT {
                    self.forget();
                    return Err(FragmentError::TooLong(collected).into());
                }
                return Ok(Reply::Packet(acknowledgement(parsed)));
            }
        }
        self.leaving.clear();
        let mut flight = std::mem::take(&mut self.arriving);
        flight.push(packet.to_vec());
        let outcomes = announced::collect(self.element, &scripts::deliver(&flight, now));
        let reply = scripts::reply(&outcomes)?;
        if let Reply::Packet(first) = &reply {
            self.fetch_rest(first)?;
        }
        Ok(reply)
    }

    /// Fetches the other fragments of a flight whose first one the element just gave.
    fn fetch_rest(&mut self, first: &[u8]) -> Result<(), Error> {
        let script = scripts::fetch_rest(first)?;
        if script.steps.is_empty() {
            return Ok(());
        }
        let outcomes = announced::collect(self.element, &script);
        let mut rest = scripts::bodies(&outcomes, "EAP-TLS acknowledgement", script.steps.len())?;
        rest.reverse();
        self.leaving = rest;
        Ok(())
    }

    fn forget(&mut self) {
        self.arriving.clear();
        self.leaving.clear();
        self.last = None;
    }

    /// The MSK (RFC 5216, 2.3; RFC 9190, 2.3): 64 bytes, after success only.
    ///
    /// # Errors
    /// [`Error::Refused`] with `6985` before success, or no answer.
    pub fn msk(&mut self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let outcomes = announced::collect(self.element, &scripts::msk());
        scripts::last(&outcomes, "Get-Session-Key").map(|o| Zeroizing::new(o.body.clone()))
    }

    /// Moves the session to the host: cipher suite, key block, sequence numbers, in one script. The element
    /// gives the key block once and erases its own copy.
    ///
    /// # Errors
    /// [`Error::Refused`] where the policy forbids it or it happened before, or no answer.
    pub fn session_keys(&mut self) -> Result<SessionKeys, Error> {
        let outcomes = announced::collect(self.element, &scripts::session_keys());
        scripts::read_session_keys(&outcomes)
    }

    /// The MSK and the session's keys, in one script: see [`EapTls::msk`] and [`EapTls::session_keys`].
    ///
    /// # Errors
    /// As those two.
    pub fn keys(&mut self) -> Result<(Zeroizing<Vec<u8>>, SessionKeys), Error> {
        let mut script = scripts::msk();
        script.steps[0].append = true;
        script.steps.extend(scripts::session_keys().steps);
        let mut outcomes = announced::collect(self.element, &script);
        let msk = match outcomes.done.first_mut().and_then(Option::as_mut) {
            Some(outcome) if outcome.expected => Zeroizing::new(std::mem::take(&mut outcome.body)),
            _ => return Err(scripts::refusal(&outcomes, "Get-Session-Key")),
        };
        outcomes.done.remove(0);
        Ok((msk, scripts::read_session_keys(&outcomes)?))
    }

    /// An exported parameter (protocols of the draft, 9.16, and GoSE's own indexes).
    ///
    /// # Errors
    /// [`Error::Refused`] with `6A88` where it is not available, or no answer.
    pub fn exported(&mut self, index: u8) -> Result<Vec<u8>, Error> {
        let outcomes = announced::collect(self.element, &Script::from(scripts::exported(index)));
        scripts::last(&outcomes, "Get-Exported-Parameter").map(|o| o.body.clone())
    }

    /// An application master session key: 64 bytes that the element derives from its EMSK for one usage
    /// (RFC 5295), where the identity's policy lets them out.
    ///
    /// # Errors
    /// As [`EapTls::exported`]; indexes over 6F do not exist.
    pub fn amsk(&mut self, index: u8) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (asked, sw) = ("AMSK", StatusWord::REFERENCED_DATA_NOT_FOUND);
        let index = index
            .checked_add(scripts::AMSK)
            .ok_or(Error::Refused { asked, sw })?;
        self.exported(index).map(Zeroizing::new)
    }

    /// Whether the handshake resumed an earlier session.
    ///
    /// # Errors
    /// As [`EapTls::exported`].
    pub fn is_resumed(&mut self) -> Result<bool, Error> {
        Ok(self.exported(0x85)? == [1])
    }

    /// The peer's certificate that the element verified: DER.
    ///
    /// # Errors
    /// As [`EapTls::exported`].
    pub fn peer_certificate(&mut self) -> Result<Vec<u8>, Error> {
        self.exported(0x84)
    }

    /// Has the element seal each payload (at most 16,384 bytes) as one TLS record of application data, all
    /// in one script.
    ///
    /// # Errors
    /// [`Error::Refused`] with `6985` without a session in the element, or no answer.
    pub fn encrypt(&mut self, payloads: &[&[u8]]) -> Result<Vec<Vec<u8>>, Error> {
        self.convert(payloads, scripts::APPLICATION_DATA, "Process-EAP-Encrypt")
    }

    /// Has the element open TLS records, all in one script; a record without application data gives nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] with `6985` without a session in the element or for a record that does not open,
    /// or no answer.
    pub fn decrypt(&mut self, records: &[&[u8]]) -> Result<Vec<Vec<u8>>, Error> {
        self.convert(records, 0x00, "Process-EAP-Decrypt")
    }

    /// Has the element seal an alert (RFC 8446, 6), as one TLS record: close_notify (1, 0), after which it
    /// still opens records, or a fatal one (2, description), after which its session is over.
    ///
    /// # Errors
    /// [`Error::Refused`] with `6A80` for other alerts, `6985` without a session in the element, or no answer.
    pub fn alert(&mut self, level: u8, description: u8) -> Result<Vec<u8>, Error> {
        const ASKED: &str = "Process-EAP-Encrypt";
        let sealed = self.convert(&[&[level, description]], scripts::ALERT, ASKED)?;
        sealed.into_iter().next().ok_or(Error::Malformed(ASKED))
    }

    fn convert(
        &mut self,
        inputs: &[&[u8]],
        p2: u8,
        asked: &'static str,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut outputs = Vec::with_capacity(inputs.len());
        for group in scripts::groups(inputs) {
            let script = scripts::convert(group, p2);
            let outcomes = announced::collect(self.element, &script);
            let told = scripts::told(&outcomes, &script, asked)?;
            if told.len() != group.len() {
                return Err(Error::Malformed(asked));
            }
            outputs.extend(told);
        }
        Ok(outputs)
    }

    /// Any script on the element, for commands that have no method here.
    pub fn run(&mut self, script: &Script) -> Outcomes {
        announced::collect(self.element, script)
    }
}

/// The packet that asks for the fragment after `fragment`: a response keeps the identifier, a request takes
/// the next one.
fn acknowledgement(fragment: &Packet<'_>) -> Vec<u8> {
    let empty = Fragment::ACKNOWLEDGEMENT.encode();
    match fragment.code {
        Code::Request => Packet::response(fragment.identifier, Type::TLS, &empty),
        _ => Packet::request(fragment.identifier.wrapping_add(1), Type::TLS, &empty),
    }
    .encode()
}

fn body(outcome: &Outcome) -> Vec<u8> {
    outcome.body.clone()
}
