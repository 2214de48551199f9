//! What a reload reaches.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::process::{Daemon, Place};
use crate::world::{SELECT, Settings, World};

fn settings(tls: String, more: &str) -> Settings {
    Settings {
        elements: 2,
        tls,
        more: more.into(),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_cut_at_once() {
    let world = World::small().await;
    let (good, bad) = (world.users.user("bob"), world.users.user("alice"));
    let (mut bob, mut alice) = (world.connect(&good).await, world.connect(&bad).await);
    bob.check(&["ECHO a"], "+009 001 a").await;
    alice.check(&["POWERON SE1"], "+008 001…").await;
    let crl = world.users.write_crl(&[&bad], world.dir.path(), "crl");
    let start = Instant::now();
    world.reload(&settings(format!("crl-files = [{crl:?}]"), ""));
    alice.rest().await.1.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    bob.check(&["ECHO still"], "+009 001 still").await;
    world
        .root()
        .await
        .check(&["POWERON SE1"], "+008 001…")
        .await;
    let mut again = world.connect(&bad).await;
    let error = again.rest().await.1.unwrap_err();
    assert!(error.to_string().contains("CertificateRevoked"), "{error}");
}

/// Users move to another authority: both count for a while, then the new one alone. Who has a certificate of it is
/// served all the time, on one session; who has not is cut when the old one goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_rolled_over() {
    let mut world = World::small().await;
    let old = world.users.user("alice");
    let mut before = world.connect(&old).await;
    before.check(&["POWERON SE1"], "+008 001…").await;
    let successor = gose_testkit::pki::Authority::new("users of next year");
    // The file that the configuration names has both.
    let both = world.users.pem() + &successor.pem();
    std::fs::write(world.path("users.pem"), both).unwrap();
    world.reload(&settings(String::new(), ""));
    before.check(&["APDU SE1 00A40400"], "-606 001…").await;
    let mut moved = world.connect(&successor.user("bob")).await;
    moved.check(&["POWERON SE2"], "+008 001…").await;
    world.bob().await.check(&["LIST"], "+004 001 SE2").await;
    // Then the new one alone.
    let _ = successor.write(world.dir.path(), "users");
    let start = Instant::now();
    world.reload(&settings(String::new(), ""));
    before.rest().await.1.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    moved.check(&["POWERON SE2"], "+008 001 SE2 already…").await;
    let error = world.connect(&old).await.rest().await.1.unwrap_err();
    assert!(error.to_string().contains("UnknownCA"), "{error}");
    world.users = successor;
    world
        .alice()
        .await
        .check(&["POWERON SE1"], "+008 001…")
        .await;
}

/// A list of 10 MB: sessions go on while it is loaded, and whom it names is cut within a second of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_list_of_ten_megabytes() {
    let world = World::small().await;
    let (good, bad) = (world.users.user("bob"), world.users.user("alice"));
    let (mut bob, mut alice) = (world.connect(&good).await, world.connect(&bad).await);
    alice.check(&["POWERON SE1"], "+008 001…").await;
    let list = world.users.long_crl(&bad, 400_000);
    assert!(list.len() > 10 << 20, "{}", list.len());
    std::fs::write(world.path("crl.pem"), pem(&list)).unwrap();
    let path = world.path("crl.pem");
    let start = Instant::now();
    let world = std::sync::Arc::new(world);
    let reloading = world.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        reloading.reload(&settings(format!("crl-files = [{path:?}]"), ""));
        Instant::now()
    });
    let mut slowest = Duration::ZERO;
    while !loaded.is_finished() {
        let asked = Instant::now();
        bob.check(&["ECHO still"], "+009 001 still").await;
        slowest = slowest.max(asked.elapsed());
    }
    alice.rest().await.1.unwrap();
    let (loaded, cut) = (loaded.await.unwrap(), Instant::now());
    println!(
        "{} bytes loaded in {:?}, cut {:?} after, others at most {slowest:?}",
        list.len(),
        loaded - start,
        cut.saturating_duration_since(loaded)
    );
    assert!(cut.saturating_duration_since(loaded) < Duration::from_secs(1));
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    bob.check(&["ECHO still"], "+009 001 still").await;
    world.bob().await.check(&["LIST"], "+004 001 SE2").await;
    let error = world.connect(&bad).await.rest().await.1.unwrap_err();
    assert!(error.to_string().contains("CertificateRevoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_list_that_is_corrupt_or_old_lets_nobody_in() {
    let world = World::small().await;
    let path = world.path("crl.pem");
    std::fs::write(
        &path,
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    )
    .unwrap();
    let dir = world.dir.path().to_str().unwrap();
    let text = format!(
        "version = 1\n[listen]\n[tls]\ncertificate-file = \"{dir}/node.pem\"\nkey = {{ file = \"{dir}/node.key\" }}\n\
         user-anchor-files = [\"{dir}/users.pem\"]\ncrl-files = [{path:?}]\n"
    );
    let config = gosed::config::Config::parse(&text).unwrap();
    let error = world.node.reload(&config).unwrap_err().to_string();
    assert!(error.contains("revocation list"), "{error}");
    // Everything stays as it was.
    world
        .alice()
        .await
        .check(&["LIST"], "+004 001 SE1 SE2")
        .await;
    let old = world.users.crl_until(&[], 2021);
    std::fs::write(&path, pem(&old)).unwrap();
    world.reload(&settings(format!("crl-files = [{path:?}]"), ""));
    let error = world.alice().await.rest().await.1.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
}

/// `bob` is refused before the first byte of RACS; `alice` is served.
fn bob_alone_is_refused(place: &Place, daemon: &Daemon) {
    let as_user = |name: &str| {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        let options = ["-alpn", "racs/0.2", "-cert", &cert, "-key", &key];
        place.s_client_with(daemon, &options)
    };
    let mut bob = as_user("bob");
    // The alert may come before this is written.
    let _ = bob.input.write_all(b"BEGIN\nECHO a\nEND\n");
    let mut got = String::new();
    bob.output.read_to_string(&mut got).unwrap();
    assert_eq!(got, "");
    let mut alice = as_user("alice");
    assert!(alice.say("BEGIN\nECHO a\nEND\n").contains("+009 001 a"));
}

/// A list that is in force stays so while the one that should replace it cannot be used, and the log says so.
#[test]
fn a_corrupt_revocation_list_keeps_the_old_one_and_alarms() {
    let place = Place::new("crl-files = [\"crl.pem\"]\n");
    let path = place.dir.path();
    let bob = place.users.user("bob");
    let _ = bob.write(path, "bob");
    let file = place.users.write_crl(&[&bob], path, "crl");
    let daemon = place.start();
    bob_alone_is_refused(&place, &daemon);
    let mut open = place.s_client_with(&daemon, &["-alpn", "racs/0.2"]);
    assert!(open.say("BEGIN\nECHO a\nEND\n").contains("+009 001 a"));
    // Each of these would let bob in, if it counted.
    let list = place.users.crl(&[]);
    let mut forged = list.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let foreign = gose_testkit::pki::Authority::new("users").crl(&[]);
    for (what, text) in [
        ("nothing", String::new()),
        ("no list", pem(&[0; 3])),
        ("half a list", pem(&list[..list.len() / 2])),
        ("half a text", pem(&list)[..200].to_owned()),
        (
            "another label",
            gose_testkit::pki::pem("CERTIFICATE", &list),
        ),
        ("a signature that was changed", pem(&forged)),
        ("another authority of this name", pem(&foreign)),
    ] {
        std::fs::write(&file, text).unwrap();
        daemon.signal("-HUP");
        let line = daemon.wait_for("configuration");
        assert!(
            line.contains("ERROR")
                && line.contains("the configuration was not reloaded; everything stays as it was")
                && (line.contains("revocation list") || line.contains("crl.pem")),
            "{what}: {line}"
        );
        bob_alone_is_refused(&place, &daemon);
        assert!(open.say("BEGIN\nECHO b\nEND\n").contains("+009 001 b"));
    }
    // What is good counts again.
    std::fs::write(&file, pem(&list)).unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("configuration reloaded");
    let options = ["-alpn", "racs/0.2", "-cert", "bob.pem", "-key", "bob.key"];
    let mut bob = place.s_client_with(&daemon, &options);
    assert!(bob.say("BEGIN\nECHO a\nEND\n").contains("+009 001 a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_of_sessions_that_begin_afterwards() {
    let world = World::small().await;
    let mut before = world.alice().await;
    before.check(&["ECHO a"], "+009 001 a").await;
    world.reload(&Settings {
        elements: 2,
        limits: "idle-timeout-s = 1".into(),
        ..Settings::default()
    });
    let mut after = world.alice().await;
    after.check(&["ECHO b"], "+009 001 b").await;
    let start = Instant::now();
    after.rest().await.1.unwrap();
    let passed = start.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(10)).contains(&passed),
        "{passed:?}"
    );
    before.check(&["ECHO still"], "+009 001 still").await;
}

fn pem(der: &[u8]) -> String {
    gose_testkit::pki::pem("X509 CRL", der)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_and_users_come_and_go() {
    let world = World::small().await;
    let (mut alice, mut bob) = (world.alice().await, world.bob().await);
    let select = format!("APDU SE2 {SELECT} CONTINUE=9000");
    bob.check(&[&select], "+006 001 61…").await;
    let more =
        "[[slot]]\nseid = \"SE3\"\nkind = \"software\"\n[[user]]\ncn = \"bob\"\nseid = [\"SE3\"]\n";
    world.reload(&settings(String::new(), more));
    // What is selected stays so, and the lock.
    bob.check(&["APDU SE2 00200080"], "+006 001 63C3").await;
    alice.check(&["POWERON SE2"], "-708 001…").await;
    bob.check(&["LIST"], "+004 001 SE2 SE3").await;
    world.reload(&Settings {
        elements: 1,
        more: String::new(),
        ..Settings::default()
    });
    alice.check(&["LIST"], "+004 001 SE1").await;
    bob.check(&["POWERON SE3"], "-608 001…").await;
}
