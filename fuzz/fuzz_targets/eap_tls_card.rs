//! The EAP-TLS card against any host: it goes on, shows no private key, and loses no try that was not used.
//!
//! First byte: 01 bearer and identity, 02 operator, 04 the authenticator's card. Then APDUs, each behind its length.
#![no_main]

use std::{cell::OnceCell, sync::Arc};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::{Delta, Nvm}};
use gose_element::{SecureElement, drive::eap_tls::{AID, EapTls, Opening, personalisation::Operator}};
use gose_testkit::world::{OPERATOR_PIN, Options, PIN, World};
use libfuzzer_sys::fuzz_target;

/// The two cards as they are after personalisation, and what must not come out of them.
struct Template {
    deltas: [Vec<Delta>; 2],
    secrets: Vec<Vec<u8>>,
}

thread_local! {
    static TEMPLATE: OnceCell<Template> = const { OnceCell::new() };
}

fn template() -> Template {
    let world = World::new(&Options::default());
    let elements = [&world.peer, &world.authenticator];
    let deltas = elements.map(|element| vec![element.card().nvm().snapshot()]);
    let secrets = elements.iter().flat_map(|element| {
        let nvm = element.card().nvm();
        let blobs = nvm.names("key/");
        blobs.into_iter().filter_map(|name| {
            let blob = nvm.get(&name)?;
            // ECPrivateKey (RFC 5915): an OCTET STRING of 32 bytes
            let at = blob.windows(2).position(|bytes| bytes == [0x04, 0x20])? + 2;
            blob.get(at..at + 32).map(<[u8]>::to_vec)
        })
    });
    let secrets: Vec<_> = secrets.collect();
    assert_eq!(secrets.len(), 2);
    Template { deltas, secrets }
}

/// RSA keys take seconds to make.
fn is_slow(apdu: &[u8]) -> bool {
    matches!(apdu, [_, 0x46 | 0x47, ..])
        && apdu.get(5..).is_some_and(|data| data.iter().any(|byte| matches!(byte, 0x05 | 0x07)))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    TEMPLATE.with(|cell| {
        let template = cell.get_or_init(template);
        let which = usize::from(first & 4 != 0);
        let nvm = Nvm::replay(template.deltas[which].iter().cloned());
        let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
        let mut card = Hosted::new(card, Memory::default());
        card.power_on().expect("power");
        let label = ["peer", "authenticator"][which];
        if first & 1 != 0 {
            drop(EapTls::open(&mut card, &Opening::new(PIN, label)).expect("opens"));
        }
        if first & 2 != 0 {
            drop(Operator::open(&mut card, &AID, OPERATOR_PIN).expect("opens"));
        }
        while let Some((&length, after)) = rest.split_first() {
            let (apdu, after) = after.split_at(after.len().min(length.into()));
            rest = after;
            if is_slow(apdu) {
                continue;
            }
            let answer = card.transmit(apdu).expect("a card answers");
            for secret in &template.secrets {
                assert!(!answer.data.windows(32).any(|window| window == secret));
            }
        }
        card.reset(true).expect("power");
        let select = b"\x00\xA4\x04\x00\x09\xF0\x47\x4F\x53\x45\x45\x41\x50\x01";
        assert_eq!(card.transmit(select).expect("a card answers").sw.value(), 0x9000);
    });
});
