//! Faults on purpose: what each does to a RACS session, and that nobody else notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gose_client::{
    Endpoint,
    admin::{self, Action, Answer, Refusal},
};
use gosed::config::Config;

use crate::{
    node_of_one::Place,
    world::{SELECT, Settings, World},
};

const TRIES: &str = "APDU SE1 00200080";

fn fault(seid: &str, faults: &[&str]) -> Action {
    Action::ElementFault {
        seid: seid.into(),
        faults: faults.iter().map(ToString::to_string).collect(),
    }
}

fn ask(world: &World, action: &Action) -> Answer {
    tokio::task::block_in_place(|| {
        let mut link = Endpoint::Unix(world.path("admin.sock")).link().unwrap();
        admin::ask(&mut link, action).unwrap()
    })
}

fn choose(world: &World, faults: &[&str]) {
    let answer = ask(world, &fault("SE1", faults));
    assert!(matches!(answer, Answer::Info(_)), "{answer:?}");
}

async fn world(more: &str) -> World {
    World::new(Settings {
        elements: 2,
        more: format!("[node]\ntest-grid = true\n{more}"),
        ..Settings::default()
    })
    .await
}

/// Bob uses SE2 all the while; every answer must be right and come at once. Gives how many there were, and the
/// slowest.
fn neighbour(
    world: &Arc<World>,
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<(u32, Duration)> {
    let (world, stop) = (world.clone(), stop.clone());
    tokio::spawn(async move {
        let mut bob = world.bob().await;
        let select = format!("APDU SE2 {SELECT} CONTINUE=9000");
        let (mut count, mut slowest) = (0, Duration::ZERO);
        // Some answers at least, however short the others' faults are.
        while !stop.load(Ordering::Relaxed) || count < 10 {
            let begun = Instant::now();
            bob.check(&[&select, "APDU SE2 00200080"], "+006 002 63C3")
                .await;
            slowest = slowest.max(begun.elapsed());
            count += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (count, slowest)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_has_its_code_and_the_neighbour_notices_nothing() {
    let world = Arc::new(world("").await);
    let stop = Arc::default();
    let neighbour = neighbour(&world, &stop);
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let mut alice = world.alice().await;
    for (plan, during, after) in [
        (
            "mute after=1",
            "-806 002 the element is mute",
            "+006 002 63C3",
        ),
        ("status=6F00 after=1", "+006 002 6F00", "+006 002 63C3"),
        (
            "reset after=1",
            "-806 002 line broke after the command was sent, outcome unknown",
            "+006 002 63C3",
        ),
        // Whatever is fetched, there is more.
        (
            "more after=1 times=1000000",
            "-806 002 answer too long",
            "-806 001 answer too long",
        ),
        // A length that is always wrong is tried once again, and then is the answer.
        ("length after=1 times=1000000", "+006 002 6C05", "-606 002…"),
        (
            "long=70000 after=1",
            "-806 002 answer too long",
            "+006 002 63C3",
        ),
    ] {
        choose(&world, &[plan]);
        let begun = Instant::now();
        let fetching = format!("{TRIES} MORE=61 FETCH=00C00000");
        let tries = if plan.starts_with("more") {
            &*fetching
        } else {
            TRIES
        };
        alice.check(&[&select, tries], during).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{plan}");
        let again = format!("APDU SE1 {SELECT} CONTINUE=9000 MORE=61 FETCH=00C00000");
        let first = if plan.starts_with("more") {
            &again
        } else {
            &select
        };
        let got = alice.ask(&[first, TRIES]).await;
        match plan.split(' ').next().unwrap() {
            // These go on for ever: the session is told, and ends when its user wants.
            "more" | "length" => assert!(!got.contains("63C3"), "{plan}: {got}"),
            _ => assert_eq!(got, after, "{plan}"),
        }
        choose(&world, &[]);
        alice.check(&[&select, TRIES], "+006 002 63C3").await;
    }
    stop.store(true, Ordering::Relaxed);
    let (count, slowest) = neighbour.await.unwrap();
    assert!(count >= 10, "{count}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_pulled_in_each_state() {
    let world = Arc::new(world("").await);
    let stop = Arc::default();
    let neighbour = neighbour(&world, &stop);
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    // Before SELECT, after it, after a PIN, in the middle of a chain of commands.
    let states: [&[&str]; 4] = [
        &[],
        &[&select],
        &[&select, "APDU SE1 0020008008313233343536FFFF CONTINUE=9000"],
        &[&select, "APDU SE1 1087119E047C248200 CONTINUE=9000"],
    ];
    let mut alice = world.alice().await;
    for state in states {
        choose(&world, &[&format!("pulled after={} times=3", state.len())]);
        let mut lines = state.to_vec();
        lines.push(if state.is_empty() { &select } else { TRIES });
        let absent = format!("-806 {:03} no element in the slot", lines.len());
        alice.check(&lines, &absent).await;
        // Two uses more, then it is back: without power until it gets some, with nothing of what it knew.
        alice.check(&["RESET SE1"], "-8…").await;
        alice.check(&["RESET SE1"], "-8…").await;
        alice.check(&["RESET SE1"], "+0…").await;
        alice.check(&[&select, TRIES], "+006 002 63C3").await;
    }
    stop.store(true, Ordering::Relaxed);
    let (count, slowest) = neighbour.await.unwrap();
    assert!(
        count >= 10 && slowest < Duration::from_secs(5),
        "{count} {slowest:?}"
    );
}

/// A bit that flips changes an answer or none; it never gives a PIN that was not given, nor takes a try that
/// was not used, but where the bit made it another command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_that_flip() {
    let world = world("").await;
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let mut seen = std::collections::BTreeSet::new();
    let mut alice = world.alice().await;
    for seed in 0..24 {
        let plan = format!("flip after=1 seed={seed}");
        let mut answers = Vec::new();
        for _ in 0..2 {
            alice.check(&["RESET SE1"], "+0…").await;
            choose(&world, &[&plan]);
            answers.push(alice.ask(&[&select, "APDU SE1 00CB3FFF035C017E00"]).await);
            choose(&world, &[]);
            alice.check(&[&select, TRIES], "+006 002 63C3").await;
        }
        assert_eq!(answers[0], answers[1], "the same in every run: {seed}");
        seen.insert(answers[0].clone());
    }
    assert!(seen.len() > 12, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_is_times_as_slow_as_the_timing() {
    let world = World::new(Settings {
        more: "[node]\ntest-grid = true\n[[slot]]\nseid = \"SE1\"\nkind = \"software\"\ntiming = \"j3r180\"\n\
               faults = [\"slow=200 after=2\"]\n"
            .into(),
        ..Settings::default()
    })
    .await;
    let mut alice = world.alice().await;
    let select = format!("APDU SE1 {SELECT}");
    alice.ask(&[&select, "APDU SE1 00200080 APPEND"]).await;
    let mut took = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        alice.check(&[TRIES], "+006 001 63C3").await;
        took.push(begun.elapsed());
    }
    // Six bytes of 85.2 µs, two hundred times, and once.
    assert!(took[0] >= Duration::from_micros(6 * 85 * 200), "{took:?}");
    assert!(took[1] < took[0] / 2, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chosen_by_administrators_alone() {
    let world = world("").await;
    for bad in [
        &["loud"][..],
        &["slow=5"],
        &["mute"; 17],
        &["mute", "status=12345"],
    ] {
        let answer = ask(&world, &fault("SE1", bad));
        assert!(
            matches!(
                answer,
                Answer::Refused {
                    reason: Refusal::Malformed,
                    ..
                }
            ),
            "{bad:?} {answer:?}"
        );
    }
    let answer = ask(&world, &fault("SE9", &["mute"]));
    assert!(matches!(
        answer,
        Answer::Refused {
            reason: Refusal::Unknown,
            ..
        }
    ));
    // A user may use the element and not break it.
    let config = world.client_config(Some(&world.users.user("alice")), &["gose-admin/1"]);
    let mut alice = world.connect_with(config).await.unwrap();
    let frame = admin::encode(&fault("SE1", &["mute"])).unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    alice.stream.write_all(&frame).await.unwrap();
    let length = alice.stream.read_u32().await.unwrap();
    let mut json = vec![0; length as usize];
    alice.stream.read_exact(&mut json).await.unwrap();
    let answer: Answer = serde_json::from_slice(&json).unwrap();
    assert!(
        matches!(
            answer,
            Answer::Refused {
                reason: Refusal::Unknown,
                ..
            }
        ),
        "{answer:?}"
    );
}

/// The daemon as a process, of the ordinary kind: nothing can be broken, and the log says who wanted to.
#[test]
fn a_node_that_is_no_test_grid_refuses_and_logs() {
    let place = Place::new();
    let key = place.with_key();
    place.configure(key, "");
    {
        let node = place.start_with(&[], "");
        assert_eq!(node.tries(&place), "63C3");
        let Answer::Refused { reason, text } = place.ask(&fault("SE1", &["mute"])) else {
            panic!("it was done");
        };
        assert_eq!(reason, Refusal::TestGrid);
        assert!(text.contains("test-grid = true"), "{text}");
        assert!(node.log().contains("management: refused"), "{}", node.log());
        assert!(node.log().contains("ElementFault"), "{}", node.log());
        assert_eq!(node.tries(&place), "63C3");
        let Answer::Info(info) = place.ask(&Action::ElementInfo { seid: "SE1".into() }) else {
            panic!("no information");
        };
        assert_eq!(info.faults, None);
    }
    place.configure(key, "faults = [\"mute\"]\n");
    let log = place.fails_to_start(&[], "");
    assert!(log.contains("faults need [node] test-grid = true"), "{log}");
    place.configure(
        &format!("[node]\ntest-grid = true\n{key}"),
        "faults = [\"mute after=1 times=2\"]\n",
    );
    let node = place.start_with(&[], "");
    assert!(node.log().contains("test-grid"), "a danger that is logged");
    assert!(place.run(&["00200080"]).is_err());
    let Answer::Info(info) = place.ask(&Action::ElementInfo { seid: "SE1".into() }) else {
        panic!("no information");
    };
    let faults = info.faults.unwrap();
    assert_eq!((faults.len(), faults[0].happened), (1, 1));
    assert!(Config::parse("version = 1\n[admin]\n[node]\ntest-grid = 1\n").is_err());
}
