//! `[authentication-server]`: EAP-TLS with elements in the role of the server.

use std::{collections::HashSet, path::PathBuf};

use gose_element::Seid;
use serde::{Deserialize, Serialize};

use super::{Caller, OnHost, Radius, Seconds, Secret, Text};

/// The authentication server's role.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AuthenticationServer {
    /// Elements with an EAP-TLS identity in the role of the server; one a conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<Text<Seid>>,
    /// The label of that identity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Where the bearer's PIN of those elements is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<Text<Secret>>,
    /// In place of the three: TLS on the host, the key alone in an element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_on_host: Option<OnHost>,
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
    /// Where the names are kept that `gose eap revoke` takes back.
    #[serde(default = "AuthenticationServer::default_revoked_file")]
    pub revoked_file: PathBuf,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<Text<Seid>>,
    /// The label of that identity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Where the bearer's PIN of those elements is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<Text<Secret>>,
    /// In place of the three: TLS on the host, the key alone in an element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_on_host: Option<OnHost>,
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
    /// Whether the session ends then instead.
    #[serde(default)]
    pub session_ends: bool,
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
    fn default_revoked_file() -> PathBuf {
        "/var/lib/gose/revoked.json".into()
    }

    fn default_wait() -> Seconds {
        Seconds::new(10)
    }

    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.revoked_file];
        let own = std::iter::once((&mut self.pin, &mut self.tls_on_host));
        let others = self.companies.iter_mut();
        let others = others.map(|company| (&mut company.pin, &mut company.tls_on_host));
        for (pin, on_host) in own.chain(others) {
            paths.extend(pin.as_mut().and_then(|pin| pin.0.path()));
            paths.extend(on_host.iter_mut().flat_map(OnHost::paths));
        }
        paths.extend(self.radius.iter_mut().flat_map(Radius::paths));
        paths
    }

    /// Every element of every identity.
    fn all_elements(&self) -> impl Iterator<Item = &Text<Seid>> + Clone {
        self.elements
            .iter()
            .chain(self.companies.iter().flat_map(|company| &company.elements))
    }

    /// The elements that hold the keys of TLS on the host.
    fn keys(&self) -> impl Iterator<Item = &Text<Seid>> + Clone {
        let companies = self.companies.iter();
        let all =
            std::iter::once(&self.tls_on_host).chain(companies.map(|company| &company.tls_on_host));
        all.flatten().map(|on_host| &on_host.key.seid)
    }

    /// Whether TLS on the host has its key in this element, which it keeps.
    pub(super) fn keeps(&self, seid: &Seid) -> bool {
        self.keys().any(|key| key.0 == *seid)
    }

    /// Each identity is in elements, or its TLS is on the host.
    fn identity_fault(&self) -> Option<String> {
        const NEEDED: &str =
            "either elements, identity and pin, or tls-on-host (the key alone in an element)";
        let whole = |elements: &[Text<Seid>], label: &str, pin: bool, on_host: bool| {
            let none = elements.is_empty() && label.is_empty() && !pin;
            let all = !elements.is_empty() && !label.is_empty() && pin;
            if on_host { none } else { all }
        };
        if !whole(
            &self.elements,
            &self.identity,
            self.pin.is_some(),
            self.tls_on_host.is_some(),
        ) {
            return Some(format!("[authentication-server] needs {NEEDED}"));
        }
        if self.tls_on_host.is_some() && self.service == Service::ElementEcho {
            return Some(
                "[authentication-server] service = \"element-echo\" needs TLS in elements".into(),
            );
        }
        let on_host = std::iter::once(&self.tls_on_host)
            .chain(self.companies.iter().map(|company| &company.tls_on_host));
        if let Some(fault) = on_host.flatten().find_map(OnHost::fault) {
            return Some(fault);
        }
        let company = self.companies.iter().find(|company| {
            let on_host = company.tls_on_host.is_some();
            company.realms.is_empty()
                || !whole(
                    &company.elements,
                    &company.identity,
                    company.pin.is_some(),
                    on_host,
                )
        })?;
        Some(format!(
            "[[authentication-server.company]] {}: realms, and {NEEDED}",
            company.name
        ))
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, seids: &dyn Fn(&Seid) -> bool) -> Option<String> {
        if let Some(fault) = self.identity_fault() {
            return Some(fault);
        }
        let named = self.all_elements().chain(self.keys());
        if let Some(missing) = named.clone().find(|seid| !seids(seid)) {
            return Some(format!(
                "[authentication-server] elements: no [[slot]] has seid = \"{}\"",
                **missing
            ));
        }
        let mut once = HashSet::new();
        if let Some(twice) = named.clone().find(|seid| !once.insert(seid.0)) {
            return Some(format!(
                "[authentication-server] element \"{}\" serves two identities",
                **twice
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
