//! Hash and HMAC: compressions counted in blocks of 64 bytes.

use aws_lc_rs::hmac::{self as lc};
use rustls::crypto::{
    hash::{Context, Hash, HashAlgorithm, Output},
    hmac::{Hmac, Key, Tag},
};

use super::{count, leak};

/// A hash function, its HMAC, and its block length.
pub(super) struct Metered {
    inner: &'static dyn Hash,
    hmac: lc::Algorithm,
    block: u64,
}

/// SHA-256 or SHA-384, counted.
pub(super) fn metered(inner: &'static dyn Hash) -> &'static Metered {
    let (hmac, block) = match inner.algorithm() {
        HashAlgorithm::SHA384 => (lc::HMAC_SHA384, 128),
        HashAlgorithm::SHA512 => (lc::HMAC_SHA512, 128),
        _ => (lc::HMAC_SHA256, 64),
    };
    leak(Metered { inner, hmac, block })
}

/// Compressions for a message of `length` bytes after `before` bytes that are compressed already: padding is
/// one byte and the length field of an eighth of a block (FIPS 180-4, 5.1), and 128-byte blocks count as two.
fn blocks(length: u64, block: u64) -> u64 {
    (length + 1 + block / 8).div_ceil(block) * (block / 64)
}

/// Counts a whole message of `length` bytes hashed with SHA-256 (`wide`: SHA-384).
pub(super) fn count_message(length: usize, wide: bool) {
    let block = if wide { 128 } else { 64 };
    count_end(blocks(length as u64, block));
}

/// Counts the last blocks of a message, which is then finished.
fn count_end(blocks: u64) {
    count(|cost| {
        cost.hash_blocks += blocks;
        cost.hash_messages += 1;
    });
}

impl Hash for Metered {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Running {
            inner: self.inner.start(),
            block: self.block,
            length: 0,
        })
    }

    fn hash(&self, data: &[u8]) -> Output {
        count_end(blocks(data.len() as u64, self.block));
        self.inner.hash(data)
    }

    fn output_len(&self) -> usize {
        self.inner.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.inner.algorithm()
    }
}

struct Running {
    inner: Box<dyn Context>,
    block: u64,
    length: u64,
}

impl Running {
    /// What padding still costs: full blocks were counted as they came.
    fn count_end(&self) {
        let rest = self.length % self.block;
        count_end(blocks(rest, self.block));
    }
}

impl Context for Running {
    fn fork_finish(&self) -> Output {
        self.count_end();
        self.inner.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self {
            inner: self.inner.fork(),
            block: self.block,
            length: self.length,
        })
    }

    fn finish(self: Box<Self>) -> Output {
        self.count_end();
        self.inner.finish()
    }

    fn update(&mut self, data: &[u8]) {
        let before = self.length / self.block;
        self.length += data.len() as u64;
        let full = self.length / self.block - before;
        count(|cost| cost.hash_blocks += full * (self.block / 64));
        self.inner.update(data);
    }
}

impl Hmac for Metered {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        // The inner and the outer pad are compressed once a key.
        count(|cost| cost.hash_blocks += 2 * (self.block / 64));
        if key.len() as u64 > self.block {
            count(|cost| cost.hash_blocks += blocks(key.len() as u64, self.block));
        }
        Box::new(HmacKey {
            inner: lc::Key::new(self.hmac, key),
            block: self.block,
            length: self.inner.output_len(),
        })
    }

    fn hash_output_len(&self) -> usize {
        self.inner.output_len()
    }
}

struct HmacKey {
    inner: lc::Key,
    block: u64,
    length: usize,
}

impl Key for HmacKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut context = lc::Context::with_key(&self.inner);
        let mut length = 0;
        for part in [first].iter().chain(middle).chain(&[last]) {
            context.update(part);
            length += part.len() as u64;
        }
        let outer = blocks(self.length as u64, self.block);
        count_end(blocks(length, self.block) + outer);
        Tag::new(context.sign().as_ref())
    }

    fn tag_len(&self) -> usize {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{applet::eap_tls::meter::measure, timing::Cost};

    fn cost(work: impl FnOnce()) -> u64 {
        let mut cost = Cost::default();
        measure(&mut cost, work);
        cost.hash_blocks
    }

    #[test]
    fn blocks_with_padding() {
        for (length, block, expected) in [
            (0, 64, 1),
            (55, 64, 1),
            (56, 64, 2),
            (119, 64, 2),
            (120, 64, 3),
            (111, 128, 2),
            (112, 128, 4),
        ] {
            assert_eq!(blocks(length, block), expected, "{length} of {block}");
        }
    }

    #[test]
    fn any_split_costs_the_same() {
        let suite = rustls::crypto::aws_lc_rs::default_provider().cipher_suites[1];
        let hash = metered(suite.tls13().unwrap().common.hash_provider);
        let data = [7; 200];
        let whole = cost(|| drop(hash.hash(&data).as_ref().to_vec()));
        let split = cost(|| {
            let mut context = hash.start();
            data.chunks(33).for_each(|part| context.update(part));
            let forked = context.fork_finish();
            assert_eq!(forked.as_ref(), hash.inner.hash(&data).as_ref());
        });
        assert_eq!(whole, split);
    }
}
