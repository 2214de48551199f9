//! `[tls]`: the node's certificate and whom it trusts.

use std::{fmt, path::PathBuf, str::FromStr};

use gose_element::Seid;
use serde::{Deserialize, Serialize};

use super::Text;

/// Certificates, keys and trust anchors; all PEM files. System trust anchors are never used.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tls {
    /// The node's chain, leaf first.
    pub certificate_file: PathBuf,
    /// The private key of the leaf.
    pub key: TlsKey,
    /// The trust domain of SPIFFE identifiers; without it none counts, and no VM-Auth-Token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<Text<TrustDomain>>,
    /// Authorities of clients. A bare common name in their certificates counts for nothing.
    #[serde(default)]
    pub client_anchor_files: Vec<PathBuf>,
    /// The users' authorities: the common name of a certificate issued directly by one of them counts.
    #[serde(default)]
    pub user_anchor_files: Vec<PathBuf>,
    /// Authorities of other nodes that this one calls.
    #[serde(default)]
    pub node_anchor_files: Vec<PathBuf>,
    /// Certificate revocation lists. One that is expired refuses every certificate of its issuer.
    #[serde(default)]
    pub crl_files: Vec<PathBuf>,
    /// Whether clients may use TLS 1.2.
    #[serde(default)]
    pub danger_tls12: bool,
}

impl Tls {
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.certificate_file];
        match &mut self.key {
            TlsKey::File { file } => paths.push(file),
            TlsKey::Element(key) => paths.extend(key.path()),
        }
        paths.extend(&mut self.client_anchor_files);
        paths.extend(&mut self.user_anchor_files);
        paths.extend(&mut self.node_anchor_files);
        paths.extend(&mut self.crl_files);
        paths
    }
}

/// Where a private key is.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "key is { file = \"…\" } or { seid = \"…\", slot = \"9A\", pin = \"file:…\" }"
)]
pub enum TlsKey {
    /// In a PEM file.
    #[serde(rename_all = "kebab-case")]
    File {
        /// The file.
        file: PathBuf,
    },
    /// In an element of this node.
    Element(KeyReference),
}

/// The first part of a SPIFFE identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain(pub String);

impl FromStr for TrustDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if gose_proto::identity::is_trust_domain(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "\"{text}\" is no trust domain; a DNS name in lower case"
            ))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key in an element of this node.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeyReference {
    /// The element.
    pub seid: Text<Seid>,
    /// The key slot, numbered as PIV does.
    pub slot: Text<KeySlot>,
    /// Where the PIN is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<Text<Secret>>,
}

impl KeyReference {
    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        match &mut self.pin {
            Some(Text(Secret::File(file))) => Some(file),
            _ => None,
        }
    }
}

/// A PIV key reference: 9A, 9C, 9D, 9E, 82 to 95.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlot(pub u8);

impl FromStr for KeySlot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u8::from_str_radix(text, 16) {
            Ok(slot @ (0x9A | 0x9C | 0x9D | 0x9E | 0x82..=0x95)) => Ok(Self(slot)),
            _ => Err(format!(
                "\"{text}\" is no key slot; 9A, 9C, 9D, 9E or 82 to 95"
            )),
        }
    }
}

impl fmt::Display for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}", self.0)
    }
}

/// Where a secret is; never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// `file:PATH`, mode 0600; a line end at the end does not belong to it.
    File(PathBuf),
    /// `env:NAME`.
    Environment(String),
}

impl Secret {
    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Environment(_) => None,
        }
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.into())),
            _ => Err("a secret is named by file:PATH or env:NAME, never written here".into()),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
        }
    }
}
