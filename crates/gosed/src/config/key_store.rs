//! `[[key-store]]`: hardware that holds the keys of software cards.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Hardware that holds keys; slots name it by `keys`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum KeyStore {
    /// A TPM 2.0.
    Tpm {
        /// What slots call it.
        name: String,
        /// Its device; `/dev/tpmrm0` if neither this nor `swtpm` is given.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<PathBuf>,
        /// The command socket of swtpm on this machine, in place of a device: host and port.
        #[serde(skip_serializing_if = "Option::is_none")]
        swtpm: Option<String>,
        /// A persistent storage key as parent of the keys; a primary key of the owner's otherwise.
        #[serde(skip_serializing_if = "Option::is_none")]
        parent: Option<u32>,
        /// File of the keys' authorisation value; mode 0600.
        #[serde(skip_serializing_if = "Option::is_none")]
        auth_file: Option<PathBuf>,
    },
    /// An HSM, by its PKCS#11 module.
    Pkcs11 {
        /// What slots call it.
        name: String,
        /// The token (RFC 7512), with `module-path`; without a PIN.
        uri: String,
        /// File of the user's PIN; mode 0600.
        #[serde(skip_serializing_if = "Option::is_none")]
        pin_file: Option<PathBuf>,
        /// Sessions open at a time.
        #[serde(default = "default_sessions")]
        sessions: usize,
        /// Whether the PIN may be shown to a token that says that one wrong try more locks it.
        #[serde(default)]
        danger_spend_last_try: bool,
    },
}

const fn default_sessions() -> usize {
    4
}

impl KeyStore {
    /// What slots call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Tpm { name, .. } | Self::Pkcs11 { name, .. } => name,
        }
    }

    /// Whether it is the TPM of this name.
    pub(super) fn is_tpm(&self, wanted: &str) -> bool {
        matches!(self, Self::Tpm { name, .. } if name == wanted)
    }

    /// What contradicts itself.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Tpm {
                name,
                device: Some(_),
                swtpm: Some(_),
                ..
            } => Some(format!(
                "[[key-store]] {name}: either device or swtpm, not both"
            )),
            Self::Tpm { .. } => None,
            Self::Pkcs11 { name, uri, .. } => {
                let wrong = |text: &str| Some(format!("[[key-store]] {name}: {text}"));
                match uri.parse::<gose_proto::pkcs11::Uri>() {
                    Err(error) => wrong(&error.to_string()),
                    Ok(uri) if uri.pin_value.is_some() || uri.pin_source.is_some() => {
                        wrong("no PIN in the URI; use pin-file")
                    }
                    Ok(uri) if uri.module_path.is_none() => {
                        wrong("the URI needs ?module-path=/path/of/the/module.so")
                    }
                    Ok(_) => None,
                }
            }
        }
    }

    /// What weakens security.
    pub(super) fn danger(&self) -> Option<&'static str> {
        match self {
            Self::Pkcs11 {
                danger_spend_last_try: true,
                ..
            } => Some("danger-spend-last-try: a wrong PIN can lock an HSM for good"),
            _ => None,
        }
    }

    /// Files beside the configuration.
    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Tpm { auth_file, .. } => auth_file.as_mut(),
            Self::Pkcs11 { pin_file, .. } => pin_file.as_mut(),
        }
    }
}
