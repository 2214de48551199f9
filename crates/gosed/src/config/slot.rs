//! `[[slot]]`: a place where an element is.

use std::path::PathBuf;

use gose_card::timing::Profile;
use gose_element::Seid;
use serde::{Deserialize, Serialize};

use super::{AidRule, ByDefault, Text};

/// A slot and the element in it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "Written")]
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
    Software {
        /// Its image; `<SEID>.image` in the store's directory if absent.
        image: Option<PathBuf>,
        /// The card whose slowness it imitates.
        timing: Option<&'static Profile>,
    },
    /// An element of a remote grid.
    Remote {
        /// The grid's node: host and port.
        node: String,
        /// The element's name there.
        seid: Seid,
    },
}

impl Slot {
    pub(super) fn needs_store(&self) -> bool {
        matches!(self.kind, SlotKind::Software { .. })
    }

    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        match &mut self.kind {
            SlotKind::Software { image, .. } => image.as_mut(),
            SlotKind::Remote { .. } => None,
        }
    }
}

/// A slot as it stands in the file.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    seid: Text<Seid>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<String>,
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
    Remote,
}

impl TryFrom<Written> for Slot {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let seid = written.seid.clone();
        Self::new(written).map_err(|error| format!("slot \"{}\": {error}", *seid))
    }
}

impl Slot {
    fn new(written: Written) -> Result<Self, String> {
        let refuse = |present: bool, key: &str, kind: &str| match present {
            true => Err(format!("{key} does not belong to kind = \"{kind}\"")),
            false => Ok(()),
        };
        let kind = match written.kind {
            Kind::Software => {
                refuse(written.node.is_some(), "node", "software")?;
                refuse(written.remote_seid.is_some(), "remote-seid", "software")?;
                SlotKind::Software {
                    image: written.image,
                    timing: written.timing.as_deref().map(profile).transpose()?,
                }
            }
            Kind::Remote => {
                refuse(written.image.is_some(), "image", "remote")?;
                refuse(written.timing.is_some(), "timing", "remote")?;
                SlotKind::Remote {
                    node: written
                        .node
                        .ok_or("kind = \"remote\" needs node = \"host:port\"")?,
                    seid: written
                        .remote_seid
                        .unwrap_or_else(|| written.seid.clone())
                        .0,
                }
            }
        };
        Ok(Self {
            seid: written.seid,
            kind,
            default: written.default,
            aids: written.aids,
        })
    }
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    Profile::named(name)
        .ok_or_else(|| format!("timing = \"{name}\" is unknown; \"paper-2014\" is the only one"))
}

impl From<Slot> for Written {
    fn from(slot: Slot) -> Self {
        let mut written = Self {
            seid: slot.seid,
            kind: Kind::Software,
            image: None,
            timing: None,
            node: None,
            remote_seid: None,
            default: slot.default,
            aids: slot.aids,
        };
        match slot.kind {
            SlotKind::Software { image, timing } => {
                written.image = image;
                written.timing = timing.map(|profile| profile.name.to_owned());
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
