//! The record memory of an EAP smart card: identities and what belongs to them.
//!
//! Format of OpenEapSmartcard (alias, EAP-ID, EAP type, keys), with GoSE's key types 20 to 28. Records stand
//! one after the other; FF ends them.

use std::ops::Range;

use super::Type;

/// Bytes of the memory that P1-P2 of READ and WRITE address.
pub const MEMORY: usize = 16_384;

/// Ends the records.
pub const END: u8 = 0xFF;

/// Key types of GoSE.
pub mod kind {
    /// 00 peer (TLS client), 01 authenticator (TLS server).
    pub const ROLE: u8 = 0x20;
    /// PKCS#8 private key, DER; write only.
    pub const PRIVATE_KEY: u8 = 0x21;
    /// Certificate of the own chain, DER, leaf first; repeatable.
    pub const CERTIFICATE: u8 = 0x22;
    /// Trust anchor certificate, DER; repeatable.
    pub const ANCHOR: u8 = 0x23;
    /// See [`Policy`](super::Policy).
    pub const POLICY: u8 = 0x24;
    /// Name that the peer's certificate must show; repeatable, one of them must match.
    pub const EXPECTED_NAME: u8 = 0x25;
    /// Key made in the card for this identity: algorithm ‖ slot.
    pub const GENERATED: u8 = 0x26;
    /// The identity uses the key of this PIV slot.
    pub const SLOT: u8 = 0x27;
    /// CRL, DER; repeatable.
    pub const CRL: u8 = 0x28;

    /// Whether READ answers zeros in place of the value: symmetric keys, work areas, private keys.
    #[must_use]
    pub const fn is_secret(kind: u8) -> bool {
        matches!(kind, 0x00..=0x03 | 0x06 | PRIVATE_KEY)
    }
}

/// One identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The label that Set-Identity takes.
    pub label: &'a [u8],
    /// What the card answers to EAP-Request/Identity (a NAI, RFC 7542).
    pub eap_id: &'a [u8],
    /// The EAP method.
    pub method: Type,
    /// Keys, certificates, policy, in order.
    pub items: Vec<Item<'a>>,
    /// Where the record stands in the memory.
    pub span: Range<usize>,
}

/// One key of a record.
#[derive(Clone, PartialEq, Eq)]
pub struct Item<'a> {
    /// Key type, see [`kind`].
    pub kind: u8,
    /// Where the value stands in the memory.
    pub at: usize,
    /// The value.
    pub value: &'a [u8],
}

impl std::fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "type {:02X}, {} bytes", self.kind, self.value.len())
    }
}

/// Why a memory does not hold records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The memory ends inside a record, or no FF ends the records.
    #[error("the record at offset {0} is cut off")]
    Truncated(usize),
    /// The alias type is not 00.
    #[error("alias type {kind:02X} at offset {at}")]
    AliasType {
        /// The byte there.
        kind: u8,
        /// Its place.
        at: usize,
    },
    /// A policy field of a wrong length or value.
    #[error("policy field {0:02X} has a wrong length or value")]
    Policy(u8),
    /// A label or a value is too long for its length field, or there are over 255 keys.
    #[error("{0} too long or too many for a record")]
    TooLong(&'static str),
}

/// Reads the records up to FF, and tells where FF stands.
///
/// # Errors
/// [`RecordError`] names the place.
pub fn parse(memory: &[u8]) -> Result<(Vec<Record<'_>>, usize), RecordError> {
    let mut records = Vec::new();
    let mut cursor = Cursor { memory, at: 0 };
    loop {
        let start = cursor.at;
        match cursor.byte(start)? {
            END => return Ok((records, start)),
            0x00 => records.push(cursor.record(start)?),
            kind => return Err(RecordError::AliasType { kind, at: start }),
        }
    }
}

/// Where the first record stands that is not whole, or FF: everything before it can be kept.
#[must_use]
pub fn whole_until(memory: &[u8]) -> usize {
    let mut cursor = Cursor { memory, at: 0 };
    loop {
        let start = cursor.at;
        let whole = cursor.byte(start) == Ok(0x00) && cursor.record(start).is_ok();
        if !whole {
            return start;
        }
    }
}

struct Cursor<'a> {
    memory: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize, start: usize) -> Result<&'a [u8], RecordError> {
        let end = self.at.saturating_add(length);
        let bytes = self
            .memory
            .get(self.at..end)
            .ok_or(RecordError::Truncated(start))?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self, start: usize) -> Result<u8, RecordError> {
        Ok(self.take(1, start)?[0])
    }

    fn record(&mut self, start: usize) -> Result<Record<'a>, RecordError> {
        let length = self.byte(start)?;
        let label = self.take(usize::from(length), start)?;
        let length = self.byte(start)?;
        let eap_id = self.take(usize::from(length), start)?;
        let method = Type(self.byte(start)?);
        let count = self.byte(start)?;
        let mut items = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let kind = self.byte(start)?;
            let length = u16::from_be_bytes([self.byte(start)?, self.byte(start)?]);
            let at = self.at;
            let value = self.take(usize::from(length), start)?;
            items.push(Item { kind, at, value });
        }
        Ok(Record {
            label,
            eap_id,
            method,
            items,
            span: start..self.at,
        })
    }
}

/// Writes one record (without the FF that ends the records).
///
/// # Errors
/// [`RecordError::TooLong`].
pub fn encode(
    label: &[u8],
    eap_id: &[u8],
    method: Type,
    items: &[(u8, &[u8])],
) -> Result<Vec<u8>, RecordError> {
    let short =
        |what, bytes: &[u8]| u8::try_from(bytes.len()).map_err(|_| RecordError::TooLong(what));
    let mut out = vec![0x00, short("label", label)?];
    out.extend_from_slice(label);
    out.push(short("EAP-ID", eap_id)?);
    out.extend_from_slice(eap_id);
    out.push(method.0);
    out.push(u8::try_from(items.len()).map_err(|_| RecordError::TooLong("keys"))?);
    for (kind, value) in items {
        let length = u16::try_from(value.len()).map_err(|_| RecordError::TooLong("value"))?;
        out.push(*kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
    Ok(out)
}

/// How an identity does TLS: key type 24, fields of tag (1), length (1), value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// 01: lowest protocol version, 0303 or 0304.
    pub min_version: u16,
    /// 02: highest protocol version, 0303 or 0304.
    pub max_version: u16,
    /// 03: cipher suites in order of preference; empty = all that the card has.
    pub cipher_suites: Vec<u16>,
    /// 04: TLS data bytes of one EAP-TLS fragment, 100 to 1,398.
    pub fragment_size: u16,
    /// 05: whether the key block may leave the card, once a session.
    pub export_key_block: bool,
    /// 06: whether Get-Session-Key swaps the halves of the MSK as the draft's own code does.
    pub legacy_msk_order: bool,
    /// 07: whether certificates are taken without a clock, their validity unchecked.
    pub allow_no_clock: bool,
    /// 08: whether sessions are resumed.
    pub resumption: bool,
    /// 09: whether EAP-Success is taken without EAP-TLS 1.3's protected success byte.
    pub accept_missing_commitment: bool,
    /// 0A: whether root keys derived from the EMSK (AMSK, RFC 5295) may leave the card.
    pub export_amsk: bool,
    /// 0B: whether answers over 256 bytes are announced by `9Fxx`, as the draft's traces do, not by `61xx`.
    pub legacy_9f: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_version: 0x0303,
            max_version: 0x0304,
            cipher_suites: Vec::new(),
            fragment_size: 1398,
            export_key_block: true,
            legacy_msk_order: false,
            allow_no_clock: false,
            resumption: true,
            accept_missing_commitment: false,
            export_amsk: false,
            legacy_9f: false,
        }
    }
}

impl Policy {
    /// Reads the fields of key type 24; absent ones have their defaults.
    ///
    /// # Errors
    /// [`RecordError::Policy`] for an unknown field, a wrong length or a value outside its range.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut policy = Self::default();
        let mut rest = bytes;
        while let [tag, length, after @ ..] = rest {
            let (value, after) = after
                .split_at_checked(usize::from(*length))
                .ok_or(RecordError::Policy(*tag))?;
            policy.field(*tag, value).ok_or(RecordError::Policy(*tag))?;
            rest = after;
        }
        match rest {
            [] if policy.min_version <= policy.max_version => Ok(policy),
            [] => Err(RecordError::Policy(0x01)),
            [tag, ..] => Err(RecordError::Policy(*tag)),
        }
    }

    fn field(&mut self, tag: u8, value: &[u8]) -> Option<()> {
        let version = || number(value).filter(|v| matches!(v, 0x0303 | 0x0304));
        match tag {
            0x01 => self.min_version = version()?,
            0x02 => self.max_version = version()?,
            0x03 => self.cipher_suites = suites(value)?,
            0x04 => self.fragment_size = number(value).filter(|n| (100..=1398).contains(n))?,
            0x05 => self.export_key_block = flag(value)?,
            0x06 => self.legacy_msk_order = flag(value)?,
            0x07 => self.allow_no_clock = flag(value)?,
            0x08 => self.resumption = flag(value)?,
            0x09 => self.accept_missing_commitment = flag(value)?,
            0x0A => self.export_amsk = flag(value)?,
            0x0B => self.legacy_9f = flag(value)?,
            _ => return None,
        }
        Some(())
    }

    /// The fields of key type 24. Cipher suites over 127 are cut there.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in [
            (1, self.min_version),
            (2, self.max_version),
            (4, self.fragment_size),
        ] {
            out.extend_from_slice(&[tag, 2]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        let suites = &self.cipher_suites[..self.cipher_suites.len().min(127)];
        if !suites.is_empty() {
            out.extend_from_slice(&[3, u8::try_from(suites.len() * 2).unwrap_or(u8::MAX)]);
            out.extend(suites.iter().flat_map(|suite| suite.to_be_bytes()));
        }
        let flags = [
            (5, self.export_key_block),
            (6, self.legacy_msk_order),
            (7, self.allow_no_clock),
            (8, self.resumption),
            (9, self.accept_missing_commitment),
        ];
        for (tag, value) in flags {
            out.extend_from_slice(&[tag, 1, u8::from(value)]);
        }
        // Cards of before know neither: they are told only what differs from the default.
        for (tag, value) in [(10, self.export_amsk), (11, self.legacy_9f)] {
            if value {
                out.extend_from_slice(&[tag, 1, 1]);
            }
        }
        out
    }
}

fn number(value: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(value).ok().map(u16::from_be_bytes)
}

fn flag(value: &[u8]) -> Option<bool> {
    match value {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn suites(value: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = value.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_and_their_end() {
        let mut memory = encode(
            b"alice",
            b"a@x",
            Type::TLS,
            &[(kind::ROLE, &[0]), (kind::SLOT, &[0x9A])],
        )
        .unwrap();
        let first = memory.len();
        memory.extend(encode(b"bob", b"", Type::TLS, &[]).unwrap());
        let end = memory.len();
        memory.resize(MEMORY, END);
        let (records, at) = parse(&memory).unwrap();
        assert_eq!((records.len(), at), (2, end));
        assert_eq!(
            (records[0].label, records[0].eap_id),
            (&b"alice"[..], &b"a@x"[..])
        );
        assert_eq!(records[0].items[1].value, [0x9A]);
        assert_eq!(memory[records[0].items[1].at], 0x9A);
        assert_eq!(records[1].span, first..end);
        assert_eq!(whole_until(&memory), end);
        assert_eq!(whole_until(&memory[..end - 1]), first);
        assert_eq!(whole_until(&[]), 0);
    }

    #[test]
    fn a_memory_that_lies() {
        assert_eq!(parse(&[]), Err(RecordError::Truncated(0)));
        assert_eq!(parse(&[0, 5, b'a', END]), Err(RecordError::Truncated(0)));
        let one = encode(b"a", b"", Type::TLS, &[(kind::ROLE, &[0])]).unwrap();
        assert_eq!(parse(&one), Err(RecordError::Truncated(one.len())));
        assert_eq!(parse(&[7]), Err(RecordError::AliasType { kind: 7, at: 0 }));
    }

    #[test]
    fn policies() {
        let policy = Policy {
            min_version: 0x0304,
            cipher_suites: vec![0x1301, 0xC02F],
            fragment_size: 240,
            export_key_block: false,
            accept_missing_commitment: true,
            export_amsk: true,
            legacy_9f: true,
            ..Policy::default()
        };
        assert_eq!(Policy::parse(&policy.encode()), Ok(policy));
        assert_eq!(Policy::parse(&[]), Ok(Policy::default()));
        // What a card of before does not know is not told without need.
        assert!(
            !Policy::default()
                .encode()
                .windows(2)
                .any(|f| f == [10, 1] || f == [11, 1])
        );
        let refused = |bytes: &[u8]| Policy::parse(bytes).unwrap_err();
        assert_eq!(refused(&[4, 2, 0, 99]), RecordError::Policy(4));
        assert_eq!(refused(&[4, 2, 5, 0x77]), RecordError::Policy(4));
        assert_eq!(refused(&[1, 2, 3, 2]), RecordError::Policy(1));
        assert_eq!(refused(&[1, 2, 3, 4, 2, 2, 3, 3]), RecordError::Policy(1));
        assert_eq!(refused(&[3, 1, 0]), RecordError::Policy(3));
        assert_eq!(refused(&[5, 1, 2]), RecordError::Policy(5));
        assert_eq!(refused(&[10, 0]), RecordError::Policy(10));
        assert_eq!(refused(&[12, 1, 0]), RecordError::Policy(12));
        assert_eq!(refused(&[5]), RecordError::Policy(5));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            prop_assert!(whole_until(&bytes) <= bytes.len());
            let _ = Policy::parse(&bytes);
        }
    }
}
