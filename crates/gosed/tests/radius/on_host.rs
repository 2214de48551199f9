//! TLS on the host, the key in an element: the same answers as from a server element.

use gose_element::{
    Algorithm,
    drive::eap_tls::{Key, Policy},
};
use gose_testkit::pki::{Authority, Leaf};
use gosed::{
    auth::Certificates,
    grid::{Names, Peer as GridPeer, Plane},
};

use crate::world::{Peer, World, seid};

fn policy(version: u16, fragment_size: u16) -> Policy {
    Policy {
        min_version: version,
        max_version: version,
        fragment_size,
        ..Policy::default()
    }
}

/// A full authentication, then resumed ones: every session is.
async fn check(tls: u16, algorithm: Algorithm, fragment: u16) {
    let authority = Authority::new("root");
    let (world, _) = World::on_host(&authority, algorithm, &[], policy(tls, fragment)).await;
    let mut peer = Peer::new(&authority, algorithm, |_, identity| {
        identity.policy = policy(tls, fragment);
    });
    for turn in 0..5 {
        let (same, report) = World::authenticate(world.address, peer).await;
        let report = report.unwrap();
        let what = format!("{tls:04X} {algorithm:?} {fragment}, number {turn}");
        assert!(report.accepted, "{what}");
        assert_eq!(
            (report.keys_match, report.key_name_matches),
            (Some(true), Some(true)),
            "{what}"
        );
        let version = report.session.map(|(version, _)| version);
        assert_eq!(version, Some(tls), "{what}");
        assert_eq!(report.resumed, Some(turn > 0), "{what}");
        peer = same;
    }
    let (name, on_host) = world.pool.on_host().next().unwrap();
    assert_eq!((name, on_host.conversations()), ("company", 5));
    assert_eq!(on_host.signing(), 0);
    assert_eq!(world.front.conversations(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls13() {
    check(0x0304, Algorithm::P256, 1398).await;
    check(0x0304, Algorithm::P256, 100).await;
    check(0x0304, Algorithm::Rsa2048, 1300).await;
    check(0x0304, Algorithm::P384, 1398).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls12() {
    check(0x0303, Algorithm::P256, 1398).await;
    check(0x0303, Algorithm::P256, 240).await;
    check(0x0303, Algorithm::Rsa2048, 1300).await;
}

fn with_leaf(authority: &Authority, leaf: &Leaf) -> Peer {
    Peer::new(authority, Algorithm::P256, |_, identity| {
        identity.key = Key::Pkcs8(leaf.key().secret_der().to_vec().into());
        identity.chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
    })
}

async fn refused(why: &str, authority: &Authority, leaf: &Leaf, revoked: &[&Leaf]) {
    let crls = [authority.crl(revoked)];
    let (world, _) = World::on_host(authority, Algorithm::P256, &crls, Policy::default()).await;
    let (_, report) = World::authenticate(world.address, with_leaf(authority, leaf)).await;
    let report = report.unwrap();
    assert!(!report.accepted && report.msk.is_none(), "{why}");
    assert_eq!(world.front.conversations(), 0, "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_do_not_count() {
    let authority = Authority::new("root");
    let other = Authority::new("another").user("peer");
    refused("another authority", &authority, &other, &[]).await;
    refused("expired", &authority, &authority.expired("peer"), &[]).await;
    refused("not yet valid", &authority, &authority.not_yet("peer"), &[]).await;
    let revoked = authority.user("peer");
    refused("revoked", &authority, &revoked, &[&revoked]).await;
    refused("no name", &authority, &authority.nameless(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_peer_resumes_nothing_and_others_do() {
    let authority = Authority::new("root");
    let (world, before) = World::on_host(&authority, Algorithm::P256, &[], Policy::default()).await;
    let leaf = authority.user("peer");
    let (revoked, _) = World::authenticate(world.address, with_leaf(&authority, &leaf)).await;
    let good = Peer::new(&authority, Algorithm::P256, |_, _| {});
    let (good, _) = World::authenticate(world.address, good).await;

    let after = Certificates {
        crls: vec![authority.crl(&[&leaf])],
        ..before
    };
    let (_, on_host) = world.pool.on_host().next().unwrap();
    on_host.renew(&after).unwrap();
    let (revoked, report) = World::authenticate(world.address, revoked).await;
    assert!(!report.unwrap().accepted, "a session of a revoked peer");
    let (_, report) = World::authenticate(world.address, revoked).await;
    assert!(!report.unwrap().accepted, "a full handshake of it");
    let (_, report) = World::authenticate(world.address, good).await;
    let report = report.unwrap();
    assert!(report.accepted && report.resumed == Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_gets_the_element_and_the_key_comes_back() {
    let authority = Authority::new("root");
    let (world, _) = World::on_host(&authority, Algorithm::P256, &[], policy(0x0304, 1398)).await;
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    let (_, report) = World::authenticate(world.address, peer).await;
    assert!(report.unwrap().accepted);
    let operator = GridPeer::new(world.grid.new_sid(), Names::Operator);
    let srv = seid("srv");
    assert!(
        world.grid.open(&operator, srv, Plane::Management).is_err(),
        "the key keeps its element"
    );
    let patience = std::time::Duration::from_secs(5);
    world.grid.evict(&operator, srv, patience).await.unwrap();
    let lease = world.grid.open(&operator, srv, Plane::Management).unwrap();
    let address = world.address;
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    let waiting = tokio::spawn(World::authenticate(address, peer));
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert!(!waiting.is_finished(), "the administrator has the element");
    lease.shutdown().await;
    assert!(waiting.await.unwrap().1.unwrap().accepted);
}
