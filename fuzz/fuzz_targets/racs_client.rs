//! A client against any server: whole responses or a protocol error.
#![no_main]

use gose_proto::racs::{
    Client, Request,
    script::{Script, Step},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut client = Client::new();
    let script = Script::new(vec![Step::new([0; 4]); 3]);
    for _ in 0..2 {
        let _ = client.send(Request::with_id("q").expect("an identifier"));
    }
    for piece in bytes.chunks(7) {
        client.receive(piece);
        while let Ok(Some(response)) = client.poll() {
            let (done, _) = response.outcomes(1, &script);
            assert!(done.len() <= 3 && !response.statuses().is_empty());
            for status in response.statuses() {
                let _ = (status.seids(), status.answer(), status.atr());
            }
        }
    }
});
