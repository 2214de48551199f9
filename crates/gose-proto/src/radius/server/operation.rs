//! What the machine and its shell say to each other.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{
    super::{
        attribute::Type,
        authenticator::Secret,
        request::{Accounting, Kind, Station},
    },
    conversations::Handle,
};

/// A client of the server: a NAS, a proxy, a network of them with one secret.
pub struct Client {
    /// Its name in logs.
    pub name: String,
    /// What it shares with the server.
    pub secret: Secret,
    /// The UDP port where it takes Disconnect-Requests (RFC 5176), if it does.
    pub disconnect_port: Option<u16>,
}

/// Where a packet came from and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The client's address and port.
    pub address: SocketAddr,
    /// The socket or the connection it came by.
    pub channel: u64,
    /// What is served there.
    pub service: Service,
}

/// What a port serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// UDP 1812.
    Authentication,
    /// UDP 1813.
    Accounting,
    /// TCP 2083: RADIUS over TLS has one port for everything (RFC 6614, 2.5).
    Both,
}

impl Service {
    pub(super) fn serves(self, kind: Kind) -> bool {
        match kind {
            Kind::Access => self != Self::Accounting,
            Kind::Accounting => self != Self::Authentication,
            Kind::Status => true,
        }
    }
}

/// What to do when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overload {
    /// Say nothing: the client retransmits, or asks another server.
    #[default]
    Drop,
    /// Answer Access-Reject.
    Reject,
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Conversations at once; the one that was silent for longest makes room.
    pub conversations: usize,
    /// Conversations at once of one client; its own one that was silent for longest makes room.
    pub conversations_a_client: usize,
    /// Requests remembered: in work, and answered.
    pub exchanges: usize,
    /// How long an answer is kept for duplicates.
    pub answer_kept: Duration,
    /// After how much silence a conversation ends.
    pub silence: Duration,
    /// What to do when there is no room.
    pub overload: Overload,
}

impl Limits {
    /// 16,384 conversations, half of them for one client; answers kept for 10 s (RFC 5080, 2.2.2: 5 to 30);
    /// conversations end after 30 s of silence.
    pub const DEFAULT: Self = Self {
        conversations: 16_384,
        conversations_a_client: 8_192,
        exchanges: 32_768,
        answer_kept: Duration::from_secs(10),
        silence: Duration::from_secs(30),
        overload: Overload::Drop,
    };
}

/// Names an operation until it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// What the shell is to do.
pub enum Output {
    /// Send these bytes.
    Send {
        /// To whom.
        to: Origin,
        /// A whole packet.
        bytes: Vec<u8>,
    },
    /// Do this, then call [`Server::complete`](super::Server::complete) with the ticket.
    Run {
        /// The ticket.
        ticket: Ticket,
        /// The work.
        operation: Operation,
    },
    /// The conversation is over without a verdict: give its element back.
    Abandon(Handle),
}

/// Work.
#[derive(Clone)]
pub enum Operation {
    /// A conversation begins.
    Begin {
        /// Its name from now on.
        conversation: Handle,
        /// Whose it is.
        client: Arc<Client>,
        /// Where its first packet came from.
        from: Origin,
        /// The peer's first response; `None`: the NAS asks for the first request (RFC 3579, 2.1).
        response: Option<Vec<u8>>,
        /// What the NAS says of the port.
        station: Station,
    },
    /// The peer's next response.
    Continue {
        /// The conversation.
        conversation: Handle,
        /// An EAP packet.
        response: Vec<u8>,
    },
    /// Log this (RFC 2866, 2: it is answered when it is recorded).
    Account {
        /// Who says so.
        client: Arc<Client>,
        /// The facts.
        record: Accounting,
    },
}

/// What an operation came to.
pub enum Completion {
    /// The next EAP request.
    Challenge(
        /// An EAP packet.
        Vec<u8>,
    ),
    /// The peer is who its certificate says, and may come in.
    Accept(Box<Accept>),
    /// It may not.
    Reject(
        /// EAP-Failure.
        Vec<u8>,
    ),
    /// The response was one that EAP discards silently: the NAS is told so (RFC 3579, 2.2).
    Ignored,
    /// No element is free. By policy the client is told nothing, and what it sends again is tried again; or it
    /// is rejected.
    Overload,
    /// The accounting record is kept.
    Recorded,
    /// It could not be kept: no answer, so that the client tries again.
    NotRecorded,
}

/// An Access-Accept.
pub struct Accept {
    /// EAP-Success.
    pub success: Vec<u8>,
    /// MSK, for MS-MPPE-Recv-Key and MS-MPPE-Send-Key.
    pub msk: Option<Zeroizing<[u8; 64]>>,
    /// The method's Session-Id, sent as EAP-Key-Name if the NAS asked for it (RFC 7268, 2.2).
    pub session_id: Vec<u8>,
    /// What policy gives: VLAN, session timeout, filter.
    pub reply: Vec<(Type, Vec<u8>)>,
}

/// What came of a packet that was not discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A request of its own.
    New(Kind),
    /// A duplicate, answered with the same bytes.
    Duplicate,
}
