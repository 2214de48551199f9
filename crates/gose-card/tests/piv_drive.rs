//! The host's side of PIV against the card's.
#![allow(clippy::unwrap_used)]

#[path = "support/counted.rs"]
mod counted;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, VerificationAlgorithm,
};
use counted::{Counted, birth};
use gose_card::{
    factory,
    keystore::{KeyStore, SoftwareKeyStore},
    nvm::Nvm,
};
use gose_element::{
    Algorithm, Scheme,
    drive::piv::{
        KEY_ATTESTATION_ARCS, KEY_ATTESTATION_OID, KeyAttestation, PinPolicy, Piv, PivError, Slot,
    },
};
use x509_parser::{oid_registry::Oid, prelude::*};

type Verification = &'static dyn VerificationAlgorithm;

const KEY: [u8; 32] = [0x42; 32];
const PIN: &[u8] = b"123456";

fn element() -> Counted {
    Counted::on(birth())
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
    let mut again = Counted::on(nvm);
    let key = Piv::open(&mut again).public_key(Slot::SIGNATURE).unwrap();
    assert_eq!(key.info, info);
}

/// What `signer` signed, with the extension of an attestation.
fn attested(
    der: &[u8],
    signer: &[u8],
    verification: Verification,
) -> (Vec<u8>, Option<KeyAttestation>) {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    let (_, signer) = X509Certificate::from_der(signer).unwrap();
    assert_eq!(certificate.issuer(), signer.subject());
    ParsedPublicKey::new(verification, signer.public_key().raw)
        .unwrap()
        .verify_sig(
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_value.data,
        )
        .unwrap();
    let oid = Oid::new(KEY_ATTESTATION_OID.as_slice().into());
    assert_eq!(oid, Oid::from(&KEY_ATTESTATION_ARCS).unwrap());
    let said = certificate.get_extension_unique(&oid).unwrap();
    (
        certificate.public_key().raw.to_vec(),
        said.and_then(|said| KeyAttestation::parse(said.value)),
    )
}

#[test]
fn keys_that_were_made_here_are_attested() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    let slots = [
        (Slot::AUTHENTICATION, Algorithm::P256, PinPolicy::Once),
        (Slot::SIGNATURE, Algorithm::Rsa2048, PinPolicy::Always),
        (Slot::CARD_AUTHENTICATION, Algorithm::P384, PinPolicy::Never),
    ];
    let infos = slots.map(|(slot, algorithm, _)| piv.generate(slot, algorithm).unwrap());
    assert_eq!(
        piv.attest(Slot::AUTHENTICATION),
        Err(PivError::NoAttestationKey)
    );
    let signers: [(_, Verification); 3] = [
        (Algorithm::P256, &ECDSA_P256_SHA256_ASN1),
        (Algorithm::P384, &ECDSA_P384_SHA384_ASN1),
        (Algorithm::Rsa2048, &RSA_PKCS1_2048_8192_SHA256),
    ];
    for (algorithm, verification) in signers {
        let info = piv.generate_attestation_key(algorithm).unwrap();
        let own = piv.attestation_certificate().unwrap();
        assert_eq!(attested(&own, &own, verification), (info, None));
        for ((slot, _, pin_policy), info) in slots.into_iter().zip(&infos) {
            let (key, said) = attested(&piv.attest(slot).unwrap(), &own, verification);
            assert_eq!(&key, info);
            assert_eq!(said, Some(KeyAttestation { slot, pin_policy }));
        }
    }
    assert_eq!(
        piv.attest(Slot::KEY_MANAGEMENT),
        Err(PivError::NoKey(Slot::KEY_MANAGEMENT))
    );
}

#[test]
fn keys_from_outside_are_not_attested() {
    let stored = SoftwareKeyStore.generate(Algorithm::P256).unwrap();
    let filled = gose_card::keyring::filled(0x9A, &stored.blob);
    let nvm = Nvm::replay([factory::birth([1; 16]), filled]);
    let mut element = Counted::on(nvm);
    let mut piv = Piv::open(&mut element);
    piv.set_management_key(&KEY).unwrap();
    piv.authenticate_management(&KEY).unwrap();
    piv.generate_attestation_key(Algorithm::P256).unwrap();
    assert_eq!(
        piv.attest(Slot::AUTHENTICATION),
        Err(PivError::NotGenerated(Slot::AUTHENTICATION))
    );
}

#[test]
fn an_attestation_key_comes_with_its_certificate_or_not_at_all() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    piv.generate(Slot::AUTHENTICATION, Algorithm::P256).unwrap();
    element.card.host_mut().fail = true;
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    assert!(piv.generate_attestation_key(Algorithm::P256).is_err());
    element.card.host_mut().fail = false;
    let mut piv = Piv::open(&mut element);
    assert_eq!(
        piv.attest(Slot::AUTHENTICATION),
        Err(PivError::NoAttestationKey)
    );
    assert!(piv.attestation_certificate().is_err());
    piv.authenticate_management(&KEY).unwrap();
    piv.generate_attestation_key(Algorithm::P256).unwrap();
    let last = element.card.host().log.last().unwrap();
    assert!(last.changes.contains_key("key/f9"));
    assert!(last.changes.contains_key("piv/object/5fff01"));
}

#[test]
fn the_longest_rsa_key_signs_decrypts_and_is_attested() {
    let mut element = initialised();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&KEY).unwrap();
    let info = piv
        .generate(Slot::CARD_AUTHENTICATION, Algorithm::Rsa4096)
        .unwrap();
    piv.generate_attestation_key(Algorithm::P256).unwrap();
    let own = piv.attestation_certificate().unwrap();
    let (key, _) = attested(
        &piv.attest(Slot::CARD_AUTHENTICATION).unwrap(),
        &own,
        &ECDSA_P256_SHA256_ASN1,
    );
    assert_eq!(key, info);
    for (scheme, verification) in [
        (Scheme::RsaPkcs1Sha256, &RSA_PKCS1_2048_8192_SHA256),
        (Scheme::RsaPssSha256, &RSA_PSS_2048_8192_SHA256),
    ] {
        let signature = piv
            .sign(Slot::CARD_AUTHENTICATION, scheme, b"message")
            .unwrap();
        ParsedPublicKey::new(verification, &info)
            .unwrap()
            .verify_sig(b"message", &signature)
            .unwrap();
    }
    let one = [&[0; 511][..], &[1]].concat();
    assert_eq!(*piv.rsa_raw(Slot::CARD_AUTHENTICATION, &one).unwrap(), one);
}
