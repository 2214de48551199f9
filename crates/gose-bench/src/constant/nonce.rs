//! ECDSA: whether a signature is faster where its nonce is short (the fault of Minerva and TPM-FAIL). The nonce is
//! reckoned from the signature and the private key: k = (e + r d) / s mod n.

use std::{hint::black_box, time::Instant};

use gose_card::keystore::{Algorithm, KeyStore, SoftwareKeyStore};
use rsa::BigUint;

use super::{random, welch::Samples};
use crate::child::Outcome;

/// The order of P-256 (SP 800-186, 3.2.1.3).
const ORDER: &[u8] = b"FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";

/// Bits that a short nonce has at most: one of sixteen.
const SHORT: usize = 252;

pub(super) fn short(samples: usize) -> Outcome<Samples> {
    let stored = SoftwareKeyStore.generate(Algorithm::P256)?;
    let secret = scalar(&stored.blob).ok_or("the private key is not where PKCS #8 has it")?;
    let order = BigUint::parse_bytes(ORDER, 16).ok_or("the order")?;
    let inverse_of = &order - BigUint::from(2_u8);
    let mut taken = Samples::default();
    for count in 0..samples + samples / 10 {
        let digest = random(32)?;
        let begun = Instant::now();
        let signature = black_box(stored.key.sign_digest(&digest));
        let took = begun.elapsed();
        if count < samples / 10 {
            continue;
        }
        let (r, s) = numbers(&signature?).ok_or("a signature that is no DER")?;
        let inverse = s.modpow(&inverse_of, &order);
        let nonce = (BigUint::from_bytes_be(&digest) + r * &secret) * inverse % &order;
        taken.add(nonce.bits() <= SHORT, took);
    }
    Ok(taken)
}

/// The private scalar: in ECPrivateKey (RFC 5915), after its version 1.
fn scalar(pkcs8: &[u8]) -> Option<BigUint> {
    let head = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = pkcs8
        .windows(head.len())
        .position(|window| window == head)?;
    let bytes = pkcs8.get(at + head.len()..)?.get(..32)?;
    Some(BigUint::from_bytes_be(bytes))
}

/// r and s of an ECDSA-Sig-Value (RFC 3279, 2.2.3), whose lengths fit into a byte.
fn numbers(der: &[u8]) -> Option<(BigUint, BigUint)> {
    let body = der.strip_prefix(&[0x30])?.get(1..)?;
    let (r, rest) = number(body)?;
    let (s, _) = number(rest)?;
    Some((r, s))
}

fn number(bytes: &[u8]) -> Option<(BigUint, &[u8])> {
    let rest = bytes.strip_prefix(&[0x02])?;
    let (length, rest) = rest.split_first()?;
    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((BigUint::from_bytes_be(value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// k G has r as its x coordinate: r k^-1 … is checked by s itself, so a second signature with the reckoned nonce must
    /// give the same s.
    #[test]
    fn the_reckoned_nonce_is_the_one_that_signed() {
        let stored = SoftwareKeyStore.generate(Algorithm::P256).unwrap();
        let secret = scalar(&stored.blob).unwrap();
        let order = BigUint::parse_bytes(ORDER, 16).unwrap();
        let two = &order - BigUint::from(2_u8);
        let digest = [0x5A; 32];
        let e = BigUint::from_bytes_be(&digest);
        let (r, s) = numbers(&stored.key.sign_digest(&digest).unwrap()).unwrap();
        let nonce = (&e + &r * &secret) * s.modpow(&two, &order) % &order;
        let again = nonce.modpow(&two, &order) * (&e + &r * &secret) % &order;
        assert_eq!(again, s);
        // One in sixteen is short, so some of these are.
        let samples = short(400).unwrap();
        assert_eq!(samples.len(), 400);
    }
}
