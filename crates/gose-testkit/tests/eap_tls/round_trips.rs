//! How often the host asks an element: every script is one request to a grid.

use gose_element::{
    Algorithm, Atr, ElementError, Outcomes, Script, SecureElement,
    drive::eap_tls::{EapTls, Opening, Reply},
};
use gose_proto::{
    apdu::Response,
    eap::{Code, Packet, Role},
    hex,
};
use gose_testkit::world::{Element, NOW, Options, PIN, World, label};

/// An element that counts scripts, and tells only what a grid would tell: steps with APPEND and the last.
struct Remote<'e> {
    element: &'e mut Element,
    scripts: usize,
    apdus: usize,
}

impl SecureElement for Remote<'_> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.element.power_on()
    }
    fn power_off(&mut self) {
        self.element.power_off();
    }
    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.element.reset(warm)
    }
    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.element.transmit(apdu)
    }
    fn run(&mut self, script: &Script) -> Outcomes {
        self.scripts += 1;
        self.apdus += script.steps.len();
        let mut outcomes = self.element.run(script);
        let last = outcomes.done.len() - 1;
        for (index, outcome) in outcomes.done.iter_mut().enumerate() {
            if index < last && !script.steps[index].append {
                *outcome = None;
            }
        }
        outcomes
    }
}

/// A whole authentication, opening and keys included: scripts at peer and authenticator.
fn count(world: &mut World) -> [usize; 2] {
    let mut peer = Remote {
        element: &mut world.peer,
        scripts: 0,
        apdus: 0,
    };
    let mut authenticator = Remote {
        element: &mut world.authenticator,
        scripts: 0,
        apdus: 0,
    };
    let opening = Opening::new(PIN, label(Role::Peer));
    let mut peer_end = EapTls::open(&mut peer, &opening).unwrap();
    let opening = Opening::new(PIN, label(Role::Authenticator));
    let mut authenticator_end = EapTls::open(&mut authenticator, &opening).unwrap();
    let mut request = hex::decode("0101000501").unwrap();
    loop {
        let reply = peer_end.process(&request, Some(NOW)).unwrap();
        let Some(response) = reply.packet() else {
            break;
        };
        let reply = authenticator_end.process(response, Some(NOW)).unwrap();
        request = reply.packet().unwrap().to_vec();
    }
    assert_eq!(Packet::parse(&request).unwrap().0.code, Code::Success);
    let (peer_msk, peer_keys) = peer_end.keys().unwrap();
    let (msk, keys) = authenticator_end.keys().unwrap();
    assert_eq!((peer_msk, peer_keys.key_block), (msk, keys.key_block));
    println!("{} and {} APDUs", peer.apdus, authenticator.apdus);
    [peer.scripts, authenticator.scripts]
}

#[test]
fn an_authentication_takes_few_requests() {
    for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
        let mut world = World::new(&Options::default().algorithm(algorithm));
        for version in [0x0303, 0x0304] {
            for fragments in [100, 1398] {
                world.change_policies(&Options::default().version(version).fragments(fragments));
                for run in ["full", "resumed"] {
                    let scripts = count(&mut world);
                    println!("{algorithm:?} {version:04X} {fragments} {run}: {scripts:?}");
                    assert!(scripts.into_iter().max() <= Some(12));
                }
            }
        }
    }
}

#[test]
fn fragments_take_the_identifiers_of_the_other_end() {
    let mut world = World::new(&Options::default().fragments(100));
    let opening = Opening::new(PIN, label(Role::Peer));
    let mut end = EapTls::open(&mut world.peer, &opening).unwrap();
    end.process(&hex::decode("0101000501").unwrap(), None)
        .unwrap();
    let first = end
        .process(&hex::decode("017700060D20").unwrap(), Some(NOW))
        .unwrap();
    assert_eq!(first.packet().unwrap()[1], 0x77);
    // The next request's identifier is the authenticator's to choose.
    let second = end
        .process(&hex::decode("01EE00060D00").unwrap(), None)
        .unwrap();
    assert_eq!(second.packet().unwrap()[..2], [0x02, 0xEE]);
    assert_eq!(
        end.process(&hex::decode("01EE00060D00").unwrap(), None)
            .unwrap(),
        second
    );
}

#[test]
fn late_responses_are_discarded() {
    let mut world = World::new(&Options::default().fragments(100));
    let opening = Opening::new(PIN, label(Role::Authenticator));
    let mut end = EapTls::open(&mut world.authenticator, &opening).unwrap();
    let identity = hex::decode("0207000601").unwrap();
    assert!(end.process(&identity, Some(NOW)).is_err(), "cut off");
    let identity = hex::decode("020700060161").unwrap();
    assert!(
        end.process(&identity, Some(NOW))
            .unwrap()
            .packet()
            .is_some()
    );
    let late = hex::decode("020700060D00").unwrap();
    assert_eq!(end.process(&late, Some(NOW)).unwrap(), Reply::Discarded);
}
