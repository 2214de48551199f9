//! Which virtual machines there are, and how far the last step with each came: what survives a restart of the node.
//!
//! A file a machine, replaced as a whole. What is begun is written before it is done, and what is done after it: a node
//! that was killed between two steps finds the machine in its file and takes the step back, or to its end
//! ([`super::Middleware::recover`]).

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use gose_element::Seid;
use gose_proto::identity::VmId;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Name, Sha256, Text},
    store::durable,
};

/// How a virtual machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is made for the first time: a restart of the node takes everything back.
    Creating,
    /// It was stopped and starts: a restart of the node leaves it stopped.
    Starting,
    /// It runs.
    Running,
    /// It is held.
    Paused,
    /// It does not run, and keeps its elements.
    Stopped,
    /// It goes: a restart of the node goes on with that.
    Destroying,
}

impl State {
    /// Whether its guest may be there.
    #[must_use]
    pub fn runs(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Destroying => "destroying",
        })
    }
}

/// What is known of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    /// ID_VM.
    pub uuid: Text<VmId>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is: nobody's where the operator made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<Text<Name>>,
    /// The image, by its name in the configuration.
    pub image: String,
    /// Program and arguments, or the arguments of the kernel.
    pub command: Vec<String>,
    /// Its elements; the first one holds its key.
    pub seids: Vec<Text<Seid>>,
    /// The pool that the first one is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Whether it stays when it ends by itself.
    pub keep: bool,
    /// What boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Text<Sha256>>,
    /// Its RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<Text<Sha256>>,
    /// How it stands.
    pub state: State,
    /// Counts its starts; 0 before the first one.
    #[serde(default)]
    pub generation: u64,
    /// The serial number of the creation ticket that is out and not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

impl Record {
    /// Its elements.
    #[must_use]
    pub fn elements(&self) -> Vec<Seid> {
        self.seids.iter().map(|seid| seid.0).collect()
    }
}

/// Every virtual machine of the node.
pub struct Journal {
    folder: PathBuf,
    records: Mutex<BTreeMap<VmId, Record>>,
}

/// Why the machines are not known.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds something else.
    #[error(
        "{path} is damaged: {cause}; an element may be bound there: look before you move it away"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it cannot be read.
        cause: serde_json::Error,
    },
}

impl Journal {
    /// Reads the files of a folder; one that is not there is made.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |cause| JournalError::Io { path, cause }
        };
        super::measure::private_folder(folder).map_err(at(folder))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = fs::read(&path).map_err(at(&path))?;
            let record: Record =
                serde_json::from_slice(&bytes).map_err(|cause| JournalError::Damaged {
                    path: path.clone(),
                    cause,
                })?;
            records.insert(record.uuid.0, record);
        }
        Ok(Self {
            folder: folder.to_owned(),
            records: Mutex::new(records),
        })
    }

    /// All of them, in the order of their UUIDs.
    #[must_use]
    pub fn all(&self) -> Vec<Record> {
        self.records().values().cloned().collect()
    }

    /// One.
    #[must_use]
    pub fn get(&self, vm: VmId) -> Option<Record> {
        self.records().get(&vm).cloned()
    }

    /// The first that something is true of.
    pub fn find(&self, is: impl Fn(&Record) -> bool) -> Option<Record> {
        self.records().values().find(|record| is(record)).cloned()
    }

    /// How many something is true of.
    pub fn count(&self, is: impl Fn(&Record) -> bool) -> usize {
        self.records().values().filter(|record| is(record)).count()
    }

    /// Writes a record, new or in place of the one before, durably.
    ///
    /// # Errors
    /// [`JournalError::Io`]; what was before stays.
    pub fn put(&self, record: Record) -> Result<(), JournalError> {
        self.write(&record)?;
        self.records().insert(record.uuid.0, record);
        Ok(())
    }

    /// Changes a record durably; gives what `change` gives, nothing where there is no such record.
    ///
    /// # Errors
    /// [`JournalError::Io`]; what was before stays.
    pub fn change<T>(
        &self,
        vm: VmId,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Result<Option<T>, JournalError> {
        let mut records = self.records();
        let Some(record) = records.get_mut(&vm) else {
            return Ok(None);
        };
        let mut next = record.clone();
        let given = change(&mut next);
        if next != *record {
            self.write(&next)?;
            *record = next;
        }
        Ok(Some(given))
    }

    /// Forgets a machine durably.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn remove(&self, vm: VmId) -> Result<(), JournalError> {
        let path = self.path(vm);
        let gone = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        gone.and_then(|()| fs::File::open(&self.folder)?.sync_all())
            .map_err(|cause| JournalError::Io { path, cause })?;
        self.records().remove(&vm);
        Ok(())
    }

    fn write(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(record.uuid.0);
        let json = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        json.and_then(|json| durable::replace(&path, &json))
            .map_err(|cause| JournalError::Io { path, cause })
    }

    fn path(&self, vm: VmId) -> PathBuf {
        self.folder.join(format!("{vm}.json"))
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<VmId, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::hypervisor) fn record(last: u8) -> Record {
        let mut id = [0; 16];
        id[15] = last;
        Record {
            uuid: Text(VmId(id)),
            name: None,
            creator: None,
            image: "web".into(),
            command: vec!["true".into()],
            seids: Vec::new(),
            pool: None,
            memory_mib: 64,
            vcpus: 1,
            keep: false,
            kernel: None,
            ramdisk: None,
            state: State::Creating,
            generation: 0,
            ticket: None,
        }
    }

    #[test]
    fn survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("machines");
        let journal = Journal::open(&folder).unwrap();
        let (one, two) = (record(1), record(2));
        journal.put(one.clone()).unwrap();
        journal.put(two.clone()).unwrap();
        let changed = journal.change(one.uuid.0, |record| record.state = State::Running);
        assert_eq!(changed.unwrap(), Some(()));
        assert_eq!(journal.change(VmId([9; 16]), |_| ()).unwrap(), None);
        journal.remove(two.uuid.0).unwrap();
        journal.remove(two.uuid.0).unwrap();
        let again = Journal::open(&folder).unwrap();
        let kept = Record {
            state: State::Running,
            ..one
        };
        assert_eq!(again.all(), [kept]);
    }

    #[test]
    fn what_cannot_be_written_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("machines");
        let journal = Journal::open(&folder).unwrap();
        journal.put(record(1)).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(journal.put(record(2)).is_err());
        assert_eq!(journal.get(record(2).uuid.0), None);
        assert!(
            journal
                .change(record(1).uuid.0, |record| record.keep = true)
                .is_err()
        );
        assert!(!journal.get(record(1).uuid.0).unwrap().keep);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.json"), "{").unwrap();
        assert!(matches!(
            Journal::open(dir.path()),
            Err(JournalError::Damaged { .. })
        ));
    }
}
