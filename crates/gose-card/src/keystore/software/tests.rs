use aws_lc_rs::{
    agreement, digest, rand,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256,
        VerificationAlgorithm,
    },
};
use gose_proto::hex;

use aws_lc_rs::encoding::AsBigEndian;

use super::*;
use crate::keystore::Scheme;

fn generated(algorithm: Algorithm) -> Stored {
    let stored = SoftwareKeyStore.generate(algorithm).unwrap();
    assert_eq!(stored.key.algorithm(), algorithm);
    stored
}

fn verifies(
    key: &dyn PrivateKey,
    algorithm: &'static dyn VerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    // The aws-lc verifier reads SubjectPublicKeyInfo as well as bare keys.
    ParsedPublicKey::new(algorithm, key.public_key_info())
        .unwrap()
        .verify_sig(message, signature)
        .is_ok()
}

#[test]
fn a_key_is_the_same_after_it_was_opened_again() {
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048] {
        let stored = generated(algorithm);
        let again = SoftwareKeyStore.open(&stored.blob).unwrap();
        assert_eq!(again.algorithm(), algorithm);
        assert_eq!(again.public_key_info(), stored.key.public_key_info());
        assert!(!format!("{again:?}").contains('['));
    }
    assert!(matches!(
        SoftwareKeyStore.open(b"no key"),
        Err(KeyError::Input)
    ));
}

#[test]
fn ecdsa_of_messages_and_of_digests_verifies() {
    let cases: [(_, _, &'static dyn VerificationAlgorithm, _); 2] = [
        (
            Algorithm::P256,
            Scheme::EcdsaP256Sha256,
            &ECDSA_P256_SHA256_ASN1,
            &digest::SHA256,
        ),
        (
            Algorithm::P384,
            Scheme::EcdsaP384Sha384,
            &ECDSA_P384_SHA384_ASN1,
            &digest::SHA384,
        ),
    ];
    for (algorithm, scheme, verification, hash) in cases {
        let key = generated(algorithm).key;
        let whole = key.sign(scheme, b"message").unwrap();
        let hashed = key
            .sign_digest(digest::digest(hash, b"message").as_ref())
            .unwrap();
        assert!(verifies(&*key, verification, b"message", &whole));
        assert!(verifies(&*key, verification, b"message", &hashed));
        assert!(!verifies(&*key, verification, b"massage", &hashed));
        let wrong = key.sign(Scheme::RsaPkcs1Sha256, b"").unwrap_err();
        assert_eq!(wrong, KeyError::Unsupported);
        for bad in [&[][..], &[1; 49]] {
            assert_eq!(key.sign_digest(bad).unwrap_err(), KeyError::Input);
        }
    }
}

#[test]
fn a_short_digest_keeps_its_number() {
    let key = generated(Algorithm::P256).key;
    let signature = key.sign_digest(&[7; 20]).unwrap();
    let mut padded = [0; 32];
    padded[12..].copy_from_slice(&[7; 20]);
    let digest = digest::Digest::import_less_safe(&padded, &digest::SHA256).unwrap();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key_info())
        .unwrap()
        .verify_digest_sig(&digest, &signature)
        .unwrap();
}

#[test]
fn both_sides_agree() {
    let (ours, theirs) = (
        generated(Algorithm::P256).key,
        generated(Algorithm::P256).key,
    );
    let point = |key: &dyn PrivateKey| key.public_key_info()[26..].to_vec();
    let shared = ours.agree(&point(&*theirs)).unwrap();
    assert_eq!(*shared, *theirs.agree(&point(&*ours)).unwrap());
    assert_eq!(shared.len(), 32);
    let mut off_curve = point(&*theirs);
    off_curve[64] ^= 1;
    for bad in [&off_curve[..], &off_curve[..64], &[], &[0]] {
        assert_eq!(ours.agree(bad).unwrap_err(), KeyError::Input);
    }
    #[expect(clippy::disallowed_types, reason = "the other end is no card")]
    let ephemeral =
        agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &rand::SystemRandom::new())
            .unwrap();
    let other = ours
        .agree(ephemeral.compute_public_key().unwrap().as_ref())
        .unwrap();
    let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, point(&*ours));
    agreement::agree_ephemeral(ephemeral, peer, (), |secret| {
        assert_eq!(secret, other.as_slice());
        Ok(())
    })
    .unwrap();
}

/// RFC 5903, 8.1: the 256-bit random ECP group.
#[test]
fn agreement_of_rfc_5903() {
    let i = "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433";
    let gi = "04DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C37725811805271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3";
    let gr = "04D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF6356FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB";
    let shared = "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE";
    let pkcs8 = format!(
        "308187020100301306072A8648CE3D020106082A8648CE3D030107046D306B0201010420{i}A144034200{gi}"
    );
    let stored = SoftwareKeyStore
        .import(&hex::decode(pkcs8).unwrap())
        .unwrap();
    let agreed = stored.key.agree(&hex::decode(gr).unwrap()).unwrap();
    assert_eq!(hex::encode(&agreed), shared);
}

#[test]
fn rsa_signs_and_the_raw_operation_agrees_with_aws_lc() {
    let key = rsa::RsaKey::open(&rsa::generate(Algorithm::Rsa2048).unwrap()).unwrap();
    let whole = key.sign(Scheme::RsaPkcs1Sha256, b"message").unwrap();
    assert!(verifies(
        &key,
        &RSA_PKCS1_2048_8192_SHA256,
        b"message",
        &whole
    ));
    let pss = key.sign(Scheme::RsaPssSha256, b"message").unwrap();
    assert!(verifies(&key, &RSA_PSS_2048_8192_SHA256, b"message", &pss));

    let block = pkcs1_block("3031300D060960864801650304020105000420", &digest::SHA256);
    // PKCS#1 v1.5 is deterministic: the fast way, the raw way and the whole message give the same bytes.
    assert_eq!(*key.rsa_raw(&block).unwrap(), whole);
    assert_eq!(*key.raw_operation(&block).unwrap(), whole);

    let block = pkcs1_block("3041300D060960864801650304020205000430", &digest::SHA384);
    let signature = key.rsa_raw(&block).unwrap();
    assert!(verifies(
        &key,
        &RSA_PKCS1_2048_8192_SHA384,
        b"message",
        &signature
    ));
    assert_eq!(
        key.sign_digest(&[0; 32]).unwrap_err(),
        KeyError::Unsupported
    );
}

#[test]
fn raw_blocks_of_other_forms() {
    let key = rsa::RsaKey::open(&rsa::generate(Algorithm::Rsa2048).unwrap()).unwrap();
    let mut broken = pkcs1_block("3031300D060960864801650304020105000420", &digest::SHA256);
    broken[205] ^= 1; // no longer a DigestInfo: still a number to be raised
    assert_eq!(
        key.rsa_raw(&broken).unwrap(),
        key.raw_operation(&broken).unwrap()
    );
    let one = [&[0; 255][..], &[1]].concat();
    assert_eq!(*key.rsa_raw(&one).unwrap(), one);
    assert_eq!(key.rsa_raw(&[0xFF; 256]).unwrap_err(), KeyError::Input);
    assert_eq!(key.rsa_raw(&[0; 255]).unwrap_err(), KeyError::Input);
    assert_eq!(key.rsa_raw(&[]).unwrap_err(), KeyError::Input);
}

fn pkcs1_block(info: &str, hash: &'static digest::Algorithm) -> Vec<u8> {
    let info = hex::decode(info).unwrap();
    let mut block = vec![0x00, 0x01];
    block.resize(255 - info.len() - hash.output_len(), 0xFF);
    block.push(0);
    block.extend_from_slice(&info);
    block.extend_from_slice(digest::digest(hash, b"message").as_ref());
    block
}

#[test]
fn keys_from_their_numbers() {
    use ::rsa::{RsaPrivateKey, pkcs8::DecodePrivateKey, traits::PrivateKeyParts};
    let check = |algorithm, numbers: Numbers<'_>, info: Option<&[u8]>| {
        let key = numbers
            .pkcs8(algorithm)
            .and_then(|pkcs8| SoftwareKeyStore.import(&pkcs8));
        let came = key.ok().map(|stored| stored.key.public_key_info().to_vec());
        assert_eq!(came.as_deref(), info, "{algorithm:?}");
    };
    let made = generated(Algorithm::Rsa2048);
    let numbers = RsaPrivateKey::from_pkcs8_der(&made.blob).unwrap();
    let [p, q] = [0, 1].map(|at| numbers.primes()[at].to_bytes_be());
    let info = made.key.public_key_info();
    check(Algorithm::Rsa2048, Numbers::Primes(&p, &q), Some(info));
    check(Algorithm::Rsa3072, Numbers::Primes(&p, &q), None);
    check(Algorithm::Rsa2048, Numbers::Primes(&p, &p), None);
    check(Algorithm::Rsa2048, Numbers::Primes(&p, &[]), None);
    check(Algorithm::P256, Numbers::Primes(&p, &q), None);
    let mut other = q;
    *other.last_mut().unwrap() ^= 2;
    check(Algorithm::Rsa2048, Numbers::Primes(&p, &other), None);
    for algorithm in [Algorithm::P256, Algorithm::P384] {
        let made = generated(algorithm);
        let pair = EcdsaKeyPair::from_pkcs8(ec::signing(algorithm), &made.blob).unwrap();
        let scalar = pair.private_key().as_be_bytes().unwrap();
        let info = made.key.public_key_info();
        check(algorithm, Numbers::Scalar(scalar.as_ref()), Some(info));
        check(algorithm, Numbers::Scalar(&scalar.as_ref()[1..]), None);
    }
    check(Algorithm::Rsa2048, Numbers::Scalar(&[1; 32]), None);
}
