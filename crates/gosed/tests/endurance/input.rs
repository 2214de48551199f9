//! Input of a size that nobody asks for: a typed answer or the end of the session, no memory, nobody else concerned.

use std::time::{Duration, Instant};

use crate::{
    alone, long,
    node::{Node, SELECT, Text},
};

/// More than an idle node has: what one session may make of it.
const MORE: u64 = 1 << 20;

#[test]
fn a_million_apdus_and_lines_without_end() {
    let _alone = alone();
    let node = Node::start(2, "");
    let mut other = node.session();
    // What an allocator keeps for good, it keeps after the first session that did something of everything.
    everything(&node, &mut other, if long() { 20 } else { 3 });
    std::thread::sleep(Duration::from_millis(200));
    let before = node.descriptors();
    node.forget_peak();
    let idle = node.memory("VmRSS");
    everything(&node, &mut other, if long() { 1001 } else { 21 });
    let more = node.memory("VmHWM").saturating_sub(idle);
    println!("idle {} KiB, {} KiB more at most", idle / 1024, more / 1024);
    assert!(more <= MORE, "{more} bytes over idle");
    node.back_to(before, Duration::from_secs(5));
}

/// Each on a session of its own; after each another session has its answer at once.
fn everything(node: &Node, other: &mut Text, requests: usize) {
    let mut still = || {
        let begun = Instant::now();
        let select = format!("APDU SE2 {SELECT} CONTINUE=9000");
        assert_eq!(other.ask(&[&select, "APDU SE2 00200080"]), "+006 002 63C3");
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    };
    // 999 APDUs in each request, so many requests behind each other: a million in the long form.
    let mut session = node.session();
    let select = format!("APDU SE1 {SELECT}\r\n");
    let request = format!(
        "BEGIN\r\n{select}{}END\r\n",
        "APDU SE1 00200080\r\n".repeat(998)
    );
    for _ in 0..requests {
        assert!(session.send(request.as_bytes()));
        assert_eq!(session.response(), "BEGIN\r\n+006 999 63C3\r\nEND\r\n");
    }
    still();
    // A request with a million of them ends at the thousandth.
    assert!(session.send(format!("BEGIN\r\n{select}").as_bytes()));
    let thousand = "APDU SE1 00200080\r\n".repeat(1000);
    let sent = (0..1000).take_while(|_| session.send(thousand.as_bytes()));
    assert!(sent.count() < 1000, "it is not read to its end");
    still();
    let fatal = [
        (
            vec![b'x'; 1_000_000],
            "-501 000 line longer than 140000 bytes",
        ),
        (
            b"BEGIN\r\nECHO a\0b\r\n".to_vec(),
            "-500 001 byte outside printable ASCII",
        ),
        // A lone CR is no end of a line.
        (
            b"BEGIN\rECHO a\rEND\r\n".to_vec(),
            "-500 000 byte outside printable ASCII",
        ),
        (
            [&[0; 1000][..], b"\r\n"].concat(),
            "-500 000 byte outside printable ASCII",
        ),
    ];
    for (bytes, answer) in fatal {
        let mut session = node.session();
        session.send(&bytes);
        let rest = session.rest();
        // TCP may lose the answer where the node closes before all was read.
        assert!(
            rest.is_empty() || rest == format!("BEGIN\r\n{answer}\r\nEND\r\n"),
            "{rest}"
        );
        still();
    }
    let mut session = node.session();
    for (line, answer) in [
        (
            format!("POWERON {}", "S".repeat(65_536)),
            "-508 001 malformed SEID",
        ),
        ("APDU SE1 00A40".into(), "-506 001 malformed hexadecimal"),
        (
            format!("APDU SE1 {}", "0x".repeat(30_000)),
            "-506 001 malformed hexadecimal",
        ),
    ] {
        assert_eq!(session.ask(&[&line]), answer);
        still();
    }
    // Lone LFs end lines.
    assert!(session.send(b"BEGIN\nECHO a\nEND\n"));
    assert_eq!(session.response(), "BEGIN\r\n+009 001 a\r\nEND\r\n");
    still();
}
