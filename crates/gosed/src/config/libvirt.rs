//! `[hypervisor.libvirt]`: how guests of driver `libvirt` are run.

use serde::{Deserialize, Serialize};

/// Guests of QEMU that libvirt runs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Libvirt {
    /// Where libvirt's daemon is, as `virsh --connect` takes it.
    pub uri: String,
    /// What runs a guest's instructions.
    pub accelerator: Accelerator,
    /// The user that QEMU runs as.
    pub user: String,
    /// And its group.
    pub group: String,
}

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// QEMU translates them: every machine can.
    #[default]
    Tcg,
    /// The processor, by /dev/kvm.
    Kvm,
}

impl Default for Libvirt {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".into(),
            accelerator: Accelerator::default(),
            user: "libvirt-qemu".into(),
            group: "libvirt-qemu".into(),
        }
    }
}
