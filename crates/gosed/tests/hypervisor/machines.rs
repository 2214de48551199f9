//! The life of virtual machines through the management plane: stopped, started, paused, destroyed; elements of a pool.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use gose_client::{
    RemoteElement,
    admin::{Action, Answer, Refusal, Vm, VmCreate},
    guest::GuestError,
};
use gose_element::{
    Scheme, SecureElement,
    drive::{
        piv::{Piv, PivError, Slot},
        provision::{Secrets, initialise},
    },
};
use gose_proto::{hex, identity::VmAuthToken};

use crate::{
    grids::seid,
    world::{World, common, logged, provision, slots},
};

fn ask(world: &World, user: &str, action: &Action) -> Result<Answer, Refusal> {
    match world.ask(user, action) {
        Answer::Refused { reason, .. } => Err(reason),
        answer => Ok(answer),
    }
}

fn vm(answer: Result<Answer, Refusal>) -> Vm {
    match answer {
        Ok(Answer::Vm(vm) | Answer::Created(vm)) => vm,
        other => panic!("{other:?}"),
    }
}

fn create(world: &World, user: &str, create: VmCreate) -> Result<Answer, Refusal> {
    let image = "played".to_owned();
    ask(world, user, &Action::VmCreate(VmCreate { image, ..create }))
}

fn named(name: &str, seid: &str) -> VmCreate {
    VmCreate {
        name: Some(name.to_owned()),
        seid: vec![seid.to_owned()],
        ..VmCreate::default()
    }
}

fn on(action: fn(String) -> Action, which: &str) -> Action {
    action(which.to_owned())
}

fn stop(uuid: String) -> Action {
    Action::VmStop { uuid }
}
fn start(uuid: String) -> Action {
    Action::VmStart { uuid }
}
fn pause(uuid: String) -> Action {
    Action::VmPause { uuid }
}
fn resume(uuid: String) -> Action {
    Action::VmResume { uuid }
}
fn show(uuid: String) -> Action {
    Action::VmShow { uuid }
}
fn destroy(uuid: String) -> Action {
    Action::VmDestroy { uuid }
}

#[test]
fn a_machine_that_is_stopped_keeps_its_element_and_nothing_else() {
    let world = World::new("none");
    let made = vm(create(&world, "alice", named("web", "SE-A")));
    assert_eq!((made.generation, made.state.as_str()), (1, "running"));
    let first = world.play();
    let mut session = first.guest.open_racs().unwrap();
    assert_eq!(session.list().unwrap(), [seid("SE-A")]);
    // Two of one name, two with one element: the second is refused.
    assert_eq!(
        create(&world, "alice", named("web", "SE-B")),
        Err(Refusal::InUse)
    );
    let stopped = vm(ask(&world, "alice", &on(stop, "web")));
    assert_eq!(stopped.state, "stopped");
    assert!(session.list().is_err());
    assert!(first.guest.open_racs().is_err());
    assert_eq!(
        create(&world, "alice", named("other", "SE-A")),
        Err(Refusal::InUse)
    );
    assert_eq!(ask(&world, "alice", &on(stop, "web")), Err(Refusal::InUse));
    assert_eq!(ask(&world, "alice", &on(pause, "web")), Err(Refusal::InUse));
    // Somebody else's machine is none.
    for action in [stop, start, pause, resume, show, destroy] {
        assert_eq!(
            ask(&world, "bob", &on(action, "web")),
            Err(Refusal::Unknown)
        );
        assert_eq!(
            ask(&world, "bob", &on(action, &made.uuid)),
            Err(Refusal::Unknown)
        );
    }
    let started = vm(ask(&world, "alice", &on(start, &made.uuid)));
    assert_eq!((started.generation, started.state.as_str()), (2, "running"));
    let second = world.play();
    assert_eq!(
        second.guest.open_racs().unwrap().list().unwrap(),
        [seid("SE-A")]
    );
    assert_eq!(
        ask(&world, "alice", &on(destroy, "web")),
        Ok(Answer::Destroyed)
    );
    assert_eq!(
        ask(&world, "alice", &on(show, "web")),
        Err(Refusal::Unknown)
    );
    vm(create(&world, "alice", named("other", "SE-A")));
    let third = world.play();
    assert_eq!(
        third.guest.open_racs().unwrap().list().unwrap(),
        [seid("SE-A")]
    );
    assert_eq!(
        ask(&world, "alice", &on(destroy, "other")),
        Ok(Answer::Destroyed)
    );
}

#[test]
fn a_machine_that_is_paused_has_no_session_and_gets_none() {
    let world = World::new("none");
    vm(create(&world, "alice", named("web", "SE-A")));
    let played = world.play();
    let mut session = played.guest.open_racs().unwrap();
    let mut element = RemoteElement::new(played.guest.open_racs().unwrap(), seid("SE-A"));
    element.power_on().unwrap();
    assert_eq!(vm(ask(&world, "alice", &on(pause, "web"))).state, "paused");
    // Its lease is gone: the grid's operator has the element at once.
    let begun = Instant::now();
    let entered = world.runtime.enter();
    crate::world::on(world.grid.grid(), "SE-A", |_| ());
    drop(entered);
    assert!(begun.elapsed() < Duration::from_secs(2));
    // The process is stopped by a signal; the test plays on in its place, with its sockets.
    assert!(session.list().is_err());
    assert!(matches!(
        played.guest.sign(&played.guest.serial(), 0x0403, hash()),
        Err(GuestError::Io(_))
    ));
    assert_eq!(ask(&world, "alice", &on(pause, "web")), Err(Refusal::InUse));
    assert_eq!(
        vm(ask(&world, "alice", &on(resume, "web"))).state,
        "running"
    );
    assert_eq!(vm(ask(&world, "alice", &on(show, "web"))).state, "running");
    assert_eq!(
        ask(&world, "alice", &on(destroy, "web")),
        Ok(Answer::Destroyed)
    );
}

fn hash() -> gose_proto::identity::attach::TranscriptHash {
    gose_proto::identity::attach::TranscriptHash::new(&[7; 32]).unwrap()
}

/// A file of secrets as `gose element init` writes it.
fn secrets_file(world: &World, seid: &str, secrets: &Secrets) {
    let text = |digits: &[u8]| String::from_utf8(digits.to_vec()).unwrap();
    let toml = format!(
        "seid = \"{seid}\"\npiv-pin = \"{}\"\npiv-puk = \"{}\"\nmanagement-key = \"{}\"\noperator-pin = \"{}\"\nbearer-pin = \"{}\"\n",
        text(secrets.piv_pin.as_slice()),
        text(secrets.piv_puk.as_slice()),
        hex::encode(secrets.management_key.as_slice()),
        text(secrets.operator_pin.as_slice()),
        text(secrets.bearer_pin.as_slice()),
    );
    let path = world.path(&format!("{seid}.secrets"));
    std::fs::write(&path, toml).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// A world whose hypervisor has two fresh elements in a pool.
fn with_pool() -> World {
    let world = World::new("none");
    let pool = slots(&["P-1", "P-2"]);
    let base = common(world.dir.path(), "hv-7") + &pool;
    for seid in ["P-1", "P-2"] {
        let secrets = Secrets::random().unwrap();
        let _entered = world.runtime.enter();
        provision(&base, seid, |element| {
            initialise(element, &secrets).unwrap()
        });
        secrets_file(&world, seid, &secrets);
    }
    let rules = format!(
        "[[hypervisor.pool]]\nname = \"cards\"\nseid = [\"P-1\", \"P-2\"]\nsecrets-folder = {:?}\n\
         [[hypervisor.group]]\nname = \"staff\"\nusers = [\"carol\", \"dave\"]\n\
         [[hypervisor.creator]]\ngroup = \"staff\"\nquota = 2\nimage = [\"played\"]\npool = [\"cards\"]\n",
        world.dir.path()
    );
    world.reload(
        world.hypervisor(),
        &(world.hypervisor_text.clone() + &pool + &rules),
    );
    world
}

#[test]
fn an_element_of_a_pool_is_made_for_one_machine_and_wiped_after_it() {
    let world = with_pool();
    let of_pool = |name: &str| VmCreate {
        name: Some(name.to_owned()),
        pool: Some("cards".to_owned()),
        ..VmCreate::default()
    };
    assert_eq!(
        create(&world, "alice", of_pool("a")),
        Err(Refusal::Unauthorised)
    );
    logged(&["alice", "may not have an element of pool"]);
    let made = vm(create(&world, "carol", of_pool("c")));
    assert_eq!(
        (made.seid.as_slice(), made.pool.as_deref()),
        (&["P-1".to_owned()][..], Some("cards"))
    );
    let played = world.play();
    let other = vm(create(&world, "dave", of_pool("d")));
    assert_eq!(other.seid, ["P-2"]);
    let _other = world.play();
    assert_eq!(create(&world, "dave", of_pool("e")), Err(Refusal::InUse));
    logged(&["has no free element"]);

    // The guest has a PIN, a key and a certificate that names it.
    let pin = played.guest.record().pin("P-1").unwrap();
    let mut element = RemoteElement::new(played.guest.open_racs().unwrap(), seid("P-1"));
    element.power_on().unwrap();
    let mut piv = Piv::open(&mut element);
    piv.verify(pin.as_bytes()).unwrap();
    piv.sign(Slot::AUTHENTICATION, Scheme::EcdsaP256Sha256, b"mine")
        .unwrap();
    let key = piv.public_key(Slot::AUTHENTICATION).unwrap().info;
    let certificate = piv.certificate(Slot::AUTHENTICATION).unwrap();
    let token = VmAuthToken::parse(&certificate).unwrap();
    assert_eq!(token.binding().vm.to_string(), made.uuid);
    assert_eq!(token.certificate().public_key(), key);

    assert_eq!(
        ask(&world, "carol", &on(destroy, "c")),
        Ok(Answer::Destroyed)
    );
    let again = vm(create(&world, "carol", of_pool("f")));
    assert_eq!(again.seid, ["P-1"]);
    let next = world.play();
    let mut element = RemoteElement::new(next.guest.open_racs().unwrap(), seid("P-1"));
    element.power_on().unwrap();
    let mut piv = Piv::open(&mut element);
    // Neither the key nor the PIN of the machine before.
    assert_ne!(piv.public_key(Slot::AUTHENTICATION).unwrap().info, key);
    assert!(matches!(
        piv.verify(pin.as_bytes()),
        Err(PivError::WrongPin { .. })
    ));
}

#[test]
fn a_kernel_that_was_changed_does_not_boot() {
    let world = World::new("none");
    let command = super::guest::command(&world.path("guests.sock"));
    let kernel = world.path("kernel");
    std::fs::copy(&command[0], &kernel).unwrap();
    let hash = {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&std::fs::read(&kernel).unwrap());
        hex::encode(context.finish().as_ref())
    };
    let rules = format!(
        "[[hypervisor.image]]\nname = \"measured\"\nkernel = {kernel:?}\nkernel-sha256 = \"{hash}\"\ncommand = {:?}\n\
         [[hypervisor.creator]]\nuser = \"carol\"\nquota = 1\nimage = [\"{hash}\"]\n",
        &command[1..]
    );
    world.reload(
        world.hypervisor(),
        &(world.hypervisor_text.clone() + &rules),
    );
    let measured = |user: &str| {
        let image = "measured".to_owned();
        ask(
            &world,
            user,
            &Action::VmCreate(VmCreate {
                image,
                ..VmCreate::default()
            }),
        )
    };
    assert_eq!(measured("alice"), Err(Refusal::Unauthorised));
    let made = vm(measured("carol"));
    assert_eq!(made.kernel, Some(hash.to_lowercase()));
    let played = world.play();
    assert_eq!(played.guest.record().vm, made.uuid);
    assert_eq!(
        ask(&world, "carol", &on(destroy, &made.uuid)),
        Ok(Answer::Destroyed)
    );
    std::fs::write(&kernel, "#!/bin/sh\n").unwrap();
    assert_eq!(measured("carol"), Err(Refusal::Failed));
    logged(&["kernel has the SHA-256", "the configuration says"]);
}
