//! What is refused: certificates, forged and broken packets, keys out of turn.

use gose_element::{
    Script, SecureElement, Step,
    drive::eap_tls::{EapTls, Error, Key, Opening, Personalisation, Policy, Reply, scripts},
};
use gose_proto::{
    apdu::StatusWord,
    eap::{Code, Packet, Role, records},
    hex,
    identity::{Form, KeyHash, VmBinding, VmId, binding::OID},
};
use gose_testkit::{
    pki::{Authority, Leaf, Request},
    world::{Element, Ended, NOW, OPERATOR_PIN, Options, PIN, World, label, personalise},
};
use rcgen::{CustomExtension, date_time_ymd};

use crate::success::check as check_success;

/// Both ends end without keys.
fn check_failure(world: &mut World) {
    let (ended, keys): (Ended, _) = world
        .converse(|peer, authenticator| [peer.msk().err(), authenticator.msk().err()])
        .unwrap();
    assert_eq!((ended.end, ended.states), (Code::Failure, [4, 4]));
    for refusal in keys {
        let asked = "Get-Session-Key";
        let sw = StatusWord::CONDITIONS_NOT_SATISFIED;
        assert_eq!(refusal, Some(Error::Refused { asked, sw }));
    }
}

/// In both versions, once with the peer's identity changed and once with the authenticator's.
fn check_either(change: impl Fn(&mut Request, &mut Personalisation)) {
    for version in [0x0303, 0x0304] {
        let options = Options::default().version(version);
        check_failure(&mut World::with(&options, &change, |_, _| {}));
        check_failure(&mut World::with(&options, |_, _| {}, &change));
    }
}

#[test]
fn another_authority() {
    let other = Authority::new("other root");
    check_either(|_, identity| identity.anchors = vec![other.der().to_vec()]);
}

#[test]
fn expired_and_not_yet_valid() {
    check_either(|request, _| request.params.not_after = date_time_ymd(2025, 12, 31));
    check_either(|request, _| request.params.not_before = date_time_ymd(2026, 1, 2));
}

/// An element believes its host's clock: where that is two hours off, certificates of an hour around now are not
/// yet valid, or no more, for either end.
#[test]
fn a_clock_two_hours_off() {
    for version in [0x0303, 0x0304] {
        for off in [-7200, 7200] {
            let options = Options::default().version(version);
            let hour = |request: &mut Request, _: &mut Personalisation| {
                let now = date_time_ymd(2026, 1, 1);
                let hour = std::time::Duration::from_secs(3600);
                (request.params.not_before, request.params.not_after) = (now - hour, now + hour);
            };
            for (mut world, short) in [
                (World::with(&options, hour, |_, _| {}), "peer"),
                (World::with(&options, |_, _| {}, hour), "authenticator"),
            ] {
                world.now = NOW.checked_add_signed(off).unwrap();
                check_failure(&mut world);
                // In step again, the same elements go on.
                world.now = NOW;
                let ended = world.converse(|_, _| ()).unwrap().0;
                assert_eq!(ended.end, Code::Success, "{short} {off}");
            }
        }
    }
}

#[test]
fn not_an_expected_name() {
    check_either(|_, identity| identity.expected_names = vec!["somebody".into()]);
    let expecting = |name: &'static str| {
        move |_: &mut Request, identity: &mut Personalisation| {
            identity.expected_names = vec!["somebody".into(), name.into()];
        }
    };
    let options = Options::default();
    let mut world = World::with(&options, expecting("authenticator"), expecting("PEER"));
    check_success(&world.drive().unwrap());
}

#[test]
fn a_certificate_authority_is_no_peer() {
    check_either(|request, _| {
        request.params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
}

/// The attachment form of a VM-Auth-Token has the hypervisor's key; the identity form has the guest's own.
#[test]
fn a_token_in_attachment_form_is_no_peer() {
    let token = |form| {
        move |request: &mut Request, _: &mut Personalisation| {
            let binding = VmBinding {
                vm: VmId([1; 16]),
                hypervisor: KeyHash([2; 32]),
                generation: 1,
                form,
            };
            let extension = CustomExtension::from_oid_content(&OID, binding.encode());
            request.params.custom_extensions.push(extension);
        }
    };
    check_either(token(Form::Attachment));
    let options = Options::default();
    let mut world = World::with(&options, token(Form::Identity), |_, _| {});
    check_success(&world.drive().unwrap());
}

fn leaf_identity(world: &World, role: Role, leaf: &Leaf) -> Personalisation {
    Personalisation {
        label: label(role).into(),
        eap_id: "@gose.test".into(),
        role,
        key: Key::Pkcs8(leaf.key().secret_der().to_vec().into()),
        chain: leaf.chain.iter().map(|der| der.to_vec()).collect(),
        anchors: vec![world.authority.der().to_vec()],
        policy: Policy::default(),
        expected_names: Vec::new(),
        crls: Vec::new(),
    }
}

fn write(element: &mut Element, identity: &Personalisation) {
    use gose_element::drive::eap_tls::{AID, personalisation::Operator};
    let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
    operator.add_identity(identity).unwrap();
}

#[test]
fn revoked() {
    let mut world = World::new(&Options::default());
    let (good, bad) = (world.authority.user("good"), world.authority.user("bad"));
    let mut checking = leaf_identity(&world, Role::Authenticator, &world.authority.user("server"));
    checking.crls = vec![world.authority.crl(&[&bad]).to_vec()];
    write(&mut world.authenticator, &checking);
    let identity = leaf_identity(&world, Role::Peer, &good);
    write(&mut world.peer, &identity);
    check_success(&world.drive().unwrap());
    let identity = leaf_identity(&world, Role::Peer, &bad);
    write(&mut world.peer, &identity);
    check_failure(&mut world);
    // A list that has ended says nothing about today.
    checking.crls = vec![world.authority.crl_until(&[], 2025).to_vec()];
    write(&mut world.authenticator, &checking);
    check_failure(&mut world);
}

#[test]
fn a_resumed_session_is_checked_again() {
    for version in [0x0303, 0x0304] {
        let options = Options::default().version(version);
        let short = |request: &mut Request, _: &mut Personalisation| {
            request.params.not_after =
                date_time_ymd(2026, 1, 1) + std::time::Duration::from_secs(3600);
        };
        for ends_early in [Role::Peer, Role::Authenticator] {
            let mut world = match ends_early {
                Role::Peer => World::with(&options, short, |_, _| {}),
                Role::Authenticator => World::with(&options, |_, _| {}, short),
            };
            check_success(&world.drive().unwrap());
            world.now += 3000;
            check_success(&world.drive().unwrap());
            world.now += 1000;
            let ended = world.drive().unwrap();
            assert!(ended.peer.is_none(), "{version:04X} {ends_early:?}");
            // It is forgotten: the next handshake is a full one, and refused by the certificate.
            check_failure(&mut world);
        }
    }
}

#[test]
fn versions_that_do_not_meet() {
    let mut options = Options::default().version(0x0303);
    options.peer = Options::default().version(0x0304).peer;
    check_failure(&mut World::new(&options));
}

#[test]
fn without_a_clock() {
    let mut world = World::new(&Options::default());
    let mut peer = open(&mut world.peer, Role::Peer);
    peer.process(&hex::decode("0101000501").unwrap(), None)
        .unwrap();
    let start = peer.process(&hex::decode("010200060D20").unwrap(), None);
    let (asked, sw) = ("Process-EAP", StatusWord::CONDITIONS_NOT_SATISFIED);
    assert_eq!(start, Err(Error::Refused { asked, sw }));

    let clockless =
        |_: &mut Request, identity: &mut Personalisation| identity.policy.allow_no_clock = true;
    let mut world = World::with(&Options::default(), clockless, clockless);
    world.cycle_power();
    let mut peer = open(&mut world.peer, Role::Peer);
    let mut authenticator = open(&mut world.authenticator, Role::Authenticator);
    let mut request = hex::decode("0101000501").unwrap();
    loop {
        let reply = peer.process(&request, None).unwrap();
        let Some(response) = reply.packet() else {
            break;
        };
        request = authenticator
            .process(response, None)
            .unwrap()
            .packet()
            .unwrap()
            .to_vec();
    }
    assert_eq!(*peer.msk().unwrap(), *authenticator.msk().unwrap());
}

fn open(element: &mut Element, role: Role) -> EapTls<'_, Element> {
    EapTls::open(element, &Opening::new(PIN, label(role))).unwrap()
}

/// Gives the card itself a packet (hexadecimal, then data), without the host's own bookkeeping.
fn raw(end: &mut EapTls<'_, Element>, packet: &[u8]) -> (String, u16) {
    let outcomes = end.run(&scripts::deliver(&[packet.to_vec()], Some(NOW)));
    let outcome = outcomes.last().unwrap();
    (hex::encode(&outcome.body), outcome.sw.value())
}

fn state(end: &mut EapTls<'_, Element>) -> u8 {
    gose_testkit::world::state(end)
}

/// Lines `packet -> answer SW` in hexadecimal; `*` for any packet. Then the state.
fn check_lines(end: &mut EapTls<'_, Element>, lines: &[&str], expected_state: u8) {
    for line in lines {
        let (packet, expected) = line.split_once(" -> ").unwrap();
        let (body, sw) = raw(end, &hex::decode(packet.replace(' ', "")).unwrap());
        let found = format!("{body} {sw:04X}");
        let same = match expected.strip_prefix('*') {
            Some(sw) => !body.is_empty() && found.ends_with(sw),
            None => found.trim_start() == expected,
        };
        assert!(same, "{line}: {found}");
    }
    assert_eq!(state(end), expected_state, "{lines:?}");
}

#[test]
fn packets_that_the_peer_refuses() {
    let mut world = World::new(&Options::default());
    let check = |world: &mut World, lines: &[&str], expected| {
        check_lines(&mut open(&mut world.peer, Role::Peer), lines, expected);
    };
    let begin = [
        "01 01 0005 01 -> 0201000F0140676F73652E74657374 9000",
        "01 02 0006 0D 20 -> * 9000",
    ];
    let then = |lines: &[&'static str]| [&begin[..], lines].concat();
    // Not EAP, or lengths that lie
    check(
        &mut world,
        &[
            "01 01 0009 01 -> 7000",
            "01 01 0004 -> 7000",
            "05 01 0004 -> 7000",
        ],
        2,
    );
    // A method that is not EAP-TLS, and none after it
    check(
        &mut world,
        &["01 01 0005 04 -> 02010006030D 9000", "03 01 0004 -> 7001"],
        4,
    );
    // A notification is answered whatever runs
    check(
        &mut world,
        &then(&["01 03 0008 02 616263 -> 0203000502 9000"]),
        2,
    );
    // EAP-Success and EAP-Failure before their time
    check(&mut world, &then(&["03 02 0004 -> 7000"]), 2);
    check(&mut world, &then(&["04 02 0004 -> 7000"]), 4);
    // An alert in place of the server's flight: an empty answer, and the end
    let alert = "01 03 000D 0D 00 15 0303 0002 02 28 -> 020300060D00 9000";
    check(
        &mut world,
        &then(&[alert, "01 04 0006 0D 00 -> 02040006030D 9000"]),
        4,
    );
    // A record of a wrong type: the card's own alert
    check(
        &mut world,
        &then(&["01 03 000C 0D 00 17 0303 0001 00 -> * 9000"]),
        4,
    );
    // Fragments: a middle one first, no end, more than announced, nothing in it
    let nak = "02030006030D 9000";
    for lie in [
        "01 03 0008 0D 40 0102",
        "01 03 000B 0D C0 00010001 01",
        "01 03 000B 0D 80 00000005 01",
    ] {
        check(&mut world, &then(&[&*format!("{lie} -> {nak}").leak()]), 4);
    }
    check(
        &mut world,
        &then(&[
            "01 03 000B 0D C0 00000003 01 -> 020300060D00 9000",
            "01 04 000B 0D C0 00000009 01 -> 02040006030D 9000",
        ]),
        4,
    );
    // Start twice
    check(
        &mut world,
        &then(&["01 03 0006 0D 20 -> 02030006030D 9000"]),
        4,
    );
}

#[test]
fn the_first_packet_is_about_identity() {
    let mut world = World::new(&Options::default());
    let element = &mut world.peer;
    // Process-EAP without an identity, then Start straight after Set-Identity, without Reset-State.
    let step = |apdu: &str| Step::new(hex::decode(apdu).unwrap());
    let script = Script::new(vec![
        step("00A4040009F0474F534545415001"),
        step("A02000000430303030"),
        step("A019000001"),
        step("A080000005010100050100"),
        step("A01600800470656572"),
        step("A080000006010200060D2000"),
        step("A019000001"),
    ]);
    let outcomes = element.run(&script);
    let answers: Vec<String> = outcomes
        .done
        .iter()
        .map(|o| {
            o.as_ref()
                .map(|o| format!("{}{}", hex::encode(&o.body), o.sw))
                .unwrap()
        })
        .collect();
    let nak = "02020006030D9000";
    assert_eq!(
        answers,
        ["9000", "9000", "019000", "7000", "9000", nak, "049000"]
    );
}

#[test]
fn packets_that_the_authenticator_refuses() {
    let mut world = World::new(&Options::default());
    let check = |world: &mut World, lines: &[&str], expected| {
        check_lines(
            &mut open(&mut world.authenticator, Role::Authenticator),
            lines,
            expected,
        );
    };
    let begin = ["02 07 0006 01 61 -> 010800060D20 9000"];
    let then = |lines: &[&'static str]| [&begin[..], lines].concat();
    // A response to nothing, a request, a packet of the authenticator's own
    check(
        &mut world,
        &[
            "02 07 0006 0D 00 -> 7000",
            "01 07 0005 01 -> 7000",
            "03 07 0004 -> 7000",
        ],
        2,
    );
    // The same response again, and another identifier
    check(
        &mut world,
        &then(&["02 07 0006 01 61 -> 7000", "02 09 0006 0D 00 -> 7000"]),
        2,
    );
    // Nak
    check(
        &mut world,
        &then(&[
            "02 08 0006 03 04 -> 04080004 9000",
            "02 08 0006 03 04 -> 7000",
        ]),
        4,
    );
    // Nothing where ClientHello is due; an alert; a broken record, which gets an alert and then Failure
    check(&mut world, &then(&["02 08 0006 0D 00 -> 04080004 9000"]), 4);
    check(
        &mut world,
        &then(&["02 08 000D 0D 00 15 0303 0002 02 28 -> 04080004 9000"]),
        4,
    );
    check(
        &mut world,
        &then(&[
            "02 08 000C 0D 00 17 0303 0001 00 -> * 9000",
            "02 09 0006 0D 00 -> 04090004 9000",
        ]),
        4,
    );
    // Fragments that lie
    for lie in [
        "02 08 0008 0D 40 0102",
        "02 08 000B 0D C0 00010001 01",
        "02 08 000B 0D 80 00000005 01",
    ] {
        check(
            &mut world,
            &then(&[&*format!("{lie} -> 04080004 9000").leak()]),
            4,
        );
    }
    // A new identity begins anew
    check(
        &mut world,
        &then(&["02 30 0006 01 61 -> 013100060D20 9000"]),
        2,
    );
}

#[test]
fn retransmissions_run_nothing() {
    let mut world = World::new(&Options::default().version(0x0304));
    let mut peer = open(&mut world.peer, Role::Peer);
    let mut authenticator = open(&mut world.authenticator, Role::Authenticator);
    let mut request = hex::decode("0101000501").unwrap();
    let mut rounds = 0;
    while request[0] == 1 {
        let (response, sw) = raw(&mut peer, &request);
        assert_eq!(sw, 0x9000);
        assert_eq!(raw(&mut peer, &request).0, response);
        let response = hex::decode(response).unwrap();
        let (next, _) = raw(&mut authenticator, &response);
        assert_eq!(raw(&mut authenticator, &response), (String::new(), 0x7000));
        request = hex::decode(next).unwrap();
        rounds += 1;
    }
    assert_eq!((rounds, request[0]), (4, 3));
    drop((peer, authenticator));
    for element in [&world.peer, &world.authenticator] {
        assert_eq!(element.host().cost.ecdsa_sign, 1);
    }
}

/// A conversation up to the packet before EAP-Success, without the byte that protects success: as an
/// authenticator that forgets it on resumption (hostapd 2.10).
#[test]
fn success_without_the_protecting_byte() {
    for accept in [false, true] {
        let mut options = Options::default().version(0x0304);
        options.peer.accept_missing_commitment = accept;
        let mut world = World::new(&options);
        let mut peer = open(&mut world.peer, Role::Peer);
        let mut authenticator = open(&mut world.authenticator, Role::Authenticator);
        let mut request = hex::decode("0101000501").unwrap();
        for _ in 0..3 {
            let reply = peer.process(&request, Some(NOW)).unwrap();
            let next = authenticator
                .process(reply.packet().unwrap(), Some(NOW))
                .unwrap();
            request = next.packet().unwrap().to_vec();
        }
        assert_eq!(state(&mut peer), 2);
        let (success, _) = Packet::parse(&request).unwrap();
        let success = Packet::success(success.identifier).encode();
        let reply = peer.process(&success, None).unwrap();
        let expected = if accept {
            (Reply::Taken, 3)
        } else {
            (Reply::Discarded, 2)
        };
        assert_eq!((reply, state(&mut peer)), expected);
        assert_eq!(peer.msk().is_ok(), accept);
    }
}

#[test]
fn failure_cannot_be_forged_after_protected_success() {
    let mut world = World::new(&Options::default().version(0x0304));
    let (_, state) = world
        .converse(|peer, _| {
            raw(peer, &Packet::failure(9).encode());
            state(peer)
        })
        .unwrap();
    assert_eq!(state, 3);
}

#[test]
fn the_key_block_leaves_once_and_then_the_card_has_none() {
    let refused = |result: Result<Vec<u8>, Error>| match result {
        Err(Error::Refused { sw, .. }) => sw.value(),
        other => panic!("{other:?}"),
    };
    let mut world = World::new(&Options::default());
    world
        .converse(|peer, _| {
            assert_eq!(refused(peer.exported(0x82)), 0x6A88);
            assert_eq!(peer.encrypt(&[b"a"]).unwrap().len(), 1);
            assert_eq!(peer.exported(0x81).unwrap().len(), 64);
            assert_eq!(refused(peer.exported(0x81)), 0x6A88);
            assert_eq!(
                hex::encode(&peer.exported(0x82).unwrap()),
                format!("{:016X}{:016X}", 1, 2)
            );
            assert_eq!(refused(peer.encrypt(&[b"a"]).map(|r| r.concat())), 0x6985);
            assert_eq!(
                refused(peer.decrypt(&[&[23, 3, 3, 0, 1, 0]]).map(|r| r.concat())),
                0x6985
            );
            for never in [0x05, 0x06, 0x83, 0x90] {
                assert_eq!(refused(peer.exported(never)), 0x6A88);
            }
            assert_eq!(peer.exported(0x7F).unwrap(), [1, 0]);
            assert_eq!(peer.exported(0x80).unwrap(), [3, 4, 0x13, 1]);
            assert_eq!(peer.msk().unwrap().len(), 64);
        })
        .unwrap();
    let mut options = Options::default();
    options.peer.export_key_block = false;
    let mut world = World::new(&options);
    world
        .converse(|peer, _| {
            assert_eq!(refused(peer.exported(0x81)), 0x6A88);
            assert_eq!(peer.encrypt(&[b"a"]).unwrap().len(), 1);
        })
        .unwrap();
}

#[test]
fn the_legacy_order_of_the_msk() {
    let mut options = Options::default();
    options.peer.legacy_msk_order = true;
    let mut world = World::new(&options);
    let (_, [swapped, rfc]) = world
        .converse(|peer, authenticator| [peer.msk().unwrap(), authenticator.msk().unwrap()])
        .unwrap();
    assert_eq!([&swapped[32..], &swapped[..32]].concat(), *rfc);
}

#[test]
fn private_keys_are_not_readable() {
    let world = World::new(&Options::default());
    let leaf = world.authority.user("imported");
    let key = leaf.key().secret_der().to_vec();
    let mut element = gose_testkit::world::element();
    let identity = leaf_identity(&world, Role::Peer, &leaf);
    write(&mut element, &identity);
    let mut script = Script::new(vec![scripts::verify(1, OPERATOR_PIN)]);
    for page in 0..64u8 {
        script
            .steps
            .push(Step::new([0xA0, 0xB0, page, 0, 0]).expect_normal());
    }
    let outcomes = element.run(&script);
    assert!(outcomes.complete(65));
    let memory: Vec<u8> = outcomes
        .done
        .iter()
        .flatten()
        .flat_map(|o| o.body.clone())
        .collect();
    let (records, _) = records::parse(&memory).unwrap();
    let item = records[0]
        .items
        .iter()
        .find(|i| i.kind == records::kind::PRIVATE_KEY)
        .unwrap();
    assert_eq!(
        (item.value.len(), item.value.iter().max()),
        (key.len(), Some(&0))
    );
    let certificate = &leaf.chain[0];
    assert!(
        memory
            .windows(certificate.len())
            .any(|w| w == certificate.as_ref())
    );
    // Neither in the memory of the card behind READ: it went into the key store.
    let held = element.card().nvm();
    let pages = held.names("eap/record/");
    let stored: Vec<u8> = pages
        .iter()
        .flat_map(|name| held.get(name).unwrap().to_vec())
        .collect();
    // ECPrivateKey (RFC 5915): an OCTET STRING of 32 bytes
    let scalar = key.windows(2).position(|w| w == [0x04, 0x20]).unwrap() + 2;
    let scalar = &key[scalar..scalar + 32];
    assert!(!stored.windows(32).any(|w| w == scalar));
    assert!(
        open(&mut element, Role::Peer)
            .process(&hex::decode("0101000501").unwrap(), None)
            .is_ok()
    );
}

#[test]
fn an_identity_without_its_parts_is_not_set() {
    let world = World::new(&Options::default());
    let leaf = world.authority.user("peer");
    let changes: [fn(&mut Personalisation); 5] = [
        |i| i.chain.clear(),
        |i| i.anchors.clear(),
        |i| i.key = Key::Slot(0x9C),
        |i| i.key = Key::Pkcs8(vec![0x30, 0].into()),
        |i| i.policy.fragment_size = 99,
    ];
    let mut element = gose_testkit::world::element();
    for change in changes {
        let mut identity = leaf_identity(&world, Role::Peer, &leaf);
        change(&mut identity);
        write(&mut element, &identity);
        let refused = EapTls::open(&mut element, &Opening::new(PIN, "peer")).err();
        let (asked, sw) = ("opening EAP-TLS", StatusWord::CONDITIONS_NOT_SATISFIED);
        assert_eq!(refused, Some(Error::Refused { asked, sw }));
    }
    // A key of another certificate
    let mut identity = leaf_identity(&world, Role::Peer, &leaf);
    identity.chain = world
        .authority
        .user("other")
        .chain
        .iter()
        .map(|c| c.to_vec())
        .collect();
    write(&mut element, &identity);
    assert!(EapTls::open(&mut element, &Opening::new(PIN, "peer")).is_err());
    write(&mut element, &leaf_identity(&world, Role::Peer, &leaf));
    assert!(EapTls::open(&mut element, &Opening::new(PIN, "peer")).is_ok());
    assert!(
        EapTls::open(&mut element, &Opening::new(b"1111", "peer")).err() == Some(Error::Pin(2))
    );
}

#[test]
fn a_new_key_in_the_slot_ends_the_identity() {
    let mut world = World::new(&Options::default());
    check_success(&world.drive().unwrap());
    let World {
        authority, peer, ..
    } = &mut world;
    let other = authority
        .user("x")
        .chain
        .iter()
        .map(|c| c.to_vec())
        .collect();
    personalise(
        peer,
        authority,
        Role::Peer,
        gose_element::Algorithm::P256,
        |_, identity| {
            identity.chain = other;
        },
    );
    assert!(EapTls::open(&mut world.peer, &Opening::new(PIN, "peer")).is_err());
}

#[test]
fn several_identities_at_once() {
    let mut world = World::new(&Options::default());
    let second = Personalisation {
        label: "second".into(),
        eap_id: "second@gose.test".into(),
        ..leaf_identity(&world, Role::Peer, &world.authority.user("second"))
    };
    write(&mut world.peer, &second);
    let element = &mut world.peer;
    let mut end = open(element, Role::Peer);
    let step = |apdu: &str| Step::new(hex::decode(apdu).unwrap()).collect(scripts::FETCH);
    let script = Script::new(vec![
        step("A016008306 7365636F6E64".replace(' ', "").as_str()),
        step("A08000010501010005 01".replace(' ', "").as_str()),
        step("A08000000501010005 01".replace(' ', "").as_str()),
        step("A018000110"),
        step("A0170001"),
        step("A0170001"),
        step("A0170001"),
    ]);
    let outcomes = end.run(&script);
    let answers: Vec<(Vec<u8>, u16)> = outcomes
        .done
        .into_iter()
        .flatten()
        .map(|o| (o.body, o.sw.value()))
        .collect();
    assert_eq!(answers[0].1, 0x9001);
    assert!(answers[1].0.ends_with(b"second@gose.test"));
    assert!(answers[2].0.ends_with(b"\x01@gose.test"));
    assert_eq!(answers[3].0, b"second");
    let labels: Vec<&[u8]> = answers[4..]
        .iter()
        .map(|(label, _)| label.as_slice())
        .collect();
    assert_eq!(labels, [&b"peer"[..], b"second", b"peer"]);
}
