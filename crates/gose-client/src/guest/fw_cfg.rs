//! The join record from QEMU's firmware configuration device, which a guest's root alone can read.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use zeroize::Zeroizing;

use super::{GuestError, JoinRecord, RecordError, channel::RecordFile};

/// Where Linux shows what the hypervisor gave (`qemu_fw_cfg`).
const PLACE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/gose/join/raw";

/// The longest record.
const LENGTH: usize = 65_536;

/// Leaves the record that the hypervisor gave in a file, unless there is one: QEMU shows the first one as long as it runs,
/// and its secret counts once. `false` if this is no guest that was given one.
///
/// # Errors
/// [`GuestError`].
pub(super) fn pick_up_from_fw_cfg(path: &Path) -> Result<bool, GuestError> {
    pick_up(Path::new(PLACE), path)
}

fn pick_up(from: &Path, to: &Path) -> Result<bool, GuestError> {
    let given = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        given => given?,
    };
    let mut json = Zeroizing::new(Vec::with_capacity(LENGTH + 1));
    let limit = u64::try_from(LENGTH + 1).unwrap_or(u64::MAX);
    given.take(limit).read_to_end(&mut json)?;
    if json.len() > LENGTH {
        return Err(RecordError::Length(json.len()).into());
    }
    let record: JoinRecord = serde_json::from_slice(&json).map_err(RecordError::Json)?;
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    // Of two programs that pick it up at once the second one finds what the first one left.
    let file = RecordFile::lock(to)?;
    if !to.exists() {
        file.replace(&record)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const RECORD: &str = r#"{"vm":"00000000-0000-4000-8000-00000000000a","address":"hv","host":"169.254.1.1","anchors":[],"token":[],"secret":"00"}"#;

    #[test]
    fn the_first_record_is_picked_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("raw");
        let kept = dir.path().join("run/join.json");
        assert!(!pick_up(&given, &kept).unwrap());
        std::fs::write(&given, RECORD).unwrap();
        assert!(pick_up(&given, &kept).unwrap());
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), RECORD);
        let mode = kept.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The record of the next join stays.
        std::fs::write(&kept, "next").unwrap();
        assert!(pick_up(&given, &kept).unwrap());
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "next");
    }

    #[test]
    fn what_is_no_record_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("raw");
        let kept = dir.path().join("join.json");
        std::fs::write(&given, "{").unwrap();
        let refused = pick_up(&given, &kept);
        assert!(matches!(
            refused,
            Err(GuestError::Record(RecordError::Json(_)))
        ));
        std::fs::write(&given, " ".repeat(LENGTH + 1)).unwrap();
        let refused = pick_up(&given, &kept);
        assert!(matches!(
            refused,
            Err(GuestError::Record(RecordError::Length(_)))
        ));
        assert!(!kept.exists());
    }
}
