//! `[generations]`: what hypervisors tell a grid about their virtual machines.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Name, Text};

/// Whose word counts, where it is kept, and what happens to tokens that nobody spoke of.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Generations {
    /// Where it is kept.
    #[serde(default = "Generations::default_file")]
    pub file: PathBuf,
    /// Tokens of virtual machines whose generation nobody told.
    #[serde(default)]
    pub unknown: Unknown,
    /// Hypervisors that may tell; nobody else.
    #[serde(default, rename = "hypervisor")]
    pub hypervisors: Vec<Publisher>,
}

/// What happens to a token whose virtual machine is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// It counts for as long as it is valid.
    #[default]
    Allow,
    /// It is refused.
    Refuse,
}

/// A hypervisor that tells of its own virtual machines.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Publisher {
    /// The name in its TLS certificate (`hv-tls`): a SPIFFE identifier, or a common name of the users' authority.
    pub user: Text<Name>,
    /// The certificate of its `hv-ca`: tokens under that key are its own.
    pub ca_certificate_file: PathBuf,
}

impl Generations {
    fn default_file() -> PathBuf {
        "/var/lib/gose/told-generations.json".into()
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let files = self.hypervisors.iter_mut();
        let mut paths: Vec<_> = files
            .map(|publisher| &mut publisher.ca_certificate_file)
            .collect();
        paths.push(&mut self.file);
        paths
    }
}
