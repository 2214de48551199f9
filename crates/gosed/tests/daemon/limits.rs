//! Silence, slowness, too many.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::world::{PATIENCE, Settings, World};

async fn world(limits: &str) -> World {
    World::new(Settings {
        elements: 2,
        limits: limits.into(),
        ..Settings::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_then_silence() {
    let world = world("request-timeout-s = 1").await;
    let mut silent = world.alice().await;
    silent.check(&["POWERON SE1"], "+008 001…").await;
    let start = Instant::now();
    silent.send("BEGIN\r\nECHO a APPEND\r\nAPDU SE").await;
    let mut other = world.bob().await;
    other.check(&["ECHO served"], "+009 001 served").await;
    let (got, ended) = silent.rest().await;
    assert_eq!((got.as_str(), ended.is_ok()), ("", true));
    assert!(start.elapsed().as_secs() >= 1);
    let mut root = world.root().await;
    root.check(&["POWERON SE1"], "+008 001…").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_do_not_get_more_time() {
    let world = world("request-timeout-s = 1").await;
    let mut slow = world.alice().await;
    let start = Instant::now();
    let sent = async {
        for byte in "BEGIN\r\nECHO abcdefghijklmnopqrstuvwxyz\r\nEND\r\n".bytes() {
            if slow.stream.write_all(&[byte]).await.is_err() || slow.stream.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("a request of four seconds was waited for");
    };
    let closed = async {
        let mut other = world.bob().await;
        while start.elapsed() < Duration::from_millis(1500) {
            other.check(&["ECHO served"], "+009 001 served").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(timeout(PATIENCE, sent), closed).0.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_close() {
    let world = world("idle-timeout-s = 1").await;
    let mut idle = world.alice().await;
    // Silence begins when the node has the request, which is before its response is here.
    let start = Instant::now();
    idle.check(&["POWERON SE1"], "+008 001…").await;
    idle.rest().await.1.unwrap();
    assert!(start.elapsed().as_secs() >= 1);
    world
        .root()
        .await
        .check(&["POWERON SE1"], "+008 001…")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_end() {
    let world = world("handshake-timeout-s = 1").await;
    let start = Instant::now();
    let mut silent = world.tcp().await;
    let mut half = world.tcp().await;
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
        .await
        .unwrap();
    let mut noise = world.tcp().await;
    noise.write_all(b"BEGIN\r\nLIST\r\nEND\r\n").await.unwrap();
    for stream in [&mut noise, &mut silent, &mut half] {
        let mut got = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut got))
            .await
            .unwrap();
        assert!(!got.starts_with(b"BEGIN"));
    }
    let elapsed = start.elapsed();
    assert!(elapsed.as_secs() >= 1, "{elapsed:?}");
    world.bob().await.check(&["ECHO a"], "+009 001 a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads() {
    let world = world("write-timeout-s = 1").await;
    let mut deaf = world.alice().await;
    deaf.check(&["POWERON SE1"], "+008 001…").await;
    let echo = format!(
        "BEGIN\r\n{}END\r\n",
        format!("ECHO {} APPEND\r\n", "x".repeat(900)).repeat(900)
    );
    let start = Instant::now();
    let sent = async {
        loop {
            if deaf.stream.write_all(echo.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let served = async {
        let mut other = world.bob().await;
        while start.elapsed() < Duration::from_secs(1) {
            other.check(&["ECHO served"], "+009 001 served").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(timeout(PATIENCE, sent), served).0.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    world
        .root()
        .await
        .check(&["POWERON SE1"], "+008 001…")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_bound_wait() {
    let world = world("connections = 2").await;
    let (first, mut second) = (world.alice().await, world.bob().await);
    second.check(&["ECHO a"], "+009 001 a").await;
    let third = world.alice();
    tokio::pin!(third);
    assert!(
        timeout(Duration::from_millis(300), &mut third)
            .await
            .is_err()
    );
    drop(first);
    timeout(PATIENCE, third)
        .await
        .unwrap()
        .check(&["ECHO a"], "+009 001 a")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_over_a_mebibyte() {
    let world = world("").await;
    let mut alice = world.alice().await;
    let line = format!("ECHO {} APPEND", "x".repeat(2000));
    let got = alice.ask(&vec![line.as_str(); 900]).await;
    let last = got.rsplit('|').next().unwrap();
    assert!(last.starts_with("-906 "), "{last}");
    alice.check(&["ECHO a"], "+009 001 a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_lets_a_request_end() {
    let World {
        node,
        users,
        machines,
        dir,
    } = world("").await;
    let world = World {
        node,
        users,
        machines,
        dir,
    };
    let (mut busy, mut idle) = (world.alice().await, world.bob().await);
    idle.check(&["ECHO a"], "+009 001 a").await;
    busy.send("BEGIN\r\nECHO a\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopping = tokio::spawn(world.node.stop());
    idle.rest().await.1.unwrap();
    busy.send("END\r\n").await;
    assert_eq!(busy.response().await, "BEGIN\r\n+009 001 a\r\nEND\r\n");
    busy.rest().await.1.unwrap();
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert!(!world.dir.path().join("admin.sock").exists());
}
