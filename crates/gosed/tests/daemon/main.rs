//! The daemon on loopback, with a test PKI: every kind of bad input has its exact answer, and others are
//! served meanwhile.

#![allow(clippy::unwrap_used)]

mod admin;
mod certificates;
mod contract;
mod elements;
mod foreign;
mod input;
mod limits;
mod locks;
mod many_slots;
mod process;
mod reference_client;
mod reload;
mod storage;
mod world;
