//! BER-TLV: the walk ends, inside the bytes.
#![no_main]

use gose_proto::apdu::tlv::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let values: usize = Reader::new(bytes).flatten().map(|tlv| tlv.value.len()).sum();
    assert!(values <= bytes.len());
});
