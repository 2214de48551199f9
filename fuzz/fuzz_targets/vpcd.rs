//! What a virtual reader's driver sends, in any pieces; and names of keys (PKCS#11 URIs).
#![no_main]

use gose_proto::{
    pkcs11::Uri,
    vpcd::{Frames, Request, before_selection, frame, selects},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut frames = Frames::default();
    for piece in bytes.chunks(5) {
        frames.receive(piece);
        while let Some(content) = frames.poll() {
            let request = Request::parse(&content);
            if request != Request::Unknown {
                assert_eq!(Request::parse(request.encode()), request);
            }
            assert!(frame(&content).is_ok());
            let _ = (selects(&content), before_selection(&content));
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<Uri>();
    }
});
