//! Authentications: how a pool of cards that are as slow as real ones scales, RADIUS in front.
//!
//! Everything is real but the silicon: elements, pool, RADIUS over UDP, peers with elements of their own. A card
//! waits for the time that its profile charges. With T = the time charged a conversation, N cards can serve N / T.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use gose_card::{
    Host, HostError, Hosted, factory,
    keystore::SoftwareKeyStore,
    nvm::{Delta, Nvm},
    timing::{Cost, Profile},
};
use gose_client::radius::{Client, Station, authenticate};
use gose_element::{
    Algorithm, ElementError, SecureElement,
    drive::eap_tls::{
        AID, EapTls, Key, Opening, Personalisation, Policy, personalisation::Operator,
    },
};
use gose_proto::{
    eap::Role,
    radius::{
        Secret,
        client::Timers,
        server::{Client as RadiusClient, Limits, Service},
    },
};
use gosed::{
    auth::{Identity, Pool, Revoked, Tuning},
    config::Config,
    grid::{Grid, Policy as GridPolicy, Runs, Spec},
    radius::{self, Clients, Front},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SubjectPublicKeyInfo,
};
use serde_json::{Value, json};

use crate::child::Outcome;

/// The PINs that every new card is born with.
const PIN: &[u8] = b"0000";
const OPERATOR_PIN: &[u8] = b"00000000";
const OWN_OPERATOR_PIN: &[u8] = b"81726354";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A host that lets the time pass that its card is charged, once it is told to.
struct Paced {
    profile: &'static Profile,
    pace: Arc<AtomicBool>,
    charged: Arc<AtomicU64>,
}

impl Host for Paced {
    fn persist(&mut self, _delta: &Delta) -> Result<(), HostError> {
        Ok(())
    }

    fn spend(&mut self, cost: &Cost) {
        if self.pace.load(Ordering::Relaxed) {
            let price = self.profile.price(cost);
            self.charged.fetch_add(
                u64::try_from(price.as_nanos()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
            std::thread::sleep(price);
        }
    }
}

/// Cards, and the switch that makes them slow.
struct Cards {
    authority: Authority,
    pace: Arc<AtomicBool>,
    charged: Arc<AtomicU64>,
    profile: &'static Profile,
}

impl Cards {
    fn new(profile: &'static Profile) -> Outcome<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, "gose-bench");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self {
            authority,
            pace: Arc::default(),
            charged: Arc::default(),
            profile,
        })
    }

    /// A card with an RSA-2048 key, TLS 1.2, and a certificate. A peer's card is not slow.
    fn card(&self, role: Role, resumption: bool) -> Outcome<Box<dyn SecureElement>> {
        let pace = if role == Role::Authenticator {
            self.pace.clone()
        } else {
            Arc::default()
        };
        let host = Paced {
            profile: self.profile,
            pace,
            charged: self.charged.clone(),
        };
        let nvm = Nvm::replay([factory::birth([1; 16])]);
        let mut card = Hosted::new(factory::new_card(nvm, Arc::new(SoftwareKeyStore)), host);
        card.power_on()?;
        let mut operator = Operator::open(&mut card, &AID, OPERATOR_PIN)?;
        operator.change_pin(1, OPERATOR_PIN, OWN_OPERATOR_PIN)?;
        let public = SubjectPublicKeyInfo::from_der(&operator.generate(0x9A, Algorithm::Rsa2048)?)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "bench");
        params.extended_key_usages = vec![match role {
            Role::Peer => ExtendedKeyUsagePurpose::ClientAuth,
            Role::Authenticator => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let certificate = params.signed_by(&public, &self.authority)?;
        operator.add_identity(&Personalisation {
            label: "bench".into(),
            eap_id: "@bench.test".into(),
            role,
            key: Key::Slot(0x9A),
            chain: vec![certificate.der().to_vec()],
            anchors: vec![self.authority.der().to_vec()],
            policy: Policy {
                max_version: 0x0303,
                resumption,
                ..Policy::default()
            },
            expected_names: Vec::new(),
            crls: Vec::new(),
        })?;
        card.power_off();
        Ok(Box::new(card))
    }
}

/// RADIUS before so many cards.
struct Server {
    address: SocketAddr,
    pool: Arc<Pool>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    fn start(cards: Vec<Box<dyn SecureElement>>) -> Outcome<Self> {
        let mut specs = Vec::new();
        let mut seids = Vec::new();
        for (number, card) in cards.into_iter().enumerate() {
            let seid = format!("card-{number}").parse()?;
            seids.push(seid);
            let card = Mutex::new(Some(card));
            specs.push(Spec {
                seid,
                runs: Runs::Thread,
                used: Arc::default(),
                place: format!("card-{number}").into(),
                open: Arc::new(move |_| {
                    let mut card = card.lock().unwrap_or_else(PoisonError::into_inner);
                    card.take().ok_or(ElementError::Absent)
                }),
            });
        }
        let config = Config::parse("version = 1\n[admin]\n")?;
        let grid = Grid::new(specs, GridPolicy::new(&config), Duration::from_secs(30));
        let tuning = Tuning {
            patience: Duration::from_secs(20),
            preempt: Duration::from_secs(60),
            ..Tuning::DEFAULT
        };
        let pool = Pool::new(
            &grid,
            vec![Identity::new("bench", "bench", PIN, seids)],
            &tuning,
            Revoked::default(),
        );
        let front = Front::new(pool.clone(), Limits::DEFAULT);
        let socket = radius::bind(([127, 0, 0, 1], 0).into(), Service::Authentication)?;
        let address = socket.address()?;
        let client = RadiusClient {
            name: "bench".into(),
            secret: secret()?,
            disconnect_port: None,
        };
        let clients = Clients::new(vec![("127.0.0.0/8".parse()?, Arc::new(client))]);
        let task = tokio::spawn(socket.serve(front, Arc::new(ArcSwap::from_pointee(clients))));
        Ok(Self {
            address,
            pool,
            task,
        })
    }
}

fn secret() -> Outcome<Secret> {
    Secret::new(b"bench".to_vec()).ok_or_else(|| "no secret".into())
}

fn now() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|time| time.as_secs());
    now.ok()
        .and_then(|now| u32::try_from(now).ok())
        .unwrap_or_default()
}

/// One peer: authenticates again and again until the work is done; how often it did.
fn peer(
    mut card: Box<dyn SecureElement>,
    server: SocketAddr,
    left: &AtomicUsize,
) -> Result<usize, String> {
    let timers = Timers {
        patience: Duration::from_secs(120),
        count: 20,
        ..Timers::DEFAULT
    };
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let secret = secret().map_err(|error| text(&error))?;
    let mut client = Client::udp(server, secret, timers).map_err(|error| text(&error))?;
    card.power_on().map_err(|error| text(&error))?;
    let mut done = 0;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    {
        let mut eap = EapTls::open(card.as_mut(), &Opening::new(PIN, "bench"))
            .map_err(|error| text(&error))?;
        let report = authenticate(&mut client, &mut eap, &Station::default(), now())
            .map_err(|error| text(&error))?;
        if !report.accepted || report.keys_match != Some(true) {
            return Err("an authentication was rejected".into());
        }
        done += 1;
    }
    Ok(done)
}

/// `count` conversations by these peers; how long they took. Gives the peers' cards back in no order.
fn drive(
    peers: Vec<Box<dyn SecureElement>>,
    server: SocketAddr,
    count: usize,
) -> Outcome<Duration> {
    let left = Arc::new(AtomicUsize::new(count));
    let begun = Instant::now();
    let threads: Vec<_> = peers
        .into_iter()
        .map(|card| {
            let left = left.clone();
            std::thread::spawn(move || peer(card, server, &left))
        })
        .collect();
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| "a peer's thread ended")??;
    }
    if done != count {
        return Err(format!("{done} of {count} authentications").into());
    }
    Ok(begun.elapsed())
}

/// One row: N cards, conversations a second, and what N / T would be.
fn row(cards: &Cards, count: usize, each: usize) -> Outcome<Value> {
    let servers = (0..count)
        .map(|_| cards.card(Role::Authenticator, false))
        .collect::<Outcome<_>>()?;
    let peers = (0..2 * count)
        .map(|_| cards.card(Role::Peer, false))
        .collect::<Outcome<_>>()?;
    let server = Server::start(servers)?;
    cards.charged.store(0, Ordering::Relaxed);
    cards.pace.store(true, Ordering::Relaxed);
    let work = count * each;
    let took = drive(peers, server.address, work);
    cards.pace.store(false, Ordering::Relaxed);
    let took = took?;
    server.task.abort();
    let charged = Duration::from_nanos(cards.charged.load(Ordering::Relaxed)).as_secs_f64();
    let conversations: u64 = server
        .pool
        .state()
        .iter()
        .map(|(_, element)| element.conversations)
        .sum();
    let number = |value: usize| u32::try_from(value).map_or(f64::MAX, f64::from);
    let charged_each = charged / number(work);
    let possible = number(count) / charged_each;
    let rate = number(work) / took.as_secs_f64();
    Ok(json!({
        "cards": count,
        "conversations": conversations,
        "charged_s": charged_each,
        "per_s": rate,
        "possible_per_s": possible,
        "ratio": rate / possible,
        "paper_full_per_s": number(count) / 2.0,
        "paper_resumed_per_s": number(count) / 0.5,
    }))
}

/// Measures; lines go to standard output unless JSON is wanted. Called within a runtime.
pub(crate) fn run(cards: &[usize], print: bool, short: bool) -> Outcome<Value> {
    let made = Cards::new(&Profile::PAPER_2014)?;
    let mut rows = Vec::new();
    for count in cards {
        let line = row(&made, *count, if short { 3 } else { 8 })?;
        if print {
            if rows.is_empty() {
                println!(
                    "Full EAP-TLS 1.2, ECDHE-RSA, cards as slow as the paper's ({}):",
                    made.profile.name
                );
                println!(
                    "cards  charged s  served /s  possible /s  ratio  paper full /s  paper resumed /s"
                );
            }
            let field = |name: &str| line[name].as_f64().unwrap_or_default();
            println!(
                "{count:5}  {:9.3}  {:9.2}  {:11.2}  {:5.2}  {:13.2}  {:16.2}",
                field("charged_s"),
                field("per_s"),
                field("possible_per_s"),
                field("ratio"),
                field("paper_full_per_s"),
                field("paper_resumed_per_s"),
            );
        }
        rows.push(line);
    }
    Ok(json!({ "profile": made.profile.name, "pool": rows }))
}
