//! The host's side of the storage application against the card's.
#![allow(clippy::unwrap_used)]

#[path = "support/counted.rs"]
mod counted;

use counted::{Counted, birth};
use gose_card::{
    applet::storage::Quotas,
    factory,
    nvm::{Delta, Nvm},
    timing::Cost,
};
use gose_element::{
    Atr, ElementError, SecretAlgorithm, SecureElement,
    drive::{
        piv::Piv,
        storage::{AID, Access, KeyReference, NewKey, NewObject, Origin, Storage, StorageError},
    },
};
use gose_proto::apdu::{Command, Response, StatusWord, tlv};
use proptest::prelude::*;
use zeroize::Zeroizing;

const MANAGEMENT: [u8; 32] = [0x42; 32];
const PIN: &[u8] = b"123456";
/// Bytes of the keys that a test imports: a window of them anywhere is a leak.
const AES: &[u8; 32] = b"\xF1an AES key that never gets out\xF1";
const MAC: &[u8; 32] = b"\xF2a MAC key that never gets out!\xF2";
const KW: &[u8; 32] = b"\xF3wrapping key that never leaves\xF3";
const LEAVES: &[u8; 32] = b"\xF4this key leaves, but wrapped.\xF4\xF4";

fn initialised() -> Counted {
    let mut element = Counted::on(birth());
    Piv::open(&mut element)
        .set_management_key(&MANAGEMENT)
        .unwrap();
    element
}

fn key(id: u8) -> KeyReference {
    id.try_into().unwrap()
}

fn new(id: u8, algorithm: SecretAlgorithm) -> NewKey<'static> {
    NewKey {
        reference: key(id),
        algorithm,
        wrappable: false,
        label: "",
    }
}

fn wrappable(id: u8, algorithm: SecretAlgorithm) -> NewKey<'static> {
    NewKey {
        wrappable: true,
        ..new(id, algorithm)
    }
}

/// An element with the keys of this file: 01 AES, 02 HMAC, 03 wraps, 04 may leave.
fn with_keys() -> Counted {
    let mut element = initialised();
    let mut storage = Storage::open(&mut element);
    storage.authenticate_management(&MANAGEMENT).unwrap();
    for (new, bytes) in [
        (new(1, SecretAlgorithm::Aes256Gcm), AES),
        (new(2, SecretAlgorithm::HmacSha256), MAC),
        (new(3, SecretAlgorithm::Aes256Kw), KW),
        (wrappable(4, SecretAlgorithm::Aes256Gcm), LEAVES),
    ] {
        storage.import(&new, bytes).unwrap();
    }
    element
}

fn user(element: &mut Counted) -> Storage<'_> {
    let mut storage = Storage::open(element);
    storage.with_pin(PIN).unwrap();
    storage
}

#[test]
fn every_operation_of_a_user_is_one_round_trip() {
    let mut element = with_keys();
    let check = |element: &mut Counted, f: &dyn Fn(&mut Storage<'_>)| {
        element.scripts = 0;
        f(&mut user(element));
        assert_eq!(element.scripts, 1);
    };
    check(&mut element, &|s| {
        drop(s.encipher(key(1), b"a", &[7; 9_000]).unwrap())
    });
    check(&mut element, &|s| drop(s.mac(key(2), &[7; 9_000]).unwrap()));
    check(&mut element, &|s| drop(s.wrap(key(3), key(4)).unwrap()));
    let note = NewObject {
        id: 1,
        read: Access::Pin,
        write: Access::Pin,
        label: "note",
    };
    check(&mut element, &|s| s.create(&note, &[7; 9_000]).unwrap());
    check(&mut element, &|s| {
        assert_eq!(*s.get(1).unwrap(), [7; 9_000])
    });
}

#[test]
fn cryptograms_of_any_length_open_with_their_key_and_their_data() {
    let mut element = with_keys();
    let mut storage = user(&mut element);
    for len in [0, 1, 15, 16, 17, 255, 256, 1_000, 16_000] {
        let plaintext = vec![0x5A; len];
        let cryptogram = storage.encipher(key(1), b"header", &plaintext).unwrap();
        assert_eq!(cryptogram.len(), len + 29);
        let again = storage.decipher(key(1), b"header", &cryptogram).unwrap();
        assert_eq!(*again, plaintext);
        for (key, associated) in [(key(1), &b"footer"[..]), (key(1), b""), (key(4), b"header")] {
            let refused = storage.decipher(key, associated, &cryptogram);
            assert_eq!(refused, Err(StorageError::Mismatch));
        }
    }
    let two = [0; 2].map(|_| storage.encipher(key(1), b"", b"same").unwrap());
    assert_ne!(two[0], two[1], "a nonce twice");
}

#[test]
fn checksums_are_made_and_compared() {
    let mut element = with_keys();
    let mut storage = user(&mut element);
    let mac = storage.mac(key(2), b"message").unwrap();
    assert_eq!(storage.verify_mac(key(2), b"message", &mac), Ok(true));
    assert_eq!(storage.verify_mac(key(2), b"massage", &mac), Ok(false));
    assert_eq!(storage.verify_mac(key(2), b"message", b""), Ok(false));
    assert_eq!(
        storage.mac(key(1), b""),
        Err(StorageError::Conditions("COMPUTE CRYPTOGRAPHIC CHECKSUM"))
    );
    assert_eq!(storage.mac(key(9), b""), Err(StorageError::NoKey(key(9))));
}

#[test]
fn a_wrapped_key_works_in_another_element() {
    let mut element = with_keys();
    let mut storage = user(&mut element);
    let wrapped = storage.wrap(key(3), key(4)).unwrap();
    let cryptogram = storage.encipher(key(4), b"", b"for there").unwrap();
    for stays in [1, 2, 3] {
        assert_eq!(
            storage.wrap(key(3), key(stays)),
            Err(StorageError::Conditions("WRAP"))
        );
    }

    let mut other = with_keys();
    let mut there = user(&mut other);
    let target = new(0x20, SecretAlgorithm::Aes256Gcm);
    there.unwrap(key(3), &target, &wrapped).unwrap();
    let plain = there.decipher(key(0x20), b"", &cryptogram).unwrap();
    assert_eq!(*plain, b"for there");
    let mut changed = wrapped.clone();
    changed[3] ^= 1;
    assert_eq!(
        there.unwrap(key(3), &target, &changed),
        Err(StorageError::Mismatch)
    );
    assert_eq!(
        there.unwrap(key(3), &new(1, SecretAlgorithm::Aes256Gcm), &wrapped),
        Err(StorageError::KeyExists(key(1)))
    );
    let infos = there.keys().unwrap();
    let last = infos.last().unwrap();
    assert_eq!(
        (last.reference, last.origin),
        (key(0x20), Origin::Unwrapped)
    );
}

#[test]
fn the_administrator_makes_and_deletes_and_the_user_uses() {
    let mut element = initialised();
    let generate =
        |storage: &mut Storage<'_>, id| storage.generate(&new(id, SecretAlgorithm::Aes128Gcm));
    assert_eq!(
        generate(&mut user(&mut element), 1),
        Err(StorageError::NotAuthenticated("GENERATE SECRET KEY"))
    );
    let mut storage = Storage::open(&mut element);
    assert_eq!(
        storage.authenticate_management(&[0; 32]),
        Err(StorageError::WrongManagementKey)
    );
    storage.authenticate_management(&MANAGEMENT).unwrap();
    generate(&mut storage, 1).unwrap();
    assert_eq!(
        generate(&mut storage, 1),
        Err(StorageError::KeyExists(key(1)))
    );
    assert_eq!(
        storage.encipher(key(1), b"", b"x"),
        Err(StorageError::NotAuthenticated("ENCIPHER"))
    );
    let cryptogram = user(&mut element).encipher(key(1), b"", b"x").unwrap();
    assert_eq!(
        user(&mut element).delete_key(key(1)),
        Err(StorageError::NotAuthenticated("DELETE KEY"))
    );
    let mut storage = Storage::open(&mut element);
    storage.authenticate_management(&MANAGEMENT).unwrap();
    storage.delete_key(key(1)).unwrap();
    generate(&mut storage, 1).unwrap();
    assert_eq!(
        user(&mut element).decipher(key(1), b"", &cryptogram),
        Err(StorageError::Mismatch),
        "the same number is another key"
    );
}

#[test]
fn a_wrong_pin_costs_one_try_and_is_not_shown_twice() {
    let mut element = with_keys();
    let mut storage = Storage::open(&mut element);
    assert_eq!(storage.with_pin(b"12345"), Err(StorageError::PinForm));
    storage.with_pin(b"000000").unwrap();
    assert_eq!(storage.keys(), Err(StorageError::WrongPin { tries: 2 }));
    assert_eq!(
        storage.keys(),
        Err(StorageError::NotAuthenticated("GET DATA"))
    );
    // One counter for both applications.
    assert_eq!(Piv::open(&mut element).pin_tries(), Ok(Some(2)));
}

/// A card's own quotas count, and what it holds already stays when they become less.
#[test]
fn quotas_by_configuration() {
    let few = Quotas {
        keys: 1,
        objects: 2,
        object_bytes: 10,
        bytes: 20,
    };
    let mut element = Counted::within(few, birth());
    Piv::open(&mut element)
        .set_management_key(&MANAGEMENT)
        .unwrap();
    let object = |id| NewObject {
        id,
        read: Access::Pin,
        write: Access::Pin,
        label: "",
    };
    let mut storage = user(&mut element);
    assert_eq!(
        storage.create(&object(0), &[0; 11]),
        Err(StorageError::Quota)
    );
    storage.create(&object(0), &[0; 10]).unwrap();
    assert_eq!(
        storage.create(&object(1), &[0; 5]),
        Err(StorageError::Quota)
    );
    storage.create(&object(1), &[0; 4]).unwrap();
    assert_eq!(storage.put(1, &[0; 5]), Err(StorageError::Quota));
    storage.put(1, b"").unwrap();
    assert_eq!(storage.create(&object(2), b""), Err(StorageError::Quota));
    storage.authenticate_management(&MANAGEMENT).unwrap();
    storage
        .import(&new(1, SecretAlgorithm::Aes256Gcm), AES)
        .unwrap();
    assert_eq!(
        storage.import(&new(2, SecretAlgorithm::HmacSha256), MAC),
        Err(StorageError::Quota)
    );
    let select = [&[0x00, 0xA4, 0x04, 0x00, 9][..], &AID, &[0]].concat();
    let told = element.transmit(&select).unwrap().data;
    for (tag, value) in [(0x81, 1), (0x82, 2), (0x83, 10), (0x84, 20)] {
        let told =
            tlv::find(tlv::find(&told, 0x6F).unwrap(), 0xA5).and_then(|own| tlv::find(own, tag));
        assert_eq!(told, Some(&[0, 0, 0, value][..]));
    }
    // The same memory in a card with less room.
    let none = Quotas {
        keys: 0,
        objects: 0,
        object_bytes: 0,
        bytes: 0,
    };
    let nvm = element.card.card().nvm().clone();
    let mut element = Counted::within(none, nvm);
    let mut storage = user(&mut element);
    assert_eq!(*storage.get(0).unwrap(), [0; 10]);
    assert_eq!(storage.put(0, b"x"), Err(StorageError::Quota));
    storage.delete(0).unwrap();
}

#[test]
fn quotas() {
    let mut element = initialised();
    let mut storage = user(&mut element);
    let object = |id| NewObject {
        id,
        read: Access::Pin,
        write: Access::Pin,
        label: "",
    };
    let too_long = storage.create(&object(0), &[0; 15_361]);
    assert_eq!(too_long, Err(StorageError::Quota));
    for id in 0..4 {
        storage.create(&object(id), &[id; 15_360]).unwrap();
    }
    assert_eq!(storage.put(0, &[0; 15_361]), Err(StorageError::Quota));
    let total = storage.create(&object(4), &[0; 5_000]);
    assert_eq!(total, Err(StorageError::Quota), "65,536 bytes in all");
    storage.put(3, b"short").unwrap();
    storage.create(&object(4), &[0; 5_000]).unwrap();
    assert_eq!(*storage.get(0).unwrap(), [0; 15_360]);
    for id in 0..5 {
        storage.delete(id).unwrap();
    }
    for id in 0..64 {
        storage.create(&object(id), b"").unwrap();
    }
    let number = storage.create(&object(64), b"");
    assert_eq!(number, Err(StorageError::Quota), "64 objects");
    assert_eq!(storage.objects().unwrap().len(), 64);

    let mut storage = Storage::open(&mut element);
    storage.authenticate_management(&MANAGEMENT).unwrap();
    for id in 1..=64 {
        storage
            .generate(&new(id, SecretAlgorithm::Aes128Gcm))
            .unwrap();
    }
    assert_eq!(
        storage.generate(&new(65, SecretAlgorithm::Aes128Gcm)),
        Err(StorageError::Quota)
    );
    assert_eq!(storage.keys().unwrap().len(), 64);
}

#[test]
fn what_was_made_survives_a_new_process() {
    let mut element = with_keys();
    let mut storage = user(&mut element);
    let cryptogram = storage.encipher(key(1), b"", b"kept").unwrap();
    let label = NewObject {
        id: 0xFF,
        read: Access::Free,
        write: Access::Pin,
        label: "Füße",
    };
    storage.create(&label, b"content").unwrap();
    let log = std::mem::take(&mut element.card.host_mut().log);
    let mut again = Counted::on(Nvm::replay(
        std::iter::once(factory::birth([1; 16])).chain(log),
    ));
    assert_eq!(*Storage::open(&mut again).get(0xFF).unwrap(), b"content");
    let mut storage = user(&mut again);
    assert_eq!(
        *storage.decipher(key(1), b"", &cryptogram).unwrap(),
        b"kept"
    );
    assert_eq!(storage.objects().unwrap()[0].label, "Füße");
}

/// Everything that writes, once.
fn everything(element: &mut Counted) -> Result<(), StorageError> {
    let mut storage = Storage::open(element);
    storage.authenticate_management(&MANAGEMENT)?;
    storage.import(&new(1, SecretAlgorithm::Aes256Gcm), AES)?;
    storage.import(&new(3, SecretAlgorithm::Aes256Kw), KW)?;
    storage.generate(&wrappable(5, SecretAlgorithm::HmacSha256))?;
    let mut storage = user(element);
    storage.encipher(key(1), b"", b"x")?;
    let wrapped = storage.wrap(key(3), key(5))?;
    storage.unwrap(key(3), &new(6, SecretAlgorithm::HmacSha256), &wrapped)?;
    let object = NewObject {
        id: 1,
        read: Access::Pin,
        write: Access::Pin,
        label: "one",
    };
    storage.create(&object, b"first")?;
    storage.put(1, b"second")?;
    storage.delete(1)?;
    let mut storage = Storage::open(element);
    storage.authenticate_management(&MANAGEMENT)?;
    storage.delete_key(key(5))
}

/// What a user finds: numbers of keys, and the object's content.
fn found(element: &mut Counted) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut storage = user(element);
    let keys = storage.keys().unwrap();
    let content = match storage.get(1) {
        Ok(content) => Some(content.to_vec()),
        Err(error) => {
            assert_eq!(error, StorageError::NoObject(1));
            None
        }
    };
    (keys.iter().map(|key| key.reference.id()).collect(), content)
}

#[test]
fn power_cut_at_every_write() {
    let mut whole = initialised();
    everything(&mut whole).unwrap();
    let log: Vec<Delta> = whole.card.host().log.clone();
    let prefix = |len: usize| {
        let deltas = log.iter().take(len).cloned();
        Counted::on(Nvm::replay(
            std::iter::once(factory::birth([1; 16])).chain(deltas),
        ))
    };
    // Every prefix of what was written is a card that works, and none goes back.
    let mut states = Vec::new();
    for len in 1..=log.len() {
        let state = found(&mut prefix(len));
        if states.last() != Some(&state) {
            states.push(state);
        }
    }
    let content = |text: &[u8]| Some(text.to_vec());
    assert_eq!(
        states,
        [
            (vec![], None),
            (vec![1], None),
            (vec![1, 3], None),
            (vec![1, 3, 5], None),
            (vec![1, 3, 5, 6], None),
            (vec![1, 3, 5, 6], content(b"first")),
            (vec![1, 3, 5, 6], content(b"second")),
            (vec![1, 3, 5, 6], None),
            (vec![1, 3, 6], None),
        ]
    );
    // A disk that refuses any one write leaves the state before it, also in the card that runs.
    for good in 1..log.len() {
        let mut element = prefix(1);
        element.card.host_mut().fail = false;
        let mut cut = Cut {
            element,
            left: good - 1,
        };
        let _ = cut.everything();
        let mut element = cut.element;
        element.card.host_mut().fail = false;
        element.reset(false).unwrap();
        let state = found(&mut element);
        assert!(states.contains(&state), "{good}: {state:?}");
    }
}

/// An element whose disk is full after some writes.
struct Cut {
    element: Counted,
    left: usize,
}

impl Cut {
    fn everything(&mut self) -> Result<(), StorageError> {
        // Writes are counted before each command: none of this application's commands writes twice but VERIFY.
        struct Watched<'a>(&'a mut Cut);
        impl SecureElement for Watched<'_> {
            fn power_on(&mut self) -> Result<Atr, ElementError> {
                self.0.element.power_on()
            }
            fn power_off(&mut self) {
                self.0.element.power_off();
            }
            fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
                self.0.element.reset(warm)
            }
            fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
                let host = self.0.element.card.host_mut();
                host.fail = host.log.len() >= self.0.left;
                self.0.element.transmit(apdu)
            }
        }
        let mut watched = Watched(self);
        let mut storage = Storage::open(&mut watched);
        storage.authenticate_management(&MANAGEMENT)?;
        storage.import(&new(1, SecretAlgorithm::Aes256Gcm), AES)?;
        storage.import(&new(3, SecretAlgorithm::Aes256Kw), KW)?;
        storage.generate(&wrappable(5, SecretAlgorithm::HmacSha256))?;
        let mut storage = Storage::open(&mut watched);
        storage.with_pin(PIN)?;
        let wrapped = storage.wrap(key(3), key(5))?;
        storage.unwrap(key(3), &new(6, SecretAlgorithm::HmacSha256), &wrapped)?;
        let object = NewObject {
            id: 1,
            read: Access::Pin,
            write: Access::Pin,
            label: "one",
        };
        storage.create(&object, b"first")?;
        storage.put(1, b"second")
    }
}

#[test]
fn encryptions_are_counted_ahead_and_end_at_the_bound() {
    let mut element = with_keys();
    let writes = |element: &Counted| {
        let counts = |delta: &&Delta| delta.changes.contains_key("storage/uses/01");
        element.card.host().log.iter().filter(counts).count()
    };
    for _ in 0..257 {
        user(&mut element).encipher(key(1), b"", b"x").unwrap();
    }
    assert_eq!(writes(&element), 2, "one write covers 256");

    let mut nvm = element.card.card().nvm().clone();
    let used_up = Delta {
        changes: [(
            "storage/uses/01".to_owned(),
            Some(Zeroizing::new((1u32 << 24).to_be_bytes().to_vec())),
        )]
        .into(),
    };
    nvm = Nvm::replay([nvm.snapshot(), used_up]);
    let mut element = Counted::on(nvm);
    let mut storage = user(&mut element);
    assert_eq!(
        storage.encipher(key(1), b"", b"x"),
        Err(StorageError::Conditions("ENCIPHER"))
    );
    storage.encipher(key(4), b"", b"x").unwrap();
}

#[test]
fn primitives_are_charged() {
    let mut element = with_keys();
    let charged = |element: &mut Counted, f: &dyn Fn(&mut Storage<'_>)| {
        element.card.host_mut().cost = Cost::ZERO;
        f(&mut user(element));
        Cost {
            io_bytes: 0,
            ..element.card.host().cost
        }
    };
    let cipher = |bytes| Cost {
        cipher_keys: 1,
        cipher_messages: 1,
        cipher_bytes: bytes,
        ..Cost::ZERO
    };
    let sealed = user(&mut element)
        .encipher(key(1), b"head", &[0; 100])
        .unwrap();
    let seal = |s: &mut Storage<'_>| drop(s.encipher(key(1), b"head", &[0; 100]).unwrap());
    assert_eq!(charged(&mut element, &seal), cipher(16 * (7 + 1 + 1)));
    let open = |s: &mut Storage<'_>| drop(s.decipher(key(1), b"head", &sealed).unwrap());
    assert_eq!(charged(&mut element, &open), cipher(16 * (7 + 1 + 1)));
    let mac = |s: &mut Storage<'_>| drop(s.mac(key(2), &[0; 200]).unwrap());
    let hash = Cost {
        hash_blocks: 1 + 4 + 2,
        hash_messages: 1,
        ..Cost::ZERO
    };
    assert_eq!(charged(&mut element, &mac), hash);
    let wrap = |s: &mut Storage<'_>| drop(s.wrap(key(3), key(4)).unwrap());
    assert_eq!(charged(&mut element, &wrap), cipher(96 * 5));
    // The challenge of the administrator's key, then the new key.
    let generate = |s: &mut Storage<'_>| {
        s.authenticate_management(&MANAGEMENT).unwrap();
        s.generate(&new(9, SecretAlgorithm::Aes256Gcm)).unwrap();
    };
    let came = charged(&mut element, &generate);
    assert_eq!((came.cipher_keys, came.hash_blocks), (1, 0));
}

/// Commands that are near to those of the applications of the card.
fn command() -> impl Strategy<Value = Command> {
    let ins = prop_oneof![
        prop::sample::select(vec![
            0x20u8, 0x22, 0x24, 0x2A, 0x2C, 0x47, 0x84, 0x87, 0xB0, 0xC0, 0xCA, 0xCB, 0xDA, 0xDB,
            0xE0, 0xE4, 0xEE, 0xF7, 0xF8, 0xF9, 0xFA, 0xFB, 0xFD, 0xFE, 0xFF,
        ]),
        any::<u8>(),
    ];
    let p1 = prop_oneof![
        prop::sample::select(vec![
            0x00u8, 0x01, 0x3F, 0x41, 0x80, 0x83, 0x86, 0x8E, 0xC1, 0xFF
        ]),
        any::<u8>(),
    ];
    let p2 = prop_oneof![
        prop::sample::select(vec![
            0x00u8, 0x01, 0x02, 0x03, 0x04, 0x80, 0x83, 0x86, 0x9B, 0xA2, 0xB4, 0xB8, 0xFF,
        ]),
        any::<u8>(),
    ];
    let reference = prop::sample::select(vec![1u8, 2, 3, 4, 5, 0x10]);
    let data = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..40),
        reference.clone().prop_map(|key| vec![key]),
        reference.clone().prop_map(|key| tlv::object(0x83, &[key])),
        Just(vec![0x5C, 0x01, 0xB8]),
        Just(vec![0x5C, 0x01, 0x62]),
        (
            reference,
            1u8..6,
            0u8..2,
            prop::collection::vec(any::<u8>(), 0..40)
        )
            .prop_map(|(key, algorithm, export, bytes)| {
                let mut out = tlv::object(0x83, &[key]);
                tlv::write(&mut out, 0x80, &[algorithm]);
                tlv::write(&mut out, 0x81, &[export]);
                tlv::write(&mut out, 0x86, &bytes);
                out
            }),
    ];
    (
        prop::sample::select(vec![0x00u8, 0x00, 0x00, 0x10, 0x80, 0xA0]),
        ins,
        p1,
        p2,
        data,
    )
        .prop_map(|(cla, ins, p1, p2, data)| {
            Command::new(cla, ins, p1, p2).with_data(data).with_ne(256)
        })
}

/// Whether eight bytes in a row of a key that was imported stand in an answer.
fn leaks(answer: &[u8]) -> bool {
    [AES, MAC, KW, LEAVES]
        .iter()
        .flat_map(|key| key.windows(8))
        .any(|window| answer.windows(8).any(|bytes| bytes == window))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever an administrator and user together ask, in whatever order: no answer holds a key.
    #[test]
    fn no_command_gives_a_key(
        commands in prop::collection::vec(command(), 1..30),
        application in 0..3,
    ) {
        let mut element = with_keys();
        let aid: &[u8] = match application {
            0 | 1 => &AID,
            _ => &gose_element::drive::piv::AID,
        };
        let select = Command::new(0x00, 0xA4, 0x04, 0x00).with_data(aid).with_ne(256);
        element.transmit(&select.encode().unwrap()).unwrap();
        if application == 0 {
            let mut storage = user(&mut element);
            storage.keys().unwrap();
            storage.authenticate_management(&MANAGEMENT).unwrap();
        }
        for command in commands {
            let mut response = element.transmit(&command.encode().unwrap()).unwrap();
            prop_assert!(!leaks(&response.data), "{command:?}");
            while response.sw.more_available().is_some() {
                response = element.transmit(&[0x00, 0xC0, 0x00, 0x00, 0x00]).unwrap();
                prop_assert!(!leaks(&response.data), "{command:?}");
            }
        }
    }
}

#[test]
fn the_search_for_leaks_finds_one() {
    let mut element = with_keys();
    let mut storage = user(&mut element);
    let cryptogram = storage.encipher(key(1), b"", LEAVES).unwrap();
    assert!(!leaks(&cryptogram));
    let plain = storage.decipher(key(1), b"", &cryptogram).unwrap();
    assert!(leaks(&plain), "what was given as data comes back as data");
    assert_eq!(
        element.transmit(&[0x00, 0x20, 0x00, 0x80]).unwrap().sw,
        StatusWord::NORMAL
    );
}
