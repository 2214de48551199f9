use proptest::prelude::*;

use super::*;
use crate::hex;

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.replace([' ', '\n'], "")).unwrap()
}

/// The secret of the examples in RFC 2865 and RFC 5997.
fn secret() -> Secret {
    Secret::new(b"xyzzy5461".to_vec()).unwrap()
}

/// RFC 2865, 7.1
const NEMO: &str = "01 00 0038 0f403f9473978057bd83d5cb98f4227a 01 06 6e656d6f 02 12 0dbe708d93d413ce3196e43f782a0aee
     04 06 c0a80110 05 06 00000003";
const NEMO_ACCEPT: &str =
    "02 00 0026 86fe220e7624ba2a1005f6bf9b55e0b2 06 06 00000001 0f 06 00000000 0e 06 c0a80103";
/// RFC 5997, 6.1
const STATUS: &str =
    "0c da 0026 8a54f4686fb394c52866e302185d0623 50 12 5a665e2e1e8411f3e243822097c84fa3";
const STATUS_ACCEPT: &str = "02 da 0014 ef0d552a4bf2d693ec2b6fe8b5411d66";

#[test]
fn the_examples_of_the_standards() {
    let (request, answer) = (bytes(NEMO), bytes(NEMO_ACCEPT));
    let request = Packet::parse(&request).unwrap();
    assert_eq!((request.code, request.identifier), (Code::AccessRequest, 0));
    assert_eq!(request.first(Type::USER_NAME).unwrap().text(), Some("nemo"));
    assert_eq!(request.first(Type::NAS_PORT).unwrap().integer(), Some(3));
    let answer = Packet::parse(&answer).unwrap();
    assert!(answer.answers(&request.request_authenticator(), &secret()));
    assert!(!answer.answers(&RequestAuthenticator([0; 16]), &secret()));

    let (request, answer) = (bytes(STATUS), bytes(STATUS_ACCEPT));
    let request = Packet::parse(&request).unwrap();
    assert_eq!(request.verify_request(&secret()), Some(true));
    let wrong = Secret::new(b"xyzzy5462".to_vec()).unwrap();
    assert_eq!(request.verify_request(&wrong), Some(false));
    assert!(
        Packet::parse(&answer)
            .unwrap()
            .answers(&request.request_authenticator(), &secret())
    );
}

#[test]
fn the_builder_makes_the_examples() {
    let expected = bytes(STATUS);
    let authenticator = Packet::parse(&expected).unwrap().request_authenticator();
    let built = Builder::new(Code::StatusServer, 0xDA)
        .request(&authenticator, &secret())
        .unwrap();
    assert_eq!(built, expected);
    let answer = Builder::without_message_authenticator(Code::AccessAccept, 0xDA);
    assert_eq!(
        answer.answer(&authenticator, &secret()).unwrap(),
        bytes(STATUS_ACCEPT)
    );
}

#[test]
fn what_is_not_a_packet() {
    let refused = |text: &str| Packet::parse(&bytes(text)).unwrap_err();
    let zeros = "00".repeat(16);
    assert_eq!(refused(""), PacketError::TooShort(0));
    assert_eq!(refused("01000014"), PacketError::TooShort(4));
    assert_eq!(
        refused(&format!("01000013{zeros}")),
        PacketError::Length(19)
    );
    assert_eq!(
        refused(&format!("01001001{zeros}")),
        PacketError::Length(4097)
    );
    assert_eq!(
        refused(&format!("01000015{zeros}")),
        PacketError::Truncated {
            length: 21,
            found: 20
        }
    );
    assert_eq!(
        refused(&format!("07000014{zeros}")),
        PacketError::UnknownCode(7)
    );
    assert_eq!(
        refused(&format!("01000015{zeros}01")),
        PacketError::Attribute(20)
    );
    assert_eq!(
        refused(&format!("01000016{zeros}0101")),
        PacketError::Attribute(20)
    );
    assert_eq!(
        refused(&format!("01000018{zeros}0102 0103")),
        PacketError::Attribute(22)
    );
    assert_eq!(
        refused(&format!("01000016{zeros}5002")),
        PacketError::MessageAuthenticator
    );
    let one = format!("5012{zeros}");
    assert_eq!(
        refused(&format!("01000038{zeros}{one}{one}")),
        PacketError::MessageAuthenticator
    );
    let padded = bytes(&format!("01000014{zeros}FFFF"));
    assert_eq!(Packet::parse(&padded).unwrap().bytes().len(), 20);
}

#[test]
fn a_message_authenticator_over_all() {
    let authenticator = RequestAuthenticator([9; 16]);
    let good = Builder::new(Code::AccessRequest, 7)
        .attribute(Type::USER_NAME, b"vm1@gose.test")
        .eap(&[2, 1, 0, 5, 1])
        .request(&authenticator, &secret())
        .unwrap();
    assert_eq!(good[HEADER], Type::MESSAGE_AUTHENTICATOR.0, "first");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let verdict = Packet::parse(&bad)
            .ok()
            .and_then(|packet| packet.verify_request(&secret()));
        assert_ne!(verdict, Some(true), "byte {at} changed");
    }
}

#[test]
fn accounting_and_disconnect_requests() {
    let built = Builder::new(Code::DisconnectRequest, 3)
        .attribute(Type::USER_NAME, b"vm1@gose.test")
        .digest_request(&secret())
        .unwrap();
    let packet = Packet::parse(&built).unwrap();
    assert!(packet.request_digest_is_right(&secret()));
    assert_eq!(packet.verify_request(&secret()), Some(true));
    let mut changed = built.clone();
    changed[30] ^= 1;
    assert!(
        !Packet::parse(&changed)
            .unwrap()
            .request_digest_is_right(&secret())
    );
}

#[test]
fn bounds_of_the_builder() {
    let authenticator = RequestAuthenticator([0; 16]);
    let build = |eap: usize| {
        Builder::new(Code::AccessRequest, 0)
            .eap(&vec![1; eap])
            .request(&authenticator, &secret())
    };
    assert_eq!(build(4026).unwrap().len(), 4096);
    assert_eq!(build(4027), Err(BuildError::PacketTooLong(4097)));
    let long = Builder::new(Code::AccessRequest, 0).attribute(Type::CLASS, &[0; 254]);
    assert_eq!(
        long.request(&authenticator, &secret()),
        Err(BuildError::AttributeTooLong(25, 254))
    );
}

#[test]
fn codes_both_ways() {
    for byte in 0..=255 {
        assert!(Code::from_byte(byte).is_none_or(|code| code.byte() == byte));
    }
    assert_eq!((0..=255).filter_map(Code::from_byte).count(), CODES.len());
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(packet) = Packet::parse(&bytes) {
            let _ = packet.attributes().flat_map(|attribute| attribute.vendor()).count();
            let _ = (packet.eap(), packet.verify_request(&secret()), packet.request_digest_is_right(&secret()));
        }
    }

    #[test]
    fn eap_packets_are_split_and_joined(
        eap in proptest::collection::vec(any::<u8>(), 0..4000), authenticator: [u8; 16], identifier: u8) {
        let authenticator = RequestAuthenticator(authenticator);
        let built = Builder::new(Code::AccessChallenge, identifier).eap(&eap).answer(&authenticator, &secret()).unwrap();
        let packet = Packet::parse(&built).unwrap();
        prop_assert_eq!(packet.eap(), Some(eap));
        prop_assert!(packet.answers(&authenticator, &secret()));
        prop_assert_eq!(packet.verify_answer(&authenticator, &secret()), Some(true));
    }
}
