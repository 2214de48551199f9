//! The daemon: grid node, hypervisor, authentication server.
#![forbid(unsafe_code)]

pub mod admin;
pub mod auth;
pub mod clock;
pub mod config;
pub mod demo;
pub mod generations;
pub mod grid;
pub mod hypervisor;
pub mod keys;
pub mod leased;
pub mod listen;
pub mod metrics;
pub mod node;
pub mod profiles;
pub mod radius;
#[cfg(feature = "pcsc")]
pub mod readers;
pub mod roles;
pub mod store;

/// Writes the log to standard error from now on.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // What cannot be logged is lost: telling so on the same descriptor would fail too, and end the daemon.
        .log_internal_errors(false)
        .init();
}

/// Runs what may take more than a millisecond so that other tasks go on meanwhile, where the runtime
/// allows it.
fn long_step<T>(step: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(step),
        _ => step(),
    }
}
