//! Load for a while: the rate stays, the memory stays, nothing fails, nothing is left open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    alone, long,
    node::{Node, SELECT},
};

/// Sessions at a time.
const SESSIONS: usize = 4;

/// Requests on a session before it ends and another one begins.
const EACH: u64 = 500;

/// So much of what the node can do is asked for.
const SHARE: f64 = 0.7;

/// Half an hour, or `GOSE_SOAK_S`; a moment in the short form.
fn length() -> Duration {
    let seconds = match std::env::var("GOSE_SOAK_S") {
        Ok(text) => text.parse().unwrap(),
        Err(_) if long() => 1800,
        Err(_) => 6,
    };
    Duration::from_secs(seconds)
}

/// Requests a second: as many as there are, or at this rate.
fn load(node: &Arc<Node>, length: Duration, rate: Option<f64>, done: &Arc<AtomicU64>) -> f64 {
    let begun = Instant::now();
    let at_first = done.load(Ordering::Relaxed);
    let workers: Vec<_> = (1..=SESSIONS)
        .map(|number| {
            let (node, done) = (node.clone(), done.clone());
            std::thread::spawn(move || {
                let select = format!("APDU SE{number} {SELECT} CONTINUE=9000");
                let tries = format!("APDU SE{number} 00200080");
                let mut count = 0_u64;
                while begun.elapsed() < length {
                    let mut session = node.session();
                    for _ in 0..EACH {
                        assert_eq!(session.ask(&[&select, &tries]), "+006 002 63C3");
                        done.fetch_add(1, Ordering::Relaxed);
                        count += 1;
                        if let Some(rate) = rate {
                            let due = count as f64 * SESSIONS as f64 / rate;
                            std::thread::sleep(
                                Duration::from_secs_f64(due).saturating_sub(begun.elapsed()),
                            );
                        }
                        if begun.elapsed() >= length {
                            break;
                        }
                    }
                    let shut = format!("SHUTDOWN SE{number}");
                    assert!(session.ask(&[&shut]).starts_with("+007"));
                }
            })
        })
        .collect();
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    (done.load(Ordering::Relaxed) - at_first) as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn seventy_percent_of_what_it_can() {
    let _alone = alone();
    let length = length();
    let node = Arc::new(Node::start(SESSIONS, ""));
    let done = Arc::new(AtomicU64::new(0));
    let capacity = load(&node, length / 6, None, &done);
    // Every element was used: its image is open from now on.
    let mut settled = Vec::new();
    while settled.len() < 10
        || settled[settled.len() - 10..]
            .windows(2)
            .any(|two| two[0] != two[1])
    {
        settled.push(node.descriptors());
        std::thread::sleep(Duration::from_millis(50));
        assert!(settled.len() < 200, "{settled:?}");
    }
    let before = settled[settled.len() - 1];
    let asked = capacity * SHARE;
    let warm = load(&node, length / 6, Some(asked), &done);
    let (memory, beginning) = (node.memory("VmRSS"), warm);
    load(&node, length / 2, Some(asked), &done);
    let end = load(&node, length / 6, Some(asked), &done);
    let grown = node.memory("VmRSS");
    let drift = (end - beginning) / beginning * 100.0;
    let growth = (grown as f64 - memory as f64) / memory as f64 * 100.0;
    println!(
        "{} requests in {length:?}, no error; capacity {capacity:.0} a second, asked {asked:.0}; \
         first {beginning:.0}, last {end:.0}: drift {drift:.2} %; memory {} to {} KiB: {growth:.2} %",
        done.load(Ordering::Relaxed),
        memory / 1024,
        grown / 1024,
    );
    node.back_to(before, Duration::from_secs(5));
    let drift_allowed = if long() { 3.0 } else { 25.0 };
    let growth_allowed = if long() { 2.0 } else { 10.0 };
    assert!(
        drift.abs() < drift_allowed,
        "the rate drifts by {drift:.2} %"
    );
    assert!(growth < growth_allowed, "memory grows by {growth:.2} %");
    assert!(!node.log().contains("ERROR") && !node.log().contains("panicked"));
}
