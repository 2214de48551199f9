//! Connections and remote elements against a node on loopback.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gose_client::{Connection, Endpoint, Error, Link, RemoteElement, tls};
use gose_element::{ElementError, Script, SecureElement, Seid, Step, announced};
use gose_proto::racs::Request;
use gose_testkit::{
    node::{self, Behaviour},
    pki::{Authority, Leaf},
};

struct World {
    authority: Authority,
    behaviour: Arc<Behaviour>,
    address: String,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("root");
        let behaviour = Arc::new(Behaviour::default());
        let server = authority.server(&["localhost"]);
        let address = node::start_tls(&server, &authority, behaviour.clone());
        Self {
            authority,
            behaviour,
            address,
        }
    }

    fn endpoint(&self) -> Endpoint {
        self.endpoint_as(&self.authority.user("user"), "localhost")
    }

    fn endpoint_as(&self, user: &Leaf, name: &str) -> Endpoint {
        let identity = tls::Identity::from_der(user.chain.clone(), user.key()).unwrap();
        let anchors = tls::anchors([self.authority.der()]).unwrap();
        Endpoint::Tls {
            address: self.address.clone(),
            name: tls::server_name(name).unwrap(),
            config: tls::client_config(&identity, anchors, tls::RACS).unwrap(),
        }
    }

    fn element(&self) -> RemoteElement {
        RemoteElement::at(self.endpoint(), seid("SE1"))
    }
}

fn seid(text: &str) -> Seid {
    text.parse().unwrap()
}

fn mirror(data: u8) -> Step {
    Step::new([0x00, 0x01, 0x90, 0x00, 0x01, data])
}

#[test]
fn lists_over_tls_and_over_a_unix_socket() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    node::start_unix(&path, world.behaviour.clone());
    for endpoint in [world.endpoint(), Endpoint::Unix(path)] {
        let mut connection = endpoint.connect().unwrap();
        assert_eq!(connection.version().unwrap(), "0.2");
        let seids = connection.list().unwrap();
        assert_eq!(seids, [seid("SE1"), seid("SE2"), seid("busy")]);
    }
}

#[test]
fn one_side_does_not_accept_the_other() {
    let world = World::new();
    let user = world.authority.user("user");
    let wrong_name = world.endpoint_as(&user, "elsewhere").connect();
    assert!(matches!(wrong_name.err(), Some(Error::Tls(_))));

    let stranger = Authority::new("stranger").user("user");
    for refused in [stranger, world.authority.expired("user")] {
        // In TLS 1.3 the client hears of it when it first reads.
        let outcome = world.endpoint_as(&refused, "localhost").connect();
        let error = outcome
            .and_then(|mut connection| connection.list())
            .unwrap_err();
        assert!(matches!(error, Error::Tls(_)), "{error}");
        let mut element = RemoteElement::at(world.endpoint_as(&refused, "localhost"), seid("SE1"));
        let error = element.run(&mirror(1).into()).failed.unwrap();
        assert!(matches!(error, ElementError::Transport(_)), "{error}");
    }
    assert_eq!(world.behaviour.executed(), 0);
    let identity = tls::Identity::from_der(user.chain.clone(), world.authority.user("b").key());
    assert!(matches!(identity.err(), Some(Error::Config(_))));
}

#[test]
fn identities_and_anchors_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("root").subordinate("below");
    let (chain, key) = authority.user("user").write(dir.path(), "user");
    let identity = tls::Identity::load(&chain, &key).unwrap();
    assert_eq!(identity.chain().len(), 2);
    let anchors = tls::load_anchors(&authority.write(dir.path(), "ca")).unwrap();
    assert_eq!(anchors.len(), 1);
    let der = dir.path().join("ca.der");
    std::fs::write(&der, authority.der()).unwrap();
    assert_eq!(tls::load_anchors(&der).unwrap().len(), 1);
    for wrong in [
        tls::load_anchors(&key).err(),
        tls::Identity::load(&key, &chain).err(),
    ] {
        assert!(matches!(wrong, Some(Error::File { .. })));
    }
    assert!(
        tls::Identity::load(dir.path(), &key)
            .unwrap_err()
            .is_local()
    );
}

#[test]
fn a_script_is_one_request() {
    let world = World::new();
    let mut element = world.element();
    let script = Script::new(vec![mirror(1), mirror(2).append(), mirror(3)]);
    let outcomes = element.run(&script);
    assert!(outcomes.complete(3), "{outcomes:?}");
    let bodies: Vec<_> = outcomes
        .done
        .iter()
        .map(|o| o.as_ref().map(|o| o.body[0]))
        .collect();
    assert_eq!(bodies, [None, Some(2), Some(3)]);
    assert_eq!(element.round_trips(), 1);
    assert_eq!(world.behaviour.power_ons.load(Ordering::SeqCst), 1);
    let response = element.transmit(&[0x00, 0x01, 0x6A, 0x82]).unwrap();
    assert_eq!(response.sw.value(), 0x6A82);
    assert_eq!(element.reset(true).unwrap().as_bytes(), [0x3B, 0x8B, 0x01]);
    assert_eq!(element.round_trips(), 3);
}

#[test]
fn scripts_end_where_the_element_says() {
    let world = World::new();
    let mut element = world.element();
    let refusal = Step::new([0x00, 0x01, 0x69, 0x82]).expect_normal();
    let outcomes = element.run(&Script::new(vec![mirror(1), refusal, mirror(3)]));
    assert_eq!(outcomes.done.len(), 2);
    let last = outcomes.last().unwrap();
    assert_eq!((last.sw.value(), last.expected), (0x6982, false));
    let mute = Step::new([0x00, 0x04, 0x00, 0x00]);
    let outcomes = element.run(&Script::new(vec![mirror(1).append(), mute, mirror(3)]));
    assert_eq!(
        (outcomes.done.len(), outcomes.failed),
        (1, Some(ElementError::Mute))
    );
}

/// RACS knows one MORE a line: the script stops at 9Fxx, the rest is fetched, the other steps follow.
#[test]
fn both_status_words_of_more_in_one_step() {
    let world = World::new();
    let mut element = world.element();
    for class in [0x00, 0xA0] {
        let long = Step::new([class, 0x03, 0x00, 0x00])
            .collect([class, 0xC0, 0, 0])
            .expect_normal()
            .append();
        let steps = vec![mirror(7).append(), long.clone(), long, mirror(8)];
        let outcomes = announced::collect(&mut element, &Script::new(steps));
        assert!(outcomes.complete(4), "{outcomes:?}");
        let bodies: Vec<_> = outcomes
            .done
            .iter()
            .flatten()
            .map(|o| &o.body[..])
            .collect();
        assert_eq!(bodies, [&[7][..], &[1, 2, 3, 4], &[1, 2, 3, 4], &[8]]);
    }
}

#[test]
fn power_on_script_and_shutdown_in_one_request() {
    let world = World::new();
    let mut element = world.element();
    let (atr, outcomes) = element
        .run_once(&Script::new(vec![mirror(1), mirror(2)]))
        .unwrap();
    assert_eq!(atr.as_bytes(), [0x3B, 0x8B, 0x01]);
    assert_eq!(outcomes.last().unwrap().body, [2]);
    assert_eq!(element.round_trips(), 1);
}

#[test]
fn refusals_by_class() {
    let world = World::new();
    let check = |name: &str, expected: ElementError| {
        let mut element = RemoteElement::at(world.endpoint(), seid(name));
        assert_eq!(element.power_on(), Err(expected.clone()));
        assert_eq!(
            element.run(&mirror(1).into()).failed,
            Some(expected.clone())
        );
        assert_eq!(element.run_once(&mirror(1).into()).err(), Some(expected));
    };
    check("busy", ElementError::InUse);
    check("foreign", ElementError::Refused);
    assert_eq!(world.behaviour.executed(), 0);
}

/// Row D2 of the reliability plan.
#[test]
fn a_cut_after_the_apdu_is_never_sent_again() {
    let world = World::new();
    let mut element = world.element();
    world.behaviour.cut_after.lock().unwrap().extend([2, 4]);
    for round in 1..=2 {
        element.power_on().unwrap();
        assert!(element.run(&mirror(1).into()).failed.is_none());
        let outcomes = element.run(&mirror(2).into());
        assert_eq!(outcomes.failed, Some(ElementError::OutcomeUnknown));
        assert_eq!(world.behaviour.executed(), 2 * round);
        // Nothing is sent until the element is powered up again.
        let again = element.run(&mirror(3).into()).failed.unwrap();
        assert!(matches!(again, ElementError::Transport(_)), "{again}");
        assert_eq!(world.behaviour.executed(), 2 * round);
        assert_eq!(world.behaviour.connections.load(Ordering::SeqCst), round);
    }
}

#[test]
fn a_connection_that_was_closed_before_is_no_unknown_outcome() {
    let world = World::new();
    world
        .behaviour
        .close_after_response
        .store(true, Ordering::SeqCst);
    let mut element = world.element();
    element.power_on().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let error = element.run(&mirror(1).into()).failed.unwrap();
    assert!(matches!(error, ElementError::Transport(_)), "{error}");
    assert_eq!(world.behaviour.executed(), 0);
}

#[test]
fn silence_has_a_limit() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(Link::plain(ours).unwrap());
    connection.set_timeout(Duration::from_millis(50));
    let mut element = RemoteElement::new(connection, seid("SE1"));
    let outcomes = element.run(&mirror(1).into());
    assert_eq!(outcomes.failed, Some(ElementError::OutcomeUnknown));
    let again = element.power_on().unwrap_err();
    assert!(matches!(again, ElementError::Transport(_)), "{again}");
    drop(theirs);
}

#[test]
fn answers_out_of_turn_end_the_session() {
    let mut request = Request::with_id("mine").unwrap();
    request.list().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(Link::plain(ours).unwrap());
    theirs.write_all(b"BEGIN\r\n+008 001 x\r\nEND\r\n").unwrap();
    assert!(matches!(connection.ask(request), Err(Error::Unsolicited)));
    assert!(connection.is_closed());
    assert!(matches!(connection.list(), Err(Error::Closed)));
}

#[test]
fn answers_for_another_end_the_session() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let mut asked = [0; 64];
        let size = theirs.read(&mut asked).unwrap();
        theirs
            .write_all(b"BEGIN yours\r\n+004 001 x\r\nEND\r\n")
            .unwrap();
        asked[..size].to_vec()
    });
    let mut connection = Connection::new(Link::plain(ours).unwrap());
    let mut request = Request::with_id("mine").unwrap();
    request.list().unwrap();
    assert!(matches!(connection.ask(request), Err(Error::Protocol(_))));
    assert_eq!(server.join().unwrap(), b"BEGIN mine\r\nLIST\r\nEND\r\n");
    assert!(matches!(connection.list(), Err(Error::Closed)));
}

/// The node answers at the first error, before the request has ended: neither side waits for the other.
#[test]
fn a_long_response_is_read_while_a_long_request_is_written() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    node::start_unix(&path, world.behaviour.clone());
    let long = "x".repeat(50_000);
    for endpoint in [world.endpoint(), Endpoint::Unix(path)] {
        let mut connection = endpoint.connect().unwrap();
        let mut request = Request::new();
        for _ in 0..19 {
            request.echo(&long).unwrap();
            request.append();
        }
        request.apdu(&seid("nobody"), &mirror(1)).unwrap();
        for _ in 0..200 {
            request.echo(&long).unwrap();
        }
        let response = connection.ask(request).unwrap();
        assert_eq!(response.statuses().len(), 20);
        assert_eq!(response.decide().unwrap_err().line, 20);
        // The session goes on.
        assert_eq!(connection.list().unwrap().len(), 3);
    }
}

#[test]
fn long_answers() {
    let world = World::new();
    let mut element = world.element();
    let long = Step::new([0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00]).append();
    let outcomes = element.run(&Script::new(vec![long; 8]));
    assert!(outcomes.complete(8));
    assert!(
        outcomes
            .done
            .iter()
            .flatten()
            .all(|o| o.body.len() == 60_000)
    );
}

/// A key that sits elsewhere: rustls sees only its signatures.
#[derive(Debug)]
struct Elsewhere {
    key: Arc<dyn rustls::sign::SigningKey>,
    signatures: Arc<AtomicU32>,
}

impl rustls::sign::SigningKey for Elsewhere {
    fn choose_scheme(
        &self,
        offered: &[rustls::SignatureScheme],
    ) -> Option<Box<dyn rustls::sign::Signer>> {
        self.signatures.fetch_add(1, Ordering::SeqCst);
        self.key.choose_scheme(offered)
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[test]
fn the_key_may_sit_in_an_element() {
    let world = World::new();
    let user = world.authority.user("user");
    let signatures = Arc::new(AtomicU32::new(0));
    let key = Arc::new(Elsewhere {
        key: rustls::crypto::aws_lc_rs::sign::any_supported_type(&user.key()).unwrap(),
        signatures: signatures.clone(),
    });
    let identity = tls::Identity::new(user.chain.clone(), key).unwrap();
    let anchors = tls::anchors([world.authority.der()]).unwrap();
    let endpoint = Endpoint::Tls {
        address: world.address,
        name: tls::server_name("localhost").unwrap(),
        config: tls::client_config(&identity, anchors, tls::RACS).unwrap(),
    };
    assert_eq!(endpoint.connect().unwrap().list().unwrap().len(), 3);
    assert_eq!(signatures.load(Ordering::SeqCst), 1);
}
