//! Conversations that succeed: every version, algorithm, fragment size, full and resumed; packets lost and
//! repeated; sessions that survive power-down and the end of the process.

use std::sync::Arc;

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm, timing::Cost};
use gose_element::{
    Algorithm, SecureElement,
    drive::eap_tls::{
        AID, Error, Key, Policy,
        personalisation::{self, Operator},
    },
};
use gose_proto::eap::{Code, records};
use gose_testkit::{
    pki::Request,
    world::{Element, Ended, OPERATOR_PIN, Options, World},
};
use rcgen::SubjectPublicKeyInfo;

/// Private-key operations since the last call, of peer and authenticator.
fn private_operations(world: &mut World) -> [u64; 2] {
    [&mut world.peer, &mut world.authenticator].map(|element| {
        let cost = std::mem::take(&mut element.host_mut().cost);
        cost.rsa_private + cost.ecdsa_sign
    })
}

/// Both ends succeed and hold the same keys.
pub(crate) fn check(ended: &Ended) {
    assert_eq!((ended.end, ended.states), (Code::Success, [3, 3]));
    let (peer, authenticator) = (
        ended.peer.as_ref().unwrap(),
        ended.authenticator.as_ref().unwrap(),
    );
    assert_eq!(peer.msk.len(), 64);
    assert_eq!(peer.msk, authenticator.msk);
    assert_eq!(peer.session_id, authenticator.session_id);
    assert_eq!(peer.session_id.len(), 65);
    assert_eq!(peer.session.version, authenticator.session.version);
    assert_eq!(peer.session.suite, authenticator.session.suite);
    assert_eq!(peer.session.key_block, authenticator.session.key_block);
    let sequences =
        |k: &gose_testkit::world::Keys| (k.session.client_sequence, k.session.server_sequence);
    assert_eq!(sequences(peer), sequences(authenticator));
}

#[test]
fn tls13_full() {
    let mut world = World::new(&Options::default().version(0x0304));
    let ended = world.drive().unwrap();
    check(&ended);
    let session = &ended.peer.as_ref().unwrap().session;
    assert_eq!((session.version, session.suite), (0x0304, 0x1301));
    assert_eq!((session.client_sequence, session.server_sequence), (0, 2));
}

#[test]
fn versions_algorithms_fragments_and_resumption() {
    for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
        let mut world = World::new(&Options::default().algorithm(algorithm));
        for version in [0x0303, 0x0304] {
            for fragments in [100, 240, 1300] {
                world.change_policies(&Options::default().version(version).fragments(fragments));
                full_and_resumed(&mut world, version);
            }
        }
    }
}

fn full_and_resumed(world: &mut World, version: u16) {
    private_operations(world);
    let full = world.drive().unwrap();
    check(&full);
    assert_eq!(private_operations(world), [1, 1]);
    world.cycle_power();
    world.now += 60;
    let resumed = world.drive().unwrap();
    check(&resumed);
    assert_eq!(private_operations(world), [0, 0], "not resumed");
    let [full, resumed] = [full, resumed].map(|ended| ended.peer.unwrap());
    assert_eq!(full.session.version, version);
    assert_ne!(full.msk, resumed.msk);
    assert_eq!((full.resumed, resumed.resumed), (false, true));
    assert_eq!(full.peer_certificate, resumed.peer_certificate);
    let (client, server) = (full.session.client_sequence, full.session.server_sequence);
    // TLS 1.2: Finished was record 0. TLS 1.3: a ticket and the byte that protects success.
    assert_eq!(
        (client, server),
        if version == 0x0303 { (1, 1) } else { (0, 2) }
    );
}

#[test]
fn every_suite_of_a_policy() {
    for suite in [0x1301, 0x1302, 0x1303, 0xC02B, 0xCCA9] {
        let peer = Policy {
            cipher_suites: vec![suite],
            ..Policy::default()
        };
        let options = Options {
            peer,
            ..Options::default()
        };
        let ended = World::new(&options).drive().unwrap();
        check(&ended);
        let session = ended.peer.unwrap().session;
        assert_eq!(session.suite, suite);
        let length = match suite {
            0x1302 => 96,
            0x1301 | 0x1303 => 64,
            0xC02B => 2 * (16 + 4),
            _ => 2 * (32 + 12),
        };
        assert_eq!(session.key_block.len(), length);
    }
}

#[test]
fn packets_are_lost_and_repeated() {
    for version in [0x0303, 0x0304] {
        let options = Options::default().version(version).fragments(240);
        let packets = World::new(&options).drive().unwrap().packets;
        for number in 0..packets - 1 {
            let mut world = World::new(&options);
            private_operations(&mut world);
            world.line.lost = [number].into();
            world.line.repeated = [number + 1].into();
            check(&world.drive().unwrap());
            assert_eq!(private_operations(&mut world), [1, 1]);
        }
    }
}

/// The same element in another process: its image is replayed.
fn restart(element: &Element) -> Element {
    let deltas = [factory::birth([1; 16])].into_iter();
    let nvm = Nvm::replay(deltas.chain(element.host().log.iter().cloned()));
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut element = Hosted::new(card, Memory::default());
    element.power_on().unwrap();
    element
}

#[test]
fn sessions_survive_power_and_not_the_process() {
    for version in [0x0303, 0x0304] {
        let mut world = World::new(&Options::default().version(version));
        check(&world.drive().unwrap());
        private_operations(&mut world);
        for restarts in [[false, false], [true, false], [false, true]] {
            let [authenticator, peer] = restarts;
            if authenticator {
                world.authenticator = restart(&world.authenticator);
            }
            if peer {
                world.peer = restart(&world.peer);
            }
            let full = u32::from(authenticator || peer);
            check(&world.drive().unwrap());
            assert_eq!(private_operations(&mut world), [full.into(), full.into()]);
        }
    }
}

#[test]
fn a_resumed_conversation_writes_nothing_but_its_pin_counter() {
    for version in [0x0303, 0x0304] {
        let mut world = World::new(&Options::default().version(version));
        check(&world.drive().unwrap());
        let before = [&world.peer, &world.authenticator].map(|one| one.host().log.len());
        private_operations(&mut world);
        check(&world.drive().unwrap());
        assert_eq!(private_operations(&mut world), [0, 0]);
        for (element, before) in [&world.peer, &world.authenticator].into_iter().zip(before) {
            // Down before the comparison, up after it.
            let written: Vec<&String> = element.host().log[before..]
                .iter()
                .flat_map(|delta| delta.changes.keys())
                .collect();
            assert_eq!(written, ["eap/pin"; 2]);
        }
    }
}

#[test]
fn sessions_end_after_a_day_and_by_policy() {
    let mut world = World::new(&Options::default());
    check(&world.drive().unwrap());
    world.now += 24 * 60 * 60 + 1;
    private_operations(&mut world);
    check(&world.drive().unwrap());
    assert_eq!(private_operations(&mut world), [1, 1]);

    for version in [0x0303, 0x0304] {
        let mut options = Options::default().version(version);
        options.authenticator.resumption = false;
        let mut world = World::new(&options);
        check(&world.drive().unwrap());
        private_operations(&mut world);
        check(&world.drive().unwrap());
        assert_eq!(private_operations(&mut world), [1, 1]);
    }
}

/// What a conversation cost the two elements, opening and keys included.
fn costs(world: &mut World) -> [Cost; 2] {
    for element in [&mut world.peer, &mut world.authenticator] {
        element.host_mut().cost = Cost::default();
    }
    check(&world.drive().unwrap());
    [world.peer.host().cost, world.authenticator.host().cost]
}

#[test]
fn primitives_are_counted() {
    for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
        let mut world = World::new(&Options::default().algorithm(algorithm));
        for version in [0x0303, 0x0304] {
            world.change_policies(&Options::default().version(version));
            for cost in costs(&mut world) {
                let rsa = algorithm.is_rsa();
                assert!(
                    (90..=220).contains(&cost.hash_blocks),
                    "{version:04X} {cost:?}"
                );
                assert_eq!(
                    (cost.rsa_private, cost.ecdsa_sign),
                    if rsa { (1, 0) } else { (0, 1) }
                );
                // The test authority's key is P-256: one verification of the chain, one of the handshake.
                assert_eq!(
                    (cost.rsa_public, cost.ecdsa_verify),
                    if rsa { (1, 1) } else { (0, 2) }
                );
                assert_eq!(cost.ec_agree, 2);
            }
            for cost in costs(&mut world) {
                let (blocks, agree) = if version == 0x0303 {
                    (35..=90, 0)
                } else {
                    (100..=200, 2)
                };
                assert!(
                    blocks.contains(&cost.hash_blocks),
                    "{version:04X} resumed {cost:?}"
                );
                assert_eq!(cost.rsa_private + cost.ecdsa_sign, 0);
                assert_eq!(cost.ec_agree, agree);
                assert!(cost.io_bytes > 300, "{cost:?}");
            }
        }
    }
}

#[test]
fn a_key_that_came_in_its_record() {
    let mut world = World::new(&Options::default());
    let rsa = Request::new(Some("imported")).rsa();
    let leaf = world.authority.issue(rsa);
    world.peer_identity.key = Key::Pkcs8(leaf.key().secret_der().to_vec().into());
    world.peer_identity.chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
    world.change_policies(&Options::default());
    check(&world.drive().unwrap());
    assert_eq!(world.peer.host().cost.rsa_private, 1);
    // The key stands in a slot of the application's own, and leaves with its identity.
    assert!(world.peer.card().nvm().get("key/f0").is_some());
    world.change_policies(&Options::default());
    assert_eq!(world.peer.card().nvm().names("key/f"), ["key/f0"]);
    check(&world.drive().unwrap());
}

/// A key that the element makes for one identity alone: certified, used, made anew, gone with its identity.
#[test]
fn an_identity_with_a_key_of_its_own() {
    let mut world = World::new(&Options::default());
    let own_keys = |world: &World| world.peer.card().nvm().names("key/f");
    for (algorithm, slot) in [(Algorithm::P256, "key/f0"), (Algorithm::P384, "key/f1")] {
        let mut operator = Operator::open(&mut world.peer, &AID, OPERATOR_PIN).unwrap();
        let public = operator.generate_own("peer", algorithm).unwrap();
        assert_eq!(own_keys(&world), [slot]);
        let public = SubjectPublicKeyInfo::from_der(&public).unwrap();
        world.peer_identity.key = Key::Own;
        world.peer_identity.chain = world.authority.certify(Request::new(Some("own")), &public);
        world.change_policies(&Options::default());
        check(&world.drive().unwrap());
        assert_eq!(private_operations(&mut world), [1, 1]);
        // Another policy, the same key.
        world.change_policies(&Options::default().version(0x0303));
        check(&world.drive().unwrap());
        private_operations(&mut world);
    }
    let mut operator = Operator::open(&mut world.peer, &AID, OPERATOR_PIN).unwrap();
    operator.remove_identity("peer").unwrap();
    assert!(own_keys(&world).is_empty());
    let mut operator = Operator::open(&mut world.peer, &AID, OPERATOR_PIN).unwrap();
    let refused = operator.add_identity(&world.peer_identity);
    assert_eq!(refused, Err(Error::NoOwnKey));
}

/// Records written over an identity leave its own key behind: the next SELECT removes it.
#[test]
fn own_keys_of_nobody_are_removed() {
    let mut world = World::new(&Options::default());
    let mut operator = Operator::open(&mut world.peer, &AID, OPERATOR_PIN).unwrap();
    operator.generate_own("second", Algorithm::P256).unwrap();
    let end = |world: &World| {
        let nvm = world.peer.card().nvm();
        let pages = nvm.names("eap/record/");
        let memory: Vec<u8> = pages
            .iter()
            .flat_map(|p| nvm.get(p).unwrap().to_vec())
            .collect();
        let (records, _) = records::parse(&memory).unwrap();
        records[1].span.start
    };
    let write = personalisation::write(end(&world), &[records::END]);
    assert!(world.peer.run(&write).complete(1));
    assert_eq!(world.peer.card().nvm().names("key/f"), ["key/f0"]);
    check(&world.drive().unwrap());
    assert!(world.peer.card().nvm().names("key/f").is_empty());
}
