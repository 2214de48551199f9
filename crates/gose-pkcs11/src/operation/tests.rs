//! Wycheproof's vectors for the signatures that the host checks and the paddings that it takes off.

use rsa::{
    BigUint, RsaPrivateKey,
    pkcs8::DecodePrivateKey,
    traits::{PrivateKeyParts, PublicKeyParts},
};
use wycheproof::{
    HashFunction, TestResult, ecdsa, rsa_oaep, rsa_pkcs1_decrypt, rsa_pkcs1_verify, rsa_pss_verify,
};

use super::*;
use crate::padding::Pss;

fn hash(function: HashFunction) -> Option<Hash> {
    match function {
        HashFunction::Sha1 => Some(Hash::Sha1),
        HashFunction::Sha2_224 => Some(Hash::Sha224),
        HashFunction::Sha2_256 => Some(Hash::Sha256),
        HashFunction::Sha2_384 => Some(Hash::Sha384),
        HashFunction::Sha2_512 => Some(Hash::Sha512),
        _ => None,
    }
}

/// Whether a signature of a message counts, as C_Verify judges it.
fn counts(mechanism: &Mechanism, public: &Public, message: &[u8], signature: &[u8]) -> bool {
    let mut gather = Gather::new(mechanism.hash());
    gather.add(message).unwrap();
    verify(mechanism, public, &gather.finish(), signature).is_ok()
}

#[test]
fn ecdsa_signatures() {
    let mut tried = 0;
    for name in ecdsa::TestName::all() {
        let set = ecdsa::TestSet::load(name).unwrap();
        // r ‖ s of P1363, as PKCS#11 has them.
        if !format!("{name:?}").ends_with("P1363") {
            continue;
        }
        for group in set.test_groups {
            let (Some(hash), Some(public)) = (hash(group.hash), Public::of_info(&group.der)) else {
                continue;
            };
            for test in group.tests {
                let good = counts(&Mechanism::Ecdsa(Some(hash)), &public, &test.msg, &test.sig);
                assert_eq!(
                    good,
                    test.result == TestResult::Valid,
                    "{name:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn signatures_of_pkcs1() {
    let mut tried = 0;
    for name in rsa_pkcs1_verify::TestName::all() {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let (Some(hash), Some(public)) = (hash(group.hash), Public::of_info(&group.der)) else {
                continue;
            };
            for test in group.tests {
                let good = counts(
                    &Mechanism::RsaPkcs(Some(hash)),
                    &public,
                    &test.msg,
                    &test.sig,
                );
                // A DigestInfo without NULL is acceptable to some; it does not count here.
                assert_eq!(
                    good,
                    test.result == TestResult::Valid,
                    "{name:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn signatures_of_pss() {
    let mut tried = 0;
    for name in rsa_pss_verify::TestName::all() {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let mgf = group.mgf_hash.and_then(hash);
            let (Some(hash), Some(mgf)) = (hash(group.hash), mgf) else {
                continue;
            };
            // Keys with parameters of their own have another algorithm identifier.
            let Some(public) =
                Public::of_info(&group.der).filter(|key| matches!(key, Public::Rsa(_)))
            else {
                continue;
            };
            let pss = Pss {
                hash,
                mgf,
                salt: group.salt_size,
            };
            for test in group.tests {
                let good = counts(
                    &Mechanism::RsaPss(Some(hash), pss),
                    &public,
                    &test.msg,
                    &test.sig,
                );
                let wanted = test.result != TestResult::Invalid;
                assert_eq!(good, wanted, "{name:?} {}: {}", test.tc_id, test.comment);
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

/// What C_Decrypt gives; the number that an element computes is computed here.
fn decrypted(mechanism: &Mechanism, pkcs8: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let key = RsaPrivateKey::from_pkcs8_der(pkcs8).unwrap();
    let public = Public::Rsa(Rsa {
        modulus: key.n().to_bytes_be(),
        exponent: key.e().to_bytes_be(),
    });
    let Command::RsaRaw(block) = super::ciphertext(mechanism, &public, ciphertext)? else {
        panic!("decryption is raw RSA");
    };
    let number = BigUint::from_bytes_be(&block).modpow(key.d(), key.n());
    let bytes = number.to_bytes_be();
    let result = [vec![0; block.len() - bytes.len()], bytes].concat();
    let message = plaintext(mechanism, &result)?;
    assert!(message.len() <= plaintext_len(mechanism, &public));
    Ok(message)
}

#[test]
fn messages_of_pkcs1() {
    let mut tried = 0;
    for name in rsa_pkcs1_decrypt::TestName::all() {
        let groups = rsa_pkcs1_decrypt::TestSet::load(name).unwrap().test_groups;
        for group in groups.into_iter().filter(|group| group.key_size == 2048) {
            for test in group.tests {
                let message = decrypted(&Mechanism::RsaPkcs(None), &group.pkcs8, &test.ct);
                let good = message.is_ok_and(|message| *message == test.pt.to_vec());
                let wanted = test.result != TestResult::Invalid;
                assert_eq!(good, wanted, "{name:?} {}: {}", test.tc_id, test.comment);
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

#[test]
fn messages_of_oaep() {
    let mut tried = 0;
    for name in rsa_oaep::TestName::all() {
        // Longer keys change nothing of the padding, and take minutes without the shortcuts of an element.
        let groups = rsa_oaep::TestSet::load(name).unwrap().test_groups;
        for group in groups.into_iter().filter(|group| group.key_size == 2048) {
            let (Some(hash), Some(mgf)) = (hash(group.hash), hash(group.mgf_hash)) else {
                continue;
            };
            for test in group.tests {
                let label = test.label.to_vec();
                let mechanism = Mechanism::RsaOaep { hash, mgf, label };
                let message = decrypted(&mechanism, &group.pkcs8, &test.ct);
                let good = message.is_ok_and(|message| *message == test.pt.to_vec());
                let wanted = test.result != TestResult::Invalid;
                assert_eq!(good, wanted, "{name:?} {}: {}", test.tc_id, test.comment);
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "{tried}");
}
