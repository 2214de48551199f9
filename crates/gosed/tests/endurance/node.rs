//! The node, what the kernel says of it, and clients that write bytes.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use gose_client::tls::{Identity, RACS, client_config, load_anchors, server_name};
use gose_testkit::pki::Authority;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// SELECT of the PIV application.
pub(crate) const SELECT: &str = "00A4040009A00000030800001000";

/// A node with elements in software, for `alice`. Killed when dropped.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) child: Child,
    pub(crate) address: String,
    tls: Arc<ClientConfig>,
}

/// A session that has no parser: text goes out, text comes in.
pub(crate) struct Text(StreamOwned<ClientConnection, TcpStream>);

impl Node {
    /// With so many elements, and these limits.
    pub(crate) fn start(elements: usize, limits: &str) -> Self {
        Self::start_by(
            &mut Command::new(env!("CARGO_BIN_EXE_gosed")),
            elements,
            limits,
        )
    }

    /// The same by another command, to which `run --config …` is added.
    pub(crate) fn start_by(command: &mut Command, elements: usize, limits: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let (users, machines) = (Authority::new("users"), Authority::new("machines"));
        let _ = users.write(path, "users");
        let _ = users.user("alice").write(path, "alice");
        let _ = machines.write(path, "machines");
        let _ = machines.server(&["localhost"]).write(path, "node");
        std::fs::write(path.join("master.key"), [7; 32]).unwrap();
        std::fs::set_permissions(path.join("master.key"), PermissionsExt::from_mode(0o600))
            .unwrap();
        let slots: String = (1..=elements)
            .map(|n| format!("[[slot]]\nseid = \"SE{n}\"\nkind = \"software\"\n"))
            .collect();
        let text = format!(
            "version = 1\n[listen]\naddress = \"127.0.0.1:0\"\n[admin]\nsocket = \"admin.sock\"\n\
             [store]\ndirectory = \".\"\nmaster-key-file = \"master.key\"\n\
             [tls]\ncertificate-file = \"node.pem\"\nkey = {{ file = \"node.key\" }}\n\
             user-anchor-files = [\"users.pem\"]\n[limits]\n{limits}\n\
             [[aid]]\naid = \"A000000308000010000100\"\nallow = [\"*\"]\n\
             [[aid]]\naid = \"F0474F534553544F01\"\nallow = [\"*\"]\n\
             [[user]]\ncn = \"alice\"\nseid = [\"*\"]\nrole = \"admin\"\n{slots}"
        );
        std::fs::write(path.join("gosed.toml"), text).unwrap();
        let log = File::create(path.join("log")).unwrap();
        let child = command
            .args(["run", "--config", "gosed.toml"])
            .current_dir(path)
            .env("NO_COLOR", "1")
            .env_remove("CREDENTIALS_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let identity = Identity::load(&path.join("alice.pem"), &path.join("alice.key")).unwrap();
        let anchors = load_anchors(&path.join("machines.pem")).unwrap();
        let mut node = Self {
            tls: client_config(&identity, anchors, RACS).unwrap(),
            dir,
            child,
            address: String::new(),
        };
        let begun = Instant::now();
        while node.address.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", node.log());
            std::thread::sleep(Duration::from_millis(5));
            let log = node.log();
            if let Some((_, address)) = log.split_once("listening address=") {
                node.address = address.lines().next().unwrap().trim().to_owned();
            }
        }
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    pub(crate) fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    /// A session of alice's.
    pub(crate) fn session(&self) -> Text {
        self.session_over(self.tcp())
    }

    pub(crate) fn session_over(&self, mut tcp: TcpStream) -> Text {
        let name = server_name("localhost").unwrap();
        let mut tls = ClientConnection::new(self.tls.clone(), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).unwrap();
        }
        Text(StreamOwned::new(tls, tcp))
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.child.id()).into()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// A line of its status: `VmRSS`, `VmHWM`; bytes.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let kib = line.split_ascii_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// The most memory from now on is what there is now.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(self.proc("clear_refs"), "5").unwrap();
    }

    /// Waits until this many descriptors are open again.
    pub(crate) fn back_to(&self, descriptors: usize, within: Duration) {
        let begun = Instant::now();
        while self.descriptors() > descriptors {
            let now = self.descriptors();
            assert!(
                begun.elapsed() < within,
                "{now} descriptors, {descriptors} before"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Text {
    /// Writes; a node that has closed takes nothing.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.0
            .write_all(bytes)
            .and_then(|()| self.0.flush())
            .is_ok()
    }

    /// One response, up to its END.
    pub(crate) fn response(&mut self) -> String {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while !text.ends_with(b"\r\nEND\r\n") {
            match self.0.read(&mut piece) {
                Ok(count @ 1..) => text.extend_from_slice(&piece[..count]),
                end => panic!("{end:?} after {}", String::from_utf8_lossy(&text)),
            }
        }
        String::from_utf8(text).unwrap()
    }

    /// Status lines of one request, joined by `|`.
    pub(crate) fn ask(&mut self, lines: &[&str]) -> String {
        let request = format!("BEGIN\r\n{}\r\nEND\r\n", lines.join("\r\n"));
        assert!(self.send(request.as_bytes()), "the session is over");
        let response = self.response();
        let lines = response.strip_prefix("BEGIN\r\n").unwrap();
        lines
            .strip_suffix("\r\nEND\r\n")
            .unwrap()
            .replace("\r\n", "|")
    }

    /// Everything until the node closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut text = Vec::new();
        let _ = self.0.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The value below which so much of a hundred lies.
pub(crate) fn percentile(times: &mut [Duration], of_a_hundred: usize) -> Duration {
    times.sort();
    times[(times.len() * of_a_hundred / 100).min(times.len() - 1)]
}

/// How long each of so many honest requests takes, every one on a connection of its own.
pub(crate) fn honest(node: &Node, count: usize) -> Vec<Duration> {
    let one = || {
        let begun = Instant::now();
        assert_eq!(node.session().ask(&["ECHO a"]), "+009 001 a");
        begun.elapsed()
    };
    (0..count).map(|_| one()).collect()
}
