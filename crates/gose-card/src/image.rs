//! The image of a card: an encrypted log of deltas, to which a host only appends.
//!
//! ```text
//! header   "GoSEcard" ‖ version (1) ‖ salt (32) ‖ check (16)
//! record   length (4) ‖ nonce (12) ‖ check (8) ‖ AES-256-GCM(delta ‖ padding) with its tag
//! ```
//!
//! Version 2 pads deltas to multiples of 128 bytes, so that lengths of records tell less of what a card did:
//! a PIN's counter and a short object look alike. Version 1, which had no padding, is read and goes on as it
//! began; [`Image::compact`] writes version 2. A later version is refused.
//!
//! All keys come by HKDF-SHA-256 from the host's master key, the salt and the SEID, so that an image opens
//! under its own element's name only. A record is bound to its number and to the tag of the record before
//! it: records cannot be reordered, cut out, or moved to another image. The length has a check of its own,
//! so that a record that was cut by a power failure (dropped: nobody was answered) is told from one that
//! was changed (refused). Nonces are random, not counted: a record that was cut and the one written in its
//! place would share a counted nonce.
//!
//! What no file can show is that its last records were taken away; a host that fears whoever writes its
//! disk keeps the number of records elsewhere.

mod encoding;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    hmac,
};
use zeroize::Zeroizing;

use crate::nvm::{Delta, Nvm};

/// Bytes of an image's header.
pub const HEADER: usize = MAGIC.len() + 1 + 32 + CHECK;

const MAGIC: &[u8; 8] = b"GoSEcard";
/// The version that is written.
pub const VERSION: u8 = 2;
/// The oldest version that is read.
const OLDEST: u8 = 1;
/// Deltas of version 2 fill multiples of this.
const PADDED: usize = 128;
const CHECK: usize = 16;
const TAG: usize = 16;
const RECORD_HEADER: usize = 4 + 12 + 8;
/// Larger than any card's whole memory.
const LARGEST: usize = 16 << 20;

/// The key of a host under which its images lie.
pub type MasterKey = Zeroizing<[u8; 32]>;

/// The end of an image: what the next record continues.
pub struct Image {
    aead: LessSafeKey,
    mac: hmac::Key,
    version: u8,
    records: u64,
    previous: [u8; TAG],
    len: usize,
}

/// A record to append, and the image as it is once the record is durable.
#[derive(Debug)]
pub struct Sealed {
    bytes: Vec<u8>,
    previous: [u8; TAG],
}

/// An image that was read.
#[derive(Debug)]
pub struct Opened {
    /// Where to go on.
    pub image: Image,
    /// The memory after the last whole record.
    pub nvm: Nvm,
    /// Bytes of a record that a power failure cut, after [`Image::len`]: the host truncates them away.
    pub torn: usize,
}

/// Why an image cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file ends inside its header.
    #[error(
        "the image ends inside its header, after {0} of {HEADER} bytes; restore it from a backup"
    )]
    HeaderCut(usize),
    /// The file is something else.
    #[error("the file is no image of a card")]
    NoImage,
    /// Written by a later version.
    #[error(
        "the image has version {0}, this program reads versions {OLDEST} to {VERSION}: a later gosed wrote it; \
         install that one again (the image is untouched)"
    )]
    Version(u8),
    /// The header does not belong to this key and this SEID.
    #[error("the image belongs to another master key or another SEID, or its header was changed")]
    OtherKey,
    /// A record was changed, moved, or cut out.
    #[error(
        "record {record} of the image (at byte {offset}) was changed; restore the image from a backup"
    )]
    Changed {
        /// Its number, from 0.
        record: u64,
        /// Where it begins in the file.
        offset: usize,
    },
    /// A delta that is too large for a record.
    #[error("a change of {0} bytes is larger than any card's memory")]
    TooLarge(usize),
    /// AWS-LC failed.
    #[error("encryption of the image failed")]
    Cryptography,
}

impl Image {
    /// A new image without records, and the header to begin its file with. The salt is random.
    ///
    /// # Errors
    /// [`ImageError::Cryptography`].
    pub fn create(
        master: &MasterKey,
        seid: &str,
        salt: [u8; 32],
    ) -> Result<(Self, Vec<u8>), ImageError> {
        let image = Self::derive(master, seid, &salt, VERSION)?;
        let mut header = MAGIC.to_vec();
        header.push(VERSION);
        header.extend_from_slice(&salt);
        header.extend_from_slice(&image.header_check(&header));
        Ok((image, header))
    }

    /// Reads an image: the memory after its last whole record.
    ///
    /// # Errors
    /// [`ImageError`]; a record that was cut at the end is no error but [`Opened::torn`].
    pub fn open(master: &MasterKey, seid: &str, bytes: &[u8]) -> Result<Opened, ImageError> {
        let mut image = Self::read_header(master, seid, bytes)?;
        let mut nvm = Nvm::default();
        while let Some(delta) = image.next_record(bytes)? {
            nvm.apply(delta);
        }
        let torn = bytes.len() - image.len;
        Ok(Opened { image, nvm, torn })
    }

    /// A whole image that holds this memory in one record: what replaces a log that has grown long.
    /// Salt and nonce are random.
    ///
    /// # Errors
    /// As [`Image::create`] and [`Image::seal`].
    pub fn compact(
        master: &MasterKey,
        seid: &str,
        salt: [u8; 32],
        nonce: [u8; 12],
        nvm: &Nvm,
    ) -> Result<(Self, Vec<u8>), ImageError> {
        let (mut image, mut bytes) = Self::create(master, seid, salt)?;
        let sealed = image.seal(&nvm.snapshot(), nonce)?;
        bytes.extend_from_slice(sealed.bytes());
        image.written(&sealed);
        Ok((image, bytes))
    }

    /// Encrypts a delta as the next record. The nonce is random, never used before.
    ///
    /// The image goes on from it only after [`Image::written`]: a record that could not be written is
    /// forgotten, and the file truncated to [`Image::len`].
    ///
    /// # Errors
    /// [`ImageError::TooLarge`], [`ImageError::Cryptography`].
    pub fn seal(&self, delta: &Delta, nonce: [u8; 12]) -> Result<Sealed, ImageError> {
        let unit = if self.version == 1 { 1 } else { PADDED };
        let mut body = Zeroizing::new(encoding::encode(delta, unit));
        let length = body.len() + TAG;
        let header_length = u32::try_from(length)
            .ok()
            .filter(|_| length <= LARGEST)
            .ok_or(ImageError::TooLarge(body.len()))?;
        let tag = self
            .aead
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.associated()),
                &mut body,
            )
            .map_err(|_| ImageError::Cryptography)?;
        let mut bytes = header_length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&self.record_check(&bytes));
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(tag.as_ref());
        let previous = tag
            .as_ref()
            .try_into()
            .map_err(|_| ImageError::Cryptography)?;
        Ok(Sealed { bytes, previous })
    }

    /// The record is durable: the next one continues it.
    pub fn written(&mut self, sealed: &Sealed) {
        self.records += 1;
        self.previous = sealed.previous;
        self.len += sealed.bytes.len();
    }

    /// Bytes of the image, torn ones not counted.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The version that it is written in.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Whether it is of an older version than is written: [`Image::compact`] upgrades it.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.version < VERSION
    }

    /// Records of the image.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the log is so much longer than the memory that compacting it pays.
    #[must_use]
    pub fn is_worth_compacting(&self, nvm: &Nvm) -> bool {
        const SLACK: usize = 64 << 10;
        self.len > SLACK + 4 * nvm.size()
    }

    fn derive(
        master: &MasterKey,
        seid: &str,
        salt: &[u8; 32],
        version: u8,
    ) -> Result<Self, ImageError> {
        let purpose: &[u8] = match version {
            1 => b"gose card image 1",
            _ => b"gose card image 2",
        };
        let secret = Salt::new(HKDF_SHA256, salt).extract(master.as_slice());
        let expand = |label: &[u8]| {
            let info = [purpose, label, seid.as_bytes()];
            let mut key = Zeroizing::new([0; 32]);
            secret
                .expand(&info, HKDF_SHA256)
                .and_then(|okm| okm.fill(key.as_mut_slice()))
                .map_err(|_| ImageError::Cryptography)?;
            Ok::<_, ImageError>(key)
        };
        let aead = UnboundKey::new(&AES_256_GCM, expand(b" records ")?.as_slice());
        Ok(Self {
            aead: LessSafeKey::new(aead.map_err(|_| ImageError::Cryptography)?),
            mac: hmac::Key::new(hmac::HMAC_SHA256, expand(b" checks ")?.as_slice()),
            version,
            records: 0,
            previous: [0; TAG],
            len: HEADER,
        })
    }

    fn read_header(master: &MasterKey, seid: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(ImageError::HeaderCut(bytes.len()));
        };
        let Some((version, rest)) = header.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
            return Err(ImageError::NoImage);
        };
        if !(OLDEST..=VERSION).contains(version) {
            return Err(ImageError::Version(*version));
        }
        let Some((salt, check)) = rest.split_first_chunk::<32>() else {
            return Err(ImageError::NoImage);
        };
        let image = Self::derive(master, seid, salt, *version)?;
        if same(&image.header_check(&header[..HEADER - CHECK]), check) {
            Ok(image)
        } else {
            Err(ImageError::OtherKey)
        }
    }

    /// Reads the record after the last one; `None` at the end, whole or torn.
    fn next_record(&mut self, bytes: &[u8]) -> Result<Option<Delta>, ImageError> {
        let rest = &bytes[self.len..];
        let changed = ImageError::Changed {
            record: self.records,
            offset: self.len,
        };
        let Some((header, rest)) = rest.split_first_chunk::<RECORD_HEADER>() else {
            return Ok(None);
        };
        if !same(&self.record_check(&header[..16]), &header[16..]) {
            // A file system may have lengthened the file before it wrote the bytes.
            let unwritten = header.iter().chain(rest).all(|byte| *byte == 0);
            return if unwritten { Ok(None) } else { Err(changed) };
        }
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(sealed) = rest.get(..length) else {
            return Ok(None);
        };
        let nonce = header[4..16].try_into().map_err(|_| changed)?;
        let (delta, previous) = self.open_record(nonce, sealed).ok_or(changed)?;
        self.records += 1;
        self.previous = previous;
        self.len += RECORD_HEADER + length;
        Ok(Some(delta))
    }

    fn open_record(&self, nonce: [u8; 12], sealed: &[u8]) -> Option<(Delta, [u8; TAG])> {
        let (_, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut body = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self
            .aead
            .open_in_place(nonce, Aad::from(self.associated()), &mut body)
            .ok()?;
        Some((encoding::decode(plain, self.version > 1)?, *tag))
    }

    /// What a record is bound to: its number and the record before it.
    fn associated(&self) -> [u8; 8 + TAG] {
        let mut associated = [0; 8 + TAG];
        associated[..8].copy_from_slice(&self.records.to_be_bytes());
        associated[8..].copy_from_slice(&self.previous);
        associated
    }

    fn header_check(&self, header: &[u8]) -> [u8; CHECK] {
        self.check(&[b"header", header])
    }

    /// Of a record's length and nonce.
    fn record_check(&self, start: &[u8]) -> [u8; 8] {
        self.check(&[b"record", &self.associated(), start])
    }

    fn check<const N: usize>(&self, parts: &[&[u8]]) -> [u8; N] {
        let mut context = hmac::Context::with_key(&self.mac);
        for part in parts {
            context.update(part);
        }
        let mut check = [0; N];
        for (byte, tag) in check.iter_mut().zip(context.sign().as_ref()) {
            *byte = *tag;
        }
        check
    }
}

impl Sealed {
    /// The bytes to append to the file and make durable.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} records, {} bytes)", self.records, self.len)
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    bool::from(one.ct_eq(other))
}

#[cfg(test)]
mod tests;
