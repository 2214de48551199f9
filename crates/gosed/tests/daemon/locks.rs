//! One owner at a time, and the end of a session of any kind.

use std::time::{Duration, Instant};

use crate::world::{SELECT, Settings, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_table() {
    let world = World::small().await;
    let (mut alice, mut bob) = (world.alice().await, world.bob().await);
    alice.check(&["POWERON SE2"], "+008 001…").await;
    alice.check(&["POWERON SE2"], "+008 001…").await;
    bob.check(&["POWERON SE2"], "-708 001…").await;
    bob.check(&["RESET SE2"], "-705 001…").await;
    bob.check(&["APDU SE2 00A40400"], "-706 001…").await;
    bob.check(&["SHUTDOWN SE2"], "-707 001…").await;
    alice.check(&["SHUTDOWN SE2"], "+007 001…").await;
    bob.check(&["SHUTDOWN SE2"], "+007 001…").await;
    // APDU and RESET lock and power up.
    let select = format!("APDU SE2 {SELECT}");
    bob.check(&[&select], "+006 001 61…").await;
    alice.check(&["POWERON SE2"], "-708 001…").await;
    bob.check(&["RESET SE2 WARM"], "+005 001…").await;
    bob.check(&["SHUTDOWN SE2", "RESET SE2"], "+005 002…").await;
    alice.check(&["POWERON SE2"], "-708 001…").await;
}

/// `SE1` can be had by the next session's first request.
async fn is_freed(world: &World) {
    let mut root = world.root().await;
    root.check(&["POWERON SE1"], "+008 001…").await;
    root.check(&["SHUTDOWN SE1"], "+007 001…").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_of_a_session_unlocks() {
    let world = World::small().await;
    let mut client = world.alice().await;
    client.check(&["POWERON SE1"], "+008 001…").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream)
        .await
        .unwrap();
    is_freed(&world).await;

    // A reset of the TCP connection, in the middle of a request.
    let mut client = world.alice().await;
    client.check(&["POWERON SE1"], "+008 001…").await;
    client.send("BEGIN\r\nAPDU SE1 00A4").await;
    client.stream.get_ref().0.set_zero_linger().unwrap();
    drop(client);
    is_freed(&world).await;

    // The end of TCP without TLS's.
    let mut client = world.alice().await;
    client.check(&["POWERON SE1"], "+008 001…").await;
    let (tcp, _) = client.stream.into_inner();
    drop(tcp);
    is_freed(&world).await;

    // A fatal error.
    let mut client = world.alice().await;
    client.check(&["POWERON SE1"], "+008 001…").await;
    client.send("END\r\n").await;
    client.rest().await.1.unwrap();
    is_freed(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_while_its_element_is_busy() {
    let world = World::new(Settings {
        elements: 2,
        more: "[[slot]]\nseid = \"SLOW\"\nkind = \"software\"\ntiming = \"paper-2014\"\n".into(),
        ..Settings::default()
    })
    .await;
    let mut other = world.bob().await;
    for reset in [false, true] {
        let mut client = world.alice().await;
        // Half a second of work, and an answer that nobody takes.
        let select = format!("APDU SLOW {SELECT} CONTINUE=9000 APPEND\r\n").repeat(40);
        client.send(&format!("BEGIN\r\n{select}END\r\n")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.check(&["POWERON SE2"], "+008 001…").await;
        if reset {
            client.stream.get_ref().0.set_zero_linger().unwrap();
        }
        drop(client);
        // What still runs for a client that has closed is waited for.
        let mut root = world.root().await;
        root.check(&["POWERON SLOW"], "+008 001…").await;
        other.check(&["POWERON SE2"], "+008 001…").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_down_forgets_what_was_selected_and_verified() {
    let world = World::small().await;
    let mut alice = world.alice().await;
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let verify = "APDU SE1 0020008008313233343536FFFF CONTINUE=9000";
    let verified = "APDU SE1 00200080";
    alice
        .check(&[&select, verify, verified], "+006 003 9000")
        .await;
    alice
        .check(&["SHUTDOWN SE1", &select, verified], "+006 003 63C3")
        .await;
    alice
        .check(&[verify, "RESET SE1", &select, verified], "+006 004 63C3")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_takes_an_element() {
    let world = World::small().await;
    let (mut alice, mut root) = (world.alice().await, world.root().await);
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    alice.check(&[&select], "+006 001 61…").await;
    root.check(&["SHUTDOWN SE1"], "+007 001…").await;
    root.check(&["POWERON SE1"], "+008 001…").await;
    alice.check(&["APDU SE1 00200080"], "-706 001…").await;
    root.check(&["SHUTDOWN SE1"], "+007 001…").await;
    // The element lost its power: the former holder selects again.
    alice.check(&["APDU SE1 00200080"], "-606 001…").await;
    alice
        .check(&[&select, "APDU SE1 00200080"], "+006 002 63C3")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_sessions_on_twelve_elements() {
    // Each element takes 0.17 ms a byte of its APDUs: in a row these requests cannot take less than the sum of
    // what they are charged.
    let slow = (1..=12)
        .map(|n| {
            format!("[[slot]]\nseid = \"T{n}\"\nkind = \"software\"\ntiming = \"paper-2014\"\n")
        })
        .collect();
    let world = World::new(Settings {
        more: slow,
        ..Settings::default()
    })
    .await;
    let request = |n: usize| {
        let apdu = format!("APDU T{n} {SELECT} CONTINUE=9000\r\n");
        format!("BEGIN\r\n{}END\r\n", apdu.repeat(20))
    };
    let mut first = world.alice().await;
    let start = Instant::now();
    first.send(&request(1)).await;
    let response = first.response().await;
    assert!(response.contains("+006 020 61"), "{response}");
    let alone = start.elapsed();
    assert!(
        alone > Duration::from_millis(50),
        "{alone:?}: a card that waits"
    );
    let mut clients = Vec::new();
    for _ in 1..=12 {
        clients.push(world.alice().await);
    }
    first.check(&["SHUTDOWN T1"], "+007 001…").await;
    let start = Instant::now();
    for (n, client) in (1..).zip(&mut clients) {
        client.send(&request(n)).await;
    }
    for client in &mut clients {
        assert!(client.response().await.contains("+006 020 61"));
    }
    let together = start.elapsed();
    let answer = response
        .split(' ')
        .nth(2)
        .unwrap()
        .split('\r')
        .next()
        .unwrap();
    let bytes = (SELECT.len() + answer.len()) / 2;
    let in_a_row = Duration::from_micros(170) * u32::try_from(12 * 20 * bytes).unwrap();
    assert!(
        together < in_a_row,
        "{together:?} together, {in_a_row:?} in a row at least, {alone:?} alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_many_clients_do_not_interleave() {
    let world = World::new(Settings {
        elements: 4,
        ..Settings::default()
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..8usize {
        let mut alice = world.alice().await;
        clients.push(tokio::spawn(async move {
            let mut done = 0;
            for round in 0..40 {
                let seid = format!("SE{}", (number * 7 + round * 3) % 4 + 1);
                let lines = [
                    format!("APDU {seid} {SELECT} CONTINUE=9000"),
                    format!("APDU {seid} 0020008008313233343536FFFF CONTINUE=9000"),
                    format!("APDU {seid} 00200080 CONTINUE=9000"),
                    format!("SHUTDOWN {seid}"),
                ];
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                // All of it, or nothing of it.
                match alice.ask(&lines).await.as_str() {
                    "-706 001 in use by another session" => tokio::task::yield_now().await,
                    answer if answer.starts_with("+007 004") => done += 1,
                    other => panic!("{other}"),
                }
            }
            done
        }));
    }
    let mut done = 0;
    for client in clients {
        done += client.await.unwrap();
    }
    assert!(done > 40, "{done} requests of 320");
}
