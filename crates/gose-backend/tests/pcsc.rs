//! Cards in readers of pcscd: software cards behind vpcd. The test starts and stops pcscd itself:
//! `GOSE_TEST_READERS` names the folder of its reader.conf, whose virtual readers listen from 35963 on.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

#[path = "support/contract.rs"]
mod card;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    process::{Child, Command},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use gose_backend::{
    pcsc::{self, Event, PcscElement, Selector, Watcher},
    vpcd::Reader,
};
use gose_card::keystore::SoftwareKeyStore;
use gose_element::{Algorithm, ElementError, SecureElement};
use gose_proto::{apdu::StatusWord, vpcd};
use gose_testkit::contract::{self, Keys, Removal, Second, Terms};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running pcscd.
struct Pcscd(Child);

impl Pcscd {
    fn start() -> Self {
        let readers = std::env::var("GOSE_TEST_READERS")
            .unwrap_or_else(|_| panic!("run this test by `cargo xtask interop pcscd`"));
        let daemon = Command::new("pcscd")
            .args(["-f", "-c", &readers])
            .spawn()
            .unwrap();
        let this = Self(daemon);
        wait("readers", || {
            pcsc::readers().is_ok_and(|readers| !readers.is_empty())
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

/// Whether the long form was asked for: `GOSE_TEST_LONG`.
fn long() -> bool {
    std::env::var_os("GOSE_TEST_LONG").is_some()
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// A software card in the virtual reader of this number.
struct Plugged {
    line: TcpStream,
    thread: Option<JoinHandle<Box<dyn SecureElement>>>,
}

impl Plugged {
    fn new(number: u16, mut element: Box<dyn SecureElement>) -> Self {
        let mut line = None;
        wait("a virtual reader", || {
            line = TcpStream::connect(("127.0.0.1", vpcd::PORT + number)).ok();
            line.is_some()
        });
        let line = line.unwrap();
        let served = line.try_clone().unwrap();
        let thread = thread::spawn(move || {
            Reader::new(element.as_mut()).unwrap().serve(served);
            element
        });
        let this = Self {
            line,
            thread: Some(thread),
        };
        wait("a card", || holds_card(number));
        this
    }

    fn pull(mut self, number: u16) -> Box<dyn SecureElement> {
        self.line.shutdown(Shutdown::Both).unwrap();
        let element = self.thread.take().unwrap().join().unwrap();
        wait("no card", || !holds_card(number));
        element
    }
}

fn reader(number: u16) -> Selector {
    Selector::name(&format!("0[0-9] {number:02}$|PCD {number:02} ")).unwrap()
}

fn holds_card(number: u16) -> bool {
    let readers = pcsc::readers().unwrap_or_default();
    readers
        .get(usize::from(number))
        .is_some_and(|reader| reader.atr.is_some())
}

fn software() -> Box<dyn SecureElement> {
    Box::new(card::card(Arc::new(SoftwareKeyStore)))
}

/// One test: all share one pcscd.
#[test]
fn cards_in_readers() {
    let pcscd = Pcscd::start();
    keeps_the_contract();
    names_of_readers();
    one_owner();
    comings_and_goings();
    bad_cards();
    pcscd_restarts(pcscd);
}

fn keeps_the_contract() {
    let mut plugged = Some(Plugged::new(0, software()));
    let mut pulled = None;
    let mut removal = |away: bool| match away {
        true => pulled = Some(plugged.take().unwrap().pull(0)),
        false => plugged = Some(Plugged::new(0, pulled.take().unwrap())),
    };
    let terms = Terms {
        name: "software, vpcd and pcscd",
        keys: Keys::Made(&[Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048]),
        operations: contract::operations(long()),
        removal: Removal::Element(&mut removal),
        second: Second::Session(&mut || Box::new(PcscElement::new(reader(0)))),
    };
    println!("{}", contract::run(&mut PcscElement::new(reader(0)), terms));
    plugged.unwrap().pull(0);
}

fn names_of_readers() {
    let plugged = Plugged::new(1, software());
    let power = |selector: Selector| {
        PcscElement::new(selector)
            .power_on()
            .map(|atr| atr.to_string())
    };
    let atr = "3B8B0180F9A00000030800001000";
    assert!(power(Selector::atr(atr).unwrap()).unwrap().starts_with(atr));
    assert_eq!(
        power(Selector::atr("3B80").unwrap()),
        Err(ElementError::Absent)
    );
    assert_eq!(
        power(Selector::name("^no such reader$").unwrap()),
        Err(ElementError::Absent)
    );
    assert_eq!(
        power(Selector::Serial("no such number".into())),
        Err(ElementError::Absent)
    );
    assert!(Selector::name("(").is_err());
    assert_eq!(
        power(reader(0)),
        Err(ElementError::Absent),
        "an empty reader"
    );
    plugged.pull(1);
}

fn one_owner() {
    let plugged = Plugged::new(0, software());
    let (mut first, mut second) = (PcscElement::new(reader(0)), PcscElement::new(reader(0)));
    first.power_on().unwrap();
    assert!(
        matches!(second.power_on(), Err(ElementError::Transport(text)) if text.contains("another program"))
    );
    first.power_off();
    second.power_on().unwrap();
    assert!(
        matches!(first.transmit(&[0, 0xA4, 4, 0]), Err(ElementError::Transport(text)) if text.contains("not powered"))
    );
    drop(second);
    first.power_on().unwrap();
    drop(first);
    plugged.pull(0);
}

fn comings_and_goings() {
    let (tell, told) = mpsc::channel();
    let watcher = Watcher::start(tell).unwrap();
    let next = |what: fn(&Event) -> bool| {
        let start = Instant::now();
        loop {
            let event = told
                .recv_timeout(PATIENCE.saturating_sub(start.elapsed()))
                .unwrap();
            if what(&event) {
                return;
            }
        }
    };
    next(|event| matches!(event, Event::ReaderAdded(_)));
    let plugged = Plugged::new(0, software());
    next(|event| matches!(event, Event::CardInserted(name, _) if name.ends_with("00")));
    plugged.pull(0);
    next(|event| matches!(event, Event::CardRemoved(_)));
    let start = Instant::now();
    drop(watcher);
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Cards that break the rules: each in bounded time an answer or an error, and a good card works after it.
fn bad_cards() {
    let outcome = |atr: &'static [u8], answer: &'static [u8]| {
        let bad = BadCard::new(atr, answer);
        let start = Instant::now();
        let mut element = PcscElement::new(reader(0));
        let outcome = element
            .power_on()
            .and_then(|_| element.transmit(&[0x00, 0xA4, 0x04, 0x00, 0x02, 0xA0, 0x00]));
        assert!(start.elapsed() < PATIENCE);
        drop(element);
        bad.gone();
        outcome
    };
    let good = &[
        0x3B, 0x8B, 0x01, 0x80, 0xF9, 0xA0, 0, 0, 3, 8, 0, 0, 0x10, 0, 0x48,
    ];
    // What is well formed comes through, however odd.
    assert_eq!(
        outcome(good, &[0, 2, 0x61, 0x05]).unwrap().sw,
        StatusWord::more(5)
    );
    assert_eq!(
        outcome(good, &[0, 2, 0x6C, 0x05]).unwrap().sw.value(),
        0x6C05
    );
    let long = outcome(good, LONG).unwrap();
    assert_eq!((long.data.len(), long.sw), (600, StatusWord::NORMAL));
    // One byte; none at all, until the card is pulled.
    for answer in [&[0, 1, 0x90][..], &[0, 0], &[]] {
        assert!(outcome(good, answer).is_err(), "{answer:02X?}");
    }
    // vpcd itself takes two bytes of a hundred for the whole answer.
    println!("cut frame: {:?}", outcome(good, &[0, 100, 0x90, 0x00]));
    // ATRs that lie: bytes that are none, and one that promises more than there is.
    for atr in [&[0xFF, 0xFF][..], &[0x3B, 0xFF, 0x13], &[0x3B]] {
        println!("ATR {atr:02X?}: {:?}", outcome(atr, &[0, 2, 0x90, 0x00]));
    }
    let plugged = Plugged::new(0, software());
    PcscElement::new(reader(0)).power_on().unwrap();
    plugged.pull(0);
}

/// 600 bytes and 9000 to a command that asks for none.
const LONG: &[u8] = &{
    let mut frame = [0x55; 604];
    (frame[0], frame[1], frame[602], frame[603]) = (2, 90, 0x90, 0x00);
    frame
};

/// A card that answers every APDU with these bytes on the line, and closes it where they are no whole frame.
struct BadCard {
    line: TcpStream,
    thread: JoinHandle<()>,
}

impl BadCard {
    fn new(atr: &'static [u8], answer: &'static [u8]) -> Self {
        let mut line = None;
        wait("a virtual reader", || {
            line = TcpStream::connect(("127.0.0.1", vpcd::PORT)).ok();
            line.is_some()
        });
        let line = line.unwrap();
        let mut served = line.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let mut frames = vpcd::Frames::default();
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = served.read(&mut buffer) {
                frames.receive(&buffer[..len]);
                while let Some(request) = frames.poll() {
                    let reply = match vpcd::Request::parse(&request) {
                        vpcd::Request::Atr => vpcd::frame(atr).unwrap(),
                        vpcd::Request::Apdu(_) => answer.to_vec(),
                        _ => continue,
                    };
                    let whole = reply.len() >= 2
                        && reply.len() == 2 + usize::from(u16::from_be_bytes([reply[0], reply[1]]));
                    let sent = served.write_all(&reply);
                    if reply.len() <= 2 {
                        // pcscd waits for more, for ever: only pulling the card frees it.
                        thread::sleep(Duration::from_secs(1));
                    }
                    if sent.is_err() || !whole || reply.len() <= 2 {
                        let _ = served.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
        });
        // pcscd looks every 400 ms; a card with a wrong ATR may never count as one.
        let start = Instant::now();
        while !holds_card(0) && start.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(20));
        }
        Self { line, thread }
    }

    fn gone(self) {
        let _ = self.line.shutdown(Shutdown::Both);
        self.thread.join().unwrap();
        wait("no card", || !holds_card(0));
        // The reader is polled once more before it counts as empty.
        thread::sleep(Duration::from_millis(500));
    }
}

/// pcscd is killed under a powered card: an error at once, and a power up later finds the new one.
fn pcscd_restarts(pcscd: Pcscd) {
    let plugged = Plugged::new(0, software());
    let mut element = PcscElement::new(reader(0));
    element.power_on().unwrap();
    let select = b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00";
    assert_eq!(element.transmit(select).unwrap().sw, StatusWord::NORMAL);
    drop(pcscd);
    let start = Instant::now();
    assert!(element.transmit(select).is_err());
    assert!(element.power_on().is_err());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let card = plugged.thread_ends();
    let _pcscd = Pcscd::start();
    let plugged = Plugged::new(0, card);
    element.power_on().unwrap();
    assert_eq!(element.transmit(select).unwrap().sw, StatusWord::NORMAL);
    drop(element);
    plugged.pull(0);
}

impl Plugged {
    /// The driver went away: the card is free again.
    fn thread_ends(mut self) -> Box<dyn SecureElement> {
        self.thread.take().unwrap().join().unwrap()
    }
}
