//! What a guest may try, each refused with the reason in the log.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gose_client::{
    Connection, Link, RemoteElement,
    guest::{AttachChannel, Control, GuestError, Request},
    tls::{RACS, server_name},
};
use gose_element::{ElementError, SecureElement};
use gose_proto::identity::{
    Certificate,
    attach::{AttachError, Chain, JoinSecret, Serial, TranscriptHash},
};
use gosed::hypervisor::domain::{BURST, REFILL};
use rustls::{
    ClientConfig, RootCertStore, SignatureAlgorithm, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::aws_lc_rs::default_provider,
    pki_types::CertificateDer,
    sign::{CertifiedKey, Signer, SigningKey},
    version::{TLS12, TLS13},
};

use crate::world::{World, logged};

/// A guest that keeps to no rule: it has its attach channel in its own hands.
struct Rogue {
    control: Control,
    attach: Arc<Mutex<AttachChannel<UnixStream>>>,
    vm: String,
    _process: UnixStream,
}

impl Rogue {
    fn new(world: &World, seid: &str) -> Self {
        let create = gose_client::admin::VmCreate {
            image: "played".to_owned(),
            seid: vec![seid.to_owned()],
            ..Default::default()
        };
        let created = world.ask("alice", &gose_client::admin::Action::VmCreate(create));
        assert!(
            matches!(created, gose_client::admin::Answer::Created(_)),
            "{created:?}"
        );
        Self::take(world)
    }

    fn take(world: &World) -> Self {
        let (socket, process) = world.control();
        let mut control = Control::new(socket);
        let record = control.record().unwrap();
        let attach = control.open(Request::Attach).unwrap();
        let attach = AttachChannel::join(attach, &record.secret().unwrap()).unwrap();
        Self {
            control,
            attach: Arc::new(Mutex::new(attach)),
            vm: record.vm,
            _process: process,
        }
    }

    fn chain(&self) -> Chain {
        self.attach.lock().unwrap().chain().clone()
    }

    fn serial(&self) -> Serial {
        self.attach.lock().unwrap().serial().clone()
    }

    /// Asks for a signature under any serial.
    fn sign(&self, serial: &[u8]) -> Result<Vec<u8>, GuestError> {
        let serial = Serial::new(serial).unwrap();
        let hash = TranscriptHash::new(&[1; 32]).unwrap();
        self.attach.lock().unwrap().sign(&serial, 0x0403, hash)
    }

    /// TLS that shows any chain and has the handshake signed under this guest's own serial.
    fn config(&self, world: &World, shown: &[Vec<u8>]) -> Arc<ClientConfig> {
        let forged = Forged {
            chain: shown.to_vec(),
            serial: self.serial(),
            attach: self.attach.clone(),
        };
        let mut roots = RootCertStore::empty();
        roots.add(world.anchor()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(forged));
        config.alpn_protocols = vec![RACS.to_vec()];
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// Whether its own listener serves a session that shows this chain.
    fn session(&mut self, world: &World, shown: &[Vec<u8>]) -> Option<Connection> {
        let socket = self.control.open(Request::Session).unwrap();
        serves(socket, self.config(world, shown))
    }
}

/// A session over this socket, if the other side lets it begin.
pub(crate) fn serves(
    socket: impl gose_client::Socket + 'static,
    config: Arc<ClientConfig>,
) -> Option<Connection> {
    let name = server_name("localhost").unwrap();
    let link = Link::tls(socket, name, config, Duration::from_secs(10)).ok()?;
    let mut connection = Connection::new(link);
    connection.version().ok()?;
    Some(connection)
}

#[derive(Clone)]
struct Forged {
    chain: Vec<Vec<u8>>,
    serial: Serial,
    attach: Arc<Mutex<AttachChannel<UnixStream>>>,
}

impl std::fmt::Debug for Forged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forged")
    }
}

impl ResolvesClientCert for Forged {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let chain = self
            .chain
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect();
        Some(Arc::new(CertifiedKey::new(chain, Arc::new(self.clone()))))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl SigningKey for Forged {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Forged {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let hash = TranscriptHash::from_content(message).unwrap();
        let signed = self.attach.lock().unwrap().sign(&self.serial, 0x0403, hash);
        signed.map_err(|error| rustls::Error::General(error.to_string()))
    }
    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[test]
fn another_guests_element_is_as_an_unknown_one() {
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let _b = Rogue::new(&world, "SE-B");
    let shown = a.chain();
    let mut ask = |seid: &str| {
        let socket = a.control.open(Request::Session).unwrap();
        let config = a.config(&world, shown.certificates());
        let name = server_name("localhost").unwrap();
        let mut link = Link::tls(socket, name, config, Duration::from_secs(10)).unwrap();
        write!(link, "BEGIN\r\nPOWERON {seid}\r\nEND\r\n").unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"END\r\n") {
            link.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    };
    let others = ask("SE-B");
    assert!(others.contains("-608 001"), "{others}");
    assert_eq!(others, ask("NO-SUCH"));
    assert_eq!(others, ask("HV"));
    assert!(ask("SE-A").contains("+008 001"));
    logged(&[
        &a.vm,
        "seid=SE-B",
        "the policy does not give the element to this peer",
    ]);
}

#[test]
fn attach_signs_for_ones_own_token_alone() {
    let world = World::new("none");
    let a = Rogue::new(&world, "SE-A");
    let b = Rogue::new(&world, "SE-B");
    a.sign(a.serial().as_bytes()).unwrap();
    let hv_ca = Certificate::parse(&world.hv_ca[0]).unwrap();
    for serial in [b.serial().as_bytes(), hv_ca.serial()] {
        let refused = a.sign(serial);
        assert!(
            matches!(refused, Err(GuestError::Refused(AttachError::NotCurrent))),
            "{refused:?}"
        );
        let asked = gose_proto::hex::encode(serial);
        logged(&[&a.vm, &asked, "not this domain's"]);
    }
}

#[test]
fn what_is_shown_must_be_ones_own_token() {
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let b = Rogue::new(&world, "SE-B");
    let own = a.chain();
    assert!(a.session(&world, own.certificates()).is_some());
    // the transcript shows B's token, attach signs under A's serial, and all of one hypervisor's attachment
    // tokens have one key: the signature is good, the token is not
    assert!(a.session(&world, b.chain().certificates()).is_none());
    logged(&[&a.vm, "the token belongs to another virtual machine"]);
    // likewise the certificate of hv-ca itself
    assert!(a.session(&world, &world.hv_ca).is_none());
    logged(&[&a.vm, "no VM-Auth-Token"]);
}

/// Every session needs a signature of the hypervisor's element: no older version, no ticket, no resumption.
#[test]
fn a_guests_channel_is_tls_1_3_and_every_session_a_full_one() {
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let shown = a.chain();
    let config = a.config(&world, shown.certificates());
    let mut roots = RootCertStore::empty();
    roots.add(world.anchor()).unwrap();
    let mut old = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(config.client_auth_cert_resolver.clone());
    old.alpn_protocols = vec![RACS.to_vec()];
    let socket = a.control.open(Request::Session).unwrap();
    let name = || server_name("localhost").unwrap();
    let refused = Link::tls(socket, name(), Arc::new(old), Duration::from_secs(10)).err();
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    // One memory of sessions over all of them, and a client that would resume.
    let mut willing = (*config).clone();
    willing.resumption = Resumption::in_memory_sessions(8);
    let willing = Arc::new(willing);
    for _ in 0..3 {
        let socket = a.control.open(Request::Session).unwrap();
        let connection = rustls::ClientConnection::new(willing.clone(), name()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, socket);
        stream.write_all(b"BEGIN\r\nLIST\r\nEND\r\n").unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"END\r\n") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert_eq!(answer, b"BEGIN\r\n+004 001 SE-A\r\nEND\r\n");
        let kind = stream.conn.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        assert_eq!(stream.conn.tls13_tickets_received(), 0);
    }
}

#[test]
fn an_old_token_is_refused() {
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let first = a.chain();
    let old = Certificate::parse(&first.certificates()[0])
        .unwrap()
        .serial()
        .to_vec();
    let middleware = world.hypervisor().roles().middleware.clone().unwrap();
    for _ in 0..2 {
        let renewed = world.runtime.block_on(async {
            let (middleware, vm) = (middleware.clone(), a.vm.parse().unwrap());
            tokio::spawn(async move { middleware.renew(vm) })
                .await
                .unwrap()
        });
        assert!(renewed);
    }
    let begun = Instant::now();
    while a.serial().as_bytes() == old && begun.elapsed() < Duration::from_secs(5) {
        a.attach.lock().unwrap().refresh().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    // pushed, and the first one is neither current nor the one before
    assert_ne!(a.serial().as_bytes(), old);
    assert!(matches!(
        a.sign(&old),
        Err(GuestError::Refused(AttachError::NotCurrent))
    ));
    assert!(a.session(&world, first.certificates()).is_none());
    logged(&[&a.vm, "an earlier token of this domain"]);
    let current = a.chain();
    assert!(a.session(&world, current.certificates()).is_some());
}

#[test]
fn a_token_of_an_earlier_start_is_a_roll_back() {
    let world = World::new("none");
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    assert_eq!(world.start(uuid, "SE-A"), 1);
    let first = Rogue::take(&world);
    let old = first.chain();
    let middleware = world.hypervisor().roles().middleware.clone().unwrap();
    middleware.destroy(uuid.parse().unwrap()).unwrap();
    // the domain's channels end with it
    assert!(first.sign(first.serial().as_bytes()).is_err());
    assert_eq!(world.start(uuid, "SE-A"), 2);
    let mut second = Rogue::take(&world);
    assert!(second.session(&world, old.certificates()).is_none());
    logged(&[uuid, "generation 1 is older than 2"]);
}

#[test]
fn nothing_of_it_counts_elsewhere() {
    let world = World::new("none");
    let a = Rogue::new(&world, "SE-A");
    // a grid node, and the hypervisor's own port: the attach endpoint signs, the form does not count
    for node in [&world.grid, world.hypervisor(), &world.server] {
        for shown in [a.chain().certificates(), &world.hv_ca] {
            let socket = std::net::TcpStream::connect(node.address().unwrap()).unwrap();
            assert!(serves(socket, a.config(&world, shown)).is_none());
        }
    }
    logged(&["refused: certificate", "Attachment does not count here"]);
    logged(&["refused: handshake", "CaUsedAsEndEntity"]);
}

#[test]
fn a_secret_is_used_once_and_joins_come_first() {
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let wrong = a.control.open(Request::Attach).unwrap();
    let refused = AttachChannel::join(wrong, &JoinSecret::new([0; 32])).err();
    assert!(matches!(
        refused,
        Some(GuestError::Refused(AttachError::Secret))
    ));
    logged(&[&a.vm, "join secret is wrong or used up"]);
    // the secret that the first join gave joins once more
    let next = a.attach.lock().unwrap().next_secret().clone();
    let channel = a.control.open(Request::Attach).unwrap();
    AttachChannel::join(channel, &next).unwrap();
    let channel = a.control.open(Request::Attach).unwrap();
    let again = AttachChannel::join(channel, &next).err();
    assert!(matches!(
        again,
        Some(GuestError::Refused(AttachError::Secret))
    ));
    // without a join nothing is signed
    let mut channel = a.control.open(Request::Attach).unwrap();
    channel.write_all(&[0, 1, 3]).unwrap();
    let mut answer = [0; 4];
    channel.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 2, 0xFF, 2]);
}

#[test]
fn requests_are_rate_limited() {
    let world = World::new("none");
    let a = Rogue::new(&world, "SE-A");
    let serial = a.serial();
    let refused = (0..2000)
        .filter_map(|_| a.sign(serial.as_bytes()).err())
        .next();
    assert!(
        matches!(refused, Some(GuestError::Refused(AttachError::RateLimited))),
        "{refused:?}"
    );
    logged(&[&a.vm, "too many requests"]);
}

#[test]
fn a_flood_of_one_guest_leaves_another_its_turn() {
    const CHANNELS: usize = 16;
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let mut b = Rogue::new(&world, "SE-B");
    let mut secret = a.attach.lock().unwrap().next_secret().clone();
    let mut channels = vec![];
    for _ in 0..CHANNELS {
        let socket = a.control.open(Request::Attach).unwrap();
        let channel = AttachChannel::join(socket, &secret).unwrap();
        secret = channel.next_secret().clone();
        channels.push(channel);
    }
    let begun = Instant::now();
    let (over, serial) = (AtomicBool::new(false), a.serial());
    let (slowest, granted, refused) = std::thread::scope(|scope| {
        let flood = |mut channel: AttachChannel<UnixStream>| {
            let hash = TranscriptHash::new(&[1; 32]).unwrap();
            let (mut granted, mut refused) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                match channel.sign(&serial, 0x0403, hash) {
                    Ok(_) => granted += 1,
                    Err(GuestError::Refused(AttachError::RateLimited)) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            (granted, refused)
        };
        let floods: Vec<_> = channels
            .into_iter()
            .map(|channel| scope.spawn(move || flood(channel)))
            .collect();
        // B attaches again and again meanwhile, each time with a signature of hv-ca.
        let shown = b.chain();
        let slowest = (0..30)
            .map(|_| {
                let attach = Instant::now();
                assert!(b.session(&world, shown.certificates()).is_some());
                attach.elapsed()
            })
            .max();
        over.store(true, Ordering::Relaxed);
        let counts = floods.into_iter().map(|flood| flood.join().unwrap());
        let (granted, refused) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (slowest.unwrap(), granted, refused)
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(refused > 0, "it was no flood");
    let earned = begun.elapsed().as_millis() / REFILL.as_millis();
    assert!(
        granted <= u128::from(BURST) + earned,
        "{granted} signatures, {earned} earned"
    );
}

#[test]
fn the_lock_of_a_lost_connection_is_freed_in_time() {
    let world = World::new("none");
    let mut a = Rogue::new(&world, "SE-A");
    let shown = a.chain();
    let seid = "SE-A".parse().unwrap();
    let mut first = RemoteElement::new(a.session(&world, shown.certificates()).unwrap(), seid);
    first.power_on().unwrap();
    let mut second = RemoteElement::new(a.session(&world, shown.certificates()).unwrap(), seid);
    assert_eq!(second.power_on().err(), Some(ElementError::InUse));
    logged(&[&a.vm, "refused: in use"]);
    // lost, not shut down
    drop(first);
    let begun = Instant::now();
    while let Err(error) = second.power_on() {
        assert_eq!(error, ElementError::InUse);
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
}
