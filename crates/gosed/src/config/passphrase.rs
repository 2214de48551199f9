//! Where a passphrase comes from: never an argument or a variable, which other processes can read.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a passphrase comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassphraseSource {
    /// `ask`: whoever sits at the terminal.
    Ask,
    /// `systemd`: `systemd-ask-password`, which asks at the console, on plymouth, or wherever an agent listens.
    Systemd,
    /// `fd:NUMBER`: an open descriptor, read to its end.
    Descriptor(u32),
    /// `credential:NAME`: a credential that systemd gave the service.
    Credential(String),
    /// `file:PATH`: a file of mode 0600.
    File(PathBuf),
}

impl FromStr for PassphraseSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\": a passphrase comes from ask, systemd, fd:NUMBER, credential:NAME or file:PATH"
            )
        };
        match text.split_once(':') {
            None if text == "ask" => Ok(Self::Ask),
            None if text == "systemd" => Ok(Self::Systemd),
            Some(("fd", number)) => number.parse().map(Self::Descriptor).map_err(|_| wrong()),
            Some(("credential", name)) => {
                credential_name(name).map(|name| Self::Credential(name.to_owned()))
            }
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(wrong()),
        }
    }
}

/// A name that is no path.
pub(super) fn credential_name(name: &str) -> Result<&str, String> {
    let good = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    if good {
        Ok(name)
    } else {
        Err(format!(
            "\"{name}\" is no name of a credential: that is the word after LoadCredential="
        ))
    }
}

impl fmt::Display for PassphraseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask => f.write_str("ask"),
            Self::Systemd => f.write_str("systemd"),
            Self::Descriptor(number) => write!(f, "fd:{number}"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for text in ["ask", "systemd", "fd:3", "credential:gose", "file:/a b"] {
            assert_eq!(text.parse::<PassphraseSource>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "env:PASS",
            "hunter2",
            "fd:",
            "fd:x",
            "credential:",
            "credential:../x",
            "file:",
        ] {
            assert!(text.parse::<PassphraseSource>().is_err(), "{text}");
        }
    }
}
