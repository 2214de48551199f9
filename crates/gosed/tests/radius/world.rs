//! A RADIUS server before a pool of software elements, on loopback; a client with an element.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use gose_client::radius::{AuthenticationError, Client, Report, Station, authenticate};
use gose_element::{
    Algorithm, Atr, ElementError, SecureElement, Seid,
    drive::{
        eap_tls::{
            AID, EapTls, Opening, Personalisation, Policy as RecordPolicy,
            personalisation::Operator,
        },
        piv::Slot,
    },
};
use gose_proto::{
    apdu::Response,
    eap::Role,
    radius::{
        Secret,
        client::Timers,
        server::{Client as RadiusClient, Limits, Service},
    },
};
use gose_testkit::{
    pki::{Authority, Request},
    world::{Element, OPERATOR_PIN, PIN, element, label, personalise},
};
use gosed::{
    auth::{Certificates, Identity, OnHost, Pool, Revoked, Tuning},
    config::Config,
    grid::{Grid, Policy, Runs, Spec},
    keys::KeptKey,
    radius::{self, Clients, Front},
};
use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub(crate) const SECRET: &[u8] = b"testing123";

/// Retransmits fast: the tests lose packets on purpose.
pub(crate) const FAST: Timers = Timers {
    initial: Duration::from_millis(150),
    longest: Duration::from_millis(300),
    count: 40,
    patience: Duration::from_secs(20),
};

pub(crate) fn secret() -> Secret {
    Secret::new(SECRET.to_vec()).unwrap()
}

/// A server that listens.
pub(crate) struct World {
    pub(crate) front: Arc<Front>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) grid: Arc<Grid>,
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// A server whose only identity has these elements.
    pub(crate) async fn new(elements: Vec<(&str, Box<dyn SecureElement>)>) -> Self {
        let identity = identity(&elements);
        Self::with(elements, vec![identity], &Tuning::DEFAULT, Limits::DEFAULT).await
    }

    pub(crate) async fn with(
        elements: Vec<(&str, Box<dyn SecureElement>)>,
        identities: Vec<Identity>,
        tuning: &Tuning,
        limits: Limits,
    ) -> Self {
        Self::serving("127.0.0.0/8", elements, identities, tuning, limits).await
    }

    /// A server with one element, for clients of this network.
    pub(crate) async fn of_clients(network: &str, authority: &Authority) -> Self {
        let elements = vec![("srv", server(authority, Algorithm::P256, |_, _| {}))];
        let identity = identity(&elements);
        Self::serving(
            network,
            elements,
            vec![identity],
            &Tuning::DEFAULT,
            Limits::DEFAULT,
        )
        .await
    }

    async fn serving(
        network: &str,
        elements: Vec<(&str, Box<dyn SecureElement>)>,
        identities: Vec<Identity>,
        tuning: &Tuning,
        limits: Limits,
    ) -> Self {
        let grid = grid(elements);
        Self::on_grid(network, grid, identities, tuning, limits)
    }

    /// A server whose TLS runs on the host; the key is in slot 9A of the element `srv`.
    pub(crate) async fn on_host(
        authority: &Authority,
        algorithm: Algorithm,
        crls: &[CertificateRevocationListDer<'static>],
        policy: RecordPolicy,
    ) -> (Self, Certificates) {
        let mut element = element();
        let public = {
            let mut operator = Operator::open(&mut element, &AID, OPERATOR_PIN).unwrap();
            operator.generate(0x9A, algorithm).unwrap()
        };
        let public = SubjectPublicKeyInfo::from_der(&public).unwrap();
        let request = Request::new(Some(label(Role::Authenticator)));
        let chain = authority.certify(request, &public);
        let certificates = Certificates {
            chain: chain.into_iter().map(CertificateDer::from).collect(),
            anchors: vec![authority.der()],
            crls: crls.to_vec(),
            policy,
            sessions: 64,
        };
        let grid = grid(vec![("srv", Box::new(element))]);
        let slot = Slot::try_from(0x9A).unwrap();
        let pin = Zeroizing::new(b"123456".to_vec());
        let key = KeptKey::open(&grid, seid("srv"), slot, Some(pin)).unwrap();
        let tls = OnHost::new(key, "srv", &certificates).unwrap();
        let identity = Identity::on_host("company", tls);
        let world = Self::on_grid(
            "127.0.0.0/8",
            grid,
            vec![identity],
            &Tuning::DEFAULT,
            Limits::DEFAULT,
        );
        (world, certificates)
    }

    fn on_grid(
        network: &str,
        grid: Arc<Grid>,
        identities: Vec<Identity>,
        tuning: &Tuning,
        limits: Limits,
    ) -> Self {
        let pool = Pool::new(&grid, identities, tuning, Revoked::default());
        let front = Front::new(pool.clone(), limits);
        let socket = radius::bind(([127, 0, 0, 1], 0).into(), Service::Authentication).unwrap();
        let address = socket.address().unwrap();
        let client = Arc::new(RadiusClient {
            name: "loopback".into(),
            secret: secret(),
            disconnect_port: None,
        });
        let clients = Clients::new(vec![(network.parse().unwrap(), client)]);
        let task =
            tokio::spawn(socket.serve(front.clone(), Arc::new(ArcSwap::from_pointee(clients))));
        Self {
            front,
            pool,
            grid,
            address,
            task,
        }
    }

    /// An element authenticates; `server` is this server, or a proxy before it.
    pub(crate) async fn authenticate(
        server: SocketAddr,
        peer: Peer,
    ) -> (Peer, Result<Report, AuthenticationError>) {
        tokio::task::spawn_blocking(move || peer.authenticate(server, &FAST))
            .await
            .unwrap()
    }
}

/// The one identity on these elements.
pub(crate) fn identity(elements: &[(&str, Box<dyn SecureElement>)]) -> Identity {
    let seids = elements.iter().map(|(name, _)| seid(name)).collect();
    Identity::new("company", label(Role::Authenticator), PIN, seids)
}

pub(crate) fn seid(name: &str) -> Seid {
    name.parse().unwrap()
}

fn grid(elements: Vec<(&str, Box<dyn SecureElement>)>) -> Arc<Grid> {
    let config = Config::parse("version = 1\n[admin]\n").unwrap();
    let specs = elements
        .into_iter()
        .map(|(name, element)| spec(name, element))
        .collect();
    Grid::new(specs, Policy::new(&config), Duration::from_secs(10))
}

fn spec(name: &str, element: Box<dyn SecureElement>) -> Spec {
    let element = Mutex::new(Some(element));
    Spec {
        seid: seid(name),
        runs: Runs::Inline,
        place: name.into(),
        open: Arc::new(move |_| element.lock().unwrap().take().ok_or(ElementError::Absent)),
        used: Arc::default(),
    }
}

/// A server element.
pub(crate) fn server(
    authority: &Authority,
    algorithm: Algorithm,
    change: impl FnOnce(&mut Request, &mut Personalisation),
) -> Box<dyn SecureElement> {
    let mut server = element();
    personalise(
        &mut server,
        authority,
        Role::Authenticator,
        algorithm,
        change,
    );
    Box::new(server)
}

/// A peer's element.
pub(crate) struct Peer(pub(crate) Element);

impl Peer {
    pub(crate) fn new(
        authority: &Authority,
        algorithm: Algorithm,
        change: impl FnOnce(&mut Request, &mut Personalisation),
    ) -> Self {
        let mut peer = element();
        personalise(&mut peer, authority, Role::Peer, algorithm, change);
        Self(peer)
    }

    pub(crate) fn authenticate(
        mut self,
        server: SocketAddr,
        timers: &Timers,
    ) -> (Self, Result<Report, AuthenticationError>) {
        let mut client = Client::udp(server, secret(), timers.clone()).unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let now = u32::try_from(now).unwrap();
        let mut eap = EapTls::open(&mut self.0, &Opening::new(PIN, label(Role::Peer))).unwrap();
        let report = authenticate(&mut client, &mut eap, &Station::default(), now);
        (self, report)
    }
}

/// An element that stops answering after so many APDUs.
pub(crate) struct Mortal {
    pub(crate) element: Box<dyn SecureElement>,
    pub(crate) apdus: usize,
}

impl SecureElement for Mortal {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.element.power_on()
    }

    fn power_off(&mut self) {
        self.element.power_off();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.element.reset(warm)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        match self.apdus.checked_sub(1) {
            Some(left) => {
                self.apdus = left;
                self.element.transmit(apdu)
            }
            None => Err(ElementError::Mute),
        }
    }
}
