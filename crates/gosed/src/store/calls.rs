//! Calls to other nodes, for elements of remote grids.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gose_client::{Endpoint, RemoteElement, tls};
use gose_element::{ElementError, SecureElement, Seid};
use rustls::ClientConfig;

use crate::grid::Peer;

/// What this node shows to nodes that it calls; replaced at a reload.
#[derive(Debug, Default)]
pub struct Calls(ArcSwapOption<ClientConfig>);

impl Calls {
    /// Calls are made with this from now on.
    pub fn replace(&self, config: Arc<ClientConfig>) {
        self.0.store(Some(config));
    }

    /// An element of a remote grid, in a session of its own: locks and power of two peers of this node
    /// never mix there. It connects at its first use.
    pub(super) fn open(
        &self,
        node: &str,
        seid: Seid,
        peer: &Peer,
    ) -> Result<Box<dyn SecureElement>, ElementError> {
        let failed = |cause: String| ElementError::Transport(cause);
        let config = self.0.load_full();
        let config = config.ok_or_else(|| failed("[tls] is needed to call other nodes".into()))?;
        let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let endpoint = Endpoint::Tls {
            address: node.to_owned(),
            name: tls::server_name(host).map_err(|error| failed(error.to_string()))?,
            config,
        };
        let mut element = RemoteElement::at(endpoint, seid);
        element.set_request_id(Some(format!("s{}", peer.sid)));
        Ok(Box::new(element))
    }
}
