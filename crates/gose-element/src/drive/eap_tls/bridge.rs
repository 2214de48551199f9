//! An ordinary TLS session through an EAP-TLS element (draft-urien-uta-tls-dtls-security-module-09): the
//! host strips and adds the EAP-TLS headers, the element does the handshake.

use gose_proto::eap::{Fragment, Fragmenter, Packet, Reassembled, Reassembler, Type};

use super::{EapTls, Error, Progress, Reply, scripts};
use crate::{SecureElement, announced};

/// TLS data of one EAP-TLS fragment towards the element.
const FRAGMENT: usize = 1398;

impl<E: SecureElement + ?Sized> EapTls<'_, E> {
    /// Starts a TLS client in the element; gives the records of its ClientHello. No EAP-Request/Identity has
    /// come since the reset: that is how the element knows that an ordinary TLS server is at the other end.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start_tls(&mut self, now: Option<u32>) -> Result<Vec<u8>, Error> {
        self.reset()?;
        let start = Packet::request(self.identifier, Type::TLS, &Fragment::START.encode()).encode();
        self.exchange(&[start], now)
    }

    /// Gives the element the records of one flight of the server; gives the records to send, none when the
    /// handshake is done. A TLS alert of the element is a record of type 21, and its last.
    ///
    /// # Errors
    /// [`Error`].
    pub fn tls(&mut self, records: &[u8]) -> Result<Vec<u8>, Error> {
        let mut fragmenter = Fragmenter::new(records.to_vec(), FRAGMENT);
        let mut packets = Vec::new();
        while let Some(type_data) = fragmenter.next_fragment() {
            self.identifier = self.identifier.wrapping_add(1);
            packets.push(Packet::request(self.identifier, Type::TLS, &type_data).encode());
        }
        self.exchange(&packets, None)
    }

    /// How far the handshake has come: the element alone knows which flight was the last.
    ///
    /// # Errors
    /// [`Error`].
    pub fn tls_progress(&mut self) -> Result<Progress, Error> {
        let outcomes = announced::collect(self.element, &scripts::state());
        let state = scripts::last(&outcomes, "Get-State")?;
        match *state.body {
            [3] => Ok(Progress::Done),
            [4] => Ok(Progress::Failed),
            [_] => Ok(Progress::UnderWay),
            _ => Err(Error::Malformed("Get-State")),
        }
    }

    /// Version and cipher suite of the session, as on the line, without moving it to the host.
    ///
    /// # Errors
    /// As [`EapTls::exported`].
    pub fn version_and_suite(&mut self) -> Result<(u16, u16), Error> {
        match *self.exported(0x80)? {
            [v1, v2, s1, s2] => Ok((u16::from_be_bytes([v1, v2]), u16::from_be_bytes([s1, s2]))),
            _ => Err(Error::Malformed("cipher suite")),
        }
    }

    fn exchange(&mut self, packets: &[Vec<u8>], now: Option<u32>) -> Result<Vec<u8>, Error> {
        let outcomes = announced::collect(self.element, &scripts::deliver(packets, now));
        let Reply::Packet(first) = scripts::reply(&outcomes)? else {
            return Err(Error::Malformed("a TLS flight"));
        };
        self.fetch_rest(&first)?;
        let mut reassembler = Reassembler::default();
        let mut packet = first;
        loop {
            let (parsed, _) = Packet::parse(&packet)?;
            self.identifier = parsed.identifier;
            if parsed.kind != Some(Type::TLS) {
                return Err(Error::Malformed("a TLS flight"));
            }
            match reassembler.receive(&Fragment::parse(parsed.data)?)? {
                Reassembled::Whole(records) => return Ok(records),
                Reassembled::More => {
                    packet = self.leaving.pop().ok_or(Error::Malformed("a TLS flight"))?;
                }
            }
        }
    }
}
