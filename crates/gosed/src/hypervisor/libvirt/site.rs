//! What this machine keeps for one guest of libvirt: its tap, and while it is built its files.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    process::Command,
};

use aws_lc_rs::digest::{SHA256, digest};
use gose_proto::identity::VmId;
use zeroize::Zeroizing;

use crate::{
    config,
    hypervisor::{
        driver::Build,
        namespace::{device, ip},
        vif::LinkNetwork,
    },
    store::durable,
};

/// A guest's tap and files; taken down when dropped.
pub(super) struct Site {
    vm: VmId,
    device: String,
    folder: PathBuf,
    all: PathBuf,
}

/// Makes the folder of all guests, through which QEMU's user comes to what it is to read.
///
/// # Errors
/// What the system says, or which folder is closed.
pub(super) fn open_folder(folder: &Path, user: &str) -> io::Result<()> {
    passable(folder)?;
    let folder = fs::canonicalize(folder)?;
    let closed = folder
        .ancestors()
        .find(|above| fs::metadata(above).is_ok_and(|about| about.mode() & 0o001 == 0));
    match closed {
        None => Ok(()),
        Some(closed) => Err(io::Error::other(format!(
            "{}: the user {user} cannot pass to join-folder {}: chmod o+x, or choose another folder",
            closed.display(),
            folder.display()
        ))),
    }
}

/// A folder that everybody passes and the node's own user alone lists.
fn passable(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o711))
}

impl Site {
    /// Makes a guest's tap and folder.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(vm: VmId, all: &Path, network: LinkNetwork) -> io::Result<Self> {
        // What a node that was killed has left.
        Self::take_down(vm, all);
        let site = Self {
            vm,
            device: device(vm),
            folder: all.join(vm.to_string()),
            all: all.to_owned(),
        };
        let device = site.device();
        ip(&["tuntap", "add", "dev", device, "mode", "tap"])?;
        let of = |family: &str, name: &str| format!("/proc/sys/net/{family}/conf/{device}/{name}");
        // What comes in by this link comes from this guest, and goes no further.
        fs::write(of("ipv4", "rp_filter"), "1")?;
        fs::write(of("ipv4", "forwarding"), "0")?;
        fs::write(of("ipv4", "proxy_arp"), "0")?;
        match fs::write(of("ipv6", "disable_ipv6"), "1") {
            // A kernel without IPv6.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let own = format!("{}/30", network.host());
        ip(&["address", "add", &own, "dev", device])?;
        ip(&["link", "set", device, "up"])?;
        passable(&site.folder)?;
        Ok(site)
    }

    /// The node's end of the guest's link.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// Where the guest's join record is until QEMU has read it.
    pub(super) fn join(&self) -> PathBuf {
        self.folder.join("join.json")
    }

    /// What boots.
    pub(super) fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// Its RAM disk.
    pub(super) fn ramdisk(&self) -> PathBuf {
        self.folder.join("ramdisk")
    }

    /// Writes what QEMU and the hook read: kernel and RAM disk, which QEMU's user can read and not change; the join record,
    /// which it alone can read; the ticket, which it cannot.
    ///
    /// # Errors
    /// What the system says; that a copy is not what was hashed.
    pub(super) fn write(&self, build: &Build, config: &config::Libvirt) -> io::Result<()> {
        let record = &build.record;
        let boots = [
            (&build.kernel, &record.kernel, self.kernel()),
            (&build.ramdisk, &record.ramdisk, self.ramdisk()),
        ];
        for (from, hash, to) in boots {
            let (Some(from), Some(hash)) = (from, hash) else {
                continue;
            };
            let content = fs::read(from)?;
            if digest(&SHA256, &content).as_ref() != hash.0.0.as_slice() {
                let from = from.display();
                return Err(io::Error::other(format!("{from}: not what was hashed")));
            }
            create(&to, 0o444)?.write_all(&content)?;
        }
        durable::replace(&self.folder.join("ticket"), &build.ticket)?;
        let json = Zeroizing::new(serde_json::to_vec(&build.join)?);
        let mut join = create(&self.join(), 0o400)?;
        fchown(&join, Some(uid(&config.user)?), None)?;
        join.write_all(&json)
    }

    /// Writes the domain's description; gives its place.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn describe(&self, xml: &str) -> io::Result<PathBuf> {
        let path = self.folder.join("domain.xml");
        create(&path, 0o400)?.write_all(xml.as_bytes())?;
        Ok(path)
    }

    /// The files have been read.
    pub(super) fn remove_files(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }

    /// Takes away what there is of a guest.
    pub(super) fn take_down(vm: VmId, all: &Path) {
        // Not there is as good.
        let _ = ip(&["link", "delete", &device(vm)]);
        let _ = fs::remove_dir_all(all.join(vm.to_string()));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        Self::take_down(self.vm, &self.all);
    }
}

/// A new file with exactly this mode.
fn create(path: &Path, mode: u32) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// The number of a user.
fn uid(user: &str) -> io::Result<u32> {
    let output = Command::new("id").args(["-u", "--", user]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.trim().parse().ok().filter(|_| output.status.success());
    number.ok_or_else(|| {
        io::Error::other(format!(
            "[hypervisor.libvirt] user = \"{user}\": there is no such user; install libvirt-daemon-system"
        ))
    })
}
