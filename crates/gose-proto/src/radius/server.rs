//! The server's machine: packets in, work out, outcomes in, answers out.
//!
//! It detects duplicates and answers them from a cache, so that a duplicate never costs a second operation of an
//! element (RFC 5080, 2.2.2); it binds conversations to States; everything in it is bounded. It knows EAP packets
//! by their header alone.

mod conversations;
mod exchanges;
mod operation;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use self::{
    conversations::{Conversations, Resumed},
    exchanges::{Exchange, Exchanges, Key, Seen},
};
use super::{
    attribute::Type,
    mppe,
    packet::{BuildError, Builder, Code},
    request::{Accounting, Discard, Kind, Verified},
};

pub use self::{
    conversations::Handle,
    operation::{
        Accept, Client, Completion, Limits, Operation, Origin, Output, Overload, Received, Service,
        Ticket,
    },
};

/// The machine. Its shell calls `receive`, then `poll` until `None`; `complete` for each [`Output::Run`], then `poll`
/// again; `expire` about once a second, then `poll`.
pub struct Server {
    limits: Limits,
    exchanges: Exchanges,
    conversations: Conversations,
    outputs: VecDeque<Output>,
    tickets: u64,
}

impl Server {
    /// A server without conversations.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            exchanges: Exchanges::default(),
            conversations: Conversations::default(),
            outputs: VecDeque::new(),
            tickets: 0,
            limits,
        }
    }

    /// Takes a packet of a client at `now`; `fresh` is random and used once.
    ///
    /// # Errors
    /// [`Discard`]: the packet has no effect and no answer.
    pub fn receive(
        &mut self,
        origin: Origin,
        client: &Arc<Client>,
        bytes: &[u8],
        now: Duration,
        fresh: [u8; 16],
    ) -> Result<Received, Discard> {
        let request = Verified::parse(bytes, &client.secret)?;
        if !origin.service.serves(request.kind()) {
            return Err(Discard::UnexpectedCode);
        }
        let key = Key {
            origin,
            identifier: request.packet().identifier,
        };
        match self.exchanges.look_up(key, &request) {
            Seen::Answered(bytes) => {
                self.outputs.push_back(Output::Send { to: origin, bytes });
                return Ok(Received::Duplicate);
            }
            Seen::InWork => return Err(Discard::InProgress),
            Seen::New => {}
        }
        if !self.exchanges.has_room(self.limits.exchanges) {
            return Err(Discard::Overload);
        }
        let exchange = Exchange::new(key, &request, client, now);
        match request.kind() {
            Kind::Status => self.answer_status(exchange),
            Kind::Accounting => {
                let operation = Operation::Account {
                    client: client.clone(),
                    record: Accounting::of(&request),
                };
                self.run(exchange, operation);
            }
            Kind::Access => self.access(exchange, &request, now, fresh)?,
        }
        Ok(Received::New(request.kind()))
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes what an operation came to; `fresh` is random and used once.
    ///
    /// # Errors
    /// [`BuildError`] if the answer does not fit a packet: the peer is rejected.
    pub fn complete(
        &mut self,
        ticket: Ticket,
        completion: Completion,
        now: Duration,
        fresh: [u8; 2],
    ) -> Result<(), BuildError> {
        // An exchange that expired or was replaced has no ticket any more: nobody waits for its answer.
        let Some(exchange) = self.exchanges.take_running(ticket, now) else {
            return Ok(());
        };
        match completion {
            Completion::Challenge(request) => self.challenge(exchange, request, now),
            Completion::Accept(accept) => self.accept(exchange, &accept, mppe::Salt(fresh)),
            Completion::Reject(failure) => {
                self.end(&exchange);
                self.reject(exchange, &failure)
            }
            Completion::Ignored => self.ignored(exchange, now),
            Completion::Overload => self.overload(exchange, now),
            Completion::Recorded => {
                let builder = Builder::without_message_authenticator(
                    Code::AccountingResponse,
                    exchange.key.identifier,
                );
                self.answer(exchange, builder)
            }
            Completion::NotRecorded => Ok(()),
        }
    }

    /// Forgets what is too old at `now`.
    pub fn expire(&mut self, now: Duration) {
        self.exchanges
            .expire(now, self.limits.answer_kept, self.limits.silence);
        for handle in self.conversations.expire(now, self.limits.silence) {
            self.outputs.push_back(Output::Abandon(handle));
        }
    }

    /// Whether a conversation is not over.
    #[must_use]
    pub fn is_open(&self, conversation: Handle) -> bool {
        self.conversations.is_open(conversation)
    }

    /// Conversations that are not over.
    #[must_use]
    pub fn conversations(&self) -> usize {
        self.conversations.len()
    }

    /// Requests remembered.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.exchanges.len()
    }

    fn access(
        &mut self,
        mut exchange: Exchange,
        request: &Verified<'_>,
        now: Duration,
        fresh: [u8; 16],
    ) -> Result<(), Discard> {
        let Some(eap) = request.packet().eap() else {
            self.refuse(exchange, &[]);
            return Ok(());
        };
        match eap.as_slice() {
            [] => {}
            // Role reversal: the peer asks, the server does not answer as a peer (RFC 3579, 2.6.2).
            [1, identifier, ..] => {
                let nak = [2, *identifier, 0, 6, 3, 0];
                self.refuse(exchange, &nak);
                return Ok(());
            }
            [2, _, _, _, _, ..] => {}
            _ => {
                self.refuse(exchange, &failure(eap.get(1).copied().unwrap_or_default()));
                return Ok(());
            }
        }
        let identifier = eap.get(1).copied().unwrap_or_default();
        exchange.eap_identifier = identifier;
        match request.packet().first(Type::STATE) {
            None => self.begin(
                exchange,
                request,
                (!eap.is_empty()).then_some(eap),
                now,
                fresh,
            ),
            Some(state) => match self
                .conversations
                .resume(state.value, &exchange.client, now)?
            {
                Resumed::Yes(conversation) => {
                    exchange.conversation = Some(conversation);
                    self.run(
                        exchange,
                        Operation::Continue {
                            conversation,
                            response: eap,
                        },
                    );
                    Ok(())
                }
                Resumed::Unknown => {
                    self.refuse(exchange, &failure(identifier));
                    Ok(())
                }
            },
        }
    }

    fn begin(
        &mut self,
        mut exchange: Exchange,
        request: &Verified<'_>,
        response: Option<Vec<u8>>,
        now: Duration,
        fresh: [u8; 16],
    ) -> Result<(), Discard> {
        let client_is_full = self.conversations.of_client(&exchange.client.name)
            >= self.limits.conversations_a_client;
        if client_is_full || self.conversations.len() >= self.limits.conversations {
            let whose = client_is_full.then_some(exchange.client.name.as_str());
            match self.conversations.evict(whose) {
                Some(handle) => self.outputs.push_back(Output::Abandon(handle)),
                None => return self.no_room(exchange),
            }
        }
        let conversation = self.conversations.begin(&exchange.client, now, fresh);
        exchange.conversation = Some(conversation);
        let (client, from) = (exchange.client.clone(), exchange.key.origin);
        self.run(
            exchange,
            Operation::Begin {
                conversation,
                client,
                from,
                response,
                station: request.station(),
            },
        );
        Ok(())
    }

    fn no_room(&mut self, exchange: Exchange) -> Result<(), Discard> {
        match self.limits.overload {
            Overload::Drop => Err(Discard::Overload),
            Overload::Reject => {
                let eap = failure(exchange.eap_identifier);
                self.refuse(exchange, &eap);
                Ok(())
            }
        }
    }

    /// A conversation that went on before may go on when the client sends the same request again.
    fn overload(&mut self, exchange: Exchange, now: Duration) -> Result<(), BuildError> {
        match self.limits.overload {
            Overload::Drop => {
                let kept = exchange
                    .conversation
                    .is_some_and(|handle| self.conversations.try_again(handle, now));
                if !kept {
                    self.end(&exchange);
                }
                Ok(())
            }
            Overload::Reject => {
                self.end(&exchange);
                let eap = failure(exchange.eap_identifier);
                self.reject(exchange, &eap)
            }
        }
    }

    fn run(&mut self, exchange: Exchange, operation: Operation) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.exchanges.start(exchange, ticket);
        self.outputs.push_back(Output::Run { ticket, operation });
    }

    fn challenge(
        &mut self,
        exchange: Exchange,
        request: Vec<u8>,
        now: Duration,
    ) -> Result<(), BuildError> {
        let Some(state) = exchange
            .conversation
            .and_then(|handle| self.conversations.wait(handle, &request, now))
        else {
            return Ok(());
        };
        let builder = Builder::new(Code::AccessChallenge, exchange.key.identifier)
            .attribute(Type::STATE, &state)
            .eap(&request);
        self.answer(exchange, builder)
    }

    /// The last request again, with Error-Cause 202, Invalid EAP Packet (Ignored) (RFC 3579, 2.2).
    fn ignored(&mut self, exchange: Exchange, now: Duration) -> Result<(), BuildError> {
        let last = exchange
            .conversation
            .and_then(|handle| self.conversations.last_request(handle));
        let again = last.filter(|request| !request.is_empty());
        let Some((handle, request)) = exchange.conversation.zip(again) else {
            self.end(&exchange);
            let eap = failure(exchange.eap_identifier);
            return self.reject(exchange, &eap);
        };
        let state = self
            .conversations
            .wait(handle, &request, now)
            .unwrap_or_default();
        let builder = Builder::new(Code::AccessChallenge, exchange.key.identifier)
            .attribute(Type::STATE, &state)
            .eap(&request)
            .integer(Type::ERROR_CAUSE, 202);
        self.answer(exchange, builder)
    }

    fn accept(
        &mut self,
        exchange: Exchange,
        accept: &Accept,
        salt: mppe::Salt,
    ) -> Result<(), BuildError> {
        self.end(&exchange);
        let mut builder =
            Builder::new(Code::AccessAccept, exchange.key.identifier).eap(&accept.success);
        let keys = accept
            .msk
            .as_ref()
            .and_then(|msk| mppe::keys(msk, salt, &exchange.request, &exchange.client.secret));
        for key in keys.into_iter().flatten() {
            builder = builder.attribute(Type::VENDOR_SPECIFIC, &key);
        }
        if exchange.wants_key_name && !accept.session_id.is_empty() {
            builder = builder.attribute(Type::EAP_KEY_NAME, &accept.session_id);
        }
        let reply = accept
            .reply
            .iter()
            .map(|(kind, value)| (*kind, value.as_slice()));
        self.answer(exchange, builder.attributes(reply))
    }

    fn reject(&mut self, exchange: Exchange, eap: &[u8]) -> Result<(), BuildError> {
        let mut builder = Builder::new(Code::AccessReject, exchange.key.identifier);
        if !eap.is_empty() {
            builder = builder.eap(eap);
        }
        self.answer(exchange, builder)
    }

    /// Rejects a request that never came to an operation. A Reject of a few bytes always fits.
    fn refuse(&mut self, exchange: Exchange, eap: &[u8]) {
        let _ = self.reject(exchange, eap);
    }

    fn answer_status(&mut self, exchange: Exchange) {
        // RFC 5997, 3.
        let builder = match exchange.key.origin.service {
            Service::Accounting => Builder::without_message_authenticator(
                Code::AccountingResponse,
                exchange.key.identifier,
            ),
            Service::Authentication | Service::Both => {
                Builder::new(Code::AccessAccept, exchange.key.identifier)
            }
        };
        let _ = self.answer(exchange, builder);
    }

    /// Signs, remembers and sends an answer. One that does not fit becomes a Reject.
    fn answer(&mut self, exchange: Exchange, builder: Builder) -> Result<(), BuildError> {
        let finish = |builder: Builder| {
            let proxies = exchange
                .proxy_states
                .iter()
                .map(|state| (Type::PROXY_STATE, state.as_slice()));
            builder
                .attributes(proxies)
                .answer(&exchange.request, &exchange.client.secret)
        };
        let (bytes, fault) = match finish(builder) {
            Ok(bytes) => (bytes, Ok(())),
            Err(error) => {
                self.end(&exchange);
                let reject = Builder::new(Code::AccessReject, exchange.key.identifier);
                (
                    finish(reject.eap(&failure(exchange.eap_identifier)))?,
                    Err(error),
                )
            }
        };
        self.outputs.push_back(Output::Send {
            to: exchange.key.origin,
            bytes: bytes.clone(),
        });
        self.exchanges.answered(exchange, bytes);
        fault
    }

    fn end(&mut self, exchange: &Exchange) {
        if let Some(handle) = exchange.conversation {
            self.conversations.end(handle);
        }
    }
}

/// EAP-Failure that answers a response.
#[must_use]
pub fn failure(identifier: u8) -> [u8; 4] {
    [4, identifier, 0, 4]
}

#[cfg(test)]
mod tests;
