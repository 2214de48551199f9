//! The paper's phases: authorise, attach, authenticate, use.

use std::{
    io::{Read, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use gose_client::{
    RemoteElement,
    admin::{Action, Answer, Refusal, VmCreate},
    guest::authenticate,
    record::{ContentType, Exported, Opened, Opener, Side, host_layer},
};
use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening},
};
use gose_proto::{
    identity::{Form, VmAuthToken},
    racs::Request,
};
use gose_testkit::world::PIN;

use crate::world::{World, logged};

pub(crate) fn now() -> u32 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u32::try_from(passed.as_secs()).unwrap()
}

#[test]
fn creation_is_authorised() {
    let world = World::new("none");
    let create = |user: &str, image: &str, seid: &[&str]| {
        let create = VmCreate {
            image: image.to_owned(),
            seid: seid.iter().map(ToString::to_string).collect(),
            ..VmCreate::default()
        };
        match world.ask(user, &Action::VmCreate(create)) {
            Answer::Created(vm) => Ok(vm),
            Answer::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        }
    };
    let refused = |reason| Err(reason);
    assert_eq!(
        create("mallory", "played", &[]),
        refused(Refusal::Unauthorised)
    );
    logged(&["mallory", "not among [[hypervisor.creator]]"]);
    assert_eq!(
        create("bob", "played", &["SE-A"]),
        refused(Refusal::Unauthorised)
    );
    logged(&["bob", "may not bind element SE-A"]);
    assert_eq!(create("bob", "other", &[]), refused(Refusal::Unknown));
    let vm = create("alice", "played", &["SE-A"]).unwrap();
    assert_eq!(
        (vm.generation, vm.seid.as_slice()),
        (1, &["SE-A".to_owned()][..])
    );
    let _a = world.control();
    assert_eq!(
        create("alice", "played", &["SE-A"]),
        refused(Refusal::InUse)
    );
    create("bob", "played", &[]).unwrap();
    let _b = world.control();
    assert_eq!(create("bob", "played", &[]), refused(Refusal::Quota));
    // bob neither sees nor destroys alice's
    let Answer::Vms { vms } = world.ask("bob", &Action::VmList) else {
        panic!("no list");
    };
    assert_eq!(vms.len(), 1);
    let destroy = Action::VmDestroy { uuid: vm.uuid };
    let Answer::Refused { reason, .. } = world.ask("bob", &destroy) else {
        panic!("bob destroyed alice's virtual machine");
    };
    assert_eq!(reason, Refusal::Unknown);
    assert_eq!(world.ask("alice", &destroy), Answer::Destroyed);
    create("alice", "played", &["SE-A"]).unwrap();
}

#[test]
fn attach_and_use_ones_own_element() {
    let world = World::new("none");
    let played = world.create("SE-A");
    let chain = played.guest.token().unwrap();
    let token = VmAuthToken::parse(&chain.certificates()[0]).unwrap();
    assert_eq!(token.binding().form, Form::Attachment);
    let mut session = played.guest.open_racs().unwrap();
    let listed: Vec<_> = session.list().unwrap();
    assert_eq!(listed, ["SE-A".parse().unwrap()]);
    drop(session);
    let identity = played.guest.identity().unwrap();
    let token = VmAuthToken::parse(&identity.certificates()[0]).unwrap();
    assert_eq!(token.binding().form, Form::Identity);
    assert_eq!(token.binding().vm, played.guest.record().vm().unwrap());
}

/// Phase 2, and what is needed for phase 3.
fn authenticated(
    world: &World,
    then: impl FnOnce(gose_client::Link, &mut EapTls<'_, RemoteElement>),
) {
    let played = world.create("SE-A");
    let session = played.guest.open_racs().unwrap();
    let mut element = RemoteElement::new(session, "SE-A".parse().unwrap());
    element.power_on().unwrap();
    let mut eap = EapTls::open(&mut element, &Opening::new(PIN, "peer")).unwrap();
    let mut channel = played.guest.open_eap().unwrap();
    authenticate(&mut channel, &mut eap, now).unwrap();
    then(channel.into_stream(), &mut eap);
    drop(eap);
    // opening, one request a flight, keys
    assert!(
        element.round_trips() <= 12,
        "{} round trips",
        element.round_trips()
    );
}

fn read_record(stream: &mut impl Read) -> Vec<u8> {
    let mut record = vec![0; 5];
    stream.read_exact(&mut record).unwrap();
    let length = Opener::record_length(&record).unwrap().unwrap();
    record.resize(length, 0);
    stream.read_exact(&mut record[5..]).unwrap();
    record
}

#[test]
fn the_session_moves_to_the_hosts() {
    let world = World::new("echo");
    authenticated(&world, |mut stream, eap| {
        let keys = eap.session_keys().unwrap();
        let exported = Exported {
            version: keys.version,
            suite: keys.suite,
            key_block: &keys.key_block,
            client_seq: keys.client_sequence,
            server_seq: keys.server_sequence,
        };
        let (mut sealer, mut opener) = host_layer(Side::Client, &exported).unwrap();
        for length in [1, 16_384, 1000] {
            let sent = vec![0xA5; length];
            let mut out = Vec::new();
            sealer
                .seal(ContentType::ApplicationData, &sent, &mut out)
                .unwrap();
            stream.write_all(&out).unwrap();
            let mut record = read_record(&mut stream);
            assert_eq!(opener.open(&mut record).unwrap(), Opened::Data(&sent));
        }
    });
    logged(&[
        "EAP conversation",
        "verdict=\"success\"",
        "peer=\"peer\"",
        "element=\"AS1\"",
    ]);
}

#[test]
fn the_record_layer_stays_in_the_elements() {
    let world = World::new("element-echo");
    authenticated(&world, |mut stream, eap| {
        let sealed = eap.encrypt(&[b"one", b"two"]).unwrap();
        stream.write_all(&sealed.concat()).unwrap();
        let answers = [read_record(&mut stream), read_record(&mut stream)];
        let opened = eap.decrypt(&[&answers[0], &answers[1]]).unwrap();
        assert_eq!(opened, [b"one", b"two"]);
    });
}

#[test]
fn only_callers_carry_conversations() {
    let world = World::new("none");
    let mut link = world.link(&world.server, &world.site.user("hv-8"), b"gose-eap/1");
    let end = link.read(&mut [0; 2]);
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    logged(&["hv-8", "not among the authentication server's callers"]);
}

#[test]
fn the_request_keeps_its_name_on_its_way() {
    let world = World::new("none");
    let played = world.create("SE-A");
    let mut session = played.guest.open_racs().unwrap();
    let mut request = Request::with_id("Marignan1515").unwrap();
    request.power_on(&"SE-A".parse().unwrap()).unwrap();
    session.ask(request).unwrap();
    // at the hypervisor, for the guest, and at the grid, for the hypervisor
    logged(&[
        "element leased",
        "spiffe://example.org/hv/hv-7/vm/",
        "Marignan1515",
    ]);
    logged(&["element leased", "peer=hv-7", "Marignan1515"]);
}
