//! EAP that is wrong, at the authentication server: each has its exact answer, and others are served.

use std::io::{Read, Write};

use gose_client::{Link, RemoteElement, guest::authenticate, tls::EAP};
use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening, Reply},
};
use gose_proto::hex;
use gose_testkit::world::PIN;

use crate::{
    phases::now,
    world::{World, logged},
};

/// What a peer sends, each in a frame unless it begins with `!`, and what comes back; `-` is the end of the
/// stream.
fn check(world: &World, exchanges: &[&str], reason: &str) {
    let mut link = world.link(&world.server, &world.site.user("hv-7"), EAP);
    assert_eq!(answer(&mut link), "0101000501");
    for exchange in exchanges {
        let (sent, expected) = exchange.split_once(" -> ").unwrap();
        let bytes = match sent.strip_prefix('!') {
            Some(raw) => bytes(raw),
            None => {
                let packet = bytes(sent);
                let length = u16::try_from(packet.len()).unwrap();
                [&length.to_be_bytes()[..], &packet].concat()
            }
        };
        link.write_all(&bytes).unwrap();
        link.flush().unwrap();
        assert_eq!(answer(&mut link), expected, "{exchange}");
    }
    assert_eq!(answer(&mut link), "-", "{exchanges:?}");
    logged(&["EAP conversation", "verdict=\"failure\"", reason]);
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

/// The next frame.
fn answer(link: &mut Link) -> String {
    let mut length = [0; 2];
    if link.read_exact(&mut length).is_err() {
        return "-".to_owned();
    }
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    link.read_exact(&mut packet).unwrap();
    hex::encode(&packet)
}

const IDENTITY: &str = "02 01 000F 01 40676F73652E74657374 -> 010200060D20";

#[test]
fn packets_that_end_a_conversation() {
    let world = World::new("none");
    let check = |exchanges: &[&str], reason| check(&world, exchanges, reason);
    // Before the method
    check(&["02 01 0006 0D 00 -> -"], "no EAP-Response/Identity");
    check(&["01 01 0005 01 -> -"], "no EAP-Response/Identity");
    check(
        &[IDENTITY, "02 02 0006 03 04 -> 04020004"],
        "another method",
    );
    // An identifier of before, and one of nowhere
    check(&[IDENTITY, "02 01 0006 0D 00 -> -"], "out of turn");
    check(&[IDENTITY, "02 63 0006 0D 00 -> -"], "out of turn");
    // A TLS alert where ClientHello is due
    check(
        &[IDENTITY, "02 02 000D 0D 00 15 0303 0002 02 28 -> 04020004"],
        "alert 40",
    );
    // A record of a wrong type: the element's own alert first
    check(
        &[
            IDENTITY,
            "02 02 000C 0D 00 17 0303 0001 00 -> 0103000D0D001503030002020A",
            "02 03 0006 0D 00 -> 04030004",
        ],
        "alert 10",
    );
}

#[test]
fn fragments_out_of_order_and_lengths_that_lie() {
    let world = World::new("none");
    let check = |exchanges: &[&str], reason| check(&world, exchanges, reason);
    // A middle one first
    let middle = "02 02 0008 0D 40 0102 -> 04020004";
    check(&[IDENTITY, middle], "no TLS message length");
    // Another message's, and the last one too early
    let first = "02 02 000B 0D C0 00000003 01 -> 010300060D00";
    for second in ["02 03 000B 0D C0 00000009 01", "02 03 0007 0D 00 02"] {
        check(
            &[IDENTITY, first, &format!("{second} -> 04030004")],
            "contradict the TLS message length 3",
        );
    }
    // More than a flight may have, less than was announced, nothing in it; Start from a peer
    for (lie, reason) in [
        ("02 02 000B 0D C0 00010001 01", "65537 bytes"),
        (
            "02 02 000B 0D 80 00000005 01",
            "contradict the TLS message length 5",
        ),
        ("02 02 0006 0D 40", "announces more"),
        ("02 02 0006 0D 20", "EAP-TLS flags"),
    ] {
        check(&[IDENTITY, &format!("{lie} -> 04020004")], reason);
    }
    // EAP's length and the frame's
    for lie in [
        "02 02 0009 0D 00",
        "02 02 0005 0D 00",
        "!0003 020200",
        "!0FA1",
    ] {
        check(&[IDENTITY, &format!("{lie} -> -")], "frame: ");
    }
}

#[test]
fn an_alert_in_the_middle() {
    let world = World::new("none");
    let played = world.create("SE-A");
    let session = played.guest.open_racs().unwrap();
    let mut element = RemoteElement::new(session, "SE-A".parse().unwrap());
    element.power_on().unwrap();
    let mut eap = EapTls::open(&mut element, &Opening::new(PIN, "peer")).unwrap();
    let mut channel = played.guest.open_eap().unwrap();
    // Identity, then Start answered by ClientHello
    for _ in 0..2 {
        let request = channel.receive().unwrap().unwrap();
        let Reply::Packet(response) = eap.process(&request, Some(now())).unwrap() else {
            panic!("no answer");
        };
        channel.send(&response).unwrap();
    }
    // The server's flight arrives, and the peer does not like it
    let flight = channel.receive().unwrap().unwrap();
    assert_eq!((flight[0], flight[4]), (1, 0x0D));
    let mut alert = bytes("02 00 000D 0D 00 15 0303 0002 02 30");
    alert[1] = flight[1];
    channel.send(&alert).unwrap();
    let failure = channel.receive().unwrap();
    assert_eq!(failure, Some(vec![4, flight[1], 0, 4]));
    logged(&["EAP conversation", "verdict=\"failure\"", "alert 48"]);
    // The same element, in a conversation of its own, is served
    drop(eap);
    let mut eap = EapTls::open(&mut element, &Opening::new(PIN, "peer")).unwrap();
    let mut channel = played.guest.open_eap().unwrap();
    authenticate(&mut channel, &mut eap, now).unwrap();
}
