//! Several grids: one guest's elements on two of them behind one hypervisor, and a guest that calls a grid
//! itself, with the `identity` form of its token and the key in its element.

use std::{
    net::TcpStream,
    sync::{Arc, Mutex},
};

use gose_client::{
    RemoteElement,
    element_key::ElementKey,
    tls::{Identity, RACS, anchors, client_config},
};
use gose_element::{SecureElement, Seid, Step, drive::piv::Slot};
use gose_proto::racs::{Class, Failure, Request, Response};
use gosed::node::Running;
use rustls::{
    ClientConfig, SignatureAlgorithm, SignatureScheme,
    pki_types::CertificateDer,
    sign::{Signer, SigningKey},
};

use crate::{
    isolation::serves,
    world::{Played, World, logged},
};

/// SELECT of the PIV application.
pub(crate) const SELECT: &[u8] = &[
    0x00, 0xA4, 0x04, 0x00, 0x09, 0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00,
];

pub(crate) fn seid(name: &str) -> Seid {
    name.parse().unwrap()
}

/// POWERON and SELECT of these elements, in one request.
pub(crate) fn select(id: &str, names: &[&str]) -> Request {
    let mut request = Request::with_id(id).unwrap();
    for name in names {
        request.power_on(&seid(name)).unwrap();
        request.append();
        let step = Step::new(SELECT).expect_normal();
        request.apdu(&seid(name), &step).unwrap();
        request.append();
    }
    request
}

pub(crate) fn refusal(response: &Response) -> Option<Failure> {
    response.decide().err().map(|refusal| refusal.failure())
}

#[test]
fn one_guest_with_elements_on_two_grids() {
    let mut world = World::with_two_grids();
    let played = world.create_with(&["SE-A", "SE-C"]);
    let mut session = played.guest.open_racs().unwrap();
    assert_eq!(session.list().unwrap(), [seid("SE-A"), seid("SE-C")]);
    let response = session
        .ask(select("Bouvines1214", &["SE-A", "SE-C"]))
        .unwrap();
    assert_eq!(refusal(&response), None);
    assert_eq!(response.statuses().len(), 4);
    // each grid gave its own element to the hypervisor, for this request
    for element in ["seid=SE-A", "seid=SE-C"] {
        logged(&["element leased", "peer=hv-7", element, "Bouvines1214"]);
    }
    // a second guest's element on the first grid: its session there is its own
    let other = world.create("SE-B");
    let mut other = other.guest.open_racs().unwrap();
    let response = other.ask(select("Tolbiac", &["SE-B"])).unwrap();
    assert_eq!(refusal(&response), None);
    // one grid goes away: its element alone is gone
    let second = world.second_grid.take().unwrap();
    world.runtime.block_on(second.stop());
    let response = session.ask(select("Alesia", &["SE-C"])).unwrap();
    assert_eq!(
        response.decide().unwrap_err().failure().class(),
        Class::Hardware
    );
    let response = session.ask(select("Gergovie", &["SE-A"])).unwrap();
    assert_eq!(refusal(&response), None);
    let response = other.ask(select("Tolbiac", &["SE-B"])).unwrap();
    assert_eq!(refusal(&response), None);
}

/// The guest's token in form `identity`.
pub(crate) fn identity_chain(played: &Played) -> Vec<CertificateDer<'static>> {
    let chain = played.guest.identity().unwrap();
    let certificates = chain.certificates().iter().cloned();
    certificates.map(CertificateDer::from).collect()
}

/// The guest's key, reached through the middleware; the element signs.
pub(crate) fn own_key(played: &Played, name: &str) -> ElementKey {
    let mut element = RemoteElement::new(played.guest.open_racs().unwrap(), seid(name));
    element.power_on().unwrap();
    let element = Arc::new(Mutex::new(element));
    ElementKey::open(element, Slot::AUTHENTICATION, Some(b"123456")).unwrap()
}

pub(crate) fn config(
    world: &World,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Arc<ClientConfig> {
    let identity = Identity::new(chain, key).unwrap();
    client_config(&identity, anchors([world.anchor()]).unwrap(), RACS).unwrap()
}

pub(crate) fn call(node: &Running, config: Arc<ClientConfig>) -> Option<gose_client::Connection> {
    serves(TcpStream::connect(node.address().unwrap()).unwrap(), config)
}

fn uri(played: &Played) -> String {
    format!(
        "spiffe://example.org/hv/hv-7/vm/{}",
        played.guest.record().vm
    )
}

#[test]
fn the_identity_form_opens_a_grid_with_the_key_in_the_element() {
    let world = World::with_two_grids();
    let second = world.second_grid.as_ref().unwrap();
    let played = world.create("SE-A");
    let chain = identity_chain(&played);
    let config = config(&world, chain, Arc::new(own_key(&played, "SE-A")));
    // let in, and nobody until the policy names it
    let mut session = call(second, config.clone()).unwrap();
    assert_eq!(session.list().unwrap(), []);
    let response = session.ask(select("Valmy", &["SE-C"])).unwrap();
    assert_eq!(refusal(&response), Some(Failure::Unauthorised));
    world.allow_on_second_grid(&uri(&played));
    let mut session = call(second, config.clone()).unwrap();
    assert_eq!(session.list().unwrap(), [seid("SE-C")]);
    let response = session.ask(select("Jemappes", &["SE-C"])).unwrap();
    assert_eq!(refusal(&response), None);
    let peer = format!("peer={}", uri(&played));
    logged(&["element leased", &peer, "seid=SE-C", "Jemappes"]);
    // the other grid names the hypervisor alone
    assert_eq!(call(&world.grid, config).unwrap().list().unwrap(), []);
}

/// A key that does not tell its public half, so that the TLS library shows it with any certificate.
#[derive(Debug)]
struct Silent(ElementKey);

impl SigningKey for Silent {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered)
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[test]
fn the_identity_token_of_another_needs_the_others_key() {
    let world = World::with_two_grids();
    let second = world.second_grid.as_ref().unwrap();
    let (a, b) = (world.create("SE-A"), world.create("SE-B"));
    world.allow_on_second_grid(&uri(&b));
    let (others, own) = (identity_chain(&b), identity_chain(&a));
    let key = own_key(&a, "SE-A");
    // shown as it is, the library notices already
    assert!(Identity::new(others.clone(), Arc::new(key.clone())).is_err());
    let forged = config(&world, others, Arc::new(Silent(key.clone())));
    assert!(call(second, forged).is_none());
    logged(&["refused: handshake", "BadSignature"]);
    // the same key under its own token is let in, and has none of the other's elements
    let own = config(&world, own, Arc::new(Silent(key)));
    assert_eq!(call(second, own).unwrap().list().unwrap(), []);
}

#[test]
fn the_identity_form_does_not_attach() {
    let world = World::with_two_grids();
    let played = world.create("SE-A");
    let chain = identity_chain(&played);
    let config = config(&world, chain, Arc::new(own_key(&played, "SE-A")));
    assert!(serves(played.guest.channel().unwrap(), config).is_none());
    logged(&[&played.guest.record().vm, "Identity does not count here"]);
}
