//! Command APDUs: what parses is written back and parses to the same.
#![no_main]

use gose_proto::apdu::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = Command::parse(bytes) {
        let written = command.encode().expect("lengths that were parsed");
        assert!(Command::parse(&written).as_ref() == Ok(&command));
    }
});
