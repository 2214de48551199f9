//! The scripts of the EAP-TLS application, and how their outcomes read.

use gose_proto::{
    apdu::{Command, StatusWord},
    eap::{Code, Fragment, Packet, Type},
};
use zeroize::Zeroizing;

use super::{Error, Reply, SessionKeys, body};
use crate::{Fetch, Outcome, Outcomes, Script, Step};

/// AID of GoSE's EAP-TLS application (unregistered).
pub const AID: [u8; 9] = [0xF0, 0x47, 0x4F, 0x53, 0x45, 0x45, 0x41, 0x50, 0x01];

/// GET RESPONSE of the draft's class.
pub const FETCH: Fetch = [0xA0, 0xC0, 0x00, 0x00];

/// P2 of Process-EAP-Encrypt for application data.
pub const APPLICATION_DATA: u8 = 0x80 | 23;

/// P2 of Process-EAP-Encrypt for an alert.
pub const ALERT: u8 = 0x80 | 21;

/// Exported parameter of AMSK 0; the others follow.
pub const AMSK: u8 = 0x90;

/// Data bytes of one Process-EAP piece.
const PIECE: usize = 255;

/// What opening the application needs.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// Application identifier, full or partial; [`AID`] for GoSE's own elements.
    pub aid: &'a [u8],
    /// The bearer's PIN, at most eight bytes.
    pub pin: &'a [u8],
    /// The identity's label.
    pub identity: &'a str,
}

impl<'a> Opening<'a> {
    /// An opening of GoSE's own application.
    #[must_use]
    pub fn new(pin: &'a [u8], identity: &'a str) -> Self {
        Self {
            aid: &AID,
            pin,
            identity,
        }
    }
}

fn apdu(header: [u8; 4], data: &[u8]) -> Zeroizing<Vec<u8>> {
    let [cla, ins, p1, p2] = header;
    // Data over 65,535 bytes cannot be written; the empty APDU is then refused by the element's line.
    let command = Command::new(cla, ins, p1, p2).with_data(data);
    Zeroizing::new(command.encode().unwrap_or_default())
}

fn step(header: [u8; 4], data: &[u8]) -> Step {
    let mut step = Step::new(Vec::new());
    step.apdu = apdu(header, data);
    step.expect_normal()
}

/// SELECT, VERIFY, Set-Identity, Reset-State: four steps.
#[must_use]
pub fn open(opening: &Opening<'_>) -> Script {
    Script::new(vec![
        step([0x00, 0xA4, 0x04, 0x00], opening.aid),
        verify(0x00, opening.pin),
        step([0xA0, 0x16, 0x00, 0x80], opening.identity.as_bytes()),
        step([0xA0, 0x19, 0x10, 0x00], &[]),
    ])
}

/// VERIFY of the bearer's (00) or the operator's (01) PIN, padded with FF to eight bytes.
#[must_use]
pub fn verify(which: u8, pin: &[u8]) -> Step {
    step([0xA0, 0x20, 0x00, which], &padded(pin))
}

/// CHANGE of the bearer's (00) or the operator's (01) PIN.
#[must_use]
pub fn change_pin(which: u8, old: &[u8], new: &[u8]) -> Step {
    let mut data = padded(old);
    data.extend_from_slice(&padded(new));
    step([0xA0, 0x24, 0x00, which], &data)
}

/// A PIN over eight bytes stays as it is: the element answers `6700`.
fn padded(pin: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(pin.to_vec());
    padded.resize(pin.len().max(8), 0xFF);
    padded
}

/// Reset-State.
#[must_use]
pub fn reset_state() -> Script {
    step([0xA0, 0x19, 0x10, 0x00], &[]).into()
}

/// Get-State.
#[must_use]
pub fn state() -> Script {
    Step::new([0xA0, 0x19, 0x00, 0x00, 0x01])
        .expect_normal()
        .into()
}

/// Get-Session-Key: the MSK.
#[must_use]
pub fn msk() -> Script {
    let mut step = Step::new([0xA0, 0xA6, 0x00, 0x00, 0x40]);
    step = step.expect_normal().collect(FETCH);
    step.into()
}

/// Get-Exported-Parameter.
#[must_use]
pub fn exported(index: u8) -> Step {
    step([0xA0, 0x86, 0x00, 0x00], &[index]).collect(FETCH)
}

/// Cipher suite, key block, sequence numbers: three steps, each told.
#[must_use]
pub fn session_keys() -> Script {
    let steps = [0x80, 0x81, 0x82].map(|index| exported(index).append());
    Script::new(steps.to_vec())
}

/// Process-EAP of one packet, in pieces. `now` goes with the packets that take it.
#[must_use]
pub fn process(packet: &[u8], now: Option<u32>) -> Vec<Step> {
    let mut data = packet.to_vec();
    if let (Some(now), true) = (now, takes_time(packet)) {
        data.extend_from_slice(&now.to_be_bytes());
    }
    pieces(&data, 0x00)
}

/// EAP-TLS Start and EAP-Response/Identity.
fn takes_time(packet: &[u8]) -> bool {
    let Ok((packet, _)) = Packet::parse(packet) else {
        return false;
    };
    match (packet.code, packet.kind) {
        (Code::Response, Some(Type::IDENTITY)) => true,
        (Code::Request, Some(Type::TLS)) => Fragment::parse(packet.data).is_ok_and(|f| f.start),
        _ => false,
    }
}

fn pieces(data: &[u8], p2: u8) -> Vec<Step> {
    let mut pieces: Vec<&[u8]> = data.chunks(PIECE).collect();
    let last = pieces.pop().unwrap_or_default();
    let mut steps: Vec<Step> = pieces
        .into_iter()
        .map(|piece| step([0xA0, 0x80, 0x01, p2], piece))
        .collect();
    steps.push(step([0xA0, 0x80, 0x00, p2], last).collect(FETCH));
    steps
}

/// All packets of a flight. The status word of the last one is taken as it comes: see [`reply`].
#[must_use]
pub fn deliver(packets: &[Vec<u8>], now: Option<u32>) -> Script {
    let mut steps: Vec<Step> = packets
        .iter()
        .flat_map(|packet| process(packet, now))
        .collect();
    if let Some(last) = steps.last_mut() {
        last.expect = None;
    }
    Script::new(steps)
}

/// The acknowledgements that fetch the other fragments of a flight, each told; no step where `first` is the
/// whole flight.
///
/// # Errors
/// [`Error::Malformed`] when `first` is no EAP-TLS packet or its fragments would be too many.
pub fn fetch_rest(first: &[u8]) -> Result<Script, Error> {
    const ASKED: &str = "Process-EAP";
    let (packet, _) = Packet::parse(first)?;
    if packet.kind != Some(Type::TLS) {
        return Ok(Script::default());
    }
    let fragment = Fragment::parse(packet.data)?;
    if !fragment.more {
        return Ok(Script::default());
    }
    let size = fragment.data.len();
    let total = fragment
        .length
        .map_or(0, |l| usize::try_from(l).unwrap_or(usize::MAX));
    if size == 0 || total <= size || total > gose_proto::eap::Reassembler::LIMIT {
        return Err(Error::Malformed(ASKED));
    }
    let mut packet = packet;
    let mut steps = Vec::new();
    for _ in 1..total.div_ceil(size) {
        let asking = super::acknowledgement(&packet);
        packet.identifier = packet.identifier.wrapping_add(1);
        steps.extend(process(&asking, None).into_iter().map(Step::append));
    }
    if steps.len() > Script::MAX_STEPS {
        return Err(Error::Malformed(ASKED));
    }
    Ok(Script::new(steps))
}

/// Process-EAP-Encrypt (`p2` = 80 | content type) or -Decrypt (`p2` = 0) of each input, each told.
#[must_use]
pub fn convert(inputs: &[&[u8]], p2: u8) -> Script {
    let mut steps = Vec::new();
    for input in inputs {
        steps.extend(pieces(input, p2));
        if let Some(last) = steps.last_mut() {
            last.append = true;
        }
    }
    Script::new(steps)
}

/// Inputs in groups that fit into one script each: steps, and bytes of a response.
#[must_use]
pub fn groups<'i, 'b>(inputs: &'i [&'b [u8]]) -> Vec<&'i [&'b [u8]]> {
    /// Hexadecimal answers of one request stay under the 1 MiB that a grid keeps.
    const MAX_BYTES: usize = 400_000;
    let mut groups = Vec::new();
    let mut start = 0;
    let (mut steps, mut bytes) = (0, 0);
    for (index, input) in inputs.iter().enumerate() {
        let needed = input.len().div_ceil(PIECE).max(1);
        if index > start && (steps + needed > Script::MAX_STEPS || bytes + input.len() > MAX_BYTES)
        {
            groups.push(&inputs[start..index]);
            (start, steps, bytes) = (index, 0, 0);
        }
        steps += needed;
        bytes += input.len();
    }
    if start < inputs.len() {
        groups.push(&inputs[start..]);
    }
    groups
}

/// What the element answered to [`deliver`].
///
/// # Errors
/// [`Error`] for any status word but `9000`, `7000` and `7001`.
pub fn reply(outcomes: &Outcomes) -> Result<Reply, Error> {
    let outcome = match outcomes.last() {
        Some(outcome) if outcomes.failed.is_none() => outcome,
        _ => return Err(refusal(outcomes, "Process-EAP")),
    };
    match outcome.sw {
        StatusWord::NORMAL if outcome.body.is_empty() => Ok(Reply::Taken),
        StatusWord::NORMAL => Ok(Reply::Packet(body(outcome))),
        StatusWord::EAP_PACKET_DISCARDED | StatusWord::EAP_AUTHENTICATION_FAILURE => {
            Ok(Reply::Discarded)
        }
        _ => Err(refusal(outcomes, "Process-EAP")),
    }
}

/// Reads the outcomes of [`session_keys`].
///
/// # Errors
/// [`Error::Refused`], or [`Error::Malformed`] for fields of a wrong length.
pub fn read_session_keys(outcomes: &Outcomes) -> Result<SessionKeys, Error> {
    const ASKED: &str = "key block";
    let values = bodies(outcomes, ASKED, 3)?;
    let malformed = Error::Malformed(ASKED);
    let [suite, key_block, sequence] =
        <[Vec<u8>; 3]>::try_from(values).map_err(|_| malformed.clone())?;
    let suite = <[u8; 4]>::try_from(suite).map_err(|_| malformed.clone())?;
    let sequence = <[u8; 16]>::try_from(sequence).map_err(|_| malformed)?;
    let [v1, v2, s1, s2] = suite;
    let number = |from: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&sequence[from..from + 8]);
        u64::from_be_bytes(bytes)
    };
    Ok(SessionKeys {
        version: u16::from_be_bytes([v1, v2]),
        suite: u16::from_be_bytes([s1, s2]),
        key_block: Zeroizing::new(key_block),
        client_sequence: number(0),
        server_sequence: number(8),
    })
}

/// The last outcome, if everything went as expected.
pub(super) fn last<'o>(outcomes: &'o Outcomes, asked: &'static str) -> Result<&'o Outcome, Error> {
    match outcomes.last() {
        Some(outcome) if outcomes.failed.is_none() && outcome.expected => Ok(outcome),
        _ => Err(refusal(outcomes, asked)),
    }
}

/// Whether all of `steps` steps went as expected.
pub(super) fn complete(
    outcomes: &Outcomes,
    asked: &'static str,
    steps: usize,
) -> Result<(), Error> {
    if outcomes.complete(steps) {
        Ok(())
    } else {
        Err(refusal(outcomes, asked))
    }
}

/// The bodies of all `steps` steps, each of which was told.
pub(super) fn bodies(
    outcomes: &Outcomes,
    asked: &'static str,
    steps: usize,
) -> Result<Vec<Vec<u8>>, Error> {
    complete(outcomes, asked, steps)?;
    let told: Option<Vec<Vec<u8>>> = outcomes.done.iter().map(|o| o.as_ref().map(body)).collect();
    told.ok_or(Error::Malformed(asked))
}

/// The bodies of the steps whose answer the script wants told; `asked` is what the error calls it.
///
/// # Errors
/// [`Error`] when a step was refused or not told.
pub fn told(
    outcomes: &Outcomes,
    script: &Script,
    asked: &'static str,
) -> Result<Vec<Vec<u8>>, Error> {
    complete(outcomes, asked, script.steps.len())?;
    let wanted = script
        .steps
        .iter()
        .zip(&outcomes.done)
        .filter(|(step, _)| step.append);
    let bodies: Option<Vec<Vec<u8>>> = wanted.map(|(_, o)| o.as_ref().map(body)).collect();
    bodies.ok_or(Error::Malformed(asked))
}

/// Why a script stopped.
pub(super) fn refusal(outcomes: &Outcomes, asked: &'static str) -> Error {
    if let Some(error) = &outcomes.failed {
        return error.clone().into();
    }
    let Some(outcome) = outcomes.last() else {
        return Error::Malformed(asked);
    };
    match (outcome.sw, outcome.sw.sw1(), outcome.sw.sw2()) {
        (StatusWord::AUTHENTICATION_METHOD_BLOCKED, ..) => Error::PinBlocked,
        (_, 0x63, tries) => Error::Pin(tries & 0x0F),
        (sw, ..) => Error::Refused { asked, sw },
    }
}
