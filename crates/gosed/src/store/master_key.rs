//! The key under which the images of software elements lie: where it is, and what opens it.

mod passphrase;
mod tool;
mod wrapped;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use gose_card::image::MasterKey;
use gose_proto::hex;
use zeroize::Zeroizing;

pub use tool::{Change, Form, change, make, show};

use super::{hardware, private_file};
use crate::config::{Config, KeyStore, PassphraseSource, Store};

/// Bytes that a kept key may have, whatever its form.
const LARGEST: u64 = 65_536;

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
#[error("[store] master key, {place}: {cause}")]
pub struct MasterKeyError {
    /// Where it is.
    pub place: Place,
    /// What is wrong, and the next step.
    pub cause: io::Error,
}

/// Where a master key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// A credential of the service, by its name.
    Credential(String),
    /// The configuration names none.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Nowhere => f.write_str("which the configuration does not name"),
        }
    }
}

/// A key that was opened by a passphrase, which nobody is asked for again while the node runs.
#[derive(Default)]
pub struct Held(Mutex<Option<(Store, Arc<MasterKey>)>>);

impl Held {
    /// The key of a configuration: the held one where a passphrase opened it and `[store]` is as it was, else read
    /// anew.
    ///
    /// # Errors
    /// [`MasterKeyError`].
    pub fn key(&self, config: &Config, store: &Store) -> Result<Arc<MasterKey>, MasterKeyError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, key)) = &*held
            && of == store
        {
            return Ok(key.clone());
        }
        let key = Arc::new(read(config, store)?);
        if store.passphrase.is_some() {
            *held = Some((store.clone(), key.clone()));
        }
        Ok(key)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// Reads the key of `[store]`; may ask a person for its passphrase.
fn read(config: &Config, store: &Store) -> Result<MasterKey, MasterKeyError> {
    let place = place(store);
    let opened = kept(&place).and_then(|bytes| match (sealing(config), &store.passphrase) {
        (Some(tpm), _) => unseal(&bytes, tpm),
        (None, Some(source)) => unwrap(&bytes, source),
        (None, None) => plain(&bytes),
    });
    opened.map_err(|cause| MasterKeyError { place, cause })
}

/// Looks whether the key can be what `[store]` says, as far as nobody need be asked for it.
///
/// # Errors
/// [`MasterKeyError`].
pub(super) fn check(config: &Config, store: &Store) -> Result<(), MasterKeyError> {
    let asks = matches!(
        store.passphrase.as_deref(),
        Some(PassphraseSource::Ask | PassphraseSource::Systemd | PassphraseSource::Descriptor(_))
    );
    if !asks {
        return read(config, store).map(drop);
    }
    let place = place(store);
    kept(&place)
        .and_then(|bytes| wrapped::Wrapped::parse(&bytes).map(drop).map_err(invalid))
        .map_err(|cause| MasterKeyError { place, cause })
}

/// The TPM that opens the master key.
pub(super) fn sealing(config: &Config) -> Option<&KeyStore> {
    let name = config.store.as_ref()?.sealed_by.as_ref()?;
    config.key_stores.iter().find(|store| store.name() == name)
}

fn place(store: &Store) -> Place {
    match (&store.master_key_file, &store.master_key_credential) {
        (Some(path), _) => Place::File(path.clone()),
        (None, Some(name)) => Place::Credential(name.clone()),
        (None, None) => Place::Nowhere,
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// The bytes that are kept there.
fn kept(place: &Place) -> io::Result<Zeroizing<Vec<u8>>> {
    match place {
        Place::File(path) => {
            let missing = |error: io::Error| match error.kind() {
                io::ErrorKind::NotFound => io::Error::new(
                    error.kind(),
                    "there is none; `gosed key make` makes one (a new key does not open images of another one)",
                ),
                _ => error,
            };
            private_file(path).map_err(missing)?;
            read_limited(path)
        }
        Place::Credential(name) => read_credential(name),
        Place::Nowhere => Err(io::ErrorKind::NotFound.into()),
    }
}

/// A credential that systemd gave this service. Its directory lets nobody else in; the file's own mode shows the
/// mask of an access control list.
fn read_credential(name: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let next = "systemd gives it to a service with LoadCredential= or LoadCredentialEncrypted= (packaging/gosed.service)";
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("CREDENTIALS_DIRECTORY is not set; {next}"),
        ));
    };
    let path = Path::new(&directory).join(name);
    read_limited(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            format!("the service has none of this name; {next}"),
        ),
        _ => error,
    })
}

fn read_limited(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(invalid("no key is as long as this"));
    }
    std::fs::read(path).map(Zeroizing::new)
}

/// 32 bytes, raw or as 64 hexadecimal digits.
fn plain(bytes: &[u8]) -> io::Result<MasterKey> {
    let mut key = MasterKey::default();
    if bytes.len() == key.len() {
        key.copy_from_slice(bytes);
        return Ok(key);
    }
    if wrapped::Wrapped::is(bytes) {
        return Err(invalid(
            "a passphrase wraps it; say where that comes from: [store] passphrase = \"ask\", \"systemd\", \"fd:NUMBER\", \
             \"credential:NAME\" or \"file:PATH\"",
        ));
    }
    match hex::decode(bytes.trim_ascii_end()).map(Zeroizing::new) {
        Ok(decoded) if decoded.len() == key.len() => {
            key.copy_from_slice(&decoded);
            Ok(key)
        }
        _ => Err(invalid(
            "a master key is 32 random bytes, raw or as 64 hexadecimal digits; `gosed key make` makes one (if a TPM \
             sealed this one, [store] sealed-by says which)",
        )),
    }
}

fn unseal(bytes: &[u8], tpm: &KeyStore) -> io::Result<MasterKey> {
    if wrapped::Wrapped::is(bytes) {
        return Err(invalid(
            "a passphrase wraps it, no TPM sealed it; [store] passphrase in place of sealed-by",
        ));
    }
    let opened = hardware::unseal(tpm, bytes).map_err(io::Error::other)?;
    let mut key = MasterKey::default();
    if opened.len() != key.len() {
        return Err(invalid("the TPM opened something that is no key"));
    }
    key.copy_from_slice(&opened);
    Ok(key)
}

fn unwrap(bytes: &[u8], source: &PassphraseSource) -> io::Result<MasterKey> {
    let wrapped = wrapped::Wrapped::parse(bytes).map_err(invalid)?;
    let passphrase = passphrase::read(source, "Passphrase of the master key")?;
    wrapped.open(&passphrase).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_or_digits() {
        let check = |content: &[u8], good: bool| {
            assert_eq!(plain(content).is_ok(), good, "{content:?}");
        };
        check(&[7; 32], true);
        check("AB".repeat(32).as_bytes(), true);
        check(format!("{}\n", "ab".repeat(32)).as_bytes(), true);
        check(&[7; 31], false);
        check("AB".repeat(31).as_bytes(), false);
        check(b"", false);
    }

    #[test]
    fn a_file_that_others_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let there = Place::File(path.clone());
        let error = kept(&there).unwrap_err();
        assert!(error.to_string().contains("gosed key make"), "{error}");
        std::fs::write(&path, [7; 32]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(
            kept(&there).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(*kept(&there).unwrap(), [7; 32]);
    }
}
