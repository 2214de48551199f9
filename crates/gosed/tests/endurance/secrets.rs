//! A thousand secrets are planted in a node and looked for where they must not be: in its log, its answers, its files,
//! its command line and environment, and in what remains when it crashes.

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::Command,
};

use gose_client::{Endpoint, RemoteElement};
use gose_element::{
    SecretAlgorithm, SecureElement, Step,
    drive::{
        provision::{Secrets, initialise},
        storage::{Access, KeyReference, NewKey, NewObject, Storage},
    },
};
use gose_proto::hex;

use crate::{alone, node::Node};

/// Five of each element, and what is put into it.
const ELEMENTS: usize = 25;
const KEYS: u8 = 18;
const OBJECTS: u8 = 17;

/// What is looked for, as it is and as people write bytes.
struct Planted(Vec<Vec<u8>>);

impl Planted {
    fn plant(&mut self, secret: &[u8]) {
        self.0.push(secret.to_vec());
    }

    /// How many of them are in these bytes.
    fn found(&self, bytes: &[u8]) -> usize {
        let lower = bytes.to_ascii_lowercase();
        let is_in = |secret: &&Vec<u8>| {
            let written = hex::encode(secret).to_ascii_lowercase();
            contains(bytes, secret) || contains(&lower, written.as_bytes())
        };
        self.0.iter().filter(is_in).count()
    }
}

fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == secret[0]) {
        if rest[at..].starts_with(secret) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A shell that lets cores be dumped, as a careless administrator would, and becomes the node.
fn careless() -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\""]);
    shell.arg(env!("CARGO_BIN_EXE_gosed"));
    shell
}

#[test]
fn a_thousand_secrets() {
    let _alone = alone();
    let mut node = Node::start_by(&mut careless(), ELEMENTS, "");
    let mut planted = Planted(Vec::new());
    let mut answers = Vec::new();
    for number in 1..=ELEMENTS {
        let endpoint = Endpoint::Unix(node.path("admin.sock"));
        let mut element = RemoteElement::at(endpoint, format!("SE{number}").parse().unwrap());
        element.power_on().unwrap();
        plant(&mut element, &mut planted, &mut answers);
    }
    assert!(planted.0.len() >= 1000, "{} planted", planted.0.len());
    // They can be found where they are: in what tells them.
    let told: Vec<u8> = planted.0.concat();
    assert_eq!(planted.found(&told), planted.0.len());
    assert_eq!(planted.found(&answers), 0, "answers");
    for name in ["cmdline", "environ", "maps", "status", "limits"] {
        let path = format!("/proc/{}/{name}", node.child.id());
        assert_eq!(planted.found(&std::fs::read(&path).unwrap()), 0, "{path}");
    }
    // It crashes.
    let pid = rustix::process::Pid::from_child(&node.child);
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    let status = node.child.wait().unwrap();
    assert!(
        status.signal().is_some() && !status.core_dumped(),
        "{status}"
    );
    let mut files = 0;
    look(node.dir.path(), &mut |path, bytes| {
        files += 1;
        assert_eq!(planted.found(bytes), 0, "{}", path.display());
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(!name.starts_with("core"), "{name}");
    });
    // Images, births, log, certificates.
    assert!(files > 2 * ELEMENTS, "{files} files");
}

/// Where this machine dumps cores, a program that did not forbid it leaves one: the test above sees a difference.
#[test]
fn a_careless_program_leaves_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited && exec sleep 60"]);
    let mut child = shell
        .current_dir(dir.path())
        .process_group(0)
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    assert!(
        child.wait().unwrap().core_dumped(),
        "this machine dumps no cores: ulimit -H -c"
    );
}

fn plant(element: &mut RemoteElement, planted: &mut Planted, answers: &mut Vec<u8>) {
    let secrets = Secrets::random().unwrap();
    initialise(element, &secrets).unwrap();
    for pin in [
        &secrets.piv_pin,
        &secrets.piv_puk,
        &secrets.operator_pin,
        &secrets.bearer_pin,
    ] {
        planted.plant(&**pin);
    }
    planted.plant(&*secrets.management_key);
    // Made of the element's own randomness, so that nobody has them by chance.
    let mut storage = Storage::open(element);
    storage.with_pin(&*secrets.piv_pin).unwrap();
    storage
        .authenticate_management(&secrets.management_key)
        .unwrap();
    for number in 1..=KEYS {
        let key = storage.random(32).unwrap();
        let new = NewKey {
            reference: KeyReference::try_from(number).unwrap(),
            algorithm: SecretAlgorithm::Aes256Gcm,
            wrappable: false,
            label: "planted",
        };
        storage.import(&new, &key).unwrap();
        planted.plant(&key);
    }
    for id in 1..=OBJECTS {
        let content = storage.random(32).unwrap();
        let new = NewObject {
            id,
            read: Access::Pin,
            write: Access::Pin,
            label: "planted",
        };
        storage.create(&new, &content).unwrap();
        planted.plant(&content);
    }
    // What goes wrong tells nothing either: a PIN of the wrong length, an APDU that lies about it, the right PIN where
    // nothing is selected that knows it, one for somebody else.
    let mut wrong = vec![0x00, 0x20, 0x00, 0x80, 0x08];
    wrong.extend_from_slice(&*secrets.piv_pin);
    for apdu in [
        wrong.clone(),
        [&[0x00, 0x20, 0x00, 0x99, 0x08], &secrets.piv_pin[..]].concat(),
        [&[0x00, 0xDB, 0x3F, 0xFF, 0x20], &secrets.management_key[..]].concat(),
        [&[0xFF, 0x00, 0x00, 0x00, 0x20], &secrets.management_key[..]].concat(),
    ] {
        let (_, outcomes) = element.run_once(&Step::new(apdu).into()).unwrap();
        for outcome in outcomes.done.into_iter().flatten() {
            answers.extend(outcome.body);
        }
        answers.extend(format!("{:?}", outcomes.failed).into_bytes());
    }
}

fn look(folder: &Path, at: &mut dyn FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, at);
        } else if path.is_file() {
            at(&path, &std::fs::read(&path).unwrap());
        }
    }
}
