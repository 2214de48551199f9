use proptest::prelude::*;

use zeroize::Zeroizing;

use super::*;
use crate::radius::Secret;
use crate::radius::{
    authenticator::RequestAuthenticator,
    client::{Access, Answer, Exchange as Request, Timers},
    packet::Packet,
};

const IDENTITY: &[u8] = &[2, 1, 0, 6, 1, b'a'];
const TLS: &[u8] = &[2, 2, 0, 6, 13, 0];

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).unwrap()
}

fn client(name: &str) -> Arc<Client> {
    Arc::new(Client {
        name: name.into(),
        secret: secret("testing123"),
        disconnect_port: None,
    })
}

fn origin(port: u16) -> Origin {
    Origin {
        address: ([127, 0, 0, 1], port).into(),
        channel: 0,
        service: Service::Authentication,
    }
}

/// A server, a client, the operations that ran.
struct World {
    server: Server,
    client: Arc<Client>,
    now: Duration,
    drawn: u8,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            server: Server::new(limits),
            client: client("nas"),
            now: Duration::ZERO,
            drawn: 0,
        }
    }

    fn access(&self, identifier: u8, state: Option<&[u8]>, eap: &[u8]) -> Vec<u8> {
        let access = Access {
            user_name: b"a",
            state,
            eap,
            ..Access::default()
        };
        access
            .encode(
                identifier,
                &RequestAuthenticator([identifier; 16]),
                &self.client.secret,
            )
            .unwrap()
    }

    fn receive(&mut self, port: u16, bytes: &[u8]) -> Result<Received, Discard> {
        self.drawn += 1;
        self.server.receive(
            origin(port),
            &self.client.clone(),
            bytes,
            self.now,
            [self.drawn; 16],
        )
    }

    /// What there is to do: tickets of operations, packets to send, conversations to abandon.
    fn drain(&mut self) -> (Vec<Ticket>, Vec<Vec<u8>>, usize) {
        let (mut tickets, mut sent, mut abandoned) = (Vec::new(), Vec::new(), 0);
        while let Some(output) = self.server.poll() {
            match output {
                Output::Run { ticket, .. } => tickets.push(ticket),
                Output::Send { bytes, .. } => sent.push(bytes),
                Output::Abandon(_) => abandoned += 1,
            }
        }
        (tickets, sent, abandoned)
    }

    /// Sends a request that must come to one operation, completes it, returns the answer.
    fn round(&mut self, request: &[u8], completion: Completion) -> Answer {
        assert_eq!(self.receive(1, request), Ok(Received::New(Kind::Access)));
        let (tickets, sent, _) = self.drain();
        assert!(sent.is_empty());
        self.server
            .complete(tickets[0], completion, self.now, [1, 2])
            .unwrap();
        let (_, sent, _) = self.drain();
        self.read(request, &sent[0])
    }

    fn read(&self, request: &[u8], answer: &[u8]) -> Answer {
        let request = Request::new(
            request.to_vec(),
            self.client.secret.clone(),
            Timers::DEFAULT,
            self.now,
        )
        .unwrap();
        request.receive(answer).unwrap()
    }

    /// Begins a conversation; its State.
    fn begin(&mut self, identifier: u8) -> Vec<u8> {
        let answer = self.round(&self.access(identifier, None, IDENTITY), challenge());
        answer.state.unwrap()
    }
}

fn challenge() -> Completion {
    Completion::Challenge(vec![1, 2, 0, 6, 13, 0x20])
}

fn accept() -> Completion {
    Completion::Accept(Box::new(Accept {
        success: vec![3, 2, 0, 4],
        msk: Some(Zeroizing::new([7; 64])),
        session_id: vec![13, 1, 2],
        reply: vec![(Type::SESSION_TIMEOUT, vec![0, 0, 0, 60])],
    }))
}

#[test]
fn a_conversation_to_its_accept() {
    let mut world = World::new(Limits::DEFAULT);
    let state = world.begin(1);
    let answer = world.round(&world.access(2, Some(&state), TLS), accept());
    assert_eq!(answer.code, Code::AccessAccept);
    assert_eq!(answer.eap.as_deref(), Some(&[3, 2, 0, 4][..]));
    assert_eq!(answer.msk.as_deref(), Some(&[7; 64]));
    assert_eq!(answer.first(Type::EAP_KEY_NAME), Some(&[13, 1, 2][..]));
    assert_eq!(
        answer.first(Type::SESSION_TIMEOUT),
        Some(&[0, 0, 0, 60][..])
    );
    assert_eq!(
        answer.attributes[0].0,
        Type::MESSAGE_AUTHENTICATOR,
        "first in the answer"
    );
    assert_eq!(world.server.conversations(), 0);
}

#[test]
fn a_duplicate_costs_no_second_operation() {
    let mut world = World::new(Limits::DEFAULT);
    let request = world.access(1, None, IDENTITY);
    assert_eq!(world.receive(1, &request), Ok(Received::New(Kind::Access)));
    assert_eq!(world.receive(1, &request), Err(Discard::InProgress));
    let (tickets, ..) = world.drain();
    assert_eq!(tickets.len(), 1);
    world
        .server
        .complete(tickets[0], challenge(), world.now, [0, 0])
        .unwrap();
    let (_, first, _) = world.drain();
    world.now += Duration::from_secs(9);
    world.server.expire(world.now);
    assert_eq!(world.receive(1, &request), Ok(Received::Duplicate));
    let (tickets, second, _) = world.drain();
    assert_eq!((tickets.len(), &second), (0, &first), "the same bytes");
    // From another port it is another request.
    assert_eq!(world.receive(2, &request), Ok(Received::New(Kind::Access)));
    // The same Identifier in a new request replaces the old one.
    let other = {
        let access = Access {
            user_name: b"b",
            eap: IDENTITY,
            ..Access::default()
        };
        access
            .encode(1, &RequestAuthenticator([99; 16]), &world.client.secret)
            .unwrap()
    };
    assert_eq!(world.receive(1, &other), Ok(Received::New(Kind::Access)));
}

#[test]
fn answers_are_forgotten_in_time() {
    let mut world = World::new(Limits::DEFAULT);
    world.begin(1);
    world.now += Duration::from_secs(10);
    world.server.expire(world.now);
    assert_eq!(
        (world.server.exchanges(), world.server.conversations()),
        (0, 1)
    );
    world.now += Duration::from_secs(20);
    world.server.expire(world.now);
    assert_eq!(world.server.conversations(), 0);
    assert_eq!(world.drain().2, 1, "its element is given back");
}

#[test]
fn an_operation_that_never_ends_is_forgotten() {
    let mut world = World::new(Limits::DEFAULT);
    world.receive(1, &world.access(1, None, IDENTITY)).unwrap();
    let (tickets, ..) = world.drain();
    world.now += Duration::from_secs(31);
    world.server.expire(world.now);
    assert_eq!(
        (
            world.server.exchanges(),
            world.server.conversations(),
            world.drain().2
        ),
        (0, 0, 1)
    );
    world
        .server
        .complete(tickets[0], accept(), world.now, [0, 0])
        .unwrap();
    assert_eq!(world.drain().1.len(), 0, "nobody waits for it");
}

#[test]
fn states_that_are_not_the_current_one() {
    let mut world = World::new(Limits::DEFAULT);
    let first = world.begin(1);
    let answer = world.round(&world.access(2, Some(&first), TLS), challenge());
    let second = answer.state.unwrap();
    assert_eq!(
        world.receive(1, &world.access(3, Some(&first), TLS)),
        Err(Discard::ReplayedState)
    );
    assert!(
        world
            .receive(1, &world.access(4, Some(&second), TLS))
            .is_ok()
    );
    assert_eq!(
        world.receive(1, &world.access(5, Some(&second), TLS)),
        Err(Discard::ReplayedState),
        "in work"
    );
    world.client = client("other");
    assert_eq!(
        world.receive(1, &world.access(6, Some(&second), TLS)),
        Err(Discard::ForeignState)
    );
    world.drain();
    for state in [&[0; 16][..], &[0; 3], &[]] {
        let request = world.access(7, Some(state), TLS);
        assert!(world.receive(1, &request).is_ok());
        let (tickets, sent, _) = world.drain();
        let answer = world.read(&request, &sent[0]);
        assert_eq!(
            (tickets.len(), answer.code, answer.eap.unwrap()),
            (0, Code::AccessReject, vec![4, 2, 0, 4])
        );
        world.drawn += 1;
        world.now += Duration::from_secs(11);
        world.server.expire(world.now);
        world.drain();
    }
}

#[test]
fn a_packet_that_eap_ignores_is_answered_with_the_last_request() {
    let mut world = World::new(Limits::DEFAULT);
    let state = world.begin(1);
    let answer = world.round(
        &world.access(2, Some(&state), &[2, 77, 0, 6, 13, 0]),
        Completion::Ignored,
    );
    assert_eq!(answer.code, Code::AccessChallenge);
    assert_eq!(answer.first(Type::ERROR_CAUSE), Some(&[0, 0, 0, 202][..]));
    assert_eq!(answer.eap.unwrap(), [1, 2, 0, 6, 13, 0x20]);
    let answer = world.round(
        &world.access(3, Some(&answer.state.unwrap()), TLS),
        accept(),
    );
    assert_eq!(answer.code, Code::AccessAccept);
    let answer = world.round(&world.access(4, None, IDENTITY), Completion::Ignored);
    assert_eq!(answer.code, Code::AccessReject, "there is no last request");
}

#[test]
fn requests_that_are_refused_at_once() {
    let mut world = World::new(Limits::DEFAULT);
    let mut check = |identifier, eap: &[u8], expected: &[u8]| {
        let request = world.access(identifier, None, eap);
        assert!(world.receive(1, &request).is_ok());
        let (tickets, sent, _) = world.drain();
        let answer = world.read(&request, &sent[0]);
        assert_eq!((tickets.len(), answer.code), (0, Code::AccessReject));
        assert_eq!(answer.eap.unwrap(), expected);
    };
    check(1, &[1, 5, 0, 5, 1], &[2, 5, 0, 6, 3, 0]);
    check(2, &[3, 6, 0, 4], &[4, 6, 0, 4]);
    check(3, &[2, 7, 0], &[4, 7, 0, 4]);
    // Without EAP-Message: this server speaks nothing else.
    let bytes = Builder::new(Code::AccessRequest, 4)
        .attribute(Type::USER_NAME, b"a")
        .request(&RequestAuthenticator([4; 16]), &world.client.secret)
        .unwrap();
    assert!(world.receive(1, &bytes).is_ok());
    let (_, sent, _) = world.drain();
    let answer = world.read(&bytes, &sent[0]);
    assert_eq!((answer.code, answer.eap), (Code::AccessReject, None));
}

#[test]
fn eap_start_begins_a_conversation() {
    let mut world = World::new(Limits::DEFAULT);
    world.receive(1, &world.access(1, None, &[])).unwrap();
    let Some(Output::Run {
        operation: Operation::Begin { response: None, .. },
        ..
    }) = world.server.poll()
    else {
        panic!("no conversation begins");
    };
}

#[test]
fn status_and_accounting() {
    let mut world = World::new(Limits::DEFAULT);
    let at = RequestAuthenticator([3; 16]);
    let query = Builder::new(Code::StatusServer, 1)
        .request(&at, &world.client.secret)
        .unwrap();
    assert_eq!(world.receive(1, &query), Ok(Received::New(Kind::Status)));
    let (_, sent, _) = world.drain();
    assert_eq!(world.read(&query, &sent[0]).code, Code::AccessAccept);

    let mut origin = origin(1);
    let record = Builder::without_message_authenticator(Code::AccountingRequest, 2)
        .integer(Type::ACCT_STATUS_TYPE, 1)
        .attribute(Type::PROXY_STATE, b"one")
        .attribute(Type::PROXY_STATE, b"two")
        .digest_request(&world.client.secret)
        .unwrap();
    let mut receive = |server: &mut Server, service| {
        origin.service = service;
        server.receive(origin, &client("nas"), &record, Duration::ZERO, [0; 16])
    };
    assert_eq!(
        receive(&mut world.server, Service::Authentication),
        Err(Discard::UnexpectedCode)
    );
    assert_eq!(
        receive(&mut world.server, Service::Accounting),
        Ok(Received::New(Kind::Accounting))
    );
    let (tickets, sent, _) = world.drain();
    assert!(sent.is_empty(), "answered when it is recorded");
    world
        .server
        .complete(tickets[0], Completion::Recorded, world.now, [0, 0])
        .unwrap();
    let (_, sent, _) = world.drain();
    let answer = world.read(&record, &sent[0]);
    assert_eq!(answer.code, Code::AccountingResponse);
    assert_eq!(
        answer.attributes,
        [
            (Type::PROXY_STATE, b"one".to_vec()),
            (Type::PROXY_STATE, b"two".to_vec())
        ]
    );
}

#[test]
fn proxy_states_come_back_in_their_order() {
    let mut world = World::new(Limits::DEFAULT);
    let request = Builder::new(Code::AccessRequest, 1)
        .attribute(Type::PROXY_STATE, b"b")
        .eap(IDENTITY)
        .attribute(Type::PROXY_STATE, b"a")
        .request(&RequestAuthenticator([1; 16]), &world.client.secret)
        .unwrap();
    let answer = world.round(&request, challenge());
    let states: Vec<_> = answer
        .attributes
        .iter()
        .filter(|(kind, _)| *kind == Type::PROXY_STATE)
        .collect();
    assert_eq!(
        states,
        [
            &(Type::PROXY_STATE, b"b".to_vec()),
            &(Type::PROXY_STATE, b"a".to_vec())
        ]
    );
}

#[test]
fn an_answer_that_does_not_fit_rejects() {
    let mut world = World::new(Limits::DEFAULT);
    let request = world.access(1, None, IDENTITY);
    world.receive(1, &request).unwrap();
    let (tickets, ..) = world.drain();
    let result = world.server.complete(
        tickets[0],
        Completion::Challenge(vec![1; 5000]),
        world.now,
        [0, 0],
    );
    assert!(matches!(result, Err(BuildError::PacketTooLong(_))));
    let (_, sent, _) = world.drain();
    assert_eq!(world.read(&request, &sent[0]).code, Code::AccessReject);
    assert_eq!(world.server.conversations(), 0);
}

#[test]
fn bounds_hold_and_the_longest_silence_makes_room() {
    let limits = Limits {
        conversations: 2,
        exchanges: 3,
        ..Limits::DEFAULT
    };
    let mut world = World::new(limits);
    let first = world.begin(1);
    world.now += Duration::from_millis(1);
    let second = world.begin(2);
    let third = world.begin(3);
    assert_eq!(
        (world.server.conversations(), world.server.exchanges()),
        (2, 3)
    );
    world.begin(4);
    assert_eq!(
        (world.server.conversations(), world.server.exchanges()),
        (2, 3)
    );
    assert_ne!(second, third);
    let request = world.access(5, Some(&first), TLS);
    world.receive(1, &request).unwrap();
    let (_, sent, _) = world.drain();
    assert_eq!(
        world.read(&request, &sent[0]).code,
        Code::AccessReject,
        "the first made room"
    );
}

#[test]
fn a_client_makes_room_for_itself() {
    let limits = Limits {
        conversations: 4,
        conversations_a_client: 2,
        ..Limits::DEFAULT
    };
    let mut world = World::new(limits);
    world.client = client("quiet");
    let quiet = world.begin(1);
    world.client = client("loud");
    for identifier in 2..20 {
        world.now += Duration::from_millis(1);
        world.begin(identifier);
        world.drain();
    }
    assert_eq!(world.server.conversations(), 3);
    world.client = client("quiet");
    let request = world.access(50, Some(&quiet), TLS);
    let answer = world.round(&request, accept());
    assert_eq!(answer.code, Code::AccessAccept, "the quiet client's stands");
}

#[test]
fn no_room() {
    for overload in [Overload::Drop, Overload::Reject] {
        let limits = Limits {
            conversations: 1,
            conversations_a_client: 1,
            overload,
            ..Limits::DEFAULT
        };
        let mut world = World::new(limits);
        world.receive(1, &world.access(1, None, IDENTITY)).unwrap();
        let (tickets, ..) = world.drain();
        let request = world.access(2, None, IDENTITY);
        let received = world.receive(1, &request);
        let (_, sent, _) = world.drain();
        match overload {
            Overload::Drop => assert_eq!(received, Err(Discard::Overload)),
            Overload::Reject => assert_eq!(world.read(&request, &sent[0]).code, Code::AccessReject),
        }
        world
            .server
            .complete(tickets[0], Completion::Overload, world.now, [0, 0])
            .unwrap();
        let (_, sent, _) = world.drain();
        assert_eq!(sent.len(), usize::from(overload == Overload::Reject));
        assert_eq!(world.server.conversations(), 0);
        // What was dropped is tried anew when it comes again.
        let again = world.receive(1, &world.access(1, None, IDENTITY));
        assert_eq!(
            again == Ok(Received::New(Kind::Access)),
            overload == Overload::Drop
        );
    }
}

proptest! {
    /// Whatever packets come in whatever order: without a completion that accepts, no Access-Accept but to
    /// Status-Server, every table within its bound, never a panic.
    #[test]
    fn no_accept_without_a_verdict(
        events in proptest::collection::vec((0u8..6, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..60)) {
        let limits = Limits { conversations: 4, conversations_a_client: 3, exchanges: 8, ..Limits::DEFAULT };
        let mut world = World::new(limits);
        let mut tickets = Vec::new();
        let mut states = vec![vec![]];
        for (event, draw, bytes) in events {
            let state = states[usize::from(draw) % states.len()].clone();
            match event {
                0 => drop(world.receive(1, &bytes)),
                1 => drop(world.receive(u16::from(draw % 3), &world.access(draw, None, &bytes))),
                2 => drop(world.receive(1, &world.access(draw, Some(&state), &bytes))),
                3 => drop(world.receive(1, &world.access(draw, Some(&state), TLS))),
                4 => {
                    world.now += Duration::from_millis(u64::from(draw) * 100);
                    world.server.expire(world.now);
                }
                _ => if let Some(ticket) = tickets.pop() {
                    let completion = match draw % 4 {
                        0 => Completion::Reject(vec![4, 0, 0, 4]),
                        1 => Completion::Ignored,
                        2 => Completion::Overload,
                        _ => Completion::Challenge(bytes),
                    };
                    let _ = world.server.complete(ticket, completion, world.now, [0, 0]);
                },
            }
            let (more, sent, _) = world.drain();
            tickets.extend(more);
            for packet in &sent {
                let packet = Packet::parse(packet).unwrap();
                prop_assert_ne!(packet.code, Code::AccessAccept);
                prop_assert!(packet.message_authenticator().is_some());
                states.extend(packet.first(Type::STATE).map(|state| state.value.to_vec()));
            }
            prop_assert!(world.server.conversations() <= 4 && world.server.exchanges() <= 8);
        }
    }
}
