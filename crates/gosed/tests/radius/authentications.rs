//! Elements that authenticate to elements: versions, algorithms, fragments, resumption, refusals.

use gose_element::{
    Algorithm,
    drive::eap_tls::{Key, Personalisation},
};
use gose_proto::radius::{Type, server::Limits};
use gose_testkit::pki::{Authority, Leaf, Request};
use gosed::auth::{Reply, Tuning};

use crate::world::{Peer, World, identity, server};

fn version(version: u16, fragment: u16) -> impl Fn(&mut Request, &mut Personalisation) + Copy {
    move |_, identity| {
        (identity.policy.min_version, identity.policy.max_version) = (version, version);
        identity.policy.fragment_size = fragment;
    }
}

/// A full authentication, then a resumed one.
async fn check(tls: u16, algorithm: Algorithm, fragment: u16) {
    let authority = Authority::new("root");
    let element = server(&authority, algorithm, version(tls, fragment));
    let world = World::new(vec![("srv", element)]).await;
    let mut peer = Peer::new(&authority, algorithm, version(tls, fragment));
    let mut rounds = Vec::new();
    for turn in ["full", "resumed"] {
        let (same, report) = World::authenticate(world.address, peer).await;
        let report = report.unwrap();
        let what = format!("{tls:04X} {algorithm:?} {fragment} {turn}");
        assert!(report.accepted, "{what}");
        assert_eq!(
            (report.keys_match, report.key_name_matches),
            (Some(true), Some(true)),
            "{what}"
        );
        assert_eq!(
            report.session.map(|(version, _)| version),
            Some(tls),
            "{what}"
        );
        assert_eq!(report.resumed, Some(turn == "resumed"), "{what}");
        rounds.push(report.rounds.len());
        peer = same;
    }
    assert!(rounds[1] <= rounds[0], "{rounds:?}");
    let state = world.pool.state();
    assert_eq!(
        (
            state[0].1.busy,
            state[0].1.resting,
            state[0].1.conversations
        ),
        (false, false, 2)
    );
    assert_eq!(world.front.conversations(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls13() {
    check(0x0304, Algorithm::P256, 1398).await;
    check(0x0304, Algorithm::P256, 100).await;
    check(0x0304, Algorithm::Rsa2048, 1300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls12() {
    check(0x0303, Algorithm::P256, 1398).await;
    check(0x0303, Algorithm::P256, 240).await;
    check(0x0303, Algorithm::Rsa2048, 1300).await;
}

/// A peer that is not let in; the server's element stays healthy.
async fn refused(why: &str, authority: &Authority, leaf: &Leaf, revoked: &[&Leaf]) {
    let crls = vec![authority.crl(revoked).to_vec()];
    let element = server(authority, Algorithm::P256, |_, identity| {
        identity.crls = crls
    });
    let world = World::new(vec![("srv", element)]).await;
    let peer = Peer::new(authority, Algorithm::P256, |_, identity| {
        identity.key = Key::Pkcs8(leaf.key().secret_der().to_vec().into());
        identity.chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
    });
    let (_, report) = World::authenticate(world.address, peer).await;
    let report = report.unwrap();
    assert!(!report.accepted && report.msk.is_none(), "{why}");
    let state = &world.pool.state()[0].1;
    assert!(!state.busy && !state.resting, "{why}");
    assert_eq!(world.front.conversations(), 0, "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_do_not_count() {
    let authority = Authority::new("root");
    refused(
        "another authority",
        &authority,
        &Authority::new("another").user("peer"),
        &[],
    )
    .await;
    refused("expired", &authority, &authority.expired("peer"), &[]).await;
    let revoked = authority.user("peer");
    refused("revoked", &authority, &revoked, &[&revoked]).await;
    refused(
        "two names",
        &authority,
        &authority.two_names("peer", "admin"),
        &[],
    )
    .await;
    refused("no name", &authority, &authority.nameless(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_attributes_and_names() {
    let authority = Authority::new("root");
    let elements = vec![("srv", server(&authority, Algorithm::P256, |_, _| {}))];
    let mut company = identity(&elements);
    company.reply = Reply {
        vlan: Some(7),
        session_timeout: Some(3600),
        session_ends: false,
        filter: Some("guests".into()),
    };
    company.allow = vec!["peer".into()];
    let world = World::with(elements, vec![company], &Tuning::DEFAULT, Limits::DEFAULT).await;
    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    let (_, report) = World::authenticate(world.address, peer).await;
    let report = report.unwrap();
    assert!(report.accepted);
    let value = |kind| {
        report
            .attributes
            .iter()
            .find(|(of, _)| *of == kind)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(value(Type::TUNNEL_PRIVATE_GROUP_ID), Some(b"7".to_vec()));
    assert_eq!(
        value(Type::SESSION_TIMEOUT),
        Some(3600_u32.to_be_bytes().to_vec())
    );
    assert_eq!(value(Type::TERMINATION_ACTION), Some(vec![0, 0, 0, 1]));
    assert_eq!(value(Type::FILTER_ID), Some(b"guests".to_vec()));
    assert_eq!(report.attributes[0].0, Type::MESSAGE_AUTHENTICATOR);

    let stranger = Peer::new(&authority, Algorithm::P256, |request, _| {
        *request = Request::new(Some("stranger"))
    });
    let (_, report) = World::authenticate(world.address, stranger).await;
    assert!(
        !report.unwrap().accepted,
        "a name that policy does not admit"
    );
}
