//! `[[slot]]`: a place where an element is.

use std::{collections::BTreeMap, path::PathBuf};

use gose_card::{
    applet::storage::Quotas,
    fault::{Fault, Plan},
    timing::Profile,
};
use gose_element::{Seid, SlotId};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{AidRule, ByDefault, KeySlot, Text};

/// A slot and the element in it.
#[derive(Debug, Clone, Serialize)]
#[serde(into = "Written")]
pub struct Slot {
    /// The element's name in the grid.
    pub seid: Text<Seid>,
    /// What is in the slot.
    pub kind: SlotKind,
    /// What happens to applications that no rule names.
    pub default: ByDefault,
    /// Rules for applications, before those of the whole node.
    pub aids: Vec<AidRule>,
}

/// What is in a slot.
#[derive(Debug, Clone)]
pub enum SlotKind {
    /// A card in software.
    Software(SoftwareSlot),
    /// The card in a reader of pcscd.
    Pcsc {
        /// Which reader.
        reader: Reader,
    },
    /// An element of a remote grid.
    Remote {
        /// The grid's node: host and port.
        node: String,
        /// The element's name there.
        seid: Seid,
    },
}

/// A card in software.
#[derive(Debug, Clone)]
pub struct SoftwareSlot {
    /// Its image; `<SEID>.image` in the store's directory if absent.
    pub image: Option<PathBuf>,
    /// The card whose slowness it imitates.
    pub timing: Option<&'static Profile>,
    /// The `[[key-store]]` of its keys; the image if absent.
    pub keys: Option<String>,
    /// Keys that the store has already, by slot: their identifiers there.
    pub adopt: Vec<(KeySlot, Vec<u8>)>,
    /// Bytes that its memory may hold.
    pub quota_bytes: u64,
    /// What its storage application may hold.
    pub storage: Storage,
    /// What goes wrong with it, on a test grid.
    pub faults: Vec<Plan>,
}

/// Quotas of a software card's storage application (`storage` of a slot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Storage {
    /// Secret keys.
    pub keys: usize,
    /// Data objects.
    pub objects: usize,
    /// Bytes of one object.
    pub object_bytes: usize,
    /// Bytes of all objects, labels included.
    pub bytes: usize,
}

impl Default for Storage {
    fn default() -> Self {
        let usual = Quotas::default();
        Self {
            keys: usual.keys,
            objects: usual.objects,
            object_bytes: usual.object_bytes,
            bytes: usual.bytes,
        }
    }
}

impl Storage {
    /// In the card's words.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        Quotas {
            keys: self.keys,
            objects: self.objects,
            object_bytes: self.object_bytes,
            bytes: self.bytes,
        }
    }

    fn checked(self) -> Result<Self, String> {
        let most = Quotas::MOST;
        for (name, value, most) in [
            ("keys", self.keys, most.keys),
            ("objects", self.objects, most.objects),
            ("object-bytes", self.object_bytes, most.object_bytes),
            ("bytes", self.bytes, most.bytes),
        ] {
            if value > most {
                return Err(format!("storage: {name} = {value}: at most {most}"));
            }
        }
        Ok(self)
    }
}

/// An element's memory, unless its slot says otherwise: all of PIV's containers filled, and some.
const QUOTA: u64 = 1 << 20;

/// How a slot names its reader; the first one in pcscd's order that fits is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// By a regular expression that occurs in its name.
    Name(String),
    /// By its serial number.
    Serial(String),
    /// By a regular expression that occurs in the ATR of the card in it, in upper case hexadecimal.
    Atr(String),
    /// By the number of the card in it, in hexadecimal: the slot's SEID too where it has none.
    Card(String),
}

impl Slot {
    pub(super) fn needs_store(&self) -> bool {
        matches!(self.kind, SlotKind::Software(_))
    }

    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        match &mut self.kind {
            SlotKind::Software(slot) => slot.image.as_mut(),
            SlotKind::Remote { .. } | SlotKind::Pcsc { .. } => None,
        }
    }
}

/// A slot as it stands in the file.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    seid: Option<Text<Seid>>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    adopt: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Storage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Text<Plan>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reader_serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    atr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_seid: Option<Text<Seid>>,
    #[serde(default)]
    default: ByDefault,
    #[serde(default, rename = "aid", skip_serializing_if = "Vec::is_empty")]
    aids: Vec<AidRule>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Software,
    Pcsc,
    Remote,
}

/// Slots in the order of the file; one without SEID is called by its card's number, or by its own.
pub(super) fn numbered<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Slot>, D::Error> {
    let slots = (0..).zip(Vec::<Written>::deserialize(from)?);
    let named = slots.map(|(number, written)| {
        let seid = match (&written.seid, &written.card) {
            (Some(given), _) => given.clone(),
            (None, Some(card)) => Text(card.to_uppercase().parse().map_err(D::Error::custom)?),
            (None, None) => Text(SlotId(number).default_seid()),
        };
        let slot = Slot::new(seid.clone(), written);
        slot.map_err(|error| D::Error::custom(format!("slot \"{}\": {error}", *seid)))
    });
    named.collect()
}

impl Slot {
    fn new(seid: Text<Seid>, written: Written) -> Result<Self, String> {
        written.refuse_foreign_keys()?;
        let kind = match written.kind {
            Kind::Software => SlotKind::Software(SoftwareSlot {
                image: written.image,
                timing: written.timing.as_deref().map(profile).transpose()?,
                adopt: adopted(&written.adopt, written.keys.is_some())?,
                keys: written.keys,
                quota_bytes: quota(written.quota_bytes.unwrap_or(QUOTA))?,
                storage: written.storage.unwrap_or_default().checked()?,
                faults: faults(written.faults, written.timing.is_some())?,
            }),
            Kind::Pcsc => SlotKind::Pcsc {
                reader: match (
                    written.reader,
                    written.reader_serial,
                    written.atr,
                    written.card,
                ) {
                    (Some(name), None, None, None) => Reader::Name(name),
                    (None, Some(serial), None, None) => Reader::Serial(serial),
                    (None, None, Some(atr), None) => Reader::Atr(atr),
                    (None, None, None, Some(card)) => Reader::Card(card),
                    _ => {
                        return Err(
                            "kind = \"pcsc\" needs one of reader, reader-serial, atr, card".into(),
                        );
                    }
                },
            },
            Kind::Remote => SlotKind::Remote {
                node: written
                    .node
                    .ok_or("kind = \"remote\" needs node = \"host:port\"")?,
                seid: written.remote_seid.unwrap_or_else(|| seid.clone()).0,
            },
        };
        Ok(Self {
            seid,
            kind,
            default: written.default,
            aids: written.aids,
        })
    }
}

impl Written {
    fn refuse_foreign_keys(&self) -> Result<(), String> {
        let (own, name): (&[&str], _) = match self.kind {
            Kind::Software => (
                &[
                    "image",
                    "timing",
                    "keys",
                    "adopt",
                    "quota-bytes",
                    "storage",
                    "faults",
                ],
                "software",
            ),
            Kind::Pcsc => (&["reader", "reader-serial", "atr", "card"], "pcsc"),
            Kind::Remote => (&["node", "remote-seid"], "remote"),
        };
        let present = [
            ("image", self.image.is_some()),
            ("timing", self.timing.is_some()),
            ("keys", self.keys.is_some()),
            ("adopt", !self.adopt.is_empty()),
            ("quota-bytes", self.quota_bytes.is_some()),
            ("storage", self.storage.is_some()),
            ("faults", !self.faults.is_empty()),
            ("reader", self.reader.is_some()),
            ("reader-serial", self.reader_serial.is_some()),
            ("atr", self.atr.is_some()),
            ("card", self.card.is_some()),
            ("node", self.node.is_some()),
            ("remote-seid", self.remote_seid.is_some()),
        ];
        for (key, _) in present.into_iter().filter(|(_, present)| *present) {
            if !own.contains(&key) {
                return Err(format!("{key} does not belong to kind = \"{name}\""));
            }
        }
        Ok(())
    }
}

fn adopted(
    written: &BTreeMap<String, String>,
    has_store: bool,
) -> Result<Vec<(KeySlot, Vec<u8>)>, String> {
    if !written.is_empty() && !has_store {
        return Err("adopt needs keys = \"…\": the store that has them".into());
    }
    let pair = |(slot, id): (&String, &String)| {
        let slot = slot.parse().map_err(|error| format!("adopt: {error}"))?;
        let id = gose_proto::hex::decode(id).map_err(|error| format!("adopt: {error}"))?;
        Ok((slot, id))
    };
    written.iter().map(pair).collect()
}

/// A card is born with some hundred bytes; an image is read as a whole.
fn quota(bytes: u64) -> Result<u64, String> {
    if (4096..=8 << 20).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!(
            "quota-bytes = {bytes}: a memory has 4096 to 8388608 bytes"
        ))
    }
}

fn faults(written: Vec<Text<Plan>>, is_timed: bool) -> Result<Vec<Plan>, String> {
    let faults: Vec<Plan> = written.into_iter().map(|fault| fault.0).collect();
    let slow = |plan: &Plan| matches!(plan.fault, Fault::Slow(_));
    if !is_timed && faults.iter().any(slow) {
        return Err("faults: slow=N is so many times as slow as `timing` says; it has none".into());
    }
    Ok(faults)
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name).ok_or_else(|| {
        let known: Vec<_> = Profile::all().map(|profile| profile.name).collect();
        format!(
            "timing = \"{name}\" is unknown; one of {} (`gosed profiles` tells what they cost)",
            known.join(", ")
        )
    })
}

impl From<Slot> for Written {
    fn from(slot: Slot) -> Self {
        let mut written = Self {
            seid: Some(slot.seid),
            kind: Kind::Software,
            image: None,
            timing: None,
            keys: None,
            adopt: BTreeMap::new(),
            quota_bytes: None,
            storage: None,
            faults: Vec::new(),
            reader: None,
            reader_serial: None,
            atr: None,
            card: None,
            node: None,
            remote_seid: None,
            default: slot.default,
            aids: slot.aids,
        };
        match slot.kind {
            SlotKind::Software(SoftwareSlot {
                image,
                timing,
                keys,
                adopt,
                quota_bytes,
                storage,
                faults,
            }) => {
                written.image = image;
                let hex = |(slot, id): (KeySlot, Vec<u8>)| {
                    (slot.to_string(), gose_proto::hex::encode(&id))
                };
                written.adopt = adopt.into_iter().map(hex).collect();
                written.quota_bytes = Some(quota_bytes);
                written.storage = Some(storage);
                written.faults = faults.into_iter().map(Text).collect();
                written.keys = keys;
                written.timing = timing.map(|profile| profile.name.to_owned());
            }
            SlotKind::Pcsc { reader } => {
                written.kind = Kind::Pcsc;
                match reader {
                    Reader::Name(name) => written.reader = Some(name),
                    Reader::Serial(serial) => written.reader_serial = Some(serial),
                    Reader::Atr(atr) => written.atr = Some(atr),
                    Reader::Card(card) => written.card = Some(card),
                }
            }
            SlotKind::Remote { node, seid } => {
                written.kind = Kind::Remote;
                written.node = Some(node);
                written.remote_seid = Some(Text(seid));
            }
        }
        written
    }
}
