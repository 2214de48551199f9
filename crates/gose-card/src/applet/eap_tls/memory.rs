//! The record memory in non-volatile memory, and private keys on their way out of it.

use gose_proto::{
    apdu::StatusWord,
    eap::{
        Type,
        records::{self, END, MEMORY, kind},
    },
};
use zeroize::Zeroizing;

use crate::{keyring::Keyring, nvm::Nvm};

/// Bytes of one object: a WRITE changes two at most.
const PAGE: usize = 256;

/// Last two bytes: 2000 sessions may be resumed, 1000 Method-FCT is not for private keys.
const FLAGS: [u8; 2] = [0x30, 0x00];

/// Slots for keys that came in records of type 21.
const OWN_SLOTS: std::ops::RangeInclusive<u8> = 0xF0..=0xFF;

/// First byte of a PKCS#8 key; a record whose key was taken into a slot begins with the slot's number.
const DER_SEQUENCE: u8 = 0x30;

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

/// Erases what a WRITE that stopped halfway left behind: whoever comes next must not find half a key.
pub(super) fn sweep(nvm: &mut Nvm) {
    if nvm.get(UNFINISHED).is_none() {
        return;
    }
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
    let free = OWN_SLOTS
        .into_iter()
        .find(|slot| !keys.contains(nvm, *slot));
    if let Some(slot) = free
        && keys.import(nvm, slot, value).is_ok()
    {
        value.fill(0);
        value[0] = slot;
    }
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
    for item in record
        .items
        .iter()
        .filter(|item| item.kind == kind::PRIVATE_KEY)
    {
        if let Some(slot) = own_slot(item.value) {
            keys.remove(nvm, slot);
        }
    }
    let span = record.span.clone();
    memory.copy_within(span.end..end, span.start);
    memory[end - span.len()..end].fill(END);
    store(nvm, &memory);
    Ok(())
}
