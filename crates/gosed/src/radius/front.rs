//! The shell of the machine: packets from sockets into it, its work to the elements, its answers back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use gose_proto::{
    eap::{Code, Packet, Type},
    radius::{
        Type as Attribute,
        request::{Accounting, Discard, Station},
        server::{
            Accept, Client, Completion, Handle, Limits, Operation, Origin, Output, Received,
            Server, Ticket,
        },
    },
};

use super::{
    Sessions,
    record::{Record, Verdict},
};
use crate::auth::{Authenticators, Begin, EapConversation, Turn};

/// Carries answers back to where their requests came from; must not block.
pub(super) trait Channel: Send + Sync {
    /// Sends a packet; one that cannot be sent at once is lost, as on any network.
    fn send(&self, to: Origin, bytes: &[u8]);
}

/// What the front counts since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were new.
    pub requests: AtomicU64,
    /// Duplicates that were answered with the same bytes.
    pub duplicates: AtomicU64,
    /// Packets that were discarded, whatever the reason.
    pub discarded: AtomicU64,
    /// Those, by cause, in the order of [`Discard::ALL`].
    pub causes: [AtomicU64; Discard::ALL.len()],
    /// Packets of nobody that is a client.
    pub strangers: AtomicU64,
    /// EAP packets that elements were given.
    pub element_steps: AtomicU64,
    /// Conversations that ended with Access-Accept.
    pub accepted: AtomicU64,
    /// Conversations that ended with Access-Reject.
    pub rejected: AtomicU64,
    /// Conversations that nobody went on with.
    pub abandoned: AtomicU64,
    /// Times that no element was free for a conversation.
    pub overloaded: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The front.
pub struct Front {
    machine: Mutex<Server>,
    /// `None`: an element is at work for it.
    talks: Mutex<HashMap<Handle, Option<Talk>>>,
    channels: Mutex<HashMap<u64, Arc<dyn Channel>>>,
    sessions: Arc<Sessions>,
    authenticators: Arc<dyn Authenticators>,
    epoch: Instant,
    next_channel: AtomicU64,
    counters: Counters,
}

/// A conversation between two packets.
struct Talk {
    phase: Phase,
    client: Arc<Client>,
    from: Origin,
    station: Station,
    record: Record,
}

enum Phase {
    /// The peer was asked for its identity, or is about to tell it.
    Unnamed,
    /// An identity of the server has it.
    Bound(Box<dyn EapConversation>),
}

impl Front {
    /// A front before these elements.
    #[must_use]
    pub fn new(authenticators: Arc<dyn Authenticators>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            sessions: Arc::new(Sessions::new(limits.conversations)),
            machine: Mutex::new(Server::new(limits)),
            talks: Mutex::default(),
            channels: Mutex::default(),
            authenticators,
            epoch: Instant::now(),
            next_channel: AtomicU64::new(0),
            counters: Counters::default(),
        })
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sessions that were accepted.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Conversations that are not over.
    #[must_use]
    pub fn conversations(&self) -> usize {
        lock(&self.machine).conversations()
    }

    pub(super) fn open(&self, channel: Arc<dyn Channel>) -> u64 {
        let number = self.next_channel.fetch_add(1, Ordering::Relaxed);
        lock(&self.channels).insert(number, channel);
        number
    }

    pub(super) fn close(&self, channel: u64) {
        lock(&self.channels).remove(&channel);
    }

    /// A packet of somebody that is no client.
    pub(super) fn stranger(&self) {
        count(&self.counters.strangers);
    }

    /// A packet of a client.
    pub(super) fn receive(self: &Arc<Self>, origin: Origin, client: &Arc<Client>, bytes: &[u8]) {
        let now = self.epoch.elapsed();
        let received = lock(&self.machine).receive(origin, client, bytes, now, random());
        match received {
            Ok(Received::New(_)) => count(&self.counters.requests),
            Ok(Received::Duplicate) => count(&self.counters.duplicates),
            Err(discard) => {
                count(&self.counters.discarded);
                let causes = Discard::ALL.iter().zip(&self.counters.causes);
                for (_, counter) in causes.filter(|(cause, _)| **cause == discard) {
                    count(counter);
                }
                log_discard(&client.name, origin, discard);
            }
        }
        self.work();
    }

    /// Forgets what is too old. To be called about once a second.
    pub fn expire(self: &Arc<Self>) {
        let now = self.epoch.elapsed();
        lock(&self.machine).expire(now);
        self.sessions.expire();
        self.work();
    }

    fn work(self: &Arc<Self>) {
        loop {
            // The guard must not live on in the body.
            let output = lock(&self.machine).poll();
            match output {
                None => return,
                Some(Output::Send { to, bytes }) => self.send(to, &bytes),
                Some(Output::Run { ticket, operation }) => self.run(ticket, operation),
                Some(Output::Abandon(handle)) => self.abandon(handle),
            }
        }
    }

    fn send(&self, to: Origin, bytes: &[u8]) {
        let channel = lock(&self.channels).get(&to.channel).cloned();
        if let Some(channel) = channel {
            channel.send(to, bytes);
        }
    }

    fn abandon(&self, handle: Handle) {
        count(&self.counters.abandoned);
        if let Some(Some(talk)) = lock(&self.talks).remove(&handle) {
            talk.record.close(&Verdict::Abandoned);
        }
    }

    fn run(self: &Arc<Self>, ticket: Ticket, operation: Operation) {
        match operation {
            Operation::Account { client, record } => {
                log_accounting(&client.name, &record);
                self.sessions.account(&client, &record);
                self.complete(ticket, Completion::Recorded);
            }
            Operation::Begin {
                conversation,
                client,
                from,
                response,
                station,
            } => {
                lock(&self.talks).insert(conversation, None);
                let talk = Talk {
                    phase: Phase::Unnamed,
                    station,
                    from,
                    record: Record::new(&client.name),
                    client: client.clone(),
                };
                match response {
                    // The NAS lets the server begin (RFC 3579, 2.1).
                    None => self.keep(
                        conversation,
                        talk,
                        ticket,
                        Completion::Challenge(ask_identity()),
                    ),
                    Some(response) => {
                        self.step(ticket, conversation, talk, client.name.clone(), response)
                    }
                }
            }
            Operation::Continue {
                conversation,
                response,
            } => {
                let talk = lock(&self.talks)
                    .get_mut(&conversation)
                    .and_then(Option::take);
                match talk {
                    Some(talk) => {
                        let client = talk.record.client().to_owned();
                        self.step(ticket, conversation, talk, client, response);
                    }
                    None => self.complete(ticket, reject(&response)),
                }
            }
        }
    }

    /// One EAP packet through the element, in a task of its own: conversations do not wait for each other.
    fn step(
        self: &Arc<Self>,
        ticket: Ticket,
        handle: Handle,
        mut talk: Talk,
        client: String,
        response: Vec<u8>,
    ) {
        let front = self.clone();
        tokio::spawn(async move {
            let failure = reject(&response);
            if let Phase::Unnamed = talk.phase {
                match front.begin(&mut talk, client, &response) {
                    Ok(conversation) => talk.phase = Phase::Bound(conversation),
                    Err(reason) => return front.refuse(ticket, handle, &talk, reason, failure),
                }
            }
            let Phase::Bound(conversation) = &mut talk.phase else {
                return;
            };
            count(&front.counters.element_steps);
            let begun = Instant::now();
            let turn = conversation.receive(&response).await;
            talk.record.step(begun.elapsed(), conversation.element());
            front.take_turn(ticket, handle, talk, turn);
        });
    }

    fn begin(
        &self,
        talk: &mut Talk,
        client: String,
        response: &[u8],
    ) -> Result<Box<dyn EapConversation>, &'static str> {
        let identity = identity(response).ok_or("the first response is no identity")?;
        let begin = Begin {
            identity,
            client,
            station: talk.station.clone(),
        };
        let begun = self
            .authenticators
            .begin(&begin)
            .map_err(|_| "no identity serves this realm");
        talk.record.begins(begin);
        begun
    }

    fn refuse(
        self: &Arc<Self>,
        ticket: Ticket,
        handle: Handle,
        talk: &Talk,
        reason: &str,
        failure: Completion,
    ) {
        lock(&self.talks).remove(&handle);
        count(&self.counters.rejected);
        talk.record.close(&Verdict::Rejected { reason });
        self.complete(ticket, failure);
    }

    fn take_turn(self: &Arc<Self>, ticket: Ticket, handle: Handle, talk: Talk, turn: Turn) {
        let completion = match turn {
            Turn::Request(request) => {
                return self.keep(handle, talk, ticket, Completion::Challenge(request));
            }
            Turn::Discarded => return self.keep(handle, talk, ticket, Completion::Ignored),
            Turn::Busy => return self.no_element(handle, talk, ticket),
            Turn::Success(mut success) => {
                count(&self.counters.accepted);
                let Talk {
                    client,
                    from,
                    station,
                    ..
                } = &talk;
                let class = self
                    .sessions
                    .begin(client, *from, station, &success, random());
                success.reply.push((Attribute::CLASS, class));
                talk.record.close(&Verdict::Accepted {
                    peer: &success.peer,
                    facts: &success.facts,
                });
                Completion::Accept(Box::new(Accept {
                    success: success.packet,
                    msk: Some(success.msk),
                    session_id: success.facts.session_id,
                    reply: success.reply,
                }))
            }
            Turn::Failure { packet, reason } => {
                count(&self.counters.rejected);
                talk.record.close(&Verdict::Rejected { reason: &reason });
                Completion::Reject(packet)
            }
        };
        lock(&self.talks).remove(&handle);
        // The element is free before the client knows the verdict: its next conversation finds it so.
        drop(talk);
        self.complete(ticket, completion);
    }

    /// By policy the client is told nothing and tries again, or the conversation is over.
    fn no_element(self: &Arc<Self>, handle: Handle, talk: Talk, ticket: Ticket) {
        count(&self.counters.overloaded);
        self.keep(handle, talk, ticket, Completion::Overload);
        if !lock(&self.machine).is_open(handle)
            && let Some(Some(talk)) = lock(&self.talks).remove(&handle)
        {
            count(&self.counters.rejected);
            talk.record.close(&Verdict::Rejected {
                reason: "no element is free",
            });
        }
    }

    /// Puts a conversation aside until the next packet, unless it was abandoned meanwhile.
    fn keep(self: &Arc<Self>, handle: Handle, talk: Talk, ticket: Ticket, completion: Completion) {
        if let Some(place) = lock(&self.talks).get_mut(&handle) {
            *place = Some(talk);
        }
        self.complete(ticket, completion);
    }

    fn complete(self: &Arc<Self>, ticket: Ticket, completion: Completion) {
        let now = self.epoch.elapsed();
        let completed = lock(&self.machine).complete(ticket, completion, now, random());
        if let Err(error) = completed {
            tracing::error!(%error, "an answer does not fit into a packet");
        }
        self.work();
    }
}

/// The peer's name in an EAP-Response/Identity.
fn identity(response: &[u8]) -> Option<String> {
    let (packet, _) = Packet::parse(response).ok()?;
    let tells = packet.code == Code::Response && packet.kind == Some(Type::IDENTITY);
    tells.then(|| String::from_utf8_lossy(packet.data).into_owned())
}

fn ask_identity() -> Vec<u8> {
    Packet::request(1, Type::IDENTITY, &[]).encode()
}

/// EAP-Failure in answer to a response.
fn reject(response: &[u8]) -> Completion {
    let identifier = response.get(1).copied().unwrap_or_default();
    Completion::Reject(gose_proto::radius::server::failure(identifier).to_vec())
}

fn log_discard(client: &str, from: Origin, discard: Discard) {
    tracing::info!(client, from = %from.address, cause = discard.label(), "discarded: {discard}");
}

fn log_accounting(client: &str, record: &Accounting) {
    tracing::info!(
        target: "gosed::accounting",
        client,
        status = record.status,
        session = record.session,
        user = record.user,
        nas = record.station.nas,
        calling = record.station.calling,
        input_bytes = record.input_bytes,
        output_bytes = record.output_bytes,
        seconds = record.seconds,
        cause = record.cause,
        "accounting",
    );
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // aws-lc's generator does not fail once it is seeded, and it is at the first call.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls [`Front::expire`] until the front is gone.
pub(super) async fn tick(front: std::sync::Weak<Front>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(front) = front.upgrade() else { return };
        front.expire();
    }
}
