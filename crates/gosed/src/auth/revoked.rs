//! Names that an administrator took back: they are not let in until they are given back. A file keeps them.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::store::durable;

/// Names kept. None makes room for another one: whoever is kept out stays out.
const CAPACITY: usize = 4096;

/// Bytes of a name.
const LONGEST: usize = 512;

/// The names.
#[derive(Debug, Default)]
pub struct Revoked {
    /// Where they are kept; without it they last as long as the process.
    path: Option<PathBuf>,
    names: Mutex<BTreeSet<String>>,
}

/// The file's content: JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    revoked: BTreeSet<String>,
}

/// Why names cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    /// The file cannot be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It holds something else. It must not be thrown away: names in it would be let in.
    #[error("{path} is damaged: {cause}; restore it, do not delete it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it cannot be read.
        cause: serde_json::Error,
    },
    /// There are as many names as are kept, or this one is too long.
    #[error(
        "no room: {CAPACITY} names of {LONGEST} bytes are kept; revoke certificates by a revocation list"
    )]
    Full,
}

impl Revoked {
    /// The names that a file keeps; one that is not there is empty.
    ///
    /// # Errors
    /// [`RevokedError`].
    pub fn open(path: &Path) -> Result<Self, RevokedError> {
        let io = |cause| RevokedError::Io {
            path: path.to_owned(),
            cause,
        };
        let names = match std::fs::read(path) {
            Ok(bytes) => {
                let kept: Result<Kept, _> = serde_json::from_slice(&bytes);
                let kept = kept.map_err(|cause| RevokedError::Damaged {
                    path: path.to_owned(),
                    cause,
                })?;
                kept.revoked
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(io(error)),
        };
        Ok(Self {
            path: Some(path.to_owned()),
            names: Mutex::new(names),
        })
    }

    /// Takes a name back: it counts from now on, and is durable when this returns.
    ///
    /// # Errors
    /// [`RevokedError`]. Where the file cannot be written the name counts nevertheless, for as long as the
    /// process lives.
    pub fn add(&self, name: &str) -> Result<(), RevokedError> {
        let mut names = self.names();
        if names.contains(name) {
            return Ok(());
        }
        if names.len() >= CAPACITY || name.len() > LONGEST {
            return Err(RevokedError::Full);
        }
        names.insert(name.to_owned());
        self.keep(&names)
    }

    /// Gives a name back; `false` if it was not taken.
    ///
    /// # Errors
    /// [`RevokedError`]; it stays taken.
    pub fn remove(&self, name: &str) -> Result<bool, RevokedError> {
        let mut names = self.names();
        let mut left = names.clone();
        if !left.remove(name) {
            return Ok(false);
        }
        self.keep(&left)?;
        *names = left;
        Ok(true)
    }

    /// Whether a name was taken back.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.names().iter().cloned().collect()
    }

    fn keep(&self, names: &BTreeSet<String>) -> Result<(), RevokedError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let kept = Kept {
            revoked: names.clone(),
        };
        let json = serde_json::to_vec_pretty(&kept).map_err(io::Error::from);
        let written = json.and_then(|json| durable::replace(path, &json));
        written.map_err(|cause| RevokedError::Io {
            path: path.clone(),
            cause,
        })
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_nobody_is_let_in_for_another_one() {
        let revoked = Revoked::default();
        for number in 0..CAPACITY {
            revoked.add(&number.to_string()).unwrap();
            revoked.add(&number.to_string()).unwrap();
        }
        assert!(matches!(revoked.add("one more"), Err(RevokedError::Full)));
        assert!(revoked.contains("0") && !revoked.contains("one more"));
        assert!(revoked.remove("0").unwrap());
        let long = "x".repeat(LONGEST + 1);
        assert!(matches!(revoked.add(&long), Err(RevokedError::Full)));
        revoked.add("one more").unwrap();
        assert_eq!(revoked.all().len(), CAPACITY);
    }

    #[test]
    fn a_restart_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.json");
        let revoked = Revoked::open(&path).unwrap();
        assert!(!path.exists());
        revoked.add("alice").unwrap();
        revoked.add("bob").unwrap();
        assert!(revoked.remove("alice").unwrap());
        assert!(!revoked.remove("alice").unwrap());
        assert_eq!(Revoked::open(&path).unwrap().all(), ["bob"]);
        // Half a file is no empty one.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(
            Revoked::open(&path),
            Err(RevokedError::Damaged { .. })
        ));
        // It counts where it could not be written.
        let nowhere = Revoked::open(&folder.path().join("none/revoked.json")).unwrap();
        assert!(nowhere.add("eve").is_err());
        assert!(nowhere.contains("eve"));
    }
}
