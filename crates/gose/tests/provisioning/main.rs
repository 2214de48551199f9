//! Provisioning from the shell: a node of software cards, and the program itself.
#![allow(clippy::unwrap_used)]

mod node;

use std::{fs, os::unix::fs::PermissionsExt};

use gose_testkit::pki::{Authority, Request};
use node::{Node, write_private};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, pem::PemObject,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

fn subject(pem: &str) -> (String, Vec<u8>) {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    (
        certificate.subject().to_string(),
        certificate.public_key().raw.to_vec(),
    )
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn from_a_new_element_to_an_identity_under_an_own_authority() {
    let node = Node::new(&["ca", "SE1"]);
    node.ok("element init ca --secrets-file ca.toml");
    node.ok("element init SE1 --secrets-file se1.toml");
    let mode = fs::metadata(node.path("se1.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    node.ok("key generate ca 9C --secrets ca.toml");
    let root = node.ok("pki init authority --seid ca --name Root --secrets ca.toml");
    assert_eq!(subject(&root).0, "CN=Root");
    write_private(&node.path("root.pem"), &root);

    let public = node.ok("key generate SE1 9A --alg rsa2048 --secrets se1.toml");
    assert_eq!(node.ok("key show SE1 9A"), public);
    node.ok("key csr SE1 9A --name alice --secrets se1.toml --out alice.csr");
    let made = node.ok("pki issue authority alice.csr --kind eap-client --secrets ca.toml --json");
    let made = json(&made);
    let pem = made["pem"].as_str().unwrap();
    assert_eq!(subject(pem).0, "CN=alice");
    write_private(&node.path("alice.pem"), pem);

    node.ok("cert import SE1 9A alice.pem --secrets se1.toml");
    assert_eq!(node.ok("cert export SE1 9A"), pem);
    let refused = node.fails(1, "cert import SE1 9A root.pem --secrets se1.toml");
    assert!(refused.contains("not for the key in slot 9A"), "{refused}");

    let add = "identity add SE1 alice --slot 9A --chain alice.pem --anchors root.pem \
               --secrets se1.toml --min-version 1.3";
    node.ok(add);
    node.ok("identity remove SE1 alice --secrets se1.toml");
    node.ok(add);

    // A key that is the identity's alone: certified without a request.
    let own = "identity add SE1 alone --own-key --chain own.pem --anchors root.pem \
               --amsk --legacy-9f --secrets se1.toml";
    write_private(&node.path("own.pem"), pem);
    let refused = node.fails(2, own);
    assert!(refused.contains("no key of its own"), "{refused}");
    let public = node.ok("identity key SE1 alone --alg p384 --secrets se1.toml");
    let public = SubjectPublicKeyInfoDer::from_pem_slice(public.as_bytes()).unwrap();
    let chain = Authority::new("Other").certify_info(Request::new(Some("alone")), &public);
    let own_pem = gose_testkit::pki::pem("CERTIFICATE", &chain[0]);
    write_private(&node.path("own.pem"), &own_pem);
    node.ok(own);
    node.ok("identity remove SE1 alone --secrets se1.toml");

    let serial = made["serial"].as_str().unwrap();
    node.ok(&format!(
        "pki revoke authority {serial} --reason superseded --secrets ca.toml"
    ));
    let again = node.fails(
        1,
        &format!("pki revoke authority {serial} --secrets ca.toml"),
    );
    assert!(again.contains("revoked already"), "{again}");
    let crl = node.ok("pki crl authority --secrets ca.toml");
    let crl = CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).unwrap();
    let (_, crl) = x509_parser::revocation_list::CertificateRevocationList::from_der(&crl).unwrap();
    assert_eq!(crl.iter_revoked_certificates().count(), 1);
}

#[test]
fn secrets_are_shown_once_or_kept_in_a_file() {
    let node = Node::new(&["SE1", "SE2"]);
    let shown = json(&node.ok("element init SE1 --json"));
    assert_eq!(
        shown["secrets"]["management-key"].as_str().unwrap().len(),
        64
    );
    let again = node.fails(2, "element init SE1");
    assert!(again.contains("initialised already"), "{again}");

    let kept = json(&node.ok("element init SE2 --secrets-file se2.toml --json"));
    assert!(kept.get("secrets").is_none());
    let before = fs::read(node.path("se2.toml")).unwrap();
    node.ok("element init SE2 --secrets-file se2.toml");
    assert_eq!(fs::read(node.path("se2.toml")).unwrap(), before);
    let other = node.fails(1, "element init SE1 --secrets-file se2.toml");
    assert!(other.contains("secrets of SE2"), "{other}");
}

#[test]
fn before_initialisation_no_key_is_made() {
    let node = Node::new(&["SE1"]);
    write_private(&node.path("key"), &"00".repeat(32));
    let refused = node.fails(2, "key generate SE1 9A --management-key-source file:key");
    assert!(refused.contains("gose element init"), "{refused}");
    assert_eq!(node.writes(), 0);
}

#[test]
fn sources_of_secrets() {
    let node = Node::new(&["SE1"]);
    node.ok("element init SE1 --secrets-file se1.toml");
    node.ok("key generate SE1 9C --secrets se1.toml");
    let csr = |source: &str| format!("key csr SE1 9C --name x --pin-source {source}");
    let wrong = node.fails(2, &csr("env:THE_PIN"));
    assert!(wrong.contains("wrong PIN, 2 tries left"), "{wrong}");
    let unset = node.fails(1, &csr("env:NOT_SET"));
    assert!(unset.contains("NOT_SET"), "{unset}");
    node.fails(1, &csr("87654321"));

    let secrets = fs::read_to_string(node.path("se1.toml")).unwrap();
    let pin = secrets
        .lines()
        .find_map(|line| line.strip_prefix("piv-pin = "))
        .unwrap();
    write_private(&node.path("pin"), pin.trim_matches('"'));
    node.ok(&csr("file:pin"));
    fs::set_permissions(node.path("pin"), PermissionsExt::from_mode(0o644)).unwrap();
    let open = node.fails(1, &csr("file:pin"));
    assert!(open.contains("chmod 600"), "{open}");
    // No PIN is looked for where the slot needs none.
    node.ok("key generate SE1 9E --secrets se1.toml");
    node.ok("key csr SE1 9E --name x");
}

#[test]
fn kinds_of_certificates() {
    let node = Node::new(&["SE1"]);
    node.ok("element init SE1 --secrets-file se1.toml");
    node.ok("key generate SE1 9C --secrets se1.toml");
    node.ok("pki init ca --seid SE1 --name Root --secrets se1.toml");
    node.ok("key csr SE1 9C --name whoever --secrets se1.toml --out x.csr");
    let issue = |kind: &str| format!("pki issue ca x.csr --secrets se1.toml --kind {kind}");
    for (kind, expected) in [
        (
            "server --san grid.example.org --san 192.0.2.1",
            "CN=grid.example.org",
        ),
        ("client", "CN=whoever"),
        ("client --name bob", "CN=bob"),
        (
            "hv --spiffe spiffe://example.org/hv/hv-7 --san hv-7",
            "CN=hv-7",
        ),
        ("hv-ca --spiffe spiffe://example.org/hv/hv-7", "CN=hv-7 ca"),
        (
            "eap-server --san radius.example.org",
            "CN=radius.example.org",
        ),
    ] {
        assert_eq!(subject(&node.ok(&issue(kind))).0, expected);
    }
    node.fails(1, &issue("server"));
    node.fails(1, &issue("hv"));
    node.fails(1, &issue("client --days 4000"));
    node.fails(1, "pki init ca --seid SE1 --name Root --secrets se1.toml");
}
