//! An EAP-TLS element authenticates to a server behind RADIUS.

use std::time::{Duration, Instant};

use gose_element::{
    SecureElement,
    drive::eap_tls::{self, EapTls, Reply},
};
use gose_proto::{
    eap::{Code as EapCode, Fragment, Hello, Packet, Type as EapType},
    radius::{
        Code, Type,
        client::{Access, Answer},
    },
};
use zeroize::Zeroizing;

use super::{Client, ClientError};

/// What the client says of the port.
#[derive(Debug, Clone)]
pub struct Station {
    /// NAS-Identifier.
    pub nas: String,
    /// Calling-Station-Id.
    pub calling: String,
    /// Framed-MTU, in bytes.
    pub framed_mtu: u32,
}

impl Default for Station {
    fn default() -> Self {
        Self {
            nas: "gose".into(),
            calling: "02-00-00-00-00-01".into(),
            framed_mtu: 1400,
        }
    }
}

/// How an authentication went.
pub struct Report {
    /// Whether the server accepted and the element agrees.
    pub accepted: bool,
    /// What the element derived, after success.
    pub msk: Option<Zeroizing<Vec<u8>>>,
    /// Whether the keys in Access-Accept are the element's; `None` where the server sent none.
    pub keys_match: Option<bool>,
    /// Protocol version and cipher suite, after success.
    pub session: Option<(u16, u16)>,
    /// Whether the server resumed an earlier session; `None` if no ServerHello came.
    pub resumed: Option<bool>,
    /// The element's Session-Id, after success.
    pub session_id: Vec<u8>,
    /// Whether EAP-Key-Name is the element's Session-Id; `None` where the server sent none.
    pub key_name_matches: Option<bool>,
    /// The requests, one after another.
    pub rounds: Vec<Round>,
    /// Attributes of the last answer.
    pub attributes: Vec<(Type, Vec<u8>)>,
}

/// One request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Bytes of the EAP response and of the EAP packet that answered it.
    pub eap_bytes: (usize, usize),
    /// Time in the element.
    pub element: Duration,
    /// Time until the server answered.
    pub server: Duration,
}

/// Why an authentication broke. A reject is no error but a [`Report`].
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The element.
    #[error("the element: {0}")]
    Element(#[from] eap_tls::Error),
    /// The element does not answer to an EAP request.
    #[error("the element discards the server's request {0}")]
    Discarded(String),
    /// The server challenges without EAP or without an end.
    #[error("the server's challenge {0} has no EAP request, or there are too many")]
    Challenge(usize),
}

/// Requests that one authentication may take: a flight of 64 KiB in fragments of 100 bytes, both ways.
const MAX_ROUNDS: usize = 1400;

/// Lets an opened element authenticate. `now` is Unix time in seconds.
///
/// # Errors
/// [`AuthenticationError`].
pub fn authenticate<E: SecureElement + ?Sized>(
    client: &mut Client,
    element: &mut EapTls<'_, E>,
    station: &Station,
    now: u32,
) -> Result<Report, AuthenticationError> {
    let mut rounds = Vec::new();
    let mut flight = Flight::default();
    let mut request = Packet::request(0, EapType::IDENTITY, &[]).encode();
    let mut state: Option<Vec<u8>> = None;
    let mut user_name = Vec::new();
    loop {
        let begun = Instant::now();
        let response = match element.process(&request, Some(now))? {
            Reply::Packet(response) => response,
            Reply::Taken | Reply::Discarded => return Err(discarded(&request)),
        };
        let in_element = begun.elapsed();
        if rounds.is_empty() {
            user_name = response.get(5..).unwrap_or_default().to_vec();
        }
        let access = Access {
            user_name: &user_name,
            nas_identifier: &station.nas,
            calling_station: &station.calling,
            framed_mtu: station.framed_mtu,
            state: state.as_deref(),
            eap: &response,
        };
        let begun = Instant::now();
        let answer = client.access(&access)?;
        let eap = answer.eap.clone().unwrap_or_default();
        rounds.push(Round {
            eap_bytes: (response.len(), eap.len()),
            element: in_element,
            server: begun.elapsed(),
        });
        if answer.code != Code::AccessChallenge {
            return finish(element, &eap, answer, rounds, flight.hello);
        }
        if eap.is_empty() || rounds.len() >= MAX_ROUNDS {
            return Err(AuthenticationError::Challenge(rounds.len()));
        }
        flight.take(&eap);
        (state, request) = (answer.state, eap);
    }
}

/// The server's verdict, and whether the element agrees with it.
fn finish<E: SecureElement + ?Sized>(
    element: &mut EapTls<'_, E>,
    eap: &[u8],
    answer: Answer,
    rounds: Vec<Round>,
    hello: Option<Hello>,
) -> Result<Report, AuthenticationError> {
    let mut report = Report {
        accepted: false,
        msk: None,
        keys_match: None,
        session: None,
        resumed: hello.map(|hello| hello.resumed),
        session_id: Vec::new(),
        key_name_matches: None,
        rounds,
        attributes: Vec::new(),
    };
    let success = Packet::parse(eap).is_ok_and(|(packet, _)| packet.code == EapCode::Success);
    if !eap.is_empty() {
        let taken = element.process(eap, None)?;
        report.accepted = answer.code == Code::AccessAccept && success && taken == Reply::Taken;
    }
    if report.accepted {
        let msk = element.msk()?;
        report.keys_match = answer.msk.as_ref().map(|sent| sent[..] == msk[..]);
        report.msk = Some(msk);
        report.session_id = element.exported(SESSION_ID)?;
        report.key_name_matches = answer
            .first(Type::EAP_KEY_NAME)
            .map(|name| name == report.session_id);
        if let [v1, v2, s1, s2] = *element.exported(CIPHER_SUITE)? {
            report.session = Some((u16::from_be_bytes([v1, v2]), u16::from_be_bytes([s1, s2])));
        }
    }
    report.attributes = answer.attributes;
    Ok(report)
}

/// What the server's flights tell in the clear.
#[derive(Default)]
struct Flight {
    arriving: Vec<u8>,
    hello: Option<Hello>,
}

impl Flight {
    fn take(&mut self, request: &[u8]) {
        let Some(fragment) = request.get(5..).and_then(|data| Fragment::parse(data).ok()) else {
            return;
        };
        self.arriving.extend_from_slice(fragment.data);
        if !fragment.more {
            self.hello = self.hello.or_else(|| Hello::read(&self.arriving));
            self.arriving.clear();
        }
    }
}

/// Get-Exported-Parameter.
const SESSION_ID: u8 = 0x04;
const CIPHER_SUITE: u8 = 0x80;

fn discarded(request: &[u8]) -> AuthenticationError {
    let head = gose_proto::hex::encode(request.get(..6).unwrap_or(request));
    AuthenticationError::Discarded(head)
}
