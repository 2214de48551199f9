//! Where a program finds a secret: never in its configuration itself.

use std::{
    env, fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::Error;

/// Bytes that a file of secrets may have.
const LARGEST: u64 = 4096;

/// Where one secret comes from: `file:PATH` or `env:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Source {
    /// A file that nobody but its owner can read.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Variable(name.into())),
            _ => Err("a secret's source is file:PATH or env:NAME"),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Source {
    /// The secret, without the end of its line. Relative paths begin in `folder`.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Config`]
    pub fn read(&self, folder: &Path) -> Result<Zeroizing<String>, Error> {
        match self {
            Self::File(path) => private_file(&folder.join(path)),
            Self::Variable(name) => env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| Error::Config(format!("the variable {name} is not set"))),
        }
    }
}

/// The text of a file that nobody but its owner can read, without the end of its last line.
///
/// # Errors
/// [`Error::File`]
pub(super) fn private_file(path: &Path) -> Result<Zeroizing<String>, Error> {
    let wrong = |cause: String| Error::File {
        path: path.to_owned(),
        cause,
    };
    let file = fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let about = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if about.permissions().mode() & 0o077 != 0 {
        return Err(wrong("others than its owner can read it; chmod 600".into()));
    }
    let mut text = Zeroizing::new(String::with_capacity(256));
    file.take(LARGEST)
        .read_to_string(&mut text)
        .map_err(|error| wrong(error.to_string()))?;
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        assert_eq!("file:a/b".parse(), Ok(Source::File("a/b".into())));
        assert_eq!("env:PIN".parse(), Ok(Source::Variable("PIN".into())));
        for wrong in ["", "file:", "env:", "123456", "prompt"] {
            assert!(wrong.parse::<Source>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_are_private_and_lose_the_end_of_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        fs::write(&path, "123456\r\n").unwrap();
        let source = Source::File("pin".into());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = source.read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(source.read(folder.path()).unwrap().as_str(), "123456");
    }
}
