//! Records of a stream, and where they are protected: on the host or in the element.

use gose_client::{
    RemoteElement,
    record::{ContentType, Exported, Opened, Opener, RecordError, Sealer, Side, host_layer},
};
use gose_element::drive::eap_tls::{EapTls, Error};
use gose_proto::{apdu::StatusWord, eap::Reassembler};
use zeroize::Zeroizing;

use crate::Failure;

/// Bytes read at once.
pub(super) const CHUNK: usize = 16_384;

/// Content types as on the line (RFC 8446, 5.1).
const ALERT: u8 = 0x15;
const APPLICATION_DATA: u8 = 0x17;

/// Bytes of a sealed alert of TLS 1.3 behind the header: level, description, content type, tag.
const SEALED_ALERT: usize = 19;

/// What came from the server and was not yet taken. Less than a record and [`CHUNK`] when every record is taken.
#[derive(Default)]
pub(super) struct Arrived(Vec<u8>);

impl Arrived {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole record.
    pub(super) fn record(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, RecordError> {
        match Opener::record_length(&self.0)? {
            Some(length) if length <= self.0.len() => {
                Ok(Some(Zeroizing::new(self.0.drain(..length).collect())))
            }
            _ => Ok(None),
        }
    }

    /// The whole records that the handshake may take together. Protected ones go in a flight of their own: in
    /// TLS 1.2 they are data behind the server's Finished, which the handshake must not have.
    pub(super) fn flight(&mut self) -> Result<Vec<u8>, RecordError> {
        let protected = self.0.first() == Some(&APPLICATION_DATA);
        let mut end = 0;
        while let Some(rest) = self.0.get(end..)
            && let Some(length) = Opener::record_length(rest)?
            && length <= rest.len()
            && (rest.first() == Some(&APPLICATION_DATA)) == protected
            && end + length <= Reassembler::LIMIT
        {
            end += length;
        }
        Ok(self.0.drain(..end).collect())
    }
}

/// The record layer.
pub(super) enum Layer<'a, 'e> {
    /// In the element, which sees every record.
    Element(&'a mut EapTls<'e, RemoteElement>),
    /// On the host.
    Host(Sealer, Opener),
}

/// What a record of the server's held.
pub(super) enum Got {
    Data(Zeroizing<Vec<u8>>),
    /// close_notify
    Close,
    /// A ticket or a key update.
    Nothing,
}

impl Layer<'_, '_> {
    /// Moves the session to the host.
    pub(super) fn on_host(eap: &mut EapTls<'_, RemoteElement>) -> Result<Self, Failure> {
        let keys = eap.session_keys().map_err(|error| match error {
            Error::Refused { sw, .. } if sw == StatusWord::REFERENCED_DATA_NOT_FOUND => {
                Failure::Remote(
                    "the identity's policy leaves no key out of the element; use --records element"
                        .into(),
                )
            }
            error => error.into(),
        })?;
        let exported = Exported {
            version: keys.version,
            suite: keys.suite,
            key_block: &keys.key_block,
            client_seq: keys.client_sequence,
            server_seq: keys.server_sequence,
        };
        let (sealer, opener) = host_layer(Side::Client, &exported).map_err(remote)?;
        Ok(Self::Host(sealer, opener))
    }

    /// Records that carry `payload`.
    pub(super) fn seal(&mut self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Element(eap) => Ok(eap.encrypt(&[payload])?.concat()),
            Self::Host(sealer, _) => {
                let mut records = Vec::new();
                sealer
                    .seal(ContentType::ApplicationData, payload, &mut records)
                    .map_err(remote)?;
                Ok(records)
            }
        }
    }

    /// close_notify.
    pub(super) fn close(&mut self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Element(eap) => Ok(eap.alert(1, 0)?),
            Self::Host(sealer, _) => {
                let mut record = Vec::new();
                sealer.close(&mut record).map_err(remote)?;
                Ok(record)
            }
        }
    }

    /// Opens a record of the server's.
    pub(super) fn open(&mut self, mut record: Zeroizing<Vec<u8>>) -> Result<Got, Failure> {
        match self {
            Self::Element(eap) => {
                let opened = eap.decrypt(&[&record]).map_err(|error| match error {
                    Error::Refused { .. } => Failure::Remote(format!(
                        "{error}: the server ended the session by an alert, or a record does not authenticate; \
                         its log says why (does it accept the identity's certificate?)"
                    )),
                    error => error.into(),
                })?;
                let data = Zeroizing::new(opened.concat());
                // The element says how much data a record had, not what else it was.
                let length = record.len().saturating_sub(gose_client::record::HEADER);
                let alert = match record.first() {
                    Some(&ALERT) => true,
                    Some(&APPLICATION_DATA) => length == SEALED_ALERT,
                    _ => false,
                };
                Ok(match (data.is_empty(), alert) {
                    (false, _) => Got::Data(data),
                    (true, true) => Got::Close,
                    (true, false) => Got::Nothing,
                })
            }
            Self::Host(_, opener) => match opener.open(&mut record).map_err(remote)? {
                Opened::Data(data) => Ok(Got::Data(Zeroizing::new(data.to_vec()))),
                Opened::Close => Ok(Got::Close),
                Opened::Alert(description) => Err(Failure::Remote(refused(description))),
                Opened::PostHandshake => Ok(Got::Nothing),
            },
        }
    }
}

fn remote(error: RecordError) -> Failure {
    Failure::Remote(error.to_string())
}

/// What an alert of the server's says (RFC 8446, 6).
pub(super) fn refused(description: u8) -> String {
    let hint = match description {
        40 => "no version, suite or curve in common",
        42..=46 | 48 | 49 => "it does not accept the identity's certificate",
        70 => "it wants another version of TLS",
        116 => "it wants a certificate",
        _ => "its log says why",
    };
    format!("the server refused with alert {description}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: usize) -> Vec<u8> {
        let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
        [vec![kind, 3, 3, high, low], vec![7; length]].concat()
    }

    #[test]
    fn protected_records_are_a_flight_of_their_own() {
        let clear = [record(0x16, 90), record(0x14, 1)].concat();
        let protected = [record(0x17, 30), record(0x17, 16_000)].concat();
        let mut arrived = Arrived::default();
        let whole = [&clear[..], &protected, &[0x17, 3]].concat();
        for byte in whole.chunks(1) {
            arrived.extend(byte);
        }
        assert_eq!(arrived.flight().unwrap(), clear);
        assert_eq!(arrived.flight().unwrap(), protected);
        assert_eq!(arrived.flight().unwrap(), b"");
        assert!(arrived.record().unwrap().is_none() && arrived.0.len() == 2);
    }

    #[test]
    fn over_long_records_are_refused_by_their_header() {
        let mut arrived = Arrived::default();
        arrived.extend(&[0x17, 3, 3, 0xFF, 0xFF]);
        assert!(arrived.flight().is_err() && arrived.record().is_err());
    }
}
