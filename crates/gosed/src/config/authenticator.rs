//! `[hypervisor.authenticator]`: guests authenticate to a RADIUS server, and their ports open.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Called, Driver, Secret, Text};
use crate::radius::Network;

/// This hypervisor as the authenticator of its guests (RFC 3748, 1.2): a RADIUS client with a port a guest.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Authenticator {
    /// RADIUS servers over UDP, in the order in which they are asked.
    #[serde(default)]
    pub servers: Vec<SocketAddr>,
    /// What they share with this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Text<Secret>>,
    /// In place of `servers`: a RADIUS server over TLS (RFC 6614), with the certificates of `[tls]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radsec: Option<Called>,
    /// What opens and closes the port of a guest.
    pub port: Port,
    /// The program of `port = "hook"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<PathBuf>,
    /// Where Disconnect-Requests come in (RFC 5176).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect: Option<SocketAddr>,
    /// Who may send them, beside `servers`.
    #[serde(default)]
    pub disconnect_clients: Vec<Text<Network>>,
}

/// What opens and closes the port of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    /// A set of the kernel's packet filter names the links that are open.
    Nftables,
    /// A program of the administrator's.
    Hook,
}

impl Authenticator {
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let secret = self.secret.as_mut().and_then(|secret| secret.0.path());
        secret.into_iter().chain(&mut self.hook).collect()
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, driver: Driver) -> Option<String> {
        let section = "[hypervisor.authenticator]";
        if self.servers.is_empty() == self.radsec.is_none() {
            return Some(format!(
                "{section} needs either servers and secret, or radsec"
            ));
        }
        let udp = !self.servers.is_empty() || self.disconnect.is_some();
        if udp && self.secret.is_none() {
            return Some(format!("{section}: servers and disconnect need secret"));
        }
        if self.secret.is_some() && !udp {
            return Some(format!("{section}: radsec has no use for secret"));
        }
        if self.disconnect.is_some()
            && self.servers.is_empty()
            && self.disconnect_clients.is_empty()
        {
            return Some(format!(
                "{section} disconnect: with radsec, disconnect-clients say who may send"
            ));
        }
        if self.disconnect.is_none() && !self.disconnect_clients.is_empty() {
            return Some(format!(
                "{section} disconnect-clients: disconnect says where they send to"
            ));
        }
        match (self.port, &self.hook, driver) {
            (Port::Hook, None, _) => {
                Some(format!("{section} port = \"hook\" needs hook, a program"))
            }
            (Port::Nftables, Some(_), _) => Some(format!("{section} hook is for port = \"hook\"")),
            (Port::Nftables, None, Driver::Namespace) | (Port::Hook, Some(_), _) => None,
            (Port::Nftables, None, _) => Some(format!(
                "{section} port = \"nftables\" needs driver = \"namespace\"; with another one use port = \"hook\""
            )),
        }
    }
}
