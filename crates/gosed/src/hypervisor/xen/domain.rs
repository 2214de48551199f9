//! What `xl` is told of a domain (xl.cfg(5)).

use std::{io, path::Path};

use gose_proto::identity::VmId;

use crate::hypervisor::{driver::Build, vif::LinkNetwork};

/// What Xen calls a domain.
pub(super) fn name(vm: VmId) -> String {
    format!("gose-{vm}")
}

/// The configuration of a paravirtualised domain. It does not come back by itself when it ends: that needs a ticket.
///
/// # Errors
/// What does not fit the file.
pub(super) fn configuration(
    build: &Build,
    network: LinkNetwork,
    script: &Path,
) -> io::Result<String> {
    let vm = build.vm();
    let record = &build.record;
    let kernel = build.kernel.as_ref().ok_or_else(|| {
        let image = &record.image;
        io::Error::other(format!("image \"{image}\" has no kernel, which Xen boots"))
    })?;
    let (guest, host) = (network.guest(), network.host());
    // As Linux and Debian's initramfs read it: address, server, gateway, netmask, name, device, how.
    let mut extra = format!("ip={guest}::{host}:255.255.255.252::eth0:off");
    for word in &record.command {
        extra.push(' ');
        extra.push_str(word);
    }
    let vif = format!("script={},mac={},ip={guest}", script.display(), mac(vm));
    if script.to_string_lossy().contains(',') {
        return Err(io::Error::other(
            "xl takes no comma in the join folder's name",
        ));
    }
    let mut lines = vec![
        ("type", "pv".to_owned()),
        ("name", name(vm)),
        ("uuid", vm.to_string()),
        ("kernel", kernel.display().to_string()),
    ];
    if let Some(ramdisk) = &build.ramdisk {
        lines.push(("ramdisk", ramdisk.display().to_string()));
    }
    lines.push(("extra", extra));
    for key in [
        "on_poweroff",
        "on_reboot",
        "on_watchdog",
        "on_crash",
        "on_soft_reset",
    ] {
        lines.push((key, "destroy".to_owned()));
    }
    let mut text = String::new();
    for (key, value) in &lines {
        text += &format!("{key} = {}\n", quoted(key, value)?);
    }
    let (memory, vcpus, vif) = (record.memory_mib, record.vcpus, quoted("vif", &vif)?);
    text += &format!("memory = {memory}\nvcpus = {vcpus}\nvif = [ {vif} ]\n");
    Ok(text)
}

/// A string of the file: nothing in it ends it or begins a line.
fn quoted(key: &str, value: &str) -> io::Result<String> {
    if value.contains(['"', '\\']) || value.chars().any(char::is_control) {
        let said = format!("{key} has a character that xl does not take");
        return Err(io::Error::other(said));
    }
    Ok(format!("\"{value}\""))
}

/// An address of Xen's range (00:16:3E), always the same for a domain.
fn mac(vm: VmId) -> String {
    let [.., a, b, c] = vm.0;
    format!("00:16:3e:{:02x}:{b:02x}:{c:02x}", a & 0x7F)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use gose_client::guest::JoinRecord;
    use gose_proto::identity::attach::JoinSecret;

    use super::*;
    use crate::hypervisor::{
        domain::tests::issuer,
        gate::Gate,
        journal::{Journal, tests::record},
    };

    fn build(words: &[&str]) -> Build {
        let dir = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(dir.path()).unwrap());
        let mut record = record(5);
        record.command = words.iter().map(ToString::to_string).collect();
        let secret = JoinSecret::new([1; 32]);
        Build {
            join: JoinRecord::new(record.uuid.0, "hv", &[], &[], &secret),
            record,
            kernel: Some("/boot/kernel".into()),
            ramdisk: None,
            ticket: Vec::new(),
            gate: Arc::new(Gate::new(issuer(), journal, Duration::from_secs(1))),
        }
    }

    #[test]
    fn a_domain_as_xl_reads_it() {
        let network = LinkNetwork::free(|_| false).unwrap();
        let build = build(&["quiet", "init=/x"]);
        let text = configuration(&build, network, Path::new("/run/vif-gose")).unwrap();
        let expected = "type = \"pv\"
name = \"gose-00000000-0000-0000-0000-000000000005\"
uuid = \"00000000-0000-0000-0000-000000000005\"
kernel = \"/boot/kernel\"
extra = \"ip=169.254.1.2::169.254.1.1:255.255.255.252::eth0:off quiet init=/x\"
on_poweroff = \"destroy\"
on_reboot = \"destroy\"
on_watchdog = \"destroy\"
on_crash = \"destroy\"
on_soft_reset = \"destroy\"
memory = 64
vcpus = 1
vif = [ \"script=/run/vif-gose,mac=00:16:3e:00:00:05,ip=169.254.1.2\" ]
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_of_a_user_becomes_a_line_of_its_own() {
        let network = LinkNetwork::free(|_| false).unwrap();
        for word in ["x\"\nvif=[]", "a\nb", "\\", "a\0"] {
            let refused = configuration(&build(&[word]), network, Path::new("/s"));
            assert!(refused.is_err(), "{word:?}");
        }
    }
}
