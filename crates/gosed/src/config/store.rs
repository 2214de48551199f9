//! `[store]`: images of software elements, and the key under which they lie.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{KeyStore, PassphraseSource, Text, passphrase::credential_name};

/// `[store]`: images of software elements.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Store {
    /// Directory of the images that have no path of their own: `<SEID>.image`.
    #[serde(default = "Store::default_directory")]
    pub directory: PathBuf,
    /// The master key: 32 random bytes, raw or as 64 hexadecimal digits, or what `gosed key` made of them; mode
    /// 0600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key_file: Option<PathBuf>,
    /// In place of a file: the name of a credential that systemd gives the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key_credential: Option<String>,
    /// The `[[key-store]]` of kind `tpm` that opens the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_by: Option<String>,
    /// Where the passphrase that opens the key comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Text<PassphraseSource>>,
}

impl Store {
    fn default_directory() -> PathBuf {
        "/var/lib/gose".into()
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, key_stores: &[KeyStore]) -> Option<String> {
        match (&self.master_key_file, &self.master_key_credential) {
            (Some(_), None) => {}
            (None, Some(name)) => {
                if let Err(error) = credential_name(name) {
                    return Some(format!("[store] master-key-credential: {error}"));
                }
            }
            _ => {
                return Some(
                    "[store] needs either master-key-file or master-key-credential".to_owned(),
                );
            }
        }
        if self.sealed_by.is_some() && self.passphrase.is_some() {
            return Some("[store]: either sealed-by or passphrase, not both".to_owned());
        }
        let name = self.sealed_by.as_ref()?;
        (!key_stores.iter().any(|store| store.is_tpm(name))).then(|| {
            format!("[store] sealed-by: no [[key-store]] of kind = \"tpm\" has name = \"{name}\"")
        })
    }

    /// Files beside the configuration.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.directory];
        paths.extend(self.master_key_file.as_mut());
        if let Some(Text(PassphraseSource::File(path))) = &mut self.passphrase {
            paths.push(path);
        }
        paths
    }
}
