//! A captured authentication between two foreign programs, read by both machines.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use gose_proto::{
    hex,
    radius::{
        Code, Packet, RequestAuthenticator, Secret, Type,
        client::{Exchange, Timers},
        mppe,
        request::{Kind, Verified},
    },
};

const CAPTURE: &str = include_str!("radius/freeradius-tls13.txt");

fn lines(mark: &str) -> Vec<Vec<u8>> {
    let lines = CAPTURE.lines().filter_map(|line| line.strip_prefix(mark));
    lines
        .map(|line| hex::decode(line.trim()).unwrap())
        .collect()
}

fn secret() -> Secret {
    Secret::new(b"testing123".to_vec()).unwrap()
}

#[test]
fn every_packet_verifies_and_the_keys_come_out() {
    let (requests, answers) = (lines("> "), lines("< "));
    assert_eq!((requests.len(), answers.len()), (6, 6));
    let mut state = None;
    for (request, answer) in requests.iter().zip(&answers) {
        let verified = Verified::parse(request, &secret()).unwrap();
        assert_eq!(verified.kind(), Kind::Access);
        let sent = verified
            .packet()
            .first(Type::STATE)
            .map(|state| state.value.to_vec());
        assert_eq!(sent, state, "the State of the last challenge");

        let exchange =
            Exchange::new(request.clone(), secret(), Timers::DEFAULT, Duration::ZERO).unwrap();
        let answer = exchange.receive(answer).unwrap();
        let eap = answer.eap.clone().unwrap();
        assert_eq!(
            usize::from(u16::from_be_bytes([eap[2], eap[3]])),
            eap.len(),
            "joined"
        );
        state.clone_from(&answer.state);
        if answer.code == Code::AccessAccept {
            assert_eq!(answer.msk.unwrap().as_slice(), lines("= ")[0]);
        } else {
            assert_eq!(
                (answer.code, answer.msk.is_some()),
                (Code::AccessChallenge, false)
            );
        }
    }
}

#[test]
fn the_keys_of_another_request_or_secret_do_not_come_out() {
    let (requests, answers) = (lines("> "), lines("< "));
    let accept = Packet::parse(&answers[5]).unwrap();
    let right = Packet::parse(&requests[5]).unwrap().request_authenticator();
    let expected = lines("= ").remove(0);
    let found = |request, secret| {
        mppe::msk(&accept, &request, &secret).is_some_and(|msk| msk[..] == expected)
    };
    assert!(found(right, secret()));
    assert!(!found(RequestAuthenticator([0; 16]), secret()));
    assert!(!found(right, Secret::new(b"testing124".to_vec()).unwrap()));
}
