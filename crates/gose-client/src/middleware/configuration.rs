//! How a program reaches a grid, as configuration files say it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use gose_element::{Seid, drive::piv::Slot};
use rustls::RootCertStore;
use serde::Deserialize;

use super::Source;
use crate::{
    Endpoint, Error, RemoteElement,
    element_key::ElementKey,
    tls::{self, Identity},
};

/// Table `[grid]`: a node, over TLS with certificates on both sides, the admin socket of a node on this machine,
/// or a guest's own service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grid {
    /// Host and port.
    pub address: Option<String>,
    /// The admin socket of a node on this machine, instead of an address.
    pub socket: Option<PathBuf>,
    /// The socket of the guest service, instead of both.
    pub service: Option<PathBuf>,
    /// What the node's certificate must carry; the host of the address unless it is said.
    pub name: Option<String>,
    /// The own certificate, then those above it.
    pub certificate_file: Option<PathBuf>,
    /// The own key.
    pub key: Option<Key>,
    /// Whom the node's certificate must come from; never the system's authorities.
    #[serde(default)]
    pub anchor_files: Vec<PathBuf>,
}

/// The own key: in a file, or in an element of a node on this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", untagged, deny_unknown_fields)]
pub enum Key {
    /// PKCS#8, PKCS#1 or SEC1, in PEM or DER.
    File {
        /// The file.
        file: PathBuf,
    },
    /// In a slot of PIV.
    Element {
        /// The admin socket of the node that has the element.
        socket: PathBuf,
        /// The element.
        seid: String,
        /// The slot: 9A, 9C, 9D, 9E or 82 to 95.
        slot: String,
        /// Its PIN; slot 9E needs none.
        pin: Option<Source>,
    },
}

impl Grid {
    /// The node that this says; relative paths begin in `folder`. Nothing is sent to it; an element that
    /// holds the own key is asked for its public half.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::File`]
    pub fn endpoint(&self, folder: &Path) -> Result<Endpoint, Error> {
        match (&self.address, &self.socket, &self.service) {
            (None, Some(path), None) => Ok(Endpoint::Unix(folder.join(path))),
            (None, None, Some(path)) => Ok(Endpoint::Service {
                path: folder.join(path),
                yields: false,
            }),
            (Some(address), None, None) => {
                let host = address.rsplit_once(':').map(|(host, _)| host);
                let host = host.ok_or_else(|| wrong("`address` is HOST:PORT"))?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = tls::server_name(self.name.as_deref().unwrap_or(host))?;
                let config =
                    tls::client_config(&self.identity(folder)?, self.anchors(folder)?, tls::RACS)?;
                Ok(Endpoint::Tls {
                    address: address.clone(),
                    name,
                    config,
                })
            }
            _ => Err(wrong("[grid] has one of `address`, `socket` and `service`")),
        }
    }

    fn anchors(&self, folder: &Path) -> Result<RootCertStore, Error> {
        let mut found = Vec::new();
        for path in &self.anchor_files {
            found.extend(tls::certificates(&folder.join(path))?);
        }
        tls::anchors(found)
    }

    fn identity(&self, folder: &Path) -> Result<Identity, Error> {
        let (Some(certificate), Some(key)) = (&self.certificate_file, &self.key) else {
            return Err(wrong("an `address` needs a `certificate-file` and a `key`"));
        };
        let certificate = folder.join(certificate);
        match key {
            Key::File { file } => Identity::load(&certificate, &folder.join(file)),
            Key::Element {
                socket,
                seid,
                slot,
                pin,
            } => {
                let seid: Seid = seid.parse().map_err(|_| wrong("`key.seid` is no SEID"))?;
                let slot: Slot = slot
                    .parse()
                    .map_err(|error| Error::Config(format!("{error}")))?;
                let pin = pin.as_ref().map(|source| source.read(folder)).transpose()?;
                let element = RemoteElement::at(Endpoint::Unix(folder.join(socket)), seid);
                let pin = pin.as_ref().map(|pin| pin.as_bytes());
                let key = ElementKey::open(Arc::new(Mutex::new(element)), slot, pin).map_err(
                    |error| Error::Config(format!("the key in element {seid}: {error}")),
                )?;
                Identity::new(tls::certificates(&certificate)?, Arc::new(key))
            }
        }
    }
}

fn wrong(text: &str) -> Error {
    Error::Config(text.into())
}
