//! Sessions that end at their NAS (RFC 5176): asked again when nothing is answered, logged whatever comes.

use std::{
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    sync::atomic::Ordering,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gose_element::Algorithm;
use gose_proto::radius::{Builder, Code, Packet, Type};
use gose_testkit::pki::Authority;
use gosed::{config, radius::Server};

use crate::world::{Peer, World, secret, server};

/// A NAS that loses the first request and answers the next with this code.
fn nas(answer: Code) -> (u16, JoinHandle<Vec<Vec<u8>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let port = socket.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let mut requests: Vec<Vec<u8>> = Vec::new();
        for _ in 0..2 {
            let mut bytes = vec![0; 4096];
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            bytes.truncate(length);
            requests.push(bytes.clone());
            if requests.len() == 2 {
                let packet = Packet::parse(&bytes).unwrap();
                let answer = Builder::new(answer, packet.identifier)
                    .integer(Type::ERROR_CAUSE, 503)
                    .answer(&packet.request_authenticator(), &secret())
                    .unwrap();
                socket.send_to(&answer, from).unwrap();
            }
        }
        requests
    });
    (port, thread)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn check(answer: Code) {
    let (port, nas) = nas(answer);
    let authority = Authority::new("root");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, b"testing123").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let section = format!(
        "listen = [\"127.0.0.1:0\"]\n[[client]]\nname = \"nas\"\nnetwork = \"127.0.0.1\"\n\
         secret = \"file:{}\"\ndisconnect-port = {port}\n",
        file.display()
    );
    let section: config::Radius = toml::from_str(&section).unwrap();
    let element = server(&authority, Algorithm::P256, |_, _| {});
    let world = World::new(vec![("srv", element)]).await;
    let radius = Server::start(&section, None, &world.grid, world.pool.clone()).unwrap();
    let address = radius.addresses()[0];

    let peer = Peer::new(&authority, Algorithm::P256, |_, _| {});
    let (peer, report) = World::authenticate(address, peer).await;
    let report = report.unwrap();
    assert!(report.accepted);
    let class = report
        .attributes
        .iter()
        .find(|(kind, _)| *kind == Type::CLASS);
    assert!(class.unwrap().1.starts_with(b"gose"));
    assert_eq!(radius.front().sessions().len(), 1);

    let disconnector = radius.disconnector();
    assert_eq!(disconnector.revoke("somebody else").unwrap(), 0);
    assert_eq!(disconnector.revoke("peer").unwrap(), 1);
    assert_eq!(disconnector.revoke("peer").unwrap(), 0, "asked once");
    let counters = disconnector.counters();
    let counter = match answer {
        Code::DisconnectAck => &counters.acknowledged,
        _ => &counters.refused,
    };
    until("the answer", || counter.load(Ordering::Relaxed) == 1).await;

    let requests = tokio::task::spawn_blocking(|| nas.join().unwrap())
        .await
        .unwrap();
    assert_eq!(
        requests[0], requests[1],
        "a retransmission is the same packet"
    );
    let packet = Packet::parse(&requests[0]).unwrap();
    assert_eq!(packet.code, Code::DisconnectRequest);
    assert!(packet.request_digest_is_right(&secret()));
    assert_eq!(packet.verify_request(&secret()), Some(true));
    let value = |kind| packet.first(kind).map(|attribute| attribute.value);
    assert_eq!(value(Type::USER_NAME), Some(&b"@gose.test"[..]));
    assert_eq!(
        value(Type::CALLING_STATION_ID),
        Some(&b"02-00-00-00-00-01"[..])
    );
    assert_eq!(value(Type::NAS_IDENTIFIER), Some(&b"gose"[..]));

    let (_, report) = World::authenticate(address, peer).await;
    assert!(!report.unwrap().accepted, "a revoked name is not let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_at_its_nas() {
    check(Code::DisconnectAck).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nas_that_refuses() {
    check(Code::DisconnectNak).await;
}
