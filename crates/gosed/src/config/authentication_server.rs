//! `[authentication-server]`: EAP-TLS with elements in the role of the server.

use std::{collections::HashSet, path::PathBuf};

use gose_element::Seid;
use serde::{Deserialize, Serialize};

use super::{Caller, Radius, Seconds, Secret, Text};

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
    /// Who may carry conversations here over `gose-eap/1`: hypervisors, by the names in their TLS certificates.
    #[serde(default)]
    pub callers: Vec<Text<Caller>>,
    /// Whom to let in, by the names in the certificates that their elements show.
    pub allow: Vec<Text<Caller>>,
    /// What is served after EAP-Success.
    #[serde(default)]
    pub service: Service,
    /// How long a conversation waits for a free element.
    #[serde(default = "AuthenticationServer::default_wait")]
    pub element_wait_s: Seconds,
    /// What RADIUS clients are told about those who are let in.
    #[serde(default)]
    pub reply: Reply,
    /// Further identities, chosen by the realm of the peer's name; the one above serves all other realms.
    #[serde(default, rename = "company")]
    pub companies: Vec<Company>,
    /// RADIUS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radius: Option<Radius>,
}

/// An identity of the server for one company: its certificate, anchors and revocation lists are in its elements.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Company {
    /// For the log.
    pub name: String,
    /// The realms of its peers (RFC 7542).
    pub realms: Vec<String>,
    /// Elements that hold its identity.
    pub elements: Vec<Text<Seid>>,
    /// The label of that identity.
    pub identity: String,
    /// Where the bearer's PIN of those elements is.
    pub pin: Text<Secret>,
    /// Whom to let in, by the names in the certificates that their elements show.
    pub allow: Vec<Text<Caller>>,
    /// What RADIUS clients are told about those who are let in.
    #[serde(default)]
    pub reply: Reply,
}

/// Attributes of an Access-Accept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reply {
    /// The peer's VLAN, 1 to 4094.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// After so many seconds the peer authenticates again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_timeout_s: Option<Seconds>,
    /// Name of a filter that the client knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

impl Reply {
    fn fault(&self) -> Option<String> {
        let vlan = self.vlan.filter(|vlan| !(1..=4094).contains(vlan));
        if let Some(vlan) = vlan {
            return Some(format!("reply: vlan {vlan} is not in 1 to 4094"));
        }
        let filter = self
            .filter
            .as_ref()
            .filter(|filter| !(1..=253).contains(&filter.len()));
        filter.map(|_| "reply: filter has 1 to 253 bytes".to_owned())
    }
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

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths: Vec<&mut PathBuf> = self.pin.0.path().into_iter().collect();
        paths.extend(
            self.companies
                .iter_mut()
                .filter_map(|company| company.pin.0.path()),
        );
        paths.extend(self.radius.iter_mut().flat_map(Radius::paths));
        paths
    }

    /// Every element of every identity.
    fn all_elements(&self) -> impl Iterator<Item = &Text<Seid>> {
        self.elements
            .iter()
            .chain(self.companies.iter().flat_map(|company| &company.elements))
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, seids: &dyn Fn(&Seid) -> bool) -> Option<String> {
        if self.elements.is_empty() {
            return Some("[authentication-server] elements is empty".to_owned());
        }
        if let Some(missing) = self.all_elements().find(|seid| !seids(seid)) {
            return Some(format!(
                "[authentication-server] elements: no [[slot]] has seid = \"{}\"",
                **missing
            ));
        }
        let mut once = HashSet::new();
        if let Some(twice) = self.all_elements().find(|seid| !once.insert(seid.0)) {
            return Some(format!(
                "[authentication-server] element \"{}\" serves two identities",
                **twice
            ));
        }
        if let Some(company) = self
            .companies
            .iter()
            .find(|company| company.elements.is_empty() || company.realms.is_empty())
        {
            return Some(format!(
                "[[authentication-server.company]] {}: elements and realms are not empty",
                company.name
            ));
        }
        let replies =
            std::iter::once(&self.reply).chain(self.companies.iter().map(|company| &company.reply));
        let mut faults = replies.filter_map(Reply::fault);
        faults
            .next()
            .or_else(|| self.radius.as_ref().and_then(Radius::fault))
    }

    /// Whether it serves anything that needs the node's certificate.
    pub(super) fn needs_tls(&self) -> bool {
        let radsec = self
            .radius
            .as_ref()
            .is_some_and(|radius| radius.radsec.is_some());
        radsec || !self.callers.is_empty()
    }
}
