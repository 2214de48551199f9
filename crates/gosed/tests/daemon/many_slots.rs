//! A node with many slow elements.

use std::time::{Duration, Instant};

use crate::world::{Settings, World};

/// Elements are opened at their first use: 120 slow cards do not hold the start up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_and_twenty_slow_cards() {
    let mut more = String::new();
    for number in 0..120 {
        more += &format!(
            "[[slot]]\nseid = \"slow{number}\"\nkind = \"software\"\ntiming = \"paper-2014\"\n"
        );
    }
    for number in 0..8 {
        more += &format!(
            "[[slot]]\nseid = \"reader{number}\"\nkind = \"pcsc\"\nreader = \"^no such reader {number}$\"\n"
        );
    }
    let start = Instant::now();
    let settings = Settings {
        elements: 1,
        more,
        ..Settings::default()
    };
    let world = World::new(settings).await;
    let mut alice = world.alice().await;
    let list = alice.ask(&["LIST"]).await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(list.matches("slow").count(), 120);
    // A reader that is not there is a hardware error, and nobody else's.
    assert!(
        alice
            .ask(&["POWERON reader0"])
            .await
            .starts_with("-808 001")
    );
    alice.check(&["POWERON slow7"], "+008 001…").await;
}
