//! What a guest's programs use: elements of a grid as remote readers, the ten functions of the paper.
//!
//! [`Middleware`] is a session with a node; a reader is an element that the node lists for this client. The
//! EAP-TLS application in it does the handshake; the host carries packets, and takes cipher suite and key
//! block when the handshake is done.

mod configuration;
mod error;
mod secret;

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use gose_element::{
    Atr, Outcome, Script, SecureElement, Seid, Step,
    drive::eap_tls::{Opening, Reply, scripts},
};
use gose_proto::{
    apdu::StatusWord,
    eap::{Code, Fragment, Fragmenter, Packet, Reassembled, Reassembler, Type},
    racs::Request,
};
use serde::Deserialize;
use zeroize::Zeroizing;

pub use configuration::{Grid, Key};
pub use error::MiddlewareError;
pub use secret::Source;

use crate::{Error, RemoteElement, SharedSession};

/// TLS data of one EAP-TLS fragment towards an element.
const FRAGMENT: usize = 1398;

/// The identifier before the first packet of a conversation that this side begins.
const FIRST: u8 = 0x13;

/// A session with a node, and its elements as readers.
pub struct Middleware {
    session: SharedSession,
    readers: Vec<Reader>,
}

struct Reader {
    seid: Seid,
    element: RemoteElement,
    /// The identifier of the last EAP packet, in either direction.
    identifier: u8,
    /// What an element's flight adds up to.
    arriving: Reassembler,
}

/// Which transmission protocol a reader must speak, judged by its answer to reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Whichever.
    Any,
    /// T=0
    T0,
    /// T=1
    T1,
}

/// What a packet of an element says (RFC 3748, 4; RFC 5216, 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Request, response, success or failure.
    pub code: Code,
    /// The packet's identifier.
    pub identifier: u8,
    /// The method; none in success and failure.
    pub kind: Option<u8>,
    /// Whether further fragments follow: ask for them by an acknowledgement.
    pub more: bool,
    /// TLS records of the whole flight, with its last fragment.
    pub records: Vec<u8>,
}

/// The key block and what goes on after it; see
/// [`SessionKeys`](gose_element::drive::eap_tls::SessionKeys).
pub struct KeyBlock {
    /// TLS 1.2: keys and IVs; TLS 1.3: both application traffic secrets.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Number of the client's next record.
    pub client_sequence: u64,
    /// Number of the server's next record.
    pub server_sequence: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    grid: Grid,
}

impl Middleware {
    /// A node as a configuration file says: `version = 1` and the table `[grid]`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`MiddlewareError::Node`] with what is wrong in the file.
    pub fn open(path: &Path) -> Result<Self, MiddlewareError> {
        let wrong = |cause: String| Error::File {
            path: path.to_owned(),
            cause,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.version != 1 {
            return Err(wrong("`version` is not 1".into()).into());
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        Ok(Self::at(SharedSession::at(file.grid.endpoint(folder)?)))
    }

    /// Over a session with a node.
    #[must_use]
    pub fn at(session: SharedSession) -> Self {
        Self {
            session,
            readers: Vec::new(),
        }
    }

    /// SCard_list_remote_reader: the elements that this client may use, in the node's order. Positions in it
    /// are the readers' indexes until the next call.
    ///
    /// # Errors
    /// [`MiddlewareError::Node`].
    pub fn list(&mut self) -> Result<Vec<Seid>, MiddlewareError> {
        let mut request = Request::new();
        request.list().map_err(Error::from)?;
        let (_, response) = self.session.ask(None, request)?;
        let status = response.decide().map_err(Error::from)?;
        let seids = match status {
            Some(status) => status.seids().map_err(Error::from)?,
            None => Vec::new(),
        };
        let mut before = std::mem::take(&mut self.readers);
        for seid in &seids {
            let known = before.iter().position(|reader| reader.seid == *seid);
            let reader = match known {
                Some(at) => before.swap_remove(at),
                None => Reader {
                    seid: *seid,
                    element: RemoteElement::sharing(self.session.clone(), *seid),
                    identifier: FIRST,
                    arriving: Reassembler::default(),
                },
            };
            self.readers.push(reader);
        }
        Ok(seids)
    }

    /// SCard_init_remote_reader: powers the element up, selects the application, shows the PIN, chooses the
    /// identity. Gives how many readers there are.
    ///
    /// # Errors
    /// [`MiddlewareError::Protocol`] where the element speaks another one; [`MiddlewareError::Pin`],
    /// [`MiddlewareError::Card`].
    pub fn init(
        &mut self,
        index: usize,
        aid: &[u8],
        identity: &str,
        pin: &[u8],
        protocol: Protocol,
    ) -> Result<usize, MiddlewareError> {
        let seid = self.reader(index)?.seid;
        let seids = self.list()?;
        if seids.get(index) != Some(&seid) {
            return Err(MiddlewareError::Index);
        }
        let reader = self.reader(index)?;
        let atr = reader.element.power_on()?;
        if !speaks(&atr, protocol) {
            return Err(MiddlewareError::Protocol);
        }
        let mut script = scripts::open(&Opening { aid, pin, identity });
        // Reset-State belongs to the first packet.
        script.steps.truncate(3);
        let outcomes = reader.element.run(&script);
        if !outcomes.complete(3) {
            return Err(MiddlewareError::of(&outcomes));
        }
        (reader.identifier, reader.arriving) = (FIRST, Reassembler::default());
        Ok(seids.len())
    }

    /// SCard_connect_remote_reader: powers the element up for this session.
    ///
    /// # Errors
    /// [`MiddlewareError::Element`].
    pub fn connect(&mut self, index: usize) -> Result<Atr, MiddlewareError> {
        Ok(self.reader(index)?.element.power_on()?)
    }

    /// SCard_disconnect_remote_reader: powers the element down, others may use it.
    ///
    /// # Errors
    /// [`MiddlewareError::Index`].
    pub fn disconnect(&mut self, index: usize) -> Result<(), MiddlewareError> {
        self.reader(index)?.element.power_off();
        Ok(())
    }

    /// SCard_start_remote_eap: a new conversation, begun by this packet; gives the element's answer.
    ///
    /// # Errors
    /// [`MiddlewareError::Discarded`] and the element's.
    pub fn start_eap(&mut self, index: usize, packet: &[u8]) -> Result<Vec<u8>, MiddlewareError> {
        let reader = self.reader(index)?;
        reader.arriving = Reassembler::default();
        let mut script = scripts::reset_state();
        script
            .steps
            .extend(scripts::deliver(&[packet.to_vec()], now()).steps);
        reader.exchange(&script)
    }

    /// SCard_send_remote_apdu_cmd: any command; what the element has more (`61xx`) is fetched.
    ///
    /// # Errors
    /// [`MiddlewareError::Element`]. A refusal of the card is an answer.
    pub fn send_apdu(
        &mut self,
        index: usize,
        apdu: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, StatusWord), MiddlewareError> {
        let reader = self.reader(index)?;
        let class = apdu.first().copied().unwrap_or_default();
        let mut outcomes = reader
            .element
            .run(&Step::new(apdu).collect([class, 0xC0, 0, 0]).into());
        match outcomes.done.pop().flatten() {
            Some(Outcome { body, sw, .. }) => Ok((Zeroizing::new(body), sw)),
            None => Err(MiddlewareError::of(&outcomes)),
        }
    }

    /// SCard_process_eap_tls_packet: gives the element TLS records of the other end, wrapped into EAP-TLS
    /// packets, in one request; nothing asks for the next fragment of the element's flight. An EAP packet
    /// goes as it is. Gives the element's packet.
    ///
    /// # Errors
    /// As [`Middleware::start_eap`].
    pub fn process_eap_tls(
        &mut self,
        index: usize,
        tls: &[u8],
    ) -> Result<Vec<u8>, MiddlewareError> {
        let reader = self.reader(index)?;
        let packets = match Packet::parse(tls) {
            // The content types of TLS (20 to 24) are no codes of EAP (1 to 4).
            Ok((packet, _)) if tls.first().is_some_and(|code| (1..=4).contains(code)) => {
                reader.identifier = packet.identifier;
                vec![tls.to_vec()]
            }
            _ => reader.wrap(tls),
        };
        let script = scripts::deliver(&packets, now());
        reader.exchange(&script)
    }

    /// SCard_parse_rw_message: what a packet of an element says, and the TLS records of its flight when that
    /// is whole.
    ///
    /// # Errors
    /// [`MiddlewareError::Message`].
    pub fn parse(&mut self, index: usize, message: &[u8]) -> Result<Message, MiddlewareError> {
        let reader = self.reader(index)?;
        let wrong = |_| MiddlewareError::Message;
        let (packet, _) = Packet::parse(message).map_err(|_| MiddlewareError::Message)?;
        let mut parsed = Message {
            code: packet.code,
            identifier: packet.identifier,
            kind: packet.kind.map(|kind| kind.0),
            more: false,
            records: Vec::new(),
        };
        if packet.kind == Some(Type::TLS) {
            let fragment = Fragment::parse(packet.data).map_err(wrong)?;
            match reader.arriving.receive(&fragment).map_err(wrong)? {
                Reassembled::Whole(records) => {
                    reader.arriving = Reassembler::default();
                    parsed.records = records;
                }
                Reassembled::More => parsed.more = true,
            }
        }
        Ok(parsed)
    }

    /// SCard_get_remote_cipher_suite: version and suite as on the line.
    ///
    /// # Errors
    /// [`MiddlewareError::Card`] before the handshake is done.
    pub fn cipher_suite(&mut self, index: usize) -> Result<(u16, u16), MiddlewareError> {
        let values = self.exported(index, &[0x80])?;
        match values.first().map(|value| value.as_slice()) {
            Some(&[v1, v2, s1, s2]) => {
                Ok((u16::from_be_bytes([v1, v2]), u16::from_be_bytes([s1, s2])))
            }
            _ => Err(MiddlewareError::Message),
        }
    }

    /// SCard_get_remote_key_block: once; the element then has it no more.
    ///
    /// # Errors
    /// [`MiddlewareError::Card`] where the identity forbids it, or it was given before.
    pub fn key_block(&mut self, index: usize) -> Result<KeyBlock, MiddlewareError> {
        let values = self.exported(index, &[0x81, 0x82])?;
        let [bytes, numbers] = <[_; 2]>::try_from(values).map_err(|_| MiddlewareError::Message)?;
        let (client, server) = numbers
            .split_first_chunk::<8>()
            .and_then(|(client, rest)| Some((client, rest.first_chunk::<8>()?)))
            .ok_or(MiddlewareError::Message)?;
        Ok(KeyBlock {
            client_sequence: u64::from_be_bytes(*client),
            server_sequence: u64::from_be_bytes(*server),
            bytes,
        })
    }

    fn exported(
        &mut self,
        index: usize,
        indexes: &[u8],
    ) -> Result<Vec<Zeroizing<Vec<u8>>>, MiddlewareError> {
        let steps = indexes
            .iter()
            .map(|index| scripts::exported(*index).append());
        let script = Script::new(steps.collect());
        let outcomes = self.reader(index)?.element.run(&script);
        if !outcomes.complete(indexes.len()) {
            return Err(MiddlewareError::of(&outcomes));
        }
        let bodies = outcomes.done.into_iter().flatten();
        Ok(bodies.map(|outcome| Zeroizing::new(outcome.body)).collect())
    }

    fn reader(&mut self, index: usize) -> Result<&mut Reader, MiddlewareError> {
        self.readers.get_mut(index).ok_or(MiddlewareError::Index)
    }
}

impl Reader {
    /// EAP-TLS requests with these records; an acknowledgement where there are none.
    fn wrap(&mut self, records: &[u8]) -> Vec<Vec<u8>> {
        let mut fragmenter = Fragmenter::new(records.to_vec(), FRAGMENT);
        let mut packets = Vec::new();
        while let Some(data) = fragmenter.next_fragment() {
            self.identifier = self.identifier.wrapping_add(1);
            packets.push(Packet::request(self.identifier, Type::TLS, &data).encode());
        }
        packets
    }

    fn exchange(&mut self, script: &Script) -> Result<Vec<u8>, MiddlewareError> {
        let outcomes = self.element.run(script);
        match scripts::reply(&outcomes) {
            Ok(Reply::Packet(packet)) => {
                if let Ok((parsed, _)) = Packet::parse(&packet) {
                    self.identifier = parsed.identifier;
                }
                Ok(packet)
            }
            Ok(Reply::Taken) => Ok(Vec::new()),
            Ok(Reply::Discarded) => Err(MiddlewareError::Discarded),
            Err(_) => Err(MiddlewareError::of(&outcomes)),
        }
    }
}

fn now() -> Option<u32> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u32::try_from(since.as_secs()).ok()
}

/// The protocols of an answer to reset (ISO/IEC 7816-3, 8.2.3): T=0 where it names none.
fn speaks(atr: &Atr, protocol: Protocol) -> bool {
    let wanted = match protocol {
        Protocol::Any => return true,
        Protocol::T0 => 0,
        Protocol::T1 => 1,
    };
    let bytes = atr.as_bytes();
    let mut offered = Vec::new();
    let mut at = 1;
    while let Some(head) = bytes.get(at) {
        // TA, TB, TC, and TD, which says what follows.
        at += (head >> 4 & 0x07).count_ones() as usize + 1;
        if head & 0x80 == 0 {
            break;
        }
        offered.extend(bytes.get(at).map(|next| next & 0x0F));
    }
    if offered.is_empty() {
        offered.push(0);
    }
    offered.contains(&wanted)
}

#[cfg(test)]
mod tests {
    use gose_proto::hex;

    use super::*;

    #[test]
    fn protocols_of_answers_to_reset() {
        let check = |atr: &str, t0: bool, t1: bool| {
            let atr = Atr::new(&hex::decode(atr).unwrap()).unwrap();
            assert!(speaks(&atr, Protocol::Any));
            assert_eq!(speaks(&atr, Protocol::T0), t0);
            assert_eq!(speaks(&atr, Protocol::T1), t1);
        };
        check("3B00", true, false);
        check("3B80800101", true, true);
        check("3B8101AA", false, true);
        check(
            "3B9F95810131FE9F006646530551003271DF000000000002",
            false,
            true,
        );
    }
}
