//! What a client asks is what a server runs, and what the server answers is what the client reads.

#![allow(clippy::unwrap_used)]

use gose_element::{ElementError, Outcomes, Script, SecureElement, Seid, Step};
use gose_proto::{
    apdu::{Response, StatusWord},
    racs::{Client, Mode, Operation, Output, Request, Session},
};
use proptest::prelude::*;

/// Answers each APDU with its data field; the status word is in P1-P2 of INS 01.
struct Mirror;

impl SecureElement for Mirror {
    fn power_on(&mut self) -> Result<gose_element::Atr, ElementError> {
        Err(ElementError::Mute)
    }

    fn power_off(&mut self) {}

    fn reset(&mut self, _warm: bool) -> Result<gose_element::Atr, ElementError> {
        Err(ElementError::Mute)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        if apdu[1] == 2 {
            return Err(ElementError::Timeout(60));
        }
        Ok(Response {
            data: apdu.get(5..).unwrap_or_default().to_vec(),
            sw: StatusWord::from([apdu[2], apdu[3]]),
        })
    }
}

fn step() -> impl Strategy<Value = Step> {
    let data = proptest::collection::vec(any::<u8>(), 0..=255);
    let sw = prop_oneof![4 => Just(0x9000_u16), 1 => Just(0x6A82)];
    let ins = prop_oneof![12 => Just(1_u8), 1 => Just(2)];
    (data, sw, ins, any::<bool>(), any::<bool>()).prop_map(|(data, sw, ins, expect, append)| {
        let [p1, p2] = sw.to_be_bytes();
        let mut apdu = vec![0, ins, p1, p2];
        if let Some(lc) = u8::try_from(data.len()).ok().filter(|&lc| lc > 0) {
            apdu.push(lc);
            apdu.extend_from_slice(&data);
        }
        let mut step = Step::new(apdu).collect([0x00, 0xC0, 0, 0]);
        step.append = append;
        if expect { step.expect_normal() } else { step }
    })
}

/// Carries a request to a server and its response back, in pieces of this size.
fn carry(client: &mut Client, request: Request, size: usize) -> gose_proto::racs::Response {
    let mut session = Session::new(Mode::Direct);
    let bytes = client.send(request);
    let mut response = None;
    for piece in bytes.chunks(size) {
        session.receive(piece);
        while let Some(output) = session.poll() {
            match output {
                Output::Run(Operation::Apdus { script, .. }) => {
                    session.complete(Mirror.run(&script).into());
                }
                Output::Send(bytes) => {
                    for piece in bytes.chunks(size) {
                        client.receive(piece);
                        if let Some(whole) = client.poll().unwrap() {
                            assert!(response.replace(whole).is_none());
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(client.outstanding(), 0);
    response.expect("one response")
}

/// What a remote element is told of what the local one did: steps without APPEND that are not the
/// last are not told, and of an unexpected status word not the body.
fn told(script: &Script, mut outcomes: Outcomes) -> Outcomes {
    let last = outcomes.done.len().saturating_sub(1);
    let ended = outcomes.failed.is_none();
    for (at, outcome) in outcomes.done.iter_mut().enumerate() {
        let unexpected = outcome.as_ref().is_some_and(|outcome| !outcome.expected);
        if unexpected {
            outcome.as_mut().unwrap().body.clear();
        } else if !script.steps[at].append && (at != last || !ended) {
            *outcome = None;
        }
    }
    // An unexpected status word is told in the place of the last answer.
    outcomes
}

proptest! {
    #[test]
    fn scripts(steps in proptest::collection::vec(step(), 1..12), size in 1usize..300, name in "[!-~]{1,64}") {
        prop_assume!(name != "APPEND");
        let seid: Seid = "SE1".parse().unwrap();
        let script = Script::new(steps);
        let mut request = Request::with_id(&name).unwrap();
        let first = request.script(&seid, &script).unwrap();
        let mut client = Client::new();
        let response = carry(&mut client, request, size);
        let (done, failed) = response.outcomes(first, &script);
        let local = told(&script, Mirror.run(&script));
        prop_assert_eq!(done, local.done);
        prop_assert_eq!(failed.map(ElementError::from), local.failed);
    }
}
