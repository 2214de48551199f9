//! What boots is what was hashed: kernels and RAM disks are copied while they are hashed, and the copies boot.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::Sha256;

/// Copies of what guests boot, each under its hash, in a folder that the node's own user alone can read.
pub struct Measured {
    folder: PathBuf,
    /// Files that were hashed by this process, as they were then. What is reused is the copy, never the file.
    known: Mutex<HashMap<PathBuf, (Stamp, Sha256)>>,
}

/// How a file was when it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 6]);

/// Why there is nothing to boot.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A file cannot be read or copied.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Its hash is another one than the configuration says.
    #[error("{path} has the SHA-256 {found}; the configuration says {expected}")]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: Sha256,
        /// What it should be.
        expected: Sha256,
    },
}

impl Measured {
    /// Copies stand in this folder, which is made.
    ///
    /// # Errors
    /// [`MeasureError::Io`].
    pub fn open(folder: &Path) -> Result<Self, MeasureError> {
        private_folder(folder).map_err(|cause| MeasureError::Io {
            path: folder.to_owned(),
            cause,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            known: Mutex::default(),
        })
    }

    /// Hashes a file and keeps a copy of what was hashed.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn take(&self, path: &Path, expected: Option<Sha256>) -> Result<Sha256, MeasureError> {
        let wrong = |cause| MeasureError::Io {
            path: path.to_owned(),
            cause,
        };
        let file = File::open(path).map_err(wrong)?;
        let stamp = Stamp::of(&file).map_err(wrong)?;
        let known = self.known().get(path).copied();
        let found = match known {
            Some((then, hash)) if then == stamp && self.path(hash).exists() => hash,
            _ => {
                let hash = self.copy(file).map_err(wrong)?;
                self.known().insert(path.to_owned(), (stamp, hash));
                hash
            }
        };
        match expected {
            Some(expected) if expected != found => Err(MeasureError::Other {
                path: path.to_owned(),
                found,
                expected,
            }),
            _ => Ok(found),
        }
    }

    /// Where the copy with this hash is.
    #[must_use]
    pub fn path(&self, hash: Sha256) -> PathBuf {
        self.folder.join(hash.to_string())
    }

    fn copy(&self, mut from: File) -> io::Result<Sha256> {
        let new = self.folder.join("new");
        let mut options = OpenOptions::new();
        let mut to = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .open(&new)?;
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let part = buffer.get(..count).unwrap_or_default();
            context.update(part);
            to.write_all(part)?;
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        let hash = Sha256(hash);
        to.sync_all()?;
        drop(to);
        fs::set_permissions(&new, Permissions::from_mode(0o500))?;
        fs::rename(&new, self.path(hash))?;
        File::open(&self.folder)?.sync_all()?;
        Ok(hash)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, Sha256)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        let (device, inode) = (about.dev().cast_signed(), about.ino().cast_signed());
        let size = about.len().cast_signed();
        let ctime = [about.ctime(), about.ctime_nsec()];
        Ok(Self([
            device,
            inode,
            size,
            about.mtime(),
            ctime[0],
            ctime[1],
        ]))
    }
}

/// Makes a folder, where it is missing, for the node's own user alone.
pub(super) fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_stays_what_was_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let measured = Measured::open(&dir.path().join("boot")).unwrap();
        let kernel = dir.path().join("kernel");
        fs::write(&kernel, "one").unwrap();
        let one = measured.take(&kernel, None).unwrap();
        assert!(one.to_string().starts_with("7692c3ad"));
        assert_eq!(measured.take(&kernel, Some(one)).unwrap(), one);
        // The file changes after it was authorised; what boots does not.
        fs::write(&kernel, "two").unwrap();
        assert_eq!(fs::read(measured.path(one)).unwrap(), b"one");
        let mode = fs::metadata(measured.path(one))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o500);
        let refused = measured.take(&kernel, Some(one)).unwrap_err();
        assert!(matches!(refused, MeasureError::Other { expected, .. } if expected == one));
        let two = measured.take(&kernel, None).unwrap();
        assert_ne!(one, two);
        assert_eq!(fs::read(measured.path(two)).unwrap(), b"two");
        assert!(measured.take(&dir.path().join("gone"), None).is_err());
    }

    #[test]
    fn a_copy_that_is_gone_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let measured = Measured::open(dir.path()).unwrap();
        let kernel = dir.path().join("kernel");
        fs::write(&kernel, "one").unwrap();
        let hash = measured.take(&kernel, None).unwrap();
        fs::remove_file(measured.path(hash)).unwrap();
        measured.take(&kernel, None).unwrap();
        assert_eq!(fs::read(measured.path(hash)).unwrap(), b"one");
    }
}
