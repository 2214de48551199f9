//! A daemon whose elements sit in readers of pcscd, under load, while one of them fails in every way, and while
//! pcscd itself is killed. The test starts pcscd: `GOSE_TEST_READERS` names the folder of its reader.conf, whose four
//! virtual readers listen from 35963 on. `GOSE_TEST_LONG` asks for the long form.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

mod card;
mod load;

use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use card::{Behaviour, Card};
use gose_backend::pcsc::{self, PcscElement, Selector};
use gose_element::SecureElement;
use load::{Client, Span};

const READERS: u16 = 4;

/// The number of the card in the last reader: its slot names it alone, and is called by it.
const CARD: &str = "03030303030303030303030303030303";

/// One test: all share one pcscd.
#[test]
fn a_reader_that_fails_disturbs_nobody() {
    let long = std::env::var_os("GOSE_TEST_LONG").is_some();
    let pcscd = Pcscd::start();
    let cards: Vec<Card> = (0..READERS).map(Card::insert).collect();
    wait("cards", Duration::from_secs(20), || {
        pcsc::readers().is_ok_and(|readers| {
            readers.iter().filter(|reader| reader.atr.is_some()).count() == usize::from(READERS)
        })
    });
    let node = Node::start();
    let trial = Trial {
        victim: Client::start(node.socket(), "R0"),
        others: ["R1", "R2", CARD, "soft"].map(|seid| Client::start(node.socket(), seid)),
        card: &cards[0],
        long,
    };
    wait("everybody at work", Duration::from_secs(20), || {
        trial.victim.answers() > 0 && trial.others.iter().all(|client| client.answers() > 0)
    });
    println!(
        "fault                   errors there  elsewhere   p99 before  under it   ratio      back"
    );
    trial.faults();
    pcscd_is_killed(pcscd, &trial, node);
}

/// The element that fails, and those that must not notice.
struct Trial<'a> {
    victim: Client,
    others: [Client; 4],
    card: &'a Card,
    long: bool,
}

impl Trial<'_> {
    fn faults(&self) {
        let mute = Duration::from_secs(if self.long { 60 } else { 4 });
        let short = Duration::from_secs(if self.long { 10 } else { 2 });
        for (name, behaviour, span) in [
            ("removed", Behaviour::Removed, short),
            ("mute", Behaviour::Mute, mute),
            ("ten times slower", Behaviour::Slow, short),
            ("ATR that is none", Behaviour::Atr(&[0xFF, 0xFF]), short),
            ("ATR cut short", Behaviour::Atr(&[0x3B, 0xFF, 0x13]), short),
            ("answer of no byte", Behaviour::Answer(&[0, 0]), short),
            (
                "answer of one byte",
                Behaviour::Answer(&[0, 1, 0x90]),
                short,
            ),
            ("answer of 65 KB", Behaviour::Answer(GREAT), short),
            (
                "endless 61xx",
                Behaviour::Answer(&[0, 2, 0x61, 0x05]),
                short,
            ),
            (
                "endless 6Cxx",
                Behaviour::Answer(&[0, 2, 0x6C, 0x05]),
                short,
            ),
            (
                "answer, then nothing",
                Behaviour::Answer(&[0, 100, 0x90]),
                short,
            ),
        ] {
            self.fault(
                name,
                span,
                || self.card.behave(behaviour),
                || {
                    self.card.behave(Behaviour::Good);
                },
            );
        }
        // Another program has the card, resets it, and gives it back.
        let mut other = PcscElement::new(Selector::name("^First 00 00").unwrap());
        let other = std::cell::RefCell::new(&mut other);
        self.fault(
            "another program's",
            short,
            || {
                self.victim.pause(true);
                wait("the card", Duration::from_secs(5), || {
                    other.borrow_mut().power_on().is_ok()
                });
                other.borrow_mut().reset(true).unwrap();
                self.victim.pause(false);
            },
            || other.borrow_mut().power_off(),
        );
    }

    /// One fault: errors on its element alone, the others as fast as before, and an answer soon after it ends.
    fn fault(&self, name: &str, span: Duration, begin: impl FnOnce(), end: impl FnOnce()) {
        let before = self.measure(span);
        let failed_before = self.victim.failures();
        begin();
        let under = self.measure(span);
        let failed = self.victim.failures() - failed_before;
        let error = match failed {
            0 => String::new(),
            _ => self.victim.last_error(),
        };
        end();
        let start = Instant::now();
        let answered = self.victim.answers();
        wait(
            &format!("{name} ({error}, then {})", self.victim.last_error()),
            Duration::from_secs(20),
            || self.victim.answers() > answered,
        );
        let back = start.elapsed();
        let elsewhere = before.failures + under.failures;
        let ratio = under.p99().as_secs_f64() / before.p99().as_secs_f64();
        println!(
            "{name:24}{failed:12}{elsewhere:11}{:9} us{:9} us{ratio:8.2}{:7} ms  {error}",
            before.p99().as_micros(),
            under.p99().as_micros(),
            back.as_millis()
        );
        assert_eq!(elsewhere, 0, "{name}: errors elsewhere");
        assert!(
            back <= Duration::from_secs(2),
            "{name}: back after {back:?}"
        );
        // A machine with other work has no steady p99: the long form runs alone.
        let bound = if self.long { 1.2 } else { 10.0 };
        assert!(ratio <= bound, "{name}: p99 {ratio:.2} times what it was");
    }

    fn measure(&self, span: Duration) -> Span {
        self.others.iter().for_each(|client| drop(client.take()));
        std::thread::sleep(span);
        self.others.iter().map(Client::take).sum()
    }
}

/// An answer of 65,533 bytes and 9000.
const GREAT: &[u8] = &{
    let mut frame = [0x55; 2 + 65_535];
    (frame[0], frame[1]) = (0xFF, 0xFF);
    (frame[65_535], frame[65_536]) = (0x90, 0x00);
    frame
};

/// pcscd is killed under load and started again: every reader is back, and the daemon is the same.
fn pcscd_is_killed(pcscd: Pcscd, trial: &Trial<'_>, mut node: Node) {
    let soft = &trial.others[3];
    drop(soft.take());
    let mut pcscd = Some(pcscd);
    for round in 0..if trial.long { 10 } else { 2 } {
        drop(pcscd.take());
        std::thread::sleep(Duration::from_millis(500));
        pcscd = Some(Pcscd::start());
        let start = Instant::now();
        for client in [&trial.victim].into_iter().chain(&trial.others) {
            let answered = client.answers();
            wait("a reader", Duration::from_secs(20), || {
                client.answers() > answered
            });
        }
        let back = start.elapsed();
        println!(
            "pcscd killed, round {round}: all readers back after {} ms",
            back.as_millis()
        );
        assert!(back <= Duration::from_secs(5), "{back:?}");
    }
    let span = soft.take();
    assert_eq!(span.failures, 0, "elements elsewhere go on");
    println!(
        "software element meanwhile: {} answers, p99 {} us",
        span.answers(),
        span.p99().as_micros()
    );
    assert!(node.daemon.try_wait().unwrap().is_none(), "the same daemon");
}

/// A running pcscd.
struct Pcscd(Child);

impl Pcscd {
    fn start() -> Self {
        let readers = std::env::var("GOSE_TEST_READERS")
            .unwrap_or_else(|_| panic!("run this test by `cargo xtask interop readers`"));
        let daemon = Command::new("pcscd").args(["-f", "-c", &readers]).spawn();
        let this = Self(daemon.unwrap());
        wait("readers", Duration::from_secs(20), || {
            pcsc::readers().is_ok_and(|readers| readers.len() == usize::from(READERS))
        });
        this
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        // What a killed pcscd leaves keeps the next one from starting.
        for left in ["/run/pcscd/pcscd.comm", "/run/pcscd/pcscd.pid"] {
            let _ = std::fs::remove_file(left);
        }
    }
}

/// A running gosed.
struct Node {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.path().join("master.key"));
        std::io::Write::write_all(&mut key.unwrap(), &[7; 32]).unwrap();
        std::fs::write(dir.path().join("gosed.toml"), configuration()).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_gosed"))
            .args(["run", "--config"])
            .arg(dir.path().join("gosed.toml"))
            .env("RUST_LOG", "warn")
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn();
        let this = Self {
            daemon: daemon.unwrap(),
            dir,
        };
        wait("gosed", Duration::from_secs(20), || exists(&this.socket()));
        this
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log"));
            eprintln!("{}", log.unwrap_or_default());
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn configuration() -> String {
    let readers = ["First 0. 00", "First 0. 01", "Second 0. 00"];
    let slots = readers.iter().enumerate().map(|(number, name)| {
        format!("[[slot]]\nseid = \"R{number}\"\nkind = \"pcsc\"\nreader = \"^{name}\"\n")
    });
    format!(
        "version = 1\n[admin]\nsocket = \"admin.sock\"\n[limits]\napdu-timeout-s = 2\n[store]\ndirectory = \".\"\n\
         master-key-file = \"master.key\"\n[[slot]]\nseid = \"soft\"\nkind = \"software\"\n{}[[slot]]\nkind = \"pcsc\"\ncard = \"{CARD}\"\n",
        slots.collect::<String>()
    )
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}

fn wait(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(
            start.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
