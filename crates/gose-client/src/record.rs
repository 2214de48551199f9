//! The TLS record layer on the host, for the session whose handshake an element made (phase 3).
//!
//! The element exports protocol version, cipher suite, key block and sequence numbers once
//! (`docs/protocol.md`, "Exported parameters"); from then on both ends protect records here: TLS 1.2 with AEAD suites
//! (RFC 5246, 6.2.3.3; RFC 5288; RFC 7905) and TLS 1.3 (RFC 8446, 5), including key updates.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

/// Greatest plaintext of a record (RFC 8446, 5.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Bytes of the header: type, version, length.
pub const HEADER: usize = 5;
/// Greatest record that [`Opener::open`] takes, header included: TLS 1.2 allows 2,048 bytes of expansion.
pub const MAX_RECORD: usize = HEADER + MAX_PLAINTEXT + 2048;

/// Content types (RFC 8446, 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// 15
    Alert,
    /// 16
    Handshake,
    /// 17
    ApplicationData,
}

impl ContentType {
    const fn byte(self) -> u8 {
        match self {
            Self::Alert => 0x15,
            Self::Handshake => 0x16,
            Self::ApplicationData => 0x17,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x15 => Some(Self::Alert),
            0x16 => Some(Self::Handshake),
            0x17 => Some(Self::ApplicationData),
            _ => None,
        }
    }
}

/// Which side of the TLS session this host stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It writes with the client's key.
    Client,
    /// It writes with the server's key.
    Server,
}

/// What an element exports, as it came.
pub struct Exported<'a> {
    /// Protocol version: 0303 or 0304 hexadecimal.
    pub version: u16,
    /// Cipher suite (IANA's number).
    pub suite: u16,
    /// Key block: TLS 1.2 client key ‖ server key ‖ client IV ‖ server IV; TLS 1.3 client ‖ server
    /// application traffic secret.
    pub key_block: &'a [u8],
    /// Number of the client's next record.
    pub client_seq: u64,
    /// Number of the server's next record.
    pub server_seq: u64,
}

/// Why records cannot be protected or read. After an error of [`Opener::open`] the session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A version or suite that this host does not have.
    #[error(
        "TLS version {0:04x} with cipher suite {1:04x} cannot run on the host; leave the record layer in the element"
    )]
    Unsupported(u16, u16),
    /// The key block has another length than the suite's.
    #[error("the key block has {found} bytes, the suite needs {needed}")]
    KeyBlock {
        /// Bytes that the suite needs.
        needed: usize,
        /// Bytes that came.
        found: usize,
    },
    /// The record does not authenticate: it was changed, replayed, left out or put out of order.
    #[error("a record does not authenticate")]
    BadRecordMac,
    /// The record's form is wrong.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// 2^64 records under one key.
    #[error("all sequence numbers are used; make a new session")]
    Exhausted,
    /// AES-GCM may protect 2^24 full records under one key (RFC 8446, 5.5).
    #[error("the key has protected as many records as is safe; make a new session")]
    KeyWorn,
}

/// Cuts the key block into the two directions of `side`.
///
/// # Errors
/// [`RecordError::Unsupported`], [`RecordError::KeyBlock`].
pub fn host_layer(side: Side, exported: &Exported<'_>) -> Result<(Sealer, Opener), RecordError> {
    let suite = Suite::find(exported.version, exported.suite)?;
    let (client, server) = suite.directions(exported.key_block)?;
    let client = Direction {
        protection: client,
        seq: exported.client_seq,
    };
    let server = Direction {
        protection: server,
        seq: exported.server_seq,
    };
    let (write, read) = match side {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    Ok((Sealer(write), Opener(read)))
}

/// Protects records in one direction.
pub struct Sealer(Direction);

impl Sealer {
    /// Appends the records that carry `payload`, each of at most 16,384 bytes, to `out`.
    ///
    /// # Errors
    /// [`RecordError::Exhausted`], [`RecordError::KeyWorn`]; `out` then holds the records before.
    pub fn seal(
        &mut self,
        content: ContentType,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        for piece in payload.chunks(MAX_PLAINTEXT) {
            self.0.seal(content, piece, out)?;
        }
        Ok(())
    }

    /// Appends a close_notify alert (RFC 8446, 6.1).
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        self.0.seal(ContentType::Alert, &[1, 0], out)
    }
}

/// Reads records of one direction.
pub struct Opener(Direction);

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Application data, in the place of the record.
    Data(&'a [u8]),
    /// The peer closes: no data follows.
    Close,
    /// The peer failed: the alert's description.
    Alert(u8),
    /// A message of TLS 1.3 after the handshake: a ticket, which is dropped, or a key update, which is
    /// followed.
    PostHandshake,
}

impl Opener {
    /// How many bytes the record at the start of `bytes` has in all, once its header is there.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when its length is over the limit.
    pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let [_, _, _, hi, lo, ..] = bytes else {
            return Ok(None);
        };
        let length = HEADER + usize::from(u16::from_be_bytes([*hi, *lo]));
        if length > MAX_RECORD {
            Err(RecordError::Malformed("over-long"))
        } else {
            Ok(Some(length))
        }
    }

    /// Opens one whole record in its own place.
    ///
    /// # Errors
    /// [`RecordError`]; nothing after it can be read.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, RecordError> {
        let (content, plain) = self.0.open(record)?;
        match content {
            ContentType::ApplicationData => Ok(Opened::Data(plain)),
            ContentType::Alert => match *plain {
                [_, 0] => Ok(Opened::Close),
                [_, description] => Ok(Opened::Alert(description)),
                _ => Err(RecordError::Malformed("alert")),
            },
            ContentType::Handshake => {
                let update = plain.first() == Some(&0x18);
                if update {
                    self.0.update_key()?
                }
                Ok(Opened::PostHandshake)
            }
        }
    }
}

/// Key, IV and next sequence number of one direction.
struct Direction {
    protection: Protection,
    seq: u64,
}

enum Protection {
    Tls12 {
        key: LessSafeKey,
        iv: Zeroizing<Vec<u8>>,
    },
    Tls13 {
        key: LessSafeKey,
        iv: Zeroizing<[u8; 12]>,
        secret: Zeroizing<Vec<u8>>,
        suite: Suite,
    },
}

/// Records under one AES-GCM key (RFC 8446, 5.5: 2^24.5 full records).
const GCM_RECORDS: u64 = 1 << 24;

impl Direction {
    fn take_seq(&mut self) -> Result<u64, RecordError> {
        let seq = self.seq;
        let gcm = self.key().algorithm() != &CHACHA20_POLY1305;
        if gcm && seq >= GCM_RECORDS {
            return Err(RecordError::KeyWorn);
        }
        self.seq = seq.checked_add(1).ok_or(RecordError::Exhausted)?;
        Ok(seq)
    }

    fn key(&self) -> &LessSafeKey {
        match &self.protection {
            Protection::Tls12 { key, .. } | Protection::Tls13 { key, .. } => key,
        }
    }

    fn seal(
        &mut self,
        content: ContentType,
        piece: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let seq = self.take_seq()?;
        let start = out.len();
        out.reserve(HEADER + 8 + piece.len() + 1 + 16);
        match &self.protection {
            Protection::Tls12 { key, iv } => {
                let (nonce, explicit) = tls12_nonce(iv, seq, seq.to_be_bytes());
                let length = explicit.len() + piece.len() + 16;
                out.extend_from_slice(&header(content.byte(), length));
                out.extend_from_slice(explicit.as_slice());
                let at = out.len();
                out.extend_from_slice(piece);
                let aad = tls12_aad(seq, content.byte(), piece.len());
                seal_at(key, nonce, &aad, out, at)?;
            }
            Protection::Tls13 { key, iv, .. } => {
                let head = header(ContentType::ApplicationData.byte(), piece.len() + 1 + 16);
                out.extend_from_slice(&head);
                out.extend_from_slice(piece);
                out.push(content.byte());
                seal_at(key, xor_nonce(iv, seq), &head, out, start + HEADER)?;
            }
        }
        Ok(())
    }

    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(ContentType, &'a [u8]), RecordError> {
        let Some((head, body)) = record.split_first_chunk_mut::<HEADER>() else {
            return Err(RecordError::Malformed("shorter than its header"));
        };
        if usize::from(u16::from_be_bytes([head[3], head[4]])) != body.len() {
            return Err(RecordError::Malformed("length"));
        }
        let seq = self.take_seq()?;
        match &self.protection {
            Protection::Tls12 { key, iv } => {
                let content =
                    ContentType::from_byte(head[0]).ok_or(RecordError::Malformed("type"))?;
                let explicit_len = if iv.len() == 4 { 8 } else { 0 };
                let Some((explicit, sealed)) = body.split_at_mut_checked(explicit_len) else {
                    return Err(RecordError::Malformed("no explicit nonce"));
                };
                let mut from_record = seq.to_be_bytes();
                if explicit_len == 8 {
                    from_record.copy_from_slice(explicit);
                }
                let (nonce, _) = tls12_nonce(iv, seq, from_record);
                let length = sealed
                    .len()
                    .checked_sub(16)
                    .ok_or(RecordError::Malformed("no tag"))?;
                let aad = tls12_aad(seq, head[0], length);
                let plain = key
                    .open_in_place(nonce, Aad::from(aad), sealed)
                    .map_err(|_| RecordError::BadRecordMac)?;
                Ok((content, plain))
            }
            Protection::Tls13 { key, iv, .. } => {
                if head[0] != ContentType::ApplicationData.byte() {
                    return Err(RecordError::Malformed("type"));
                }
                let plain = key
                    .open_in_place(xor_nonce(iv, seq), Aad::from(*head), body)
                    .map_err(|_| RecordError::BadRecordMac)?;
                let end = plain
                    .iter()
                    .rposition(|b| *b != 0)
                    .ok_or(RecordError::Malformed("no content type"))?;
                let content =
                    ContentType::from_byte(plain[end]).ok_or(RecordError::Malformed("type"))?;
                Ok((content, &plain[..end]))
            }
        }
    }

    /// RFC 8446, 7.2: the next generation of the traffic secret.
    fn update_key(&mut self) -> Result<(), RecordError> {
        if let Protection::Tls13 { secret, suite, .. } = &self.protection {
            let next = suite.expand(secret, b"traffic upd", secret.len())?;
            self.protection = suite.tls13(&next)?;
            self.seq = 0;
        }
        Ok(())
    }
}

fn header(content: u8, length: usize) -> [u8; HEADER] {
    // At most 16,384 + 256 bytes: pieces are cut before.
    let [hi, lo] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [content, 0x03, 0x03, hi, lo]
}

fn seal_at(
    key: &LessSafeKey,
    nonce: Nonce,
    aad: &[u8],
    out: &mut Vec<u8>,
    at: usize,
) -> Result<(), RecordError> {
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[at..])
        .map_err(|_| RecordError::Malformed("over-long plaintext"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

/// RFC 5246, 6.2.3.3: sequence number, type, version, length of the plaintext.
fn tls12_aad(seq: u64, content: u8, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&seq.to_be_bytes());
    let [_, _, _, hi, lo] = header(content, length);
    aad[8..].copy_from_slice(&[content, 0x03, 0x03, hi, lo]);
    aad
}

/// GCM: salt ‖ explicit part, which stands in the record (RFC 5288, 3). ChaCha20-Poly1305: IV xor
/// sequence number, nothing in the record (RFC 7905, 2).
fn tls12_nonce(iv: &[u8], seq: u64, explicit: [u8; 8]) -> (Nonce, Explicit) {
    let mut nonce = [0; 12];
    if let Ok(iv) = <&[u8; 12]>::try_from(iv) {
        return (xor_nonce(iv, seq), Explicit::None);
    }
    nonce[..iv.len().min(4)].copy_from_slice(&iv[..iv.len().min(4)]);
    nonce[4..].copy_from_slice(&explicit);
    (
        Nonce::assume_unique_for_key(nonce),
        Explicit::Bytes(explicit),
    )
}

enum Explicit {
    None,
    Bytes([u8; 8]),
}

impl Explicit {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Bytes(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }
}

/// RFC 8446, 5.3.
fn xor_nonce(iv: &[u8; 12], seq: u64) -> Nonce {
    let mut nonce = *iv;
    for (byte, s) in nonce[4..].iter_mut().zip(seq.to_be_bytes()) {
        *byte ^= s;
    }
    Nonce::assume_unique_for_key(nonce)
}

#[derive(Clone, Copy)]
struct Suite {
    tls13: bool,
    aead: &'static Algorithm,
    hash: hkdf::Algorithm,
}

impl Suite {
    fn find(version: u16, suite: u16) -> Result<Self, RecordError> {
        let (aead, hash) = match (version, suite) {
            (0x0304, 0x1301) | (0x0303, 0xC02B | 0xC02F) => (&AES_128_GCM, hkdf::HKDF_SHA256),
            (0x0304, 0x1302) | (0x0303, 0xC02C | 0xC030) => (&AES_256_GCM, hkdf::HKDF_SHA384),
            (0x0304, 0x1303) | (0x0303, 0xCCA8 | 0xCCA9) => (&CHACHA20_POLY1305, hkdf::HKDF_SHA256),
            _ => return Err(RecordError::Unsupported(version, suite)),
        };
        Ok(Self {
            tls13: version == 0x0304,
            aead,
            hash,
        })
    }

    fn directions(&self, block: &[u8]) -> Result<(Protection, Protection), RecordError> {
        let key = self.aead.key_len();
        let iv = if self.aead == &CHACHA20_POLY1305 {
            12
        } else {
            4
        };
        let secret = self.hash.hmac_algorithm().digest_algorithm().output_len();
        let needed = 2 * if self.tls13 { secret } else { key + iv };
        if block.len() != needed {
            return Err(RecordError::KeyBlock {
                needed,
                found: block.len(),
            });
        }
        if self.tls13 {
            let (client, server) = block.split_at(secret);
            return Ok((self.tls13(client)?, self.tls13(server)?));
        }
        let (keys, ivs) = block.split_at(2 * key);
        let side = |n: usize| -> Result<Protection, RecordError> {
            Ok(Protection::Tls12 {
                key: self.key(&keys[n * key..][..key])?,
                iv: Zeroizing::new(ivs[n * iv..][..iv].to_vec()),
            })
        };
        Ok((side(0)?, side(1)?))
    }

    /// RFC 8446, 7.3.
    fn tls13(&self, secret: &[u8]) -> Result<Protection, RecordError> {
        let key = self.expand(secret, b"key", self.aead.key_len())?;
        let mut iv = Zeroizing::new([0; 12]);
        iv.copy_from_slice(&self.expand(secret, b"iv", 12)?);
        Ok(Protection::Tls13 {
            key: self.key(&key)?,
            iv,
            secret: Zeroizing::new(secret.to_vec()),
            suite: *self,
        })
    }

    fn key(&self, bytes: &[u8]) -> Result<LessSafeKey, RecordError> {
        let wrong = RecordError::KeyBlock {
            needed: self.aead.key_len(),
            found: bytes.len(),
        };
        UnboundKey::new(self.aead, bytes)
            .map(LessSafeKey::new)
            .map_err(|_| wrong)
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
    fn expand(
        &self,
        secret: &[u8],
        label: &[u8],
        length: usize,
    ) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let malformed = RecordError::Malformed("key derivation");
        let [hi, lo] = u16::try_from(length).map_err(|_| malformed)?.to_be_bytes();
        let label_len = u8::try_from(6 + label.len()).map_err(|_| malformed)?;
        let info: [&[u8]; 4] = [&[hi, lo, label_len], b"tls13 ", label, &[0]];
        let mut out = Zeroizing::new(vec![0; length]);
        let prk = hkdf::Prk::new_less_safe(self.hash, secret);
        let okm = prk.expand(&info, Length(length)).map_err(|_| malformed)?;
        okm.fill(&mut out).map_err(|_| malformed)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
