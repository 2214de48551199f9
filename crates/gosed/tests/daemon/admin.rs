//! The admin socket, with and without anything else.

use std::os::unix::fs::PermissionsExt;

use gosed::{config::Config, node::Node};

use crate::world::{Client, SELECT, World, write_master_key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_certificates() {
    let dir = tempfile::tempdir().unwrap();
    write_master_key(&dir.path().join("master.key"));
    let path = dir.path().to_str().unwrap();
    let text = format!(
        "version = 1\n[admin]\nsocket = \"{path}/admin.sock\"\n\
         [store]\ndirectory = \"{path}\"\nmaster-key-file = \"{path}/master.key\"\n\
         [[slot]]\nseid = \"SE1\"\nkind = \"software\"\n"
    );
    let node = Node::new(Config::parse(&text).unwrap()).unwrap();
    let running = node.start().await.unwrap();
    assert_eq!(running.address(), None);
    let socket = dir.path().join("admin.sock");
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let mut operator = Client { stream };
    operator.check(&["LIST"], "+004 001 SE1").await;
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    operator
        .check(&[&select, "APDU SE1 00DB3FFF035C015A"], "+006 002 6A80")
        .await;
    // Another daemon does not take the socket over.
    let second = Node::new(Config::parse(&text).unwrap())
        .unwrap()
        .start()
        .await;
    assert!(second.err().unwrap().to_string().contains("cannot listen"));
    drop(operator);
    running.stop().await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_and_users_exclude_each_other() {
    let world = World::small().await;
    let (mut operator, mut alice) = (world.admin().await, world.alice().await);
    operator.check(&["POWERON SE1"], "+008 001…").await;
    alice.check(&["POWERON SE1"], "-708 001…").await;
    drop(operator);
    let mut operator = world.admin().await;
    alice.check(&["POWERON SE2"], "+008 001…").await;
    operator.check(&["SHUTDOWN SE2"], "+007 001…").await;
}
