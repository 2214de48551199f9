use proptest::prelude::*;

use super::*;
use crate::racs::{Failure, script::Outcome};

/// Runs a request against an element that echoes each APDU, and gives what is sent.
fn serve(session: &mut Session, bytes: &[u8]) -> String {
    let mut sent = Vec::new();
    session.receive(bytes);
    loop {
        match session.poll() {
            Some(Output::Run(operation)) => {
                let completion = echo(operation);
                session.complete(completion);
            }
            Some(Output::Send(bytes)) => sent.extend_from_slice(bytes),
            Some(Output::Close(reason)) => {
                sent.extend_from_slice(format!("{reason:?}").as_bytes());
            }
            None => return String::from_utf8(sent).unwrap(),
        }
    }
}

fn echo(operation: Operation) -> Completion {
    match operation {
        Operation::Apdus { script, .. } => Completion::Apdus {
            done: script
                .steps
                .iter()
                .map(|step| {
                    Some(Outcome {
                        body: step.apdu.to_vec(),
                        sw: crate::apdu::StatusWord::NORMAL,
                        expected: true,
                    })
                })
                .collect(),
            failed: None,
        },
        Operation::PowerOn { .. } => Completion::PoweredOn {
            atr: Some(vec![0x3B, 0]),
            already: false,
        },
        _ => Completion::Failed(Failure::Unauthorised),
    }
}

#[test]
fn pipelined_requests_are_answered_in_one_write() {
    let mut session = Session::new(Mode::Direct);
    session.receive(b"BEGIN 1\r\nECHO a\r\nEND\r\nBEGIN 2\r\nECHO b\r\nEND\r\nBEGIN 3\r\n");
    let Some(Output::Send(bytes)) = session.poll() else {
        panic!("nothing to send");
    };
    assert_eq!(
        bytes,
        b"BEGIN 1\r\n+009 001 a\r\nEND\r\nBEGIN 2\r\n+009 001 b\r\nEND\r\n"
    );
    assert!(session.poll().is_none());
    assert_eq!(
        serve(&mut session, b"END\r\n"),
        "BEGIN 3\r\n+001 000 ready\r\nEND\r\n"
    );
}

#[test]
fn lines_run_when_they_have_arrived() {
    let mut session = Session::new(Mode::Direct);
    session.receive(b"BEGIN\r\nAPDU A 00010000\r\nAPDU A 00020000\r\nAPDU B 00030000\r\n");
    for (name, steps) in [("A", 2), ("B", 1)] {
        let Some(Output::Run(Operation::Apdus { seid, script })) = session.poll() else {
            panic!("nothing to run");
        };
        assert_eq!((seid.as_str(), script.steps.len()), (name, steps));
        assert!(session.poll().is_none());
        session.complete(echo(Operation::Apdus { seid, script }));
    }
    assert_eq!(
        serve(&mut session, b"END\r\n"),
        "BEGIN\r\n+006 003 000300009000\r\nEND\r\n"
    );
}

#[test]
fn a_relay_gathers() {
    let mut session = Session::new(Mode::Gather);
    session.receive(b"BEGIN\r\nAPDU A 00010000 APPEND\r\n");
    assert!(session.poll().is_none());
    session.receive(b"APDU A 00020000\r\n");
    assert!(session.poll().is_none());
    session.receive(b"END\r\n");
    let Some(Output::Run(Operation::Apdus { script, .. })) = session.poll() else {
        panic!("nothing to run");
    };
    assert_eq!(script.steps.len(), 2);
}

#[test]
fn the_request_in_progress_has_a_name() {
    let mut session = Session::new(Mode::Direct);
    assert_eq!(session.request_id(), None);
    session.receive(b"BEGIN guest-7 \r\nLIST\r\n");
    assert!(matches!(session.poll(), Some(Output::Run(Operation::List))));
    assert_eq!(session.request_id(), Some("guest-7"));
    session.complete(Completion::Seids(Vec::new()));
    assert_eq!(
        serve(&mut session, b"END\r\nBEGIN\r\n"),
        "BEGIN guest-7\r\n+004 001\r\nEND\r\n"
    );
    assert_eq!(session.request_id(), None);
}

#[test]
fn a_slow_operation_holds_nothing_back() {
    let mut session = Session::new(Mode::Direct);
    session.receive(b"BEGIN\r\nECHO a\r\nEND\r\nBEGIN\r\nPOWERON SE1\r\nEND\r\n");
    assert!(matches!(session.poll(), Some(Output::Run(_))));
    let done: &[u8] = b"BEGIN\r\n+009 001 a\r\nEND\r\n";
    assert_eq!(session.flush(), Some(done));
    assert_eq!(session.flush(), None);
    session.complete(Completion::Failed(Failure::Mute));
    assert_eq!(
        serve(&mut session, b""),
        "BEGIN\r\n-808 001 the element is mute\r\nEND\r\n"
    );
}

#[test]
fn a_peer_that_sends_too_much_waits() {
    let mut session = Session::new(Mode::Direct);
    session.receive(b"BEGIN\r\nLIST\r\n");
    assert!(matches!(session.poll(), Some(Output::Run(Operation::List))));
    while session.wants_input() {
        session.receive(b"ECHO and more of it while the operation runs\r\n");
    }
    assert!(session.input.len() < MAX_LINE + 100);
    session.complete(Completion::Failed(Failure::Internal));
    serve(&mut session, b"END\r\n");
    assert!(session.wants_input() && session.input.len() == 0);
}

#[test]
fn completions_that_make_no_sense_are_our_own_fault() {
    let check = |line: &str, completion: Completion, expected: &str| {
        let mut session = Session::new(Mode::Direct);
        session.receive(format!("BEGIN\r\n{line}\r\nEND\r\n").as_bytes());
        assert!(matches!(session.poll(), Some(Output::Run(_))), "{line}");
        session.complete(completion);
        let said = serve(&mut session, b"");
        assert_eq!(said, format!("BEGIN\r\n{expected}\r\nEND\r\n"));
    };
    let apdus = |done, failed| Completion::Apdus { done, failed };
    let apdu = "APDU A 00010000";
    check("LIST", Completion::Shutdown, "-904 001 internal error");
    check(apdu, apdus(vec![], None), "-906 001 internal error");
    check(apdu, apdus(vec![None], None), "-906 001 internal error");
    let two = "APDU A 00010000 APPEND\r\nAPDU A 00020000";
    check(
        two,
        apdus(vec![None], Some(Failure::Mute)),
        "-906 001 internal error",
    );
    let two = "APDU A 00010000\r\nAPDU A 00020000";
    check(
        two,
        apdus(vec![None], Some(Failure::Mute)),
        "-806 002 the element is mute",
    );
}

#[test]
fn an_idle_session_is_small() {
    let mut session = Session::new(Mode::Direct);
    let long = format!("BEGIN\r\nECHO {}\r\nEND\r\n", "x".repeat(100_000));
    assert_eq!(serve(&mut session, long.as_bytes()).len(), 100_000 + 23);
    serve(&mut session, b"BEGIN\r\nEND\r\n");
    assert!(session.poll().is_none());
    let kept = session.open.capacity() + session.ready.capacity();
    assert!(kept <= 2 * RETAINED, "{kept}");
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(pieces in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..60), 0..20)) {
        let mut session = Session::new(Mode::Direct);
        for piece in pieces {
            serve(&mut session, &piece);
        }
    }

    #[test]
    fn any_lines_give_one_response_a_request(lines in proptest::collection::vec(
        "(BEGIN( x)?|END|ECHO [a-c]( APPEND)?|APDU A 000[0-9]0000( APPEND)?|POWERON A|LIST|FOO)",
        0..40), cut in 1usize..30) {
        let text = lines.join("\r\n") + "\r\n";
        let mut whole = Session::new(Mode::Direct);
        let said = serve(&mut whole, text.as_bytes());
        let mut cut_up = Session::new(Mode::Gather);
        let pieces: String = text.as_bytes().chunks(cut).map(|piece| serve(&mut cut_up, piece)).collect();
        prop_assert_eq!(&said, &pieces);
        let count = |word: &str| said.lines().filter(|line| line.split(' ').next() == Some(word)).count();
        prop_assert_eq!(count("BEGIN"), count("END"));
    }
}
