//! The power fails: at every write, at every byte of what was written, and between a PIN's counter and its comparison.
#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_macros, reason = "what was found is told")]

use std::sync::Arc;

use gose_card::{
    Card, Host, HostError, Hosted, Progress,
    applet::piv,
    factory,
    image::{Image, MasterKey},
    keystore::SoftwareKeyStore,
    nvm::{Delta, Nvm},
    timing::Cost,
};
use gose_element::{
    Algorithm, SecureElement,
    drive::piv::{Piv, Slot},
};

const SELECT: &[u8] = b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00";
const RIGHT: &[u8] = b"\x00\x20\x00\x80\x08123456\xFF\xFF";
const WRONG: &[u8] = b"\x00\x20\x00\x80\x08000000\xFF\xFF";
const KEY: [u8; 32] = [0x42; 32];
const SEID: &str = "SE1";

fn card(nvm: Nvm) -> Card {
    factory::new_card(nvm, Arc::new(SoftwareKeyStore))
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// A disk that keeps an image, and notes where each record ends.
struct Disk {
    image: Image,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    numbers: Numbers,
}

impl Disk {
    fn new() -> Self {
        let master = MasterKey::new([0x4D; 32]);
        let (image, bytes) = Image::create(&master, SEID, [0x53; 32]).unwrap();
        let mut disk = Self {
            image,
            bytes,
            ends: Vec::new(),
            numbers: Numbers(7),
        };
        disk.persist(&factory::birth([1; 16])).unwrap();
        disk
    }
}

impl Host for Disk {
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError> {
        let nonce: [u8; 12] =
            std::array::from_fn(|_| u8::try_from(self.numbers.below(256)).unwrap());
        let sealed = self.image.seal(delta, nonce).unwrap();
        self.bytes.extend_from_slice(sealed.bytes());
        self.image.written(&sealed);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn spend(&mut self, _cost: &Cost) {}
}

/// What a card's counters and counts must be after so many records.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    tries: Option<u8>,
    counter: u32,
    keys: usize,
}

fn seen(nvm: &Nvm) -> Seen {
    let object = nvm.get(&piv::object_name(0x5F_C108).unwrap());
    let digits = |content: &[u8]| {
        content
            .iter()
            .fold(0, |n, digit| n * 256 + u32::from(*digit))
    };
    Seen {
        tries: piv::PIN.tries(nvm),
        counter: object.map_or(0, digits),
        keys: factory::key_slots(nvm).len(),
    }
}

#[test]
fn every_prefix_of_the_write_log_loads_and_counters_only_go_forward() {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let mut element = Hosted::new(card(nvm), Disk::new());
    element.power_on().unwrap();
    Piv::open(&mut element).set_management_key(&KEY).unwrap();
    let mut numbers = Numbers(1);
    for count in 1..=60_u32 {
        let mut piv = Piv::open(&mut element);
        match numbers.below(4) {
            0 => {
                piv.authenticate_management(&KEY).unwrap();
                piv.generate(Slot::CARD_AUTHENTICATION, Algorithm::P256)
                    .unwrap();
            }
            1 => drop(piv.verify(b"999999")),
            _ => drop(piv.verify(b"123456")),
        }
        let mut piv = Piv::open(&mut element);
        piv.authenticate_management(&KEY).unwrap();
        piv.put_object(0x5F_C108, &count.to_be_bytes()).unwrap();
        // A blocked PIN is no test of anything more.
        if Piv::open(&mut element).pin_tries().unwrap() == Some(1) {
            Piv::open(&mut element).verify(b"123456").unwrap();
        }
    }
    let Disk { bytes, ends, .. } = element.host();
    assert!(ends.len() > 120, "{}", ends.len());
    let master = MasterKey::new([0x4D; 32]);
    let mut last: Option<Seen> = None;
    let mut whole = 0;
    for cut in ends[0]..=bytes.len() {
        let is_end = ends.contains(&cut);
        // Every byte of some records, every end of all.
        if !is_end && whole % 10 != 3 {
            continue;
        }
        let opened = Image::open(&master, SEID, &bytes[..cut]).unwrap();
        let now = seen(&opened.nvm);
        if is_end {
            whole += 1;
        } else {
            assert_eq!(
                Some(&now),
                last.as_ref(),
                "a record that was cut changed something"
            );
        }
        assert_eq!(opened.image.records(), whole);
        if let Some(last) = &last {
            assert!(
                now.counter >= last.counter && now.keys >= last.keys,
                "{now:?} {last:?}"
            );
            assert!(now.counter <= last.counter + 1);
            // Tries fall one by one; they rise only to the limit.
            let (before, after) = (last.tries.unwrap(), now.tries.unwrap());
            assert!(
                after == before || after + 1 == before || after == 3,
                "{now:?} {last:?}"
            );
        }
        last = Some(now);
    }
    assert_eq!(last.unwrap().counter, 60);
    assert_eq!(whole, ends.len() as u64);
}

/// What happened until the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The counter was not durable.
    BeforeCounter,
    /// The counter was durable, nothing was compared.
    BeforeComparison,
    /// It was compared; what that came to was not durable, and nobody was told.
    AfterComparison,
    /// It was told.
    Never,
}

/// Ten thousand guesses, each cut somewhere: whoever cuts the power has no more comparisons than tries.
#[test]
fn ten_thousand_cuts_give_no_free_try() {
    let mut numbers = Numbers(4);
    let mut seen = [0_u32; 4];
    let (mut cuts, mut cards, mut blocked) = (0, 0, 0);
    while cuts < 10_000 {
        cards += 1;
        let mut durable = vec![factory::birth([1; 16])];
        let (mut compared, mut left) = (0, 3);
        loop {
            let mut card = card(Nvm::replay(durable.iter().cloned()));
            card.power_on();
            let Progress::Answer(selected, _) = card.receive(SELECT) else {
                panic!("SELECT writes nothing");
            };
            assert_eq!(selected.sw.value(), 0x9000);
            let counter = match card.receive(WRONG) {
                Progress::Persist(delta) => delta,
                Progress::Answer(refused, _) => {
                    assert_eq!((refused.sw.value(), left), (0x6983, 0));
                    blocked += 1;
                    break;
                }
            };
            let cut = match numbers.below(4) {
                0 => Cut::BeforeCounter,
                1 => Cut::BeforeComparison,
                2 => Cut::AfterComparison,
                _ => Cut::Never,
            };
            cuts += 1;
            seen[cut as usize] += 1;
            if cut != Cut::BeforeCounter {
                durable.push(counter);
                left -= 1;
            }
            if matches!(cut, Cut::AfterComparison | Cut::Never) {
                compared += 1;
                let answer = card.complete(true);
                let Progress::Answer(answer, _) = answer else {
                    panic!("a wrong PIN restores nothing");
                };
                assert_eq!(answer.sw.value(), 0x63C0 + left);
            }
            assert!(
                compared <= 3 - left,
                "{compared} comparisons, {left} tries left"
            );
            // A cut may cost the right PIN's bearer a try, and gives one back only when it is told.
            if left > 0 && numbers.below(8) == 0 {
                let Progress::Persist(counter) = card_with(&durable).receive(RIGHT) else {
                    panic!("the counter comes first");
                };
                durable.push(counter);
                left -= 1;
            }
            assert_eq!(tries(&durable), Some(u8::try_from(left).unwrap()));
        }
        assert!(compared <= 3);
    }
    assert!(seen.iter().all(|count| *count > 1_000), "{seen:?}");
    println!("{cuts} cuts on {cards} cards, {blocked} blocked at the end, no free try: {seen:?}");
}

fn card_with(durable: &[Delta]) -> Card {
    let mut card = card(Nvm::replay(durable.iter().cloned()));
    card.power_on();
    card.receive(SELECT);
    card
}

fn tries(durable: &[Delta]) -> Option<u8> {
    piv::PIN.tries(&Nvm::replay(durable.iter().cloned()))
}
