//! `gose guest`: what a virtual machine does with its token and its element.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use gose_client::{
    RemoteElement,
    guest::{EapError, Guest, JoinRecord, authenticate},
    pki::to_pem,
};
use gose_element::drive::eap_tls::{EapTls, Opening};
use gose_proto::{hex, identity::attach::Chain};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    Failure, Output,
    node::{join, parse_seid},
    output::write_file,
    secrets::BearerFlags,
    service::Serve,
};

/// What a virtual machine may do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Attach to the hypervisor and show the VM-Auth-Token of now
    Token(Show),
    /// Get a fresh token for the key in one's own element: what other nodes accept
    Identity(Show),
    /// Print the PIN of an element that was made for this virtual machine, from its join record
    Pin(Pin),
    /// Authenticate to the authentication server by EAP-TLS, inside the element
    ///
    /// Where the hypervisor has ports for its guests, success opens this virtual machine's. Authenticate again before the
    /// session's time is over and it stays open.
    Authenticate(Authenticate),
    /// End the session: the port of this virtual machine closes
    Logoff(Own),
    /// Serve the elements to all programs of this machine: one session, transactions on a Unix socket
    ///
    /// Programs reach it by `[grid] service = "/run/gose/guest.sock"` in their configuration, or by --socket. Who
    /// may use which element stands in `[[user]]`; the kernel tells whose program connects. The token is renewed, and
    /// a node that was away is called again.
    Serve(Serve),
}

/// This virtual machine.
#[derive(Args)]
pub(crate) struct Own {
    /// The join record that the hypervisor left here
    #[arg(
        long,
        value_name = "FILE",
        env = "GOSE_JOIN",
        default_value = "/run/gose/join.json"
    )]
    join: PathBuf,
}

/// Flags of `token` and `identity`.
#[derive(Args)]
pub(crate) struct Show {
    #[command(flatten)]
    own: Own,
    /// Write the token and its chain to this file, PEM
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `pin`.
#[derive(Args)]
pub(crate) struct Pin {
    #[command(flatten)]
    own: Own,
    /// The element
    seid: String,
}

/// Flags of `authenticate`.
#[derive(Args)]
pub(crate) struct Authenticate {
    #[command(flatten)]
    own: Own,
    #[command(flatten)]
    bearer: BearerFlags,
    /// The element
    seid: String,
    /// The identity in the element
    label: String,
    /// Authenticate so often, one after another; later ones may resume the session of the first
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
}

/// A token.
#[derive(Serialize)]
struct Token {
    vm: String,
    pem: String,
}

/// One authentication.
#[derive(Serialize)]
struct Authentication {
    version: String,
    suite: String,
    resumed: bool,
    total_ms: f64,
    round_trips: u64,
}

impl Verb {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Token(show) => show.run(output, Guest::token),
            Self::Identity(show) => show.run(output, Guest::identity),
            Self::Pin(pin) => pin.run(output),
            Self::Authenticate(flags) => flags.run(output),
            Self::Logoff(own) => own.logoff(output),
            Self::Serve(flags) => flags.run(output),
        }
    }
}

/// A session that ended.
#[derive(Serialize)]
struct LoggedOff {
    vm: String,
}

impl Own {
    /// Answers the question for an identity by closing (docs/protocol.md, Channels).
    fn logoff(&self, output: &Output) -> Result<(), Failure> {
        let guest = join(&self.join)?;
        let mut channel = guest.open_eap().map_err(gose_client::Error::from)?;
        let remote = |error: EapError| Failure::Remote(error.to_string());
        if channel.receive().map_err(remote)?.is_none() {
            return Err(remote(EapError::Closed));
        }
        channel.close().map_err(remote)?;
        let vm = guest.record().vm.clone();
        output.result(&LoggedOff { vm }, |_| "logged off\n".to_owned())
    }
}

impl Show {
    fn run(
        &self,
        output: &Output,
        ask: fn(&Guest) -> Result<Chain, gose_client::guest::GuestError>,
    ) -> Result<(), Failure> {
        let guest = join(&self.own.join)?;
        let chain = ask(&guest).map_err(gose_client::Error::from)?;
        let pem: String = chain
            .certificates()
            .iter()
            .map(|der| to_pem("CERTIFICATE", der))
            .collect();
        if let Some(path) = &self.out {
            write_file(path, &pem)?;
        }
        let vm = guest.record().vm.clone();
        output.result(&Token { vm, pem }, |token| token.pem.clone())
    }
}

impl Pin {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let (path, seid) = (&self.own.join, &self.seid);
        let wrong =
            |error: &dyn std::fmt::Display| Failure::local(format!("{}: {error}", path.display()));
        let json = Zeroizing::new(std::fs::read(path).map_err(|error| wrong(&error))?);
        let record: JoinRecord = serde_json::from_slice(&json).map_err(|error| wrong(&error))?;
        let pin = record.pin(seid).ok_or_else(|| {
            wrong(&format!(
                "no PIN of {seid} was made for this virtual machine"
            ))
        })?;
        output.result(&*pin, |pin| pin.clone())
    }
}

impl Authenticate {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let pin = self.bearer.pin(&self.seid)?;
        let seid = parse_seid(&self.seid)?;
        let guest = join(&self.own.join)?;
        let remote = |error: gose_client::guest::GuestError| gose_client::Error::from(error);
        let mut element = RemoteElement::new(guest.open_racs().map_err(remote)?, seid);
        let mut done = Vec::new();
        for _ in 0..self.count {
            let before = element.round_trips();
            let begun = Instant::now();
            let mut channel = guest.open_eap().map_err(remote)?;
            let mut eap = EapTls::open(&mut element, &Opening::new(&pin, &self.label))?;
            authenticate(&mut channel, &mut eap, now)
                .map_err(|error| Failure::Remote(error.to_string()))?;
            let total_ms = begun.elapsed().as_secs_f64() * 1000.0;
            let resumed = eap.is_resumed()?;
            let suite = eap.exported(0x80)?;
            done.push(Authentication {
                version: if suite.starts_with(&[3, 4]) {
                    "1.3"
                } else {
                    "1.2"
                }
                .to_owned(),
                suite: hex::encode(suite.get(2..).unwrap_or_default()),
                resumed,
                total_ms,
                round_trips: element.round_trips() - before,
            });
        }
        output.result(&done, |done| {
            done.iter().map(Authentication::text).collect()
        })
    }
}

impl Authentication {
    fn text(&self) -> String {
        format!(
            "authenticated: TLS {}, {}, suite {}, {} requests to the element, {:.1} ms\n",
            self.version,
            if self.resumed { "resumed" } else { "full" },
            self.suite,
            self.round_trips,
            self.total_ms,
        )
    }
}

/// Seconds since 1970, for the element, which has no clock.
fn now() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.as_ref().map_or(0, Duration::as_secs);
    u32::try_from(now).unwrap_or(u32::MAX)
}
