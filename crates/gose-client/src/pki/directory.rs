//! The authority's directory: every file is replaced whole or not at all.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use rcgen::RevocationReason;

use super::{PkiError, UnixTime};

/// A directory, and the lock on it while something changes.
pub(super) struct Directory {
    path: PathBuf,
}

/// What is revoked, and the number of the last CRL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    pub(super) crl_number: u64,
    pub(super) entries: Vec<Revocation>,
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Serial number, upper-case hexadecimal.
    pub serial: String,
    /// When it was revoked.
    pub time: UnixTime,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate is revoked (RFC 5280, 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reason {
    /// No reason is told.
    #[default]
    Unspecified,
    /// The private key is known to others.
    KeyCompromise,
    /// The holder has another name or place now.
    AffiliationChanged,
    /// There is a new certificate.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
}

const REVOKED: &str = "revoked";

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub(super) fn create(&self) -> Result<(), PkiError> {
        let issued = self.path.join("issued");
        fs::create_dir_all(&issued).map_err(|cause| file(&issued, cause))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Waits until no other process changes the directory; the lock ends with the value.
    pub(super) fn lock(&self) -> Result<File, PkiError> {
        let path = self.file("lock");
        let open = || {
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            lock.lock()?;
            Ok(lock)
        };
        open().map_err(|cause| file(&path, cause))
    }

    /// The content of a file; `None` where there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, PkiError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(file(&path, cause)),
        }
    }

    /// Replaces a file: written beside it, made durable, renamed.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), PkiError> {
        let path = self.file(name);
        let new = path.with_extension("new");
        let write = || {
            let mut out = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o644)
                .open(&new)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(path.parent().unwrap_or(&self.path))?.sync_all()
        };
        write().map_err(|cause| file(&path, cause))
    }

    pub(super) fn revoked(&self) -> Result<Revoked, PkiError> {
        let Some(text) = self.read(REVOKED)? else {
            return Ok(Revoked::default());
        };
        text.parse().map_err(|fault| PkiError::State {
            path: self.file(REVOKED),
            fault,
        })
    }

    pub(super) fn write_revoked(&self, revoked: &Revoked) -> Result<(), PkiError> {
        self.write(REVOKED, &revoked.to_string())
    }
}

fn file(path: &Path, cause: io::Error) -> PkiError {
    PkiError::File {
        path: path.to_owned(),
        cause,
    }
}

impl FromStr for Revoked {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines();
        let crl_number = lines
            .next()
            .and_then(|line| line.strip_prefix("crl-number "))
            .and_then(|number| number.parse().ok())
            .ok_or("the first line is not `crl-number N`")?;
        let entries = lines
            .map(|line| {
                line.parse()
                    .map_err(|()| "a line is not `SERIAL TIME REASON`")
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            crl_number,
            entries,
        })
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "crl-number {}", self.crl_number)?;
        for entry in &self.entries {
            writeln!(f, "{} {} {}", entry.serial, entry.time, entry.reason)?;
        }
        Ok(())
    }
}

impl FromStr for Revocation {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [serial, time, reason] = words.as_slice() else {
            return Err(());
        };
        if serial.is_empty() || gose_proto::hex::decode(serial).is_err() {
            return Err(());
        }
        Ok(Self {
            serial: (*serial).to_owned(),
            time: time.parse().map_err(|_| ())?,
            reason: reason.parse().map_err(|_| ())?,
        })
    }
}

impl Reason {
    /// Every reason, in the order of the standard.
    pub const ALL: [Self; 5] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
        }
    }

    pub(super) fn code(self) -> RevocationReason {
        match self {
            Self::Unspecified => RevocationReason::Unspecified,
            Self::KeyCompromise => RevocationReason::KeyCompromise,
            Self::AffiliationChanged => RevocationReason::AffiliationChanged,
            Self::Superseded => RevocationReason::Superseded,
            Self::CessationOfOperation => RevocationReason::CessationOfOperation,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|reason| reason.text() == text);
        known.ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.into_iter().map(Self::text).collect();
            format!("a reason is one of {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_revocations() {
        let revoked = Revoked {
            crl_number: 7,
            entries: Reason::ALL
                .into_iter()
                .map(|reason| Revocation {
                    serial: "4A01".into(),
                    time: 1_800_000_000,
                    reason,
                })
                .collect(),
        };
        assert_eq!(revoked.to_string().parse(), Ok(revoked));
        for bad in [
            "",
            "crl-number x\n",
            "crl-number 1\n4A01 1\n",
            "crl-number 1\n4A0 1 superseded\n",
            "crl-number 1\n4A01 1 because\n",
            "crl-number 1\n\n",
        ] {
            assert!(bad.parse::<Revoked>().is_err(), "{bad:?}");
        }
    }
}
