//! `gose data put|get|list|delete`: data objects of the storage application.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use gose_element::{
    SecureElement,
    drive::storage::{self, NewObject, ObjectInfo, Storage, StorageError},
};
use serde::Serialize;

use crate::{
    Failure, Output,
    key::use_storage,
    node::Node,
    output::{Bytes, read_bytes},
    secrets::PinFlags,
};

/// What to do with the data objects of an element.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Write a data object, which is made if it is not there
    Put(Put),
    /// Read a data object
    Get(Get),
    /// Tell the data objects of an element
    List(List),
    /// Delete a data object
    Delete(Delete),
}

/// Which object.
#[derive(Args)]
pub(crate) struct Object {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The element
    seid: String,
    /// Number of the object, 00 to FF
    #[arg(value_parser = number)]
    id: u8,
}

/// Flags of `put`.
#[derive(Args)]
pub(crate) struct Put {
    #[command(flatten)]
    object: Object,
    /// What is written, at most 15,360 bytes [default: standard input]
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
    /// What people call a new object: at most 32 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// Who may read a new object
    #[arg(long, default_value = "pin")]
    read: Access,
    /// Who may write and delete a new object
    #[arg(long, default_value = "pin")]
    write: Access,
}

/// Flags of `get`.
#[derive(Args)]
pub(crate) struct Get {
    #[command(flatten)]
    object: Object,
    /// The object is free to read: ask for no PIN
    #[arg(long)]
    free: bool,
    /// Where the content goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `list`.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The element
    seid: String,
}

/// Flags of `delete`.
#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    object: Object,
}

/// Who may read or write.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Access {
    /// Whoever may select the application
    Free,
    /// Who shows the PIN
    Pin,
    /// Who shows the management key
    Management,
}

#[derive(Serialize)]
struct Told<'a> {
    seid: &'a str,
    object: String,
    did: &'static str,
}

#[derive(Serialize)]
struct Listed {
    object: String,
    size: u32,
    read: &'static str,
    write: &'static str,
    label: String,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Put(flags) => flags.run(output),
            Self::Get(flags) => flags.run(output),
            Self::List(flags) => flags.run(output),
            Self::Delete(flags) => flags.run(output),
        }
    }
}

impl Put {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let content = read_bytes(self.input.as_deref())?;
        let new = NewObject {
            id: self.object.id,
            read: self.read.into(),
            write: self.write.into(),
            label: &self.label,
        };
        self.object
            .with(|storage| match storage.create(&new, &content) {
                Err(StorageError::ObjectExists(id)) => Ok(storage.put(id, &content)?),
                made => Ok(made?),
            })?;
        self.object.told("written", output)
    }
}

impl Get {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let content = if self.free {
            let mut element = self.object.node.element(&self.object.seid)?;
            element.power_on()?;
            let content = Storage::open(&mut element).get(self.object.id)?;
            element.power_off();
            content
        } else {
            self.object
                .with(|storage| Ok(storage.get(self.object.id)?))?
        };
        Bytes::secret(content).give(self.out.as_deref(), output)
    }
}

impl List {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let objects = use_storage(&self.node, &self.pin, &self.seid, |storage| {
            Ok(storage.objects()?)
        })?;
        let listed: Vec<Listed> = objects.iter().map(Listed::new).collect();
        output.result(&listed, |listed| listed.iter().map(Listed::text).collect())
    }
}

impl Delete {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        self.object
            .with(|storage| Ok(storage.delete(self.object.id)?))?;
        self.object.told("deleted", output)
    }
}

impl Object {
    fn with<T>(
        &self,
        f: impl FnOnce(&mut Storage<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        use_storage(&self.node, &self.pin, &self.seid, f)
    }

    fn told(&self, did: &'static str, output: &Output) -> Result<(), Failure> {
        let told = Told {
            seid: &self.seid,
            object: format!("{:02X}", self.id),
            did,
        };
        output.result(&told, |told| {
            format!("{} {} {}", told.seid, told.object, told.did)
        })
    }
}

impl Listed {
    fn new(object: &ObjectInfo) -> Self {
        Self {
            object: format!("{:02X}", object.id),
            size: object.size,
            read: name(object.read),
            write: name(object.write),
            label: object.label.clone(),
        }
    }

    fn text(&self) -> String {
        let line = format!(
            "{}  {:5} bytes  read: {:10}  write: {:10}  {}",
            self.object, self.size, self.read, self.write, self.label
        );
        format!("{}\n", line.trim_end())
    }
}

fn number(text: &str) -> Result<u8, &'static str> {
    u8::from_str_radix(text, 16).map_err(|_| "a data object has a number from 00 to FF")
}

fn name(access: storage::Access) -> &'static str {
    match access {
        storage::Access::Free => "free",
        storage::Access::Pin => "pin",
        storage::Access::Management => "management",
    }
}

impl From<Access> for storage::Access {
    fn from(access: Access) -> Self {
        match access {
            Access::Free => Self::Free,
            Access::Pin => Self::Pin,
            Access::Management => Self::Management,
        }
    }
}
