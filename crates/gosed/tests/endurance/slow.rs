//! A thousand connections at a byte a second, in the handshake, in a header, in a batch.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    alone, long,
    node::{Node, Text, honest, percentile},
};

/// A connection that takes its time.
enum Slow {
    Handshake(TcpStream),
    Session(Box<Text>),
}

#[test]
fn slow_connections() {
    let _alone = alone();
    let limit = 3;
    let node = Node::start(
        2,
        &format!("handshake-timeout-s = {limit}\nrequest-timeout-s = {limit}\n"),
    );
    let count = if long() { 1000 } else { 300 };
    let rounds = if long() { 400 } else { 40 };
    // Its image is open from its first use on.
    assert!(node.session().ask(&["POWERON SE1"]).starts_with("+008 001"));
    let mut quiet = honest(&node, rounds);
    let before = node.descriptors();
    let hello = [
        0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03,
    ];
    // After SYN and in the middle of a ClientHello; sessions first, since their handshakes take time.
    let mut slow: Vec<Slow> = (0..count)
        .filter(|n| n % 4 >= 2)
        .map(|_| Slow::Session(Box::new(node.session())))
        .collect();
    let begun = Instant::now();
    for (n, one) in slow.iter_mut().enumerate() {
        let Slow::Session(session) = one else {
            unreachable!("sessions alone so far");
        };
        let text: &[u8] = match n % 3 {
            0 => b"BEGI",
            1 => b"BEGIN\r\nECHO a\r\nAPDU SE1 00A4",
            _ => b"BEGIN\r\nPOWERON SE1\r\n",
        };
        assert!(session.send(text));
    }
    slow.extend((0..count).filter(|n| n % 4 < 2).map(|n| {
        let mut stream = node.tcp();
        stream.write_all(&hello[..(n % 4) * (1 + n % 10)]).unwrap();
        Slow::Handshake(stream)
    }));
    assert_eq!(slow.len(), count);
    let all = begun.elapsed();
    let mut busy = Vec::new();
    let mut last = Instant::now();
    while busy.len() < rounds && begun.elapsed() < Duration::from_secs(limit) {
        busy.extend(honest(&node, 1));
        if last.elapsed() > Duration::from_secs(1) {
            last = Instant::now();
            for one in &mut slow {
                match one {
                    Slow::Handshake(stream) => drop(stream.write_all(&[0])),
                    Slow::Session(session) => drop(session.send(b"x")),
                }
            }
        }
    }
    let (quiet, busy) = (percentile(&mut quiet, 99), percentile(&mut busy, 99));
    println!("{count} slow in {all:?}; honest p99 {quiet:?} alone, {busy:?} beside them");
    if long() {
        assert!(
            busy <= quiet * 2,
            "{quiet:?} alone, {busy:?} beside slow ones"
        );
    } else {
        assert!(busy < Duration::from_secs(2), "{busy:?}");
    }
    // The last of them began `all` after the first.
    node.back_to(before, Duration::from_secs(limit + 1) + all);
    // An element that one of them held is free.
    assert!(node.session().ask(&["POWERON SE1"]).starts_with("+008 001"));
}
