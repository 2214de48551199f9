//! The key under which the images of software elements lie.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use gose_card::image::MasterKey;
use gose_proto::hex;
use zeroize::Zeroizing;

use super::{hardware, private_file};
use crate::config::KeyStore;

/// Reads 32 bytes, raw or as 64 hexadecimal digits, from a file of mode 0600.
///
/// # Errors
/// What the system says; [`io::ErrorKind::InvalidData`] for another length.
pub fn master_key(path: &Path) -> io::Result<MasterKey> {
    private_file(path)?;
    let bytes = Zeroizing::new(std::fs::read(path)?);
    let mut key = MasterKey::default();
    if bytes.len() == key.len() {
        key.copy_from_slice(&bytes);
        return Ok(key);
    }
    let text = bytes.trim_ascii_end();
    match hex::decode(text).map(Zeroizing::new) {
        Ok(decoded) if decoded.len() == key.len() => {
            key.copy_from_slice(&decoded);
            Ok(key)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a master key is 32 random bytes, raw or as 64 hexadecimal digits",
        )),
    }
}

/// Opens a file that [`make_sealed`] made.
pub(super) fn sealed(path: &Path, tpm: &KeyStore) -> io::Result<MasterKey> {
    private_file(path)?;
    let bytes = hardware::unseal(tpm, &std::fs::read(path)?).map_err(io::Error::other)?;
    let mut key = MasterKey::default();
    if bytes.len() != key.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

/// Makes a random key and a file of it that only this TPM opens.
pub(super) fn make_sealed(path: &Path, tpm: &KeyStore) -> io::Result<()> {
    let mut key = MasterKey::default();
    aws_lc_rs::rand::fill(key.as_mut_slice())
        .map_err(|_| io::Error::other("the system gives no randomness"))?;
    let sealed = hardware::seal(tpm, key.as_slice()).map_err(io::Error::other)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&sealed)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn raw_or_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let check = |content: &[u8], good: bool| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!(master_key(&path).is_ok(), good, "{content:?}");
        };
        check(&[7; 32], true);
        check("AB".repeat(32).as_bytes(), true);
        check(format!("{}\n", "ab".repeat(32)).as_bytes(), true);
        check(&[7; 31], false);
        check("AB".repeat(31).as_bytes(), false);
        check(b"", false);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(
            master_key(&path).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }
}
