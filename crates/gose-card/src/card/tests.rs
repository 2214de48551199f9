use std::sync::Arc;

use gose_element::SecureElement;
use gose_proto::{apdu::Command, hex};

use super::*;
use crate::{
    Hosted, Memory,
    keystore::{Algorithm, KeyError, PrivateKey, Stored},
};

/// An applet that echoes its data and keeps the last one.
struct Echo(&'static [u8]);

impl Applet for Echo {
    fn aid(&self) -> &[u8] {
        self.0
    }
    fn select(&mut self, _env: &mut Env<'_>) -> Response {
        Response::ok([0x6F, 0x00])
    }
    fn deselect(&mut self) {}
    fn process(&mut self, command: &Command, env: &mut Env<'_>) -> Next {
        match command.ins {
            0x01 => Response::ok(command.data.clone()).into(),
            0x02 => {
                env.nvm.put("echo", command.data.clone());
                StatusWord::NORMAL.into()
            }
            0x03 => Response::ok(env.nvm.get("echo").unwrap_or_default()).into(),
            _ => StatusWord::INS_NOT_SUPPORTED.into(),
        }
    }
    fn resume(&mut self, _attempt: pin::Attempt, _env: &mut Env<'_>) -> Next {
        StatusWord::NO_PRECISE_DIAGNOSIS.into()
    }
    fn rolled_back(&mut self, _env: &mut Env<'_>) {}
    fn answers_without_le(&self) -> bool {
        self.0[0] == 0xA0
    }
}

struct NoKeys;

impl KeyStore for NoKeys {
    fn generate(&self, _algorithm: Algorithm) -> Result<Stored, KeyError> {
        Err(KeyError::Unsupported)
    }
    fn import(&self, _pkcs8: &[u8]) -> Result<Stored, KeyError> {
        Err(KeyError::Unsupported)
    }
    fn open(&self, _blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
        Err(KeyError::Unsupported)
    }
}

fn card() -> Hosted<Memory> {
    let applets: Vec<Box<dyn Applet>> = vec![
        Box::new(Echo(b"\xA0\0\0\x01\x02\x03")),
        Box::new(Echo(b"\xF0\0\0\x01\x02\x03")),
    ];
    let mut card = Hosted::new(
        Card::new(Nvm::default(), Arc::new(NoKeys), applets),
        Memory::default(),
    );
    card.power_on().unwrap();
    card
}

/// Lines `command -> answer`, in hexadecimal.
fn check(card: &mut Hosted<Memory>, script: &str) {
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (command, answer) = line.split_once(" -> ").unwrap();
        let response = card.transmit(&hex::decode(command).unwrap()).unwrap();
        assert_eq!(hex::encode(&response.encode()), answer, "{line}");
    }
}

#[test]
fn select_by_full_and_partial_aid() {
    check(
        &mut card(),
        "
        0001000000 -> 6D00
        00A4040006A00000010203 -> 6F009000
        00A4040005A000000102 -> 6F009000
        00A4040005F000000102 -> 6F009000
        00A4040004A0000001 -> 6A82
        00A4040006A00000010204 -> 6A82
        00A40000023F00 -> 6D00
        00A4040206A00000010203 -> 6A86
    ",
    );
}

#[test]
fn classes_that_are_not_served() {
    check(
        &mut card(),
        "
        00A4040006A00000010203 -> 6F009000
        01A4040006A00000010203 -> 6881
        40A4040006A00000010203 -> 6881
        04A4040006A00000010203 -> 6882
        20A4040006A00000010203 -> 6E00
        0001 -> 6700
        00010000021122 -> 11229000
    ",
    );
}

#[test]
fn get_response_fetches_what_did_not_fit() {
    let mut card = card();
    let long = "AB".repeat(300);
    check(&mut card, "00A4040006A00000010203 -> 6F009000");
    let first =
        card.transmit(&hex::decode(format!("000100000001 2C{long}0000").replace(' ', "")).unwrap());
    assert_eq!(first.unwrap().data.len(), 300);
    check(
        &mut card,
        &format!(
            "
        000100000400112233 -> 001122339000
        00010000040011223302 -> 00116102
        00C0000001 -> 226101
        00C0000000 -> 339000
        00C0000000 -> 6D00
        00010000040011223302 -> 00116102
        0003000000 -> 9000
        00C0000000 -> 6D00
        0001000000012C{long} -> {}612C
    ",
            "AB".repeat(256)
        ),
    );
}

#[test]
fn an_applet_may_ask_for_get_response_always() {
    check(
        &mut card(),
        "
        00A4040006F00000010203 -> 6F009000
        A0010000021122 -> 6102
        A0C0000002 -> 11229000
        A0010000021122 -> 6102
        A012000000 -> 11229000
        A001000002112200 -> 11229000
    ",
    );
}

#[test]
fn chains_are_joined() {
    check(
        &mut card(),
        "
        00A4040006A00000010203 -> 6F009000
        10010000021122 -> 9000
        00010000023344 -> 112233449000
        10010000021122 -> 9000
        0003000000 -> 6883
    ",
    );
}

#[test]
fn writes_are_durable_before_the_answer_and_failures_are_told() {
    let mut card = card();
    check(
        &mut card,
        "
        00A4040006A00000010203 -> 6F009000
        000200000155 -> 9000
        0003000000 -> 559000
    ",
    );
    assert_eq!(card.host().log.len(), 1);
    card.host_mut().fail = true;
    check(
        &mut card,
        "
        000200000166 -> 6581
        0003000000 -> 559000
    ",
    );
    card.power_off();
    assert_eq!(
        card.transmit(&[0, 3, 0, 0, 0]).unwrap().sw,
        StatusWord::NO_PRECISE_DIAGNOSIS
    );
}

#[test]
fn a_full_memory_refuses_what_would_make_it_grow() {
    let applets: Vec<Box<dyn Applet>> = vec![Box::new(Echo(b"\xA0\0\0\x01\x02\x03"))];
    let inner = Card::new(Nvm::default(), Arc::new(NoKeys), applets).with_quota(7);
    let mut card = Hosted::new(inner, Memory::default());
    card.power_on().unwrap();
    check(
        &mut card,
        "
        00A4040006A00000010203 -> 6F009000
        0002000003112233 -> 9000
        000200000411223344 -> 6A84
        0003000000 -> 1122339000
        0002000003445566 -> 9000
        00020000021122 -> 9000
        0003000000 -> 11229000
        ",
    );
    assert_eq!(
        card.host().log.len(),
        3,
        "nothing was written for a refusal"
    );
    // A card that is too full already, as after its quota was lowered, can be emptied.
    let mut full = Nvm::default();
    full.put("echo", [0; 20]);
    full.commit();
    let applets: Vec<Box<dyn Applet>> = vec![Box::new(Echo(b"\xA0\0\0\x01\x02\x03"))];
    let mut card = Hosted::new(
        Card::new(full, Arc::new(NoKeys), applets).with_quota(7),
        Memory::default(),
    );
    card.power_on().unwrap();
    let more = format!("0002000015{} -> 6A84", "00".repeat(21));
    let less = format!("0002000013{} -> 9000", "00".repeat(19));
    check(
        &mut card,
        &format!("00A4040006A00000010203 -> 6F009000\n{more}\n{less}"),
    );
}
