//! Several elements behind one identity: load, overload, elements that die, silent peers, several companies.

use std::{sync::atomic::Ordering, time::Duration};

use gose_element::{
    Algorithm,
    drive::eap_tls::{EapTls, Opening, Reply},
};
use gose_proto::{
    eap::{Packet, Type},
    radius::server::{Limits, Overload},
};
use gose_testkit::{
    pki::Authority,
    world::{NOW, PIN},
};
use gosed::{
    auth::{Conversation, EapConversation, Identity, Tuning, Turn},
    grid::{Names, Peer as GridPeer, Plane},
};

use crate::world::{Mortal, Peer, World, identity, seid, server};

fn elements(
    authority: &Authority,
    count: usize,
) -> Vec<(&'static str, Box<dyn gose_element::SecureElement>)> {
    let names = ["srv-1", "srv-2", "srv-3"];
    names[..count]
        .iter()
        .map(|name| (*name, server(authority, Algorithm::P256, |_, _| {})))
        .collect()
}

/// A conversation up to the server's first flight: it has an element, and the peer falls silent.
async fn half_open(world: &World, authority: &Authority) -> Conversation {
    let mut peer = Peer::new(authority, Algorithm::P256, |_, _| {});
    let mut conversation = world.pool.conversation("@gose.test", "").unwrap();
    let mut eap = EapTls::open(&mut peer.0, &Opening::new(PIN, "peer")).unwrap();
    let mut request = Packet::request(0, Type::IDENTITY, &[]).encode();
    for _ in 0..2 {
        assert_eq!(conversation.element(), "", "no element before TLS begins");
        let Reply::Packet(response) = eap.process(&request, Some(NOW)).unwrap() else {
            panic!("no response")
        };
        let Turn::Request(next) = conversation.receive(&response).await else {
            panic!("no request")
        };
        request = next;
    }
    assert_ne!(conversation.element(), "");
    conversation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_is_spread_and_no_element_is_lost() {
    let authority = Authority::new("root");
    let world = World::new(elements(&authority, 3)).await;
    let peers: Vec<_> = (0..6)
        .map(|_| Peer::new(&authority, Algorithm::P256, |_, _| {}))
        .collect();
    let running: Vec<_> = peers
        .into_iter()
        .map(|peer| tokio::spawn(World::authenticate(world.address, peer)))
        .collect();
    for one in running {
        assert!(one.await.unwrap().1.unwrap().accepted);
    }
    let state = world.pool.state();
    assert!(
        state
            .iter()
            .all(|(_, element)| element.conversations >= 1 && !element.busy),
        "{state:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_that_dies_fails_its_conversation_alone() {
    let authority = Authority::new("root");
    for apdus in [0, 3, 8, 14] {
        let mortal = Mortal {
            element: server(&authority, Algorithm::P256, |_, _| {}),
            apdus,
        };
        let mut all: Vec<(&str, Box<dyn gose_element::SecureElement>)> =
            vec![("mortal", Box::new(mortal))];
        all.extend(elements(&authority, 1));
        let world = World::new(all).await;
        let mut outcomes = Vec::new();
        let mut peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
        for _ in 0..4 {
            let (same, report) = World::authenticate(world.address, peer).await;
            outcomes.push(report.is_ok_and(|report| report.accepted));
            peer = same;
        }
        let failed = outcomes.iter().filter(|accepted| !**accepted).count();
        assert_eq!(failed, 1, "{apdus} APDUs: {outcomes:?}");
        let state = world.pool.state();
        assert!(state[0].1.resting && !state[1].1.resting, "{state:?}");
        assert_eq!(world.front.conversations(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_element_is_free() {
    let authority = Authority::new("root");
    let tuning = Tuning {
        patience: Duration::from_millis(100),
        preempt: Duration::from_secs(60),
        ..Tuning::DEFAULT
    };
    for overload in [Overload::Reject, Overload::Drop] {
        let all = elements(&authority, 1);
        let company = identity(&all);
        let world = World::with(
            all,
            vec![company],
            &tuning,
            Limits {
                overload,
                ..Limits::DEFAULT
            },
        )
        .await;
        let holder = half_open(&world, &authority).await;
        assert!(world.pool.state()[0].1.busy);
        let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
        let address = world.address;
        let waiting = tokio::spawn(World::authenticate(address, peer));
        tokio::time::sleep(Duration::from_millis(400)).await;
        drop(holder);
        let accepted = waiting.await.unwrap().1.unwrap().accepted;
        assert!(accepted == (overload == Overload::Drop), "{overload:?}");
        assert!(world.front.counters().overloaded.load(Ordering::Relaxed) > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_gives_its_element_to_one_that_waits() {
    let authority = Authority::new("root");
    let tuning = Tuning {
        preempt: Duration::from_millis(200),
        ..Tuning::DEFAULT
    };
    let all = elements(&authority, 1);
    let company = identity(&all);
    let world = World::with(all, vec![company], &tuning, Limits::DEFAULT).await;
    let mut silent = half_open(&world, &authority).await;
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    assert!(
        World::authenticate(world.address, peer)
            .await
            .1
            .unwrap()
            .accepted
    );
    let late = silent.receive(&[2, 2, 0, 7, 13, 0, 22]).await;
    assert!(
        matches!(late, Turn::Failure { .. }),
        "its element is another's"
    );
    drop(silent);
    assert!(
        !world.pool.state()[0].1.resting,
        "nobody blames the element"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_companies_by_realm() {
    let (one, two) = (Authority::new("one root"), Authority::new("two root"));
    let all: Vec<(&str, Box<dyn gose_element::SecureElement>)> = vec![
        ("srv-1", server(&one, Algorithm::P256, |_, _| {})),
        ("srv-2", server(&two, Algorithm::P256, |_, _| {})),
    ];
    let company = |name: &str, realm: &str, element: &str| {
        let mut identity = Identity::new(name, "authenticator", PIN, vec![seid(element)]);
        identity.realms = vec![realm.into()];
        identity
    };
    let identities = vec![
        company("one", "one.test", "srv-1"),
        company("two", "two.test", "srv-2"),
    ];
    let world = World::with(all, identities, &Tuning::DEFAULT, Limits::DEFAULT).await;
    for (authority, realm, expected) in [
        (&one, "@one.test", true),
        (&two, "anonymous@TWO.test", true),
        (&two, "@one.test", false),
        (&one, "@three.test", false),
    ] {
        let peer = Peer::new(authority, Algorithm::P256, |_, identity| {
            identity.eap_id = realm.into()
        });
        let (_, report) = World::authenticate(world.address, peer).await;
        let accepted = report.as_ref().is_ok_and(|report| report.accepted);
        assert_eq!(accepted, expected, "{realm}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_gets_an_element_back() {
    let authority = Authority::new("root");
    let world = World::new(elements(&authority, 1)).await;
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    let (peer, report) = World::authenticate(world.address, peer).await;
    assert!(report.unwrap().accepted);
    let operator = GridPeer::new(world.grid.new_sid(), Names::Operator);
    assert!(
        world
            .grid
            .open(&operator, seid("srv-1"), Plane::Management)
            .is_err(),
        "the pool keeps it"
    );
    world
        .grid
        .evict(&operator, seid("srv-1"), Duration::from_secs(5))
        .await
        .unwrap();
    drop(
        world
            .grid
            .open(&operator, seid("srv-1"), Plane::Management)
            .unwrap(),
    );
    drop(peer);
}

/// Server elements with faults of their own: each fails its conversation alone, rests, and is back after its rest; the
/// other element serves meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_an_element_end_with_its_rest() {
    use std::{sync::Arc, time::Instant};

    use gose_card::fault::{Faults, Faulty};
    use gose_element::SecureElement;

    for plan in [
        "mute",
        "reset",
        "pulled times=2",
        "status=6F00",
        "length",
        "long=70000",
    ] {
        let authority = Authority::new("root");
        let faults = Arc::new(Faults::default());
        let broken = Faulty::new(server_element(&authority), faults.clone());
        let elements: Vec<(&str, Box<dyn SecureElement>)> = vec![
            ("srv-1", Box::new(broken)),
            ("srv-2", server(&authority, Algorithm::P256, |_, _| {})),
        ];
        let tuning = Tuning {
            quarantine: Duration::from_millis(300),
            ..Tuning::DEFAULT
        };
        let identities = vec![identity(&elements)];
        let world = World::with(elements, identities, &tuning, Limits::DEFAULT).await;
        let peer = || Peer::new(&authority, Algorithm::P256, |_, _| {});
        // Both elements are opened; then one breaks in the middle of a conversation.
        for _ in 0..2 {
            let report = World::authenticate(world.address, peer()).await.1.unwrap();
            assert!(report.accepted, "{plan}");
        }
        faults.replace(&[format!("{plan} after=3").parse().unwrap()]);
        let mut refused = 0;
        let begun = Instant::now();
        while !world.pool.state()[0].1.resting {
            assert!(begun.elapsed() < Duration::from_secs(20), "{plan}");
            match World::authenticate(world.address, peer()).await.1 {
                Ok(report) if report.accepted => {}
                _ => refused += 1,
            }
        }
        assert!(refused <= 1, "{plan}: one conversation at most: {refused}");
        let report = World::authenticate(world.address, peer()).await.1.unwrap();
        assert!(report.accepted, "{plan}: the other element serves");
        // After its rest it is tried again, and is as good as before.
        let before = world.pool.state()[0].1.conversations;
        let begun = Instant::now();
        let mut failed = 0;
        while world.pool.state()[0].1.conversations < before + 2 + failed {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{plan}: it is not back"
            );
            let both = tokio::join!(
                World::authenticate(world.address, peer()),
                World::authenticate(world.address, peer())
            );
            for report in [both.0.1, both.1.1] {
                failed += u64::from(!report.is_ok_and(|report| report.accepted));
            }
        }
        // A card that is still out when it is tried again fails that conversation too.
        assert!(failed < faults.state()[0].0.times, "{plan}: {failed}");
        assert!(!world.pool.state()[0].1.resting, "{plan}");
        assert_eq!(faults.state()[0].1, faults.state()[0].0.times, "{plan}");
    }
}

/// A server element that is not boxed yet.
fn server_element(authority: &Authority) -> gose_testkit::world::Element {
    let mut element = gose_testkit::world::element();
    gose_testkit::world::personalise(
        &mut element,
        authority,
        gose_proto::eap::Role::Authenticator,
        Algorithm::P256,
        |_, _| {},
    );
    element
}
