//! What a command would cost on a real card: the primitives that really ran, counted, and price lists.

mod cards;
mod profile;

use gose_element::Algorithm;

pub use profile::{Profile, Substitute};

// PIV's identifiers of algorithms (NIST SP 800-78-5, table 9; 16 as other cards have it).
const RSA_3072: u8 = 0x05;
const RSA_4096: u8 = 0x16;
const P384: u8 = 0x14;

/// Primitives that ran for one command, and the bytes of its APDUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// 64-byte blocks compressed by SHA-256 (128-byte blocks of SHA-384 count as two).
    pub hash_blocks: u64,
    /// Messages whose hash or MAC was finished.
    pub hash_messages: u64,
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
    /// Messages sealed or opened.
    pub cipher_messages: u64,
    /// Keys that ciphers were given.
    pub cipher_keys: u64,
    /// Bytes of command and response APDUs.
    pub io_bytes: u64,
    /// What of all this was of another kind than RSA-2048 and P-256.
    pub of_these: OfThese,
}

/// Primitives that cost something else than the ordinary one of their count: other key lengths, other kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OfThese {
    /// RSA private operations with 3072 bits.
    pub rsa_3072: u64,
    /// RSA private operations with 4096 bits.
    pub rsa_4096: u64,
    /// ECDSA signatures on P-384.
    pub sign_p384: u64,
    /// ECDSA verifications on P-384.
    pub verify_p384: u64,
    /// Agreements on P-384.
    pub agree_p384: u64,
    /// Ephemeral key pairs among the agreements; on P-384 too these count here.
    pub ephemeral: u64,
    /// Long-term key pairs on P-384.
    pub generate_p384: u64,
    /// Long-term key pairs of RSA, 2048 bits.
    pub generate_rsa_2048: u64,
    /// Long-term key pairs of RSA, 3072 bits.
    pub generate_rsa_3072: u64,
    /// Long-term key pairs of RSA, 4096 bits.
    pub generate_rsa_4096: u64,
}

impl OfThese {
    const ZERO: Self = Self {
        rsa_3072: 0,
        rsa_4096: 0,
        sign_p384: 0,
        verify_p384: 0,
        agree_p384: 0,
        ephemeral: 0,
        generate_p384: 0,
        generate_rsa_2048: 0,
        generate_rsa_3072: 0,
        generate_rsa_4096: 0,
    };
}

impl Cost {
    /// Whether nothing but bytes of APDUs is counted.
    #[must_use]
    pub fn is_io_alone(&self) -> bool {
        *self
            == Self {
                io_bytes: self.io_bytes,
                ..Self::default()
            }
    }

    /// Nothing ran.
    pub const ZERO: Self = Self {
        hash_blocks: 0,
        hash_messages: 0,
        rsa_private: 0,
        rsa_public: 0,
        ecdsa_sign: 0,
        ecdsa_verify: 0,
        ec_agree: 0,
        key_generate: 0,
        cipher_bytes: 0,
        cipher_messages: 0,
        cipher_keys: 0,
        io_bytes: 0,
        of_these: OfThese::ZERO,
    };

    /// A private operation of a long-term key ran: an RSA block, or an ECDSA signature.
    pub fn count_private(&mut self, algorithm: Algorithm) {
        if algorithm.is_rsa() {
            self.rsa_private += 1;
        } else {
            self.ecdsa_sign += 1;
        }
        match algorithm.id() {
            RSA_3072 => self.of_these.rsa_3072 += 1,
            RSA_4096 => self.of_these.rsa_4096 += 1,
            P384 => self.of_these.sign_p384 += 1,
            _ => {}
        }
    }

    /// A long-term key agreed.
    pub fn count_agreement(&mut self, algorithm: Algorithm) {
        self.ec_agree += 1;
        self.of_these.agree_p384 += u64::from(algorithm.id() == P384);
    }

    /// A long-term key pair was made.
    pub fn count_generation(&mut self, algorithm: Algorithm) {
        self.key_generate += 1;
        match algorithm.id() {
            RSA_3072 => self.of_these.generate_rsa_3072 += 1,
            RSA_4096 => self.of_these.generate_rsa_4096 += 1,
            P384 => self.of_these.generate_p384 += 1,
            _ if algorithm.is_rsa() => self.of_these.generate_rsa_2048 += 1,
            _ => {}
        }
    }

    /// A message of so many bytes went through a cipher.
    pub fn count_cipher(&mut self, bytes: usize) {
        self.cipher_messages += 1;
        self.cipher_bytes += bytes as u64;
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.hash_blocks += other.hash_blocks;
        self.hash_messages += other.hash_messages;
        self.rsa_private += other.rsa_private;
        self.rsa_public += other.rsa_public;
        self.ecdsa_sign += other.ecdsa_sign;
        self.ecdsa_verify += other.ecdsa_verify;
        self.ec_agree += other.ec_agree;
        self.key_generate += other.key_generate;
        self.cipher_bytes += other.cipher_bytes;
        self.cipher_messages += other.cipher_messages;
        self.cipher_keys += other.cipher_keys;
        self.io_bytes += other.io_bytes;
        self.of_these += other.of_these;
    }
}

impl std::ops::AddAssign for OfThese {
    fn add_assign(&mut self, other: Self) {
        self.rsa_3072 += other.rsa_3072;
        self.rsa_4096 += other.rsa_4096;
        self.sign_p384 += other.sign_p384;
        self.verify_p384 += other.verify_p384;
        self.agree_p384 += other.agree_p384;
        self.ephemeral += other.ephemeral;
        self.generate_p384 += other.generate_p384;
        self.generate_rsa_2048 += other.generate_rsa_2048;
        self.generate_rsa_3072 += other.generate_rsa_3072;
        self.generate_rsa_4096 += other.generate_rsa_4096;
    }
}
