//! `gose racs` and `gose element` against a node on loopback: what is printed, and the exit codes.
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use gose_testkit::{
    node::{self, Behaviour},
    pki::Authority,
};

struct Shell {
    dir: tempfile::TempDir,
    tls: Vec<String>,
}

impl Shell {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("root");
        let behaviour = Arc::new(Behaviour::default());
        let server = authority.server(&["localhost"]);
        let address = node::start_tls(&server, &authority, behaviour.clone());
        node::start_unix(&dir.path().join("admin.sock"), behaviour);
        let ca = authority.write(dir.path(), "ca");
        let (cert, key) = authority.user("user").write(dir.path(), "user");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let tls = vec![
            "--node".into(),
            address,
            "--server-name".into(),
            "localhost".into(),
            "--ca".into(),
            text(&ca),
            "--cert".into(),
            text(&cert),
            "--key".into(),
            text(&key),
        ];
        Self { dir, tls }
    }

    fn socket(&self) -> Vec<String> {
        let path = self.dir.path().join("admin.sock");
        vec!["--socket".into(), path.to_str().unwrap().into()]
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("transcript");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Exit code and standard output, the same over TLS and over the administrator's socket.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let mut told = [self.tls.clone(), self.socket()].into_iter().map(|node| {
            let output = gose().args(arguments).args(node).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            (output.status.code().unwrap(), text)
        });
        let first = told.next().unwrap();
        assert_eq!(told.next().unwrap(), first);
        first
    }

    fn racs(&self, text: &str) -> (i32, String) {
        self.run(&["racs", self.file(text).to_str().unwrap()])
    }
}

fn gose() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gose"));
    for name in ["GOSE_NODE", "GOSE_CERT", "GOSE_KEY", "GOSE_CA"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn transcripts() {
    let shell = Shell::new();
    let check = |text: &str, code: i32, expected: &str| {
        assert_eq!(shell.racs(text), (code, expected.to_owned()), "{text}");
    };
    // The requests of the reference client.
    check(
        "# connect\nBEGIN WINSCARD\nPOWERON SE1\nEND\n\nBEGIN WINSCARD\nAPDU SE1 0001900001AA\nEND\n",
        0,
        "BEGIN WINSCARD\n+008 001 SE1 powered on ATR=3B8B01\nEND\n\
         BEGIN WINSCARD\n+006 001 AA9000\nEND\n",
    );
    check(
        "BEGIN\nECHO a APPEND\nPOWERON busy\nEND\nBEGIN\nLIST\nEND\n",
        2,
        "BEGIN\n+009 001 a\n-708 002 in use by another session\nEND\n\
         BEGIN\n+004 001 SE1 SE2 busy\nEND\n",
    );
    check("BEGIN\nPOWERUP SE1\nEND\n", 1, "");
    check("BEGIN\nLIST\n", 1, "");
}

#[test]
fn elements() {
    let shell = Shell::new();
    let check = |arguments: &[&str], code: i32, expected: &str| {
        let (told, text) = shell.run(arguments);
        assert_eq!((told, text.as_str()), (code, expected), "{arguments:?}");
    };
    check(&["element", "list"], 0, "SE1\nSE2\nbusy\n");
    check(
        &["element", "list", "--json"],
        0,
        "[\"SE1\",\"SE2\",\"busy\"]\n",
    );
    check(
        &["element", "power", "SE1"],
        0,
        "SE1 powered on, ATR 3B8B01\n",
    );
    check(
        &["element", "power", "SE1", "--off"],
        0,
        "SE1 powered off\n",
    );
    check(&["element", "power", "busy"], 2, "");
    check(&["element", "power", "S/E"], 1, "");
    check(
        &["element", "reset", "SE1", "--warm", "--json"],
        0,
        "{\"seid\":\"SE1\",\"powered\":true,\"atr\":\"3B8B01\"}\n",
    );
    check(
        &["element", "apdu", "SE1", "0001900001AA", "00016A82"],
        0,
        "AA 9000  no further qualification\n6A82  file or application not found\n",
    );
    check(
        &[
            "element", "apdu", "--strict", "--json", "SE1", "00016A82", "00019000",
        ],
        2,
        "[{\"data\":\"\",\"sw\":\"6A82\",\"meaning\":\"file or application not found\"}]\n",
    );
    check(&["element", "apdu", "SE1", "00A4"], 1, "");
    check(&["element", "apdu", "SE1", "00040000"], 2, "");
    let (code, text) = shell.run(&["element", "info", "SE1", "--json"]);
    assert_eq!(code, 0);
    assert!(text.contains("\"node_version\":\"0.2\"") && text.contains("\"atr\":\"3B8B01\""));
}

#[test]
fn usage_and_nodes_that_are_not_there() {
    let code = |arguments: &[&str]| gose().args(arguments).output().unwrap().status.code();
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&["element", "--help"]), Some(0));
    assert_eq!(code(&[]), Some(1));
    assert_eq!(code(&["element", "sing"]), Some(1));
    assert_eq!(code(&["element", "list", "--node", "localhost:1"]), Some(1));
    assert_eq!(
        code(&["element", "list", "--socket", "/nonexistent"]),
        Some(2)
    );
    let output = gose()
        .args(["element", "list", "--json", "--socket", "/nonexistent"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("{\"error\":") && error.contains("\"exit\":2"),
        "{error}"
    );
}
