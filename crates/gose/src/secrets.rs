//! Where PINs and keys come from: a file of `gose element init`, a prompt, a file, a descriptor, a
//! variable; never the command line, which everybody on the machine can read.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use gose_client::terminal;
use gose_element::drive::provision::Secrets;
use gose_proto::hex;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Failure;

/// Bytes that a secret or a file of secrets may have.
const LARGEST: usize = 4096;

/// Where one secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Prompt,
    File(PathBuf),
    Descriptor(u32),
    Variable(String),
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "prompt" => Ok(Self::Prompt),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("fd", number)) => number
                .parse()
                .map(Self::Descriptor)
                .map_err(|_| "fd: is followed by a number"),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name.to_owned())),
            _ => Err("a source is prompt, file:PATH, fd:NUMBER or env:NAME"),
        }
    }
}

impl Source {
    /// The secret, without the end of its line.
    pub(crate) fn read(&self, what: &str) -> Result<Zeroizing<String>, Failure> {
        let wrong = |error: std::io::Error| Failure::local(format!("{what}: {error}"));
        let text = match self {
            Self::Prompt => {
                let typed = terminal::ask(what).map_err(|error| {
                    Failure::local(format!(
                        "{what}: cannot ask on the terminal ({error}); name a file or a source"
                    ))
                })?;
                let text = str::from_utf8(&typed)
                    .map_err(|_| Failure::local(format!("{what}: not UTF-8; name a file")))?;
                return Ok(Zeroizing::new(text.to_owned()));
            }
            Self::File(path) => read_private(path)?,
            Self::Descriptor(number) => {
                let file = File::open(format!("/proc/self/fd/{number}")).map_err(wrong)?;
                read_limited(file).map_err(wrong)?
            }
            Self::Variable(name) => Zeroizing::new(std::env::var(name).map_err(|_| {
                Failure::local(format!(
                    "{what}: the variable {name} is not set or not UTF-8"
                ))
            })?),
        };
        Ok(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }
}

/// Who may use the keys of PIV.
#[derive(Args, Clone)]
pub(crate) struct PinFlags {
    /// File of secrets that `gose element init` wrote
    #[arg(long, value_name = "FILE", env = "GOSE_SECRETS")]
    secrets: Option<PathBuf>,
    /// Where the PIN of PIV comes from: prompt, file:PATH, fd:NUMBER, env:NAME [default: prompt]
    #[arg(long, value_name = "SOURCE")]
    pin_source: Option<Source>,
}

/// Who may make keys and write certificates.
#[derive(Args, Clone)]
pub(crate) struct ManagementFlags {
    /// File of secrets that `gose element init` wrote
    #[arg(long, value_name = "FILE", env = "GOSE_SECRETS")]
    secrets: Option<PathBuf>,
    /// Where the management key of PIV comes from, 64 hexadecimal digits: prompt, file:PATH,
    /// fd:NUMBER, env:NAME [default: prompt]
    #[arg(long, value_name = "SOURCE")]
    management_key_source: Option<Source>,
}

/// Who may write identities.
#[derive(Args, Clone)]
pub(crate) struct OperatorFlags {
    /// File of secrets that `gose element init` wrote
    #[arg(long, value_name = "FILE", env = "GOSE_SECRETS")]
    secrets: Option<PathBuf>,
    /// Where the operator's PIN comes from: prompt, file:PATH, fd:NUMBER, env:NAME [default: prompt]
    #[arg(long, value_name = "SOURCE")]
    operator_pin_source: Option<Source>,
}

/// Who may use the identities of the EAP-TLS application.
#[derive(Args, Clone)]
pub(crate) struct BearerFlags {
    /// File of secrets that `gose element init` wrote
    #[arg(long, value_name = "FILE", env = "GOSE_SECRETS")]
    secrets: Option<PathBuf>,
    /// Where the bearer's PIN comes from: prompt, file:PATH, fd:NUMBER, env:NAME [default: prompt]
    #[arg(long, value_name = "SOURCE")]
    bearer_pin_source: Option<Source>,
}

impl BearerFlags {
    /// The bearer's PIN of the EAP-TLS application.
    pub(crate) fn pin(&self, seid: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let source = &self.bearer_pin_source;
        let pin = one(seid, &self.secrets, source, "bearer's PIN", |stored| {
            &stored.bearer_pin
        })?;
        Ok(Zeroizing::new(pin.as_bytes().to_vec()))
    }
}

impl PinFlags {
    /// The PIN of PIV.
    pub(crate) fn pin(&self, seid: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let pin = one(
            seid,
            &self.secrets,
            &self.pin_source,
            "PIN of PIV",
            |stored| &stored.piv_pin,
        )?;
        Ok(Zeroizing::new(pin.as_bytes().to_vec()))
    }
}

impl ManagementFlags {
    /// The management key of PIV.
    pub(crate) fn key(&self, seid: &str) -> Result<Zeroizing<[u8; 32]>, Failure> {
        let source = &self.management_key_source;
        let text = one(seid, &self.secrets, source, "management key", |stored| {
            &stored.management_key
        })?;
        parse_key(&text)
    }
}

impl OperatorFlags {
    /// The operator's PIN of the EAP-TLS application.
    pub(crate) fn pin(&self, seid: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let source = &self.operator_pin_source;
        let pin = one(seid, &self.secrets, source, "operator's PIN", |stored| {
            &stored.operator_pin
        })?;
        Ok(Zeroizing::new(pin.as_bytes().to_vec()))
    }
}

/// A named source goes before the file of secrets, which goes before a prompt.
fn one(
    seid: &str,
    secrets: &Option<PathBuf>,
    source: &Option<Source>,
    what: &str,
    field: impl FnOnce(&Stored) -> &String,
) -> Result<Zeroizing<String>, Failure> {
    match (source, secrets) {
        (Some(source), _) => source.read(what),
        (None, Some(path)) => {
            let stored = Stored::read(path)?;
            stored.check(path, seid)?;
            Ok(Zeroizing::new(field(&stored).clone()))
        }
        (None, None) => Source::Prompt.read(&format!("{what} ({seid})")),
    }
}

/// The secrets of an element as they stand in a file or are shown.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Stored {
    seid: String,
    piv_pin: String,
    piv_puk: String,
    management_key: String,
    operator_pin: String,
    bearer_pin: String,
}

impl Stored {
    pub(crate) fn new(seid: &str, secrets: &Secrets) -> Self {
        let text = |digits: &[u8]| digits.iter().map(|digit| char::from(*digit)).collect();
        Self {
            seid: seid.to_owned(),
            piv_pin: text(secrets.piv_pin.as_slice()),
            piv_puk: text(secrets.piv_puk.as_slice()),
            management_key: hex::encode(secrets.management_key.as_slice()),
            operator_pin: text(secrets.operator_pin.as_slice()),
            bearer_pin: text(secrets.bearer_pin.as_slice()),
        }
    }

    /// Reads a file that nobody but its owner can read.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = read_private(path)?;
        // The parser's message would quote the line.
        toml::from_str(&text)
            .map_err(|_| Failure::local(format!("{}: not a file of secrets", path.display())))
    }

    /// Writes a new file, mode 0600, durable.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|error| Failure::local(error.to_string()))?;
        let text = Zeroizing::new(text);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Failure::local(format!("{}: {error}", path.display())))
    }

    /// # Errors
    /// Where the file is another element's.
    pub(crate) fn check(&self, path: &Path, seid: &str) -> Result<(), Failure> {
        if self.seid == seid {
            return Ok(());
        }
        Err(Failure::local(format!(
            "{} holds the secrets of {}, not of {seid}",
            path.display(),
            self.seid
        )))
    }

    pub(crate) fn secrets(&self) -> Result<Secrets, Failure> {
        let digits = |text: &str| {
            <[u8; 8]>::try_from(text.as_bytes())
                .map(Zeroizing::new)
                .map_err(|_| Failure::local("a PIN in the file of secrets has not eight digits"))
        };
        Ok(Secrets {
            piv_pin: digits(&self.piv_pin)?,
            piv_puk: digits(&self.piv_puk)?,
            management_key: parse_key(&self.management_key)?,
            operator_pin: digits(&self.operator_pin)?,
            bearer_pin: digits(&self.bearer_pin)?,
        })
    }

    /// For a person: shown once.
    pub(crate) fn text(&self) -> String {
        format!(
            "Secrets of {}; they are not shown again.\n  PIN of PIV       {}\n  PUK of PIV       {}\n  \
             management key   {}\n  operator's PIN   {}\n  bearer's PIN     {}\n",
            self.seid,
            self.piv_pin,
            self.piv_puk,
            self.management_key,
            self.operator_pin,
            self.bearer_pin
        )
    }
}

fn parse_key(text: &str) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let bytes = hex::decode(text).map(Zeroizing::new).unwrap_or_default();
    <[u8; 32]>::try_from(bytes.as_slice())
        .map(Zeroizing::new)
        .map_err(|_| Failure::local("a management key has 64 hexadecimal digits"))
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let wrong = |error: &str| Failure::local(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| wrong(&error.to_string()))?;
    let mode = file
        .metadata()
        .map_err(|error| wrong(&error.to_string()))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(wrong("others than its owner can read it; chmod 600"));
    }
    read_limited(file).map_err(|error| wrong(&error.to_string()))
}

fn read_limited(file: File) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(LARGEST));
    file.take(LARGEST as u64).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let check = |text: &str, expected: Source| assert_eq!(text.parse(), Ok(expected));
        check("prompt", Source::Prompt);
        check("file:/a:b", Source::File("/a:b".into()));
        check("fd:3", Source::Descriptor(3));
        check("env:PIN", Source::Variable("PIN".into()));
        for bad in ["", "123456", "file:", "env:", "fd:x", "fd:-1", "other:1"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }

    #[test]
    fn files_of_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.toml");
        let stored = Stored::new("SE1", &Secrets::random().unwrap());
        stored.write(&path).unwrap();
        let read = Stored::read(&path).unwrap();
        assert_eq!(read.management_key, stored.management_key);
        read.secrets().unwrap();
        read.check(&path, "SE1").unwrap();
        assert!(read.check(&path, "SE2").is_err());
        assert!(stored.write(&path).is_err());

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(Stored::read(&path).is_err());
        assert!(Source::File(path).read("PIN").is_err());
    }

    #[test]
    fn a_secret_ends_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(b"12345678\r\n").unwrap();
        let secret = Source::File(path).read("PIN").unwrap();
        assert_eq!(*secret, "12345678");
    }
}
