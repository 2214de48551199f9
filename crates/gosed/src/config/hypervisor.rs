//! `[hypervisor]`: guests, their tokens and their elements.

use std::path::PathBuf;

use gose_element::Seid;
use gose_proto::identity::VmId;
use serde::{Deserialize, Serialize};

use super::{
    Authenticator, Creator, Group, KeyReference, Libvirt, Pool, Seconds, Text, creation::Sha256,
};

/// The hypervisor role.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hypervisor {
    /// The chain of `hv-ca`, leaf first: a CA with path length 0 and the URI
    /// `spiffe://<trust-domain>/hv/<hv-id>`.
    pub ca_certificate_file: PathBuf,
    /// The key of `hv-ca`, in an element of this node: slot 9C.
    pub ca_key: KeyReference,
    /// The name in this node's certificate, which guests check.
    pub name: String,
    /// What guests trust for this node's certificate.
    pub guest_anchor_files: Vec<PathBuf>,
    /// Where the generations of virtual machines are kept.
    #[serde(default = "Hypervisor::default_generation_file")]
    pub generation_file: PathBuf,
    /// Where it is kept which virtual machines there are, a file each, and below `boot` what they boot; `machines`
    /// beside the generation file unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_folder: Option<PathBuf>,
    /// How long a creation ticket is valid: what building a domain may take.
    #[serde(default = "Hypervisor::default_ticket_lifetime")]
    pub ticket_lifetime_s: Seconds,
    /// How long a token is valid; renewed at half of it.
    #[serde(default = "Hypervisor::default_lifetime")]
    pub token_lifetime_s: Seconds,
    /// Where `gose-eap/1` of guests goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_server: Option<Called>,
    /// In its place: RADIUS for guests, and ports that open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticator: Option<Authenticator>,
    /// What starts virtual machines.
    #[serde(default)]
    pub driver: Driver,
    /// Drivers `xen` and `libvirt`: what happens to new domains that nobody authorised.
    #[serde(default)]
    pub unauthorised_domains: UnauthorisedDomains,
    /// Driver `libvirt`: how its guests are run.
    #[serde(default)]
    pub libvirt: Libvirt,
    /// Where guests find their join records, a folder a guest: driver `namespace`. Files of domains: drivers `xen` and
    /// `libvirt`.
    #[serde(default = "Hypervisor::default_join_folder")]
    pub join_folder: PathBuf,
    /// Programs that guests run.
    #[serde(default, rename = "image")]
    pub images: Vec<Image>,
    /// Names for several users.
    #[serde(default, rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Elements that virtual machines are given one of.
    #[serde(default, rename = "pool", skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// Who may create virtual machines; nobody else.
    #[serde(default, rename = "creator")]
    pub creators: Vec<Creator>,
    /// Guests that start with the node.
    #[serde(default, rename = "guest")]
    pub guests: Vec<Guest>,
}

/// What starts virtual machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// A guest is a process of the node, with an inherited socket.
    #[default]
    Process,
    /// A guest is a process in a network namespace of its own.
    Namespace,
    /// A guest is a paravirtualised domain of this machine's Xen.
    Xen,
    /// A guest is a domain of QEMU that this machine's libvirt runs.
    Libvirt,
}

/// What happens to a new domain that nobody authorised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnauthorisedDomains {
    /// It is destroyed, and the log tells of it.
    #[default]
    Destroy,
    /// The log tells of it.
    Report,
}

/// A node that this one calls.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Called {
    /// Host and port.
    pub node: String,
    /// The name in its certificate.
    pub name: String,
}

/// What guests run: a program, or a kernel with its RAM disk.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Image {
    /// What `vm create` calls it.
    pub name: String,
    /// Program and arguments; with `kernel`, its arguments alone.
    #[serde(default)]
    pub command: Vec<String>,
    /// Whether whoever creates a guest may add arguments.
    #[serde(default)]
    pub takes_arguments: bool,
    /// The kernel, or the program where guests are programs: copied and hashed, and the copy is what runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// What the kernel's hash must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_sha256: Option<Text<Sha256>>,
    /// The RAM disk, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<PathBuf>,
    /// What its hash must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramdisk_sha256: Option<Text<Sha256>>,
}

/// A guest that starts with the node.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Guest {
    /// The domain's UUID.
    pub uuid: Text<VmId>,
    /// Its elements: slots of this node, remote ones among them. The first one holds its key.
    #[serde(default)]
    pub seid: Vec<Text<Seid>>,
    /// What it runs.
    pub image: String,
}

impl Image {
    fn fault(&self) -> Option<&'static str> {
        match self {
            Self {
                kernel: None,
                command,
                ..
            } if command.is_empty() => Some("no command, and no kernel"),
            Self {
                kernel: None,
                kernel_sha256: Some(_),
                ..
            } => Some("kernel-sha256 without a kernel"),
            Self {
                ramdisk: None,
                ramdisk_sha256: Some(_),
                ..
            } => Some("ramdisk-sha256 without a ramdisk"),
            Self {
                kernel: None,
                ramdisk: Some(_),
                ..
            } => Some("a ramdisk without a kernel"),
            _ => None,
        }
    }
}

impl Hypervisor {
    fn default_generation_file() -> PathBuf {
        "/var/lib/gose/generations.json".into()
    }

    fn default_join_folder() -> PathBuf {
        "/run/gose/join".into()
    }

    fn default_ticket_lifetime() -> Seconds {
        Seconds::new(120)
    }

    /// Where the virtual machines' files are.
    #[must_use]
    pub fn machines(&self) -> PathBuf {
        let beside = || self.generation_file.with_file_name("machines");
        self.machine_folder.clone().unwrap_or_else(beside)
    }

    fn default_lifetime() -> Seconds {
        Seconds::new(43_200)
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![
            &mut self.ca_certificate_file,
            &mut self.generation_file,
            &mut self.join_folder,
        ];
        paths.extend(&mut self.machine_folder);
        for image in &mut self.images {
            paths.extend(&mut image.kernel);
            paths.extend(&mut image.ramdisk);
        }
        paths.extend(self.pools.iter_mut().map(|pool| &mut pool.secrets_folder));
        paths.extend(&mut self.guest_anchor_files);
        paths.extend(self.ca_key.path());
        paths.extend(self.authenticator.iter_mut().flat_map(Authenticator::paths));
        paths
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, seids: &dyn Fn(&Seid) -> bool) -> Option<String> {
        if self.authenticator.is_some() && self.authentication_server.is_some() {
            return Some(
                "[hypervisor] has authentication-server and authenticator: guests authenticate to one of them"
                    .into(),
            );
        }
        let authenticator = self.authenticator.as_ref();
        if let Some(fault) = authenticator.and_then(|one| one.fault(self.driver)) {
            return Some(fault);
        }
        let image = |name: &str| self.images.iter().any(|image| image.name == name);
        for image in &self.images {
            if let Some(fault) = image.fault() {
                return Some(format!("[[hypervisor.image]] {}: {fault}", image.name));
            }
        }
        for pool in &self.pools {
            if let Some(seid) = pool.seid.iter().find(|seid| !seids(seid)) {
                let place = format!("[[hypervisor.pool]] {}", pool.name);
                return Some(format!("{place}: no [[slot]] has seid = \"{}\"", **seid));
            }
        }
        for creator in &self.creators {
            if let Some(fault) = creator.fault(self) {
                return Some(format!("[[hypervisor.creator]] {fault}"));
            }
        }
        for guest in &self.guests {
            let place = format!("[[hypervisor.guest]] {}", *guest.uuid);
            if !image(&guest.image) {
                return Some(format!("{place}: no [[hypervisor.image]] {}", guest.image));
            }
            if let Some(seid) = guest.seid.iter().find(|seid| !seids(seid)) {
                return Some(format!("{place}: no [[slot]] has seid = \"{}\"", **seid));
            }
        }
        let named = self.creators.iter().flat_map(|creator| &creator.seid);
        let missing = named
            .filter_map(|seid| seid.named())
            .find(|seid| !seids(seid));
        if let Some(seid) = missing {
            return Some(format!(
                "[[hypervisor.creator]]: no [[slot]] has seid = \"{seid}\""
            ));
        }
        (!seids(&self.ca_key.seid)).then(|| {
            format!(
                "[hypervisor] ca-key: no [[slot]] has seid = \"{}\"",
                *self.ca_key.seid
            )
        })
    }
}
