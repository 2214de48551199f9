//! `[authentication-server]`: EAP-TLS with elements in the role of the server.

use std::path::PathBuf;

use gose_element::Seid;
use serde::{Deserialize, Serialize};

use super::{Caller, Seconds, Secret, Text};

/// The authentication server's role.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AuthenticationServer {
    /// Elements with an EAP-TLS identity in the role of the server; one a conversation.
    pub elements: Vec<Text<Seid>>,
    /// The label of that identity.
    pub identity: String,
    /// Where the bearer's PIN of those elements is.
    pub pin: Text<Secret>,
    /// Who may carry conversations here: hypervisors, by the names in their TLS certificates.
    pub callers: Vec<Text<Caller>>,
    /// Whom to let in, by the names in the certificates that their elements show.
    pub allow: Vec<Text<Caller>>,
    /// What is served after EAP-Success.
    #[serde(default)]
    pub service: Service,
    /// How long a conversation waits for a free element.
    #[serde(default = "AuthenticationServer::default_wait")]
    pub element_wait_s: Seconds,
}

/// What is served on the session that the elements made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Nothing: the connection closes after EAP-Success.
    #[default]
    None,
    /// Sends back what comes; the record layer runs on the host.
    Echo,
    /// Takes what comes and answers with its length (8, big endian) at the end; on the host.
    Discard,
    /// Sends back what comes; the record layer stays in the element.
    ElementEcho,
}

impl AuthenticationServer {
    fn default_wait() -> Seconds {
        Seconds::new(10)
    }

    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        match &mut self.pin.0 {
            Secret::File(file) => Some(file),
            Secret::Environment(_) => None,
        }
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, seids: &dyn Fn(&Seid) -> bool) -> Option<String> {
        if self.elements.is_empty() {
            return Some("[authentication-server] elements is empty".to_owned());
        }
        let missing = self.elements.iter().find(|seid| !seids(seid))?;
        Some(format!(
            "[authentication-server] elements: no [[slot]] has seid = \"{}\"",
            **missing
        ))
    }
}
