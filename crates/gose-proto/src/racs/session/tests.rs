use super::*;

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
