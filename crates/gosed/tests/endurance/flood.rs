//! Handshakes that lead to nothing, as many as come; connections beyond count; tries of a PIN over many connections.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    alone, long,
    node::{Node, SELECT, honest, percentile},
};

/// Bad handshakes a second that are offered.
const OFFERED: u64 = 5000;

#[test]
fn bad_handshakes() {
    let _alone = alone();
    let node = Node::start(2, "");
    // 10^5 connections in the long form.
    let wanted = if long() { 100_000 } else { 3000 };
    let rounds = if long() { 300 } else { 30 };
    let mut quiet = honest(&node, rounds);
    let before = node.descriptors();
    let (made, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let begun = Instant::now();
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let (address, made, stop) = (node.address.clone(), made.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let count = made.fetch_add(1, Ordering::Relaxed);
                    bad(&address, count);
                    let due = Duration::from_micros(1_000_000 * count / OFFERED);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                }
            })
        })
        .collect();
    let mut busy = Vec::new();
    while busy.len() < rounds || made.load(Ordering::Relaxed) < wanted {
        busy.extend(honest(&node, 1));
        std::thread::sleep(Duration::from_millis(5));
        assert!(begun.elapsed() < Duration::from_secs(if long() { 300 } else { 60 }));
    }
    let rate = made.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|thread| thread.join().unwrap());
    let (quiet, busy) = (percentile(&mut quiet, 99), percentile(&mut busy, 99));
    println!("{rate:.0} bad handshakes a second; honest p99 {quiet:?} alone, {busy:?} meanwhile");
    if long() {
        assert!(busy <= quiet * 3, "{quiet:?} alone, {busy:?} in the flood");
    } else {
        assert!(busy < Duration::from_secs(2), "{busy:?}");
    }
    node.back_to(before, Duration::from_secs(12));
}

/// Not TLS, a ClientHello that lies about its length, a version that nobody speaks any more, nothing at all.
fn bad(address: &str, count: u64) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let hello: &[u8] = match count % 4 {
        0 => b"BEGIN\r\nLIST\r\nEND\r\n",
        1 => &[0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0xFF, 0xFF, 0xFF, 0x03],
        2 => &[
            0x80, 0x2E, 0x01, 0x00, 0x02, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10,
        ],
        _ => &[],
    };
    let _ = stream.write_all(hello);
    if !hello.is_empty() {
        let _ = stream.read(&mut [0; 16]);
    }
}

#[test]
fn tries_of_a_pin_over_a_hundred_connections() {
    let _alone = alone();
    let node = Node::start(2, "");
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let wrong = "APDU SE1 0020008008393939393939FFFF";
    let mut answers = Vec::new();
    for _ in 0..100 {
        let answer = node.session().ask(&[&select, wrong]);
        if !answer.starts_with("-7") {
            answers.push(answer);
        }
    }
    let told: Vec<&str> = answers.iter().map(|answer| &answer[9..]).collect();
    assert_eq!(told[..3], ["63C2", "63C1", "63C0"]);
    assert!(
        told.len() > 90 && told[3..].iter().all(|sw| *sw == "6983"),
        "{told:?}"
    );
}
