//! `gosed key`: makes a master key, keeps it another way, tells how it is kept. Images stay as they are: what they
//! lie under never changes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use gose_card::image::MasterKey;
use gose_proto::hex;
use zeroize::Zeroizing;

use super::{
    MasterKeyError, Place, invalid, kept, passphrase, place, plain, read, sealing, unseal,
    wrapped::{Work, Wrapped},
};
use crate::{
    config::{Config, KeyStore, PassphraseSource, Store},
    store::{StoreError, hardware},
};

/// How a key is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// As it is, in a file that its owner alone reads, or for systemd to keep.
    Plain,
    /// Sealed by the TPM of this name.
    Sealed(String),
    /// Wrapped by a passphrase.
    Wrapped(PassphraseSource),
}

/// What is to be done with a key.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Its new form; as `[store]` says if absent.
    pub form: Option<Form>,
    /// The file to write; the present one if absent.
    pub to: Option<PathBuf>,
    /// Argon2id's memory, KiB; the default if absent.
    pub memory_kib: Option<u32>,
    /// Argon2id's passes; the default if absent.
    pub passes: Option<u32>,
}

/// Makes a random key and keeps it in a new file, in the form that `[store]` says.
///
/// # Errors
/// [`StoreError`]; an existing file stays as it is.
pub fn make(config: &Config, change: &Change) -> Result<String, StoreError> {
    let store = section(config)?;
    let path = target(store, change)?;
    let mut key = MasterKey::default();
    let done = aws_lc_rs::rand::fill(key.as_mut_slice())
        .map_err(|_| io::Error::other("the system gives no randomness"))
        .and_then(|()| keep(&key, config, &form(store, change), change, &path, false));
    done.map_err(|cause| at(&path, cause))?;
    Ok(told(store, &form(store, change), &path))
}

/// Keeps the present key in another form, or under another passphrase. The new file is read again before it takes
/// the place of the old one.
///
/// # Errors
/// [`StoreError`]; the old file stays as it is.
pub fn change(config: &Config, change: &Change) -> Result<String, StoreError> {
    let store = section(config)?;
    let path = target(store, change)?;
    let key = read(config, store)?;
    let form = form(store, change);
    keep(&key, config, &form, change, &path, true).map_err(|cause| at(&path, cause))?;
    Ok(told(store, &form, &path))
}

/// Tells how the key is kept. Nobody is asked for a passphrase.
///
/// # Errors
/// [`StoreError`].
pub fn show(config: &Config) -> Result<String, StoreError> {
    let store = section(config)?;
    let place = place(store);
    let bytes = kept(&place);
    let form = bytes.and_then(|bytes| match Wrapped::parse(&bytes) {
        Ok(wrapped) => Ok(format!(
            "wrapped by a passphrase (Argon2id, {} KiB, {} passes)",
            wrapped.work.memory_kib, wrapped.work.passes
        )),
        Err(error) if Wrapped::is(&bytes) => Err(invalid(error)),
        Err(_) => match (&store.sealed_by, plain(&bytes)) {
            (Some(tpm), _) => Ok(format!("sealed by the TPM {tpm}")),
            (None, Ok(_)) => Ok("as it is, 32 bytes".to_owned()),
            (None, Err(error)) => Err(error),
        },
    });
    match form {
        Ok(form) => Ok(format!("master key in {place}: {form}")),
        Err(cause) => Err(MasterKeyError { place, cause }.into()),
    }
}

fn section(config: &Config) -> Result<&Store, StoreError> {
    config.store.as_ref().ok_or_else(|| StoreError::Hardware {
        place: "[store]".into(),
        cause: "the configuration has no such section, so no key".into(),
    })
}

fn target(store: &Store, change: &Change) -> Result<PathBuf, StoreError> {
    let path = change.to.as_ref().or(store.master_key_file.as_ref());
    path.cloned().ok_or_else(|| MasterKeyError {
        place: place(store),
        cause: invalid(
            "a credential is not written from here; name a file by --to, then hand it to systemd-creds encrypt",
        ),
    }.into())
}

fn form(store: &Store, change: &Change) -> Form {
    match (&change.form, &store.sealed_by, &store.passphrase) {
        (Some(form), _, _) => form.clone(),
        (None, Some(tpm), _) => Form::Sealed(tpm.clone()),
        (None, None, Some(source)) => Form::Wrapped(source.0.clone()),
        (None, None, None) => Form::Plain,
    }
}

fn at(path: &Path, cause: io::Error) -> StoreError {
    let cause = match cause.kind() {
        io::ErrorKind::AlreadyExists => io::Error::new(
            cause.kind(),
            "there is one already, and images may lie under it; `gosed key change` changes how it is kept",
        ),
        _ => cause,
    };
    MasterKeyError {
        place: Place::File(path.to_owned()),
        cause,
    }
    .into()
}

/// Writes the key in this form, reads it again, and gives the file its name.
fn keep(
    key: &MasterKey,
    config: &Config,
    form: &Form,
    change: &Change,
    path: &Path,
    replace: bool,
) -> io::Result<()> {
    if !replace && path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let (bytes, opened) = match form {
        Form::Plain => {
            let text = Zeroizing::new(format!(
                "{}\n",
                &*Zeroizing::new(hex::encode(key.as_slice()))
            ));
            let bytes = Zeroizing::new(text.as_bytes().to_vec());
            let opened = plain(&bytes)?;
            (bytes, opened)
        }
        Form::Sealed(name) => {
            let tpm = tpm(config, name)?;
            let bytes = hardware::seal(tpm, key.as_slice()).map_err(io::Error::other)?;
            let opened = unseal(&bytes, tpm)?;
            (Zeroizing::new(bytes), opened)
        }
        Form::Wrapped(source) => {
            let usual = Work::default();
            let work = Work {
                memory_kib: change.memory_kib.unwrap_or(usual.memory_kib),
                passes: change.passes.unwrap_or(usual.passes),
            };
            let work = work.check().map_err(invalid)?;
            let passphrase = passphrase::read_new(source)?;
            let (salt, nonce) = (random()?, random()?);
            let wrapped = Wrapped::wrap(key, &passphrase, work, salt, nonce).map_err(invalid)?;
            let bytes = Zeroizing::new(wrapped.text().into_bytes());
            let again = Wrapped::parse(&bytes).map_err(invalid)?;
            (bytes, again.open(&passphrase).map_err(invalid)?)
        }
    };
    if opened != *key {
        return Err(invalid(
            "what was written opens to another key; nothing was changed",
        ));
    }
    write(path, &bytes, replace)
}

fn tpm<'a>(config: &'a Config, name: &str) -> io::Result<&'a KeyStore> {
    let found = config.key_stores.iter().find(|store| store.name() == name);
    found
        .or_else(|| sealing(config).filter(|store| store.name() == name))
        .ok_or_else(|| {
            invalid(format!(
                "no [[key-store]] of kind = \"tpm\" has name = \"{name}\""
            ))
        })
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no randomness"))?;
    Ok(bytes)
}

/// There is the old file or the new one, never a part of one.
fn write(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let temporary = directory.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| {
            if replace {
                std::fs::rename(&temporary, path)
            } else {
                // A file that came meanwhile stays.
                std::fs::hard_link(&temporary, path)
            }
        });
    if !replace || done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done?;
    File::open(directory)?.sync_all()
}

/// What was done, and what the configuration must say now.
fn told(store: &Store, form: &Form, path: &Path) -> String {
    let mut text = format!("the master key is in {}\n", path.display());
    let (what, now): (&str, String) = match form {
        Form::Plain => (
            "as it is; keep it with systemd-creds, or on a disk that is encrypted",
            String::new(),
        ),
        Form::Sealed(tpm) => ("sealed by the TPM", format!("sealed-by = \"{tpm}\"\n")),
        Form::Wrapped(source) => (
            "wrapped by a passphrase",
            format!("passphrase = \"{source}\"\n"),
        ),
    };
    text += what;
    let named = store.master_key_file.as_deref() == Some(path);
    let same = match form {
        Form::Plain => store.sealed_by.is_none() && store.passphrase.is_none(),
        Form::Sealed(tpm) => store.sealed_by.as_ref() == Some(tpm),
        Form::Wrapped(_) => store.passphrase.is_some(),
    };
    if named && same {
        text += "\nthe configuration fits";
    } else {
        text += "\nthe configuration must say now:\n[store]\n";
        text += &format!("master-key-file = \"{}\"\n", path.display());
        text += &now;
    }
    text
}
