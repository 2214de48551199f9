//! Ports that a hook opens and closes; nftables has a stage of its own.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use super::*;
use crate::hypervisor::domain::tests::domain_with;

/// Ports whose hook writes what it is told into a file, and fails for a verb that stands in another one.
struct World {
    folder: tempfile::TempDir,
    ports: Ports,
    domain: Arc<Domain>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("hook");
        let path = folder.path().display();
        let text = format!(
            "#!/bin/sh\ntest -f {path}/no-$1 && exit 1\n\
             echo $1 $2 $GOSE_FILTER$GOSE_VLAN$GOSE_REASON >>{path}/told\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        Self {
            ports: Ports::new(Gate::Hook(program), Driver::Process).unwrap(),
            domain: domain_with(Duration::from_secs(60)),
            folder,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the hook was told since the last question, without the UUID.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("told")).unwrap_or_default();
        let _ = fs::remove_file(self.file("told"));
        let vm = format!(" {}", self.domain.vm());
        text.lines().map(|line| line.replace(&vm, "")).collect()
    }

    fn open(&self, number: &str, terms: &Terms) -> Result<(), PortError> {
        self.ports.open(&self.domain, session(number), terms)
    }
}

fn session(number: &str) -> Session {
    Session {
        user: b"vm1".to_vec(),
        number: number.into(),
        generation: 1,
        _timer: JoinSet::new(),
    }
}

#[test]
fn a_port_opens_for_a_session_and_closes_with_it() {
    let world = World::new();
    let vm = world.domain.vm();
    world.ports.begin(vm).unwrap();
    assert_eq!(world.told(), ["close new"]);
    let terms = Terms {
        filter: Some("guests".into()),
        ..Terms::default()
    };
    world.open("1", &terms).unwrap();
    assert_eq!(world.told(), ["open guests"]);
    let found = world.ports.find(|_, session| session.user == b"vm1");
    assert_eq!(found, [(vm, "1".to_owned())]);
    // Another session takes its place; what ends the first one does not end it.
    world.open("2", &Terms::default()).unwrap();
    let first = world
        .ports
        .close(vm, Why::TimeOver, |one| one.number == "1");
    assert!(!first.unwrap());
    assert!(world.ports.close(vm, Why::Logoff, |_| true).unwrap());
    assert!(!world.ports.close(vm, Why::Logoff, |_| true).unwrap());
    assert_eq!(world.told(), ["open", "close logoff"]);
    assert_eq!((world.ports.counts(), world.ports.open_now()), ([2, 1], 0));
    world.ports.forget(vm);
    assert!(lock(&world.ports.slots).is_empty());
}

#[test]
fn a_hook_that_fails_opens_nothing_and_is_asked_again_to_close() {
    let world = World::new();
    let vm = world.domain.vm();
    fs::write(world.file("no-open"), "").unwrap();
    let error = world.open("1", &Terms::default()).unwrap_err().to_string();
    assert!(error.contains("exit status: 1"), "{error}");
    assert_eq!(world.ports.open_now(), 0);
    fs::remove_file(world.file("no-open")).unwrap();
    world.open("2", &Terms::default()).unwrap();
    fs::write(world.file("no-close"), "").unwrap();
    assert!(world.ports.close(vm, Why::Disconnected, |_| true).is_err());
    assert!(world.ports.begin(vm).is_err());
    assert_eq!(world.ports.open_now(), 1);
    fs::remove_file(world.file("no-close")).unwrap();
    assert!(world.ports.close(vm, Why::Disconnected, |_| true).unwrap());
    // The second session could not be had: the first one's port does not stay open.
    world.open("3", &Terms::default()).unwrap();
    fs::write(world.file("no-open"), "").unwrap();
    assert!(world.open("4", &Terms::default()).is_err());
    assert_eq!(world.told().last().unwrap(), "close rejected");
    assert_eq!(world.ports.open_now(), 0);
}

#[test]
fn a_guest_that_has_ended_gets_no_port() {
    let world = World::new();
    world.domain.end();
    let opened = world.open("1", &Terms::default());
    assert!(matches!(opened, Err(PortError::Gone)));
    assert!(world.told().is_empty());
}
