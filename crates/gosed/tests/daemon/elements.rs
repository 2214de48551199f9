//! Elements that outlive the node, elements of remote grids, and the node's own key in one.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use gose_element::{
    Algorithm,
    drive::{
        piv::{Piv, Slot},
        provision::{Secrets, initialise},
    },
};
use gose_testkit::pki::Request;
use gosed::{
    grid::{Names, Peer, Plane},
    leased::Leased,
};
use rcgen::{SanType, SubjectPublicKeyInfo};

use crate::world::{SELECT, Settings, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pin_tries_survive_a_restart() {
    let settings = || Settings {
        elements: 2,
        ..Settings::default()
    };
    let world = World::new(settings()).await;
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let wrong = "APDU SE1 0020008008393939393939FFFF";
    let mut alice = world.alice().await;
    alice.check(&[&select, wrong, wrong], "+006 003 63C1").await;
    drop(alice);
    let world = world.restart(&settings()).await;
    let mode = std::fs::metadata(world.path("SE1.image"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !world.path("SE2.image").exists(),
        "elements are opened at their first use"
    );
    let mut alice = world.alice().await;
    alice.check(&[&select, wrong], "+006 002 63C0").await;
    alice
        .check(&["APDU SE1 0020008008313233343536FFFF"], "+006 001 6983")
        .await;
    // An image that was changed is an error of that element alone.
    drop(alice);
    let world = world.restart(&settings()).await;
    let mut image = std::fs::read(world.path("SE1.image")).unwrap();
    image[100] ^= 1;
    std::fs::write(world.path("SE1.image"), image).unwrap();
    let mut alice = world.alice().await;
    alice
        .check(&["POWERON SE1"], "-908 001 internal error")
        .await;
    alice.check(&["POWERON SE2"], "+008 001…").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_of_a_remote_grid() {
    let far = World::new(Settings {
        elements: 2,
        more: "[[user]]\ncn = \"hv-7\"\nseid = [\"SE1\"]\n".into(),
        ..Settings::default()
    })
    .await;
    let near = World::new(Settings::default()).await;
    // The near node calls the far one with a certificate of the far one's users.
    let _ = far.users.user("hv-7").write(near.dir.path(), "node");
    let _ = far.machines.write(near.dir.path(), "far");
    let address = far.node.address().unwrap();
    let anchors = near.path("far.pem");
    let near = near
        .restart(&Settings {
            tls: format!("node-anchor-files = [{anchors:?}]"),
            more: format!(
                "[[slot]]\nseid = \"R1\"\nkind = \"remote\"\nnode = \"{address}\"\nremote-seid = \"SE1\"\n\
                 [[slot]]\nseid = \"R2\"\nkind = \"remote\"\nnode = \"{address}\"\nremote-seid = \"SE2\"\n\
                 [[slot]]\nseid = \"R3\"\nkind = \"remote\"\nnode = \"127.0.0.1:1\"\n"
            ),
            ..Settings::default()
        })
        .await;
    let mut operator = near.admin().await;
    operator.check(&["POWERON R1"], "+008 001…").await;
    let select = format!("APDU R1 {SELECT} CONTINUE=9000");
    let got = operator.ask(&[&select, "APDU R1 00200080"]).await;
    assert_eq!(got, "+006 002 63C3");
    let mut alice = far.alice().await;
    alice.check(&["POWERON SE1"], "-708 001…").await;
    // What the far grid refuses, and a far grid that is not there.
    operator.check(&["POWERON R2"], "-608 001…").await;
    operator.check(&["POWERON R3"], "-808 001…").await;
    // The end of the near session is the end of the far one.
    operator.check(&["SHUTDOWN R1"], "+007 001…").await;
    let start = Instant::now();
    while !alice.ask(&["POWERON SE1"]).await.starts_with("+008") {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    operator.check(&["POWERON R1"], "-708 001…").await;
}

/// VERIFY of PIV with a PIN of six digits.
fn verify(seid: &str, pin: &str) -> String {
    let digits = gose_proto::hex::encode(pin.as_bytes());
    format!("APDU {seid} 0020008008{digits}FFFF")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_pin_until_it_is_blocked() {
    let world = World::small().await;
    let (mut alice, mut bob) = (world.alice().await, world.bob().await);
    let select = |seid: &str| format!("APDU {seid} {SELECT} CONTINUE=9000");
    alice.check(&[&select("SE1")], "+006 001 61…").await;
    bob.check(&[&select("SE2")], "+006 001 61…").await;
    for answer in ["63C2", "63C1", "63C0", "6983", "6983"] {
        let told = format!("+006 001 {answer}");
        alice.check(&[&verify("SE1", "999999")], &told).await;
        // The other element of the node counts for itself.
        bob.check(&["APDU SE2 00200080"], "+006 001 63C3").await;
    }
    // The right PIN comes too late, in this session and in the next one.
    let right = verify("SE1", "123456");
    alice.check(&[&right], "+006 001 6983").await;
    let stopped = "-006 002 wrong status 6983";
    let strict = format!("{right} CONTINUE=9000");
    let lines = [&*select("SE1"), &strict, "ECHO never"];
    alice
        .check(&["SHUTDOWN SE1"], "+007 001 SE1 powered off")
        .await;
    drop(alice);
    let mut alice = world.alice().await;
    alice.check(&lines, stopped).await;
    bob.check(&[&verify("SE2", "123456")], "+006 001 9000")
        .await;
}

/// The tries are the element's, whoever makes them and however many at once: three in total.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_connections_have_three_tries_together() {
    let world = World::small().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = world.alice().await;
        client.check(&["ECHO here"], "+009 001 here").await;
        clients.push(client);
    }
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let tried = clients.into_iter().enumerate().map(|(n, mut client)| {
        // No two try the same PIN.
        let try_one = format!("{} APPEND", verify("SE1", &format!("9{n:05}")));
        let select = select.clone();
        tokio::spawn(async move {
            loop {
                match client.ask(&[&select, &try_one, "SHUTDOWN SE1"]).await {
                    busy if busy.starts_with("-706 001") => tokio::task::yield_now().await,
                    told => return told,
                }
            }
        })
    });
    let tried: Vec<_> = tried.collect();
    let mut told = Vec::new();
    for one in tried {
        told.push(one.await.unwrap());
    }
    let count = |status: &str| {
        let line = format!("+006 002 {status}|+007 003 SE1 powered off");
        told.iter().filter(|told| **told == line).count()
    };
    let counted = ["63C2", "63C1", "63C0", "6983"].map(count);
    assert_eq!(counted, [1, 1, 1, 97], "{told:?}");
    let mut last = world.alice().await;
    let right = verify("SE1", "123456");
    last.check(&[&select, &right], "+006 002 6983").await;
}

/// Cuts all over an image: a clear error, or what was there before the last write; an element each, all in one
/// node. The card's own tests cut at every byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_cut_at_any_byte() {
    const ELEMENTS: usize = 40;
    const HEADER: u64 = gose_card::image::HEADER as u64;
    let settings = || Settings {
        elements: ELEMENTS,
        ..Settings::default()
    };
    let world = World::new(settings()).await;
    let mut alice = world.alice().await;
    let mut sizes = Vec::new();
    for number in 1..=ELEMENTS {
        let seid = format!("SE{number}");
        let select = format!("APDU {seid} {SELECT} CONTINUE=9000");
        alice.check(&[&select], "+006 001 61…").await;
        let image = world.path(&format!("{seid}.image"));
        let born = std::fs::metadata(&image).unwrap().len();
        alice
            .check(&[&verify(&seid, "999999")], "+006 001 63C2")
            .await;
        sizes.push((
            image.clone(),
            born,
            std::fs::metadata(&image).unwrap().len(),
        ));
    }
    drop(alice);
    let whole = &sizes[0];
    let (born, last) = (whole.1, whole.2);
    assert!(born < last, "a wrong PIN is written");
    let cuts: Vec<u64> = (0..ELEMENTS as u64)
        .map(|number| last - number * last / (ELEMENTS as u64 - 1))
        .collect();
    let world = world
        .restart_after(&settings(), |_| {
            for ((image, ..), cut) in sizes.iter().zip(&cuts) {
                let file = std::fs::OpenOptions::new().write(true).open(image);
                file.unwrap().set_len(*cut).unwrap();
            }
        })
        .await;
    let mut alice = world.alice().await;
    for (number, cut) in (1..).zip(&cuts) {
        let seid = format!("SE{number}");
        let select = format!("APDU {seid} {SELECT}");
        let expected = match *cut {
            // What a disk lost after the answer is not a power cut: here the last try is forgotten with it.
            cut if cut == last => "+006 002 63C2",
            cut if cut >= born => "+006 002 63C3",
            // Without its first record the element knows no PIN: nobody gets in.
            HEADER.. => "+006 002 6984",
            _ => "-906 001 internal error",
        };
        let tries = format!("APDU {seid} 00200080");
        alice.check(&[&select, &tries], expected).await;
        alice.check(&["ECHO still"], "+009 001 still").await;
    }
}

/// Makes a key in slot 9A of SE1 and returns its public half.
fn make_key(world: &World, secrets: &Secrets) -> Vec<u8> {
    let grid = world.node.grid();
    let peer = Peer::new(grid.new_sid(), Names::Operator);
    let lease = grid
        .open(&peer, "SE1".parse().unwrap(), Plane::Management)
        .unwrap();
    let mut element = Leased::new(lease);
    initialise(&mut element, secrets).unwrap();
    let mut piv = Piv::open(&mut element);
    piv.authenticate_management(&secrets.management_key)
        .unwrap();
    piv.generate(Slot::try_from(0x9A).unwrap(), Algorithm::P256)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_own_key_in_an_element() {
    let world = World::small().await;
    let secrets = Secrets::random().unwrap();
    let public_key = make_key(&world, &secrets);
    let mut request = Request::new(Some("localhost"));
    request.params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    let public_key = SubjectPublicKeyInfo::from_der(&public_key).unwrap();
    let chain = world.machines.certify(request, &public_key);
    let pem: String = chain
        .iter()
        .map(|der| gose_testkit::pki::pem("CERTIFICATE", der))
        .collect();
    std::fs::write(world.path("node.pem"), pem).unwrap();
    std::fs::remove_file(world.path("node.key")).unwrap();
    let pin = world.path("pin");
    std::fs::write(&pin, secrets.piv_pin.as_slice()).unwrap();
    std::fs::set_permissions(&pin, PermissionsExt::from_mode(0o600)).unwrap();
    let key = format!(
        "key = {{ seid = \"SE1\", slot = \"9A\", pin = \"file:{}\" }}",
        pin.display()
    );
    let world = world
        .restart(&Settings {
            elements: 2,
            tls: key,
            ..Settings::default()
        })
        .await;
    let mut alice = world.alice().await;
    alice.check(&["LIST"], "+004 001 SE1 SE2").await;
    // Handshakes wait for each other at the element, and for whoever else uses it.
    let (a, b, c) = tokio::join!(world.alice(), world.bob(), world.root());
    for mut client in [a, b, c] {
        client.check(&["ECHO a"], "+009 001 a").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_whose_image_is_gone_is_not_served_blank() {
    let settings = || Settings {
        elements: 2,
        ..Settings::default()
    };
    let world = World::new(settings()).await;
    let mut alice = world.alice().await;
    alice.check(&["POWERON SE1"], "+008 001…").await;
    drop(alice);
    let world = world.restart(&settings()).await;
    std::fs::remove_file(world.path("SE1.image")).unwrap();
    let mut alice = world.alice().await;
    alice
        .check(&["POWERON SE1"], "-908 001 internal error")
        .await;
    assert!(!world.path("SE1.image").exists());
    // the others are served, and those that were never there are born
    alice.check(&["POWERON SE2"], "+008 001…").await;
    // whoever deletes the record begins anew
    std::fs::remove_file(world.path("SE1.born")).unwrap();
    alice.check(&["POWERON SE1"], "+008 001…").await;
    assert!(world.path("SE1.image").exists() && world.path("SE1.born").exists());
}
