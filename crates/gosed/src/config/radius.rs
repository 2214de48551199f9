//! `[authentication-server.radius]`: RADIUS in front of the server elements.

use std::{net::SocketAddr, path::PathBuf};

use gose_proto::radius::server;
use serde::{Deserialize, Serialize};

use super::{Caller, Seconds, Secret, Text};
use crate::radius::Network;

/// RADIUS over UDP and over TLS.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Radius {
    /// Where Access-Requests come in.
    #[serde(default = "Radius::default_listen")]
    pub listen: Vec<SocketAddr>,
    /// Where Accounting-Requests come in; they are logged.
    #[serde(default)]
    pub accounting: Vec<SocketAddr>,
    /// What a client is told when there is no room.
    #[serde(default)]
    pub overload: Overload,
    /// Conversations at once.
    #[serde(default = "Radius::default_conversations")]
    pub conversations: u32,
    /// Conversations at once of one client.
    #[serde(default = "Radius::default_conversations_a_client")]
    pub conversations_a_client: u32,
    /// How long answers are kept for duplicates (RFC 5080, 2.2.2: 5 to 30 s).
    #[serde(default = "Radius::default_answer_kept")]
    pub answer_kept_s: Seconds,
    /// After how much silence of a peer its conversation ends.
    #[serde(default = "Radius::default_silence")]
    pub silence_s: Seconds,
    /// After how much silence of a peer another conversation may take its element.
    #[serde(default = "Radius::default_preempt")]
    pub preempt_s: Seconds,
    /// Who may ask over UDP.
    #[serde(default, rename = "client")]
    pub clients: Vec<RadiusClient>,
    /// RADIUS over TLS (RFC 6614).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radsec: Option<RadSec>,
}

/// A client, or a network of them with one secret.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RadiusClient {
    /// Its name in logs.
    pub name: String,
    /// Its addresses.
    pub network: Text<Network>,
    /// Where the shared secret is.
    pub secret: Text<Secret>,
    /// The UDP port where it takes Disconnect-Requests (RFC 5176: 3799).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect_port: Option<u16>,
}

/// RADIUS over TLS 1.3 with certificates on both ends; the server's are those of `[tls]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RadSec {
    /// Where it listens.
    #[serde(default = "RadSec::default_listen")]
    pub listen: SocketAddr,
    /// Authorities of clients.
    pub anchor_files: Vec<PathBuf>,
    /// Who may ask, by the names in their certificates.
    pub clients: Vec<Text<Caller>>,
    /// Connections at once.
    #[serde(default = "RadSec::default_connections")]
    pub connections: u32,
    /// After how much silence a connection is closed.
    #[serde(default = "RadSec::default_idle")]
    pub idle_s: Seconds,
}

/// What a client is told when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overload {
    /// Nothing: it sends again, or asks another server.
    #[default]
    Drop,
    /// Access-Reject.
    Reject,
}

impl Radius {
    fn default_listen() -> Vec<SocketAddr> {
        vec![([0; 4], 1812).into(), ([0_u16; 8], 1812).into()]
    }

    fn default_conversations() -> u32 {
        16_384
    }

    fn default_conversations_a_client() -> u32 {
        8_192
    }

    fn default_answer_kept() -> Seconds {
        Seconds::new(10)
    }

    fn default_silence() -> Seconds {
        Seconds::new(30)
    }

    fn default_preempt() -> Seconds {
        Seconds::new(3)
    }

    /// The machine's bounds. Twice as many requests as conversations are remembered.
    #[must_use]
    pub fn limits(&self) -> server::Limits {
        let conversations = self.conversations as usize;
        server::Limits {
            conversations,
            conversations_a_client: self.conversations_a_client as usize,
            exchanges: conversations.saturating_mul(2).max(1024),
            answer_kept: self.answer_kept_s.duration(),
            silence: self.silence_s.duration(),
            overload: match self.overload {
                Overload::Drop => server::Overload::Drop,
                Overload::Reject => server::Overload::Reject,
            },
        }
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths: Vec<&mut PathBuf> = self
            .clients
            .iter_mut()
            .filter_map(|client| client.secret.0.path())
            .collect();
        if let Some(radsec) = &mut self.radsec {
            paths.extend(&mut radsec.anchor_files);
        }
        paths
    }

    /// What contradicts itself.
    pub(super) fn fault(&self) -> Option<String> {
        let section = "[authentication-server.radius]";
        if self.clients.is_empty() && self.radsec.is_none() {
            return Some(format!(
                "{section} has neither a client nor radsec: nobody could ask"
            ));
        }
        if self.conversations == 0 || self.conversations_a_client == 0 {
            return Some(format!(
                "{section} conversations and conversations-a-client are at least 1"
            ));
        }
        None
    }
}

impl RadSec {
    fn default_listen() -> SocketAddr {
        ([0; 4], 2083).into()
    }

    fn default_connections() -> u32 {
        256
    }

    fn default_idle() -> Seconds {
        Seconds::new(3600)
    }
}
