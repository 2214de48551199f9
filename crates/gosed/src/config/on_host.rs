//! `tls-on-host`: an identity of the authentication server whose TLS runs on the host.

use std::path::PathBuf;

use gose_proto::eap::records::Policy;
use serde::{Deserialize, Serialize};

use super::KeyReference;

/// TLS on the host: faster than in a card, and the session's secrets are in the daemon's memory. The key alone is in
/// an element, of any kind.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OnHost {
    /// The server's key. The element is kept for it.
    pub key: KeyReference,
    /// The server's certificates, leaf first: PEM.
    pub certificate_file: PathBuf,
    /// Authorities of peers: PEM.
    pub anchor_files: Vec<PathBuf>,
    /// Revocation lists: PEM. One that is expired refuses every certificate of its issuer.
    #[serde(default)]
    pub crl_files: Vec<PathBuf>,
    /// The lowest version of TLS.
    #[serde(default)]
    pub min_version: Version,
    /// The highest version of TLS.
    #[serde(default = "Version::highest")]
    pub max_version: Version,
    /// TLS data bytes of one EAP-TLS fragment, 100 to 1,398.
    #[serde(default = "OnHost::default_fragment")]
    pub fragment_size: u16,
    /// Sessions kept to be resumed; 0: none is.
    #[serde(default = "OnHost::default_sessions")]
    pub sessions: u32,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
pub enum Version {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

impl Version {
    fn highest() -> Self {
        Self::Tls13
    }

    fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

impl OnHost {
    fn default_fragment() -> u16 {
        1398
    }

    fn default_sessions() -> u32 {
        16_384
    }

    /// The policy as elements have it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            min_version: self.min_version.number(),
            max_version: self.max_version.number(),
            fragment_size: self.fragment_size,
            resumption: self.sessions > 0,
            ..Policy::default()
        }
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.certificate_file];
        paths.extend(self.key.path());
        paths.extend(&mut self.anchor_files);
        paths.extend(&mut self.crl_files);
        paths
    }

    /// What contradicts itself.
    pub(super) fn fault(&self) -> Option<String> {
        let wrong = |text: &str| Some(format!("tls-on-host: {text}"));
        if self.anchor_files.is_empty() {
            return wrong("anchor-files is empty");
        }
        if self.min_version > self.max_version {
            return wrong("min-version is above max-version");
        }
        if !(100..=1398).contains(&self.fragment_size) {
            return wrong("fragment-size is not in 100 to 1398");
        }
        None
    }
}
