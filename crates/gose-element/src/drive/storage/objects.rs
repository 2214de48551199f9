//! Data objects.

use gose_proto::apdu::{
    Command, StatusWord,
    tlv::{self, Tlv},
};
use zeroize::Zeroizing;

use super::{Storage, StorageError};

/// Bytes of content that fit into the command that makes an object.
const AT_ONCE: usize = 15_360;

/// Who may read, or write and delete, a data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever may select the application.
    Free,
    /// Who shows the PIN.
    Pin,
    /// Who shows the management key.
    Management,
}

impl Access {
    const fn id(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Pin => 1,
            Self::Management => 2,
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        [Self::Free, Self::Pin, Self::Management]
            .into_iter()
            .find(|access| access.id() == id)
    }
}

/// A data object to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewObject<'a> {
    /// Its number.
    pub id: u8,
    /// Who may read it.
    pub read: Access,
    /// Who may write and delete it.
    pub write: Access,
    /// What people call it: at most 32 bytes.
    pub label: &'a str,
}

/// What an element tells of a data object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its number.
    pub id: u8,
    /// Bytes of its content.
    pub size: u32,
    /// Who may read it.
    pub read: Access,
    /// Who may write and delete it.
    pub write: Access,
    /// What people call it.
    pub label: String,
}

impl Storage<'_> {
    /// Makes a data object with its content, whole or not at all.
    ///
    /// # Errors
    /// [`StorageError::ObjectExists`], [`StorageError::Quota`].
    pub fn create(&mut self, new: &NewObject<'_>, content: &[u8]) -> Result<(), StorageError> {
        if content.len() > AT_ONCE {
            return Err(StorageError::Quota);
        }
        let mut parameters = tlv::object(0x83, &[0x01, new.id]);
        tlv::write(&mut parameters, 0x86, &[new.read.id(), new.write.id()]);
        if !new.label.is_empty() {
            tlv::write(&mut parameters, 0x84, new.label.as_bytes());
        }
        let mut data = Zeroizing::new(tlv::object(0x62, &parameters));
        tlv::write(&mut data, 0x53, content);
        let command = Command::new(0x00, 0xE0, 0x00, 0x00).with_data(data.as_slice());
        self.on_object("CREATE", command, new.id).map(drop)
    }

    /// The content of a data object.
    ///
    /// # Errors
    /// [`StorageError::NoObject`].
    pub fn get(&mut self, id: u8) -> Result<Zeroizing<Vec<u8>>, StorageError> {
        let command = Command::new(0x00, 0xCA, 0x01, id).with_ne(256);
        self.on_object("GET DATA", command, id).map(Zeroizing::new)
    }

    /// Replaces the content of a data object, whole or not at all.
    ///
    /// # Errors
    /// [`StorageError::NoObject`], [`StorageError::Quota`].
    pub fn put(&mut self, id: u8, content: &[u8]) -> Result<(), StorageError> {
        let command = Command::new(0x00, 0xDA, 0x01, id).with_data(content);
        self.on_object("PUT DATA", command, id).map(drop)
    }

    /// Deletes a data object.
    ///
    /// # Errors
    /// [`StorageError::NoObject`].
    pub fn delete(&mut self, id: u8) -> Result<(), StorageError> {
        let command = Command::new(0x00, 0xEE, 0x01, id);
        self.on_object("DELETE DATA", command, id).map(drop)
    }

    /// All data objects. Needs the PIN or the management key.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn objects(&mut self) -> Result<Vec<ObjectInfo>, StorageError> {
        listed(&self.normal("GET DATA", &[list()])?)
    }

    fn on_object(
        &mut self,
        what: &'static str,
        command: Command,
        id: u8,
    ) -> Result<Vec<u8>, StorageError> {
        let outcome = self.last(&[command])?;
        match outcome.sw {
            StatusWord::NORMAL => Ok(outcome.body),
            sw => Err(StorageError::of_object(what, sw, id)),
        }
    }
}

/// GET DATA, the list of objects.
pub(super) fn list() -> Command {
    Command::new(0x00, 0xCB, 0x3F, 0xFF)
        .with_data([0x5C, 0x01, 0x62])
        .with_ne(256)
}

/// The objects in its answer.
pub(super) fn listed(body: &[u8]) -> Result<Vec<ObjectInfo>, StorageError> {
    tlv::Reader::new(body)
        .map(|object| object.ok().and_then(|object| info(&object)))
        .collect::<Option<_>>()
        .ok_or(StorageError::Malformed("list of data objects"))
}

fn info(object: &Tlv<'_>) -> Option<ObjectInfo> {
    let field = |tag| tlv::find(object.value, tag);
    let [0x01, id] = *field(0x83)? else {
        return None;
    };
    let [read, write] = *field(0x86)? else {
        return None;
    };
    Some(ObjectInfo {
        id,
        size: u32::from_be_bytes(field(0x80)?.try_into().ok()?),
        read: Access::from_id(read)?,
        write: Access::from_id(write)?,
        label: String::from_utf8(field(0x84)?.to_vec()).ok()?,
    })
}
