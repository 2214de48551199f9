//! The storage application through a node: who may do what, what survives, and what is gone for good.

use gose_element::{
    SecretAlgorithm, SecureElement,
    drive::{
        provision::{Secrets, initialise},
        storage::{Access, NewKey, NewObject, Storage},
    },
};
use gosed::{
    grid::{Names, Peer, Plane},
    leased::Leased,
};

use crate::world::{Settings, World};

const SELECT: &str = "APDU SE1 00A4040009F0474F534553544F01 CONTINUE=9000";

fn settings() -> Settings {
    Settings {
        elements: 2,
        more: "[[aid]]\naid = \"F0474F534553544F01\"\nallow = [\"alice\"]\n".into(),
        ..Settings::default()
    }
}

/// The element as the node's operator has it.
fn operated(world: &World) -> Leased {
    let grid = world.node.grid();
    let peer = Peer::new(grid.new_sid(), Names::Operator);
    let lease = grid
        .open(&peer, "SE1".parse().unwrap(), Plane::Management)
        .unwrap();
    Leased::new(lease)
}

/// An element with an HMAC key 01.
fn prepare(world: &World) -> Secrets {
    let secrets = Secrets::random().unwrap();
    let mut element = operated(world);
    initialise(&mut element, &secrets).unwrap();
    let mut storage = Storage::open(&mut element);
    storage
        .authenticate_management(&secrets.management_key)
        .unwrap();
    let key = NewKey {
        reference: 1.try_into().unwrap(),
        algorithm: SecretAlgorithm::HmacSha256,
        wrappable: false,
        label: "",
    };
    let bytes: Vec<u8> = (0..32).collect();
    storage.import(&key, &bytes).unwrap();
    element.power_off();
    secrets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_use_keys_and_administrators_make_them() {
    let world = World::new(settings()).await;
    let secrets = prepare(&world);
    let pin = gose_proto::hex::encode(secrets.piv_pin.as_slice());
    let verify = format!("APDU SE1 0020008008{pin} CONTINUE=9000");
    let set = "APDU SE1 0022C1B403830101 CONTINUE=9000";
    // HMAC-SHA-256 of "message" under 00 01 … 1F, as OpenSSL has it.
    let mac = "APDU SE1 002A8E80076D65737361676500";
    let made = "6297B77508A1A30EA4DFADD8F847C31B49ABA45DE10A79DAF721D3F7EC112A249000";

    let mut alice = world.alice().await;
    alice
        .check(&[SELECT, &verify, set, mac], &format!("+006 004 {made}"))
        .await;
    for forbidden in [
        "0047000205AC03800102",
        "00DB3FFF0AB808830102800102810100",
        "00E40001",
        "00870C9B047C02810000",
        "10DB3FFF01B8",
    ] {
        let line = format!("APDU SE1 {forbidden}");
        alice.check(&[&line], "-606 001…").await;
    }
    alice
        .check(
            &[
                "APDU SE1 00E000000E6204830201055306414243444546",
                "APDU SE1 00CA010500",
            ],
            "+006 002 4142434445469000",
        )
        .await;
    drop(alice);

    // An application that policy does not name for bob cannot even be selected.
    let mut bob = world.bob().await;
    bob.check(&["APDU SE2 00A4040009F0474F534553544F01"], "-606 001…")
        .await;
    // An administrator sends the commands; the card asks for the management key.
    let mut root = world.root().await;
    root.check(&[SELECT, "APDU SE1 0047000205AC03800102"], "+006 002 6982")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_is_not_in_the_image_any_more() {
    let world = World::new(settings()).await;
    let secrets = prepare(&world);
    let size = || std::fs::metadata(world.path("SE1.image")).unwrap().len();
    let before = size();
    let pin = secrets.piv_pin.as_slice();
    let object = NewObject {
        id: 1,
        read: Access::Pin,
        write: Access::Pin,
        label: "",
    };
    let mut element = operated(&world);
    let mut storage = Storage::open(&mut element);
    storage.with_pin(pin).unwrap();
    storage.create(&object, &[0x5A; 10_000]).unwrap();
    element.power_off();
    assert!(size() > before + 10_000);
    let mut storage = Storage::open(&mut element);
    storage.with_pin(pin).unwrap();
    storage.delete(1).unwrap();
    element.power_off();
    assert!(size() <= before, "{} bytes, {before} before", size());
    drop(element);

    let world = world.restart(&settings()).await;
    let mut element = operated(&world);
    let mut storage = Storage::open(&mut element);
    storage.with_pin(pin).unwrap();
    assert_eq!(storage.objects().unwrap(), []);
    assert_eq!(storage.keys().unwrap().len(), 1);
}
