//! `[limits]`: bounds and time limits.

use serde::{Deserialize, Serialize};

use super::Seconds;

/// Bounds and time limits; all finite.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time, those in the handshake included; more wait in the listen queue.
    pub connections: u32,
    /// From the first byte of TCP to the end of the TLS handshake.
    pub handshake_timeout_s: Seconds,
    /// Without a byte from the client.
    pub idle_timeout_s: Seconds,
    /// From BEGIN to END.
    pub request_timeout_s: Seconds,
    /// For a client that does not read its responses.
    pub write_timeout_s: Seconds,
    /// For an answer of an element that runs on a thread of its own.
    pub apdu_timeout_s: Seconds,
    /// After SIGTERM, for requests that run.
    pub drain_timeout_s: Seconds,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake_timeout_s: Seconds::new(10),
            idle_timeout_s: Seconds::new(600),
            request_timeout_s: Seconds::new(60),
            write_timeout_s: Seconds::new(30),
            apdu_timeout_s: Seconds::new(60),
            drain_timeout_s: Seconds::new(10),
        }
    }
}
