//! Who gets to the first byte of RACS.

use gose_testkit::pki::{Authority, Leaf};

use crate::world::{Settings, World};

/// A client with this certificate gets this alert and nothing else; others are served.
async fn check(world: &World, leaf: Option<&Leaf>, alert: &str) {
    let mut other = world.bob().await;
    let error = match world.connect_with(world.client_config(leaf, &[])).await {
        Err(error) => error,
        Ok(mut client) => {
            let _ = tokio::io::AsyncWriteExt::write_all(
                &mut client.stream,
                b"BEGIN\r\nLIST\r\nEND\r\n",
            )
            .await;
            let (got, ended) = client.rest().await;
            assert_eq!(got, "");
            ended.unwrap_err()
        }
    };
    assert!(
        error.to_string().contains(alert),
        "{error}, expected {alert}"
    );
    other.check(&["ECHO still"], "+009 001 still").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused() {
    let world = World::small().await;
    let users = &world.users;
    check(&world, None, "CertificateRequired").await;
    check(&world, Some(&users.expired("alice")), "CertificateExpired").await;
    check(&world, Some(&users.not_yet("alice")), "CertificateExpired").await;
    check(
        &world,
        Some(&Authority::new("users").user("alice")),
        "DecryptError",
    )
    .await;
    check(
        &world,
        Some(&Authority::new("other").user("alice")),
        "UnknownCA",
    )
    .await;
    check(&world, Some(&users.nameless()), "AccessDenied").await;
    check(
        &world,
        Some(&users.two_names("alice", "bob")),
        "AccessDenied",
    )
    .await;
    check(&world, Some(&users.user(&"x".repeat(65))), "AccessDenied").await;
    check(&world, Some(&users.user("alice\nroot")), "AccessDenied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocols_by_alpn() {
    let world = World::small().await;
    let alice = world.users.user("alice");
    let mut client = world
        .connect_with(world.client_config(Some(&alice), &["racs/0.2"]))
        .await
        .unwrap();
    client.check(&["ECHO a"], "+009 001 a").await;
    let refused = world
        .connect_with(world.client_config(Some(&alice), &["h2"]))
        .await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_resumed() {
    let world = World::small().await;
    let config = std::sync::Arc::new(world.client_config(Some(&world.users.user("alice")), &[]));
    for _ in 0..2 {
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, world.tcp().await).await.unwrap();
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
        let mut client = crate::world::Client { stream };
        client.check(&["ECHO a"], "+009 001 a").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_behind_its_switch() {
    let old = |world: &World| {
        world.client_config_with(
            Some(&world.users.user("alice")),
            &[],
            &[&rustls::version::TLS12],
        )
    };
    let world = World::small().await;
    let error = world
        .connect_with(old(&world))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    let world = World::new(Settings {
        elements: 1,
        tls: "danger-tls12 = true".into(),
        ..Settings::default()
    })
    .await;
    let mut client = world.connect_with(old(&world)).await.unwrap();
    client.check(&["POWERON SE1"], "+008 001…").await;
    // The switch lets in a version, nobody else: the handshake ends before a byte of RACS can be read or written.
    let stranger = Authority::new("users").user("alice");
    let expired = world.users.expired("alice");
    for (leaf, alert) in [
        (None, "CertificateRequired"),
        (Some(&stranger), "DecryptError"),
        (Some(&expired), "CertificateExpired"),
    ] {
        let config = world.client_config_with(leaf, &[], &[&rustls::version::TLS12]);
        let error = world.connect_with(config).await.err().unwrap().to_string();
        assert!(error.contains(alert), "{error}, expected {alert}");
    }
    client.check(&["ECHO still"], "+009 001 still").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spiffe_identifiers() {
    let more = r#"
[[user]]
id = "spiffe://example.org/node/7"
seid = ["SE1"]
[[user]]
id = "spiffe://example.org/hv/hv-7/vm/00112233-4455-6677-8899-aabbccddeeff"
seid = ["SE1"]
"#;
    let world = World::new(Settings {
        elements: 2,
        more: more.into(),
        ..Settings::default()
    })
    .await;
    let list = async |authority: &Authority, uri: &str| {
        let mut client = world.connect(&authority.spiffe("any", uri)).await;
        client.ask(&["LIST"]).await
    };
    assert_eq!(
        list(&world.machines, "spiffe://example.org/node/7").await,
        "+004 001 SE1"
    );
    assert_eq!(
        list(&world.machines, "spiffe://example.com/node/7").await,
        "+004 001"
    );
    // Only an anchor itself gives names, and names of virtual machines come with a token alone.
    assert_eq!(
        list(
            &world.machines.subordinate("hv-ca"),
            "spiffe://example.org/node/7"
        )
        .await,
        "+004 001"
    );
    let vm = "spiffe://example.org/hv/hv-7/vm/00112233-4455-6677-8899-aabbccddeeff";
    assert_eq!(list(&world.machines, vm).await, "+004 001");
}
