//! Elements under many sessions at once; who may hold one, and what ends that, is in `transcripts/locks.txt`.

use std::time::{Duration, Instant};

use crate::world::{SELECT, Settings, World};

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
