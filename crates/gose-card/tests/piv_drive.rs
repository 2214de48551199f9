//! The host's side of PIV against the card's.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, VerificationAlgorithm,
};
use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{
    Algorithm, Atr, ElementError, Outcomes, Scheme, Script, SecureElement,
    drive::piv::{Piv, PivError, Slot},
};
use gose_proto::apdu::Response;

type Verification = &'static dyn VerificationAlgorithm;

const KEY: [u8; 32] = [0x42; 32];
const PIN: &[u8] = b"123456";

/// An element that counts the scripts it is given: the round trips of a remote one.
struct Counted {
    card: Hosted<Memory>,
    scripts: usize,
}

impl SecureElement for Counted {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.card.power_on()
    }
    fn power_off(&mut self) {
        self.card.power_off();
    }
    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.card.reset(warm)
    }
    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.card.transmit(apdu)
    }
    fn run(&mut self, script: &Script) -> Outcomes {
        self.scripts += 1;
        let mut outcomes = self.card.run(script);
        // What a remote element does not tell: answers that nobody asked for.
        let last = outcomes.done.len().saturating_sub(1);
        for (index, outcome) in outcomes.done.iter_mut().enumerate() {
            if index != last && !script.steps[index].append {
                *outcome = None;
            }
        }
        outcomes
    }
}

fn element() -> Counted {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut element = Counted {
        card: Hosted::new(card, Memory::default()),
        scripts: 0,
    };
    element.power_on().unwrap();
    element
}

fn initialised() -> Counted {
    let mut element = element();
    Piv::open(&mut element).set_management_key(&KEY).unwrap();
    element
}

#[test]
fn every_scheme_signs_and_verifies() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    let p256: Verification = &ECDSA_P256_SHA256_ASN1;
    let cases: [(_, _, &[(Scheme, Verification)]); 3] = [
        (
            Slot::SIGNATURE,
            Algorithm::P256,
            &[(Scheme::EcdsaP256Sha256, p256)],
        ),
        (
            Slot::AUTHENTICATION,
            Algorithm::P384,
            &[(Scheme::EcdsaP384Sha384, &ECDSA_P384_SHA384_ASN1)],
        ),
        (
            Slot::CARD_AUTHENTICATION,
            Algorithm::Rsa2048,
            &[
                (Scheme::RsaPkcs1Sha256, &RSA_PKCS1_2048_8192_SHA256),
                (Scheme::RsaPssSha256, &RSA_PSS_2048_8192_SHA256),
            ],
        ),
    ];
    let infos = cases.map(|(slot, algorithm, _)| piv.generate(slot, algorithm).unwrap());
    let mut piv = Piv::open(&mut element);
    piv.with_pin(PIN).unwrap();
    for ((slot, _, schemes), info) in cases.into_iter().zip(infos) {
        assert_eq!(piv.public_key(slot).unwrap().info, info);
        for (scheme, verification) in schemes {
            let signature = piv.sign(slot, *scheme, b"message").unwrap();
            ParsedPublicKey::new(*verification, &info)
                .unwrap()
                .verify_sig(b"message", &signature)
                .unwrap();
        }
    }
}

#[test]
fn a_signature_is_one_round_trip() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    piv.generate(Slot::SIGNATURE, Algorithm::P256).unwrap();
    element.scripts = 0;
    let mut piv = Piv::open(&mut element);
    piv.with_pin(PIN).unwrap();
    for _ in 0..3 {
        piv.sign(Slot::SIGNATURE, Scheme::EcdsaP256Sha256, b"m")
            .unwrap();
    }
    assert_eq!(element.scripts, 3);
}

#[test]
fn two_slots_agree() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    let ours = piv.generate(Slot::KEY_MANAGEMENT, Algorithm::P256).unwrap();
    let theirs = piv.generate(Slot::AUTHENTICATION, Algorithm::P256).unwrap();
    piv.verify(PIN).unwrap();
    let one = piv.agree(Slot::KEY_MANAGEMENT, &theirs[26..]).unwrap();
    let other = piv.agree(Slot::AUTHENTICATION, &ours[26..]).unwrap();
    assert_eq!(*one, *other);
    assert!(matches!(
        piv.agree(Slot::KEY_MANAGEMENT, &[4; 65]),
        Err(PivError::Refused { .. })
    ));
}

#[test]
fn certificates_of_any_length_come_back() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    for len in [1, 200, 255, 256, 1_000, 3_000, 12_000] {
        let der = vec![0x30; len];
        piv.put_certificate(Slot::AUTHENTICATION, &der).unwrap();
        assert_eq!(piv.certificate(Slot::AUTHENTICATION).unwrap(), der, "{len}");
    }
    assert_eq!(
        piv.certificate(Slot::SIGNATURE),
        Err(PivError::NoObject(0x5F_C10A))
    );
    assert!(matches!(
        piv.put_certificate(Slot::AUTHENTICATION, &[0; 13_000]),
        Err(PivError::Refused { .. })
    ));
}

#[test]
fn a_wrong_pin_is_not_shown_twice() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    assert_eq!(piv.verify(b"1234"), Err(PivError::PinForm));
    piv.with_pin(b"000000").unwrap();
    let sign = |piv: &mut Piv<'_>| piv.sign(Slot::SIGNATURE, Scheme::EcdsaP256Sha256, b"m");
    assert_eq!(sign(&mut piv), Err(PivError::WrongPin { tries: 2 }));
    assert_eq!(
        sign(&mut piv),
        Err(PivError::NotAuthenticated("GENERAL AUTHENTICATE"))
    );
    assert_eq!(piv.pin_tries(), Ok(Some(2)));
    piv.verify(PIN).unwrap();
    assert_eq!(piv.pin_tries(), Ok(None));
    assert_eq!(sign(&mut piv), Err(PivError::NoKey(Slot::SIGNATURE)));
}

#[test]
fn blocked_and_unblocked() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    for tries in [2, 1, 0] {
        assert_eq!(piv.verify(b"000000"), Err(PivError::WrongPin { tries }));
    }
    assert_eq!(piv.verify(PIN), Err(PivError::PinBlocked));
    assert_eq!(piv.pin_tries(), Ok(Some(0)));
    let wrong = piv.unblock_pin(b"00000000", b"654321");
    assert_eq!(wrong, Err(PivError::WrongPin { tries: 2 }));
    piv.unblock_pin(b"12345678", b"654321").unwrap();
    piv.change_pin(b"654321", b"11111111").unwrap();
    piv.change_puk(b"12345678", b"abcdefgh").unwrap();
    piv.verify(b"11111111").unwrap();
}

#[test]
fn the_management_key_guards_keys_and_objects() {
    let mut element = element();
    let mut piv = Piv::open(&mut element);
    let generate = |piv: &mut Piv<'_>| piv.generate(Slot::SIGNATURE, Algorithm::P256);
    assert_eq!(
        generate(&mut piv),
        Err(PivError::Conditions("GENERATE ASYMMETRIC KEY PAIR"))
    );
    assert_eq!(
        piv.put_certificate(Slot::SIGNATURE, &[1]),
        Err(PivError::Conditions("PUT DATA"))
    );
    piv.set_management_key(&KEY).unwrap();
    assert_eq!(
        piv.authenticate_management(&[0; 32]),
        Err(PivError::WrongManagementKey)
    );
    assert!(matches!(
        generate(&mut piv),
        Err(PivError::NotAuthenticated(_))
    ));
    assert!(matches!(
        piv.set_management_key(&[1; 32]),
        Err(PivError::NotAuthenticated(_))
    ));
    piv.authenticate_management(&KEY).unwrap();
    piv.set_management_key(&[1; 32]).unwrap();
    piv.authenticate_management(&[1; 32]).unwrap();
    generate(&mut piv).unwrap();
}

#[test]
fn keys_survive_power_and_a_new_process() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    let info = piv.generate(Slot::SIGNATURE, Algorithm::P256).unwrap();
    let log = std::mem::take(&mut element.card.host_mut().log);
    let nvm = Nvm::replay([factory::birth([1; 16])].into_iter().chain(log));
    assert_eq!(factory::key_slots(&nvm), [Slot::SIGNATURE]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut again = Hosted::new(card, Memory::default());
    again.power_on().unwrap();
    let key = Piv::open(&mut again).public_key(Slot::SIGNATURE).unwrap();
    assert_eq!(key.info, info);
}
