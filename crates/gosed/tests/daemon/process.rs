//! The daemon as a process: signals, and a conversation by hand.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use gose_testkit::pki::Authority;

use crate::world::{PATIENCE, SELECT, write_master_key};

/// `gosed run`, with the address that it listens on. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    port: String,
    log: mpsc::Receiver<String>,
}

impl Daemon {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gosed"))
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| lines.send(line))
        });
        let mut daemon = Self {
            child,
            port: String::new(),
            log,
        };
        let line = daemon.wait_for("listening");
        daemon.port = line
            .rsplit(':')
            .next()
            .unwrap()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        daemon
    }

    /// The next line of the log that holds this text.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap();
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) users: Authority,
    pub(crate) machines: Authority,
}

impl Place {
    pub(crate) fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self {
            users: Authority::new("users"),
            machines: Authority::new("machines"),
            dir,
        };
        let path = place.dir.path();
        let _ = place.users.write(path, "users");
        let _ = place.users.user("alice").write(path, "alice");
        let _ = place.machines.write(path, "machines");
        let _ = place.machines.server(&["localhost"]).write(path, "node");
        write_master_key(&path.join("master.key"));
        place.configure(more);
        place
    }

    pub(crate) fn configure(&self, more: &str) {
        let text = r#"version = 1
[listen]
address = "127.0.0.1:0"
[admin]
socket = "admin.sock"
[store]
directory = "."
master-key-file = "master.key"
[[slot]]
seid = "SE1"
kind = "software"
[[aid]]
aid = "A000000308000010000100"
allow = ["*"]
[[user]]
cn = "alice"
seid = ["*"]
[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
user-anchor-files = ["users.pem"]
"#;
        std::fs::write(self.dir.path().join("gosed.toml"), text.to_owned() + more).unwrap();
    }

    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(&self.dir.path().join("gosed.toml"))
    }

    /// `openssl s_client`, as a person would use it.
    fn s_client(&self, daemon: &Daemon) -> Typed {
        self.s_client_with(daemon, &["-alpn", "racs/0.2"])
    }

    /// The same with other options.
    pub(crate) fn s_client_with(&self, daemon: &Daemon, options: &[&str]) -> Typed {
        let mut child = Command::new("openssl")
            .current_dir(self.dir.path())
            .args(["s_client", "-quiet", "-connect"])
            .arg(format!("localhost:{}", daemon.port))
            .args([
                "-cert",
                "alice.pem",
                "-key",
                "alice.key",
                "-CAfile",
                "machines.pem",
            ])
            .arg("-verify_return_error")
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Typed {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }
}

/// A conversation typed by hand.
pub(crate) struct Typed {
    child: Child,
    pub(crate) input: ChildStdin,
    pub(crate) output: BufReader<ChildStdout>,
}

impl Typed {
    pub(crate) fn say(&mut self, lines: &str) -> String {
        self.input.write_all(lines.as_bytes()).unwrap();
        let mut response = String::new();
        while !response.ends_with("END\r\n") {
            assert_ne!(
                self.output.read_line(&mut response).unwrap(),
                0,
                "{response}"
            );
        }
        response
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_conversation_in_openssl_s_client() {
    let place = Place::new("");
    let daemon = place.start();
    let mut typed = place.s_client(&daemon);
    assert_eq!(
        typed.say("BEGIN\nLIST\nEND\n"),
        "BEGIN\r\n+004 001 SE1\r\nEND\r\n"
    );
    let response = typed.say(&format!(
        "BEGIN hello\nPOWERON SE1 APPEND\nAPDU SE1 {SELECT}\nEND\n"
    ));
    let lines: Vec<_> = response.lines().collect();
    assert_eq!((lines[0], lines.len()), ("BEGIN hello", 4));
    assert!(
        lines[1].starts_with("+008 001 ") && lines[2].starts_with("+006 002 61"),
        "{response}"
    );
    drop(typed);
    daemon.wait_for("session ended");
}

#[test]
fn signals() {
    let place = Place::new("");
    let daemon = place.start();
    let mut typed = place.s_client(&daemon);
    typed.say("BEGIN\nPOWERON SE1\nEND\n");
    // A configuration that is wrong changes nothing.
    place.configure("nonsense = 1\n");
    daemon.signal("-HUP");
    daemon.wait_for("everything stays as it was");
    let alice = place.users.user("alice");
    let _ = place.users.write_crl(&[&alice], place.dir.path(), "crl");
    place.configure("crl-files = [\"crl.pem\"]\n");
    daemon.signal("-HUP");
    daemon.wait_for("configuration reloaded");
    // The list names another certificate of alice.
    assert!(typed.say("BEGIN\nECHO a\nEND\n").contains("+009 001 a"));
    // What only a restart changes is said, setting by setting.
    place.configure("[limits]\nconnections = 7\nidle-timeout-s = 700\n");
    daemon.signal("-HUP");
    daemon.wait_for("[limits] connections was changed and needs a restart");
    daemon.signal("-TERM");
    let mut rest = String::new();
    typed.output.read_to_string(&mut rest).unwrap();
    let mut daemon = daemon;
    assert!(daemon.child.wait().unwrap().success());
    assert!(!place.dir.path().join("admin.sock").exists());
}

#[test]
fn slow_connections_hold_nothing_for_long() {
    let place = Place::new("[limits]\nhandshake-timeout-s = 1\nrequest-timeout-s = 1\n");
    let daemon = place.start();
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))
            .unwrap()
            .count()
    };
    let before = descriptors();
    let address = format!("localhost:{}", daemon.port);
    // After SYN, in the middle of a ClientHello, byte by byte.
    let mut slow: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    for (n, stream) in slow.iter_mut().enumerate().filter(|(n, _)| n % 3 != 0) {
        let hello = [
            0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03,
        ];
        stream.write_all(&hello[..1 + n % 11]).unwrap();
    }
    let mut honest = place.s_client(&daemon);
    for _ in 0..20 {
        for stream in slow.iter_mut().skip(1).step_by(3) {
            let _ = stream.write_all(&[0]);
        }
        assert!(honest.say("BEGIN\nECHO a\nEND\n").contains("+009 001 a"));
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(honest);
    let start = Instant::now();
    while descriptors() > before {
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{} descriptors, {before} before",
            descriptors()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn check_prints_the_effective_configuration() {
    let place = Place::new("danger-tls12 = true\n");
    let check = || {
        Command::new(env!("CARGO_BIN_EXE_gosed"))
            .args(["check", "--config"])
            .arg(place.dir.path().join("gosed.toml"))
            .output()
            .unwrap()
    };
    let output = check();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("idle-timeout-s = 600") && text.contains("[[slot]]"),
        "{text}"
    );
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("danger-tls12")
    );
    std::fs::set_permissions(
        place.dir.path().join("master.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("chmod 0600")
    );
}

/// The example of the project, with the files that it names beside it.
#[test]
fn check_accepts_the_example() {
    let place = Place::new("");
    let path = place.dir.path();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../gosed.example.toml");
    std::fs::copy(example, path.join("gosed.toml")).unwrap();
    let _ = place.users.write_crl(&[], path, "users.crl");
    // Any certificate stands for that of a hypervisor's authority.
    std::fs::copy(path.join("machines.pem"), path.join("hv-ca.pem")).unwrap();
    let check = || {
        Command::new(env!("CARGO_BIN_EXE_gosed"))
            .args(["check", "--config"])
            .arg(path.join("gosed.toml"))
            .output()
            .unwrap()
    };
    let output = check();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "", "no danger in the example");
    // What it prints is a configuration again, with nothing left out.
    let effective = String::from_utf8(output.stdout).unwrap();
    std::fs::write(path.join("gosed.toml"), &effective).unwrap();
    let again = check();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), effective);
    // A file that is missing is named.
    std::fs::remove_file(path.join("machines.pem")).unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("machines.pem"), "{errors}");
}

/// A demo that cannot begin says why and is a failure to the shell.
#[test]
fn a_demo_that_fails_has_an_exit_status() {
    let output = Command::new(env!("CARGO_BIN_EXE_gosed"))
        .arg("demo")
        .env("TMPDIR", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with("gosed demo: "), "{errors}");
    assert!(errors.contains("/nonexistent/gose-demo-"), "{errors}");
}

/// Where nobody looks at a terminal, every step is a plain line; the table is all of the standard output.
#[test]
fn a_demo_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gosed"))
        .args(["demo", "--rounds", "1", "--no-paper"])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    for step in [
        "phase 0: ",
        "phase 1: ",
        "phase 2: ",
        "phase 3: ",
        "isolation: ",
    ] {
        let told = errors
            .lines()
            .filter(|line| line.starts_with(&format!("gosed demo: {step}")));
        assert_eq!(told.count(), 1, "{step}: {errors}");
    }
    assert!(!errors.contains('\u{1b}'), "{errors}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("phase "), "{table}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
