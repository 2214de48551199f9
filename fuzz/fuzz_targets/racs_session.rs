//! A server against any client: whole and in pieces it says the same, one response a request.
#![no_main]

use gose_proto::{
    apdu::StatusWord,
    racs::{Completion, Failure, Mode, Operation, Output, Session, script::Outcome},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = serve(Mode::Direct, bytes, bytes.len());
    assert!(whole == serve(Mode::Direct, bytes, 5));
    // A relay says the same, if only when a batch is complete.
    assert!(whole.starts_with(&serve(Mode::Gather, bytes, 5)));
});

fn serve(mode: Mode, bytes: &[u8], size: usize) -> Vec<u8> {
    let mut session = Session::new(mode);
    let mut said = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        session.receive(piece);
        while let Some(output) = session.poll() {
            match output {
                Output::Run(operation) => session.complete(complete(operation)),
                Output::Send(bytes) => said.extend_from_slice(bytes),
                Output::Close(_) => return said,
            }
        }
        assert!(session.wants_input());
    }
    said
}

fn complete(operation: Operation) -> Completion {
    let atr = Some(vec![0x3B, 0]);
    match operation {
        Operation::List => Completion::Seids(vec!["SE1".parse().expect("a SEID")]),
        Operation::PowerOn { .. } => Completion::PoweredOn { atr, already: false },
        Operation::Reset { .. } => Completion::Reset { atr },
        Operation::Shutdown { .. } => Completion::Failed(Failure::InUse),
        Operation::Apdus { script, .. } => {
            let mut done = Vec::new();
            let mut failed = None;
            for step in &script.steps {
                if step.apdu[0] == 0xFF {
                    failed = Some(Failure::Mute);
                    break;
                }
                let sw = StatusWord::from([step.apdu[2], step.apdu[3]]);
                let expected = step.expect.is_none_or(|expect| expect == sw);
                let body = step.apdu.to_vec();
                done.push(Some(Outcome { body, sw, expected }));
                if !expected {
                    break;
                }
            }
            Completion::Apdus { done, failed }
        }
    }
}
