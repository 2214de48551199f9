//! Images of other versions, and full ones.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, process::Command};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use gose_client::admin::{Action, Answer, ElementInfo};
use gose_element::{
    Scheme, SecureElement,
    drive::{
        eap_tls::{EapTls, Opening},
        piv::{Piv, Slot},
    },
};
use gose_proto::hex;

use crate::node_of_one::Place;

/// The oldest image: an initialised element with keys in 9A and 9C, a certificate, an identity of EAP-TLS, and one
/// wrong guess at its PIN. Written by version 1, frozen with its key, its secrets and its public keys.
const OLD: &[u8] = include_bytes!("images/v1.image");
const SECRETS: &str = include_str!("images/v1.secrets");
const KEY: &str = "0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F";

fn secret(name: &str) -> String {
    let secrets: BTreeMap<String, String> = toml::from_str(SECRETS).unwrap();
    secrets[name].clone()
}

fn private(place: &Place, name: &str, bytes: &[u8]) {
    std::fs::write(place.path(name), bytes).unwrap();
    std::fs::set_permissions(place.path(name), PermissionsExt::from_mode(0o600)).unwrap();
}

fn place(image: &[u8]) -> Place {
    let place = Place::new();
    private(&place, "master.key", KEY.as_bytes());
    private(&place, "OLD.image", image);
    let text = "version = 1\n[admin]\nsocket = \"admin.sock\"\n[store]\ndirectory = \".\"\n\
                master-key-file = \"master.key\"\n[[slot]]\nseid = \"OLD\"\nkind = \"software\"\n";
    std::fs::write(place.path("gosed.toml"), text).unwrap();
    place
}

impl Place {
    fn info(&self, seid: &str) -> ElementInfo {
        match self.ask(&Action::ElementInfo { seid: seid.into() }) {
            Answer::Info(info) => info,
            other => panic!("{other:?}"),
        }
    }

    fn old(&self) -> gose_client::RemoteElement {
        let node = gose_client::Endpoint::Unix(self.path("admin.sock"));
        gose_client::RemoteElement::at(node, "OLD".parse().unwrap())
    }

    /// Everything that the old element held is there and works.
    fn check_old(&self) {
        let mut element = self.old();
        element.power_on().unwrap();
        let mut piv = Piv::open(&mut element);
        assert_eq!(piv.pin_tries().unwrap(), Some(2));
        let (_, certificate) = x509(&piv.certificate(Slot::AUTHENTICATION).unwrap());
        assert!(certificate.contains("CN=old"), "{certificate}");
        let pin = secret("piv-pin");
        for (slot, scheme, public) in [
            (
                Slot::AUTHENTICATION,
                Scheme::EcdsaP256Sha256,
                include_str!("images/v1-9a.pem"),
            ),
            (
                Slot::SIGNATURE,
                Scheme::RsaPkcs1Sha256,
                include_str!("images/v1-9c.pem"),
            ),
        ] {
            let mut piv = Piv::open(&mut element);
            piv.with_pin(pin.as_bytes()).unwrap();
            let signature = piv.sign(slot, scheme, b"still here").unwrap();
            let info = der(public);
            let verified = match scheme {
                Scheme::EcdsaP256Sha256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info),
                _ => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &info),
            };
            verified
                .unwrap()
                .verify_sig(b"still here", &signature)
                .unwrap();
        }
        let bearer = secret("bearer-pin");
        EapTls::open(&mut element, &Opening::new(bearer.as_bytes(), "net")).unwrap();
        // The try that was lost is there again after the right PIN, as it was after the guess before.
        element.power_off();
    }
}

fn der(pem: &str) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(["pkey", "-pubin", "-outform", "DER"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), pem.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

fn x509(certificate: &[u8]) -> (usize, String) {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args([
            "x509", "-inform", "DER", "-noout", "-subject", "-nameopt", "RFC2253",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(certificate).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    (out.len(), String::from_utf8(out).unwrap())
}

#[test]
fn the_oldest_image_is_upgraded_and_works() {
    let place = place(OLD);
    {
        let node = place.start_with(&[], "");
        assert_eq!(
            std::fs::read(place.path("OLD.image")).unwrap(),
            OLD,
            "opened at its first use"
        );
        place.check_old();
        assert!(
            node.log().contains("the image was upgraded"),
            "{}",
            node.log()
        );
        let memory = place.info("OLD").memory.unwrap();
        assert_eq!(memory.image_version, 2);
        assert!(!place.path("OLD.image.old").exists() && !place.path("OLD.image.new").exists());
    }
    // And again by itself; the right PIN gave its tries back.
    let node = place.start_with(&[], "");
    let mut element = place.old();
    element.power_on().unwrap();
    assert_eq!(Piv::open(&mut element).pin_tries().unwrap(), Some(3));
    assert!(!node.log().contains("upgraded"), "{}", node.log());
}

#[test]
fn an_upgrade_that_cannot_be_leaves_the_old_image_in_use() {
    let place = place(OLD);
    // A folder where the new file would be.
    std::fs::create_dir(place.path("OLD.image.new")).unwrap();
    {
        let node = place.start_with(&[], "");
        place.check_old();
        assert!(
            node.log().contains("keeps its old version"),
            "{}",
            node.log()
        );
        assert_eq!(place.info("OLD").memory.unwrap().image_version, 1);
        assert_eq!(
            std::fs::read(place.path("OLD.image.old")).unwrap()[..OLD.len()],
            *OLD
        );
    }
    std::fs::remove_dir(place.path("OLD.image.new")).unwrap();
    let _node = place.start_with(&[], "");
    let mut element = place.old();
    element.power_on().unwrap();
    assert_eq!(place.info("OLD").memory.unwrap().image_version, 2);
    assert_eq!(Piv::open(&mut element).pin_tries().unwrap(), Some(3));
    assert!(!place.path("OLD.image.old").exists());
}

#[test]
fn an_image_of_a_later_version_is_refused_and_untouched() {
    let mut later = OLD.to_vec();
    later[8] = 3;
    let place = place(&later);
    let node = place.start_with(&[], "");
    let error = place.old().power_on().unwrap_err();
    assert!(error.to_string().contains("-908"), "{error}");
    assert!(node.log().contains("has version 3") && node.log().contains("install that one again"));
    assert_eq!(std::fs::read(place.path("OLD.image")).unwrap(), later);
    let names: Vec<_> = std::fs::read_dir(place.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("OLD"))
        .collect();
    assert_eq!(names, ["OLD.image"]);
}

#[test]
fn a_quota_refuses_with_6a84_and_an_administrator_sees_why() {
    let place = Place::new();
    let key = place.with_key();
    place.configure(key, "quota-bytes = 4096\n");
    let _node = place.start_with(&[], "");
    let info = |place: &Place| match place.ask(&Action::ElementInfo { seid: "SE1".into() }) {
        Answer::Info(info) => info,
        other => panic!("{other:?}"),
    };
    assert_eq!(info(&place).memory, None, "not used yet");
    let management = [0x42; 32];
    let mut element = place.element();
    element.power_on().unwrap();
    let mut piv = Piv::open(&mut element);
    piv.set_management_key(&management).unwrap();
    let born = info(&place).memory.unwrap();
    assert_eq!(born.quota, 4096);
    assert!((200..1500).contains(&born.bytes), "{born:?}");
    // 3 KB do not fit twice.
    let put = |element: &mut gose_client::RemoteElement, tag: u32, bytes: usize| {
        let mut piv = Piv::open(element);
        piv.authenticate_management(&management).unwrap();
        piv.put_object(tag, &vec![0x5A; bytes])
    };
    const FACIAL: u32 = 0x5F_C108;
    const PRINTED: u32 = 0x5F_C109;
    put(&mut element, FACIAL, 2500).unwrap();
    let refused = put(&mut element, PRINTED, 2500).unwrap_err();
    assert!(
        format!("{refused:?}").contains("6A84") || refused.to_string().contains("6A84"),
        "{refused}"
    );
    let full = info(&place).memory.unwrap();
    assert!(full.bytes > 2500 && full.bytes <= 4096, "{full:?}");
    // What is there can be read, counters count, and less can be written.
    assert_eq!(place_tries(&mut element), "63C3");
    put(&mut element, FACIAL, 100).unwrap();
    put(&mut element, PRINTED, 2500).unwrap();
}

fn place_tries(element: &mut gose_client::RemoteElement) -> String {
    element
        .transmit(&hex::decode("00200080").unwrap())
        .unwrap()
        .sw
        .to_string()
}
