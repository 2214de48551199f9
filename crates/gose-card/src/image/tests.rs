use std::sync::Arc;

use gose_element::SecureElement;
use proptest::prelude::*;

use super::*;
use crate::{Hosted, Memory, applet::piv, factory, keystore::SoftwareKeyStore};

const SEID: &str = "SE1";

fn master() -> MasterKey {
    Zeroizing::new([0x4D; 32])
}

/// An image of these deltas, and where each record ends.
fn written(deltas: &[Delta]) -> (Vec<u8>, Vec<usize>) {
    let (mut image, mut bytes) = Image::create(&master(), SEID, [0x53; 32]).unwrap();
    let mut ends = vec![bytes.len()];
    for (number, delta) in (0..).zip(deltas) {
        let sealed = image.seal(delta, [number; 12]).unwrap();
        bytes.extend_from_slice(sealed.bytes());
        image.written(&sealed);
        ends.push(bytes.len());
        assert_eq!(
            (image.len(), image.records()),
            (bytes.len(), u64::from(number) + 1)
        );
    }
    (bytes, ends)
}

fn delta(changes: &[(&str, Option<&[u8]>)]) -> Delta {
    let changes = changes
        .iter()
        .map(|(name, value)| {
            (
                (*name).to_owned(),
                value.map(|v| Zeroizing::new(v.to_vec())),
            )
        })
        .collect();
    Delta { changes }
}

fn three() -> Vec<Delta> {
    vec![
        delta(&[("a", Some(b"one")), ("b", Some(b""))]),
        delta(&[("a", None), ("c", Some(&[7; 100]))]),
        delta(&[("b", Some(b"three"))]),
    ]
}

fn open(bytes: &[u8]) -> Result<Opened, ImageError> {
    Image::open(&master(), SEID, bytes)
}

#[test]
fn cut_at_any_byte_it_is_a_whole_prefix_or_a_clear_error() {
    let deltas = three();
    let (bytes, ends) = written(&deltas);
    for cut in 0..=bytes.len() {
        let opened = open(&bytes[..cut]);
        if cut < HEADER {
            assert_eq!(opened.unwrap_err(), ImageError::HeaderCut(cut));
            continue;
        }
        let opened = opened.unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let expected = Nvm::replay(deltas[..whole].iter().cloned());
        assert!(opened.nvm.snapshot() == expected.snapshot(), "cut at {cut}");
        assert_eq!(opened.image.len(), ends[whole]);
        assert_eq!(opened.torn, cut - ends[whole]);
    }
}

#[test]
fn after_a_cut_the_log_goes_on() {
    let (bytes, ends) = written(&three());
    let opened = open(&bytes[..bytes.len() - 1]).unwrap();
    let again = opened
        .image
        .seal(&delta(&[("d", Some(b"!"))]), [9; 12])
        .unwrap();
    let mut file = bytes[..ends[2]].to_vec();
    file.extend_from_slice(again.bytes());
    let opened = open(&file).unwrap();
    assert_eq!((opened.nvm.get("d"), opened.torn), (Some(&b"!"[..]), 0));
    assert_eq!(opened.nvm.get("b"), Some(&b""[..]));
}

#[test]
fn zeros_that_a_file_system_left_are_a_torn_end() {
    let (mut bytes, _) = written(&three());
    bytes.extend_from_slice(&[0; 500]);
    assert_eq!(open(&bytes).unwrap().torn, 500);
    bytes.push(1);
    assert!(matches!(
        open(&bytes),
        Err(ImageError::Changed { record: 3, .. })
    ));
}

#[test]
fn a_flipped_bit_is_refused_by_its_record() {
    let (bytes, ends) = written(&three());
    for place in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut changed = bytes.clone();
            changed[place] ^= bit;
            let record = ends.iter().filter(|end| **end <= place).count();
            let expected = match (place, record.checked_sub(1)) {
                (0..8, _) => ImageError::NoImage,
                (8, _) => ImageError::Version(changed[8]),
                (_, None) => ImageError::OtherKey,
                (_, Some(record)) => ImageError::Changed {
                    record: record as u64,
                    offset: ends[record],
                },
            };
            assert_eq!(open(&changed).unwrap_err(), expected, "byte {place}");
        }
    }
}

#[test]
fn records_are_not_moved() {
    let (bytes, ends) = written(&three());
    let record = |n: usize| &bytes[ends[n]..ends[n + 1]];
    let header = &bytes[..HEADER];
    let refused = |parts: &[&[u8]]| open(&parts.concat()).unwrap_err();
    let at = |record| ImageError::Changed {
        record,
        offset: ends[usize::try_from(record).unwrap()],
    };
    assert_eq!(refused(&[header, record(1), record(0)]), at(0));
    assert_eq!(refused(&[header, record(0), record(2)]), at(1));
    assert_eq!(refused(&[header, record(0), record(0)]), at(1));

    // Another image of the same element, another element, another master key.
    let (_, other) = Image::create(&master(), SEID, [0x54; 32]).unwrap();
    assert_eq!(refused(&[&other, record(0)]), at(0));
    let elsewhere = Image::open(&master(), "SE2", &bytes).unwrap_err();
    assert_eq!(elsewhere, ImageError::OtherKey);
    let stranger = Image::open(&Zeroizing::new([0; 32]), SEID, &bytes).unwrap_err();
    assert_eq!(stranger, ImageError::OtherKey);
}

#[test]
fn a_compacted_image_holds_the_same_memory() {
    let (bytes, _) = written(&three());
    let nvm = open(&bytes).unwrap().nvm;
    let (image, bytes) = Image::compact(&master(), SEID, [1; 32], [2; 12], &nvm).unwrap();
    let opened = open(&bytes).unwrap();
    assert!(opened.nvm.snapshot() == nvm.snapshot());
    assert_eq!((image.len(), image.records()), (bytes.len(), 1));
    assert!(!image.is_worth_compacting(&nvm));
}

#[test]
fn a_long_log_is_worth_compacting() {
    let deltas: Vec<_> = (0..200u8)
        .map(|n| delta(&[("x", Some(&[n; 500]))]))
        .collect();
    let (bytes, _) = written(&deltas);
    let opened = open(&bytes).unwrap();
    assert!(opened.image.is_worth_compacting(&opened.nvm));
}

/// A card, driven by VERIFY commands, whose every write is kept.
fn after(pins: &[bool]) -> (Vec<Delta>, Vec<usize>) {
    let birth = factory::birth([0; 16]);
    let card = factory::new_card(Nvm::replay([birth.clone()]), Arc::new(SoftwareKeyStore));
    let mut card = Hosted::new(card, Memory::default());
    card.power_on().unwrap();
    card.transmit(b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00")
        .unwrap();
    let mut writes = Vec::new();
    for right in pins {
        let verify: &[u8] = if *right {
            b"\x00\x20\x00\x80\x08123456\xFF\xFF"
        } else {
            b"\x00\x20\x00\x80\x08000000\xFF\xFF"
        };
        card.transmit(verify).unwrap();
        writes.push(1 + card.host().log.len());
    }
    let log = [birth].into_iter().chain(card.host().log.iter().cloned());
    (log.collect(), writes)
}

/// The tries that must be left after these VERIFY commands were answered.
fn model(pins: &[bool]) -> u8 {
    pins.iter()
        .fold(3, |tries: u8, right| match (tries, right) {
            (0, _) => 0,
            (_, true) => 3,
            (tries, false) => tries - 1,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The power fails at any byte of the log. Whatever the host had learnt by then, the counter knows:
    /// every comparison whose counter is in the image has been counted before its result was told.
    #[test]
    fn no_cut_gives_a_free_try(
        pins in proptest::collection::vec(proptest::bool::weighted(0.3), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let (deltas, writes) = after(&pins);
        let (bytes, ends) = written(&deltas);
        let cut = ends[1] + cut.index(bytes.len() - ends[1] + 1);
        let opened = open(&bytes[..cut]).unwrap();
        let records = usize::try_from(opened.image.records()).unwrap();
        let tries = piv::PIN.tries(&opened.nvm).unwrap();

        // Commands that were answered had all their records durable.
        let answered = writes.iter().filter(|write| **write <= records).count();
        let after_answered = model(&pins[..answered]);
        prop_assert!(tries == after_answered || tries + 1 == after_answered);
        if answered == pins.len() {
            prop_assert_eq!(tries, after_answered);
        }
        // The command that was cut in the middle told nothing, but its try is gone.
        let in_the_middle = answered < pins.len()
            && records > answered.checked_sub(1).map_or(1, |last| writes[last]);
        if in_the_middle {
            prop_assert_eq!(tries + 1, after_answered);
        }
    }

    #[test]
    fn any_bytes_after_a_header_do_not_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let (_, mut bytes) = Image::create(&master(), SEID, [0; 32]).unwrap();
        bytes.extend_from_slice(&tail);
        match open(&bytes) {
            Ok(opened) => prop_assert_eq!(opened.image.records(), 0),
            Err(error) => prop_assert_eq!(
                error,
                ImageError::Changed {
                    record: 0,
                    offset: HEADER
                }
            ),
        }
    }
}

/// An image that version 1 wrote: the first card of the project, frozen.
#[test]
fn an_image_of_version_1_goes_on_as_it_began_and_is_upgraded_by_compacting() {
    let bytes: &[u8] = include_bytes!("v1.image");
    let master = Zeroizing::new([0x0F; 32]);
    let opened = Image::open(&master, "OLD", bytes).unwrap();
    assert_eq!((opened.image.version(), opened.torn), (1, 0));
    assert!(opened.image.is_old());
    assert_eq!(piv::PIN.tries(&opened.nvm), Some(2));
    assert_eq!(factory::key_slots(&opened.nvm).len(), 2);

    // Its records are as long as they were, and continue the same chain.
    let mut image = opened.image;
    let sealed = image.seal(&delta(&[("d", Some(b"!"))]), [9; 12]).unwrap();
    assert_eq!(
        sealed.bytes().len(),
        RECORD_HEADER + TAG + 2 + 1 + 1 + 4 + 1
    );
    image.written(&sealed);
    let longer = [bytes, sealed.bytes()].concat();
    let again = Image::open(&master, "OLD", &longer).unwrap();
    assert_eq!(
        (again.nvm.get("d"), again.image.version()),
        (Some(&b"!"[..]), 1)
    );

    let (image, new) = Image::compact(&master, "OLD", [1; 32], [2; 12], &again.nvm).unwrap();
    assert_eq!((image.version(), image.is_old()), (VERSION, false));
    let upgraded = Image::open(&master, "OLD", &new).unwrap();
    assert!(upgraded.nvm.snapshot() == again.nvm.snapshot());
    assert_eq!(upgraded.image.version(), VERSION);
}

#[test]
fn a_later_version_is_refused_with_the_next_step() {
    let (mut bytes, _) = written(&three());
    bytes[8] = VERSION + 1;
    let error = open(&bytes).unwrap_err();
    assert_eq!(error, ImageError::Version(VERSION + 1));
    let text = error.to_string();
    assert!(text.contains("install that one again"), "{text}");
    bytes[8] = 0;
    assert_eq!(open(&bytes).unwrap_err(), ImageError::Version(0));
    // A header of one version does not pass as another.
    bytes[8] = 1;
    assert_eq!(open(&bytes).unwrap_err(), ImageError::OtherKey);
}

#[test]
fn lengths_of_records_tell_little() {
    let (_, ends) = written(&[
        delta(&[("piv/pin", Some(&[3; 10]))]),
        delta(&[("a", None)]),
        delta(&[("piv/object", Some(&[7; 60]))]),
        delta(&[("piv/object", Some(&[7; 110]))]),
    ]);
    let lengths: Vec<_> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(lengths[..3], [lengths[0]; 3]);
    assert_eq!(lengths[3], lengths[0] + PADDED);
}
