//! Requests in work and answers kept: the duplicate cache (RFC 5080, 2.2.2).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{attribute::Type, authenticator::RequestAuthenticator, request::Verified},
    Client, Handle, Origin, Ticket,
};

/// What tells the requests of one client apart (RFC 2865, 3: address, port, Identifier).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) origin: Origin,
    pub(super) identifier: u8,
}

/// A request that is being answered.
pub(super) struct Exchange {
    pub(super) key: Key,
    pub(super) client: Arc<Client>,
    pub(super) request: RequestAuthenticator,
    pub(super) proxy_states: Vec<Vec<u8>>,
    pub(super) wants_key_name: bool,
    pub(super) eap_identifier: u8,
    pub(super) conversation: Option<Handle>,
    fingerprint: (RequestAuthenticator, Option<[u8; 16]>),
    since: Duration,
}

impl Exchange {
    pub(super) fn new(
        key: Key,
        request: &Verified<'_>,
        client: &Arc<Client>,
        now: Duration,
    ) -> Self {
        let packet = request.packet();
        Self {
            key,
            client: client.clone(),
            request: packet.request_authenticator(),
            proxy_states: packet
                .all(Type::PROXY_STATE)
                .map(|state| state.value.to_vec())
                .collect(),
            wants_key_name: packet.first(Type::EAP_KEY_NAME).is_some(),
            eap_identifier: 0,
            conversation: None,
            fingerprint: request.fingerprint(),
            since: now,
        }
    }
}

enum Progress {
    InWork(Ticket),
    Answered(Vec<u8>),
}

struct Entry {
    fingerprint: (RequestAuthenticator, Option<[u8; 16]>),
    since: Duration,
    progress: Progress,
}

/// What is known of a packet.
pub(super) enum Seen {
    New,
    InWork,
    Answered(Vec<u8>),
}

#[derive(Default)]
pub(super) struct Exchanges {
    entries: HashMap<Key, Entry>,
    running: HashMap<Ticket, Exchange>,
    /// In the order of their beginning; entries of another time than the exchange's are stale.
    order: VecDeque<(Duration, Key)>,
}

impl Exchanges {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the packet came before. A new request under a known key replaces the old one.
    pub(super) fn look_up(&mut self, key: Key, request: &Verified<'_>) -> Seen {
        match self.entries.get(&key) {
            Some(entry) if entry.fingerprint == request.fingerprint() => match &entry.progress {
                Progress::InWork(_) => Seen::InWork,
                Progress::Answered(bytes) => Seen::Answered(bytes.clone()),
            },
            _ => Seen::New,
        }
    }

    /// Whether one more fits; the oldest answers make room.
    pub(super) fn has_room(&mut self, limit: usize) -> bool {
        let mut in_work = Vec::new();
        while self.entries.len() >= limit {
            let Some((since, key)) = self.order.pop_front() else {
                break;
            };
            match self.entries.get(&key) {
                Some(entry) if entry.since == since => match entry.progress {
                    Progress::Answered(_) => {
                        self.entries.remove(&key);
                    }
                    Progress::InWork(_) => in_work.push((since, key)),
                },
                _ => {}
            }
        }
        for entry in in_work.into_iter().rev() {
            self.order.push_front(entry);
        }
        self.entries.len() < limit
    }

    pub(super) fn start(&mut self, exchange: Exchange, ticket: Ticket) {
        self.insert(&exchange, Progress::InWork(ticket));
        self.running.insert(ticket, exchange);
    }

    /// The exchange of a ticket, as of `now`; `None` if it expired or another request took its key.
    pub(super) fn take_running(&mut self, ticket: Ticket, now: Duration) -> Option<Exchange> {
        let mut exchange = self.running.remove(&ticket)?;
        exchange.since = now;
        // Without an answer the key is free again, so that a retransmission is tried anew.
        self.entries.remove(&exchange.key);
        Some(exchange)
    }

    pub(super) fn answered(&mut self, exchange: Exchange, bytes: Vec<u8>) {
        self.insert(&exchange, Progress::Answered(bytes));
    }

    pub(super) fn expire(&mut self, now: Duration, answer_kept: Duration, in_work: Duration) {
        let longest = answer_kept.max(in_work);
        let mut kept = VecDeque::new();
        while let Some((since, key)) = self.order.front().copied() {
            let age = now.saturating_sub(since);
            if age < answer_kept.min(longest) {
                break;
            }
            self.order.pop_front();
            let bound = match self.entries.get(&key).filter(|entry| entry.since == since) {
                Some(Entry {
                    progress: Progress::InWork(_),
                    ..
                }) => in_work,
                Some(_) => answer_kept,
                None => continue,
            };
            if age >= bound {
                self.remove(key);
            } else {
                kept.push_back((since, key));
            }
        }
        kept.append(&mut self.order);
        self.order = kept;
    }

    fn insert(&mut self, exchange: &Exchange, progress: Progress) {
        self.remove(exchange.key);
        let entry = Entry {
            fingerprint: exchange.fingerprint,
            since: exchange.since,
            progress,
        };
        self.entries.insert(exchange.key, entry);
        self.order.push_back((exchange.since, exchange.key));
        if self.order.len() > 64 + 2 * self.entries.len() {
            let entries = &self.entries;
            self.order
                .retain(|(since, key)| entries.get(key).is_some_and(|entry| entry.since == *since));
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(Entry {
            progress: Progress::InWork(ticket),
            ..
        }) = self.entries.remove(&key)
        {
            self.running.remove(&ticket);
        }
    }
}
