//! The image of a software element as a file: appended to, made durable, replaced as a whole.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use gose_card::{
    HostError, factory,
    image::{Image, ImageError, MasterKey},
    nvm::{Delta, Nvm},
};
use gose_element::Seid;
use rustix::fs::{FlockOperation, flock};

use super::{births::Birth, private_file};

/// An image and its file, which no other process uses meanwhile.
pub(super) struct ImageFile {
    file: File,
    path: PathBuf,
    image: Image,
    master: Arc<MasterKey>,
    seid: Seid,
    /// A write failed so that it is not known what the file holds: nothing more is written.
    broken: bool,
}

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// The file system.
    #[error("{path}: {cause}")]
    System {
        /// The image.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The content.
    #[error("{path}: {cause}")]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        cause: ImageError,
    },
    /// Another process uses it.
    #[error("{0} is used by another process")]
    InUse(PathBuf),
    /// The element was born here, and its image is gone.
    #[error(
        "{image} is missing, but the element was born here: restore the image from a copy; to begin anew with a blank element, whose keys are other ones, delete {record}"
    )]
    Missing {
        /// The image.
        image: PathBuf,
        /// The record of its birth.
        record: PathBuf,
    },
}

impl ImageFile {
    /// Opens an image; where there never was one, a new element is born.
    pub(super) fn open(
        path: &Path,
        seid: Seid,
        master: Arc<MasterKey>,
        birth: &Birth,
    ) -> Result<(Self, Nvm), FileError> {
        let system = |cause| FileError::System {
            path: path.to_owned(),
            cause,
        };
        Self::check_present(path, birth)?;
        if !path.try_exists().map_err(system)? {
            tracing::warn!(%seid, path = %path.display(), "there is no image: a new element is born");
            let born = Self::born(path, seid, master)?;
            // Nobody uses it before its birth is recorded.
            birth.record(path).map_err(system)?;
            return Ok(born);
        }
        private_file(path).map_err(system)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(system)?;
        lock(&file, path)?;
        let bytes = std::fs::read(path).map_err(system)?;
        let opened =
            Image::open(&master, seid.as_str(), &bytes).map_err(|cause| FileError::Image {
                path: path.to_owned(),
                cause,
            })?;
        let mut this = Self {
            file,
            path: path.to_owned(),
            image: opened.image,
            master,
            seid,
            broken: false,
        };
        if opened.torn > 0 {
            tracing::warn!(%seid, bytes = opened.torn, "the image's last record was cut; nobody was answered for it");
            this.truncate().map_err(system)?;
        }
        if this.image.is_old() {
            this.upgrade(&opened.nvm).map_err(system)?;
        } else {
            this.forget_old_version().map_err(system)?;
            if this.image.is_worth_compacting(&opened.nvm) {
                this.compact(&opened.nvm).map_err(system)?;
            }
        }
        birth.record(path).map_err(system)?;
        Ok((this, opened.nvm))
    }

    /// An element that was born here has its image.
    ///
    /// # Errors
    /// [`FileError::Missing`]; what the system says.
    pub(super) fn check_present(path: &Path, birth: &Birth) -> Result<(), FileError> {
        let system = |cause| FileError::System {
            path: path.to_owned(),
            cause,
        };
        if path.try_exists().map_err(system)? || !birth.is_recorded().map_err(system)? {
            return Ok(());
        }
        Err(FileError::Missing {
            image: path.to_owned(),
            record: birth.path().to_owned(),
        })
    }

    fn born(path: &Path, seid: Seid, master: Arc<MasterKey>) -> Result<(Self, Nvm), FileError> {
        let system = |cause| FileError::System {
            path: path.to_owned(),
            cause,
        };
        let nvm = Nvm::replay([factory::birth(random().map_err(system)?)]);
        let (image, file) = write_whole(path, seid, &master, &nvm).map_err(system)?;
        let this = Self {
            file,
            path: path.to_owned(),
            image,
            master,
            seid,
            broken: false,
        };
        Ok((this, nvm))
    }

    /// Appends a record and makes it durable.
    pub(super) fn append(&mut self, delta: &Delta) -> Result<(), HostError> {
        let failed = |error: &dyn std::fmt::Display| HostError(error.to_string());
        if self.broken {
            return Err(HostError(
                "an earlier write failed; restart the node".into(),
            ));
        }
        let nonce = random().map_err(|error| failed(&error))?;
        let sealed = self
            .image
            .seal(delta, nonce)
            .map_err(|error| failed(&error))?;
        let at = self.image.len() as u64;
        let written = self
            .file
            .write_all_at(sealed.bytes(), at)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            tracing::error!(seid = %self.seid, %error, "the image cannot be written");
            // What the card does not know of must not be there after a restart.
            self.broken = self.truncate().is_err();
            return Err(failed(&error));
        }
        self.image.written(&sealed);
        Ok(())
    }

    /// Brings an image of an older version to the present one. The old file stays beside it, under its own name
    /// and `.old`, until the new one is durable and was read again; where that cannot be, the old one goes on.
    fn upgrade(&mut self, nvm: &Nvm) -> io::Result<()> {
        let (seid, from) = (self.seid, self.image.version());
        if let Err(error) = self.replace_by_new_version(nvm) {
            // Whether the new file took the old one's place is seen, not guessed.
            let (there, own) = (std::fs::metadata(&self.path)?, self.file.metadata()?);
            if (there.dev(), there.ino()) != (own.dev(), own.ino()) {
                return Err(error);
            }
            tracing::warn!(%seid, %error, version = from, "the image keeps its old version");
            return Ok(());
        }
        tracing::info!(%seid, from, to = self.image.version(), "the image was upgraded");
        Ok(())
    }

    fn replace_by_new_version(&mut self, nvm: &Nvm) -> io::Result<()> {
        let old = beside(&self.path, ".old");
        remove_if_there(&old)?;
        std::fs::hard_link(&self.path, &old)?;
        sync_directory(&self.path)?;
        let before = (nvm.snapshot(), self.path.clone());
        self.compact(nvm)?;
        let written = std::fs::read(before.1)?;
        let read =
            Image::open(&self.master, self.seid.as_str(), &written).map_err(io::Error::other)?;
        if read.nvm.snapshot() != before.0 {
            std::fs::rename(&old, &self.path)?;
            return Err(io::Error::other(
                "the upgraded image is not what it should be",
            ));
        }
        self.forget_old_version()
    }

    /// What an upgrade keeps beside the image goes, once the directory is durable.
    fn forget_old_version(&self) -> io::Result<()> {
        let old = beside(&self.path, ".old");
        if old.try_exists()? {
            sync_directory(&self.path)?;
            remove_if_there(&old)?;
        }
        Ok(())
    }

    /// How it stands: version, bytes, records.
    pub(super) fn state(&self) -> (u8, u64, u64) {
        (
            self.image.version(),
            self.image.len() as u64,
            self.image.records(),
        )
    }

    /// Whether the log has grown so long that replacing it pays.
    pub(super) fn is_long(&self, nvm: &Nvm) -> bool {
        !self.broken && self.image.is_worth_compacting(nvm)
    }

    /// Replaces the log by one record. On an error the old one stays.
    pub(super) fn compact(&mut self, nvm: &Nvm) -> io::Result<()> {
        let (image, file) = write_whole(&self.path, self.seid, &self.master, nvm)?;
        self.image = image;
        self.file = file;
        Ok(())
    }

    fn truncate(&self) -> io::Result<()> {
        self.file.set_len(self.image.len() as u64)?;
        self.file.sync_data()
    }
}

/// Writes an image under another name, makes it durable, and gives it its name: there is the old file or
/// the new one, never a part of one.
fn write_whole(
    path: &Path,
    seid: Seid,
    master: &MasterKey,
    nvm: &Nvm,
) -> io::Result<(Image, File)> {
    let made = Image::compact(master, seid.as_str(), random()?, random()?, nvm);
    let (image, bytes) = made.map_err(io::Error::other)?;
    let temporary = beside(path, ".new");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    lock(&file, path).map_err(io::Error::other)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_directory(path)?;
    Ok((image, file))
}

/// The same name with something after it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Makes what the directory of this file says durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A process that this one is just starting holds its files up to its exec: that is waited for.
fn lock(file: &File, path: &Path) -> Result<(), FileError> {
    for _ in 0..20 {
        if flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(FileError::InUse(path.to_owned()))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn seid() -> Seid {
        "SE1".parse().unwrap()
    }

    fn delta(name: &str, value: &[u8]) -> Delta {
        Delta {
            changes: [(name.to_owned(), Some(value.to_vec().into()))].into(),
        }
    }

    fn open(path: &Path) -> Result<(ImageFile, Nvm), FileError> {
        ImageFile::open(path, seid(), Arc::default(), &birth(path))
    }

    fn birth(path: &Path) -> Birth {
        Birth::of(seid(), path.parent().unwrap())
    }

    #[test]
    fn an_element_whose_image_is_gone_does_not_come_back_blank() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        let (_, nvm) = open(&path).unwrap();
        let copy = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = open(&path).err().unwrap();
        assert!(matches!(error, FileError::Missing { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("SE1.born") && text.contains("restore"),
            "{text}"
        );
        assert!(!path.exists());
        // the copy brings the same element back
        std::fs::write(&path, copy).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let (_, again) = open(&path).unwrap();
        assert_eq!(factory::guid(&again), factory::guid(&nvm));
        // an image of before there were records gets one
        std::fs::remove_file(birth(&path).path()).unwrap();
        drop(open(&path).unwrap());
        assert!(birth(&path).is_recorded().unwrap());
        // without the record a blank element is born
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(birth(&path).path()).unwrap();
        let (_, blank) = open(&path).unwrap();
        assert_ne!(factory::guid(&blank), factory::guid(&nvm));
    }

    #[test]
    fn a_birth_that_cannot_be_recorded_gives_no_element() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        let nowhere = Birth::of(seid(), &dir.path().join("gone"));
        let error = ImageFile::open(&path, seid(), Arc::default(), &nowhere).err();
        assert!(matches!(error, Some(FileError::System { .. })));
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        let (mut file, nvm) = open(&path).unwrap();
        assert!(factory::guid(&nvm).is_some());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        file.append(&delta("a", b"1")).unwrap();
        file.append(&delta("a", b"2")).unwrap();
        assert!(matches!(open(&path), Err(FileError::InUse(_))));
        drop(file);
        let (_, again) = open(&path).unwrap();
        assert_eq!(again.get("a"), Some(&b"2"[..]));
        assert_eq!(factory::guid(&again), factory::guid(&nvm));
    }

    #[test]
    fn a_file_cut_at_any_byte_of_its_last_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        let (mut file, _) = open(&path).unwrap();
        file.append(&delta("a", b"1")).unwrap();
        let before = std::fs::metadata(&path).unwrap().len();
        file.append(&delta("a", b"2")).unwrap();
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        for cut in usize::try_from(before).unwrap()..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut file, nvm) = open(&path).unwrap();
            assert_eq!(nvm.get("a"), Some(&b"1"[..]), "{cut}");
            file.append(&delta("b", b"3")).unwrap();
            drop(file);
            let (_, nvm) = open(&path).unwrap();
            assert_eq!(
                (nvm.get("a"), nvm.get("b")),
                (Some(&b"1"[..]), Some(&b"3"[..])),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        let (mut file, _) = open(&path).unwrap();
        file.append(&delta("a", b"1")).unwrap();
        // A file that cannot be written, nor cut.
        let writable = std::mem::replace(&mut file.file, File::open(&path).unwrap());
        assert!(file.append(&delta("a", b"2")).is_err());
        file.file = writable;
        let error = file.append(&delta("a", b"3")).unwrap_err();
        assert!(error.to_string().contains("restart the node"), "{error}");
        drop(file);
        let (_, nvm) = open(&path).unwrap();
        assert_eq!(nvm.get("a"), Some(&b"1"[..]));
    }

    #[test]
    fn a_long_log_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        let (mut file, mut nvm) = open(&path).unwrap();
        for n in 0..40u8 {
            let delta = delta("big", &[n; 4096]);
            file.append(&delta).unwrap();
            nvm = Nvm::replay([nvm.snapshot(), delta]);
        }
        assert!(file.is_long(&nvm));
        file.compact(&nvm).unwrap();
        assert!(!file.is_long(&nvm));
        file.append(&delta("a", b"1")).unwrap();
        drop(file);
        assert!(std::fs::metadata(&path).unwrap().len() < 16_384);
        let (_, again) = open(&path).unwrap();
        assert_eq!(
            (again.get("big"), again.get("a")),
            (Some(&[39; 4096][..]), Some(&b"1"[..]))
        );
        assert!(!dir.path().join("SE1.image.new").exists());
    }

    #[test]
    fn what_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SE1.image");
        drop(open(&path).unwrap());
        let other: Seid = "SE2".parse().unwrap();
        let error = ImageFile::open(&path, other, Arc::default(), &birth(&path))
            .err()
            .unwrap();
        assert!(error.to_string().contains("another SEID"), "{error}");
        let key = Arc::new(MasterKey::new([1; 32]));
        assert!(ImageFile::open(&path, seid(), key, &birth(&path)).is_err());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let error = open(&path).err().unwrap();
        assert!(error.to_string().contains("chmod 0600"), "{error}");
        let nowhere = dir.path().join("no/SE1.image");
        assert!(matches!(open(&nowhere), Err(FileError::System { .. })));
    }
}
