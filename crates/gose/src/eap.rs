//! `gose eap test`: an element authenticates to any EAP-TLS server behind RADIUS.

use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use gose_client::{
    Link,
    admin::{Action, Answer},
    radius::{Client, Report, Station, authenticate},
    tls,
};
use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening},
};
use gose_proto::{
    hex,
    radius::{Secret, Type, client::Timers},
};
use serde::Serialize;

use crate::{
    Failure, Output,
    node::Node,
    secrets::{BearerFlags, Source},
};

/// What to do over EAP.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Let an element authenticate to a RADIUS server, and tell what it said
    Test(Box<Test>),
    /// Ask a RADIUS server whether it is there (Status-Server)
    Status(Status),
    /// End the sessions of a peer at their NAS, and do not let it in again, not after a restart either
    ///
    /// It counts on this node alone. What all servers are to know stands on a revocation list.
    Revoke(Named),
    /// Let a peer in again whose name was revoked
    Reinstate(Named),
    /// List the names that were revoked
    Revoked(Node),
}

/// The RADIUS server.
#[derive(Args)]
struct Server {
    /// RADIUS server: host and port (port 1812 unless given, 2083 with --radsec)
    #[arg(long, value_name = "HOST[:PORT]")]
    server: String,
    /// Where the shared secret comes from: prompt, file:PATH, fd:NUMBER, env:NAME [default: prompt]
    #[arg(long, value_name = "SOURCE", conflicts_with = "radsec")]
    secret: Option<Source>,
    /// RADIUS over TLS, with the certificates of the next three flags
    #[arg(long, requires_all = ["radsec_cert", "radsec_key", "radsec_ca"])]
    radsec: bool,
    /// Certificate chain of this client, PEM or DER
    #[arg(long, value_name = "FILE")]
    radsec_cert: Option<PathBuf>,
    /// Private key of this client, PEM or DER
    #[arg(long, value_name = "FILE")]
    radsec_key: Option<PathBuf>,
    /// Certificates that the server's must lead to
    #[arg(long, value_name = "FILE")]
    radsec_ca: Option<PathBuf>,
    /// Name in the server's certificate, where it is not the host
    #[arg(long, value_name = "NAME")]
    radsec_name: Option<String>,
    /// Give up after so many seconds without an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=300))]
    timeout_s: u32,
}

/// Flags of `test`.
#[derive(Args)]
pub(crate) struct Test {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    bearer: BearerFlags,
    #[command(flatten)]
    server: Server,
    /// The element
    seid: String,
    /// The identity in the element
    label: String,
    /// Authenticate so often, one after another; later ones may resume the session of the first
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// What the server is told as Calling-Station-Id
    #[arg(long, value_name = "TEXT", default_value = "02-00-00-00-00-01")]
    station: String,
    /// Succeed when the server rejects
    #[arg(long)]
    expect_reject: bool,
}

/// Flags of `status`.
#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    server: Server,
}

/// Flags of `revoke` and `reinstate`.
#[derive(Args)]
pub(crate) struct Named {
    #[command(flatten)]
    on: Node,
    /// The name in its certificate: the SPIFFE identifier, or the common name
    name: String,
}

/// Names that were revoked.
#[derive(Serialize)]
struct Names {
    names: Vec<String>,
    total: u64,
}

fn another_kind<T>() -> Result<T, Failure> {
    Err(Failure::Remote(
        "the node gives an answer of another kind".into(),
    ))
}

impl Named {
    fn revoke(&self, output: &Output) -> Result<(), Failure> {
        let name = self.name.clone();
        match self.on.ask(&Action::EapRevoke { name })? {
            Answer::Revoked { sessions } => output.result(&sessions, |sessions| {
                format!(
                    "{sessions} sessions end; {} is not let in by this node any more, until `gose eap reinstate`\n",
                    self.name
                )
            }),
            _ => another_kind(),
        }
    }

    fn reinstate(&self, output: &Output) -> Result<(), Failure> {
        let name = self.name.clone();
        match self.on.ask(&Action::EapReinstate { name })? {
            Answer::Reinstated => output.result(&self.name, |name| {
                format!("{name} is let in again, as far as policy and its certificate allow\n")
            }),
            _ => another_kind(),
        }
    }
}

fn revoked(on: &Node, output: &Output) -> Result<(), Failure> {
    match on.ask(&Action::EapRevoked)? {
        Answer::RevokedNames { names, total } => output.result(&Names { names, total }, |all| {
            let mut text: String = all.names.iter().map(|name| format!("{name}\n")).collect();
            let more = usize::try_from(all.total).unwrap_or(usize::MAX) - all.names.len();
            if more > 0 {
                text += &format!("and {more} more; the node's revoked-file has them all\n");
            }
            text
        }),
        _ => another_kind(),
    }
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Test(flags) => flags.run(output),
            Self::Status(flags) => flags.run(output),
            Self::Revoke(flags) => flags.revoke(output),
            Self::Reinstate(flags) => flags.reinstate(output),
            Self::Revoked(on) => revoked(&on, output),
        }
    }
}

impl Server {
    fn client(&self) -> Result<Client, Failure> {
        let port = if self.radsec { 2083 } else { 1812 };
        let (host, address) = resolve(&self.server, port)?;
        let patience = Duration::from_secs(self.timeout_s.into());
        let remote = |error: std::io::Error| Failure::Remote(format!("{}: {error}", self.server));
        if self.radsec {
            let link = self.link(&host, address, patience)?;
            return Client::radsec(link, patience).map_err(remote);
        }
        let secret = self
            .secret
            .as_ref()
            .unwrap_or(&Source::Prompt)
            .read("shared secret")?;
        let secret = Secret::new(secret.as_bytes().to_vec())
            .ok_or_else(|| Failure::local("the shared secret is empty"))?;
        let timers = Timers {
            patience,
            ..Timers::DEFAULT
        };
        Client::udp(address, secret, timers).map_err(remote)
    }

    fn link(&self, host: &str, address: SocketAddr, patience: Duration) -> Result<Link, Failure> {
        let (Some(cert), Some(key), Some(ca)) =
            (&self.radsec_cert, &self.radsec_key, &self.radsec_ca)
        else {
            return Err(Failure::local(
                "--radsec needs --radsec-cert, --radsec-key and --radsec-ca",
            ));
        };
        let identity = tls::Identity::load(cert, key)?;
        let mut config = tls::client_config(&identity, tls::load_anchors(ca)?, tls::RACS)?;
        // RADIUS over TLS offers no ALPN (RFC 6614).
        std::sync::Arc::make_mut(&mut config).alpn_protocols.clear();
        let name = tls::server_name(self.radsec_name.as_deref().unwrap_or(host))?;
        let remote = |error: std::io::Error| Failure::Remote(format!("{}: {error}", self.server));
        let tcp = TcpStream::connect_timeout(&address, patience).map_err(remote)?;
        let _ = tcp.set_nodelay(true);
        Ok(Link::tls(tcp, name, config, patience)?)
    }
}

pub(crate) fn resolve(server: &str, port: u16) -> Result<(String, SocketAddr), Failure> {
    let host_and_port = if let Ok(address) = server.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address));
    } else if let Ok(ip) = server.parse::<std::net::IpAddr>() {
        return Ok((ip.to_string(), (ip, port).into()));
    } else if server.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:{port}")
    };
    let host = host_and_port
        .rsplit_once(':')
        .map(|(host, _)| host.to_owned())
        .unwrap_or_default();
    let mut addresses = host_and_port
        .to_socket_addrs()
        .map_err(|error| Failure::local(format!("{server}: {error}")))?;
    let address = addresses
        .next()
        .ok_or_else(|| Failure::local(format!("{server}: no address")))?;
    Ok((host, address))
}

/// What came of the authentications.
#[derive(Serialize)]
struct Told {
    server: String,
    seid: String,
    identity: String,
    accepted: usize,
    rejected: usize,
    packets_sent: u64,
    authentications: Vec<Authentication>,
}

/// One authentication.
#[derive(Serialize)]
struct Authentication {
    accepted: bool,
    /// `null` where the server sent no keys.
    keys_match: Option<bool>,
    key_name_matches: Option<bool>,
    version: Option<String>,
    suite: Option<String>,
    resumed: Option<bool>,
    session_id: String,
    rounds: usize,
    total_ms: f64,
    element_ms: f64,
    server_ms: f64,
    bytes_to_server: usize,
    bytes_from_server: usize,
    /// Numbers and values of the last answer's attributes, without keys and authenticators.
    attributes: Vec<(u8, String)>,
}

impl Test {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let pin = self.bearer.pin(&self.seid)?;
        let mut client = self.server.client()?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let mut eap = EapTls::open(&mut element, &Opening::new(&pin, &self.label))?;
        let station = Station {
            calling: self.station.clone(),
            ..Station::default()
        };
        let mut authentications = Vec::new();
        for number in 0..self.count {
            if number > 0 {
                eap.reset()?;
            }
            let begun = Instant::now();
            let report = authenticate(&mut client, &mut eap, &station, now())
                .map_err(|error| Failure::Remote(error.to_string()))?;
            authentications.push(Authentication::new(&report, begun.elapsed()));
        }
        element.power_off();
        let accepted = authentications.iter().filter(|one| one.accepted).count();
        let wrong_keys = authentications
            .iter()
            .any(|one| one.keys_match == Some(false));
        let told = Told {
            server: self.server.server.clone(),
            seid: self.seid.clone(),
            identity: self.label.clone(),
            accepted,
            rejected: authentications.len() - accepted,
            packets_sent: client.sent(),
            authentications,
        };
        output.result(&told, Told::text)?;
        let wanted = if self.expect_reject {
            0
        } else {
            told.authentications.len()
        };
        match (wrong_keys, accepted == wanted) {
            (true, _) => Err(Failure::Remote(
                "the server's keys are not the element's".into(),
            )),
            (false, true) => Ok(()),
            (false, false) => Err(Failure::Remote(format!(
                "{accepted} accepted, {} rejected",
                told.rejected
            ))),
        }
    }
}

impl Status {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut client = self.server.client()?;
        let begun = Instant::now();
        client
            .status()
            .map_err(|error| Failure::Remote(error.to_string()))?;
        let told = serde_json::json!({ "server": self.server.server, "ms": milliseconds(begun.elapsed()) });
        output.result(&told, |_| format!("{} answers", self.server.server))
    }
}

impl Authentication {
    fn new(report: &Report, total: Duration) -> Self {
        let sum = |time: fn(&gose_client::radius::Round) -> Duration| {
            milliseconds(report.rounds.iter().map(time).sum())
        };
        // Keys are secret; the authenticator and EAP say nothing more.
        let quiet = [
            Type::VENDOR_SPECIFIC,
            Type::MESSAGE_AUTHENTICATOR,
            Type::EAP_MESSAGE,
        ];
        let shown = report
            .attributes
            .iter()
            .filter(|(kind, _)| !quiet.contains(kind));
        Self {
            accepted: report.accepted,
            keys_match: report.keys_match,
            key_name_matches: report.key_name_matches,
            version: report
                .session
                .map(|(version, _)| if version == 0x0304 { "1.3" } else { "1.2" }.into()),
            suite: report.session.map(|(_, suite)| format!("{suite:04X}")),
            resumed: report.resumed,
            session_id: hex::encode(&report.session_id),
            rounds: report.rounds.len(),
            total_ms: milliseconds(total),
            element_ms: sum(|round| round.element),
            server_ms: sum(|round| round.server),
            bytes_to_server: report.rounds.iter().map(|round| round.eap_bytes.0).sum(),
            bytes_from_server: report.rounds.iter().map(|round| round.eap_bytes.1).sum(),
            attributes: shown
                .map(|(kind, value)| (kind.0, hex::encode(value)))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let keys = match self.keys_match {
            Some(true) => "keys match",
            Some(false) => "KEYS DIFFER",
            None => "no keys",
        };
        match (self.accepted, &self.version, &self.suite) {
            (true, Some(version), Some(suite)) => format!(
                "accepted: TLS {version}, {}, suite {suite}, {keys}, {} rounds, {:.1} ms ({:.1} in the element)\n",
                if self.resumed == Some(true) {
                    "resumed"
                } else {
                    "full"
                },
                self.rounds,
                self.total_ms,
                self.element_ms
            ),
            _ => format!(
                "rejected after {} rounds, {:.1} ms\n",
                self.rounds, self.total_ms
            ),
        }
    }
}

impl Told {
    fn text(&self) -> String {
        let mut text: String = self
            .authentications
            .iter()
            .take(20)
            .map(Authentication::text)
            .collect();
        if self.authentications.len() > 1 {
            text.push_str(&format!(
                "{} accepted, {} rejected\n",
                self.accepted, self.rejected
            ));
        }
        text
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Unix time in seconds.
pub(crate) fn now() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|time| time.as_secs());
    now.ok()
        .and_then(|now| u32::try_from(now).ok())
        .unwrap_or_default()
}
