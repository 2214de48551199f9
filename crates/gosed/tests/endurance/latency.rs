//! A line of ten milliseconds: nothing waits for more than the line. (The kernel's own way, netem, is not in every
//! kernel; the line is a program that keeps bytes for their time.)

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{
    alone,
    node::{Node, SELECT, percentile},
};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(10);

/// Listens before the node; bytes take half a round trip each way, whatever else is on the line.
fn line(node: &Node) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let node = node.address.clone();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(&node).unwrap();
            for (from, to) in [(&near, &far), (&far, &near)] {
                carry(from.try_clone().unwrap(), to.try_clone().unwrap());
            }
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).unwrap();
    let (pieces, arriving) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let due = Instant::now() + ROUND_TRIP / 2;
            if pieces.send((due, bytes[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in arriving {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn a_line_of_ten_milliseconds() {
    let _alone = alone();
    let node = Node::start(1, "");
    let stream = TcpStream::connect(line(&node)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut session = node.session_over(stream);
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    session.ask(&[&select]);
    let mut median = |lines: &[&str]| {
        let expected = session.ask(lines);
        assert!(
            expected.starts_with(&format!("+006 {:03} ", lines.len())),
            "{expected}"
        );
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                let begun = Instant::now();
                assert_eq!(session.ask(lines), expected);
                begun.elapsed()
            })
            .collect();
        percentile(&mut times, 50)
    };
    // An APDU that does nothing, alone in its request.
    let null = median(&["APDU SE1 00200080"]);
    // A flight of 5 kB: 21 APDUs of 240 bytes, in one request; the element refuses what it is no certificate for.
    let piece = format!("APDU SE1 00DB3FFFEB{}", "00".repeat(235));
    let flight: Vec<&str> = std::iter::repeat_n(piece.as_str(), 21).collect();
    let flight = median(&flight);
    println!("a null APDU {null:?}, a flight of 21 APDUs {flight:?}, the line {ROUND_TRIP:?}");
    let least = ROUND_TRIP;
    assert!(
        null >= least && flight >= least,
        "the line is as slow as it says"
    );
    // A debug build and busy processors need a little; a second round trip, Nagle or a poll would need far more.
    let slack = Duration::from_millis(if cfg!(debug_assertions) { 4 } else { 1 });
    assert!(null < ROUND_TRIP + slack, "{null:?}");
    assert!(
        flight < ROUND_TRIP * 2,
        "{flight:?}: more than one round trip"
    );
}
