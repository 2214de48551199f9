//! The host's drivers against any card: every operation ends, after a bounded number of commands, in a value or an
//! error.
//!
//! First byte: the operation. Then the card's answers, each a byte of its kind (see `Card::answer`); when they are
//! used up, the last kind goes on for ever.
#![no_main]

use gose_element::{
    Algorithm, Atr, ElementError, Scheme, SecureElement,
    drive::{
        eap_tls::{AID, EapTls, Key, Opening, Personalisation, Policy, personalisation::Operator},
        piv::{CHUID, Piv, Slot},
        provision::{Secrets, initialise},
    },
};
use gose_proto::{
    apdu::{Response, StatusWord},
    eap::{Code, Packet, Role, Type},
};
use libfuzzer_sys::fuzz_target;

/// Commands that one operation may send: 999 steps with 600 fetches each would be the scripts' own bound.
const MAX_COMMANDS: usize = 700_000;

struct Card<'a> {
    answers: &'a [u8],
    last: u8,
    asked: usize,
    identifier: u8,
}

impl Card<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.answers.split_at(self.answers.len().min(count));
        self.answers = rest;
        taken.to_vec()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn answer(&mut self) -> Option<Response> {
        if let [kind, ..] = self.take(1)[..] {
            self.last = kind;
        }
        let mut data = Vec::new();
        let sw = match self.last % 10 {
            0 => 0x9000,
            1 => {
                let count = self.byte();
                data = self.take(count.into());
                0x9000
            }
            // More without end, with data and without.
            2 => 0x6100 | u16::from(self.byte()),
            3 => {
                data = vec![0x55; 256];
                0x6100
            }
            4 => {
                data = vec![0x55; self.byte().into()];
                0x9F00
            }
            5 => 0x6C00 | u16::from(self.byte()),
            6 => u16::from_be_bytes([self.byte(), self.byte()]),
            // EAP-TLS, with flags, length and data of the input.
            7 => {
                let count = self.byte();
                let content = self.take(count.into());
                self.identifier = self.identifier.wrapping_add(1);
                let identifier = self.identifier;
                data = Packet::response(identifier, Type::TLS, &content).encode();
                0x9000
            }
            8 => {
                let count = self.byte();
                let content = self.take(count.into());
                data = Packet::request(self.identifier, Type::TLS, &content).encode();
                0x9000
            }
            _ => return None,
        };
        Some(Response { data, sw: StatusWord::new(sw) })
    }
}

impl SecureElement for Card<'_> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        Ok(Atr::unknown())
    }
    fn power_off(&mut self) {}
    fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
        Ok(Atr::unknown())
    }
    fn transmit(&mut self, _apdu: &[u8]) -> Result<Response, ElementError> {
        self.asked += 1;
        assert!(self.asked < MAX_COMMANDS, "the driver does not end");
        self.answer().ok_or(ElementError::Mute)
    }
}

fn identity(key: Key) -> Personalisation {
    Personalisation {
        label: "peer".into(),
        eap_id: "a".into(),
        role: Role::Peer,
        key,
        chain: vec![vec![0x30; 600]],
        anchors: vec![vec![0x30; 600]],
        policy: Policy::default(),
        expected_names: Vec::new(),
        crls: Vec::new(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&operation, answers)) = bytes.split_first() else { return };
    let mut card = Card { answers, last: 0, asked: 0, identifier: 0 };
    match operation % 12 {
        0 => drop(EapTls::open(&mut card, &Opening::new(b"0000", "peer"))),
        1 => converse(&mut card, Code::Request),
        2 => converse(&mut card, Code::Response),
        3 => tls(&mut card),
        4 => {
            let mut end = EapTls::on(&mut card);
            drop((end.msk(), end.keys(), end.session_keys(), end.amsk(1)));
            drop((end.exported(1), end.is_resumed(), end.peer_certificate()));
        }
        5 => {
            let mut end = EapTls::on(&mut card);
            drop((end.encrypt(&[&[1; 300], b"x"]), end.decrypt(&[b"y"]), end.alert(1, 0)));
        }
        6 | 7 => {
            let key = if operation % 12 == 6 { Key::Own } else { Key::Slot(0x9A) };
            if let Ok(mut operator) = Operator::open(&mut card, &AID, b"00000000") {
                let _ = operator.generate(0x9A, Algorithm::P256);
                let _ = operator.generate_own("peer", Algorithm::P256);
                let _ = operator.add_identity(&identity(key));
            }
        }
        8 => {
            let secrets = Secrets::random().expect("random bytes");
            let _ = initialise(&mut card, &secrets);
        }
        9 => {
            let mut piv = Piv::open(&mut card);
            let _ = (piv.verify(b"123456"), piv.pin_tries());
            let _ = (piv.object(CHUID), piv.certificate(Slot::AUTHENTICATION));
            let _ = piv.put_object(CHUID, &[1; 600]);
        }
        10 => {
            let mut piv = Piv::open(&mut card);
            let _ = piv.with_pin(b"123456");
            let _ = piv.sign(Slot::AUTHENTICATION, Scheme::RsaPssSha256, b"m");
            let _ = piv.sign(Slot::SIGNATURE, Scheme::EcdsaP256Sha256, b"m");
            let _ = piv.agree(Slot::AUTHENTICATION, &[4; 65]);
        }
        _ => {
            let mut piv = Piv::open(&mut card);
            let _ = piv.authenticate_management(&[7; 32]);
            let _ = piv.generate(Slot::AUTHENTICATION, Algorithm::P256);
            let _ = (piv.change_pin(b"123456", b"654321"), piv.unblock_pin(&[1; 8], b"654321"));
        }
    }
});

/// The other end of EAP goes on with whatever packets; the card answers what it likes.
fn converse(card: &mut Card<'_>, code: Code) {
    let mut end = EapTls::on(card);
    let packet = |identifier: u8, data: &[u8]| {
        let of = if code == Code::Request { Packet::request } else { Packet::response };
        of(identifier, Type::TLS, data).encode()
    };
    let _ = end.process(&packet(1, &[0x20]), Some(1));
    for identifier in 0..20u8 {
        let content: &[u8] = match identifier % 4 {
            0 => &[0xC0, 0, 0, 0, 9, 1, 2],
            1 => &[0x00, 3, 4, 5, 6, 7, 8, 9],
            _ => &[0x00],
        };
        let _ = end.process(&packet(identifier, content), None);
    }
}

fn tls(card: &mut Card<'_>) {
    let mut end = EapTls::on(card);
    let _ = end.start_tls(Some(1));
    for _ in 0..3 {
        let _ = end.tls(&[0x16; 3000]);
    }
}
