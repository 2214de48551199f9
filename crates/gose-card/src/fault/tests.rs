use std::time::Duration;

use gose_element::{Script, Step, element::run_step};
use gose_proto::hex;

use super::*;
use crate::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm, timing::Profile};

const SELECT: &str = "00A4040009A00000030800001000";
const VERIFY: &str = "0020008008313233343536FFFF";
const WRONG: &str = "0020008008393939393939FFFF";
/// Tries left, or 9000 where the PIN is verified.
const TRIES: &str = "00200080";

struct Line {
    card: Faulty<Hosted<Memory>>,
    faults: Arc<Faults>,
}

fn line(plans: &[&str]) -> Line {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let memory = Memory {
        profile: Profile::named("j3r180"),
        ..Memory::default()
    };
    let card = Hosted::new(factory::new_card(nvm, Arc::new(SoftwareKeyStore)), memory);
    let plans: Vec<Plan> = plans.iter().map(|text| text.parse().unwrap()).collect();
    let faults = Arc::new(Faults::new(&plans));
    let mut card = Faulty::new(card, faults.clone());
    card.power_on().unwrap();
    Line { card, faults }
}

impl Line {
    /// The status word, or the error's first words.
    fn ask(&mut self, apdu: &str) -> String {
        match self.card.transmit(&hex::decode(apdu).unwrap()) {
            Ok(response) => response.sw.to_string(),
            Err(error) => error.to_string().chars().take(14).collect(),
        }
    }

    fn check(&mut self, dialogue: &[(&str, &str)]) {
        for (number, (apdu, expected)) in dialogue.iter().enumerate() {
            assert_eq!(self.ask(apdu), *expected, "{number}: {apdu}");
        }
    }
}

#[test]
fn plans_are_written_and_read() {
    for text in [
        "mute after=0 times=1 seed=0",
        "status=6F00 after=3 times=2 seed=9",
        "slow=10 after=0 times=100 seed=0",
        "long=65000 after=1 times=1 seed=0",
    ] {
        assert_eq!(text.parse::<Plan>().unwrap().to_string(), text);
    }
    assert_eq!("flip seed=7".parse::<Plan>().unwrap().seed, 7);
    for text in [
        "",
        "loud",
        "mute=1",
        "status=6F0",
        "status",
        "slow=0",
        "mute after",
        "mute after=-1",
        "mute later=1",
        "long=99999999",
    ] {
        let error = text.parse::<Plan>().unwrap_err().to_string();
        assert!(error.contains("one of mute"), "{error}");
    }
}

#[test]
fn after_so_many_and_so_often() {
    let mut line = line(&["mute after=2 times=2"]);
    line.check(&[
        (SELECT, "9000"),
        (WRONG, "63C2"),
        (WRONG, "the element is"),
        (WRONG, "the element is"),
        // What was not answered was not executed.
        (WRONG, "63C1"),
    ]);
    assert_eq!(line.faults.state()[0].1, 2);
    line.faults.replace(&[]);
    line.check(&[(VERIFY, "9000")]);
    assert_eq!(line.faults.state(), []);
}

#[test]
fn a_wrong_status_word_hides_what_was_done() {
    let mut line = line(&["status=6F00 after=1"]);
    line.check(&[(SELECT, "9000"), (VERIFY, "6F00"), (TRIES, "9000")]);
}

#[test]
fn a_reset_in_the_middle_forgets_and_nobody_knows_what_was_done() {
    let mut both = [false; 2];
    for seed in 0..8 {
        let mut line = line(&[&format!("reset after=1 seed={seed}")]);
        line.check(&[
            (SELECT, "9000"),
            (WRONG, "the connection"),
            (TRIES, "6D00"),
            (SELECT, "9000"),
        ]);
        let tries = line.ask(TRIES);
        both[usize::from(tries == "63C2")] = true;
        assert!(tries == "63C3" || tries == "63C2", "{tries}");
    }
    assert_eq!(both, [true; 2], "executed before it with some seeds");
}

#[test]
fn a_pulled_card_comes_back_without_power_and_state() {
    let mut line = line(&["pulled after=2 times=3"]);
    line.check(&[
        (SELECT, "9000"),
        (VERIFY, "9000"),
        (TRIES, "no element in "),
    ]);
    assert_eq!(line.card.power_on(), Err(ElementError::Absent));
    line.check(&[(TRIES, "no element in "), (TRIES, "transport to t")]);
    line.card.power_on().unwrap();
    line.check(&[(TRIES, "6D00"), (SELECT, "9000"), (TRIES, "63C3")]);
}

#[test]
fn slow_is_times_as_long() {
    let mut line = line(&["slow=10 after=1"]);
    let mut took = |apdu| {
        let before = line.card.element.host().elapsed;
        line.ask(apdu);
        line.card.element.host().elapsed - before
    };
    took(SELECT);
    let slow = took(TRIES);
    let usual = took(TRIES);
    assert!(usual > Duration::ZERO);
    assert_eq!(slow, usual * 10);
}

#[test]
fn a_flipped_bit_is_the_same_one_in_every_run_and_never_more_than_one() {
    let (mut commands, mut answers) = (0, 0);
    for seed in 0..64 {
        let run = || {
            let mut line = line(&[&format!("flip after=1 seed={seed}")]);
            line.ask(SELECT);
            line.card
                .transmit(&hex::decode("00CB3FFF035C017E00").unwrap())
        };
        let changed = run();
        assert_eq!(changed, run(), "{seed}");
        let mut clean = line(&[]);
        clean.ask(SELECT);
        let clean = clean
            .card
            .transmit(&hex::decode("00CB3FFF035C017E00").unwrap());
        let bytes = |response: Response| {
            let mut bytes = response.data;
            bytes.extend_from_slice(&response.sw.bytes());
            bytes
        };
        match changed {
            Ok(changed) if changed.data.len() == 20 => {
                let (changed, clean) = (bytes(changed), bytes(clean.unwrap()));
                let bits = changed
                    .iter()
                    .zip(&clean)
                    .map(|(a, b)| (a ^ b).count_ones());
                let bits: u32 = bits.sum();
                assert!(bits <= 1, "{bits}");
                answers += bits;
            }
            // The card was asked for something else, or nothing that it could read.
            _ => commands += 1,
        }
    }
    assert!(commands > 10 && answers > 10, "{commands} {answers}");
}

#[test]
fn endless_answers_end() {
    let step = |apdu: &str| {
        Step::new(hex::decode(apdu).unwrap())
            .collect([0x00, 0xC0, 0x00, 0x00])
            .append()
    };
    let mut endless = line(&["more times=100000"]);
    let ended = run_step(&mut endless.card, &step("00CB3FFF035C017E00"));
    assert_eq!(ended.unwrap_err(), ElementError::AnswerTooLong);
    assert!(endless.faults.state()[0].1 <= 1 + Script::MAX_FETCHES as u64);
    let mut endless = line(&["length times=100000"]);
    let ended = run_step(&mut endless.card, &step("00CB3FFF00")).unwrap();
    assert_eq!(ended.sw.value(), 0x6C05);
    assert!(endless.faults.state()[0].1 <= 2);
    let mut long = line(&["long=70000"]);
    let ended = run_step(&mut long.card, &step("00CB3FFF00"));
    assert_eq!(ended.unwrap_err(), ElementError::AnswerTooLong);
}
