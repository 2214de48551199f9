//! The reference implementation's client: TLS 1.2 with an RSA certificate on the node, and its own requests.
//! `openssl s_client` brings its cipher suites, which rustls does not all have.

use std::io::Read;

use gose_testkit::pki::Request;
use rcgen::{KeyUsagePurpose, SanType};

use crate::process::{Daemon, Place, Typed};

/// A node with an RSA certificate that would do for either key exchange.
fn place(tls: &str) -> Place {
    let place = Place::new(tls);
    let mut request = Request::new(Some("localhost")).rsa();
    request.params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    request
        .params
        .key_usages
        .push(KeyUsagePurpose::KeyEncipherment);
    let _ = place
        .machines
        .issue(request)
        .write(place.dir.path(), "node");
    place
}

/// What the reference client does at connect: TLS 1.2, one suite, no ALPN.
fn connect(place: &Place, daemon: &Daemon, suite: &str) -> Typed {
    place.s_client_with(daemon, &["-tls1_2", "-cipher", suite])
}

/// Its end comes without a byte of RACS.
fn refused(place: &Place, daemon: &Daemon, suite: &str, reason: &str) {
    let mut client = connect(place, daemon, suite);
    let mut said = String::new();
    client.output.read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "{suite}");
    let line = daemon.wait_for("refused: handshake");
    assert!(line.contains(reason), "{line}");
}

#[test]
fn its_requests_over_tls_1_2() {
    let place = place("danger-tls12 = true\n");
    let daemon = place.start();
    let mut client = connect(&place, &daemon, "ECDHE-RSA-AES128-GCM-SHA256");
    let response = client.say("BEGIN WINSCARD\r\nPOWERON SE1\r\nEND\r\n");
    assert_eq!(
        response,
        "BEGIN WINSCARD\r\n+008 001 SE1 powered on ATR=3B8B0180F9A0000003080000100048\r\nEND\r\n"
    );
    let select = "00A4040009A00000030800001000";
    let response = client.say(&format!("BEGIN WINSCARD\r\nAPDU SE1 {select}\r\nEND\r\n"));
    let answer = response
        .strip_prefix("BEGIN WINSCARD\r\n+006 001 61")
        .unwrap();
    assert!(answer.ends_with("9000\r\nEND\r\n"), "{response}");
    let response = client.say("BEGIN WINSCARD\r\nAPDU SE1 00200080\r\nEND\r\n");
    assert_eq!(response, "BEGIN WINSCARD\r\n+006 001 63C3\r\nEND\r\n");

    // The suite that it is shipped with has no forward secrecy; nor have CBC and finite fields a place.
    for (suite, reason) in [
        ("AES128-GCM-SHA256", "NoKxGroupsInCommon"),
        ("AES256-SHA256", "NoKxGroupsInCommon"),
        ("DHE-RSA-AES128-GCM-SHA256", "NoKxGroupsInCommon"),
        ("ECDHE-RSA-AES128-SHA256", "NoCipherSuitesInCommon"),
    ] {
        refused(&place, &daemon, suite, reason);
    }
    // Meanwhile the first session goes on.
    let response = client.say("BEGIN WINSCARD\r\nECHO still\r\nEND\r\n");
    assert_eq!(response, "BEGIN WINSCARD\r\n+009 001 still\r\nEND\r\n");
}

#[test]
fn without_the_switch_there_is_no_tls_1_2() {
    let place = place("");
    let daemon = place.start();
    let suite = "ECDHE-RSA-AES128-GCM-SHA256";
    refused(&place, &daemon, suite, "SupportedVersionsExtensionRequired");
}
