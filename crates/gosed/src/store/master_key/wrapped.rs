//! A master key that a passphrase wraps: a text of lines, Argon2id (RFC 9106) and AES-256-GCM.
//!
//! ```text
//! gose-wrapped-key 1
//! argon2id memory-kib=65536 passes=3 lanes=1
//! salt     16 bytes in hexadecimal
//! nonce    12 bytes
//! key      32 bytes and the tag of 16, over the lines above
//! ```
//!
//! What is wrapped never changes: another passphrase, or none, leaves every image as it is.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use gose_card::image::MasterKey;
use gose_proto::hex;
use zeroize::Zeroizing;

const MAGIC: &str = "gose-wrapped-key ";
const VERSION: &str = "1";

/// What Argon2id costs whoever guesses, and whoever starts the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// Memory, KiB.
    pub(super) memory_kib: u32,
    /// Passes over it.
    pub(super) passes: u32,
}

impl Default for Work {
    /// RFC 9106, 4: the second recommended choice, 64 MiB and three passes; its four lanes are one after the other
    /// here.
    fn default() -> Self {
        Self {
            memory_kib: 65_536,
            passes: 3,
        }
    }
}

impl Work {
    /// # Errors
    /// What is out of bounds.
    pub(super) fn check(self) -> Result<Self, String> {
        if !(8..=2 << 20).contains(&self.memory_kib) {
            return Err(format!(
                "Argon2id with {} KiB; from 8 KiB to 2 GiB",
                self.memory_kib
            ));
        }
        if !(1..=100).contains(&self.passes) {
            return Err(format!("Argon2id with {} passes; 1 to 100", self.passes));
        }
        Ok(self)
    }
}

/// A wrapped key.
pub(super) struct Wrapped {
    pub(super) work: Work,
    salt: [u8; 16],
    nonce: [u8; 12],
    sealed: [u8; 48],
}

impl Wrapped {
    /// Whether bytes say of themselves that they are a wrapped key.
    pub(super) fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC.as_bytes())
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "the wrapped key is damaged; restore it from a backup".to_owned();
        if !Self::is(bytes) {
            return Err(
                "no passphrase wraps it; `gosed key change --passphrase SOURCE` wraps it, or take passphrase out of [store]"
                    .to_owned(),
            );
        }
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let mut lines = text.lines();
        match lines.next().and_then(|line| line.strip_prefix(MAGIC)) {
            Some(VERSION) => {}
            version => {
                return Err(format!(
                    "wrapped keys of version {} are unknown to this program; update it",
                    version.unwrap_or("?").chars().take(10).collect::<String>()
                ));
            }
        }
        let parameters = lines.next().and_then(parameters).ok_or_else(damaged)?;
        let mut field = |name: &str| {
            let line = lines.next()?;
            let (key, value) = line.split_once(' ')?;
            hex::decode(value).ok().filter(|_| key == name)
        };
        let salt = field("salt").and_then(|bytes| bytes.try_into().ok());
        let nonce = field("nonce").and_then(|bytes| bytes.try_into().ok());
        let sealed = field("key").and_then(|bytes| bytes.try_into().ok());
        match (salt, nonce, sealed, lines.next()) {
            (Some(salt), Some(nonce), Some(sealed), None) => Ok(Self {
                work: parameters.check()?,
                salt,
                nonce,
                sealed,
            }),
            _ => Err(damaged()),
        }
    }

    /// Salt and nonce are random.
    pub(super) fn wrap(
        key: &MasterKey,
        passphrase: &[u8],
        work: Work,
        salt: [u8; 16],
        nonce: [u8; 12],
    ) -> Result<Self, String> {
        let mut wrapped = Self {
            work: work.check()?,
            salt,
            nonce,
            sealed: [0; 48],
        };
        let aead = wrapped.aead(passphrase)?;
        let mut body = key.clone();
        let tag = aead
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(wrapped.head().into_bytes()),
                body.as_mut_slice(),
            )
            .map_err(|_| "encryption failed".to_owned())?;
        wrapped.sealed[..32].copy_from_slice(body.as_slice());
        wrapped.sealed[32..].copy_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    pub(super) fn open(&self, passphrase: &[u8]) -> Result<MasterKey, String> {
        let aead = self.aead(passphrase)?;
        let mut body = Zeroizing::new(self.sealed);
        let plain = aead
            .open_in_place(
                Nonce::assume_unique_for_key(self.nonce),
                Aad::from(self.head().into_bytes()),
                body.as_mut_slice(),
            )
            .map_err(|_| "the passphrase is wrong, or the wrapped key was changed".to_owned())?;
        let mut key = MasterKey::default();
        if plain.len() != key.len() {
            return Err("the wrapped key is damaged; restore it from a backup".to_owned());
        }
        key.copy_from_slice(plain);
        Ok(key)
    }

    pub(super) fn text(&self) -> String {
        format!("{}key {}\n", self.head(), hex::encode(&self.sealed))
    }

    fn head(&self) -> String {
        format!(
            "{MAGIC}{VERSION}\nargon2id memory-kib={} passes={} lanes=1\nsalt {}\nnonce {}\n",
            self.work.memory_kib,
            self.work.passes,
            hex::encode(&self.salt),
            hex::encode(&self.nonce)
        )
    }

    fn aead(&self, passphrase: &[u8]) -> Result<LessSafeKey, String> {
        let failed = |error: &dyn std::fmt::Display| format!("Argon2id: {error}");
        let params = Params::new(self.work.memory_kib, self.work.passes, 1, Some(32))
            .map_err(|error| failed(&error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut derived = Zeroizing::new([0; 32]);
        argon2
            .hash_password_into(passphrase, &self.salt, derived.as_mut_slice())
            .map_err(|error| failed(&error))?;
        UnboundKey::new(&AES_256_GCM, derived.as_slice())
            .map(LessSafeKey::new)
            .map_err(|_| "AES-256-GCM is not to be had".to_owned())
    }
}

fn parameters(line: &str) -> Option<Work> {
    let rest = line.strip_prefix("argon2id ")?.strip_suffix(" lanes=1")?;
    let (memory, passes) = rest.split_once(' ')?;
    Some(Work {
        memory_kib: memory.strip_prefix("memory-kib=")?.parse().ok()?,
        passes: passes.strip_prefix("passes=")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Work = Work {
        memory_kib: 8,
        passes: 1,
    };

    fn wrapped() -> String {
        let key = MasterKey::new([7; 32]);
        let wrapped = Wrapped::wrap(&key, b"correct horse", QUICK, [1; 16], [2; 12]).unwrap();
        wrapped.text()
    }

    #[test]
    fn one_passphrase_opens_it() {
        let text = wrapped();
        let parsed = Wrapped::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.text(), text);
        assert_eq!(*parsed.open(b"correct horse").unwrap(), [7; 32]);
        let error = parsed.open(b"correct horse ").err().unwrap();
        assert!(error.contains("passphrase is wrong"), "{error}");
    }

    #[test]
    fn any_change_is_noticed() {
        let text = wrapped();
        for place in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[place] ^= 1;
            // Digits of another case mean the same.
            let opened = Wrapped::parse(&changed).and_then(|wrapped| {
                if wrapped.work.memory_kib > 1024 || wrapped.work.passes > 10 {
                    return Err("too dear for a test".into());
                }
                wrapped.open(b"correct horse")
            });
            assert!(opened.is_err(), "byte {place}");
        }
        for cut in 0..text.len() - 1 {
            assert!(
                Wrapped::parse(&text.as_bytes()[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        for (from, to, says) in [
            ("key 1", "key 2", "update it"),
            ("memory-kib=8", "memory-kib=7", "from 8 KiB"),
            ("memory-kib=8", "memory-kib=4294967295", "2 GiB"),
            ("passes=1", "passes=0", "1 to 100"),
            ("gose-wrapped-key", "something", "no passphrase wraps it"),
        ] {
            let error = Wrapped::parse(text.replacen(from, to, 1).as_bytes())
                .err()
                .unwrap();
            assert!(error.contains(says), "{error}");
        }
    }

    /// RFC 9106 has no vector without secret and associated data; this one is the reference program's
    /// (`argon2 0123456789abcdef -id -t 3 -k 64 -p 1 -l 32 -r`).
    #[test]
    fn the_derivation_is_argon2id() {
        let params = Params::new(64, 3, 1, Some(32)).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut out = [0; 32];
        argon2
            .hash_password_into(b"passphrase", b"0123456789abcdef", &mut out)
            .unwrap();
        assert_eq!(
            hex::encode(&out),
            "6EEB301D7836ABD079378CD280331815926BC829239DD206A54FD1F6590E3A1E"
        );
    }
}
