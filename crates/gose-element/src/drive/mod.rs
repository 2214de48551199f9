//! How a host drives the applications on an element.

pub mod eap_tls;
pub mod piv;
pub mod provision;
pub mod storage;
