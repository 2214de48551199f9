//! Keys in a TPM; `GOSE_TEST_SWTPM` names swtpm's command socket.

#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

#[path = "support/contract.rs"]
mod card;
#[path = "support/secrets.rs"]
mod secrets;
mod support;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use gose_backend::tpm::{Address, Settings, TpmError, TpmKeyStore};
use gose_card::keystore::{
    Algorithm, KeyError, KeyStore, Scheme, SecretAlgorithm, SoftwareKeyStore,
};
use gose_card::{Hosted, Memory, factory, keyring, nvm::Nvm};
use gose_element::SecureElement;
use gose_proto::apdu::StatusWord;
use gose_testkit::contract::{self, Keys, Removal, Second, Terms};
use zeroize::Zeroizing;

fn settings() -> Settings {
    Settings::new(Address::Swtpm(support::daemon("GOSE_TEST_SWTPM")))
}

/// What swtpm has of PIV's algorithms.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::P256,
    Algorithm::P384,
    Algorithm::Rsa2048,
    Algorithm::Rsa3072,
];

/// One test: swtpm serves one connection at a time.
#[test]
fn a_tpm_holds_keys() {
    let store = TpmKeyStore::new(settings());
    for algorithm in ALGORITHMS {
        support::keystore(&store, algorithm);
    }
    from_outside(&store);
    secrets::secrets(
        &store,
        &[
            SecretAlgorithm::Aes128Gcm,
            SecretAlgorithm::Aes256Gcm,
            SecretAlgorithm::HmacSha256,
        ],
    );
    more_keys_than_places(&store);
    sealed_data(&store);
    certified(&store);
    quoted(&store);
    for (what, algorithm, scheme, count) in [
        ("TPM, P-256", Algorithm::P256, Scheme::EcdsaP256Sha256, 500),
        (
            "TPM, RSA-2048",
            Algorithm::Rsa2048,
            Scheme::RsaPkcs1Sha256,
            50,
        ),
    ] {
        support::many(
            what,
            store.generate(algorithm).unwrap().key.as_ref(),
            scheme,
            count,
        );
    }
    keeps_the_contract(&store);
    drop(store);
    the_bus_tells_nothing();
    authorisation();
}

fn keeps_the_contract(store: &TpmKeyStore) {
    let mut element = card::card(Arc::new(store.clone()));
    let terms = Terms {
        name: "keys in swtpm",
        keys: Keys::Made(&[Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048]),
        operations: contract::operations(support::long()),
        removal: Removal::None("in one process; taken away in a node"),
        second: Second::None("in one process it has one owner"),
    };
    println!("{}", contract::run(&mut element, terms));
}

/// Keys that were born elsewhere: used like the others, and certified as what they are.
fn from_outside(store: &TpmKeyStore) {
    assert_eq!(
        store.import(b"no key at all").map(drop).unwrap_err(),
        KeyError::Input
    );
    for algorithm in ALGORITHMS {
        let outside = SoftwareKeyStore.generate(algorithm).unwrap();
        let stored = store.import(&outside.blob).unwrap();
        assert_eq!(
            stored.key.public_key_info(),
            outside.key.public_key_info(),
            "{algorithm:?}"
        );
        support::any_key(&stored.key);
        support::any_key(&store.open(&stored.blob).unwrap());
        store.certify(&stored.blob, b"").unwrap();
    }
}

/// A TPM has three places; ten keys take turns, by their contexts.
fn more_keys_than_places(store: &TpmKeyStore) {
    let keys: Vec<_> = (0..10)
        .map(|_| store.generate(Algorithm::P256).unwrap().key)
        .collect();
    for _ in 0..3 {
        for key in &keys {
            key.sign(Scheme::EcdsaP256Sha256, b"in turn").unwrap();
        }
    }
}

fn sealed_data(store: &TpmKeyStore) {
    let sealed = store.seal(b"the key of an image").unwrap();
    assert_eq!(*store.unseal(&sealed).unwrap(), b"the key of an image");
    let mut torn = sealed;
    torn[20] ^= 1;
    assert!(matches!(store.unseal(&torn), Err(TpmError::Refused(_))));
    assert_eq!(
        store.unseal(b"nothing of ours").unwrap_err(),
        TpmError::Malformed
    );
}

fn certified(store: &TpmKeyStore) {
    let stored = store.generate(Algorithm::P384).unwrap();
    let certified = store.certify(&stored.blob, b"a nonce").unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &certified.attestation_key)
        .verify(&certified.statement, &certified.signature)
        .unwrap();
    support::leave("certified", &certified.statement);
    support::leave("certified.signature", &certified.signature);
    support::leave("attestation.pem", &certified.attestation_key);
    support::leave_signature(store.generate(Algorithm::P256).unwrap().key.as_ref());
    // TPM_GENERATED_VALUE, TPM_ST_ATTEST_CERTIFY, and the nonce.
    assert_eq!(
        certified.statement[..6],
        [0xFF, 0x54, 0x43, 0x47, 0x80, 0x17]
    );
    assert!(
        certified
            .statement
            .windows(7)
            .any(|window| window == b"a nonce")
    );
}

/// What the machine's registers hold, for tpm2_checkquote.
fn quoted(store: &TpmKeyStore) {
    let quote = store.quote(&[0, 1, 23], b"another nonce").unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &quote.attestation_key)
        .verify(&quote.statement, &quote.signature)
        .unwrap();
    assert!(matches!(store.quote(&[24], b""), Err(TpmError::Wire(_))));
    support::leave("quoted", &quote.statement);
    support::leave("quoted.signature", &quote.signature);
}

/// Keys with an authorisation value: a wrong one is refused, and the TPM counts it.
fn authorisation() {
    let with = |auth: &[u8]| {
        TpmKeyStore::new(Settings {
            auth: Zeroizing::new(auth.to_vec()),
            ..settings()
        })
    };
    let blob = with(b"right").generate(Algorithm::P256).unwrap().blob;
    let sign = |auth: &[u8]| {
        with(auth)
            .open(&blob)
            .unwrap()
            .sign(Scheme::EcdsaP256Sha256, b"m")
    };
    sign(b"right").unwrap();
    // One store shows a wrong value once, however often it is asked.
    let wrong = with(b"wrong");
    let key = wrong.open(&blob).unwrap();
    let once = key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap_err();
    let KeyError::Denied { tries } = once else {
        panic!("{once:?}")
    };
    for key in [&key, &wrong.open(&blob).unwrap()] {
        assert_eq!(
            key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap_err(),
            KeyError::Denied { tries }
        );
    }
    // swtpm serves one connection at a time.
    drop((key, wrong));
    // Each new store spends one.
    for left in (1..tries).rev() {
        assert_eq!(
            sign(b"wrong").unwrap_err(),
            KeyError::Denied { tries: left }
        );
    }
    sign(b"wrong").unwrap_err();
    for auth in [&b"wrong"[..], b"right"] {
        let KeyError::Locked(text) = sign(auth).unwrap_err() else {
            panic!("not locked")
        };
        assert!(text.contains("tpm2_dictionarylockout"), "{text}");
    }
    card_says_locked(&with(b"right"), &blob);
    // Keys without a value have nothing to guess.
    let free = TpmKeyStore::new(settings());
    let key = free.generate(Algorithm::P256).unwrap().key;
    key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap();
    support::leave("locked.key", &blob);
}

/// A card with that key answers 6983.
fn card_says_locked(store: &TpmKeyStore, blob: &[u8]) {
    let nvm = Nvm::replay([factory::birth([3; 16]), keyring::filled(0x9E, blob)]);
    let card = factory::new_card(nvm, Arc::new(store.clone()));
    let mut element = Hosted::new(card, Memory::default());
    element.power_on().unwrap();
    let select = b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00";
    assert_eq!(element.transmit(select).unwrap().sw, StatusWord::NORMAL);
    let mut sign = b"\x00\x87\x11\x9E\x26\x7C\x24\x82\x00\x81\x20".to_vec();
    sign.extend([0x2A; 32]);
    sign.push(0);
    assert_eq!(
        element.transmit(&sign).unwrap().sw,
        StatusWord::AUTHENTICATION_METHOD_BLOCKED
    );
}

/// After the lockout was lifted: `GOSE_TEST_OUTPUT` has the key that was locked.
#[test]
fn what_was_locked_works_again() {
    let folder = std::path::PathBuf::from(support::daemon("GOSE_TEST_OUTPUT"));
    let blob = std::fs::read(folder.join("locked.key")).unwrap();
    let settings = Settings {
        auth: Zeroizing::new(b"right".to_vec()),
        ..settings()
    };
    let key = TpmKeyStore::new(settings).open(&blob).unwrap();
    key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap();
}

/// A line that keeps what crosses it, and may change one response.
struct Tap {
    address: String,
    seen: Arc<Mutex<Vec<u8>>>,
    spoil: Arc<AtomicBool>,
}

impl Tap {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            address: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
            spoil: Arc::default(),
        };
        let (seen, spoil) = (this.seen.clone(), this.spoil.clone());
        std::thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let tpm = TcpStream::connect(support::daemon("GOSE_TEST_SWTPM")).unwrap();
                let _ = pass_on(caller, tpm, &seen, &spoil);
            }
        });
        this
    }

    fn has_seen(&self, secret: &[u8]) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.windows(secret.len()).any(|window| window == secret)
    }
}

fn pass_on(
    mut caller: TcpStream,
    mut tpm: TcpStream,
    seen: &Mutex<Vec<u8>>,
    spoil: &AtomicBool,
) -> std::io::Result<()> {
    loop {
        let command = frame(&mut caller)?;
        seen.lock().unwrap().extend(&command);
        tpm.write_all(&command)?;
        let mut response = frame(&mut tpm)?;
        seen.lock().unwrap().extend(&response);
        // The last byte of a signature, before nonce, attributes and HMAC.
        let signs = command[6..10] == [0, 0, 0x01, 0x5D];
        if signs && spoil.swap(false, Ordering::SeqCst) {
            let place = response.len() - 70;
            response[place] ^= 1;
        }
        caller.write_all(&response)?;
    }
}

/// A command or a response.
fn frame(line: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 10];
    line.read_exact(&mut head)?;
    let len = u32::from_be_bytes(head[2..6].try_into().unwrap()) as usize;
    let mut frame = head.to_vec();
    frame.resize(len, 0);
    line.read_exact(&mut frame[10..])?;
    Ok(frame)
}

/// Who listens on the bus reads no authorisation value, no sealed secret, no shared secret and no imported key; who
/// changes an answer is noticed.
fn the_bus_tells_nothing() {
    let tap = Tap::new();
    let store = TpmKeyStore::new(Settings {
        address: Address::Swtpm(tap.address.clone()),
        auth: Zeroizing::new(b"spoken to nobody".to_vec()),
        ..settings()
    });
    let outside = SoftwareKeyStore.generate(Algorithm::P256).unwrap();
    let key = store.import(&outside.blob).unwrap().key;
    key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap();
    let other = SoftwareKeyStore.generate(Algorithm::P256).unwrap().key;
    let info = other.public_key_info();
    let shared = key.agree(&info[info.len() - 65..]).unwrap();
    let sealed = store.seal(b"the key of all images").unwrap();
    assert_eq!(*store.unseal(&sealed).unwrap(), b"the key of all images");
    store
        .certify(&store.generate(Algorithm::P256).unwrap().blob, b"nonce")
        .unwrap();
    assert!(tap.has_seen(&store_marker(&key)), "the tap is on the line");
    let scalar = outside
        .blob
        .windows(34)
        .find(|window| window.starts_with(&[4, 32]));
    for secret in [
        &b"spoken to nobody"[..],
        b"the key of all images",
        &shared,
        &scalar.unwrap()[2..],
    ] {
        assert!(!tap.has_seen(secret), "{secret:02X?}");
    }
    tap.spoil.store(true, Ordering::SeqCst);
    let KeyError::Store(text) = key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap_err() else {
        panic!("another error")
    };
    assert!(text.contains("not authentic"), "{text}");
    key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap();
}

/// What is public crosses the line in the clear: half of the key's point.
fn store_marker(key: &Arc<dyn gose_card::keystore::PrivateKey>) -> Vec<u8> {
    let info = key.public_key_info();
    info[info.len() - 32..].to_vec()
}
