//! What a command would cost on a real card: the primitives that really ran, counted, and a price list.

use std::time::Duration;

/// Primitives that ran for one command, and the bytes of its APDUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// 64-byte blocks compressed by SHA-256 (128-byte blocks of SHA-384 count as two).
    pub hash_blocks: u64,
    /// RSA private operations.
    pub rsa_private: u64,
    /// RSA public operations.
    pub rsa_public: u64,
    /// ECDSA signatures.
    pub ecdsa_sign: u64,
    /// ECDSA verifications.
    pub ecdsa_verify: u64,
    /// Key agreements and ephemeral key generations on elliptic curves.
    pub ec_agree: u64,
    /// Long-term key pairs generated.
    pub key_generate: u64,
    /// Bytes sealed or opened by AEAD or block ciphers.
    pub cipher_bytes: u64,
    /// Bytes of command and response APDUs.
    pub io_bytes: u64,
}

impl Cost {
    /// Nothing ran.
    pub const ZERO: Self = Self {
        hash_blocks: 0,
        rsa_private: 0,
        rsa_public: 0,
        ecdsa_sign: 0,
        ecdsa_verify: 0,
        ec_agree: 0,
        key_generate: 0,
        cipher_bytes: 0,
        io_bytes: 0,
    };
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.hash_blocks += other.hash_blocks;
        self.rsa_private += other.rsa_private;
        self.rsa_public += other.rsa_public;
        self.ecdsa_sign += other.ecdsa_sign;
        self.ecdsa_verify += other.ecdsa_verify;
        self.ec_agree += other.ec_agree;
        self.key_generate += other.key_generate;
        self.cipher_bytes += other.cipher_bytes;
        self.io_bytes += other.io_bytes;
    }
}

/// Prices of the primitives on a card.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The profile's name in configurations.
    pub name: &'static str,
    /// One 64-byte hash block.
    pub hash_block: Duration,
    /// One RSA private operation.
    pub rsa_private: Duration,
    /// One RSA public operation.
    pub rsa_public: Duration,
    /// One ECDSA signature.
    pub ecdsa_sign: Duration,
    /// One ECDSA verification.
    pub ecdsa_verify: Duration,
    /// One agreement or ephemeral key generation.
    pub ec_agree: Duration,
    /// One long-term key pair.
    pub key_generate: Duration,
    /// One byte through a cipher.
    pub cipher_byte: Duration,
    /// One byte on the line to the card.
    pub io_byte: Duration,
}

impl Profile {
    /// The card of the paper (section V): RSA-1024 private 560 ms and public 25 ms, SHA-1 0.93 ms a block,
    /// 0.17 ms a byte of I/O, RC4 0.50 ms a byte; elliptic curves are not in the paper and cost nothing.
    pub const PAPER_2014: Self = Self {
        name: "paper-2014",
        hash_block: Duration::from_micros(930),
        rsa_private: Duration::from_millis(560),
        rsa_public: Duration::from_millis(25),
        ecdsa_sign: Duration::ZERO,
        ecdsa_verify: Duration::ZERO,
        ec_agree: Duration::ZERO,
        key_generate: Duration::ZERO,
        cipher_byte: Duration::from_micros(500),
        io_byte: Duration::from_micros(170),
    };

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        [&Self::PAPER_2014]
            .into_iter()
            .find(|profile| profile.name == name)
    }

    /// The time that `cost` takes on this card.
    #[must_use]
    pub fn price(&self, cost: &Cost) -> Duration {
        let nanos = |each: Duration, count: u64| each.as_nanos().saturating_mul(u128::from(count));
        let total = nanos(self.hash_block, cost.hash_blocks)
            + nanos(self.rsa_private, cost.rsa_private)
            + nanos(self.rsa_public, cost.rsa_public)
            + nanos(self.ecdsa_sign, cost.ecdsa_sign)
            + nanos(self.ecdsa_verify, cost.ecdsa_verify)
            + nanos(self.ec_agree, cost.ec_agree)
            + nanos(self.key_generate, cost.key_generate)
            + nanos(self.cipher_byte, cost.cipher_bytes)
            + nanos(self.io_byte, cost.io_bytes);
        Duration::from_nanos(u64::try_from(total).unwrap_or(u64::MAX))
    }
}
