//! Whatever a host or the other end sends: no panic, no wrong success, and the element goes on.

use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening, scripts},
};
use gose_proto::{apdu::Command, eap::Role, hex};
use gose_testkit::world::{Element, NOW, Options, PIN, World, label};
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

#[test]
fn records_cut_at_any_byte_are_refused_or_complete() {
    // WRITE of an identity that stops after any piece: the card answers, and a later writing succeeds.
    let mut world = World::new(&Options::default());
    for pieces in 1..6 {
        let identity = gose_element::drive::eap_tls::Personalisation {
            label: "peer".into(),
            eap_id: "@x".into(),
            role: Role::Peer,
            key: gose_element::drive::eap_tls::Key::Slot(0x9A),
            chain: vec![vec![0x30; 700]],
            anchors: vec![world.authority.der().to_vec()],
            policy: gose_element::drive::eap_tls::Policy::default(),
            expected_names: Vec::new(),
            crls: Vec::new(),
        };
        let record = identity.record().unwrap();
        let mut script = gose_element::drive::eap_tls::personalisation::write(0, &record);
        script.steps.truncate(pieces);
        let mut opening = gose_element::Script::new(vec![
            gose_element::Step::new(hex::decode("00A4040009F0474F534545415001").unwrap()),
            scripts::verify(1, gose_testkit::world::OPERATOR_PIN),
        ]);
        opening.steps.append(&mut script.steps);
        let steps = opening.steps.len();
        assert!(world.peer.run(&opening).complete(steps));
        assert!(EapTls::open(&mut world.peer, &Opening::new(PIN, "peer")).is_err());
    }
    let erase = gose_element::drive::eap_tls::personalisation::write(0, &[0xFF]);
    let mut opening = gose_element::Script::new(vec![
        gose_element::Step::new(hex::decode("00A4040009F0474F534545415001").unwrap()),
        scripts::verify(1, gose_testkit::world::OPERATOR_PIN),
    ]);
    opening.steps.extend(erase.steps);
    assert!(world.peer.run(&opening).complete(3));
    let World {
        authority, peer, ..
    } = &mut world;
    gose_testkit::world::personalise(
        peer,
        authority,
        Role::Peer,
        gose_element::Algorithm::P256,
        |_, _| {},
    );
    check(&world.drive().unwrap());
}
