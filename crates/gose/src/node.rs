//! Which node, and who calls: the flags that every noun shares.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use clap::Args;
use gose_client::{
    Connection, Endpoint, RemoteElement,
    admin::{self, Action, Answer},
    element_key::ElementKey,
    guest::{Guest, GuestError, pick_up},
    tls,
};
use gose_element::{SecureElement, Seid};

use crate::{Failure, secrets::Source};

/// Where a node of this machine listens for its administrator.
const ADMIN_SOCKET: &str = "/run/gose/admin.sock";

/// The node to talk to.
#[derive(Args, Clone, Debug)]
pub(crate) struct Node {
    /// Node, by TLS: host and port (port 7777 unless given)
    #[arg(long, value_name = "HOST[:PORT]", env = "GOSE_NODE")]
    node: Option<String>,
    /// Certificate chain of the caller, PEM or DER
    #[arg(long, value_name = "FILE", env = "GOSE_CERT", requires = "node")]
    cert: Option<PathBuf>,
    /// Private key of the caller: a file, PEM or DER; or element:SEID/SLOT, in an element of a node on this machine,
    /// in software or a card in a reader
    #[arg(long, value_name = "FILE|ELEMENT", env = "GOSE_KEY", requires = "node")]
    key: Option<PathBuf>,
    /// With --key element:…: the socket of the node that has it [default: /run/gose/admin.sock]
    #[arg(long, value_name = "PATH", env = "GOSE_KEY_SOCKET", requires = "key")]
    key_socket: Option<PathBuf>,
    /// With --key element:…: where its PIN comes from: prompt, file:PATH, fd:NUMBER, env:NAME [default: prompt]
    #[arg(
        long,
        value_name = "SOURCE",
        env = "GOSE_KEY_PIN_SOURCE",
        requires = "key"
    )]
    key_pin_source: Option<Source>,
    /// Certificates that the node's must lead to
    #[arg(long, value_name = "FILE", env = "GOSE_CA", requires = "node")]
    ca: Option<PathBuf>,
    /// Name in the node's certificate, where it is not the host
    #[arg(long, value_name = "NAME", requires = "node")]
    server_name: Option<String>,
    /// Administrator's socket of a node on this machine [default: /run/gose/admin.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "node")]
    socket: Option<PathBuf>,
    /// In a virtual machine: its join record; reaches its own elements through its hypervisor
    #[arg(long, value_name = "FILE", env = "GOSE_JOIN", conflicts_with_all = ["node", "socket"])]
    join: Option<PathBuf>,
}

impl Node {
    /// Where to connect.
    ///
    /// # Errors
    /// [`Failure::Local`] when files are missing or wrong.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        self.endpoint_for(tls::RACS)
    }

    /// Asks the management plane.
    ///
    /// # Errors
    /// [`Failure::Local`] when files are missing or wrong, [`Failure::Remote`] for everything else.
    pub(crate) fn ask(&self, action: &Action) -> Result<Answer, Failure> {
        let mut link = self.endpoint_for(tls::ADMIN)?.link()?;
        match admin::ask(&mut link, action) {
            Ok(Answer::Refused { text, .. }) => Err(Failure::Remote(text)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure::Remote(error.to_string())),
        }
    }

    fn endpoint_for(&self, protocol: &[u8]) -> Result<Endpoint, Failure> {
        if let Some(record) = &self.join {
            if protocol != tls::RACS {
                return Err(Failure::local(
                    "a virtual machine manages no node: call one with --node",
                ));
            }
            return Ok(Endpoint::Guest(Arc::new(join(record)?)));
        }
        let Some(node) = &self.node else {
            let socket = self.socket.clone();
            return Ok(Endpoint::Unix(
                socket.unwrap_or_else(|| PathBuf::from(ADMIN_SOCKET)),
            ));
        };
        let (Some(cert), Some(key), Some(ca)) = (&self.cert, &self.key, &self.ca) else {
            return Err(Failure::local("--node needs --cert, --key and --ca"));
        };
        let (host, address) = host_and_address(node);
        let identity = match key.to_str().and_then(|key| key.strip_prefix("element:")) {
            None => tls::Identity::load(cert, key)?,
            Some(key) => {
                let chain = tls::certificates(cert)?;
                tls::Identity::new(chain, Arc::new(self.element_key(key)?))?
            }
        };
        Ok(Endpoint::Tls {
            address,
            name: tls::server_name(self.server_name.as_deref().unwrap_or(&host))?,
            config: tls::client_config(&identity, tls::load_anchors(ca)?, protocol)?,
        })
    }

    /// A key that is named SEID/SLOT.
    fn element_key(&self, key: &str) -> Result<ElementKey, Failure> {
        let (seid, slot) = key.rsplit_once('/').ok_or_else(|| {
            Failure::local(format!(
                "element:{key}: SEID and slot are missing, as element:SE1/9A"
            ))
        })?;
        let slot = slot
            .parse()
            .map_err(|_| Failure::local(format!("\"{slot}\" is no slot of PIV")))?;
        let socket = self
            .key_socket
            .clone()
            .unwrap_or_else(|| ADMIN_SOCKET.into());
        let mut element = RemoteElement::new(Endpoint::Unix(socket).connect()?, parse_seid(seid)?);
        element.power_on()?;
        let source = self.key_pin_source.as_ref().unwrap_or(&Source::Prompt);
        let pin = source.read(&format!("PIN of {seid}"))?;
        let element = Arc::new(Mutex::new(element));
        Ok(ElementKey::open(element, slot, Some(pin.as_bytes()))?)
    }

    /// A RACS session.
    ///
    /// # Errors
    /// Those of [`Node::endpoint`], and [`Failure::Remote`] when the node cannot be reached.
    pub(crate) fn connect(&self) -> Result<Connection, Failure> {
        Ok(self.endpoint()?.connect()?)
    }

    /// An element of the node.
    ///
    /// # Errors
    /// As [`Node::connect`].
    pub(crate) fn element(&self, seid: &str) -> Result<RemoteElement, Failure> {
        Ok(RemoteElement::new(self.connect()?, parse_seid(seid)?))
    }
}

/// Joins the hypervisor of this virtual machine with the record in a file.
///
/// # Errors
/// [`Failure::Local`] if the file is of no use, else [`Failure::Remote`].
pub(crate) fn join(record: &Path) -> Result<Guest, Failure> {
    let there = record.exists() || pick_up(record).map_err(gose_client::Error::from)?;
    if !there {
        return Err(Failure::local(format!(
            "{}: no join record; is this a virtual machine of a GoSE hypervisor?",
            record.display()
        )));
    }
    Guest::from_file(record).map_err(|error| match error {
        GuestError::Record(_) => Failure::local(format!("{}: {error}", record.display())),
        error => gose_client::Error::from(error).into(),
    })
}

/// # Errors
/// [`Failure::Local`] with the form that a SEID has.
pub(crate) fn parse_seid(text: &str) -> Result<Seid, Failure> {
    text.parse()
        .map_err(|error| Failure::local(format!("{text:?}: {error}")))
}

fn host_and_address(node: &str) -> (String, String) {
    let port = match node.rsplit_once(':') {
        // [::1]:7777, host:7777
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            port.parse::<u16>().ok().map(|_| host)
        }
        _ => None,
    };
    let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
    match port {
        Some(host) => (bare(host), node.to_owned()),
        None if node.contains(':') && !node.starts_with('[') => {
            (node.to_owned(), format!("[{node}]:7777"))
        }
        None => (bare(node), format!("{node}:7777")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_port() {
        let check = |node: &str, host: &str, address: &str| {
            assert_eq!(host_and_address(node), (host.into(), address.into()));
        };
        check("grid.example", "grid.example", "grid.example:7777");
        check("grid.example:1", "grid.example", "grid.example:1");
        check("127.0.0.1:80", "127.0.0.1", "127.0.0.1:80");
        check("::1", "::1", "[::1]:7777");
        check("[::1]", "::1", "[::1]:7777");
        check("[::1]:80", "::1", "[::1]:80");
    }
}
