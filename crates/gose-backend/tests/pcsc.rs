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
use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{Algorithm, Atr, ElementError, SecureElement};
use gose_proto::{
    apdu::{Response, StatusWord},
    hex, vpcd,
};
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
    cards_by_their_number();
    one_owner();
    comings_and_goings();
    bad_cards();
    pcscd_restarts(pcscd);
    every_place_taken();
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
    // As in the name, where drivers put it.
    assert!(
        power(Selector::Serial("70D7E2EE".into())).is_err(),
        "the first reader is empty"
    );
    let first = Plugged::new(0, software());
    assert!(
        power(Selector::Serial("70D7E2EE".into()))
            .unwrap()
            .starts_with(atr)
    );
    first.pull(0);
    let name = &pcsc::readers().unwrap()[1].name;
    assert!(
        power(Selector::exactly(name).unwrap())
            .unwrap()
            .starts_with(atr)
    );
    assert!(Selector::name("(").is_err());
    assert_eq!(
        power(reader(0)),
        Err(ElementError::Absent),
        "an empty reader"
    );
    plugged.pull(1);
}

/// A card that has this GUID.
fn numbered(guid: u8) -> Box<dyn SecureElement> {
    let nvm = Nvm::replay([factory::birth([guid; 16])]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    Box::new(Hosted::new(card, Memory::default()))
}

/// A card with GlobalPlatform's older security domain alone, which tells its key diversification data.
struct Diversified([u8; 10]);

impl SecureElement for Diversified {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        Ok(Atr::new(&hex::decode("3B8B0180F9A0000003080000100048").unwrap()).unwrap())
    }

    fn power_off(&mut self) {}

    fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
        self.power_on()
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        let answer = match apdu {
            [0x00, 0xA4, 0x04, 0x00, 8, 0xA0, 0, 0, 0, 3, 0, 0, 0, ..] => vec![0x90, 0x00],
            [0x00, 0xA4, ..] => vec![0x6A, 0x82],
            // Key diversification data, keys and protocol, challenge, cryptogram: 28 bytes.
            [0x80, 0x50, 0x00, 0x00, 8, ..] => vec![0x61, 28],
            [0x00, 0xC0, 0x00, 0x00, 28] => {
                [&self.0[..], &[0xFF, 0x02], &[7; 16], &[0x90, 0x00]].concat()
            }
            _ => vec![0x6D, 0x00],
        };
        Ok(Response::parse(&answer).unwrap())
    }
}

/// A slot means a card, wherever it is plugged in.
fn cards_by_their_number() {
    let card = |text: &str| PcscElement::new(Selector::card(text.parse().unwrap()));
    let absent = |text: &str| card(text).power_on() == Err(ElementError::Absent);
    let (a, b) = ("0A".repeat(16), "0B".repeat(16));
    let first = Plugged::new(0, numbered(0x0A));
    let second = Plugged::new(1, numbered(0x0B));
    let told = |reader: usize| {
        let names = pcsc::readers().unwrap();
        let told = pcsc::card_serials(&names[reader].name).unwrap();
        told.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(0), [a.clone(), "0A0A0A0A".to_owned()]);
    // Each asks the other's card too, and neither is told that another program has it.
    for _ in 0..10 {
        let threads = [&a, &b].map(|number| {
            let mut element = card(number);
            thread::spawn(move || element.power_on().map(drop))
        });
        for thread in threads {
            // Whoever comes second may find the other's card in use, but not its own.
            thread.join().unwrap().unwrap();
        }
    }
    let status = b"\x00\x20\x00\x80";
    let mut element = card(&a);
    element.power_on().unwrap();
    assert_ne!(
        element.transmit(status).unwrap().sw.sw1(),
        0x63,
        "PIV is not selected"
    );
    assert!(
        matches!(card(&a).power_on(), Err(ElementError::Transport(text)) if text.contains("1 are used"))
    );
    drop(element);
    assert!(absent("0A0A0A0B") && absent(&"0C".repeat(16)) && absent(&"0A".repeat(10)));
    // The cards change places.
    let (one, other) = (first.pull(0), second.pull(1));
    let (first, second) = (Plugged::new(0, other), Plugged::new(1, one));
    for number in [a.as_str(), &b, "0A0A0A0A"] {
        let mut element = card(number);
        element.power_on().unwrap();
        let select = b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00";
        assert_eq!(element.transmit(select).unwrap().sw, StatusWord::NORMAL);
        let serial = element.transmit(b"\x00\xF8\x00\x00\x00").unwrap().data;
        assert!(number.starts_with(&hex::encode(&serial)), "{number}");
    }
    second.pull(1);
    assert!(absent(&a));
    let second = Plugged::new(1, Box::new(Diversified([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])));
    assert_eq!(told(1), ["0102030405060708090A"]);
    card("0102030405060708090A").power_on().unwrap();
    assert!(absent("0102030405060708090B"));
    first.pull(0);
    second.pull(1);
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

/// Eighteen virtual readers: pcscd has places for as many as it was built for, the others' slots hear why. Every place
/// works at the same time, and is watched.
fn every_place_taken() {
    const READERS: usize = 18;
    let config = std::env::var("GOSE_TEST_MANY_READERS").unwrap();
    let daemon = Command::new("pcscd").args(["-f", "-c", &config]).spawn();
    let _daemon = Pcscd(daemon.unwrap());
    let mut count = 0;
    wait("as many readers as there are places", || {
        let now = pcsc::readers().map_or(0, |readers| readers.len());
        let settled = now == count && now >= 16;
        count = now;
        thread::sleep(Duration::from_millis(200));
        settled
    });
    println!("{count} of {READERS} readers have places");
    let cards: Vec<TcpStream> = (0..u8::try_from(count).unwrap())
        .map(|number| {
            let line = TcpStream::connect(("127.0.0.1", vpcd::PORT + u16::from(number))).unwrap();
            let served = line.try_clone().unwrap();
            thread::spawn(move || {
                Reader::new(numbered(number).as_mut())
                    .unwrap()
                    .serve(served);
            });
            line
        })
        .collect();
    let (tell, told) = mpsc::channel();
    let watcher = Watcher::start(tell).unwrap();
    let mut inserted = 0;
    while inserted < count {
        let event = told.recv_timeout(PATIENCE).expect("an event for each card");
        inserted += usize::from(matches!(event, Event::CardInserted(..)));
    }
    let mut elements: Vec<PcscElement> = pcsc::readers()
        .unwrap()
        .iter()
        .map(|reader| PcscElement::new(Selector::exactly(&reader.name).unwrap()))
        .collect();
    for element in &mut elements {
        element.power_on().unwrap();
    }
    drop(elements);
    let last = format!("{:02X}", count - 1).repeat(16);
    let mut last = PcscElement::new(Selector::card(last.parse().unwrap()));
    last.power_on().unwrap();
    let missing = PcscElement::new(Selector::name("^Last 0. 01$").unwrap()).power_on();
    match (count, missing) {
        (READERS, missing) => drop(missing.unwrap()),
        (_, Err(ElementError::Transport(text))) => {
            assert!(
                text.contains(&format!("all its {count} places are taken")),
                "{text}"
            );
        }
        (_, other) => panic!("{other:?}"),
    }
    drop((last, watcher, cards));
}

impl Plugged {
    /// The driver went away: the card is free again.
    fn thread_ends(mut self) -> Box<dyn SecureElement> {
        self.thread.take().unwrap().join().unwrap()
    }
}
