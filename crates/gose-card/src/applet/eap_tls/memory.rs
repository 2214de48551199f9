//! The record memory in non-volatile memory, and private keys on their way out of it.

use std::sync::Arc;

use gose_proto::{
    apdu::StatusWord,
    eap::{
        Type,
        records::{self, END, MEMORY, Record, kind},
    },
};
use zeroize::Zeroizing;

use crate::{
    keyring::Keyring,
    keystore::{Algorithm, PrivateKey},
    nvm::Nvm,
};

/// Bytes of one object: a WRITE changes two at most.
const PAGE: usize = 256;

/// Last two bytes: 2000 sessions may be resumed; the capabilities RSA public (04) and private (08), cipher
/// (10), random (20), keys of a CA of 2,048 bits (80).
const FLAGS: [u8; 2] = [0x20, 0xBC];

/// Slots for keys that belong to one identity: they came in records of type 21, or were made as 26.
const OWN_SLOTS: std::ops::RangeInclusive<u8> = 0xF0..=0xFF;

/// First byte of a PKCS#8 key; a record whose key was taken into a slot begins with the slot's number.
const DER_SEQUENCE: u8 = 0x30;

/// What the flags in the last two bytes say; 8000 (test vectors) and 4000 (single step) mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags {
    /// 2000: sessions may be resumed, where the identity's policy says so too.
    pub(super) allow_resumption: bool,
    /// 1000: Method-FCT answers nothing.
    pub(super) forbid_method_function: bool,
}

impl Flags {
    /// The flags of a memory that [`load`] gave.
    pub(super) fn of(memory: &[u8]) -> Self {
        let [.., high, _] = *memory else {
            return Self {
                allow_resumption: false,
                forbid_method_function: true,
            };
        };
        Self {
            allow_resumption: high & 0x20 != 0,
            forbid_method_function: high & 0x10 != 0,
        }
    }
}

fn page_name(index: usize) -> String {
    format!("eap/record/{index:02x}")
}

/// The whole memory.
pub(super) fn load(nvm: &Nvm) -> Zeroizing<Vec<u8>> {
    let mut memory = Zeroizing::new(vec![END; MEMORY]);
    memory[MEMORY - 2..].copy_from_slice(&FLAGS);
    for (index, page) in memory.chunks_mut(PAGE).enumerate() {
        if let Some(stored) = nvm.get(&page_name(index)).filter(|s| s.len() == page.len()) {
            page.copy_from_slice(stored);
        }
    }
    memory
}

/// Stages the pages in which `memory` differs from what is stored.
fn store(nvm: &mut Nvm, memory: &[u8]) {
    let before = load(nvm);
    let pages = memory.chunks(PAGE).zip(before.chunks(PAGE)).enumerate();
    for (index, (page, _)) in pages.filter(|(_, (new, old))| new != old) {
        nvm.put(page_name(index), page);
    }
}

/// READ: values of secret keys read as zeros.
pub(super) fn read(nvm: &Nvm, offset: usize, length: usize) -> Vec<u8> {
    let mut memory = load(nvm);
    let secrets: Vec<(usize, usize)> = match records::parse(&memory) {
        Ok((records, _)) => records
            .iter()
            .flat_map(|record| &record.items)
            .filter(|item| kind::is_secret(item.kind))
            .map(|item| (item.at, item.value.len()))
            .collect(),
        // Half-written records: what is a key in them is not known.
        Err(_) => vec![(0, MEMORY - FLAGS.len())],
    };
    for (at, length) in secrets {
        memory[at..at + length].fill(0);
    }
    memory[offset..offset + length].to_vec()
}

/// Present while the memory holds what no READ may show: half a record, or a key that is still in it.
const UNFINISHED: &str = "eap/record-unfinished";

/// WRITE, then takes private keys that are whole into the key store.
pub(super) fn write(nvm: &mut Nvm, keys: &mut Keyring, offset: usize, data: &[u8]) {
    let mut memory = load(nvm);
    memory[offset..offset + data.len()].copy_from_slice(data);
    for (at, length) in waiting_keys(&memory) {
        take_key(nvm, keys, &mut memory[at..at + length]);
    }
    if records::parse(&memory).is_err() || !waiting_keys(&memory).is_empty() {
        nvm.put(UNFINISHED, [1]);
    } else if nvm.get(UNFINISHED).is_some() {
        nvm.delete(UNFINISHED);
    }
    store(nvm, &memory);
}

/// Erases what a WRITE that stopped halfway left behind: whoever comes next must not find half a key. Own
/// keys of identities that are not there any more go too.
pub(super) fn sweep(nvm: &mut Nvm, keys: &mut Keyring) {
    if nvm.get(UNFINISHED).is_some() {
        sweep_records(nvm);
    }
    let held: Vec<u8> = OWN_SLOTS.filter(|slot| keys.contains(nvm, *slot)).collect();
    if held.is_empty() {
        return;
    }
    if let Ok((records, _)) = records::parse(&load(nvm)) {
        let used: Vec<u8> = records.iter().flat_map(own_slots).collect();
        for slot in held.into_iter().filter(|slot| !used.contains(slot)) {
            keys.remove(nvm, slot);
        }
    }
}

fn sweep_records(nvm: &mut Nvm) {
    let mut memory = load(nvm);
    for (at, length) in waiting_keys(&memory) {
        memory[at..at + length].fill(0);
    }
    let whole = records::whole_until(&memory);
    memory[whole..MEMORY - FLAGS.len()].fill(END);
    nvm.delete(UNFINISHED);
    store(nvm, &memory);
}

/// Places and lengths of PKCS#8 values that are not in the key store yet.
fn waiting_keys(memory: &[u8]) -> Vec<(usize, usize)> {
    let Ok((records, _)) = records::parse(memory) else {
        return Vec::new();
    };
    records
        .iter()
        .flat_map(|record| &record.items)
        .filter(|item| item.kind == kind::PRIVATE_KEY && item.value.first() == Some(&DER_SEQUENCE))
        .map(|item| (item.at, item.value.len()))
        .collect()
}

/// A value that the store takes in is replaced by its slot and zeros. One that it does not take is half
/// written or wrong.
fn take_key(nvm: &mut Nvm, keys: &mut Keyring, value: &mut [u8]) {
    if let Some(slot) = free_slot(nvm, keys)
        && keys.import(nvm, slot, value).is_ok()
    {
        value.fill(0);
        value[0] = slot;
    }
}

fn free_slot(nvm: &Nvm, keys: &Keyring) -> Option<u8> {
    OWN_SLOTS
        .into_iter()
        .find(|slot| !keys.contains(nvm, *slot))
}

/// Slots of the keys that are a record's alone.
fn own_slots(record: &Record<'_>) -> impl Iterator<Item = u8> {
    record.items.iter().filter_map(|item| match item.kind {
        kind::PRIVATE_KEY => own_slot(item.value),
        kind::GENERATED => item.value.get(1..).and_then(own_slot),
        _ => None,
    })
}

/// Makes a key pair that is the identity's alone, in place of the key that it had: record type 26.
///
/// # Errors
/// `6A88` where no identity has this label, `6A84` without room for key or record, `6A81` for an algorithm
/// that the key store does not make.
pub(super) fn generate(
    nvm: &mut Nvm,
    keys: &mut Keyring,
    label: &[u8],
    algorithm: Algorithm,
) -> Result<Arc<dyn PrivateKey>, StatusWord> {
    let mut memory = load(nvm);
    let (records, end) =
        records::parse(&memory).map_err(|_| StatusWord::CONDITIONS_NOT_SATISFIED)?;
    let record = records
        .iter()
        .find(|record| record.label == label)
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    let slot = free_slot(nvm, keys).ok_or(StatusWord::NOT_ENOUGH_MEMORY)?;
    let own = [algorithm.id(), slot];
    let is_key = |k| matches!(k, kind::PRIVATE_KEY | kind::GENERATED | kind::SLOT);
    let items = record.items.iter().filter(|item| !is_key(item.kind));
    let mut items: Vec<(u8, &[u8])> = items.map(|item| (item.kind, item.value)).collect();
    items.push((kind::GENERATED, &own));
    let changed = records::encode(record.label, record.eap_id, record.method, &items)
        .map(Zeroizing::new)
        .map_err(|_| StatusWord::NOT_ENOUGH_MEMORY)?;
    let behind = Zeroizing::new(memory[record.span.end..=end].to_vec());
    let records_end = record.span.start + changed.len() + behind.len();
    if records_end > MEMORY - FLAGS.len() {
        return Err(StatusWord::NOT_ENOUGH_MEMORY);
    }
    let replaced: Vec<u8> = own_slots(record).collect();
    let span = record.span.clone();
    let key = keys
        .generate(nvm, slot, algorithm)
        .map_err(|_| StatusWord::FUNCTION_NOT_SUPPORTED)?;
    for slot in replaced {
        keys.remove(nvm, slot);
    }
    let stood = end + 1;
    let (middle, last) = (span.start + changed.len(), records_end);
    memory[span.start..middle].copy_from_slice(&changed);
    memory[middle..last].copy_from_slice(&behind);
    memory[last..stood.max(last)].fill(END);
    store(nvm, &memory);
    Ok(key)
}

/// The slot of a record's private key of type 21, once it was taken in.
pub(super) fn own_slot(value: &[u8]) -> Option<u8> {
    value
        .first()
        .copied()
        .filter(|slot| OWN_SLOTS.contains(slot))
}

/// Labels in the order of the records.
pub(super) fn labels(nvm: &Nvm) -> Vec<Vec<u8>> {
    let memory = load(nvm);
    records::parse(&memory).map_or_else(
        |_| Vec::new(),
        |(records, _)| records.iter().map(|record| record.label.to_vec()).collect(),
    )
}

/// Appends an identity without keys.
pub(super) fn add(nvm: &mut Nvm, label: &[u8]) -> Result<(), StatusWord> {
    let mut memory = load(nvm);
    let (records, end) =
        records::parse(&memory).map_err(|_| StatusWord::CONDITIONS_NOT_SATISFIED)?;
    if records.iter().any(|record| record.label == label) {
        return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
    }
    let mut record =
        records::encode(label, label, Type::TLS, &[]).map_err(|_| StatusWord::INCORRECT_DATA)?;
    record.push(END);
    let room = memory
        .get_mut(end..MEMORY - FLAGS.len())
        .and_then(|rest| rest.get_mut(..record.len()))
        .ok_or(StatusWord::NOT_ENOUGH_MEMORY)?;
    room.copy_from_slice(&record);
    store(nvm, &memory);
    Ok(())
}

/// Removes an identity and the keys that came with it; the records behind it move up.
pub(super) fn delete(nvm: &mut Nvm, keys: &mut Keyring, label: &[u8]) -> Result<(), StatusWord> {
    let mut memory = load(nvm);
    let (records, end) =
        records::parse(&memory).map_err(|_| StatusWord::CONDITIONS_NOT_SATISFIED)?;
    let record = records
        .iter()
        .find(|record| record.label == label)
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    for slot in own_slots(record) {
        keys.remove(nvm, slot);
    }
    let span = record.span.clone();
    memory.copy_within(span.end..end, span.start);
    memory[end - span.len()..end].fill(END);
    store(nvm, &memory);
    Ok(())
}
