//! Lost, repeated, reordered, forged packets: dropped, or the same cached answer; never a second operation of an
//! element for the same packet.

use std::{collections::VecDeque, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use gose_element::{
    Algorithm,
    drive::eap_tls::{EapTls, Opening, Personalisation, Reply},
};
use gose_proto::{
    eap::{Packet, Type as EapType},
    radius::{
        Builder, Code, RequestAuthenticator, Secret, Type,
        client::{Access, Exchange, Timers},
        server::Limits,
    },
};
use gose_testkit::{
    pki::{Authority, Request},
    world::{NOW, PIN},
};
use gosed::auth::{EapConversation, Pool, Tuning, Turn};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tokio::{net::UdpSocket, time::timeout};

use crate::world::{Peer, World, identity, secret, server};

const IDENTITY: &[u8] = &[
    2, 1, 0, 15, 1, b'@', b'g', b'o', b's', b'e', b'.', b't', b'e', b's', b't',
];

/// What a line does to the packets on it, in both directions.
#[derive(Clone, Copy, Default)]
struct Line {
    /// One in so many is lost.
    loses: u64,
    /// One in so many arrives twice.
    repeats: u64,
    /// One in so many is held back until the next one has passed.
    swaps: u64,
}

/// A proxy between one client and the server.
async fn proxy(server: SocketAddr, line: Line) -> SocketAddr {
    let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let outside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = inside.local_addr().unwrap();
    tokio::spawn(async move {
        let mut client = None;
        let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
        let mut held: VecDeque<(bool, Vec<u8>)> = VecDeque::new();
        // A generator of its own, so that the test is the same each time.
        let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
        loop {
            let (up, packet) = tokio::select! {
                Ok((length, from)) = inside.recv_from(&mut a) => { client = Some(from); (true, a[..length].to_vec()) }
                Ok((length, _)) = outside.recv_from(&mut b) => (false, b[..length].to_vec()),
            };
            let mut draw = |one_in: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                one_in > 0 && random.is_multiple_of(one_in)
            };
            if draw(line.loses) {
                continue;
            }
            let mut now = vec![(up, packet.clone())];
            if draw(line.repeats) {
                now.push((up, packet.clone()));
            }
            if draw(line.swaps) {
                held.extend(now);
                continue;
            }
            now.extend(held.drain(..));
            for (up, packet) in now {
                if up {
                    outside.send_to(&packet, server).await.unwrap();
                } else if let Some(client) = client {
                    inside.send_to(&packet, client).await.unwrap();
                }
            }
        }
    });
    address
}

/// Authentications over a bad line: all succeed, and each packet was worked on once.
async fn check(line: Line) {
    let authority = Authority::new("root");
    let fragments = |size: u16| {
        move |_: &mut Request, identity: &mut Personalisation| {
            identity.policy.fragment_size = size;
        }
    };
    let world = World::new(vec![(
        "srv",
        server(&authority, Algorithm::P256, fragments(200)),
    )])
    .await;
    let address = proxy(world.address, line).await;
    let mut peer = Peer::new(&authority, Algorithm::P256, fragments(200));
    let mut rounds = 0;
    for _ in 0..6 {
        let (same, report) = World::authenticate(address, peer).await;
        let report = report.unwrap();
        assert!(report.accepted && report.keys_match == Some(true));
        rounds += report.rounds.len() as u64;
        peer = same;
    }
    let counters = world.front.counters();
    assert_eq!(
        counters.element_steps.load(Ordering::Relaxed),
        rounds,
        "each request was worked on once"
    );
    assert_eq!(counters.accepted.load(Ordering::Relaxed), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_loses() {
    check(Line {
        loses: 10,
        ..Line::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_repeats_and_reorders() {
    check(Line {
        repeats: 2,
        swaps: 7,
        ..Line::default()
    })
    .await;
}

/// Sends a packet; its answer, or nothing within a moment.
async fn ask(world: &World, socket: &UdpSocket, bytes: &[u8]) -> Option<Vec<u8>> {
    socket.send_to(bytes, world.address).await.unwrap();
    let mut buffer = vec![0; 4096];
    let received = timeout(Duration::from_millis(150), socket.recv_from(&mut buffer))
        .await
        .ok()?;
    buffer.truncate(received.unwrap().0);
    Some(buffer)
}

fn access(identifier: u8, state: Option<&[u8]>, eap: &[u8], secret: &Secret) -> Vec<u8> {
    let access = Access {
        user_name: b"@gose.test",
        state,
        eap,
        ..Access::default()
    };
    access
        .encode(identifier, &RequestAuthenticator([identifier; 16]), secret)
        .unwrap()
}

fn read(request: &[u8], answer: &[u8]) -> gose_proto::radius::client::Answer {
    Exchange::new(request.to_vec(), secret(), Timers::DEFAULT, Duration::ZERO)
        .unwrap()
        .receive(answer)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_are_dropped() {
    let authority = Authority::new("root");
    let world = World::new(vec![(
        "srv",
        server(&authority, Algorithm::P256, |_, _| {}),
    )])
    .await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let wrong = Secret::new(b"wrong".to_vec()).unwrap();
    let mut dropped = vec![
        vec![],
        vec![1; 19],
        vec![0xFF; 4097],
        access(1, None, IDENTITY, &wrong),
        Builder::without_message_authenticator(Code::AccessRequest, 2)
            .eap(IDENTITY)
            .request(&RequestAuthenticator([2; 16]), &secret())
            .unwrap(),
        Builder::new(Code::AccessAccept, 3)
            .answer(&RequestAuthenticator([3; 16]), &secret())
            .unwrap(),
        Builder::new(Code::AccountingRequest, 4)
            .digest_request(&secret())
            .unwrap(),
    ];
    let mut forged = access(5, None, IDENTITY, &secret());
    *forged.last_mut().unwrap() ^= 1;
    dropped.push(forged);
    for (number, packet) in dropped.iter().enumerate() {
        assert!(
            ask(&world, &socket, packet).await.is_none(),
            "packet {number}"
        );
    }
    let discarded = world.front.counters().discarded.load(Ordering::Relaxed);
    assert_eq!(discarded, dropped.len() as u64);
    assert_eq!(
        world.front.counters().element_steps.load(Ordering::Relaxed),
        0
    );
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    assert!(
        World::authenticate(world.address, peer)
            .await
            .1
            .unwrap()
            .accepted,
        "others are served"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_answered() {
    let authority = Authority::new("root");
    let world = World::of_clients("192.0.2.0/24", &authority).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = access(1, None, IDENTITY, &secret());
    assert!(ask(&world, &socket, &request).await.is_none());
    assert_eq!(world.front.counters().strangers.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_replayed_states() {
    let authority = Authority::new("root");
    let world = World::new(vec![(
        "srv",
        server(&authority, Algorithm::P256, |_, _| {}),
    )])
    .await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let steps = || world.front.counters().element_steps.load(Ordering::Relaxed);

    let begin = access(1, None, IDENTITY, &secret());
    let first = ask(&world, &socket, &begin).await.unwrap();
    assert_eq!(
        ask(&world, &socket, &begin).await.unwrap(),
        first,
        "the same bytes"
    );
    assert_eq!(steps(), 1);
    let challenge = read(&begin, &first);
    assert_eq!(
        challenge.eap.as_deref(),
        Some(&[1, 2, 0, 6, 13, 0x20][..]),
        "EAP-TLS Start"
    );
    let state = challenge.state.unwrap();

    // An EAP Identifier out of order: the last request again, and the word Ignored.
    let stray = access(2, Some(&state), &[2, 99, 0, 6, 13, 0], &secret());
    let answer = read(&stray, &ask(&world, &socket, &stray).await.unwrap());
    assert_eq!(
        answer.first(Type::ERROR_CAUSE),
        Some(&202_u32.to_be_bytes()[..])
    );
    assert_eq!(answer.eap.as_deref(), Some(&[1, 2, 0, 6, 13, 0x20][..]));
    let next = answer.state.unwrap();

    // The State of before, in a packet of its own: a replay.
    let replay = access(3, Some(&state), &[2, 2, 0, 6, 13, 0], &secret());
    assert!(ask(&world, &socket, &replay).await.is_none());

    // The peer wants another method: the element is never asked.
    let nak = access(4, Some(&next), &[2, 2, 0, 6, 3, 4], &secret());
    let answer = read(&nak, &ask(&world, &socket, &nak).await.unwrap());
    assert_eq!(
        (answer.code, answer.eap),
        (Code::AccessReject, Some(vec![4, 2, 0, 4]))
    );
    assert_eq!(world.pool.state()[0].1.conversations, 0);
    assert_eq!(world.front.conversations(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eap_start_status_and_fragments_that_never_end() {
    let authority = Authority::new("root");
    let world = World::new(vec![(
        "srv",
        server(&authority, Algorithm::P256, |_, _| {}),
    )])
    .await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let query = Builder::new(Code::StatusServer, 1)
        .request(&RequestAuthenticator([1; 16]), &secret())
        .unwrap();
    let answer = ask(&world, &socket, &query).await.unwrap();
    assert_eq!(read(&query, &answer).code, Code::AccessAccept);

    let start = access(2, None, &[], &secret());
    let answer = read(&start, &ask(&world, &socket, &start).await.unwrap());
    assert_eq!(
        answer.eap.as_deref(),
        Some(&[1, 1, 0, 5, 1][..]),
        "EAP-Request/Identity"
    );
    let identity = access(3, answer.state.as_deref(), IDENTITY, &secret());
    let mut answer = read(&identity, &ask(&world, &socket, &identity).await.unwrap());
    assert_eq!(
        answer.eap.as_deref(),
        Some(&[1, 2, 0, 6, 13, 0x20][..]),
        "EAP-TLS Start"
    );

    // More, and more: one byte each, a length that lies.
    let mut rounds = 0;
    while answer.code == Code::AccessChallenge {
        let eap = answer.eap.unwrap();
        let fragment = [2, eap[1], 0, 11, 13, 0xC0, 0, 0, 0xFF, 0xFF, 0x16];
        rounds += 1;
        let identifier = u8::try_from(rounds % 250).unwrap() + 4;
        let access = Access {
            user_name: b"@gose.test",
            state: answer.state.as_deref(),
            eap: &fragment,
            ..Access::default()
        };
        let mut authenticator = [0; 16];
        authenticator[..4].copy_from_slice(&u32::to_be_bytes(rounds));
        let request = access
            .encode(identifier, &RequestAuthenticator(authenticator), &secret())
            .unwrap();
        answer = read(&request, &ask(&world, &socket, &request).await.unwrap());
        assert!(rounds < 1000, "it never ends");
    }
    assert_eq!(answer.code, Code::AccessReject);
    assert_eq!(
        world.pool.state()[0].1.conversations,
        0,
        "the element was not asked"
    );
}

/// What a hostile peer does next.
#[derive(Debug, Clone)]
enum Move {
    /// What its element says.
    Honest,
    /// The same with a byte changed.
    Changed(usize, u8),
    /// A response of before.
    Again(usize),
    /// An acknowledgement.
    Empty,
    /// The last packets of a handshake that was never made.
    Forged(Vec<u8>),
    /// Another identity.
    Renamed,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => Just(Move::Honest),
        2 => (any::<usize>(), 1..=255_u8).prop_map(|(at, with)| Move::Changed(at, with)),
        1 => any::<usize>().prop_map(Move::Again),
        1 => Just(Move::Empty),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Move::Forged),
        1 => Just(Move::Renamed),
    ];
    proptest::collection::vec(one, 1..14)
}

/// A peer without a certificate under the server's anchors: whatever it sends in whatever order, no success.
async fn attack(pool: &Pool, peer: &mut Peer, moves: &[Move]) -> Result<(), TestCaseError> {
    let mut conversation = pool.conversation("@gose.test", "hostile").unwrap();
    let mut eap = EapTls::open(&mut peer.0, &Opening::new(PIN, "peer")).unwrap();
    let mut request = Packet::request(1, EapType::IDENTITY, &[]).encode();
    let mut said: Vec<Vec<u8>> = Vec::new();
    for step in moves {
        let identifier = request.get(1).copied().unwrap_or_default();
        let own = match eap.process(&request, Some(NOW)) {
            Ok(Reply::Packet(own)) => own,
            _ => Packet::response(identifier, EapType::TLS, &[0]).encode(),
        };
        let response = match step {
            Move::Honest => own,
            Move::Changed(at, with) => {
                let mut changed = own;
                let at = at % changed.len();
                changed[at] ^= with;
                changed
            }
            Move::Again(which) => said.get(which % said.len().max(1)).cloned().unwrap_or(own),
            Move::Empty => Packet::response(identifier, EapType::TLS, &[0]).encode(),
            Move::Forged(data) => Packet::response(identifier, EapType::TLS, data).encode(),
            Move::Renamed => {
                Packet::response(identifier, EapType::IDENTITY, b"admin@gose.test").encode()
            }
        };
        said.push(response.clone());
        match conversation.receive(&response).await {
            Turn::Request(next) => request = next,
            Turn::Discarded | Turn::Busy => {}
            Turn::Failure { .. } => break,
            Turn::Success(_) => return Err(TestCaseError::fail("a success without a certificate")),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sequence_without_a_certificate_succeeds() {
    let (authority, other) = (Authority::new("root"), Authority::new("another root"));
    for version in [0x0303, 0x0304] {
        let change = move |_: &mut Request, identity: &mut Personalisation| {
            (identity.policy.min_version, identity.policy.max_version) = (version, version);
        };
        let world = World::new(vec![("srv", server(&authority, Algorithm::P256, change))]).await;
        let anchor = authority.der().to_vec();
        let mut peer = Peer::new(&other, Algorithm::P256, move |request, identity| {
            change(request, identity);
            identity.anchors = vec![anchor];
        });
        let config = Config {
            cases: 40,
            failure_persistence: None,
            ..Config::default()
        };
        let mut runner =
            TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let tree = moves();
        for _ in 0..40 {
            let moves = tree.new_tree(&mut runner).unwrap().current();
            attack(&world.pool, &mut peer, &moves)
                .await
                .unwrap_or_else(|error| panic!("{error}: {moves:?}"));
        }
        assert_eq!(world.front.counters().accepted.load(Ordering::Relaxed), 0);
        let honest = Peer::new(&authority, Algorithm::P256, change);
        assert!(
            World::authenticate(world.address, honest)
                .await
                .1
                .unwrap()
                .accepted,
            "others go on"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_half_open_conversations() {
    let authority = Authority::new("root");
    let elements = vec![("srv", server(&authority, Algorithm::P256, |_, _| {}))];
    let company = identity(&elements);
    let limits = Limits {
        conversations: 1000,
        conversations_a_client: 1000,
        exchanges: 1500,
        ..Limits::DEFAULT
    };
    let world = World::with(elements, vec![company], &Tuning::DEFAULT, limits).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = vec![0; 4096];
    for number in 0..10_000_u32 {
        let mut authenticator = [0; 16];
        authenticator[..4].copy_from_slice(&number.to_be_bytes());
        let access = Access {
            user_name: b"@gose.test",
            eap: IDENTITY,
            ..Access::default()
        };
        let identifier = u8::try_from(number % 256).unwrap();
        let request = access
            .encode(identifier, &RequestAuthenticator(authenticator), &secret())
            .unwrap();
        socket.send_to(&request, world.address).await.unwrap();
        let answered = timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
        assert!(answered.is_ok(), "conversation {number} is served");
    }
    assert_eq!(
        world.front.conversations(),
        1000,
        "the longest silence made room"
    );
    assert_eq!(
        world.pool.state()[0].1.conversations,
        0,
        "none of them has an element"
    );
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    assert!(
        World::authenticate(world.address, peer)
            .await
            .1
            .unwrap()
            .accepted,
        "new ones are served"
    );
}
