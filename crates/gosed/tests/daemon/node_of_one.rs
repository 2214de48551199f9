//! The daemon as a process, with one element in software and its operator's socket alone.

use std::{
    fs::File,
    io::Write,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gose_client::{
    Endpoint, RemoteElement,
    admin::{self, Action, Answer},
};
use gose_element::{ElementError, SecureElement};
use gose_proto::hex;

use crate::world::{PATIENCE, SELECT};

/// A folder for one node.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

/// A node that runs. Killed when dropped.
pub(crate) struct Node {
    child: Child,
    log: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One slot, `SE1`, with more in it and more after it.
    pub(crate) fn configure(&self, before: &str, in_slot: &str) {
        let text = format!(
            "version = 1\n[admin]\nsocket = \"admin.sock\"\n{before}\n[[slot]]\nseid = \"SE1\"\nkind = \"software\"\n{in_slot}"
        );
        std::fs::write(self.path("gosed.toml"), text).unwrap();
    }

    /// A store whose key is in a file.
    pub(crate) fn with_key(&self) -> &'static str {
        crate::world::write_master_key(&self.path("master.key"));
        "[store]\ndirectory = \".\"\nmaster-key-file = \"master.key\"\n"
    }

    fn spawn(&self, command: &mut Command, environment: &[(&str, &str)], stdin: &str) -> Child {
        let log = File::create(self.path("log")).unwrap();
        let mut child = command
            .current_dir(self.dir.path())
            .args(["run", "--config", "gosed.toml"])
            .env_remove("CREDENTIALS_DIRECTORY")
            .envs(environment.iter().copied())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child
    }

    /// Starts and waits until it is ready.
    pub(crate) fn start_with(&self, environment: &[(&str, &str)], stdin: &str) -> Node {
        self.start_by(
            &mut Command::new(env!("CARGO_BIN_EXE_gosed")),
            environment,
            stdin,
        )
        .unwrap_or_else(|log| panic!("the node does not come up\n{log}"))
    }

    /// Starts by a command that runs the daemon; the log where it ends or does not come up.
    pub(crate) fn start_by(
        &self,
        command: &mut Command,
        environment: &[(&str, &str)],
        stdin: &str,
    ) -> Result<Node, String> {
        let notify = self.path("notify.sock");
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut environment = environment.to_vec();
        environment.push(("NOTIFY_SOCKET", notify.to_str().unwrap()));
        let mut node = Node {
            child: self.spawn(command, &environment, stdin),
            log: self.path("log"),
        };
        let begun = Instant::now();
        let mut message = [0; 64];
        loop {
            // The socket's own time limit is the wait.
            if let Ok(length) = ready.recv(&mut message)
                && message[..length].starts_with(b"READY=1")
            {
                return Ok(node);
            }
            if node.child.try_wait().unwrap().is_some() || begun.elapsed() > PATIENCE {
                return Err(node.log());
            }
        }
    }

    /// Starts it and expects that it ends with an error: its log.
    pub(crate) fn fails_to_start(&self, environment: &[(&str, &str)], stdin: &str) -> String {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_gosed"));
        match self.start_by(command, environment, stdin) {
            Ok(_) => panic!("it starts"),
            Err(log) => log,
        }
    }

    pub(crate) fn element(&self) -> RemoteElement {
        RemoteElement::at(
            Endpoint::Unix(self.path("admin.sock")),
            "SE1".parse().unwrap(),
        )
    }

    /// The element with power; the end of a session before may still free it.
    pub(crate) fn powered(&self) -> Result<RemoteElement, ElementError> {
        let mut element = self.element();
        let begun = Instant::now();
        loop {
            match element.power_on() {
                Ok(_) => return Ok(element),
                Err(ElementError::InUse) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What the management plane answers.
    pub(crate) fn ask(&self, action: &Action) -> Answer {
        let mut link = Endpoint::Unix(self.path("admin.sock")).link().unwrap();
        admin::ask(&mut link, action).unwrap()
    }

    /// The last status word of these APDUs, after PIV was selected.
    pub(crate) fn run(&self, apdus: &[&str]) -> Result<String, ElementError> {
        let mut element = self.powered()?;
        let mut last = String::new();
        for apdu in [SELECT].iter().chain(apdus) {
            last = element
                .transmit(&hex::decode(apdu).unwrap())?
                .sw
                .to_string();
        }
        element.power_off();
        Ok(last)
    }
}

impl Node {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The answer to VERIFY without a PIN: the tries left.
    pub(crate) fn tries(&self, place: &Place) -> String {
        place
            .run(&["00200080"])
            .unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub(crate) fn guess_wrong(&self, place: &Place) {
        place.run(&["0020008008393939393939FFFF"]).unwrap();
    }

    /// SIGHUP, until it has been followed.
    pub(crate) fn reload(&self) {
        let status = Command::new("kill")
            .args(["-HUP", &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
        let begun = Instant::now();
        while !self.log().contains("configuration reloaded") {
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
