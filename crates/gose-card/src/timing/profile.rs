//! A price list: what each primitive takes on one card.

use std::{borrow::Cow, time::Duration};

use super::{Cost, cards};

/// Prices of the primitives on a card.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The profile's name in configurations.
    pub name: &'static str,
    /// The card, as whoever measured it calls it, and when that was.
    pub card: &'static str,
    /// One 64-byte hash block.
    pub hash_block: Duration,
    /// Beginning and ending one hash or MAC.
    pub hash_message: Duration,
    /// One RSA private operation, 2048 bits.
    pub rsa_private: Duration,
    /// One RSA public operation.
    pub rsa_public: Duration,
    /// One ECDSA signature on P-256.
    pub ecdsa_sign: Duration,
    /// One ECDSA verification on P-256.
    pub ecdsa_verify: Duration,
    /// One agreement on P-256.
    pub ec_agree: Duration,
    /// One ephemeral key pair.
    pub ec_ephemeral: Duration,
    /// One long-term key pair on P-256.
    pub key_generate: Duration,
    /// One long-term RSA key pair, 2048 bits.
    pub rsa_generate: Duration,
    /// One byte through a cipher.
    pub cipher_byte: Duration,
    /// Beginning and ending one message through a cipher.
    pub cipher_message: Duration,
    /// One key of a cipher made ready.
    pub cipher_key: Duration,
    /// One byte on the line to the card.
    pub io_byte: Duration,
    /// Whether larger keys cost more: operations by the cube of their length over 2048 or 256 bits, RSA key
    /// pairs by its fourth power.
    pub by_length: bool,
    /// Where no measured figure stands, what stands instead.
    pub substitutes: Cow<'static, [Substitute]>,
}

/// A figure that nobody measured, and what stands instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Substitute {
    /// What is priced.
    pub figure: &'static str,
    /// With what.
    pub instead: &'static str,
}

impl Profile {
    /// The card of the paper (section V): RSA-1024 private 560 ms and public 25 ms, SHA-1 0.93 ms a block,
    /// 0.17 ms a byte of I/O, RC4 0.50 ms a byte; elliptic curves are not in the paper and cost nothing.
    pub const PAPER_2014: Self = Self {
        name: "paper-2014",
        card: "the paper's Java card, section V (2014)",
        hash_block: Duration::from_micros(930),
        hash_message: Duration::ZERO,
        rsa_private: Duration::from_millis(560),
        rsa_public: Duration::from_millis(25),
        ecdsa_sign: Duration::ZERO,
        ecdsa_verify: Duration::ZERO,
        ec_agree: Duration::ZERO,
        ec_ephemeral: Duration::ZERO,
        key_generate: Duration::ZERO,
        rsa_generate: Duration::ZERO,
        cipher_byte: Duration::from_micros(500),
        cipher_message: Duration::ZERO,
        cipher_key: Duration::ZERO,
        io_byte: Duration::from_micros(170),
        by_length: false,
        substitutes: Cow::Borrowed(&[
            Substitute {
                figure: "RSA of any length",
                instead: "the paper's RSA-1024",
            },
            Substitute {
                figure: "any hash",
                instead: "the paper's SHA-1, a block of 64 bytes",
            },
            Substitute {
                figure: "any cipher",
                instead: "the paper's RC4",
            },
            Substitute {
                figure: "elliptic curves and key pairs",
                instead: "nothing: the paper has none",
            },
        ]),
    };

    /// All profiles: the paper's, then the measured cards.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        static PAPER: Profile = Profile::PAPER_2014;
        std::iter::once(&PAPER).chain(cards::measured())
    }

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|profile| profile.name == name)
    }

    /// The time that `cost` takes on this card.
    #[must_use]
    pub fn price(&self, cost: &Cost) -> Duration {
        // Hundredths, so that the cube of 3/2 stays whole.
        let (cube_1_5, cube_2, fourth_1_5, fourth_2) = if self.by_length {
            (338, 800, 506, 1600)
        } else {
            (100, 100, 100, 100)
        };
        let of = &cost.of_these;
        let mut total = Total(0);
        total.add(self.hash_block, cost.hash_blocks);
        total.add(self.hash_message, cost.hash_messages);
        total.add(
            self.rsa_private,
            less(cost.rsa_private, of.rsa_3072 + of.rsa_4096),
        );
        total.times(self.rsa_private, of.rsa_3072, cube_1_5);
        total.times(self.rsa_private, of.rsa_4096, cube_2);
        total.add(self.rsa_public, cost.rsa_public);
        total.add(self.ecdsa_sign, less(cost.ecdsa_sign, of.sign_p384));
        total.times(self.ecdsa_sign, of.sign_p384, cube_1_5);
        total.add(self.ecdsa_verify, less(cost.ecdsa_verify, of.verify_p384));
        total.times(self.ecdsa_verify, of.verify_p384, cube_1_5);
        total.add(
            self.ec_agree,
            less(cost.ec_agree, of.agree_p384 + of.ephemeral),
        );
        total.times(self.ec_agree, of.agree_p384, cube_1_5);
        total.add(self.ec_ephemeral, of.ephemeral);
        let rsa = of.generate_rsa_2048 + of.generate_rsa_3072 + of.generate_rsa_4096;
        total.add(
            self.key_generate,
            less(cost.key_generate, of.generate_p384 + rsa),
        );
        total.times(self.key_generate, of.generate_p384, cube_1_5);
        total.add(self.rsa_generate, of.generate_rsa_2048);
        total.times(self.rsa_generate, of.generate_rsa_3072, fourth_1_5);
        total.times(self.rsa_generate, of.generate_rsa_4096, fourth_2);
        total.add(self.cipher_byte, cost.cipher_bytes);
        total.add(self.cipher_message, cost.cipher_messages);
        total.add(self.cipher_key, cost.cipher_keys);
        total.add(self.io_byte, cost.io_bytes);
        Duration::from_nanos(u64::try_from(total.0).unwrap_or(u64::MAX))
    }
}

fn less(count: u64, others: u64) -> u64 {
    count.saturating_sub(others)
}

/// Nanoseconds.
struct Total(u128);

impl Total {
    fn add(&mut self, each: Duration, count: u64) {
        self.times(each, count, 100);
    }

    fn times(&mut self, each: Duration, count: u64, hundredths: u128) {
        let product = each.as_nanos().saturating_mul(u128::from(count));
        self.0 = self
            .0
            .saturating_add(product.saturating_mul(hundredths) / 100);
    }
}

#[cfg(test)]
mod tests {
    use gose_element::Algorithm;

    use super::*;

    #[test]
    fn larger_keys_cost_more_where_the_card_says_so() {
        let of = |name: &str, count: &dyn Fn(&mut Cost)| {
            let mut cost = Cost::default();
            count(&mut cost);
            Profile::named(name).unwrap().price(&cost)
        };
        let private = |algorithm| move |cost: &mut Cost| Cost::count_private(cost, algorithm);
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
        assert_eq!(of("j3r180", &private(Algorithm::P256)), ms(31.96));
        assert_eq!(of("j3r180", &private(Algorithm::P384)), ms(31.96 * 3.38));
        assert_eq!(of("j3r180", &private(Algorithm::Rsa2048)), ms(53.23));
        assert_eq!(of("j3r180", &private(Algorithm::Rsa3072)), ms(53.23 * 3.38));
        for algorithm in [Algorithm::Rsa2048, Algorithm::Rsa3072] {
            assert_eq!(of("paper-2014", &private(algorithm)), ms(560.0));
        }
        let key = |algorithm| move |cost: &mut Cost| Cost::count_generation(cost, algorithm);
        assert_eq!(of("j3r180", &key(Algorithm::P256)), ms(26.8));
        assert!(of("j3r180", &key(Algorithm::Rsa2048)) > ms(1000.0));
        assert!(
            of("j3r180", &key(Algorithm::Rsa3072)) > of("j3r180", &key(Algorithm::Rsa2048)) * 5
        );
        assert_eq!(
            of("j3r180", &|cost| {
                cost.ec_agree += 2;
                cost.of_these.ephemeral += 1;
            }),
            ms(31.96 + 26.8)
        );
    }

    #[test]
    fn a_price_that_no_clock_holds_is_the_longest_there_is() {
        let cost = Cost {
            rsa_private: u64::MAX,
            ..Cost::default()
        };
        assert_eq!(
            Profile::PAPER_2014.price(&cost),
            Duration::from_nanos(u64::MAX)
        );
    }
}
