//! `[node]`: what kind of node it is.

use serde::{Deserialize, Serialize};

/// `[node]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NodeKind {
    /// Whether software elements may be given faults on purpose: for grids that nobody relies on.
    pub test_grid: bool,
}
