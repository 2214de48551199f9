//! Phase 3: a session whose handshake two elements made runs on hosts, or on one host and one element.
#![allow(clippy::unwrap_used)]

use gose_client::record::{ContentType, Exported, Opened, Opener, Sealer, Side, host_layer};
use gose_element::drive::eap_tls::{Policy, SessionKeys};
use gose_testkit::world::{Options, World};

/// Every suite of the elements.
const SUITES: [u16; 5] = [0x1301, 0x1302, 0x1303, 0xC02B, 0xCCA9];

fn world(suite: u16) -> World {
    let peer = Policy {
        cipher_suites: vec![suite],
        ..Policy::default()
    };
    World::new(&Options {
        peer,
        ..Options::default()
    })
}

fn host(side: Side, keys: &SessionKeys) -> (Sealer, Opener) {
    let exported = Exported {
        version: keys.version,
        suite: keys.suite,
        key_block: &keys.key_block,
        client_seq: keys.client_sequence,
        server_seq: keys.server_sequence,
    };
    host_layer(side, &exported).unwrap()
}

fn seal(sealer: &mut Sealer, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let data = ContentType::ApplicationData;
    sealer.seal(data, payload, &mut record).unwrap();
    record
}

#[test]
fn both_ends_move_to_their_hosts() {
    for suite in SUITES {
        let ended = world(suite).drive().unwrap();
        let keys = [
            ended.peer.unwrap().session,
            ended.authenticator.unwrap().session,
        ];
        assert_eq!(keys[0].suite, suite);
        let (mut client_seal, mut client_open) = host(Side::Client, &keys[0]);
        let (mut server_seal, mut server_open) = host(Side::Server, &keys[1]);
        for n in 0..5u8 {
            let mut record = seal(&mut client_seal, &[n; 100]);
            assert_eq!(
                server_open.open(&mut record).unwrap(),
                Opened::Data(&[n; 100])
            );
            let mut record = seal(&mut server_seal, &[n; 9]);
            assert_eq!(
                client_open.open(&mut record).unwrap(),
                Opened::Data(&[n; 9])
            );
        }
    }
}

/// The peer's session moves after records went through its element; the authenticator's stays.
#[test]
fn one_end_moves_in_the_middle_and_the_other_stays_in_its_element() {
    for suite in SUITES {
        world(suite)
            .converse(|peer, authenticator| {
                let sealed = peer.encrypt(&[b"from the element", b"twice"]).unwrap();
                let views: Vec<&[u8]> = sealed.iter().map(Vec::as_slice).collect();
                let opened = authenticator.decrypt(&views).unwrap();
                assert_eq!(opened, [&b"from the element"[..], b"twice"]);
                let back = authenticator.encrypt(&[b"back"]).unwrap();
                assert_eq!(peer.decrypt(&[&back[0]]).unwrap(), [b"back"]);

                let (mut sealer, mut opener) = host(Side::Client, &peer.session_keys().unwrap());
                let record = seal(&mut sealer, b"from the host");
                assert_eq!(
                    authenticator.decrypt(&[&record]).unwrap(),
                    [b"from the host"]
                );
                let mut record = authenticator.encrypt(&[b"to the host"]).unwrap().remove(0);
                assert_eq!(
                    opener.open(&mut record).unwrap(),
                    Opened::Data(b"to the host")
                );
            })
            .unwrap();
    }
}
