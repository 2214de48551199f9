//! An identity of the server: one company's name, certificate and policy (the paper's credential object).

use std::sync::Arc;

use gose_element::{Seid, drive::eap_tls::AID};
use gose_proto::radius::Type;
use zeroize::Zeroizing;

use super::{OnHost, Revoked};
use crate::config;

/// What the server is for one company. Certificate, anchors, revocation lists and TLS policy are in the
/// elements, under `label`.
pub struct Identity {
    /// For the log.
    pub name: String,
    /// Realms that it serves, in lower case; empty for names without a realm, `*` for every other one.
    pub realms: Vec<String>,
    /// The elements that hold it.
    pub elements: Vec<Seid>,
    /// Its label in the elements.
    pub label: String,
    /// The application in the elements.
    pub aid: Vec<u8>,
    /// The elements' PIN.
    pub pin: Zeroizing<Vec<u8>>,
    /// Names that may come in; `*` for whoever has a certificate under the anchors.
    pub allow: Vec<String>,
    /// What clients are told about those who come in.
    pub reply: Reply,
    /// TLS on the host in place of the elements.
    pub on_host: Option<Arc<OnHost>>,
    /// Names that were taken back, whatever `allow` says.
    pub revoked: Arc<Revoked>,
}

impl Identity {
    /// An identity on GoSE's own elements that lets in whoever has a certificate.
    #[must_use]
    pub fn new(name: &str, label: &str, pin: &[u8], elements: Vec<Seid>) -> Self {
        Self {
            name: name.into(),
            realms: vec!["*".into()],
            elements,
            label: label.into(),
            aid: AID.to_vec(),
            pin: Zeroizing::new(pin.to_vec()),
            allow: vec!["*".into()],
            reply: Reply::default(),
            on_host: None,
            revoked: Arc::default(),
        }
    }

    /// An identity whose TLS runs on the host and that lets in whoever has a certificate.
    #[must_use]
    pub fn on_host(name: &str, tls: OnHost) -> Self {
        Self {
            on_host: Some(Arc::new(tls)),
            ..Self::new(name, "", b"", Vec::new())
        }
    }

    /// The best of several for a realm: one that names it, else one that serves every realm.
    #[must_use]
    pub fn choose<'i, T>(
        all: &'i [T],
        identity: impl Fn(&T) -> &Self,
        realm: &str,
    ) -> Option<&'i T> {
        let serves = |wanted: &str| {
            all.iter()
                .find(|one| identity(one).realms.iter().any(|served| served == wanted))
        };
        serves(realm).or_else(|| serves("*"))
    }
}

/// The realm of a network access identifier (RFC 7542, 2.2), in lower case; empty without one.
#[must_use]
pub fn realm(identity: &str) -> String {
    identity
        .rsplit_once('@')
        .map(|(_, realm)| realm.to_lowercase())
        .unwrap_or_default()
}

/// Attributes of an Access-Accept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// VLAN, as RFC 3580, 3.31 says it.
    pub vlan: Option<u16>,
    /// After so many seconds the peer authenticates again.
    pub session_timeout: Option<u32>,
    /// The session ends then: without Termination-Action RADIUS-Request.
    pub session_ends: bool,
    /// Name of a filter that the client knows.
    pub filter: Option<String>,
}

impl From<&config::Reply> for Reply {
    fn from(reply: &config::Reply) -> Self {
        Self {
            vlan: reply.vlan,
            session_timeout: reply.session_timeout_s.map(u32::from),
            session_ends: reply.session_ends,
            filter: reply.filter.clone(),
        }
    }
}

impl Reply {
    /// The attributes.
    #[must_use]
    pub fn attributes(&self) -> Vec<(Type, Vec<u8>)> {
        let mut attributes = Vec::new();
        if let Some(vlan) = self.vlan {
            // VLAN (13) over 802 (6), without tags.
            attributes.push((Type::TUNNEL_TYPE, vec![0, 0, 0, 13]));
            attributes.push((Type::TUNNEL_MEDIUM_TYPE, vec![0, 0, 0, 6]));
            attributes.push((Type::TUNNEL_PRIVATE_GROUP_ID, vlan.to_string().into_bytes()));
        }
        if let Some(seconds) = self.session_timeout {
            attributes.push((Type::SESSION_TIMEOUT, seconds.to_be_bytes().to_vec()));
            // Default, or RADIUS-Request: authenticate again rather than disconnect (RFC 3580, 3.17).
            let action = u8::from(!self.session_ends);
            attributes.push((Type::TERMINATION_ACTION, vec![0, 0, 0, action]));
        }
        if let Some(filter) = &self.filter {
            attributes.push((Type::FILTER_ID, filter.clone().into_bytes()));
        }
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms_choose() {
        let identity = |name: &str, realms: &[&str]| {
            let mut identity = Identity::new(name, "l", b"", Vec::new());
            identity.realms = realms.iter().map(ToString::to_string).collect();
            identity
        };
        let all = [
            identity("a", &["a.test", "a2.test"]),
            identity("any", &["*"]),
            identity("none", &[""]),
        ];
        let check = |nai: &str, expected: &str| {
            assert_eq!(
                Identity::choose(&all, |one| one, &realm(nai)).unwrap().name,
                expected,
                "{nai}"
            );
        };
        check("vm1@a.test", "a");
        check("@A2.TEST", "a");
        check("x@y@a.test", "a");
        check("vm1@b.test", "any");
        check("vm1", "none");
        check("", "none");
        assert!(Identity::choose(&all[..1], |one| one, "b.test").is_none());
    }

    #[test]
    fn reply_attributes() {
        assert_eq!(Reply::default().attributes(), []);
        let reply = Reply {
            vlan: Some(42),
            session_timeout: Some(60),
            session_ends: true,
            filter: Some("vms".into()),
        };
        let kinds: Vec<u8> = reply.attributes().iter().map(|(kind, _)| kind.0).collect();
        assert_eq!(kinds, [64, 65, 81, 27, 29, 11]);
        assert_eq!(reply.attributes()[2].1, b"42");
        assert_eq!(reply.attributes()[4].1, [0, 0, 0, 0]);
    }
}
