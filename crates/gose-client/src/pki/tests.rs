use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{
    Algorithm, SecureElement,
    drive::piv::{Piv, PivError, Slot},
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, UnixTime as Time, pem::PemObject,
};
use webpki::{
    ALL_VERIFICATION_ALGS, BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage,
    RevocationOptionsBuilder, anchor_from_trusted_cert,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;
use crate::element_key::{ElementKey, SharedElement};

const NOW: i64 = 1_800_000_000;
const KEY: [u8; 32] = [7; 32];
const PIN: &[u8] = b"123456";

fn element() -> SharedElement {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut element = Hosted::new(card, Memory::default());
    element.power_on().unwrap();
    let mut piv = Piv::open(&mut element);
    piv.set_management_key(&KEY).unwrap();
    piv.authenticate_management(&KEY).unwrap();
    piv.generate(Slot::SIGNATURE, Algorithm::P256).unwrap();
    piv.generate(Slot::AUTHENTICATION, Algorithm::Rsa2048)
        .unwrap();
    Arc::new(Mutex::new(element))
}

fn key(element: &SharedElement, slot: Slot) -> ElementKey {
    ElementKey::open(element.clone(), slot, Some(PIN)).unwrap()
}

fn authority(directory: &Path) -> Authority {
    let key = key(&element(), Slot::SIGNATURE);
    Authority::init(directory, "Test root", key, NOW, 3650).unwrap()
}

/// Issues a certificate for a key that an element holds.
fn issue(authority: &Authority, kind: &Kind) -> Issued {
    let key = key(&element(), Slot::AUTHENTICATION);
    let request = certificate_request(&key, "whoever").unwrap();
    let issued = authority.issue(&request, kind, NOW, 30).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.der).unwrap();
    assert_eq!(certificate.public_key().raw, key.public_key().info);
    issued
}

/// Whether webpki takes a certificate for a use.
fn accepted(
    authority: &Authority,
    issued: &Issued,
    usage: KeyUsage,
    crl: Option<&str>,
) -> Result<(), webpki::Error> {
    let anchor = anchor_from_trusted_cert(authority.root()).unwrap();
    let certificate = EndEntityCert::try_from(&issued.der).unwrap();
    let crl = crl.map(|pem| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap());
    let crl = crl
        .as_ref()
        .map(|crl| CertRevocationList::from(BorrowedCertRevocationList::from_der(crl).unwrap()));
    let crls: Vec<&CertRevocationList<'_>> = crl.iter().collect();
    let revocation = RevocationOptionsBuilder::new(&crls)
        .ok()
        .map(RevocationOptionsBuilder::build);
    certificate
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            Time::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs())),
            usage,
            revocation,
            None,
        )
        .map(drop)
}

#[test]
fn every_kind_is_what_it_is_for() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    let id = "spiffe://example.org/hv/hv-7";
    let cases = [
        (
            Kind::Server {
                names: vec!["grid.example.org".into(), "192.0.2.7".into()],
            },
            (true, false),
            "CN=grid.example.org",
        ),
        (
            Kind::Client {
                name: "alice".into(),
            },
            (false, true),
            "CN=alice",
        ),
        (
            Kind::Hypervisor {
                id: id.parse().unwrap(),
                names: vec!["hv-7.example.org".into()],
            },
            (true, true),
            "CN=hv-7",
        ),
        (
            Kind::EapServer {
                names: vec!["radius.example.org".into()],
            },
            (true, false),
            "CN=radius.example.org",
        ),
        (
            Kind::EapClient {
                name: "vm-42".into(),
            },
            (false, true),
            "CN=vm-42",
        ),
    ];
    for (kind, (server, client), subject) in cases {
        let issued = issue(&authority, &kind);
        let takes = |usage| accepted(&authority, &issued, usage, None).is_ok();
        assert_eq!(takes(KeyUsage::server_auth()), server, "{kind:?}");
        assert_eq!(takes(KeyUsage::client_auth()), client, "{kind:?}");
        let (_, certificate) = X509Certificate::from_der(&issued.der).unwrap();
        assert_eq!(certificate.subject().to_string(), subject);
        assert!(!certificate.is_ca());
    }
}

#[test]
fn names_of_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    let names = vec!["grid.example.org".to_owned(), "2001:db8::7".to_owned()];
    let issued = issue(
        &authority,
        &Kind::Server {
            names: names.clone(),
        },
    );
    let certificate = EndEntityCert::try_from(&issued.der).unwrap();
    for name in &names {
        let name = ServerName::try_from(name.as_str()).unwrap();
        certificate.verify_is_valid_for_subject_name(&name).unwrap();
    }
    let request = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let csr = certificate_request(&key(&element(), Slot::SIGNATURE), "x").unwrap();
        authority.issue(&csr, &Kind::Server { names }, NOW, 30)
    };
    for bad in [&[][..], &["a b"], &["ok.org", "é"], &[""]] {
        assert!(matches!(request(bad), Err(PkiError::Name(..))), "{bad:?}");
    }
}

#[test]
fn a_hypervisor_ca_signs_tokens_only() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    let id = "spiffe://example.org/hv/hv-7".parse().unwrap();
    let issued = issue(&authority, &Kind::HypervisorCa { id });
    let (_, certificate) = X509Certificate::from_der(&issued.der).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap().value;
    assert_eq!(
        (constraints.ca, constraints.path_len_constraint),
        (true, Some(0))
    );
    assert!(certificate.extended_key_usage().unwrap().is_none());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.digital_signature());
    assert!(accepted(&authority, &issued, KeyUsage::client_auth(), None).is_err());

    let not_a_hypervisor = "spiffe://example.org/user/alice".parse().unwrap();
    let csr = certificate_request(&key(&element(), Slot::SIGNATURE), "x").unwrap();
    let kind = Kind::HypervisorCa {
        id: not_a_hypervisor,
    };
    assert!(matches!(
        authority.issue(&csr, &kind, NOW, 1),
        Err(PkiError::Name(..))
    ));
}

#[test]
fn revoked_certificates_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    let alice = issue(
        &authority,
        &Kind::Client {
            name: "alice".into(),
        },
    );
    let bob = issue(&authority, &Kind::Client { name: "bob".into() });
    let check = |crl: &str| {
        [&alice, &bob]
            .map(|issued| accepted(&authority, issued, KeyUsage::client_auth(), Some(crl)))
    };
    assert_eq!(check(&authority.crl(NOW, 7).unwrap()), [Ok(()), Ok(())]);

    authority
        .revoke(&alice.serial.to_lowercase(), Reason::KeyCompromise, NOW)
        .unwrap();
    let crl = authority.crl(NOW, 7).unwrap();
    let refused = Err(webpki::Error::CertRevoked);
    assert_eq!(check(&crl), [refused, Ok(())]);
    assert_eq!(
        std::fs::read_to_string(directory.path().join("crl.pem")).unwrap(),
        crl
    );

    let again = authority.revoke(&alice.serial, Reason::Superseded, NOW);
    assert!(matches!(again, Err(PkiError::AlreadyRevoked(_))));
    for unknown in ["00", "", "zz", "../ca"] {
        let refused = authority.revoke(unknown, Reason::Unspecified, NOW);
        assert!(
            matches!(refused, Err(PkiError::UnknownSerial(_))),
            "{unknown}"
        );
    }
    assert_eq!(authority.revocations().unwrap().len(), 1);
}

#[test]
fn the_authority_is_opened_again_with_its_own_element() {
    let directory = tempfile::tempdir().unwrap();
    let shared = element();
    let made = Authority::init(
        directory.path(),
        "Root",
        key(&shared, Slot::SIGNATURE),
        NOW,
        10,
    )
    .unwrap();
    let serial = issue_for(&made, &shared).serial;
    let again = Authority::open(directory.path(), key(&shared, Slot::SIGNATURE)).unwrap();
    assert_eq!(again.root(), made.root());
    again.revoke(&serial, Reason::Superseded, NOW).unwrap();

    let other = Authority::open(directory.path(), key(&element(), Slot::SIGNATURE));
    assert!(matches!(other, Err(PkiError::OtherKey)));
    let twice = Authority::init(
        directory.path(),
        "Root",
        key(&shared, Slot::SIGNATURE),
        NOW,
        10,
    );
    assert!(matches!(twice, Err(PkiError::Exists(_))));
    let nowhere = Authority::open(&directory.path().join("x"), key(&shared, Slot::SIGNATURE));
    assert!(matches!(nowhere, Err(PkiError::State { .. })));
}

fn issue_for(authority: &Authority, shared: &SharedElement) -> Issued {
    let csr = certificate_request(&key(shared, Slot::AUTHENTICATION), "x").unwrap();
    authority
        .issue(&csr, &Kind::Client { name: "x".into() }, NOW, 10)
        .unwrap()
}

#[test]
fn requests_and_validity_that_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    let kind = Kind::Client { name: "x".into() };
    let csr = certificate_request(&key(&element(), Slot::SIGNATURE), "alice").unwrap();
    assert_eq!(common_name(&csr).unwrap().as_deref(), Some("alice"));
    for days in [0, 3651, u32::MAX] {
        let refused = authority.issue(&csr, &kind, NOW, days);
        assert!(matches!(refused, Err(PkiError::Validity { max: 3650 })));
    }
    let mut broken = csr.clone();
    *broken.last_mut().unwrap() ^= 1;
    for bad in [&broken[..], b"", b"no request", &csr[..20]] {
        let refused = authority.issue(bad, &kind, NOW, 1);
        assert!(matches!(refused, Err(PkiError::Request(_))));
    }
    let pem = to_pem("CERTIFICATE REQUEST", &csr);
    let issued = authority.issue(pem.as_bytes(), &kind, NOW, 1).unwrap();
    let stored = directory
        .path()
        .join(format!("issued/{}.pem", issued.serial));
    let stored = CertificateDer::from_pem_file(stored).unwrap();
    assert_eq!(stored, issued.der);
}

#[test]
fn the_elements_refusal_is_told() {
    let shared = element();
    let key = ElementKey::open(shared, Slot::SIGNATURE, Some(b"999999")).unwrap();
    let refused = certificate_request(&key, "alice");
    assert!(matches!(
        refused,
        Err(PkiError::Element(PivError::WrongPin { tries: 2 }))
    ));
}
