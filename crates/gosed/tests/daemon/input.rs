//! Lines that are wrong.

use crate::world::{SELECT, World};

/// Sends bytes on a connection of its own and compares everything that comes back; then another
/// connection, opened before, is served.
async fn check(world: &World, sent: &[u8], expected: &str) {
    let (got, ended) = converse(world, sent).await;
    ended.unwrap();
    assert_told(sent, &got, expected);
}

/// The same where the session closes before everything that was sent is read: TCP may then say so.
async fn check_cut(world: &World, sent: &[u8], expected: &str) {
    let (got, _) = converse(world, sent).await;
    assert_told(sent, &got, expected);
}

fn assert_told(sent: &[u8], got: &str, expected: &str) {
    let beginning = String::from_utf8_lossy(&sent[..sent.len().min(80)]);
    assert_eq!(got, expected, "{beginning:?}");
}

async fn converse(world: &World, sent: &[u8]) -> (String, std::io::Result<()>) {
    let mut other = world.bob().await;
    other.check(&["ECHO here"], "+009 001 here").await;
    let mut client = world.alice().await;
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, sent)
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::flush(&mut client.stream)
        .await
        .unwrap();
    let told = client.rest().await;
    other.check(&["ECHO still"], "+009 001 still").await;
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_close_the_session() {
    let world = World::small().await;
    check(
        &world,
        b"HELLO\r\n",
        "BEGIN\r\n-300 000 expecting BEGIN\r\nEND\r\n",
    )
    .await;
    check(
        &world,
        b"BEGIN\r\nBEGIN\r\n",
        "BEGIN\r\n-301 001 BEGIN inside a request\r\nEND\r\n",
    )
    .await;
    let told = |status: &str| format!("BEGIN\r\n{status}\r\nEND\r\n");
    let long = format!("BEGIN {}\r\n", "x".repeat(65));
    let longer = "-302 000 request identifier longer than 64 characters";
    check(&world, long.as_bytes(), &told(longer)).await;
    let long = format!("BEGIN\r\nAPDU SE1 {}\r\n", "00".repeat(70_001));
    let longer = "-501 001 line longer than 140000 bytes";
    check_cut(&world, long.as_bytes(), &told(longer)).await;
    let byte = "-500 001 byte outside printable ASCII";
    check(&world, b"BEGIN\r\nECHO a\x00b\r\n", &told(byte)).await;
    let many = format!("BEGIN\r\n{}END\r\n", "ECHO a\r\n".repeat(1000));
    let lines = "-500 999 more than 999 command lines";
    check_cut(&world, many.as_bytes(), &told(lines)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_do_not() {
    let world = World::small().await;
    let mut alice = world.alice().await;
    let mut other = world.bob().await;
    let (unknown, hex) = ("-100 001 unknown command", "-506 001 malformed hexadecimal");
    for (line, answer) in [
        ("QUIT", unknown),
        ("get-version", unknown),
        ("APDU SE1 00A", hex),
        ("APDU SE1 00A40", hex),
        ("APDU SE1 00x404", hex),
        ("APDU SE1 00 A4 04 00", "-506 001 malformed APDU"),
        ("APDU SE1", "-506 001 missing parameter"),
        ("APDU SE1 00A404", "-506 001 malformed APDU"),
        ("APDU SE1 00A40400FF00", "-506 001 malformed APDU"),
        ("APDU SE1 00A4040000FFFF00", "-506 001 malformed APDU"),
        (
            "APDU SE1 00A40400 CONTINUE=9",
            "-506 001 malformed value of CONTINUE, MORE or FETCH",
        ),
        (
            "APDU SE1 00A40400 MOST=61",
            "-406 001 unsupported parameter",
        ),
        ("SET-VERSION 1.0", "-403 001 version not supported"),
        ("SET-VERSION one", "-503 001 malformed version"),
        ("SEN SE1 name", "-210 001 not implemented"),
        ("GET-SEN SE1", "-211 001 not implemented"),
        ("POWERON", "-508 001 missing parameter"),
        ("POWERON S/1", "-508 001 malformed SEID"),
        ("RESET SE1 HOT", "-405 001 unsupported parameter"),
        ("LIST all", "-504 001 too many parameters"),
    ] {
        alice.check(&[line], answer).await;
        other.check(&["ECHO still"], "+009 001 still").await;
    }
    // The rest of a request is ignored after an error; the session goes on.
    let mut lines = vec!["ECHO a APPEND", "FOO"];
    lines.resize(102, "ECHO never");
    alice
        .check(&lines, "+009 001 a|-100 002 unknown command")
        .await;
    alice.check(&["LIST"], "+004 001 SE1 SE2").await;
    // 999 command lines are allowed.
    alice.check(&["ECHO a"; 999], "+009 999 a").await;
    // Bare LF and trailing spaces.
    alice.send("BEGIN x \nECHO a \nEND\n").await;
    assert_eq!(alice.response().await, "BEGIN x\r\n+009 001 a\r\nEND\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conversation_of_the_reference_client() {
    let world = World::small().await;
    let mut alice = world.alice().await;
    alice.send("BEGIN WINSCARD\r\nPOWERON SE1\r\nEND\r\n").await;
    let response = alice.response().await;
    assert!(
        response.starts_with("BEGIN WINSCARD\r\n+008 001 "),
        "{response}"
    );
    assert!(response.contains("ATR=3B"), "{response}");
    alice
        .send(&format!("BEGIN WINSCARD\r\nAPDU SE1 {SELECT}\r\nEND\r\n"))
        .await;
    let response = alice.response().await;
    assert!(
        response.starts_with("BEGIN WINSCARD\r\n+006 001 61"),
        "{response}"
    );
    assert!(response.ends_with("9000\r\nEND\r\n"), "{response}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_one_write_are_answered_in_order() {
    let world = World::small().await;
    let mut alice = world.alice().await;
    let requests: String = (0..100)
        .map(|n| format!("BEGIN {n}\r\nECHO e{n}\r\nEND\r\n"))
        .collect();
    alice.send(&requests).await;
    for n in 0..100 {
        assert_eq!(
            alice.response().await,
            format!("BEGIN {n}\r\n+009 001 e{n}\r\nEND\r\n")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_byte_by_byte() {
    let world = World::small().await;
    let mut alice = world.alice().await;
    for byte in format!("BEGIN\r\nAPDU SE1 {SELECT} CONTINUE=9000\r\nEND\r\n").chars() {
        alice.send(&byte.to_string()).await;
    }
    let response = alice.response().await;
    assert!(response.starts_with("BEGIN\r\n+006 001 61"), "{response}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_refuses() {
    let world = World::small().await;
    let mut bob = world.bob().await;
    bob.check(&["LIST"], "+004 001 SE2").await;
    // Unknown and forbidden are answered alike, to every command.
    for command in [
        "POWERON {}",
        "RESET {}",
        "RESET {} WARM",
        "SHUTDOWN {}",
        "APDU {} 00A40400",
    ] {
        let forbidden = bob.ask(&[&command.replace("{}", "SE1")]).await;
        let unknown = bob.ask(&[&command.replace("{}", "SE9")]).await;
        assert_eq!(forbidden, unknown, "{command}");
        assert!(forbidden.starts_with("-6"), "{forbidden}");
    }
    bob.check(&["APDU SE2 0020008008313233343536FFFF"], "-606 001…")
        .await;
    bob.check(&["APDU SE2 00A4040007A0000001510000"], "-606 001…")
        .await;
    let select = format!("APDU SE2 {SELECT} CONTINUE=9000");
    bob.check(&[&select, "APDU SE2 00DB3FFF035C015A"], "-606 002…")
        .await;
    bob.check(&["RESET SE2", "APDU SE2 00CB3FFF055C035FC107"], "-606 002…")
        .await;
    let counted: std::collections::HashMap<_, _> = world.node.metrics().snapshot().into();
    assert_eq!(counted["gose_policy_denied_total"], 10);
    assert_eq!(counted["gose_firewall_denied_total"], 4);
    // Nobody's certificate is good for TLS; it has no element.
    let mut nobody = world.connect(&world.users.user("nobody")).await;
    nobody.check(&["LIST"], "+004 001").await;
    nobody.check(&["POWERON SE1"], "-608 001…").await;
    // A common name counts only if the users' authority gave it.
    let mut impostor = world.connect(&world.machines.user("alice")).await;
    impostor.check(&["LIST"], "+004 001").await;
    let below = world.users.subordinate("below");
    let mut below = world.connect(&below.user("alice")).await;
    below.check(&["POWERON SE1"], "-608 001…").await;
}
