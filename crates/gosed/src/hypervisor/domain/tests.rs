//! Tokens and secrets of a domain over time; what an issuer takes for an `hv-ca`.

use std::sync::LazyLock;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use gose_element::{Algorithm, Scheme};
use gose_proto::identity::Certificate;
use gose_testkit::pki::{Authority, Request};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, PublicKeyData, SanType};

use super::*;
use crate::{
    hypervisor::{
        guest_tls::GuestVerifier,
        key::{NoSignature, PrivateKey},
    },
    listen::admission::Sources,
};

const VM: VmId = VmId([5; 16]);
const NOW: i64 = 1_800_000_000;

/// A key in the test.
struct Key {
    pair: EcdsaKeyPair,
    public: Vec<u8>,
}

impl PrivateKey for Key {
    fn public_key(&self) -> &[u8] {
        &self.public
    }
    fn algorithm(&self) -> Algorithm {
        Algorithm::P256
    }
    fn sign(&self, _: Scheme, message: &[u8]) -> Result<Vec<u8>, NoSignature> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        Ok(signed.unwrap().as_ref().to_vec())
    }
}

fn issuer_with(
    edit: impl FnOnce(&mut Request),
    lifetime: Duration,
) -> Result<TokenIssuer, IssueError> {
    static SITE: LazyLock<Authority> = LazyLock::new(|| Authority::new("Site"));
    let mut request = Request::new(Some("hv-7 authority"));
    request.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    request.params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    request.params.extended_key_usages = Vec::new();
    let name = "spiffe://example.org/hv/hv-7".try_into().unwrap();
    request.params.subject_alt_names = vec![SanType::URI(name)];
    edit(&mut request);
    let pkcs8 = request.key.serialize_der();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap();
    let public = request.key.subject_public_key_info();
    let leaf = SITE.issue(request);
    let chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
    TokenIssuer::new(chain, Arc::new(Key { pair, public }), lifetime)
}

/// An issuer with a key of its own.
pub(in crate::hypervisor) fn issuer() -> Arc<TokenIssuer> {
    Arc::new(issuer_with(|_| (), Duration::from_secs(3600)).unwrap())
}

fn domain() -> Arc<Domain> {
    domain_with(Duration::from_secs(3600))
}

/// A domain whose tokens live so long.
pub(in crate::hypervisor) fn domain_with(lifetime: Duration) -> Arc<Domain> {
    let issuer = issuer_with(|_| (), lifetime).unwrap();
    Domain::start(Arc::new(issuer), VM, 3, NOW).unwrap()
}

#[test]
fn a_token_has_its_profile() {
    let token = domain().token();
    let certificate = Certificate::parse(&token.chain.certificates()[0]).unwrap();
    assert_eq!(certificate.validity(), (NOW - 60, NOW + 3600));
    assert_eq!(certificate.serial().len(), 16);
    assert_eq!(certificate.serial()[0] & 0x80, 0);
    assert_eq!(certificate.serial(), token.serial.as_bytes());
    assert_eq!(token.chain.certificates().len(), 2);
}

/// What the listener of a domain takes, by a clock that is two hours off, and at the edges of the token's hour.
#[test]
fn a_listener_whose_clock_is_off() {
    let site = issuer_with(
        |request| request.params.not_before = rcgen::date_time_ymd(2020, 1, 1),
        Duration::from_secs(3600),
    );
    let domain = Domain::start(Arc::new(site.unwrap()), VM, 3, NOW).unwrap();
    let leaf = domain.token().chain.certificates()[0].clone();
    let verifier = GuestVerifier::new(domain, Arc::new(Sources::default()));
    let check = |seconds: i64, refusal: Option<&str>| {
        let got = verifier.check(&leaf, NOW + seconds).err();
        assert_eq!(got.map(|error| error.to_string()).as_deref(), refusal);
    };
    let (early, late) = ("the token is not valid yet", "the token has expired");
    check(0, None);
    check(-60, None);
    check(-61, Some(early));
    check(-7200, Some(early));
    check(3600, None);
    check(3601, Some(late));
    check(7200, Some(late));
}

#[test]
fn the_token_before_is_signed_for_a_minute_more() {
    let domain = domain();
    let begun = Instant::now();
    let tokens = domain.tokens();
    let first = domain.token().serial.clone();
    domain.renew(NOW + 1800, begun).unwrap();
    let second = domain.token().serial.clone();
    assert!(tokens.has_changed().unwrap());
    let at = |serial: &Serial, seconds| {
        domain.check_serial(serial, begun + Duration::from_secs(seconds))
    };
    assert_eq!(at(&first, 59), Ok(()));
    assert_eq!(at(&first, 60), Err(AttachError::NotCurrent));
    assert_eq!(at(&second, 10_000), Ok(()));
    // two renewals later it is forgotten at once
    domain.renew(NOW + 1801, begun).unwrap();
    assert_eq!(at(&first, 0), Err(AttachError::NotCurrent));
    assert_eq!(at(&second, 0), Ok(()));
}

#[test]
fn a_secret_joins_once() {
    let domain = domain();
    let first = domain.join_secret().unwrap();
    assert_eq!(
        domain.join(&JoinSecret::new([0; 32])),
        Err(AttachError::Secret)
    );
    let second = domain.join(&first).unwrap();
    assert_ne!(first, second);
    assert_eq!(domain.join(&first), Err(AttachError::Secret));
    let third = domain.join(&second).unwrap();
    domain.end();
    assert_eq!(domain.join(&third), Err(AttachError::Secret));
    let serial = domain.token().serial.clone();
    let signed = domain.check_serial(&serial, Instant::now());
    assert_eq!(signed, Err(AttachError::NotCurrent));
}

#[test]
fn an_allowance_fills_again() {
    let domain = domain();
    let begun = Instant::now() + Duration::from_secs(10);
    let taken = (0..500).take_while(|_| domain.admit(begun).is_ok()).count();
    assert_eq!(taken, 64);
    let later = begun + Duration::from_millis(250);
    let taken = (0..100).take_while(|_| domain.admit(later).is_ok()).count();
    assert_eq!(taken, 5);
}

#[test]
fn what_is_no_hv_ca() {
    let hour = Duration::from_secs(3600);
    let check = |edit: fn(&mut Request), lifetime, expected: &str| {
        let refused = issuer_with(edit, lifetime)
            .err()
            .map(|error| error.to_string());
        assert!(
            refused.as_ref().is_some_and(|text| text.contains(expected)),
            "{refused:?}"
        );
    };
    check(
        |it| it.params.is_ca = IsCa::ExplicitNoCa,
        hour,
        "no CA with path length 0",
    );
    check(
        |it| it.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        hour,
        "no CA with path length 0",
    );
    check(
        |it| it.params.subject_alt_names.clear(),
        hour,
        "no URI spiffe://",
    );
    check(|_| (), Duration::from_secs(24 * 3600 + 1), "60 s to 24 h");
    check(|_| (), Duration::from_secs(59), "60 s to 24 h");
}
