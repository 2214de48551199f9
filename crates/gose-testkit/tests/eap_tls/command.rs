//! Runs the transcripts of `command/*.txt`: every command of the table on a card that has identities.
//!
//! Two cards: `peer` (identity `peer`, EAP-ID `@gose.test`) and `authenticator`. A line is `command -> answer`
//! in hexadecimal, to the card that the last line `card NAME` named (`peer` at first); blanks inside are free,
//! `#` begins a comment. In an answer `*` stands for any bytes, `?xx` for xx (hexadecimal) bytes of any value,
//! `$NAME;` for bytes that `let NAME` kept, in commands too; `$TIME;` is the time of the tests. Further lines:
//!
//! - `open`: SELECT, the bearer's PIN, Set-Identity of the card's identity, Reset-State
//! - `operator`: SELECT, the operator's PIN
//! - `policy HEX`: the identity is written anew with these policy fields behind its own
//! - `authenticate`: both cards are opened, and a conversation runs to EAP-Success
//! - `let NAME COMMAND`: keeps the answer of a command without its status word, long answers too
//! - `halves NAME`: keeps its halves as `$NAME1;` and `$NAME2;`
//! - `reset`: the card is reset
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, fs, path::Path};

use gose_element::{
    SecureElement, Step, announced,
    drive::eap_tls::{AID, personalisation::Operator, scripts},
};
use gose_proto::{apdu::tlv, eap::records, hex};
use gose_testkit::world::{Element, NOW, OPERATOR_PIN, Options, World};

#[test]
fn every_transcript_of_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eap_tls/command");
    let mut transcripts: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    transcripts.sort();
    assert!(
        transcripts.len() >= 10,
        "the transcripts are not where they were"
    );
    let mut faults = Vec::new();
    for path in transcripts {
        let text = fs::read_to_string(&path).unwrap();
        let mut cards = Cards::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let place = format!("{}:{number}: {line}", path.display());
            cards.line(line, &place);
        }
        assert!(cards.answers > 0, "{} tests nothing", path.display());
        faults.extend(cards.faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Get-Profile-Data as BER: EAP-ID, EAP type, version, own chain, anchors (annex 4 of the draft).
#[test]
fn the_profile_is_what_was_written() {
    let mut cards = Cards::new();
    cards.line("open", "");
    cards.line("let PROFILE A01A0000", "");
    let profile = hex::decode(&cards.kept["PROFILE"]).unwrap();
    let identity = &cards.world.peer_identity;
    let fields = tlv::find(&profile, 0x30).unwrap();
    let fields: Vec<_> = tlv::Reader::new(fields).map(Result::unwrap).collect();
    let [eap_id, eap_type, version, credentials] = &fields[..] else {
        panic!("{} fields", fields.len());
    };
    assert_eq!(eap_id.value, identity.eap_id.as_bytes());
    assert_eq!((eap_type.value, version.value), (&[13][..], &[1][..]));
    let found = |tag| tlv::find(credentials.value, tag).unwrap();
    assert_eq!(found(0xA1), identity.chain.concat());
    assert_eq!(found(0xA2), identity.anchors.concat());
}

struct Cards {
    world: World,
    authenticator: bool,
    kept: HashMap<String, String>,
    answers: usize,
    faults: Vec<String>,
}

impl Cards {
    fn new() -> Self {
        Self {
            world: World::new(&Options::default().version(0x0304)),
            authenticator: false,
            kept: [("TIME".into(), format!("{NOW:08X}"))].into(),
            answers: 0,
            faults: Vec::new(),
        }
    }

    fn card(&mut self) -> &mut Element {
        if self.authenticator {
            &mut self.world.authenticator
        } else {
            &mut self.world.peer
        }
    }

    fn line(&mut self, line: &str, place: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            "card" => self.authenticator = rest == "authenticator",
            "reset" => drop(self.card().reset(true).unwrap()),
            "open" => {
                let label = if self.authenticator {
                    "authenticator"
                } else {
                    "peer"
                };
                let opening = scripts::Opening::new(gose_testkit::world::PIN, label);
                let outcomes = self.card().run(&scripts::open(&opening));
                assert!(outcomes.complete(4), "{place}: {outcomes:?}");
            }
            "operator" => {
                Operator::open(self.card(), &AID, OPERATOR_PIN).unwrap();
            }
            "policy" => self.policy(&hex::decode(squeeze(rest)).expect(place)),
            "authenticate" => {
                let (ended, ()) = self.world.converse(|_, _| ()).unwrap();
                assert_eq!(ended.states, [3, 3], "{place}");
            }
            "halves" => {
                let whole = self.kept[rest].clone();
                let (first, second) = whole.split_at(whole.len() / 2);
                self.kept.insert(format!("{rest}1"), first.into());
                self.kept.insert(format!("{rest}2"), second.into());
            }
            "let" => {
                let (name, command) = rest.split_once(' ').expect(place);
                let command = hex::decode(self.fill(command)).expect(place);
                let step = Step::new(command).collect(scripts::FETCH).expect_normal();
                let outcomes = announced::collect(self.card(), &step.into());
                assert!(outcomes.complete(1), "{place}: {outcomes:?}");
                let body = hex::encode(&outcomes.last().unwrap().body);
                self.kept.insert(name.into(), body);
            }
            _ => {
                let (command, expected) = line.split_once("->").expect(place);
                let command = hex::decode(self.fill(command)).expect(place);
                let expected = self.fill(expected);
                let answer = self.card().transmit(&command).unwrap();
                let answer = hex::encode(&answer.encode());
                if !matches(&expected, &answer) {
                    self.faults.push(format!("{place}\n came: {answer}"));
                }
                self.answers += 1;
            }
        }
    }

    /// The policy's encoding is the drive's own; fields that it does not know how to write come behind.
    fn policy(&mut self, fields: &[u8]) {
        let identity = if self.authenticator {
            &mut self.world.authenticator_identity
        } else {
            &mut self.world.peer_identity
        };
        let all = [identity.policy.encode(), fields.to_vec()].concat();
        identity.policy = records::Policy::parse(&all).unwrap();
        let identity = if self.authenticator {
            &self.world.authenticator_identity
        } else {
            &self.world.peer_identity
        };
        let element = if self.authenticator {
            &mut self.world.authenticator
        } else {
            &mut self.world.peer
        };
        let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
        operator.add_identity(identity).unwrap();
    }

    fn fill(&self, text: &str) -> String {
        let mut text = squeeze(text);
        for (name, value) in &self.kept {
            text = text.replace(&format!("${name};"), value);
        }
        text
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Whether an answer has the form that a transcript expects.
fn matches(expected: &str, answer: &str) -> bool {
    if let Some(rest) = expected.strip_prefix('*') {
        return (0..=answer.len())
            .step_by(2)
            .any(|at| matches(rest, &answer[at..]));
    }
    if let Some(rest) = expected.strip_prefix('?') {
        let (count, rest) = rest.split_at(2);
        let skip = 2 * usize::from_str_radix(count, 16).unwrap();
        return answer
            .get(skip..)
            .is_some_and(|answer| matches(rest, answer));
    }
    match (expected.chars().next(), answer.chars().next()) {
        (None, None) => true,
        (Some(e), Some(a)) if e == a => matches(&expected[1..], &answer[1..]),
        _ => false,
    }
}
