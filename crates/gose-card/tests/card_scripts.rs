//! Runs the card scripts of `tests/card/*.txt` on a card as it is born.
//!
//! A line is `command -> answer` in hexadecimal; blanks inside are free, `#` begins a comment. In an
//! answer `*` stands for any bytes, and `?xx` for xx (hexadecimal) bytes of any value. `reset`,
//! `power off` and `power on` are lines of their own; `disk full` and `disk free` make the host's writes
//! fail and succeed again. Random bytes of the card count up from 00 in every draw.
#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "the scripts are files")]

use std::{fs, path::Path, sync::Arc};

use gose_card::{
    Card, Hosted, Memory,
    applet::{eap_tls::EapTlsApplet, piv::PivApplet, storage::StorageApplet},
    factory,
    keystore::SoftwareKeyStore,
    nvm::Nvm,
    random::Random,
};
use gose_element::SecureElement;
use gose_proto::hex;

#[test]
fn every_script_of_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/card");
    let mut scripts: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 4, "the scripts are not where they were");
    for script in scripts {
        let text = fs::read_to_string(&script).unwrap();
        let lines = run(&mut card(), &text, &script.display().to_string());
        assert!(lines > 0, "{} tests nothing", script.display());
    }
}

fn card() -> Hosted<Memory> {
    let counting = Random::new(|bytes| {
        for (value, byte) in (0u8..=255).cycle().zip(bytes) {
            *byte = value;
        }
        Ok(())
    });
    let nvm = Nvm::replay([factory::birth([0xA5; 16])]);
    let card = Card::new(
        nvm,
        Arc::new(SoftwareKeyStore),
        vec![
            Box::new(PivApplet::new(counting.clone())),
            Box::new(EapTlsApplet::new()),
            Box::new(StorageApplet::new(counting)),
        ],
    );
    let mut card = Hosted::new(card, Memory::default());
    card.power_on().unwrap();
    card
}

fn run(card: &mut Hosted<Memory>, text: &str, name: &str) -> usize {
    let mut answers = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line {
            "" => {}
            "reset" => drop(card.reset(true).unwrap()),
            "power off" => card.power_off(),
            "power on" => drop(card.power_on().unwrap()),
            "disk full" => card.host_mut().fail = true,
            "disk free" => card.host_mut().fail = false,
            line => {
                let place = format!("{name}:{number}: {line}");
                let (command, expected) = line.split_once("->").expect(&place);
                let command = hex::decode(squeeze(command)).expect(&place);
                let answer = hex::encode(&card.transmit(&command).unwrap().encode());
                assert!(
                    matches(&squeeze(expected), &answer),
                    "{place}\n came: {answer}"
                );
                answers += 1;
            }
        }
    }
    answers
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Whether an answer has the form that a script expects.
fn matches(expected: &str, answer: &str) -> bool {
    if let Some(rest) = expected.strip_prefix('*') {
        return answer.ends_with(rest);
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
