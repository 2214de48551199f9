//! Cards that were measured: the rows of `cards.csv`, published results of JCAlgTest and of its authors'
//! studies (columns in milliseconds unless their name says otherwise), as price lists.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock, time::Duration};

use super::{Profile, Substitute};

const TABLE: &str = include_str!("cards.csv");

/// The profiles of the table, in its order.
pub(super) fn measured() -> &'static [Profile] {
    static MEASURED: LazyLock<Vec<Profile>> = LazyLock::new(|| rows().map(profile).collect());
    &MEASURED
}

/// A row's figures by the names of their columns; one that is empty or no number is not there.
struct Row {
    text: HashMap<&'static str, &'static str>,
    substitutes: Vec<Substitute>,
}

fn rows() -> impl Iterator<Item = Row> {
    let mut lines = TABLE.lines();
    let header: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    lines.map(move |line| Row {
        text: header.iter().copied().zip(line.split(',')).collect(),
        substitutes: Vec::new(),
    })
}

impl Row {
    fn text(&self, column: &str) -> &'static str {
        self.text.get(column).copied().unwrap_or_default()
    }

    /// A figure, times `factor`. Fitted constants below zero are none: no price is negative.
    fn figure(&self, column: &str, factor: f64) -> Option<Duration> {
        let number: f64 = self.text(column).parse().ok()?;
        let nanos = (number * factor * 1e6).round();
        // A price is at most minutes: far below 2^53 nanoseconds.
        (0.0..9e15)
            .contains(&nanos)
            .then(|| Duration::from_secs_f64(nanos / 1e9))
    }

    fn instead(&mut self, figure: &'static str, instead: &'static str) {
        self.substitutes.push(Substitute { figure, instead });
    }

    /// The figure, or another one and the reason.
    fn or(&mut self, column: &'static str, other: Duration, instead: &'static str) -> Duration {
        self.figure(column, 1.0).unwrap_or_else(|| {
            self.instead(column, instead);
            other
        })
    }

    /// A fitted line (fixed part and slope a byte) as fixed part and price of `unit` bytes; where there is
    /// none, what 256 bytes took, shared by `shares` units.
    fn line(&mut self, line: Line) -> (Duration, Duration) {
        if let (Some(fixed), Some(unit)) = (
            self.figure(line.fixed, 1.0),
            self.figure(line.slope, line.unit / 1000.0),
        ) {
            return (fixed, unit);
        }
        self.instead(line.fixed, line.instead);
        let whole = self.figure(line.whole, 1.0).unwrap_or_default();
        (Duration::ZERO, whole / line.shares)
    }
}

struct Line {
    fixed: &'static str,
    slope: &'static str,
    unit: f64,
    whole: &'static str,
    shares: u32,
    instead: &'static str,
}

fn profile(mut row: Row) -> Profile {
    let rsa_private = row.figure("rsa2048_priv_crt", 1.0).unwrap_or_default();
    let rsa_public = row.or(
        "rsa2048_pub",
        rsa_private / 17,
        "a 17th of the private operation, the median of the other cards",
    );
    let generate = row.figure("ec_p256_keygen", 1.0).unwrap_or_default();
    let curve = "the card's key generation: one multiplication on the curve and more";
    let ecdsa_sign = row.or("ecdsa_p256_sign", generate, curve);
    let ecdsa_verify = row.or("ecdsa_p256_verify", generate, curve);
    let (hash_fixed, hash_block) = row.line(Line {
        fixed: "sha256_fixed_ms",
        slope: "sha256_us_per_byte",
        unit: 64.0,
        whole: "sha256_256B",
        // 256 bytes and their padding.
        shares: 5,
        instead: "nothing, and a fifth of the hash of 256 bytes for each of its blocks",
    });
    let (cipher_message, cipher_byte) = row.line(Line {
        fixed: "aes128cbc_fixed_ms",
        slope: "aes128cbc_us_per_byte",
        unit: 1.0,
        whole: "aes128_cbc_256B",
        shares: 256,
        instead: "nothing, and a 256th of 256 bytes of AES-CBC for each byte",
    });
    for (figure, instead) in [
        ("ECDH", "ECDSA's signature: one multiplication on the curve"),
        ("ephemeral key pairs", "ec_p256_keygen, on every curve"),
        (
            "RSA key pairs",
            "80 private operations: some 40 candidates for each of two primes of half the length",
        ),
        (
            "GCM and other modes",
            "AES-128 in CBC; authentication costs nothing",
        ),
        ("SHA-384", "two blocks of SHA-256 for one of its own"),
        (
            "lengths above 2048 and 256 bits",
            "the cube of the ratio of lengths",
        ),
        ("randomness", "nothing"),
    ] {
        row.instead(figure, instead);
    }
    Profile {
        name: row.text("profile"),
        card: row.text("card"),
        hash_block,
        // The fitted fixed part holds the padding's block, which is counted.
        hash_message: hash_fixed.saturating_sub(hash_block),
        rsa_private,
        rsa_public,
        ecdsa_sign,
        ecdsa_verify,
        ec_agree: ecdsa_sign,
        ec_ephemeral: generate,
        key_generate: generate,
        rsa_generate: rsa_private * 80,
        cipher_byte,
        cipher_message,
        cipher_key: row.figure("aes128_init", 1.0).unwrap_or_default(),
        io_byte: row.figure("io_ms_per_byte", 1.0).unwrap_or_default(),
        by_length: true,
        substitutes: Cow::Owned(std::mem::take(&mut row.substitutes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::Cost;

    #[test]
    fn every_row_is_a_profile_with_every_price() {
        let names: Vec<_> = measured().iter().map(|profile| profile.name).collect();
        let expected = [
            "j3r180",
            "j3h145",
            "j2e081",
            "smartcafe-7",
            "cjtop-80k",
            "feitian-h19cr",
            "idprotect",
            "simome-vault",
        ];
        assert_eq!(names, expected);
        for profile in measured() {
            for price in [
                profile.hash_block,
                profile.rsa_private,
                profile.rsa_public,
                profile.ecdsa_sign,
                profile.ecdsa_verify,
                profile.ec_agree,
                profile.ec_ephemeral,
                profile.key_generate,
                profile.rsa_generate,
                profile.cipher_byte,
                profile.cipher_key,
                profile.io_byte,
            ] {
                assert!(!price.is_zero(), "{profile:?}");
            }
        }
    }

    /// The lines that were fitted give what was measured at 256 bytes, within a tenth.
    #[test]
    fn a_hash_of_256_bytes_costs_what_was_measured() {
        for (row, profile) in rows().zip(measured()) {
            let cost = Cost {
                hash_blocks: 5,
                hash_messages: 1,
                ..Cost::default()
            };
            let measured = row.figure("sha256_256B", 1.0).unwrap().as_secs_f64();
            let ratio = profile.price(&cost).as_secs_f64() / measured;
            assert!((0.9..1.1).contains(&ratio), "{}: {ratio}", profile.name);
        }
    }

    #[test]
    fn what_nobody_measured_is_said() {
        let said = |name: &str, figure: &str| {
            let profile = Profile::named(name).unwrap();
            profile.substitutes.iter().any(|s| s.figure == figure)
        };
        assert!(said("j2e081", "rsa2048_pub") && !said("j3r180", "rsa2048_pub"));
        assert!(said("simome-vault", "ecdsa_p256_sign") && !said("j2e081", "ecdsa_p256_sign"));
        assert!(said("feitian-h19cr", "sha256_fixed_ms") && !said("j3r180", "sha256_fixed_ms"));
        assert!(said("j2e081", "aes128cbc_fixed_ms"), "-1.98 ms is no price");
        assert!(said("j3r180", "ECDH"));
    }
}
