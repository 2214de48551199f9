//! Lines for whoever runs the program that loaded the module: what went wrong and what to do.

use std::{
    fs::OpenOptions,
    io::{Write, stderr},
    path::PathBuf,
};

use serde::Deserialize;

/// Where the lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) enum Log {
    /// The program's standard error.
    #[default]
    Stderr,
    /// Nowhere.
    None,
    /// The end of a file.
    File(PathBuf),
}

impl From<String> for Log {
    fn from(text: String) -> Self {
        match text.as_str() {
            "stderr" => Self::Stderr,
            "none" => Self::None,
            path => Self::File(path.into()),
        }
    }
}

impl Log {
    /// One line; that it cannot be written is nobody's error.
    pub(crate) fn line(&self, text: &str) {
        let line = format!("gose-pkcs11[{}]: {text}\n", std::process::id());
        let _ = match self {
            Self::None => Ok(()),
            Self::Stderr => stderr().write_all(line.as_bytes()),
            Self::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .and_then(|mut file| file.write_all(line.as_bytes())),
        };
    }
}
