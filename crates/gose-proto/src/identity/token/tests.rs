//! One token a check.

use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::identity::{binding::OID, testing::TestCrypto};

const NOW: i64 = 1_800_000_000;
const VM: VmId = VmId([0x42; 16]);
const OTHER: VmId = VmId([0x43; 16]);

/// A trust domain with one hypervisor.
struct Site {
    anchor: Vec<u8>,
    hv_ca: Vec<u8>,
    hv_key: KeyPair,
    hv_params: CertificateParams,
}

fn time(seconds: i64) -> x509_parser::time::ASN1Time {
    x509_parser::time::ASN1Time::from_timestamp(seconds).unwrap()
}

fn params(name: &str, lifetime: (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = time(lifetime.0).to_datetime();
    params.not_after = time(lifetime.1).to_datetime();
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn site_with(edit: impl FnOnce(&mut CertificateParams)) -> Site {
    let mut root = params("Site", (NOW - 100_000, NOW + 100_000));
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let anchor = root.self_signed(&root_key).unwrap().der().to_vec();
    let mut hv_params = params("hv-7", (NOW - 100_000, NOW + 100_000));
    hv_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    hv_params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    hv_params.subject_alt_names = vec![uri("spiffe://example.org/hv/hv-7")];
    edit(&mut hv_params);
    let hv_key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(root, root_key);
    let hv_ca = hv_params
        .signed_by(&hv_key, &issuer)
        .unwrap()
        .der()
        .to_vec();
    Site {
        anchor,
        hv_ca,
        hv_key,
        hv_params,
    }
}

static SITE: LazyLock<Site> = LazyLock::new(|| site_with(|_| ()));

impl Site {
    fn key_hash(&self) -> KeyHash {
        let certificate = Certificate::parse(&self.hv_ca).unwrap();
        KeyHash::of(certificate.public_key(), &TestCrypto)
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = PrivatePkcs8KeyDer::from(self.hv_key.serialize_der());
        Issuer::new(self.hv_params.clone(), KeyPair::try_from(&key).unwrap())
    }
}

type Edit = fn(&mut CertificateParams);

/// What a token is made of.
struct Recipe {
    params: CertificateParams,
    binding: VmBinding,
    own_key: bool,
}

fn recipe(form: Form) -> Recipe {
    let mut params = params(&VM.common_name(), (NOW - 60, NOW + 3600));
    params.subject_alt_names = vec![uri(&format!("spiffe://example.org/hv/hv-7/vm/{VM}"))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![Purpose::ClientAuth];
    Recipe {
        params,
        binding: VmBinding {
            vm: VM,
            hypervisor: SITE.key_hash(),
            generation: 5,
            form,
        },
        own_key: form == Form::Identity,
    }
}

impl Recipe {
    fn make(mut self, site: &Site) -> Vec<u8> {
        let extension = CustomExtension::from_oid_content(&OID, self.binding.encode());
        self.params.custom_extensions.push(extension);
        let issuer = site.issuer();
        let certificate = if self.own_key {
            self.params
                .signed_by(&KeyPair::generate().unwrap(), &issuer)
        } else {
            self.params.signed_by(&site.hv_key, &issuer)
        };
        certificate.unwrap().der().to_vec()
    }
}

struct Known(Option<u64>, bool);

impl Generations for Known {
    fn newest(&self, _hypervisor: KeyHash, vm: VmId) -> Option<u64> {
        self.0.filter(|_| vm == VM)
    }
    fn is_revoked(&self, hypervisor: KeyHash, serial: &[u8]) -> bool {
        self.1 && hypervisor == SITE.key_hash() && !serial.is_empty()
    }
}

fn listener(vm: VmId) -> Place {
    let hypervisor = SITE.key_hash();
    Place::Listener { hypervisor, vm }
}

fn verify_at(
    der: &[u8],
    site: &Site,
    now: i64,
    known: &Known,
    place: Place,
) -> Result<VerifiedToken, TokenError> {
    let anchor = Anchor {
        certificate: &site.anchor,
        trust_domain: "example.org",
    };
    VmAuthToken::parse(der)?.verify(&[&site.hv_ca], &[anchor], now, known, place, &TestCrypto)
}

fn verify(der: &[u8], place: Place) -> Result<VerifiedToken, TokenError> {
    verify_at(der, &SITE, NOW, &Known(Some(5), false), place)
}

fn check(recipe: Recipe, place: Place, expected: Result<Freshness, TokenError>) {
    let got = verify(&recipe.make(&SITE), place);
    assert_eq!(got.map(|token| token.freshness()), expected);
}

#[test]
fn both_forms_count_where_they_belong() {
    let (attachment, identity) = (Form::Attachment, Form::Identity);
    check(recipe(attachment), listener(VM), Ok(Freshness::Current));
    check(recipe(identity), Place::Elsewhere, Ok(Freshness::Current));
    check(
        recipe(attachment),
        Place::Elsewhere,
        Err(TokenError::Form(attachment)),
    );
    check(
        recipe(identity),
        listener(VM),
        Err(TokenError::Form(identity)),
    );
    check(
        recipe(attachment),
        listener(OTHER),
        Err(TokenError::OtherVm),
    );
    let elsewhere = Place::Listener {
        hypervisor: KeyHash([1; 32]),
        vm: VM,
    };
    check(
        recipe(attachment),
        elsewhere,
        Err(TokenError::OtherHypervisor),
    );
}

#[test]
fn what_a_verified_token_says() {
    let token = verify(&recipe(Form::Identity).make(&SITE), Place::Elsewhere).unwrap();
    assert_eq!(
        token.name().to_string(),
        format!("spiffe://example.org/hv/hv-7/vm/{VM}")
    );
    assert_eq!(token.peer().common_name(), VM.common_name());
    assert_eq!(token.peer().issuer(), SITE.key_hash());
    assert_eq!((token.binding().vm, token.not_after()), (VM, NOW + 3600));
    assert!(!token.serial().is_empty());
}

#[test]
fn no_token_at_all() {
    assert_eq!(
        VmAuthToken::parse(&SITE.hv_ca).err(),
        Some(TokenError::NoBinding)
    );
    let unreadable = TokenError::Certificate(CertificateError::Unreadable);
    assert_eq!(VmAuthToken::parse(b"").err(), Some(unreadable));
    let broken = |content: Vec<u8>, critical| {
        let mut recipe = recipe(Form::Identity);
        let mut extension = CustomExtension::from_oid_content(&OID, content);
        extension.set_criticality(critical);
        recipe.params.custom_extensions = vec![extension];
        let key = KeyPair::generate().unwrap();
        let der = recipe
            .params
            .signed_by(&key, &SITE.issuer())
            .unwrap()
            .der()
            .to_vec();
        VmAuthToken::parse(&der).err()
    };
    let good = recipe(Form::Identity).binding.encode();
    assert_eq!(broken(good, true), Some(TokenError::NoBinding));
    assert_eq!(
        broken(vec![5, 0], false),
        Some(TokenError::Binding(BindingError::Malformed))
    );
}

#[test]
fn profile() {
    let edits: [(Edit, &str); 6] = [
        (
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "it is a CA",
        ),
        (|p| p.key_usages.clear(), "keyUsage is not digitalSignature"),
        (
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            "keyUsage is not digitalSignature",
        ),
        (
            |p| p.extended_key_usages.clear(),
            "extKeyUsage lacks clientAuth",
        ),
        (
            |p| p.distinguished_name.push(DnType::CommonName, "hv-7"),
            "its subject is its issuer",
        ),
        (
            |p| p.not_after = time(NOW + 24 * 3600 + 1).to_datetime(),
            "it lives longer than 24 hours",
        ),
    ];
    for (edit, fault) in edits {
        let mut recipe = recipe(Form::Identity);
        edit(&mut recipe.params);
        check(recipe, Place::Elsewhere, Err(TokenError::Profile(fault)));
    }
    let mut unknown = recipe(Form::Identity);
    let mut extension = CustomExtension::from_oid_content(&[2, 25, 1], vec![5, 0]);
    extension.set_criticality(true);
    unknown.params.custom_extensions.push(extension);
    let fault = TokenError::Profile("an unknown critical extension");
    check(unknown, Place::Elsewhere, Err(fault));
}

#[test]
fn chains() {
    let check = |site: &Site, anchors: &[Anchor<'_>], sent: &[&[u8]], expected| {
        let der = recipe_of(site).make(site);
        let token = VmAuthToken::parse(&der).unwrap();
        let got = token.verify(
            sent,
            anchors,
            NOW,
            &Known(None, false),
            Place::Elsewhere,
            &TestCrypto,
        );
        assert_eq!(got.map(|token| token.freshness()), expected);
    };
    fn recipe_of(site: &Site) -> Recipe {
        let mut recipe = recipe(Form::Identity);
        recipe.binding.hypervisor = site.key_hash();
        recipe
    }
    fn anchor<'a>(certificate: &'a [u8], trust_domain: &'a str) -> Anchor<'a> {
        Anchor {
            certificate,
            trust_domain,
        }
    }
    let root = [anchor(&SITE.anchor, "example.org")];
    let good = Ok(Freshness::Unknown);
    check(&SITE, &root, &[&SITE.hv_ca], good.clone());
    // hv-ca itself may be the anchor, as at the hypervisor's own listeners
    check(
        &SITE,
        &[anchor(&SITE.hv_ca, "example.org")],
        &[],
        good.clone(),
    );
    // what else is in the chain changes nothing: a twin of the same name goes first
    let twin = site_with(|_| ());
    let own = [root[0], anchor(&twin.anchor, "example.org")];
    check(&SITE, &own, &[&twin.hv_ca, &twin.anchor, &SITE.hv_ca], good);
    check(
        &SITE,
        &root,
        &[],
        Err(TokenError::Chain("no certificate of that name")),
    );
    check(
        &twin,
        &root,
        &[&twin.hv_ca],
        Err(TokenError::Chain("it ends before an anchor")),
    );
    // a twin under a trusted root, whose key did not sign
    check(
        &SITE,
        &[anchor(&twin.anchor, "example.org")],
        &[&twin.hv_ca],
        Err(TokenError::Signature),
    );
    check(
        &SITE,
        &[anchor(&SITE.anchor, "example.com")],
        &[&SITE.hv_ca],
        Err(TokenError::Name),
    );
    let faults: [(Edit, TokenError); 6] = [
        (
            |p| p.is_ca = IsCa::ExplicitNoCa,
            TokenError::Chain("the issuer is not a CA"),
        ),
        (
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            TokenError::Chain("the issuer's path length is not 0"),
        ),
        (
            |p| p.extended_key_usages.push(Purpose::ClientAuth),
            TokenError::Chain("the issuer has an extended key usage"),
        ),
        (
            |p| p.not_after = time(NOW - 1).to_datetime(),
            TokenError::Chain("the issuer's certificate has expired or is not valid yet"),
        ),
        (|p| p.subject_alt_names.clear(), TokenError::Name),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/hv/hv-8")],
            TokenError::Name,
        ),
    ];
    for (edit, fault) in faults {
        let site = site_with(edit);
        let root = [anchor(&site.anchor, "example.org")];
        check(&site, &root, &[&site.hv_ca], Err(fault));
    }
}

#[test]
fn validity_is_checked_at_its_edges() {
    let der = recipe(Form::Identity).make(&SITE);
    let at = |now| verify_at(&der, &SITE, now, &Known(None, false), Place::Elsewhere).err();
    assert_eq!(at(NOW - 61), Some(TokenError::NotYetValid));
    assert_eq!(at(NOW - 60), None);
    assert_eq!(at(NOW + 3600), None);
    assert_eq!(at(NOW + 3601), Some(TokenError::Expired));
}

/// A clock two hours off lets no token in, and one that is set back brings none back that something newer refused.
#[test]
fn a_clock_that_is_off() {
    const OFF: i64 = 2 * 3600;
    for (form, place) in [
        (Form::Identity, Place::Elsewhere),
        (Form::Attachment, listener(VM)),
    ] {
        let der = recipe(form).make(&SITE);
        let at = |now, known| verify_at(&der, &SITE, now, &known, place).err();
        assert_eq!(at(NOW, Known(Some(5), false)), None);
        assert_eq!(
            at(NOW - OFF, Known(Some(5), false)),
            Some(TokenError::NotYetValid)
        );
        assert_eq!(
            at(NOW + OFF, Known(Some(5), false)),
            Some(TokenError::Expired)
        );
        for now in [NOW - OFF, NOW - 60, NOW - 1, NOW, NOW + 3600, NOW + OFF] {
            assert!(at(now, Known(Some(6), false)).is_some());
            assert!(at(now, Known(Some(5), true)).is_some());
        }
    }
}

#[test]
fn names_and_keys() {
    let mut other_hv = recipe(Form::Identity);
    other_hv.binding.hypervisor = KeyHash([9; 32]);
    check(other_hv, Place::Elsewhere, Err(TokenError::Hypervisor));
    for text in [
        format!("spiffe://example.com/hv/hv-7/vm/{VM}"),
        format!("spiffe://example.org/hv/hv-8/vm/{VM}"),
        format!("spiffe://example.org/hv/hv-7/vm/{OTHER}"),
        "spiffe://example.org/hv/hv-7".to_owned(),
    ] {
        let mut renamed = recipe(Form::Identity);
        renamed.params.subject_alt_names = vec![uri(&text)];
        check(renamed, Place::Elsewhere, Err(TokenError::Name));
    }
    let mut admin = recipe(Form::Identity);
    admin
        .params
        .distinguished_name
        .push(DnType::CommonName, "admin");
    check(admin, Place::Elsewhere, Err(TokenError::Name));
    for form in [Form::Identity, Form::Attachment] {
        let mut swapped = recipe(form);
        swapped.own_key = !swapped.own_key;
        let place = if form == Form::Identity {
            Place::Elsewhere
        } else {
            listener(VM)
        };
        check(swapped, place, Err(TokenError::Key));
    }
}

#[test]
fn generations_and_revocation() {
    let der = recipe(Form::Identity).make(&SITE);
    let with = |known| {
        verify_at(&der, &SITE, NOW, &known, Place::Elsewhere).map(|token| token.freshness())
    };
    assert_eq!(with(Known(None, false)), Ok(Freshness::Unknown));
    assert_eq!(with(Known(Some(4), false)), Ok(Freshness::Current));
    let older = TokenError::Generation {
        shown: 5,
        newest: 6,
    };
    assert_eq!(with(Known(Some(6), false)), Err(older));
    assert_eq!(with(Known(Some(5), true)), Err(TokenError::Revoked));
}

#[test]
fn golden() {
    let verify = |der: &[u8], place| {
        let anchor = Anchor {
            certificate: include_bytes!("../../../testdata/identity/root.der"),
            trust_domain: "example.org",
        };
        let hv_ca = include_bytes!("../../../testdata/identity/hv-ca.der");
        let known = Known(None, false);
        VmAuthToken::parse(der)?.verify(&[hv_ca], &[anchor], NOW, &known, place, &TestCrypto)
    };
    let hv_ca = Certificate::parse(include_bytes!("../../../testdata/identity/hv-ca.der")).unwrap();
    let hypervisor = KeyHash::of(hv_ca.public_key(), &TestCrypto);
    let place = Place::Listener { hypervisor, vm: VM };
    let attachment = verify(
        include_bytes!("../../../testdata/identity/attachment.der"),
        place,
    );
    assert_eq!(attachment.unwrap().binding().form, Form::Attachment);
    let identity = verify(
        include_bytes!("../../../testdata/identity/identity.der"),
        Place::Elsewhere,
    );
    let identity = identity.unwrap();
    assert_eq!(identity.binding().generation, 5);
    assert_eq!(identity.name().vm, VM);
}

/// Any bit flipped anywhere: refused, and never a panic.
#[test]
fn a_flipped_bit_is_refused() {
    let mut der = recipe(Form::Attachment).make(&SITE);
    for at in 0..der.len() {
        for bit in 0..8 {
            der[at] ^= 1 << bit;
            assert!(
                verify(&der, listener(VM)).is_err(),
                "bit {bit} of byte {at}"
            );
            der[at] ^= 1 << bit;
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_never_panic(der in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(VmAuthToken::parse(&der).is_err());
    }
}
