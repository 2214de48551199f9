//! The element contract on one element of a running node, over its admin socket: `GOSE_TEST_SOCKET` names it,
//! `GOSE_TEST_ELEMENT` the element. What holds the element is taken away by whoever reads `GOSE_TEST_ASKED`, and says
//! so in `GOSE_TEST_DONE`.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
};

use gose_client::{Endpoint, RemoteElement};
use gose_element::Algorithm;
use gose_testkit::contract::{self, Keys, Removal, Second, Terms};

fn told(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run this test by `cargo xtask contract`")
    })
}

#[test]
fn keeps_the_contract() {
    let seid = told("GOSE_TEST_ELEMENT");
    let socket = told("GOSE_TEST_SOCKET");
    let session = || {
        let endpoint = Endpoint::Unix(socket.clone().into());
        RemoteElement::at(endpoint, seid.parse().unwrap())
    };
    let mut switch = |away| {
        let what = if away { "away" } else { "back" };
        let asked = OpenOptions::new()
            .append(true)
            .open(told("GOSE_TEST_ASKED"));
        let line = format!("{seid} {what}\n");
        asked.unwrap().write_all(line.as_bytes()).unwrap();
        let done = OpenOptions::new().read(true).open(told("GOSE_TEST_DONE"));
        let mut line = BufReader::with_capacity(1, done.unwrap());
        line.read_line(&mut String::new()).unwrap();
    };
    let made = Keys::Made(&[Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048]);
    let (name, keys, removal) = match seid.as_str() {
        "software" => (
            "software card",
            made,
            Removal::None("its memory is the node's"),
        ),
        "tpm" => ("keys in a TPM", made, Removal::Keys(&mut switch)),
        "hsm" => ("keys in SoftHSM", made, Removal::Keys(&mut switch)),
        "opensc" => (
            "keys of a card by OpenSC",
            Keys::Adopted,
            Removal::Keys(&mut switch),
        ),
        "reader" => ("card in a reader", made, Removal::Element(&mut switch)),
        _ => ("remote grid", made, Removal::Element(&mut switch)),
    };
    let terms = Terms {
        name: &format!("node: {name}"),
        keys,
        operations: contract::operations(std::env::var_os("GOSE_TEST_LONG").is_some()),
        removal,
        second: Second::Session(&mut || Box::new(session())),
    };
    println!("{}", contract::run(&mut session(), terms));
}
