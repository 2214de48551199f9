//! The configuration file: one TOML, `version = 1`, read once into real types.
//!
//! Unknown keys are refused; units stand in the names; every default is in docs/defaults.md. Files that
//! the configuration names are read later, by whoever uses them, and all of them by `gosed check`.

mod access;
mod authentication_server;
mod authenticator;
mod changes;
mod creation;
mod generations;
mod hypervisor;
mod key_store;
mod libvirt;
mod limits;
mod metrics;
mod node;
mod on_host;
mod passphrase;
mod radius;
mod slot;
mod store;
mod tls;
mod value;

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use access::{Aid, AidRule, ByDefault, Caller, Filter, FilterRule, Name, Role, Seids, User};
pub use authentication_server::{AuthenticationServer, Company, Reply, Service};
pub use authenticator::{Authenticator, Port};
pub use creation::{Creator, Group, Hours, Pool, Sha256};
pub use generations::{Generations, Publisher, Unknown};
pub use hypervisor::{Called, Driver, Guest, Hypervisor, Image, UnauthorisedDomains};
pub use key_store::KeyStore;
pub use libvirt::{Accelerator, Libvirt};
pub use limits::Limits;
pub use metrics::{Metrics, MetricsAddress};
pub use node::NodeKind;
pub use on_host::{OnHost, Version as TlsVersion};
pub use passphrase::PassphraseSource;
pub use radius::{Overload, RadSec, Radius, RadiusClient};
pub use slot::{Reader, Slot, SlotKind, SoftwareSlot, Storage};
pub use store::Store;
pub use tls::{KeyReference, KeySlot, Secret, Tls, TlsKey, TrustDomain};
pub use value::{Seconds, Text};

/// Everything that a node is told.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The form of this file.
    pub version: Version,
    /// What kind of node it is.
    #[serde(default)]
    pub node: NodeKind,
    /// Where the node listens; without it only the admin socket is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    /// The admin socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// Certificates; needed by `[listen]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Where the images of software elements lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// Bounds and time limits.
    #[serde(default)]
    pub limits: Limits,
    /// The hypervisor role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// What hypervisors tell about their virtual machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generations: Option<Generations>,
    /// The authentication server's role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_server: Option<AuthenticationServer>,
    /// Figures for Prometheus.
    #[serde(default)]
    pub metrics: Metrics,
    /// Rules for applications on every slot, after the slot's own.
    #[serde(default, rename = "aid")]
    pub aids: Vec<AidRule>,
    /// Hardware that holds keys of software cards.
    #[serde(default, rename = "key-store", skip_serializing_if = "Vec::is_empty")]
    pub key_stores: Vec<KeyStore>,
    /// The slots, in the order of their numbers.
    #[serde(default, rename = "slot", deserialize_with = "slot::numbered")]
    pub slots: Vec<Slot>,
    /// Who may use what; whoever is not here may use nothing.
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
}

/// The form of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            1 => Ok(Self),
            other => Err(format!(
                "version {other} is unknown; this program reads version = 1"
            )),
        }
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

/// `[listen]`: TLS with client certificates.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Listen {
    /// Address and port.
    #[serde(default = "Listen::default_address")]
    pub address: SocketAddr,
}

impl Listen {
    /// RACS's port is not assigned; 7777 is what the reference server's configuration uses.
    fn default_address() -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 7777))
    }
}

/// `[admin]`: the Unix socket of the daemon's own user.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Admin {
    /// Path of the socket.
    #[serde(default = "Admin::default_socket")]
    pub socket: PathBuf,
}

impl Admin {
    fn default_socket() -> PathBuf {
        "/run/gose/admin.sock".into()
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The text is not a configuration.
    #[error("{0}")]
    Parse(#[from] toml::de::Error),
    /// Two parts contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigError`], with the line and what is allowed there.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        let mut config = Self::parse(&text)?;
        config.resolve(path.parent().unwrap_or_else(|| Path::new(".")));
        Ok(config)
    }

    /// Reads text; paths stay as they are.
    ///
    /// # Errors
    /// [`ConfigError`], with the line and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        config.consistent()?;
        Ok(config)
    }

    /// The configuration with every default written out.
    #[must_use]
    pub fn effective(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Files of the node's own certificates, by what they are for.
    #[must_use]
    pub fn own_certificates(&self) -> Vec<(String, PathBuf)> {
        let tls = self.tls.as_ref();
        let own = tls.map(|tls| ("tls".to_owned(), tls.certificate_file.clone()));
        let role = self.authentication_server.as_ref();
        let server = role.and_then(|role| role.tls_on_host.as_ref());
        let server = server.map(|on_host| {
            let file = on_host.certificate_file.clone();
            ("authentication-server".to_owned(), file)
        });
        let companies = role.iter().flat_map(|role| &role.companies);
        let companies = companies.filter_map(|company| {
            let file = company.tls_on_host.as_ref()?.certificate_file.clone();
            Some((format!("authentication-server {}", company.name), file))
        });
        own.into_iter().chain(server).chain(companies).collect()
    }

    /// What weakens security, one sentence each.
    #[must_use]
    pub fn dangers(&self) -> Vec<&'static str> {
        let mut dangers = Vec::new();
        if self.tls.as_ref().is_some_and(|tls| tls.danger_tls12) {
            dangers.push("danger-tls12: clients may use TLS 1.2 (ECDHE with AEAD only)");
        }
        if self.node.test_grid {
            dangers.push("test-grid: whoever administers an element can break it on purpose");
        }
        dangers.extend(self.key_stores.iter().filter_map(KeyStore::danger));
        dangers
    }

    fn consistent(&self) -> Result<(), ConfigError> {
        let fail = |text: String| Err(ConfigError::Contradiction(text));
        let mut seen = HashSet::new();
        for slot in &self.slots {
            if !seen.insert(&*slot.seid) {
                return fail(format!("[[slot]] seid = \"{}\" stands twice", *slot.seid));
            }
            if slot.needs_store() && self.store.is_none() {
                return fail(format!(
                    "[[slot]] {}: a software element needs [store] with master-key-file",
                    *slot.seid
                ));
            }
        }
        for slot in &self.slots {
            if let SlotKind::Software(software) = &slot.kind
                && !software.faults.is_empty()
                && !self.node.test_grid
            {
                return fail(format!(
                    "[[slot]] {}: faults need [node] test-grid = true, on a grid that nobody relies on",
                    *slot.seid
                ));
            }
        }
        if let Some(fault) = self.key_store_fault() {
            return fail(fault);
        }
        for user in &self.users {
            for seid in user.seid.iter().filter_map(Seids::named) {
                if !seen.contains(seid) {
                    return fail(format!(
                        "[[user]] {}: no [[slot]] has seid = \"{seid}\"",
                        user.name
                    ));
                }
            }
        }
        let known = |seid: &gose_element::Seid| seen.contains(seid);
        let hypervisor = self.hypervisor.as_ref().and_then(|role| role.fault(&known));
        let server = self.authentication_server.as_ref();
        let server = server.and_then(|role| role.fault(&known));
        if let Some(fault) = hypervisor.or(server) {
            return fail(fault);
        }
        let server = self.authentication_server.as_ref();
        let needs_tls =
            self.hypervisor.is_some() || server.is_some_and(AuthenticationServer::needs_tls);
        if let (Some(server), Some(TlsKey::Element(key))) =
            (server, self.tls.as_ref().map(|tls| &tls.key))
            && server.keeps(&key.seid.0)
        {
            return fail(format!(
                "element \"{}\" has the key of [tls] and of tls-on-host, which keeps it; use two elements",
                *key.seid
            ));
        }
        if needs_tls && self.tls.is_none() {
            return fail(
                "[hypervisor], callers of [authentication-server] and radsec need [tls]".into(),
            );
        }
        if self.generations.is_some() && self.listen.is_none() {
            return fail("[generations] needs [listen]: hypervisors tell them there".into());
        }
        let driver = self.hypervisor.as_ref().map(|role| role.driver);
        if driver == Some(Driver::Xen) && self.admin.is_none() {
            return fail(
                "[hypervisor] driver = \"xen\" needs [admin]: the gate is asked there".into(),
            );
        }
        if driver == Some(Driver::Libvirt) && self.admin.is_none() {
            return fail(
                "[hypervisor] driver = \"libvirt\" needs [admin]: the hook asks there".into(),
            );
        }
        if self.listen.is_some() && self.tls.is_none() {
            return fail("[listen] needs [tls]: RACS is never served without TLS".into());
        }
        let radius = server.is_some_and(|server| server.radius.is_some());
        if self.listen.is_none() && self.admin.is_none() && !radius {
            return fail("neither [listen] nor [admin]: nothing would be served".into());
        }
        Ok(())
    }

    fn key_store_fault(&self) -> Option<String> {
        let mut names = HashSet::new();
        for store in &self.key_stores {
            if !names.insert(store.name()) {
                return Some(format!(
                    "[[key-store]] name = \"{}\" stands twice",
                    store.name()
                ));
            }
        }
        let fault = self.key_stores.iter().find_map(KeyStore::fault);
        let store = self.store.as_ref();
        if let Some(fault) = store.and_then(|store| store.fault(&self.key_stores)) {
            return Some(fault);
        }
        let keys = |slot: &Slot| match &slot.kind {
            SlotKind::Software(SoftwareSlot {
                keys: Some(keys), ..
            }) if !names.contains(keys.as_str()) => Some(format!(
                "[[slot]] {}: no [[key-store]] has name = \"{keys}\"",
                *slot.seid
            )),
            _ => None,
        };
        fault.or_else(|| self.slots.iter().find_map(keys))
    }

    fn resolve(&mut self, base: &Path) {
        let against = |path: &mut PathBuf| *path = base.join(&*path);
        if let Some(admin) = &mut self.admin {
            against(&mut admin.socket);
        }
        if let Some(store) = &mut self.store {
            store.paths().into_iter().for_each(against);
        }
        if let Some(tls) = &mut self.tls {
            tls.paths().into_iter().for_each(against);
        }
        if let Some(hypervisor) = &mut self.hypervisor {
            hypervisor.paths().into_iter().for_each(against);
        }
        if let Some(generations) = &mut self.generations {
            generations.paths().into_iter().for_each(against);
        }
        if let Some(server) = &mut self.authentication_server {
            server.paths().into_iter().for_each(against);
        }
        for slot in &mut self.slots {
            slot.path().into_iter().for_each(against);
        }
        for store in &mut self.key_stores {
            store.path().into_iter().for_each(against);
        }
    }
}

#[cfg(test)]
mod tests;
