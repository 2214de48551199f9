//! The daemon: grid node, hypervisor, authentication server.
