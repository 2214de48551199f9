//! `[metrics]`: figures for Prometheus.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Text;

/// Where `GET /metrics` is answered.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metrics {
    /// Address and port; empty: nowhere. It tells who uses what, and asks nobody who he is: keep it on this machine.
    #[serde(default = "Metrics::default_address")]
    pub address: Text<MetricsAddress>,
}

/// An address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl Default for Metrics {
    fn default() -> Self {
        Self {
            address: Self::default_address(),
        }
    }
}

impl Metrics {
    fn default_address() -> Text<MetricsAddress> {
        Text(MetricsAddress(Some(([127, 0, 0, 1], 9777).into())))
    }
}

impl std::str::FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = text.parse();
        address
            .map(|address| Self(Some(address)))
            .map_err(|_| format!("\"{text}\" is no address with a port; \"\" switches metrics off"))
    }
}

impl std::fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => Ok(()),
        }
    }
}
