//! Generations of virtual machines, and tokens taken back: what survives a restart of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use gose_proto::{
    hex,
    identity::{Generations, KeyHash, VmBinding, VmId},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::store::durable;

/// A small file, replaced as a whole.
pub struct GenerationFile {
    path: PathBuf,
    /// Whose virtual machines these are.
    hypervisor: KeyHash,
    known: Mutex<Known>,
    changed: watch::Sender<()>,
}

/// The file's content: JSON.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Known {
    /// UUID to the newest generation.
    generations: BTreeMap<String, u64>,
    /// `<hv-ca key hash>:<serial>`.
    revoked: BTreeSet<String>,
    /// Machines whose newest generation no domain has: every token of theirs is older.
    #[serde(default)]
    retired: BTreeSet<String>,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// It cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds something else. It must not be thrown away: older generations would count again.
    #[error("{path} is damaged: {cause}; restore it, do not delete it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it cannot be read.
        cause: serde_json::Error,
    },
    /// 2^63 starts.
    #[error("the virtual machine has used all generations")]
    Exhausted,
}

impl Known {
    fn count(&mut self, vm: VmId) -> Result<u64, GenerationError> {
        let generation = self.generations.entry(vm.to_string()).or_default();
        if *generation >= VmBinding::MAX_GENERATION {
            return Err(GenerationError::Exhausted);
        }
        *generation += 1;
        Ok(*generation)
    }
}

impl GenerationFile {
    /// Opens the file of the hypervisor with this `hv-ca` key; one that is not there is empty.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn open(path: &Path, hypervisor: KeyHash) -> Result<Self, GenerationError> {
        let known = match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|cause| GenerationError::Damaged {
                    path: path.to_owned(),
                    cause,
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::default(),
            Err(cause) => {
                let path = path.to_owned();
                return Err(GenerationError::Io { path, cause });
            }
        };
        Ok(Self {
            path: path.to_owned(),
            hypervisor,
            known: Mutex::new(known),
            changed: watch::Sender::new(()),
        })
    }

    /// Every virtual machine and its newest generation.
    #[must_use]
    pub fn all(&self) -> Vec<(VmId, u64)> {
        let known = self.known();
        let read = |(uuid, generation): (&String, &u64)| Some((uuid.parse().ok()?, *generation));
        known.generations.iter().filter_map(read).collect()
    }

    /// Tells of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The generation of a domain that starts now: one more than the last, durable before it is given.
    ///
    /// # Errors
    /// [`GenerationError`]; the domain must not start then.
    pub fn next(&self, vm: VmId) -> Result<u64, GenerationError> {
        self.change(|known| {
            if known.retired.remove(&vm.to_string()) {
                return Ok(known.generations.get(&vm.to_string()).copied().unwrap_or(1));
            }
            known.count(vm)
        })
    }

    /// Takes every token of a domain back that runs no more, durably: its next generation is the newest from now on, here
    /// and on every grid that is told, and the next start has it.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn retire(&self, vm: VmId) -> Result<(), GenerationError> {
        if self.known().retired.contains(&vm.to_string()) {
            return Ok(());
        }
        self.change(|known| {
            known.count(vm)?;
            known.retired.insert(vm.to_string());
            Ok(())
        })
    }

    /// Takes a token back, durably.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn revoke(&self, hypervisor: KeyHash, serial: &[u8]) -> Result<(), GenerationError> {
        self.change(|known| {
            known.revoked.insert(revocation(hypervisor, serial));
            Ok(())
        })
    }

    fn change<T>(
        &self,
        edit: impl FnOnce(&mut Known) -> Result<T, GenerationError>,
    ) -> Result<T, GenerationError> {
        let mut known = self.known();
        let mut next = known.clone();
        let value = edit(&mut next)?;
        self.write(&next).map_err(|cause| GenerationError::Io {
            path: self.path.clone(),
            cause,
        })?;
        *known = next;
        drop(known);
        self.changed.send_replace(());
        Ok(value)
    }

    fn write(&self, known: &Known) -> io::Result<()> {
        durable::replace(&self.path, &serde_json::to_vec_pretty(known)?)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations for GenerationFile {
    fn newest(&self, hypervisor: KeyHash, vm: VmId) -> Option<u64> {
        let known = self.known();
        let own = hypervisor == self.hypervisor;
        own.then(|| known.generations.get(&vm.to_string()).copied())?
    }

    fn is_revoked(&self, hypervisor: KeyHash, serial: &[u8]) -> bool {
        self.known()
            .revoked
            .contains(&revocation(hypervisor, serial))
    }
}

fn revocation(hypervisor: KeyHash, serial: &[u8]) -> String {
    format!("{hypervisor}:{}", hex::encode(serial))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId([1; 16]);
    const KEY: KeyHash = KeyHash([9; 32]);

    #[test]
    fn survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations.json");
        let file = GenerationFile::open(&path, KEY).unwrap();
        assert_eq!(file.newest(KEY, VM), None);
        assert_eq!(file.next(VM).unwrap(), 1);
        assert_eq!(file.next(VM).unwrap(), 2);
        file.revoke(KeyHash([2; 32]), &[3]).unwrap();
        let again = GenerationFile::open(&path, KEY).unwrap();
        assert_eq!(again.newest(KEY, VM), Some(2));
        assert_eq!(again.all(), [(VM, 2)]);
        // another hypervisor's machines are not this one's
        assert_eq!(again.newest(KeyHash([8; 32]), VM), None);
        assert!(again.is_revoked(KeyHash([2; 32]), &[3]));
        assert!(!again.is_revoked(KeyHash([4; 32]), &[3]));
    }

    #[test]
    fn a_retired_machine_has_no_token_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations.json");
        let file = GenerationFile::open(&path, KEY).unwrap();
        assert_eq!(file.next(VM).unwrap(), 1);
        file.retire(VM).unwrap();
        file.retire(VM).unwrap();
        // Tokens of generation 1 are older than the newest.
        assert_eq!(file.newest(KEY, VM), Some(2));
        let again = GenerationFile::open(&path, KEY).unwrap();
        assert_eq!(again.next(VM).unwrap(), 2);
        assert_eq!(again.next(VM).unwrap(), 3);
    }

    #[test]
    fn a_generation_that_is_not_durable_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = GenerationFile::open(&dir.path().join("gone/generations.json"), KEY).unwrap();
        assert!(matches!(file.next(VM), Err(GenerationError::Io { .. })));
        assert_eq!(file.newest(KEY, VM), None);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generations.json");
        std::fs::write(&path, "{").unwrap();
        let refused = GenerationFile::open(&path, KEY);
        assert!(matches!(refused, Err(GenerationError::Damaged { .. })));
    }
}
