//! Whatever a host or the other end sends: no panic, no wrong success, and the element goes on.

use gose_element::{
    Script, SecureElement, Step,
    drive::eap_tls::{EapTls, Key, Opening, personalisation, scripts},
};
use gose_proto::{
    apdu::Command,
    eap::{Role, records},
    hex,
};
use gose_testkit::world::{Element, NOW, OPERATOR_PIN, Options, PIN, World, label};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::success::check;

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn any_commands_leave_the_element_working() {
    let world = std::cell::RefCell::new(World::new(&Options::default()));
    let instruction = prop_oneof![
        Just(0x80u8),
        Just(0x80),
        Just(0x16),
        Just(0x17),
        Just(0x18),
        Just(0x19),
        Just(0x1A),
        Just(0x86),
        Just(0xA6),
        Just(0xC0),
        Just(0x12),
        Just(0x60),
        Just(0xB0),
        any::<u8>()
    ];
    // PIN commands block the PIN sooner or later, which is tested elsewhere.
    let instruction = instruction.prop_filter("PINs", |ins| !(0x20..=0x2F).contains(ins));
    let data = proptest::collection::vec(any::<u8>(), 0..80);
    let command = (
        instruction,
        0u8..3,
        0u8..=0xFF,
        data,
        proptest::option::of(1u32..300),
    );
    let commands = proptest::collection::vec(command, 1..20);
    runner(100)
        .run(&commands, |commands| {
            let mut world = world.borrow_mut();
            let element = &mut world.peer;
            drop(EapTls::open(element, &Opening::new(PIN, label(Role::Peer))).unwrap());
            for (ins, p1, p2, data, ne) in commands {
                let mut command = Command::new(0xA0, ins, p1, p2).with_data(data);
                command.ne = ne;
                element.transmit(&command.encode().unwrap()).unwrap();
            }
            Ok(())
        })
        .unwrap();
    check(&world.borrow_mut().drive().unwrap());
}

/// What both ends came to: MSKs, where they succeeded.
fn disturbed(
    world: &mut World,
    number: usize,
    change: impl Fn(&mut Vec<u8>),
) -> [Option<Vec<u8>>; 2] {
    let World {
        peer,
        authenticator,
        ..
    } = world;
    let open = |element, role| EapTls::open(element, &Opening::new(PIN, label(role))).unwrap();
    let mut ends: [EapTls<'_, Element>; 2] = [
        open(peer, Role::Peer),
        open(authenticator, Role::Authenticator),
    ];
    let mut packet = hex::decode("0101000501").unwrap();
    for count in 0..40 {
        if count == number {
            change(&mut packet);
        }
        // The cards themselves, without the host's own checks.
        let outcomes = ends[count % 2].run(&scripts::deliver(&[packet.clone()], Some(NOW)));
        let Some(outcome) = outcomes.last().filter(|o| !o.body.is_empty()) else {
            break;
        };
        packet = outcome.body.clone();
    }
    ends.map(|mut end| end.msk().ok().map(|msk| msk.to_vec()))
}

#[test]
fn a_changed_packet_never_gives_different_keys() {
    for version in [0x0303, 0x0304] {
        let options = Options::default().version(version).fragments(300);
        let world = std::cell::RefCell::new(World::new(&options));
        let input = (
            0usize..14,
            any::<prop::sample::Index>(),
            1u8..=255,
            any::<bool>(),
        );
        runner(120)
            .run(&input, |(number, at, flip, cut)| {
                let [peer, authenticator] = disturbed(&mut world.borrow_mut(), number, |packet| {
                    let at = at.index(packet.len());
                    if cut {
                        packet.truncate(at);
                    } else {
                        packet[at] ^= flip;
                    }
                });
                if let (Some(peer), Some(authenticator)) = (peer, authenticator) {
                    prop_assert_eq!(peer, authenticator);
                }
                Ok(())
            })
            .unwrap();
        check(&world.borrow_mut().drive().unwrap());
    }
}

/// WRITE of an identity that stops after any piece: the identity before it stays, of the new one nothing.
#[test]
fn records_that_were_cut_are_gone_at_the_next_selection() {
    let mut world = World::new(&Options::default());
    let names = |world: &World| -> Vec<Vec<u8>> {
        let nvm = world.peer.card().nvm();
        let pages = nvm.names("eap/record/");
        pages
            .iter()
            .map(|page| nvm.get(page).unwrap().to_vec())
            .collect()
    };
    let before = names(&world).concat();
    let end = records::whole_until(&before);
    let leaf = world.authority.user("second");
    world.peer_identity.label = "second".into();
    world.peer_identity.key = Key::Pkcs8(leaf.key().secret_der().to_vec().into());
    world.peer_identity.chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
    let record = world.peer_identity.record().unwrap();
    let whole = personalisation::write(end, &record);
    assert!(whole.steps.len() >= 3);
    let key = leaf.key().secret_der().to_vec();
    // ECPrivateKey (RFC 5915): an OCTET STRING of 32 bytes
    let scalar = key.windows(2).position(|w| w == [0x04, 0x20]).unwrap() + 2;
    let scalar = &key[scalar..scalar + 32];
    let mut swept = 0;
    for pieces in 1..whole.steps.len() {
        let mut script = as_operator();
        script.steps.extend(whole.steps[..pieces].iter().cloned());
        let steps = script.steps.len();
        assert!(world.peer.run(&script).complete(steps));
        let unfinished = world
            .peer
            .card()
            .nvm()
            .get("eap/record-unfinished")
            .is_some();
        drop(EapTls::open(&mut world.peer, &Opening::new(PIN, "peer")).unwrap());
        let after = names(&world).concat();
        assert_eq!(after[..end], before[..end]);
        // Cut inside the last value the record reads as whole: then its key is in the key store.
        assert!(!after.windows(32).any(|window| window == scalar));
        if unfinished {
            assert!(
                after[end..].iter().all(|byte| *byte == 0xFF),
                "after {pieces} pieces"
            );
            swept += 1;
        }
    }
    assert!(swept >= 1);
    check(&world.drive().unwrap());
}

fn as_operator() -> Script {
    let select = Step::new(hex::decode("00A4040009F0474F534545415001").unwrap());
    Script::new(vec![select, scripts::verify(1, OPERATOR_PIN)])
}
