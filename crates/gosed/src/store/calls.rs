//! Calls to other nodes, for elements of remote grids.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use gose_client::{Endpoint, RemoteElement, SharedSession, tls};
use gose_element::{Atr, ElementError, Outcomes, Script, SecureElement, Seid};
use gose_proto::apdu::Response;
use rustls::ClientConfig;

use crate::grid::{Peer, RequestName};

/// What this node shows to nodes that it calls; replaced at a reload.
#[derive(Debug, Default)]
pub struct Calls(ArcSwapOption<ClientConfig>);

impl Calls {
    /// Calls are made with this from now on.
    pub fn replace(&self, config: Arc<ClientConfig>) {
        self.0.store(Some(config));
    }

    /// An element of a remote grid, in the upstream session that the peer's session has with that node, or in one
    /// of its own: locks and power of two sessions of this node never mix there. It connects at its first use.
    pub(super) fn open(
        &self,
        node: &str,
        seid: Seid,
        peer: &Peer,
    ) -> Result<Box<dyn SecureElement>, ElementError> {
        let config = self.config().map_err(ElementError::Transport)?;
        let endpoint = called(node, config).map_err(ElementError::Transport)?;
        let element = match &peer.upstreams {
            Some(upstreams) => RemoteElement::sharing(upstreams.session(node, endpoint), seid),
            None => RemoteElement::at(endpoint, seid),
        };
        Ok(Box::new(Relayed {
            element,
            session: format!("s{}", peer.sid),
            request: peer.request.clone(),
        }))
    }

    /// Where the management plane of a node is.
    ///
    /// # Errors
    /// What is missing in the configuration.
    pub(crate) fn management(&self, node: &str) -> Result<Endpoint, String> {
        let mut config = ClientConfig::clone(&*self.config()?);
        config.alpn_protocols = vec![tls::ADMIN.to_vec()];
        called(node, Arc::new(config))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let config = self.0.load_full();
        config.ok_or_else(|| "[tls] node-anchor-files is needed to call other nodes".into())
    }
}

fn called(node: &str, config: Arc<ClientConfig>) -> Result<Endpoint, String> {
    let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Endpoint::Tls {
        address: node.to_owned(),
        name: tls::server_name(host).map_err(|error| error.to_string())?,
        config,
    })
}

/// The RACS sessions with other nodes that serve one session of this node: one a node. They end with it.
#[derive(Default)]
pub struct Upstreams(Mutex<HashMap<Box<str>, SharedSession>>);

impl Upstreams {
    /// The session with a node; called at this endpoint when it must be opened.
    fn session(&self, node: &str, endpoint: Endpoint) -> SharedSession {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match sessions.get(node) {
            Some(session) => {
                session.call_at(endpoint);
                session.clone()
            }
            None => {
                let session = SharedSession::at(endpoint);
                sessions.insert(node.into(), session.clone());
                session
            }
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstreams")
    }
}

/// An element of a remote grid whose requests carry the identifier of the request that they serve, or the
/// session's where it has none: for the logs on both sides.
struct Relayed {
    element: RemoteElement,
    session: String,
    request: Arc<RequestName>,
}

impl Relayed {
    fn named(&mut self) -> &mut RemoteElement {
        let name = self.request.get().unwrap_or_else(|| self.session.clone());
        self.element.set_request_id(Some(name));
        &mut self.element
    }
}

impl SecureElement for Relayed {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.named().power_on()
    }

    fn power_off(&mut self) {
        self.named().power_off();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.named().reset(warm)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.named().transmit(apdu)
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        self.named().run(script)
    }
}
