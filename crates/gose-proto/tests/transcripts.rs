//! RACS conversations as text: every example and rule of the protocol, run whole, byte by byte and in
//! random pieces.
//!
//! ```text
//! == title                begins a conversation with a new session
//! E: SE1                  an element; ATR 3B8B01
//! E: SE1 00A40400 6A82    its answer to the next APDU, which must be that one (* is any)
//! E: SE1 * !mute          … or why it gives none
//! E: SE1 !in-use          why it does nothing at all
//! T: 60                   that many seconds pass
//! C: LIST                 a line of the client; \xNN is a byte, a final \ leaves the line end out
//! C*100: LIST             a hundred of them
//! S: +004 001 SE1         a line of the server; {x*9} stands for xxxxxxxxx on both sides
//! S: <close -301>         the server closes
//! ```

#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "the scripts are files")]

mod transcript_text;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    fs,
    time::Duration,
};

use gose_element::{Atr, ElementError, SecureElement, Seid};
use gose_proto::{
    apdu::Response,
    hex,
    racs::{Close, Completion, Failure, Mode, Operation, Output, Session},
};
use proptest::prelude::*;
use transcript_text::{expand, line};

/// One conversation: what happens, in order, and what the server must have said by then.
#[derive(Default, Clone)]
struct Conversation {
    title: String,
    elements: BTreeMap<Seid, Scripted>,
    events: Vec<Event>,
}

#[derive(Clone)]
enum Event {
    Send(Vec<u8>),
    Pass(u64),
    Expect(String),
}

#[derive(Default, Clone)]
struct Scripted {
    answers: VecDeque<(String, String)>,
    refusal: Option<Failure>,
    powered: bool,
}

fn failure(name: &str) -> Failure {
    match name {
        "!unauthorised" => Failure::Unauthorised,
        "!forbidden" => Failure::Forbidden,
        "!in-use" => Failure::InUse,
        "!absent" => Failure::Absent,
        "!mute" => Failure::Mute,
        "!timeout" => Failure::Timeout,
        "!transport" => Failure::Transport,
        "!outcome-unknown" => Failure::OutcomeUnknown,
        "!too-long" => Failure::AnswerTooLong,
        "!unsupported" => Failure::Unsupported,
        "!illegal" => Failure::Illegal,
        "!internal" => Failure::Internal,
        other => panic!("unknown failure {other}"),
    }
}

impl SecureElement for Scripted {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.powered = true;
        Ok(Atr::new(&[0x3B, 0x8B, 0x01]).unwrap())
    }

    fn power_off(&mut self) {
        self.powered = false;
    }

    fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
        self.power_on()
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        let (expected, answer) = self.answers.pop_front().ok_or(ElementError::Mute)?;
        if expected != "*" {
            assert_eq!(hex::encode(apdu), expand(&expected));
        }
        if answer.starts_with('!') {
            return Err(failure(&answer).into());
        }
        Ok(Response::parse(&hex::decode(expand(&answer)).unwrap()).unwrap())
    }
}

impl Conversation {
    fn run(&mut self, operation: Operation) -> Completion {
        let seid = match &operation {
            Operation::List => {
                let allowed = |element: &Scripted| element.refusal != Some(Failure::Unauthorised);
                let seids = self.elements.iter();
                return Completion::Seids(
                    seids.filter(|(_, e)| allowed(e)).map(|(s, _)| *s).collect(),
                );
            }
            Operation::PowerOn { seid }
            | Operation::Reset { seid, .. }
            | Operation::Apdus { seid, .. }
            | Operation::Shutdown { seid } => *seid,
        };
        let Some(element) = self.elements.get_mut(&seid) else {
            return Completion::Failed(Failure::Unauthorised);
        };
        if let Some(refusal) = element.refusal {
            return Completion::Failed(refusal);
        }
        let atr = Some(vec![0x3B, 0x8B, 0x01]);
        match operation {
            Operation::List => unreachable!("answered above"),
            Operation::PowerOn { .. } => Completion::PoweredOn {
                atr,
                already: std::mem::replace(&mut element.powered, true),
            },
            Operation::Reset { .. } => Completion::Reset { atr },
            Operation::Apdus { script, .. } => element.run(&script).into(),
            Operation::Shutdown { .. } => {
                element.power_off();
                Completion::Shutdown
            }
        }
    }

    /// Plays the conversation; `pieces` cuts what is sent.
    fn play(mut self, mode: Mode, pieces: &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>) {
        let mut session = Session::new(mode);
        let mut said = String::new();
        let mut now = Duration::ZERO;
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    session.expire(now);
                    self.poll(&mut session, &mut said);
                }
                Event::Send(bytes) => {
                    for piece in pieces(&bytes) {
                        session.expire(now);
                        session.receive(&piece);
                        self.poll(&mut session, &mut said);
                        session.expire(now);
                    }
                }
                Event::Expect(expected) => {
                    assert_eq!(shorten(&said), shorten(&expected), "in: {}", self.title);
                    assert_eq!(said, expected, "in: {}", self.title);
                    said.clear();
                }
            }
        }
        assert_eq!(said, "", "more than expected in: {}", self.title);
    }

    fn poll(&mut self, session: &mut Session, said: &mut String) {
        loop {
            match session.poll() {
                Some(Output::Run(operation)) => {
                    let completion = self.run(operation);
                    session.complete(completion);
                }
                Some(Output::Send(bytes)) => said.push_str(std::str::from_utf8(bytes).unwrap()),
                Some(Output::Close(reason)) => {
                    match reason {
                        Close::Fatal(code) => writeln!(said, "<close {code}>\r"),
                        Close::Idle => writeln!(said, "<close idle>\r"),
                        Close::Unfinished => writeln!(said, "<close unfinished>\r"),
                    }
                    .unwrap();
                }
                None => return,
            }
        }
    }
}

/// Long lines with their middle left out, for messages.
fn shorten(text: &str) -> String {
    let short = |line: &str| match line.len() {
        0..200 => line.to_owned(),
        n => format!("{}…({n})…{}", &line[..60], &line[n - 60..]),
    };
    text.lines().map(short).collect::<Vec<_>>().join("\n")
}

fn read(text: &str) -> Vec<Conversation> {
    let mut conversations: Vec<Conversation> = Vec::new();
    for row in text.lines() {
        if row.is_empty() || row.starts_with('#') {
            continue;
        }
        if let Some(title) = row.strip_prefix("== ") {
            conversations.push(Conversation {
                title: title.to_owned(),
                ..Conversation::default()
            });
            continue;
        }
        let conversation = conversations.last_mut().expect("a title first");
        let (kind, rest) = row.split_once(':').expect("KIND: …");
        conversation.add(kind, rest.strip_prefix(' ').unwrap_or(rest));
    }
    conversations
}

impl Conversation {
    fn add(&mut self, kind: &str, rest: &str) {
        match kind {
            "E" => self.element(rest),
            "T" => self
                .events
                .push(Event::Pass(rest.parse().expect("seconds"))),
            "S" => {
                let said = expand(rest) + "\r\n";
                match self.events.last_mut() {
                    Some(Event::Expect(expected)) => expected.push_str(&said),
                    _ => self.events.push(Event::Expect(said)),
                }
            }
            _ => {
                let times = kind.strip_prefix('C').expect("C, E, S or T");
                let times = times
                    .strip_prefix('*')
                    .map_or(1, |n| n.parse().expect("times"));
                let bytes = line(rest).repeat(times);
                match self.events.last_mut() {
                    Some(Event::Send(sent)) => sent.extend(bytes),
                    _ => self.events.push(Event::Send(bytes)),
                }
            }
        }
    }

    fn element(&mut self, rest: &str) {
        let words: Vec<&str> = rest.split(' ').collect();
        let element = self
            .elements
            .entry(words[0].parse().expect("a SEID"))
            .or_default();
        match words[1..] {
            [] => {}
            [refusal] => element.refusal = Some(failure(refusal)),
            [apdu, answer] => element.answers.push_back((apdu.into(), answer.into())),
            _ => panic!("E: {rest}"),
        }
    }
}

fn files() -> Vec<(String, Vec<Conversation>)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/racs");
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read_file = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (
            path.file_name().unwrap().to_string_lossy().into(),
            read(&text),
        )
    };
    files.into_iter().map(read_file).collect()
}

fn play_all(mode: Mode, pieces: &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>) {
    let files = files();
    assert!(files.len() >= 8, "{} files", files.len());
    for (name, conversations) in files {
        assert!(!conversations.is_empty(), "{name}");
        for mut conversation in conversations {
            conversation.title = format!("{name}: {}", conversation.title);
            conversation.play(mode, pieces);
        }
    }
}

#[test]
fn whole() {
    play_all(Mode::Direct, &mut |bytes| vec![bytes.to_vec()]);
}

#[test]
fn gathered_as_a_relay_does() {
    play_all(Mode::Gather, &mut |bytes| vec![bytes.to_vec()]);
}

#[test]
fn byte_by_byte() {
    play_all(Mode::Direct, &mut |bytes| {
        bytes.iter().map(|&byte| vec![byte]).collect()
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn in_random_pieces(sizes in proptest::collection::vec(1usize..200, 1..40), gather: bool) {
        let mut sizes = sizes.into_iter().cycle();
        let mode = if gather { Mode::Gather } else { Mode::Direct };
        play_all(mode, &mut |mut bytes| {
            let mut pieces = Vec::new();
            while !bytes.is_empty() {
                // Long lines are not cut finely: the point is where lines are cut.
                let size = if bytes.len() > 20_000 { 4096 } else { 0 };
                let size = (size + sizes.next().unwrap_or(1)).min(bytes.len());
                pieces.push(bytes[..size].to_vec());
                bytes = &bytes[size..];
            }
            pieces
        });
    }
}

/// Row A2 of the reliability plan: five hundred command lines, every status class, each told as the
/// protocol says.
#[test]
fn five_hundred_lines_touch_every_class() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/racs/classes.txt");
    let text = fs::read_to_string(dir).unwrap();
    let commands = text.lines().filter(|row| row.starts_with("C: "));
    assert!(commands.count() >= 500);
    for class in [
        "+0", "-0", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9",
    ] {
        assert!(text.contains(&format!("S: {class}")), "class {class}");
    }
}
