//! `libgose_pkcs11.so`: keys in secure elements of a grid by PKCS#11 v2.40 and v3.0.
//!
//! A slot is an element that this client may use, a token's label is its SEID. Private keys stay in the
//! element; padding, digests and everything public is computed here. The module starts no thread and
//! survives fork: a child process opens connections of its own when it first needs them.
//!
//! `ffi` turns pointers into values, `api` does what the functions say, `line` reaches the element.
#![deny(unsafe_code)]

mod api;
mod config;
mod failure;
#[allow(unsafe_code)]
mod ffi;
mod hash;
mod line;
mod log;
mod mechanism;
mod module;
mod names;
mod object;
mod operation;
mod padding;
mod public;
mod rv;
mod session;
mod stored;
