//! A passphrase, from wherever the configuration says.

use std::{
    fs::File,
    io::{self, Read},
    process::{Command, Stdio},
};

use zeroize::Zeroizing;

use crate::{config::PassphraseSource, store::private_file};

/// Bytes that a passphrase may have.
const LONGEST: usize = 1024;

/// The passphrase, without the end of its line.
pub(super) fn read(source: &PassphraseSource, question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("passphrase from {source}: {error}"))
    };
    let mut passphrase = match source {
        PassphraseSource::Ask => ask(question),
        PassphraseSource::Systemd => systemd(question),
        PassphraseSource::Descriptor(number) => {
            File::open(format!("/proc/self/fd/{number}")).and_then(limited)
        }
        PassphraseSource::Credential(name) => super::read_credential(name),
        PassphraseSource::File(path) => private_file(path)
            .and_then(|()| File::open(path))
            .and_then(limited),
    }
    .map_err(named)?;
    while passphrase.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        passphrase.pop();
    }
    if passphrase.is_empty() {
        return Err(named(io::Error::new(
            io::ErrorKind::InvalidData,
            "there is none",
        )));
    }
    Ok(passphrase)
}

/// A new passphrase: a person types it twice.
pub(super) fn read_new(source: &PassphraseSource) -> io::Result<Zeroizing<Vec<u8>>> {
    let first = read(source, "New passphrase of the master key")?;
    let asked = matches!(source, PassphraseSource::Ask | PassphraseSource::Systemd);
    if asked && *read(source, "The same again")? != *first {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the two passphrases differ; nothing was changed",
        ));
    }
    Ok(first)
}

/// Reads to the end, at most [`LONGEST`] bytes. Growing would leave copies behind.
fn limited(file: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {LONGEST} bytes"),
        ));
    }
    Ok(bytes)
}

fn systemd(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut child = Command::new("systemd-ask-password")
        .args(["--id=gosed:master-key", "--icon=drive-harddisk"])
        .arg(format!("{question}:"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let read = child.stdout.take().map(limited);
    let status = child.wait()?;
    match read {
        Some(read) if status.success() => read,
        _ => Err(io::Error::other(format!("systemd-ask-password: {status}"))),
    }
}

/// On the terminal itself, without echo.
fn ask(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    gose_client::terminal::ask(question).map_err(|error| {
        let text = format!(
            "cannot ask at a terminal ({error}); a service takes it from systemd, fd:NUMBER or credential:NAME"
        );
        io::Error::new(error.kind(), text)
    })
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn files_and_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        std::fs::write(&path, "correct horse \r\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let from_file = PassphraseSource::File(path.clone());
        assert_eq!(*read(&from_file, "").unwrap(), b"correct horse ");
        let file = File::open(&path).unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        let from_descriptor = PassphraseSource::Descriptor(number);
        assert_eq!(*read_new(&from_descriptor).unwrap(), b"correct horse ");
        for content in [String::new(), "\n".into(), "x".repeat(LONGEST + 1)] {
            std::fs::write(&path, content).unwrap();
            assert!(read(&from_file, "").is_err());
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let error = read(&from_file, "").unwrap_err().to_string();
        assert!(error.contains("chmod 0600"), "{error}");
        let error = read(&PassphraseSource::Descriptor(9999), "").unwrap_err();
        assert!(error.to_string().contains("fd:9999"), "{error}");
    }
}
