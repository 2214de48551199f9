//! The daemon: grid node, hypervisor, authentication server.
#![forbid(unsafe_code)]

pub mod config;
