//! The storage application and PIV against any host: the card goes on, shows no key that it was given or made, and
//! loses no try that was not used.
//!
//! First byte: 01 the user's PIN, 02 the management key, 04 PIV instead of the storage application. Then APDUs, each
//! behind its length.
#![no_main]

use std::{cell::OnceCell, sync::Arc};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{
    Algorithm, SecretAlgorithm, SecureElement,
    drive::{piv::{Piv, Slot}, storage::{NewKey, Storage}},
};
use libfuzzer_sys::fuzz_target;

const MANAGEMENT: [u8; 32] = [0x42; 32];
const PIN: &[u8] = b"123456";

/// The card as it is after personalisation, and what must not come out of it.
struct Template {
    nvm: Nvm,
    secrets: Vec<Vec<u8>>,
}

thread_local! {
    static TEMPLATE: OnceCell<Template> = const { OnceCell::new() };
}

fn card(nvm: Nvm) -> Hosted<Memory> {
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut card = Hosted::new(card, Memory::default());
    card.power_on().expect("power");
    card
}

fn template() -> Template {
    let mut element = card(Nvm::replay([factory::birth([7; 16])]));
    let mut piv = Piv::open(&mut element);
    piv.set_management_key(&MANAGEMENT).expect("the first key");
    piv.authenticate_management(&MANAGEMENT).expect("the key");
    piv.generate(Slot::CARD_AUTHENTICATION, Algorithm::P256).expect("a key");
    piv.generate_attestation_key(Algorithm::P256).expect("a key");
    let mut storage = Storage::open(&mut element);
    storage.authenticate_management(&MANAGEMENT).expect("the key");
    let keys = [
        (1, SecretAlgorithm::Aes256Gcm, false),
        (2, SecretAlgorithm::HmacSha256, false),
        (3, SecretAlgorithm::Aes256Kw, false),
        (4, SecretAlgorithm::Aes256Gcm, true),
    ];
    for (number, algorithm, wrappable) in keys {
        let reference = number.try_into().expect("a number");
        storage.generate(&NewKey { reference, algorithm, wrappable, label: "" }).expect("a key");
    }
    let nvm = element.card().nvm().clone();
    let of_pairs = nvm.names("key/").into_iter().filter_map(|name| {
        let blob = nvm.get(&name)?;
        // ECPrivateKey (RFC 5915): an OCTET STRING of 32 bytes
        let at = blob.windows(2).position(|bytes| bytes == [0x04, 0x20])? + 2;
        blob.get(at..at + 32).map(<[u8]>::to_vec)
    });
    let of_secrets = nvm.names("storage/key/").into_iter().filter_map(|name| {
        let record = nvm.get(&name)?;
        record.get(record.len().checked_sub(32)?..).map(<[u8]>::to_vec)
    });
    let secrets: Vec<_> = of_pairs.chain(of_secrets).collect();
    assert_eq!(secrets.len(), 6);
    Template { nvm, secrets }
}

/// RSA keys take seconds to make.
fn is_slow(apdu: &[u8]) -> bool {
    matches!(apdu, [_, 0x47, ..])
        && apdu.get(5..).is_some_and(|data| data.iter().any(|byte| matches!(byte, 0x05 | 0x07 | 0x16)))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    TEMPLATE.with(|cell| {
        let template = cell.get_or_init(template);
        let mut card = card(template.nvm.clone());
        let piv = first & 4 != 0;
        if piv {
            let mut piv = Piv::open(&mut card);
            if first & 2 != 0 {
                piv.authenticate_management(&MANAGEMENT).expect("the key");
            }
            if first & 1 != 0 {
                piv.verify(PIN).expect("the PIN");
            }
        } else {
            let mut storage = Storage::open(&mut card);
            if first & 2 != 0 {
                storage.authenticate_management(&MANAGEMENT).expect("the key");
            }
            if first & 1 != 0 {
                storage.with_pin(PIN).expect("a PIN");
            }
            storage.random(1).expect("a byte");
        }
        let mut verified = 0;
        while let Some((&length, after)) = rest.split_first() {
            let (apdu, after) = after.split_at(after.len().min(length.into()));
            rest = after;
            if is_slow(apdu) {
                continue;
            }
            verified += usize::from(matches!(apdu, [_, 0x20 | 0x24 | 0x2C, ..]));
            let answer = card.transmit(apdu).expect("a card answers");
            for secret in &template.secrets {
                assert!(!answer.data.windows(32).any(|window| window == secret));
            }
        }
        card.reset(true).expect("power");
        if verified == 0 {
            assert_eq!(Piv::open(&mut card).pin_tries(), Ok(Some(3)));
        }
        Storage::open(&mut card).random(1).expect("a byte");
    });
});
