//! The daemon on loopback, with a test PKI: every kind of bad input has its exact answer, and others are
//! served meanwhile.

#![allow(clippy::unwrap_used)]

mod admin;
mod certificates;
mod contract;
mod disk;
mod elements;
mod faults;
mod foreign;
mod history;
mod images;
mod input;
mod keys;
mod limits;
mod locks;
mod many_slots;
mod node_of_one;
mod process;
mod reference_client;
mod reload;
mod storage;
mod transcripts;
mod world;
