//! Time on real cards: commands cost what their primitives and their bytes cost.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm, timing::Profile};
use gose_element::{
    Algorithm, SecureElement,
    drive::piv::{Piv, Slot},
};

const KEY: [u8; 32] = [0x42; 32];

fn card(profile: &str) -> Hosted<Memory> {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut card = Hosted::new(
        card,
        Memory {
            profile: Some(Profile::named(profile).unwrap()),
            ..Memory::default()
        },
    );
    card.power_on().unwrap();
    Piv::open(&mut card).set_management_key(&KEY).unwrap();
    card
}

fn generate(card: &mut Hosted<Memory>, slot: Slot, algorithm: Algorithm) -> Duration {
    let before = card.host().elapsed;
    let mut piv = Piv::open(card);
    piv.authenticate_management(&KEY).unwrap();
    piv.generate(slot, algorithm).unwrap();
    card.host().elapsed - before
}

/// What one APDU takes, and the bytes of command and answer.
fn takes(card: &mut Hosted<Memory>, apdu: &[u8]) -> (Duration, u32) {
    let before = card.host().elapsed;
    let response = card.transmit(apdu).unwrap();
    assert_eq!(response.sw.value(), 0x9000);
    let bytes = u32::try_from(apdu.len() + response.data.len() + 2).unwrap();
    (card.host().elapsed - before, bytes)
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64((ms * 1e6).round() / 1e9)
}

/// GENERAL AUTHENTICATE with a digest: the host hashed, so the card signs and nothing else.
#[test]
fn a_signature_on_a_j3r180_takes_what_was_measured() {
    let mut card = card("j3r180");
    generate(&mut card, Slot::CARD_AUTHENTICATION, Algorithm::P256);
    let digest = [0x5A; 32];
    let mut sign = vec![0x00, 0x87, 0x11, 0x9E, 38, 0x7C, 36, 0x82, 0x00, 0x81, 32];
    sign.extend_from_slice(&digest);
    sign.push(0);
    let (took, bytes) = takes(&mut card, &sign);
    assert_eq!(took, millis(31.96) + millis(0.0852) * bytes);
    // A command that only moves bytes costs only them.
    let (took, bytes) = takes(&mut card, b"\x00\xCB\x3F\xFF\x03\x5C\x01\x7E\x00");
    assert_eq!(took, millis(0.0852) * bytes);
}

/// The same commands on other cards, in the order that their tables give.
#[test]
fn cards_differ_as_their_tables_do() {
    let sign = |profile: &str| {
        let mut card = card(profile);
        generate(&mut card, Slot::CARD_AUTHENTICATION, Algorithm::P256);
        let mut sign = vec![0x00, 0x87, 0x11, 0x9E, 38, 0x7C, 36, 0x82, 0x00, 0x81, 32];
        sign.extend_from_slice(&[1; 32]);
        sign.push(0);
        takes(&mut card, &sign).0
    };
    let order = [
        "feitian-h19cr",
        "j3r180",
        "j3h145",
        "j2e081",
        "idprotect",
        "cjtop-80k",
    ];
    let times: Vec<_> = order.map(sign).into();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn key_pairs_take_their_time() {
    let mut card = card("j3r180");
    let ec = generate(&mut card, Slot::CARD_AUTHENTICATION, Algorithm::P256);
    let rsa = generate(&mut card, Slot::CARD_AUTHENTICATION, Algorithm::Rsa2048);
    assert!(ec > millis(26.8) && ec < millis(200.0), "{ec:?}");
    assert!(rsa > millis(80.0 * 53.23), "{rsa:?}");
}
