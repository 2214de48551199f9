//! The element contract: what every element must do, whatever it is made of and however it is reached.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    agreement, rand,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use gose_element::{
    Algorithm, ElementError, Scheme, SecureElement, Step,
    drive::{
        eap_tls::{self, EapTls, Opening},
        piv::{self, Piv, PivError, Slot},
        provision::{Secrets, initialise},
    },
};
use gose_proto::{
    apdu::{Command, Response, StatusWord, tlv},
    eap::{Code, Packet, Role, Type},
};
use zeroize::Zeroizing;

use crate::{
    pki::Authority,
    world::{self, NOW, OPERATOR_PIN},
};

/// PIN of PIV of an element under the contract.
pub const PIN: &[u8; 8] = b"12312312";

/// Bearer's PIN of the EAP-TLS application.
pub const BEARER: &[u8; 8] = b"45645645";

/// Management key of PIV.
pub const MANAGEMENT_KEY: [u8; 32] = [0x5A; 32];

/// How the contract is run.
pub struct Terms<'a> {
    /// What the element is, for the table.
    pub name: &'a str,
    /// Kinds of keys that its store makes.
    pub algorithms: &'a [Algorithm],
    /// Signatures of the last test.
    pub operations: u32,
    /// Takes the element away and brings it back, where the test can.
    pub removal: Option<Removal<'a>>,
}

/// Operations of the last test: ten thousand in the long form, some hundred in the short one.
#[must_use]
pub const fn operations(long: bool) -> u32 {
    if long { 10_000 } else { 500 }
}

/// Takes an element away (true) or brings it back (false).
pub type Removal<'a> = &'a mut dyn FnMut(bool);

type Test = fn(&mut dyn SecureElement, &mut Terms<'_>);

const TESTS: [(&str, Test); 9] = [
    ("select", selects),
    ("pin", pin),
    ("keys", keys),
    ("chaining", chaining),
    ("extended", extended_length),
    ("eap-tls", eap_tls_both_roles),
    ("reset", reset),
    ("removal", removal),
    ("many", many),
];

/// Runs the contract on an element that is fresh, or was under the contract before; gives the table's row.
///
/// # Panics
/// Where the contract is broken.
pub fn run(element: &mut dyn SecureElement, mut terms: Terms<'_>) -> String {
    let mut row = format!("{:24}", terms.name);
    element.power_on().unwrap();
    initialise(element, &secrets()).unwrap();
    for (name, test) in TESTS {
        let start = Instant::now();
        if name == "removal" && terms.removal.is_none() {
            row += "  removal -";
            continue;
        }
        element.power_off();
        element.power_on().unwrap();
        test(element, &mut terms);
        let _ = write!(row, "  {name} {}", millis(start.elapsed()));
    }
    element.power_off();
    row
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

fn secrets() -> Secrets {
    Secrets {
        piv_pin: Zeroizing::new(*PIN),
        piv_puk: Zeroizing::new(*b"87654321"),
        management_key: Zeroizing::new(MANAGEMENT_KEY),
        operator_pin: Zeroizing::new(OPERATOR_PIN.try_into().unwrap()),
        bearer_pin: Zeroizing::new(*BEARER),
    }
}

fn send(element: &mut dyn SecureElement, command: &Command) -> Response {
    element.transmit(&command.encode().unwrap()).unwrap()
}

fn select(aid: &[u8]) -> Command {
    Command::new(0x00, 0xA4, 0x04, 0x00)
        .with_data(aid)
        .with_ne(256)
}

fn pin_status(element: &mut dyn SecureElement) -> StatusWord {
    send(element, &Command::new(0x00, 0x20, 0x00, 0x80)).sw
}

fn verify_pin(element: &mut dyn SecureElement, pin: &[u8]) -> StatusWord {
    send(
        element,
        &Command::new(0x00, 0x20, 0x00, 0x80).with_data(pin),
    )
    .sw
}

fn selects(element: &mut dyn SecureElement, _: &mut Terms<'_>) {
    let answer = send(element, &select(&piv::AID));
    assert_eq!(answer.sw, StatusWord::NORMAL);
    assert!(tlv::find(&answer.data, 0x61).is_some());
    assert_eq!(
        send(element, &select(&piv::AID[..9])).sw,
        StatusWord::NORMAL
    );
    assert_eq!(send(element, &select(&eap_tls::AID)).sw, StatusWord::NORMAL);
    let unknown = send(element, &select(b"\xF0no such application"));
    assert_eq!(unknown.sw, StatusWord::FILE_NOT_FOUND);
}

fn pin(element: &mut dyn SecureElement, _: &mut Terms<'_>) {
    send(element, &select(&piv::AID));
    assert_eq!(pin_status(element).tries(), Some(3));
    assert_eq!(verify_pin(element, b"00000000").tries(), Some(2));
    assert_eq!(pin_status(element).tries(), Some(2));
    assert_eq!(verify_pin(element, PIN), StatusWord::NORMAL);
    assert_eq!(pin_status(element), StatusWord::NORMAL);
    // Another application does not inherit it, nor does coming back.
    send(element, &select(&eap_tls::AID));
    send(element, &select(&piv::AID));
    assert_eq!(pin_status(element).tries(), Some(3));
}

fn keys(element: &mut dyn SecureElement, terms: &mut Terms<'_>) {
    for algorithm in terms.algorithms {
        for slot in [Slot::AUTHENTICATION, Slot::SIGNATURE] {
            let mut piv = Piv::open(element);
            piv.authenticate_management(&MANAGEMENT_KEY).unwrap();
            let info = piv.generate(slot, *algorithm).unwrap();
            let unverified = piv.sign(slot, schemes(*algorithm)[0].0, b"m");
            assert!(matches!(unverified, Err(PivError::NotAuthenticated(_))));
            // A new one, since what was kept of the slot is not what another host would know.
            let mut piv = Piv::open(element);
            piv.with_pin(PIN).unwrap();
            for (scheme, judge) in schemes(*algorithm) {
                let signature = piv.sign(slot, *scheme, b"a message").unwrap();
                UnparsedPublicKey::new(*judge, &info)
                    .verify(b"a message", &signature)
                    .unwrap();
            }
            if !algorithm.is_rsa() {
                agree(&mut piv, slot, *algorithm, &info);
            }
        }
    }
}

type Judge = (Scheme, &'static dyn VerificationAlgorithm);

fn schemes(algorithm: Algorithm) -> &'static [Judge] {
    match algorithm {
        Algorithm::P256 => &[(Scheme::EcdsaP256Sha256, &ECDSA_P256_SHA256_ASN1)],
        Algorithm::P384 => &[(Scheme::EcdsaP384Sha384, &ECDSA_P384_SHA384_ASN1)],
        _ => &[
            (Scheme::RsaPkcs1Sha256, &RSA_PKCS1_2048_8192_SHA256),
            (Scheme::RsaPssSha256, &RSA_PSS_2048_8192_SHA256),
        ],
    }
}

fn agree(piv: &mut Piv<'_>, slot: Slot, algorithm: Algorithm, info: &[u8]) {
    let curve = match algorithm {
        Algorithm::P384 => &agreement::ECDH_P384,
        _ => &agreement::ECDH_P256,
    };
    let mine = agreement::EphemeralPrivateKey::generate(curve, &rand::SystemRandom::new()).unwrap();
    let point = mine.compute_public_key().unwrap();
    let theirs = piv.agree(slot, point.as_ref()).unwrap();
    let peer = agreement::UnparsedPublicKey::new(curve, &info[info.len() - point.as_ref().len()..]);
    agreement::agree_ephemeral(mine, peer, (), |shared| {
        assert_eq!(shared, theirs.as_slice());
        Ok(())
    })
    .unwrap();
}

/// The container of a certificate as PUT DATA carries it.
fn certificate(seed: u8) -> Vec<u8> {
    let der: Vec<u8> = (0..1500_u16).map(|n| n.to_be_bytes()[1] ^ seed).collect();
    [tlv::object(0x70, &der), vec![0x71, 0x01, 0x00, 0xFE, 0x00]].concat()
}

fn chaining(element: &mut dyn SecureElement, _: &mut Terms<'_>) {
    let content = certificate(0x17);
    let mut piv = Piv::open(element);
    piv.authenticate_management(&MANAGEMENT_KEY).unwrap();
    piv.put_object(Slot::AUTHENTICATION.certificate_tag(), &content)
        .unwrap();
    assert_eq!(
        piv.object(Slot::AUTHENTICATION.certificate_tag()).unwrap(),
        content
    );
}

fn extended_length(element: &mut dyn SecureElement, _: &mut Terms<'_>) {
    let content = certificate(0x42);
    let tag = [0x5C, 0x03, 0x5F, 0xC1, 0x0A];
    Piv::open(element)
        .authenticate_management(&MANAGEMENT_KEY)
        .unwrap();
    let object = tlv::object(0x53, &content);
    let put = Command::new(0x00, 0xDB, 0x3F, 0xFF).with_data([&tag[..], &object].concat());
    assert_eq!(send(element, &put).sw, StatusWord::NORMAL);
    let get = Command::new(0x00, 0xCB, 0x3F, 0xFF)
        .with_data(tag)
        .with_ne(65_536);
    assert_eq!(send(element, &get), Response::ok(object));
}

fn eap_tls_both_roles(element: &mut dyn SecureElement, terms: &mut Terms<'_>) {
    let authority = Authority::new("contract root");
    for algorithm in terms.algorithms {
        for role in [Role::Peer, Role::Authenticator] {
            let mut operator =
                eap_tls::personalisation::Operator::open(element, &eap_tls::AID, OPERATOR_PIN)
                    .unwrap();
            // There from a contract before.
            let _ = operator.remove_identity(world::label(role));
            world::personalise(element, &authority, role, *algorithm, |_, _| {});
            let mut other = world::element();
            let opposite = match role {
                Role::Peer => Role::Authenticator,
                Role::Authenticator => Role::Peer,
            };
            world::personalise(&mut other, &authority, opposite, Algorithm::P256, |_, _| {});
            let this = (element as &mut dyn SecureElement, &BEARER[..]);
            let other = (&mut other as &mut dyn SecureElement, world::PIN);
            let keys = match role {
                Role::Peer => converse(this, other),
                Role::Authenticator => converse(other, this),
            };
            assert_eq!(keys[0], keys[1], "{role:?} with {algorithm:?}");
        }
    }
}

/// An element and its bearer's PIN.
type End<'a> = (&'a mut dyn SecureElement, &'a [u8]);

/// A whole conversation; the MSK of peer and authenticator.
fn converse(peer: End<'_>, authenticator: End<'_>) -> [Zeroizing<Vec<u8>>; 2] {
    let (peer, peer_pin) = peer;
    let (authenticator, authenticator_pin) = authenticator;
    let opening = Opening::new(peer_pin, world::label(Role::Peer));
    let mut peer = EapTls::open(peer, &opening).unwrap();
    let opening = Opening::new(authenticator_pin, world::label(Role::Authenticator));
    let mut authenticator = EapTls::open(authenticator, &opening).unwrap();
    let mut request = Packet::request(0x01, Type::IDENTITY, &[]).encode();
    for _ in 0..1000 {
        let reply = peer.process(&request, Some(NOW)).unwrap();
        match Packet::parse(&request).unwrap().0.code {
            Code::Success => return [peer.msk().unwrap(), authenticator.msk().unwrap()],
            Code::Failure => panic!("EAP-Failure"),
            _ => {}
        }
        let response = reply.packet().unwrap().to_vec();
        let next = authenticator.process(&response, Some(NOW)).unwrap();
        request = next.packet().unwrap().to_vec();
    }
    panic!("the conversation does not end");
}

fn reset(element: &mut dyn SecureElement, _: &mut Terms<'_>) {
    for warm in [false, true] {
        send(element, &select(&piv::AID));
        assert_eq!(verify_pin(element, PIN), StatusWord::NORMAL);
        let atr = element.reset(warm).unwrap();
        assert_eq!(atr.as_bytes()[0], 0x3B);
        // Nothing is selected: the card knows no such command, a grid's firewall does not ask it.
        match element.transmit(&[0x00, 0x20, 0x00, 0x80]) {
            Ok(answer) => assert_eq!(answer.sw, StatusWord::INS_NOT_SUPPORTED),
            Err(error) => assert_eq!(error, ElementError::Refused),
        }
        send(element, &select(&piv::AID));
        assert_eq!(pin_status(element).tries(), Some(3));
    }
}

fn removal(element: &mut dyn SecureElement, terms: &mut Terms<'_>) {
    let Some(removal) = &mut terms.removal else {
        return;
    };
    for idle in [false, true] {
        if idle {
            element.power_off();
        } else {
            send(element, &select(&piv::AID));
        }
        removal(true);
        if !idle {
            assert!(
                element
                    .transmit(&select(&piv::AID).encode().unwrap())
                    .is_err()
            );
        }
        assert_eq!(element.power_on(), Err(ElementError::Absent));
        removal(false);
        element.power_on().unwrap();
        assert_eq!(send(element, &select(&piv::AID)).sw, StatusWord::NORMAL);
    }
}

fn many(element: &mut dyn SecureElement, terms: &mut Terms<'_>) {
    let mut piv = Piv::open(element);
    piv.authenticate_management(&MANAGEMENT_KEY).unwrap();
    let info = piv
        .generate(Slot::CARD_AUTHENTICATION, Algorithm::P256)
        .unwrap();
    // One command an operation: what the way to the element costs, not what PIV's driver does.
    let digest = [0x2A; 32];
    let template = tlv::object(
        0x7C,
        &[vec![0x82, 0x00], tlv::object(0x81, &digest)].concat(),
    );
    let sign = Command::new(0x00, 0x87, 0x11, Slot::CARD_AUTHENTICATION.id())
        .with_data(template)
        .with_ne(256);
    let step = Step::new(sign.encode().unwrap());
    let start = Instant::now();
    for number in 0..terms.operations {
        let response = element.transmit(&step.apdu).unwrap();
        assert_eq!(response.sw, StatusWord::NORMAL, "operation {number}");
    }
    let rate = f64::from(terms.operations) / start.elapsed().as_secs_f64();
    println!(
        "{}: {} signatures, {rate:.0} a second",
        terms.name, terms.operations
    );
    let mut piv = Piv::open(element);
    let signature = piv
        .sign(Slot::CARD_AUTHENTICATION, Scheme::EcdsaP256Sha256, b"last")
        .unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info)
        .verify(b"last", &signature)
        .unwrap();
}
