//! EAP-TLS between two elements in memory.
#![allow(clippy::unwrap_used)]

use gose_element::Algorithm;
use gose_proto::eap::Code;
use gose_testkit::world::{Ended, Options, World};

/// Both ends succeed and hold the same keys.
fn check(ended: &Ended) {
    assert_eq!((ended.end, ended.states), (Code::Success, [3, 3]));
    let (peer, authenticator) = (
        ended.peer.as_ref().unwrap(),
        ended.authenticator.as_ref().unwrap(),
    );
    assert_eq!(peer.material.len(), 128);
    assert_eq!(peer.material, authenticator.material);
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
        for version in [0x0303, 0x0304] {
            for fragments in [100, 240, 1300] {
                let options = Options::default()
                    .version(version)
                    .fragments(fragments)
                    .algorithm(algorithm);
                let mut world = World::new(&options);
                let full = world.drive().unwrap();
                check(&full);
                world.cycle_power();
                world.now += 60;
                let resumed = world.drive().unwrap();
                check(&resumed);
                println!(
                    "{algorithm:?} {version:04X} {fragments}: {} {}",
                    full.packets, resumed.packets
                );
            }
        }
    }
}
