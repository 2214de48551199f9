use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use rustls::crypto::aws_lc_rs::default_provider;

use super::*;

const KEY: [u8; 32] = [7; 32];

/// An element with a key in a slot.
fn element(slot: Slot, algorithm: Algorithm) -> SharedElement {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut element = Hosted::new(card, Memory::default());
    element.power_on().unwrap();
    let mut piv = Piv::open(&mut element);
    piv.set_management_key(&KEY).unwrap();
    piv.authenticate_management(&KEY).unwrap();
    piv.generate(slot, algorithm).unwrap();
    Arc::new(Mutex::new(element))
}

#[test]
fn tls_signatures_of_every_algorithm_verify() {
    let cases = [
        (Algorithm::P256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (Algorithm::P384, SignatureScheme::ECDSA_NISTP384_SHA384),
        (Algorithm::Rsa2048, SignatureScheme::RSA_PSS_SHA256),
        (Algorithm::Rsa2048, SignatureScheme::RSA_PKCS1_SHA256),
    ];
    for (algorithm, name) in cases {
        let slot = Slot::SIGNATURE;
        let key = ElementKey::open(element(slot, algorithm), slot, Some(b"123456")).unwrap();
        assert!(key.choose_scheme(&[SignatureScheme::ED25519]).is_none());
        let signer = key.choose_scheme(&[name]).unwrap();
        assert_eq!(signer.scheme(), name);
        let signature = signer.sign(b"transcript").unwrap();

        let info = SigningKey::public_key(&key).unwrap();
        let verifier = webpki::RawPublicKeyEntity::try_from(&info).unwrap();
        let algorithms = default_provider().signature_verification_algorithms;
        let (_, candidates) = algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == name)
            .unwrap();
        let verified = candidates.iter().any(|candidate| {
            verifier
                .verify_signature(*candidate, b"transcript", &signature)
                .is_ok()
        });
        assert!(verified, "{name:?}");
    }
}

#[test]
fn why_a_signature_failed_is_kept() {
    let shared = element(Slot::SIGNATURE, Algorithm::P256);
    let key = ElementKey::open(shared.clone(), Slot::SIGNATURE, Some(b"000000")).unwrap();
    let signer = key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
        .unwrap();
    assert!(
        signer
            .sign(b"m")
            .unwrap_err()
            .to_string()
            .contains("2 tries left")
    );
    assert_eq!(key.take_failure(), Some(PivError::WrongPin { tries: 2 }));
    assert_eq!(key.take_failure(), None);

    let empty = ElementKey::open(shared, Slot::AUTHENTICATION, None);
    assert_eq!(empty.unwrap_err(), PivError::NoKey(Slot::AUTHENTICATION));
}
