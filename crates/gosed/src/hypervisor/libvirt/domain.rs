//! What libvirt is told of a domain (its XML format).

use std::io;

use gose_proto::identity::VmId;

use super::site::Site;
use crate::{
    config::{self, Accelerator},
    hypervisor::{driver::Build, vif::LinkNetwork},
};

/// Where a guest finds its join record, below QEMU's firmware configuration device.
const JOIN: &str = "opt/gose/join";

/// What libvirt calls a domain. One of another name is not this node's, whatever UUID it has.
pub(super) fn name(vm: VmId) -> String {
    format!("gose-{vm}")
}

/// The description of a domain. It does not come back by itself when it ends, nor when the guest restarts: that needs a
/// ticket.
///
/// # Errors
/// What does not fit the file.
pub(super) fn xml(
    build: &Build,
    network: LinkNetwork,
    site: &Site,
    config: &config::Libvirt,
) -> io::Result<String> {
    let record = &build.record;
    if build.kernel.is_none() {
        let image = &record.image;
        return Err(io::Error::other(format!(
            "image \"{image}\" has no kernel, which driver \"libvirt\" boots"
        )));
    }
    // As Linux, Debian's initramfs and systemd-network-generator read it: address, server, gateway, netmask, name, device,
    // how.
    let (guest, host) = (network.guest(), network.host());
    let mut arguments = format!("ip={guest}::{host}:255.255.255.252::eth0:off net.ifnames=0");
    for word in &record.command {
        arguments.push(' ');
        arguments.push_str(word);
    }
    let kind = match config.accelerator {
        Accelerator::Tcg => "qemu",
        Accelerator::Kvm => "kvm",
    };
    let ramdisk = match &build.ramdisk {
        Some(_) => format!("<initrd>{}</initrd>", path(&site.ramdisk())?),
        None => String::new(),
    };
    let vm = build.vm();
    Ok(format!(
        "<domain type='{kind}'>
<name>{name}</name>
<uuid>{vm}</uuid>
<memory unit='MiB'>{memory}</memory>
<vcpu>{vcpus}</vcpu>
<sysinfo type='fwcfg'><entry name='{JOIN}' file='{join}'/></sysinfo>
<os><type arch='{arch}'>hvm</type><kernel>{kernel}</kernel>{ramdisk}<cmdline>{arguments}</cmdline></os>
<features><acpi/><apic/></features>
<cpu mode='maximum'/>
<on_poweroff>destroy</on_poweroff>
<on_reboot>destroy</on_reboot>
<on_crash>destroy</on_crash>
<devices>
<interface type='ethernet'>
<mac address='{mac}'/>
<target dev='{device}' managed='no'/>
<model type='virtio'/>
<rom enabled='no'/>
</interface>
<console type='pty'/>
<memballoon model='none'/>
</devices>
<seclabel type='static' model='dac' relabel='no'><label>{owner}</label></seclabel>
</domain>
",
        name = name(vm),
        memory = record.memory_mib,
        vcpus = record.vcpus,
        join = path(&site.join())?,
        arch = std::env::consts::ARCH,
        kernel = path(&site.kernel())?,
        arguments = escaped(&arguments)?,
        mac = mac(vm.0),
        device = site.device(),
        owner = escaped(&format!("{}:{}", config.user, config.group))?,
    ))
}

/// A locally administered address in QEMU's range (52:54:00), the same at every start of the domain.
fn mac(vm: [u8; 16]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &vm);
    let last: Vec<String> = hash.as_ref().iter().take(3).map(hex).collect();
    format!("52:54:00:{}", last.join(":"))
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

fn path(path: &std::path::Path) -> io::Result<String> {
    let text = path.to_str();
    let text = text.ok_or_else(|| io::Error::other("the join folder's name is no UTF-8"))?;
    escaped(text)
}

/// Text of an element or an attribute: nothing in it ends it.
fn escaped(text: &str) -> io::Result<String> {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            other if other.is_control() => {
                let text = text.escape_debug();
                return Err(io::Error::other(format!(
                    "\"{text}\": control characters have no place in a domain"
                )));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_an_element() {
        let check = |text: &str, expected: &str| assert_eq!(escaped(text).unwrap(), expected);
        check("console=ttyS0 quiet", "console=ttyS0 quiet");
        check(
            "</cmdline><kernel>'\"&",
            "&lt;/cmdline&gt;&lt;kernel&gt;&apos;&quot;&amp;",
        );
        for wrong in ["a\nb", "a\0b", "\u{85}"] {
            assert!(escaped(wrong).is_err());
        }
    }

    #[test]
    fn addresses_stay_and_differ() {
        let one = mac([1; 16]);
        assert_eq!(one, mac([1; 16]));
        assert_ne!(one, mac([2; 16]));
        assert!(one.starts_with("52:54:00:") && one.len() == 17, "{one}");
    }
}
