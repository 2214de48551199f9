//! EAP packets, EAP-TLS fragments, ClientHello and the records of a card's memory: any bytes, and whatever is read
//! writes itself back.
#![no_main]

use gose_proto::eap::{
    Fragment, Hello, Packet, Reassembled, Reassembler,
    records::{self, Policy},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((packet, rest)) = Packet::parse(bytes) {
        assert_eq!(packet.encode(), bytes[..bytes.len() - rest.len()]);
        let _ = Hello::read(packet.data);
    }
    let _ = Hello::read(bytes);
    let mut reassembler = Reassembler::default();
    let mut taken = 0;
    for piece in bytes.chunks(9) {
        let Ok(fragment) = Fragment::parse(piece) else { continue };
        taken += fragment.data.len();
        if let Ok(Reassembled::Whole(message)) = reassembler.receive(&fragment) {
            assert!(message.len() <= taken && message.len() <= Reassembler::LIMIT);
        }
    }
    if let Ok((records, end)) = records::parse(bytes) {
        assert_eq!(records::whole_until(bytes), end);
        for record in &records {
            let items: Vec<(u8, &[u8])> = record.items.iter().map(|i| (i.kind, i.value)).collect();
            let written = records::encode(record.label, record.eap_id, record.method, &items);
            assert_eq!(written.as_deref(), Ok(&bytes[record.span.clone()]));
        }
    }
    if let Ok(policy) = Policy::parse(bytes)
        && policy.cipher_suites.len() <= 127
    {
        assert_eq!(Policy::parse(&policy.encode()), Ok(policy));
    }
});
