//! The node that is killed, and its files.

use std::{
    fmt::Write as _,
    fs::File,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gose_client::{Endpoint, RemoteElement};
use gose_element::{
    ElementError, SecureElement,
    drive::provision::{Secrets, initialise},
};

use crate::Gone;

/// Elements that are written to.
const WRITTEN: [&str; 4] = ["KEYS", "OBJECTS", "TRIES", "READY"];

/// The folder of a node that has only its operator's socket.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    cards: usize,
}

/// A node that runs. Killed when dropped.
pub(crate) struct Node(Child);

impl Place {
    /// With so many further elements, which nobody writes to.
    pub(crate) fn new(cards: usize) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            cards,
        };
        let key = place.path("master.key");
        std::fs::write(&key, [7; 32]).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let mut text =
            "version = 1\n[admin]\nsocket = \"admin.sock\"\n[store]\ndirectory = \".\"\n\
                        master-key-file = \"master.key\"\n"
                .to_owned();
        for seid in place.seids() {
            write!(text, "[[slot]]\nseid = \"{seid}\"\nkind = \"software\"\n").unwrap();
        }
        std::fs::write(place.path("gosed.toml"), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn seids(&self) -> impl Iterator<Item = String> {
        let others = (0..self.cards).map(|number| format!("CARD-{number}"));
        WRITTEN.iter().map(ToString::to_string).chain(others)
    }

    /// Starts the node and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Node {
        let notify = self.path("notify.sock");
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let node = Command::new(env!("CARGO_BIN_EXE_gosed"))
            .args(["run", "--config"])
            .arg(self.path("gosed.toml"))
            .envs([
                ("NOTIFY_SOCKET", notify.as_os_str()),
                ("NO_COLOR", "1".as_ref()),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let node = Node(node);
        let mut message = [0; 64];
        let told = ready.recv(&mut message).unwrap_or_default();
        assert!(
            message[..told].starts_with(b"READY=1"),
            "the node does not come up\n{}",
            self.log()
        );
        node
    }

    /// An element with power, over a connection of its own. The end of a session before may still free it.
    pub(crate) fn element(&self, seid: &str) -> Result<RemoteElement, Gone> {
        let node = Endpoint::Unix(self.path("admin.sock"));
        let mut element = RemoteElement::at(node, seid.parse().unwrap());
        let begun = Instant::now();
        loop {
            match element.power_on() {
                Ok(_) => return Ok(element),
                Err(ElementError::InUse) if begun.elapsed() < Duration::from_secs(5) => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(ElementError::Transport(_) | ElementError::OutcomeUnknown) => return Err(Gone),
                Err(error) => panic!("{seid}: {error}\n{}", self.log()),
            }
        }
    }

    /// A new element with secrets of its own.
    pub(crate) fn initialised(&self, seid: &str) -> Secrets {
        let secrets = Secrets::random().unwrap();
        let mut element = self.element(seid).unwrap();
        initialise(&mut element, &secrets).unwrap();
        secrets
    }

    /// Uses one element.
    pub(crate) fn first_answer(&self) {
        drop(self.element("READY").unwrap());
    }

    /// Has every other element be born.
    pub(crate) fn make_cards(&self) {
        self.all_cards_open();
    }

    /// Opens every element, as a start of each does.
    pub(crate) fn all_cards_open(&self) {
        for seid in self.seids() {
            self.element(&seid).unwrap().power_off();
        }
    }

    /// No error was logged, and the folder holds one image an element and nothing else but what a compaction that
    /// was cut leaves, which the next one uses again.
    pub(crate) fn no_file_is_torn(&self) {
        let log = self.log();
        assert!(!log.contains("ERROR"), "{log}");
        let mut images = 0;
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let rest = name.strip_suffix(".new").unwrap_or(&name);
            let seid = rest.strip_suffix(".image");
            assert!(
                seid.is_none_or(|seid| self.seids().any(|own| own == seid)),
                "{name}"
            );
            images += usize::from(name.ends_with(".image"));
        }
        assert_eq!(images, self.seids().count());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Node {
    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
