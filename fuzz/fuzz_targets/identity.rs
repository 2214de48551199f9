//! Certificates, tokens, attach messages and EAP frames: any bytes, and whatever is read writes itself back.
#![no_main]

use gose_proto::identity::{
    KeyHash, PeerIdentity, VmAuthToken, VmBinding,
    attach::{ToEndpoint, ToGuest},
    eap_frames,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = PeerIdentity::from_der(data, KeyHash([0; 32]));
    let _ = VmAuthToken::parse(data);
    if let Ok(binding) = VmBinding::parse(data) {
        assert_eq!(binding.encode(), data);
    }
    if let Ok(message) = ToEndpoint::parse(data) {
        assert_eq!(&message.encode()[2..], data);
    }
    if let Ok(message) = ToGuest::parse(data) {
        assert_eq!(&message.encode()[2..], data);
    }
    if let Ok(frame) = eap_frames::encode(data) {
        assert_eq!(&frame[2..], data);
    }
});
