//! The element contract through nodes: an element of a node, and one of a remote grid behind it.

use gose_client::{Endpoint, RemoteElement};
use gose_element::Algorithm;
use gose_testkit::contract::{self, Keys, Removal, Second, Terms};

use crate::world::{Settings, World};

/// Runs the contract over the admin socket of a node.
async fn keeps_the_contract(world: &World, seid: &'static str, name: &'static str) {
    let endpoint = Endpoint::Unix(world.path("admin.sock"));
    let run = move || {
        let other = || RemoteElement::at(endpoint.clone(), seid.parse().unwrap());
        let mut element = other();
        let terms = Terms {
            name,
            keys: Keys::Made(&[
                Algorithm::P256,
                Algorithm::P384,
                Algorithm::Rsa2048,
                Algorithm::Rsa3072,
            ]),
            operations: contract::operations(std::env::var_os("GOSE_TEST_LONG").is_some()),
            removal: Removal::None("its memory is the node's"),
            second: Second::Session(&mut || Box::new(other())),
        };
        contract::run(&mut element, terms)
    };
    println!("{}", tokio::task::spawn_blocking(run).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_of_a_node() {
    let world = World::small().await;
    keeps_the_contract(&world, "SE1", "software, RACS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_of_a_remote_grid() {
    let far = World::new(Settings {
        elements: 1,
        more: "[[user]]\ncn = \"hv-7\"\nseid = [\"SE1\"]\nrole = \"admin\"\n".into(),
        ..Settings::default()
    })
    .await;
    let near = World::new(Settings::default()).await;
    let _ = far.users.user("hv-7").write(near.dir.path(), "node");
    let _ = far.machines.write(near.dir.path(), "far");
    let address = far.node.address().unwrap();
    let anchors = near.path("far.pem");
    let near = near
        .restart(&Settings {
            tls: format!("node-anchor-files = [{anchors:?}]"),
            more: format!(
                "[[slot]]\nseid = \"R1\"\nkind = \"remote\"\nnode = \"{address}\"\nremote-seid = \"SE1\"\n"
            ),
            ..Settings::default()
        })
        .await;
    keeps_the_contract(&near, "R1", "remote grid").await;
}
