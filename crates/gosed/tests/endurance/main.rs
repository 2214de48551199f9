//! A node as a process under input, slowness, floods and time, seen from outside: its answers, its memory, its
//! descriptors, its files. Short forms; with `GOSE_TEST_LONG` the long ones, whose figures a quiet machine must give
//! (`cargo xtask soak endurance`, `soak`).

#![allow(clippy::unwrap_used)]

mod flood;
mod input;
mod latency;
mod node;
mod secrets;
mod slow;
mod steady;

/// Whether there is time.
fn long() -> bool {
    std::env::var_os("GOSE_TEST_LONG").is_some()
}

/// One test at a time: each looks at times, memory, descriptors.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
