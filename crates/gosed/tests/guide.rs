//! The guide does what it says: every command of it is run as written, in an empty folder, and its output compared.
//!
//! Lines with `$` are commands, lines with `>` go on with them, the others are output; `…` stands for anything in
//! a line, and alone in a line for any lines. After `openssl s_client` requests and answers take turns.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// What the reader does before the first folder is made, and cargo did for this test.
const BUILD: [&str; 2] = ["cargo build ", "export PATH="];

/// A command and what it prints.
struct Step {
    command: String,
    output: Vec<String>,
}

#[test]
fn the_first_grid() {
    follow("first-grid");
}

#[test]
fn keys_and_data() {
    follow("storage");
}

/// Runs a guide in a folder of its own.
fn follow(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guide = std::fs::read_to_string(root.join(format!("docs/guide/{name}.md"))).unwrap();
    // Somebody else may listen on the port of the guide.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let steps = steps(&guide.replace("7777", &port));
    assert!(steps.len() > 20, "{} commands", steps.len());
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Shell::new(dir.path());
    for step in &steps {
        if BUILD.iter().any(|build| step.command.starts_with(build)) {
            continue;
        }
        if step.command.starts_with("openssl s_client") {
            converse(dir.path(), step);
            all_sessions_ended(dir.path());
            continue;
        }
        let (output, status) = shell.run(&step.command);
        let expected: Vec<&str> = step.output.iter().map(String::as_str).collect();
        let got: Vec<&str> = output.iter().map(String::as_str).collect();
        assert!(
            status == "0" && same(&expected, &got),
            "$ {}\n{}\nstatus {status}, expected:\n{}\n{}",
            step.command,
            output.join("\n"),
            step.output.join("\n"),
            std::fs::read_to_string(dir.path().join("gosed.log")).unwrap_or_default()
        );
        if step.command.ends_with('&') {
            comes_up(dir.path());
        }
    }
}

/// The commands of the guide's console blocks.
fn steps(guide: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (false, _) => {}
            (true, _) => match (line.strip_prefix("$ "), line.strip_prefix("> ")) {
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                (None, Some(more)) => {
                    let step = steps.last_mut().unwrap();
                    step.command += "\n";
                    step.command += more;
                }
                (None, None) => steps.last_mut().unwrap().output.push(line.to_owned()),
            },
        }
    }
    steps
}

/// Whether lines are as they should be.
fn same(expected: &[&str], got: &[&str]) -> bool {
    match (expected, got) {
        (["…", rest @ ..], _) => (0..=got.len()).any(|skip| same(rest, &got[skip..])),
        ([first, rest @ ..], [line, more @ ..]) => {
            let fits = match first.split_once('…') {
                Some((beginning, end)) => line
                    .strip_prefix(beginning)
                    .is_some_and(|rest| rest.ends_with(end)),
                None => first == line,
            };
            fits && same(rest, more)
        }
        (expected, got) => expected.is_empty() && got.is_empty(),
    }
}

#[test]
fn what_is_the_same() {
    let check = |expected: &[&str], got: &[&str], is: bool| {
        assert_eq!(same(expected, got), is, "{expected:?} {got:?}");
    };
    check(&[], &[], true);
    check(&[], &["a"], false);
    check(&["a"], &[], false);
    check(&["a", "b"], &["a", "b"], true);
    check(&["a", "b"], &["a", "c"], false);
    check(&["a …"], &["a b"], true);
    check(&["… b"], &["a b"], true);
    check(&["a … b"], &["a c"], false);
    check(&["a", "…", "d"], &["a", "b", "c", "d"], true);
    check(&["a", "…", "d"], &["a", "b", "c"], false);
}

/// Waits until a node serves its operator, as a person would without knowing.
fn comes_up(folder: &Path) {
    let begun = Instant::now();
    let config = std::fs::read_to_string(folder.join("gosed.toml")).unwrap();
    // The admin socket is there before the port, so that a key in an element can be made.
    let listens = || {
        let log = std::fs::read_to_string(folder.join("gosed.log")).unwrap_or_default();
        !config.contains("[listen]") || log.contains("listening ")
    };
    while UnixStream::connect(folder.join("admin.sock")).is_err() || !listens() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "the node does not come up\n{}",
            std::fs::read_to_string(folder.join("gosed.log")).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the node has noticed that the client is gone: a person's next command comes later than that.
fn all_sessions_ended(folder: &Path) {
    let begun = Instant::now();
    loop {
        let log = std::fs::read_to_string(folder.join("gosed.log")).unwrap();
        let (begins, ends) = ("session begins", "session ended");
        if log.matches(begins).count() == log.matches(ends).count() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{log}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Types requests into `openssl s_client` and compares the answers.
fn converse(folder: &Path, step: &Step) {
    let mut client = Command::new("sh")
        .args(["-c", &format!("exec {}", step.command)])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut typed = true;
    let mut answers = 0;
    let blocks = step.output.split_inclusive(|line| line == "END");
    for block in blocks {
        if typed {
            input
                .write_all((block.join("\n") + "\n").as_bytes())
                .unwrap();
        } else {
            let got: Vec<String> = lines
                .by_ref()
                .take(block.len())
                .map(Result::unwrap)
                .collect();
            let got: Vec<&str> = got.iter().map(|line| line.trim_end()).collect();
            let expected: Vec<&str> = block.iter().map(String::as_str).collect();
            assert!(same(&expected, &got), "{got:?}, expected {expected:?}");
            answers += 1;
        }
        typed = !typed;
    }
    assert!(typed && answers > 1, "requests and answers take turns");
    let _ = client.kill();
    let _ = client.wait();
}

/// A shell in a folder, with the programs that were built first in its path.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Ends the output of a command.
const MARK: &str = "=-=-= status ";

impl Shell {
    fn new(folder: &Path) -> Self {
        let mut path = programs().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(folder)
            .env("PATH", path)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        input.write_all(b"exec 2>&1\n").unwrap();
        Self {
            child,
            input,
            output,
        }
    }

    /// Runs a command; gives the lines that it printed, and its exit status.
    fn run(&mut self, command: &str) -> (Vec<String>, String) {
        let text = format!("{command}\necho '{MARK}'$?\n");
        self.input.write_all(text.as_bytes()).unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the shell ended at {command}");
            let line = line.trim_end();
            match line.strip_prefix(MARK) {
                Some(status) => return (lines, status.to_owned()),
                None => lines.push(line.to_owned()),
            }
        }
    }
}

/// Nodes that a command left running end too.
impl Drop for Shell {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The folder of `gosed` and `gose`. Whoever tests this package alone has `gose` built here.
fn programs() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_gosed")).parent().unwrap();
    if !folder.join("gose").exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--package", "gose"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
    }
    folder.to_owned()
}
