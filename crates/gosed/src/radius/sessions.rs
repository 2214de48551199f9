//! Sessions that were accepted, for as long as a NAS may be told to end them (RFC 5176).
//!
//! A session begins with Access-Accept, which carries a Class of its own; accounting brings it back with the NAS's
//! Acct-Session-Id (RFC 2865, 5.25), and ends it. There are so many and no more: the oldest goes first.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gose_proto::radius::{
    request::{Accounting, Station},
    server::{Client, Origin},
};

use crate::auth::{CertificateId, Success};

/// Bytes before a Class of this server.
const MARK: &[u8; 4] = b"gose";

/// Acct-Status-Type (RFC 2866, 5.1).
const STOP: u32 = 2;

/// A session at a NAS.
#[derive(Clone)]
pub struct Session {
    /// The name in the peer's certificate.
    pub peer: String,
    /// That certificate.
    pub certificate: CertificateId,
    /// Whose client the NAS is.
    pub client: Arc<Client>,
    /// Where its request came from.
    pub nas: IpAddr,
    /// What it said of the port.
    pub station: Station,
    /// Acct-Session-Id, once accounting told it.
    pub accounting: String,
    until: Option<Instant>,
}

/// The sessions of a server.
pub struct Sessions {
    held: Mutex<Held>,
    capacity: usize,
}

#[derive(Default)]
struct Held {
    by_number: BTreeMap<u64, ([u8; 8], Session)>,
    by_class: HashMap<[u8; 8], u64>,
    /// A port has one session: another one takes its place.
    by_port: HashMap<Port, u64>,
    next: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Port {
    client: String,
    nas: IpAddr,
    calling: String,
    called: String,
}

impl Port {
    fn of(session: &Session) -> Self {
        Self {
            client: session.client.name.clone(),
            nas: session.nas,
            calling: session.station.calling.clone(),
            called: session.station.called.clone(),
        }
    }
}

impl Sessions {
    /// No session yet, at most so many.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            held: Mutex::default(),
            capacity,
        }
    }

    /// A peer was accepted: gives the Class of its session. `fresh` is random.
    pub(super) fn begin(
        &self,
        client: &Arc<Client>,
        from: Origin,
        station: &Station,
        success: &Success,
        fresh: [u8; 8],
    ) -> Vec<u8> {
        // For re-authentication the NAS needs some time of its own.
        const GRACE: Duration = Duration::from_secs(60);
        let timeout = success.session_timeout();
        let session = Session {
            peer: success.peer.clone(),
            certificate: success.certificate.clone(),
            client: client.clone(),
            nas: from.address.ip(),
            station: station.clone(),
            accounting: String::new(),
            until: timeout.map(|timeout| Instant::now() + timeout + GRACE),
        };
        let mut held = self.held();
        if let Some(number) = held.by_port.get(&Port::of(&session)).copied() {
            held.remove(number);
        }
        while held.by_number.len() >= self.capacity.max(1) {
            let Some((number, _)) = held.by_number.first_key_value() else {
                break;
            };
            let number = *number;
            held.remove(number);
        }
        held.next += 1;
        let number = held.next;
        held.by_class.insert(fresh, number);
        held.by_port.insert(Port::of(&session), number);
        held.by_number.insert(number, (fresh, session));
        [&MARK[..], &fresh].concat()
    }

    /// What a NAS says of a session.
    pub(super) fn account(&self, client: &Client, record: &Accounting) {
        let class = record.class.strip_prefix(MARK);
        let Some(class) = class.and_then(|class| <[u8; 8]>::try_from(class).ok()) else {
            return;
        };
        let mut held = self.held();
        let Some(number) = held.by_class.get(&class).copied() else {
            return;
        };
        let Some((_, session)) = held.by_number.get_mut(&number) else {
            return;
        };
        // Another client's Class says nothing.
        if session.client.name != client.name {
            return;
        }
        if record.status == Some(STOP) {
            held.remove(number);
        } else {
            session.accounting.clone_from(&record.session);
        }
    }

    /// Takes the sessions that match out of the register.
    pub fn take(&self, matches: impl Fn(&Session) -> bool) -> Vec<Session> {
        let mut held = self.held();
        let found = held.by_number.iter();
        let found = found.filter(|(_, (_, session))| matches(session));
        let numbers: Vec<u64> = found.map(|(number, _)| *number).collect();
        let taken = numbers.into_iter();
        taken.filter_map(|number| held.remove(number)).collect()
    }

    /// Forgets sessions whose time is over.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        drop(self.take(|session| session.until.is_some_and(|until| until <= now)));
    }

    /// Sessions that are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held().by_number.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn remove(&mut self, number: u64) -> Option<Session> {
        let (class, session) = self.by_number.remove(&number)?;
        self.by_class.remove(&class);
        let port = Port::of(&session);
        if self.by_port.get(&port) == Some(&number) {
            self.by_port.remove(&port);
        }
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use gose_proto::radius::{Secret, server::Service};

    use super::*;

    fn client(name: &str) -> Arc<Client> {
        Arc::new(Client {
            name: name.into(),
            secret: Secret::new(b"s".to_vec()).unwrap(),
            disconnect_port: Some(3799),
        })
    }

    fn begin(sessions: &Sessions, client: &Arc<Client>, calling: &str, fresh: u8) -> Vec<u8> {
        let from = Origin {
            address: ([192, 0, 2, 1], 40_000).into(),
            channel: 0,
            service: Service::Authentication,
        };
        let station = Station {
            calling: calling.into(),
            ..Station::default()
        };
        let success = Success {
            peer: format!("peer-{calling}"),
            ..Success::default()
        };
        sessions.begin(client, from, &station, &success, [fresh; 8])
    }

    fn account(class: &[u8], status: u32, session: &str) -> Accounting {
        Accounting {
            status: Some(status),
            class: class.to_vec(),
            session: session.into(),
            ..Accounting::default()
        }
    }

    #[test]
    fn accounting_names_and_ends_sessions() {
        let (sessions, nas) = (Sessions::new(8), client("nas"));
        let class = begin(&sessions, &nas, "a", 1);
        sessions.account(&client("another"), &account(&class, 1, "stolen"));
        sessions.account(&nas, &account(&class, 1, "0001"));
        sessions.account(&nas, &account(b"gose", 2, ""));
        let taken = sessions.take(|session| session.peer == "peer-a");
        assert_eq!(taken[0].accounting, "0001");
        assert!(sessions.is_empty());
        let class = begin(&sessions, &nas, "a", 2);
        sessions.account(&nas, &account(&class, STOP, "0002"));
        assert!(sessions.is_empty());
    }

    #[test]
    fn bounded_and_one_a_port() {
        let (sessions, nas) = (Sessions::new(3), client("nas"));
        for (number, calling) in ["a", "b", "a", "c", "d"].into_iter().enumerate() {
            begin(&sessions, &nas, calling, u8::try_from(number).unwrap());
        }
        let mut left: Vec<_> = sessions
            .take(|_| true)
            .into_iter()
            .map(|session| session.station.calling)
            .collect();
        left.sort();
        assert_eq!(left, ["a", "c", "d"]);
        let held = sessions.held();
        assert!(held.by_class.is_empty() && held.by_port.is_empty());
    }
}
