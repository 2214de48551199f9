//! What is printed: text for people, one JSON value for machines.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use gose_proto::hex;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::Failure;

/// Where results go.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: `value` as JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// [`Failure::Local`] when standard output is closed.
    pub(crate) fn result<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let mut line = if self.json {
            serde_json::to_string(value).map_err(|error| Failure::local(error.to_string()))?
        } else {
            text(value)
        };
        if !line.is_empty() && !line.ends_with('\n') {
            line.push('\n');
        }
        std::io::stdout()
            .write_all(line.as_bytes())
            .map_err(|error| Failure::local(format!("standard output: {error}")))
    }

    /// Tells about work whose data goes to standard output: on standard error, as text or as one JSON value.
    ///
    /// # Errors
    /// [`Failure::Local`] when there is no JSON for it.
    pub(crate) fn aside<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let line = if self.json {
            serde_json::to_string(value).map_err(|error| Failure::local(error.to_string()))?
        } else {
            text(value)
        };
        eprintln!("{line}");
        Ok(())
    }

    /// Prints why the command failed, on standard error.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let value = serde_json::json!({
                "error": failure.to_string(),
                "exit": failure.exit_code(),
            });
            eprintln!("{value}");
        } else {
            eprintln!("gose: {failure}");
        }
    }
}

/// A line of a service on standard error, where systemd's journal takes it.
pub(crate) fn log(text: &str) {
    eprintln!("gose: {text}");
}

/// Writes what was made to a file, in place of the one there.
///
/// # Errors
/// [`Failure::Local`] with the path.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::local(format!("{}: {error}", path.display())))
}

/// Bytes that are read at most: more than any command of an element takes.
const LARGEST: u64 = 65_536;

/// Reads a file, or standard input.
///
/// # Errors
/// [`Failure::Local`] with the path, or for more than an element takes.
pub(crate) fn read_bytes(path: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let name = path.map_or_else(
        || "standard input".into(),
        |path| path.display().to_string(),
    );
    let read = || {
        let mut bytes = Zeroizing::new(Vec::new());
        match path {
            Some(path) => File::open(path)?
                .take(LARGEST + 1)
                .read_to_end(&mut bytes)?,
            None => std::io::stdin().take(LARGEST + 1).read_to_end(&mut bytes)?,
        };
        Ok(bytes)
    };
    let bytes =
        read().map_err(|error: std::io::Error| Failure::local(format!("{name}: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::local(format!(
            "{name} is longer than an element takes"
        )));
    }
    Ok(bytes)
}

/// Bytes as a result: raw to a file or to standard output, hexadecimal in JSON.
pub(crate) struct Bytes {
    bytes: Zeroizing<Vec<u8>>,
    /// Whether a new file is for its owner alone.
    secret: bool,
}

impl Bytes {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Zeroizing::new(bytes),
            secret: false,
        }
    }

    pub(crate) fn secret(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self {
            bytes,
            secret: true,
        }
    }

    /// # Errors
    /// [`Failure::Local`] with the path.
    pub(crate) fn give(&self, out: Option<&Path>, output: &Output) -> Result<(), Failure> {
        let Some(path) = out else {
            if output.json {
                return output.result(&hex::encode(&self.bytes), String::clone);
            }
            return std::io::stdout()
                .write_all(&self.bytes)
                .map_err(|error| Failure::local(format!("standard output: {error}")));
        };
        let mode = if self.secret { 0o600 } else { 0o666 };
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(mode);
            options.open(path)?.write_all(&self.bytes)
        };
        write().map_err(|error| Failure::local(format!("{}: {error}", path.display())))?;
        output.result(&path.display().to_string(), |_| String::new())
    }
}
