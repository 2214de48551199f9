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
    /// Where its keys come from.
    pub keys: Keys<'a>,
    /// Signatures of the last test.
    pub operations: u32,
    /// How it goes away.
    pub removal: Removal<'a>,
    /// How somebody else asks for it.
    pub second: Second<'a>,
}

/// Where an element's keys come from.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    /// It makes keys of these algorithms.
    Made(&'a [Algorithm]),
    /// Its store had a key on P-256 before, which is in slot 9A; the store makes none.
    Adopted,
}

/// Takes something away (true) or brings it back (false).
pub type Switch<'a> = &'a mut dyn FnMut(bool);

/// What can be taken away.
pub enum Removal<'a> {
    /// The element.
    Element(Switch<'a>),
    /// What holds its keys, while the card itself stays.
    Keys(Switch<'a>),
    /// Nothing, for this reason.
    None(&'static str),
}

/// A second session with the element.
pub enum Second<'a> {
    /// This makes one.
    Session(&'a mut dyn FnMut() -> Box<dyn SecureElement>),
    /// There is none, for this reason.
    None(&'static str),
}

/// Operations of the last test: ten thousand in the long form, some hundred in the short one.
#[must_use]
pub const fn operations(long: bool) -> u32 {
    if long { 10_000 } else { 500 }
}

type Test = fn(&mut dyn SecureElement, &mut Terms<'_>);

const TESTS: [(&str, Test); 10] = [
    ("select", selects),
    ("pin", pin),
    ("sign", keys),
    ("chaining", chaining),
    ("extended", extended_length),
    ("eap-tls", eap_tls_both_roles),
    ("reset", reset),
    ("removal", removal),
    ("sessions", two_sessions),
    ("many", many),
];

/// Runs the contract on an element that is fresh, or was under the contract before; gives the table's row:
/// `contract: NAME | TEST MILLISECONDS ms | TEST - REASON | …`.
///
/// # Panics
/// Where the contract is broken.
pub fn run(element: &mut dyn SecureElement, mut terms: Terms<'_>) -> String {
    let mut row = format!("contract: {}", terms.name);
    element.power_on().unwrap();
    initialise(element, &secrets()).unwrap();
    for (name, test) in TESTS {
        if let Some(reason) = terms.exempt(name) {
            let _ = write!(row, " | {name} - {reason}");
            continue;
        }
        element.power_off();
        eventually(|| element.power_on());
        let start = Instant::now();
        test(element, &mut terms);
        let _ = write!(row, " | {name} {} ms", start.elapsed().as_millis());
    }
    element.power_off();
    row
}

impl Terms<'_> {
    /// Why a test is not applicable.
    fn exempt(&self, test: &str) -> Option<&'static str> {
        match (test, &self.removal, &self.second) {
            ("removal", Removal::None(reason), _) | ("sessions", _, Second::None(reason)) => {
                Some(reason)
            }
            _ => None,
        }
    }

    fn algorithms(&self) -> &[Algorithm] {
        match self.keys {
            Keys::Made(algorithms) => algorithms,
            Keys::Adopted => &[Algorithm::P256],
        }
    }
}

/// What comes back, does so within seconds.
fn eventually<T>(mut attempt: impl FnMut() -> Result<T, ElementError>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
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
    let Keys::Made(algorithms) = terms.keys else {
        // OpenSC agrees by a card's 9D alone.
        return signs(element, Slot::AUTHENTICATION, Algorithm::P256, None);
    };
    for algorithm in algorithms {
        for slot in [Slot::AUTHENTICATION, Slot::SIGNATURE] {
            let mut piv = Piv::open(element);
            piv.authenticate_management(&MANAGEMENT_KEY).unwrap();
            let info = piv.generate(slot, *algorithm).unwrap();
            let unverified = piv.sign(slot, schemes(*algorithm)[0].0, b"m");
            assert!(matches!(unverified, Err(PivError::NotAuthenticated(_))));
            signs(element, slot, *algorithm, Some(&info));
        }
    }
}

/// A key signs by every scheme; one that was made agrees too, and its public key is the one that was told then.
fn signs(element: &mut dyn SecureElement, slot: Slot, algorithm: Algorithm, made: Option<&[u8]>) {
    // A new one, since what was kept of the slot is not what another host would know.
    let mut piv = Piv::open(element);
    piv.with_pin(PIN).unwrap();
    let told = piv.public_key(slot).unwrap();
    assert_eq!(told.algorithm, algorithm);
    let info = made.unwrap_or(&told.info);
    assert_eq!(info, told.info);
    for (scheme, judge) in schemes(algorithm) {
        let signature = piv.sign(slot, *scheme, b"a message").unwrap();
        UnparsedPublicKey::new(*judge, info)
            .verify(b"a message", &signature)
            .unwrap();
    }
    if !algorithm.is_rsa() && made.is_some() {
        agree(&mut piv, slot, algorithm, info);
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
    for algorithm in terms.algorithms() {
        for role in [Role::Peer, Role::Authenticator] {
            let mut operator =
                eap_tls::personalisation::Operator::open(element, &eap_tls::AID, OPERATOR_PIN)
                    .unwrap();
            // There from a contract before.
            let _ = operator.remove_identity(world::label(role));
            match terms.keys {
                Keys::Made(_) => {
                    world::personalise(element, &authority, role, *algorithm, |_, _| {});
                }
                Keys::Adopted => {
                    let key = Piv::open(element).public_key(Slot::AUTHENTICATION).unwrap();
                    world::personalise_with(element, &authority, role, &key.info, |_, _| {});
                }
            }
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
    let keys = terms.keys;
    match &mut terms.removal {
        Removal::Element(switch) => element_removed(element, switch),
        Removal::Keys(switch) => keys_removed(element, switch, keys),
        Removal::None(_) => {}
    }
}

fn element_removed(element: &mut dyn SecureElement, switch: Switch<'_>) {
    for idle in [false, true] {
        if idle {
            element.power_off();
        } else {
            send(element, &select(&piv::AID));
        }
        switch(true);
        if !idle {
            let apdu = select(&piv::AID).encode().unwrap();
            assert!(element.transmit(&apdu).is_err());
        }
        assert!(element.power_on().is_err());
        switch(false);
        eventually(|| element.power_on());
        assert_eq!(send(element, &select(&piv::AID)).sw, StatusWord::NORMAL);
    }
}

/// The card goes on without its keys, and signs again when they are back.
fn keys_removed(element: &mut dyn SecureElement, switch: Switch<'_>, keys: Keys<'_>) {
    let (slot, _) = signing_key(element, keys);
    let sign = signature_command(slot).encode().unwrap();
    let signs = |element: &mut dyn SecureElement| {
        send(element, &select(&piv::AID));
        assert_eq!(verify_pin(element, PIN), StatusWord::NORMAL);
        element.transmit(&sign).unwrap().sw
    };
    assert_eq!(signs(element), StatusWord::NORMAL);
    switch(true);
    assert_ne!(signs(element), StatusWord::NORMAL);
    switch(false);
    eventually(|| match signs(element) {
        StatusWord::NORMAL => Ok(()),
        _ => Err(ElementError::Absent),
    });
}

/// Nobody else gets the element while it is held, nor what its holder has proved.
fn two_sessions(element: &mut dyn SecureElement, terms: &mut Terms<'_>) {
    let Second::Session(make) = &mut terms.second else {
        return;
    };
    let mut second = make();
    send(element, &select(&piv::AID));
    assert_eq!(verify_pin(element, PIN), StatusWord::NORMAL);
    assert!(second.power_on().is_err());
    assert_eq!(pin_status(element), StatusWord::NORMAL);
    element.power_off();
    eventually(|| second.power_on());
    send(second.as_mut(), &select(&piv::AID));
    assert_eq!(pin_status(second.as_mut()).tries(), Some(3));
    assert!(element.power_on().is_err());
    drop(second);
    eventually(|| element.power_on());
}

/// A key on P-256, and its public key.
fn signing_key(element: &mut dyn SecureElement, keys: Keys<'_>) -> (Slot, Vec<u8>) {
    let mut piv = Piv::open(element);
    match keys {
        Keys::Made(_) => {
            let slot = Slot::CARD_AUTHENTICATION;
            piv.authenticate_management(&MANAGEMENT_KEY).unwrap();
            (slot, piv.generate(slot, Algorithm::P256).unwrap())
        }
        Keys::Adopted => {
            let slot = Slot::AUTHENTICATION;
            (slot, piv.public_key(slot).unwrap().info)
        }
    }
}

/// One command an operation: what the way to the element costs, not what PIV's driver does.
fn signature_command(slot: Slot) -> Command {
    let template = tlv::object(
        0x7C,
        &[vec![0x82, 0x00], tlv::object(0x81, &[0x2A; 32])].concat(),
    );
    Command::new(0x00, 0x87, 0x11, slot.id())
        .with_data(template)
        .with_ne(256)
}

fn many(element: &mut dyn SecureElement, terms: &mut Terms<'_>) {
    let (slot, info) = signing_key(element, terms.keys);
    send(element, &select(&piv::AID));
    assert_eq!(verify_pin(element, PIN), StatusWord::NORMAL);
    let step = Step::new(signature_command(slot).encode().unwrap());
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
    piv.with_pin(PIN).unwrap();
    let signature = piv.sign(slot, Scheme::EcdsaP256Sha256, b"last").unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info)
        .verify(b"last", &signature)
        .unwrap();
}
