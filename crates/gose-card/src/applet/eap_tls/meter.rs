//! The cryptography of TLS, counted: every primitive that really runs adds to the thread's current
//! [`Cost`].
//!
//! Suites must be `'static`, so no card's state can live in them: the counter is the thread's, and
//! [`measure`] swaps it around each command.

mod aead;
mod hash;
mod kx;
mod verify;

use std::{cell::Cell, sync::LazyLock};

use rustls::{
    CipherSuite, CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
    crypto::{CryptoProvider, aws_lc_rs, tls12::PrfUsingHmac, tls13::HkdfUsingHmac},
};

use crate::{keystore::Algorithm, timing::Cost};

thread_local! {
    static METER: Cell<Cost> = const { Cell::new(Cost::ZERO) };
}

/// Runs `work` and adds what it cost to `cost`.
pub(super) fn measure<T>(cost: &mut Cost, work: impl FnOnce() -> T) -> T {
    let outer = METER.replace(Cost::ZERO);
    let result = work();
    *cost += METER.replace(outer);
    result
}

/// Counts something that ran.
pub(super) fn count(add: impl FnOnce(&mut Cost)) {
    let mut cost = METER.get();
    add(&mut cost);
    METER.set(cost);
}

/// Counts a signature with a key of the card, and the hash of its message.
pub(super) fn count_signature(algorithm: Algorithm, message: usize) {
    hash::count_message(message, algorithm == Algorithm::P384);
    count(|cost| cost.count_private(algorithm));
}

/// The suites of the card, in order of preference (RFC 9190, 2.1; TLS 1.2 with ECDHE and AEAD only).
const SUITES: [CipherSuite; 7] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The metered provider: made once a process, since suites live as long as it.
static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(|| {
    let inner = aws_lc_rs::default_provider();
    let suite = |wanted: &CipherSuite| {
        let found = inner.cipher_suites.iter().find(|s| s.suite() == *wanted)?;
        Some(metered_suite(*found))
    };
    CryptoProvider {
        cipher_suites: SUITES.iter().filter_map(suite).collect(),
        kx_groups: kx::groups(),
        signature_verification_algorithms: verify::algorithms(),
        ..inner
    }
});

/// The provider with the cipher suites of a policy, in its order; all of the card's where it names none.
pub(super) fn provider(suites: &[u16]) -> CryptoProvider {
    let mut provider = PROVIDER.clone();
    if !suites.is_empty() {
        provider.cipher_suites = suites
            .iter()
            .filter_map(|wanted| {
                let is_wanted = |s: &&SupportedCipherSuite| u16::from(s.suite()) == *wanted;
                PROVIDER.cipher_suites.iter().find(is_wanted).copied()
            })
            .collect();
    }
    provider
}

fn metered_suite(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls12(inner) => {
            let hash = hash::metered(inner.common.hash_provider);
            SupportedCipherSuite::Tls12(leak(Tls12CipherSuite {
                common: common(&inner.common, hash),
                prf_provider: leak(PrfUsingHmac(hash)),
                aead_alg: leak(aead::Tls12(inner.aead_alg)),
                ..*inner
            }))
        }
        SupportedCipherSuite::Tls13(inner) => {
            let hash = hash::metered(inner.common.hash_provider);
            SupportedCipherSuite::Tls13(leak(Tls13CipherSuite {
                common: common(&inner.common, hash),
                hkdf_provider: leak(HkdfUsingHmac(hash)),
                aead_alg: leak(aead::Tls13(inner.aead_alg)),
                quic: None,
            }))
        }
    }
}

fn common(inner: &CipherSuiteCommon, hash: &'static hash::Metered) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: inner.suite,
        hash_provider: hash,
        confidentiality_limit: inner.confidentiality_limit,
    }
}

/// Once a process: see [`PROVIDER`].
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_nest() {
        let (mut outer, mut inner) = (Cost::default(), Cost::default());
        measure(&mut outer, || {
            count(|cost| cost.ec_agree += 1);
            measure(&mut inner, || count(|cost| cost.ec_agree += 5));
            count(|cost| cost.ec_agree += 1);
        });
        assert_eq!((outer.ec_agree, inner.ec_agree), (2, 5));
    }

    #[test]
    fn the_suites_of_the_card_and_of_a_policy() {
        assert_eq!(provider(&[]).cipher_suites.len(), SUITES.len());
        let chosen = provider(&[0xC02B, 0x1301, 0x0005]).cipher_suites;
        let ids: Vec<u16> = chosen.iter().map(|s| s.suite().into()).collect();
        assert_eq!(ids, [0xC02B, 0x1301]);
    }
}
