//! What a reload changes in the roles, while guests and sessions go on.

use gose_client::{
    RemoteElement,
    admin::{Action, Answer, Refusal, VmCreate},
    guest::authenticate,
};
use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening},
};
use gose_testkit::world::PIN;

use crate::{
    grids::seid,
    phases::now,
    world::{Played, World, logged},
};

fn create(world: &World, user: &str, image: &str, element: &str) -> Option<Refusal> {
    let create = VmCreate {
        image: image.to_owned(),
        seid: vec![element.to_owned()],
        ..VmCreate::default()
    };
    match world.ask(user, &Action::VmCreate(create)) {
        Answer::Created(_) => None,
        Answer::Refused { reason, .. } => Some(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn creators_images_and_guests_of_the_hypervisor() {
    let world = World::new("none");
    let running = world.create("SE-A");
    let mut session = running.guest.open_racs().unwrap();
    assert_eq!(session.list().unwrap(), [seid("SE-A")]);
    let unauthorised = Some(Refusal::Unauthorised);
    assert_eq!(create(&world, "carol", "new", "SE-B"), unauthorised);
    let command = super::guest::command(&world.path("guests.sock"));
    let more = format!(
        "[[hypervisor.image]]\nname = \"new\"\ncommand = {command:?}\n\
         [[hypervisor.creator]]\nuser = \"carol\"\nquota = 1\nimage = [\"new\"]\nseid = [\"SE-B\"]\n"
    );
    let text = world.hypervisor_text.clone() + &more;
    world.reload(world.hypervisor(), &text);
    assert_eq!(create(&world, "carol", "new", "SE-B"), None);
    let of_carol = world.play();
    assert_eq!(create(&world, "carol", "new", "SE-B"), Some(Refusal::InUse));
    // what ran goes on
    assert_eq!(session.list().unwrap(), [seid("SE-A")]);
    drop(of_carol);
    // a guest that the configuration has from now on is started
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    let guest = format!("[[hypervisor.guest]]\nuuid = \"{uuid}\"\nimage = \"new\"\n");
    world.reload(world.hypervisor(), &(text + &guest));
    assert_eq!(world.play().guest.record().vm.to_string(), uuid);
}

/// Whether the guest's element authenticates now.
fn authenticates(played: &Played) -> bool {
    let session = played.guest.open_racs().unwrap();
    let mut element = RemoteElement::new(session, seid("SE-A"));
    element.power_on().unwrap();
    let mut eap = EapTls::open(&mut element, &Opening::new(PIN, "peer")).unwrap();
    let mut channel = played.guest.open_eap().unwrap();
    authenticate(&mut channel, &mut eap, now).is_ok()
}

#[test]
fn callers_and_peers_of_the_authentication_server() {
    let world = World::new("none");
    let played = world.create("SE-A");
    assert!(authenticates(&played));
    let text = &world.server_text;
    let nobody = text.replace("allow = [\"peer\"]", "allow = [\"nobody\"]");
    world.reload(&world.server, &nobody);
    assert!(!authenticates(&played));
    let others = text.replace("callers = [\"hv-7\"]", "callers = [\"hv-8\"]");
    world.reload(&world.server, &others);
    assert!(!authenticates(&played));
    logged(&["hv-7", "not among the authentication server's callers"]);
    world.reload(&world.server, text);
    assert!(authenticates(&played));
}
