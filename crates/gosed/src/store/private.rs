//! Files that hold secrets.

use std::{io, os::unix::fs::MetadataExt, path::Path};

/// Refuses a file that others than its owner may read or write.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`], with the command that repairs it; what the system says.
pub fn private_file(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let text = format!(
        "mode {mode:04o} lets others in; chmod 0600 {}",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn modes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "").unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(private_file(&path).is_ok(), good, "{mode:o}");
        }
    }
}
