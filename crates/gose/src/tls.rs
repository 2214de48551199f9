//! `gose tls connect`: TLS to an ordinary server; an element does the handshake, and keeps the key.

mod layer;
mod pump;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand, ValueEnum};
use gose_client::{RemoteElement, tls};
use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening, Progress},
};
use rustls::{client::verify_server_name, server::ParsedCertificate};
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use self::{
    layer::{Arrived, Layer},
    pump::Pump,
};
use crate::{
    Failure, Output,
    eap::{now, resolve},
    node::Node,
    secrets::BearerFlags,
};

/// What to do over TLS.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Connect standard input and output to a TLS server, as an element
    ///
    /// The element does the handshake with the identity's key and certificate, and verifies the server's
    /// certificate by the identity's anchors; its name is verified here. Standard input goes to the server until
    /// its end, which is told by close_notify; what the server sends goes to standard output. What was agreed on
    /// is told on standard error. The element sends no server name (SNI): a server with several names shows its
    /// default certificate.
    Connect(Box<Connect>),
}

/// Flags of `connect`.
#[derive(Args)]
pub(crate) struct Connect {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    bearer: BearerFlags,
    /// The element
    seid: String,
    /// The identity in the element, of role peer
    label: String,
    /// The server (port 443 unless given)
    #[arg(value_name = "HOST[:PORT]")]
    server: String,
    /// Name in the server's certificate, where it is not the host
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// Where records are protected: on the host, whose memory then has the session's keys, or in the element
    #[arg(long, value_enum, default_value_t = Records::Host)]
    records: Records,
    /// Give up after so many seconds on a connection, a handshake, a server that takes nothing or does not close
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=300))]
    timeout_s: u32,
    /// Close after so many seconds without data in either direction
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    idle_s: u32,
}

/// Where the record layer is.
#[derive(Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Records {
    /// The session's keys move to the host once
    Host,
    /// Every record goes through the element; its tickets stay there, so that a later session is resumed
    Element,
}

/// What was agreed on.
#[derive(Serialize)]
struct Agreed {
    server: String,
    version: &'static str,
    suite: String,
    resumed: bool,
    records: Records,
    handshake_ms: f64,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Connect(flags) => flags.run(output),
        }
    }
}

impl Connect {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let (host, address) = resolve(&self.server, 443)?;
        let name = tls::server_name(self.tls_name.as_deref().unwrap_or(&host))?;
        let pin = self.bearer.pin(&self.seid)?;
        let mut element = self.node.element(&self.seid)?;
        let patience = Duration::from_secs(self.timeout_s.into());
        let mut socket = TcpStream::connect_timeout(&address, patience)
            .map_err(|error| self.remote(&format!("{error}; does a server listen there?")))?;
        let _ = socket.set_nodelay(true);
        element.power_on()?;
        let outcome = EapTls::open(&mut element, &Opening::new(&pin, &self.label))
            .map_err(Failure::from)
            .and_then(|mut eap| {
                let begun = Instant::now();
                let arrived = self.shake_hands(&mut eap, &mut socket, begun + patience)?;
                let certificate = CertificateDer::from(eap.peer_certificate()?);
                ParsedCertificate::try_from(&certificate)
                    .and_then(|certificate| verify_server_name(&certificate, &name))
                    .map_err(|error| {
                        self.remote(&format!("{error}; --tls-name names another server"))
                    })?;
                let (version, suite) = eap.version_and_suite()?;
                let agreed = Agreed {
                    server: self.server.clone(),
                    version: if version == 0x0304 { "1.3" } else { "1.2" },
                    suite: format!("{suite:04X}"),
                    resumed: eap.is_resumed()?,
                    records: self.records,
                    handshake_ms: begun.elapsed().as_secs_f64() * 1000.0,
                };
                let layer = match self.records {
                    Records::Host => Layer::on_host(&mut eap)?,
                    Records::Element => Layer::Element(&mut eap),
                };
                output.aside(&agreed, Agreed::text)?;
                Pump {
                    socket,
                    arrived,
                    layer,
                    patience,
                    idle: Duration::from_secs(self.idle_s.into()),
                }
                .run()
                .map_err(|failure| match failure {
                    Failure::Remote(text) => self.remote(&text),
                    local @ Failure::Local(_) => local,
                })
            });
        element.power_off();
        outcome
    }

    /// Carries flights until the element says that the session stands; gives what came behind the last one.
    fn shake_hands(
        &self,
        eap: &mut EapTls<'_, RemoteElement>,
        socket: &mut TcpStream,
        deadline: Instant,
    ) -> Result<Arrived, Failure> {
        let mut arrived = Arrived::default();
        let mut answer = eap.start_tls(Some(now()))?;
        loop {
            let left = left(deadline).ok_or_else(|| self.late())?;
            let _ = socket.set_write_timeout(Some(left));
            socket
                .write_all(&answer)
                .map_err(|error| self.failed(&error))?;
            let flight = loop {
                let flight = arrived
                    .flight()
                    .map_err(|error| self.remote(&error.to_string()))?;
                if !flight.is_empty() {
                    break flight;
                }
                self.more(socket, &mut arrived, deadline)?;
            };
            answer = eap.tls(&flight)?;
            match eap.tls_progress()? {
                Progress::UnderWay => {}
                Progress::Done => {
                    socket
                        .write_all(&answer)
                        .map_err(|error| self.failed(&error))?;
                    return Ok(arrived);
                }
                Progress::Failed => {
                    let _ = socket.write_all(&answer);
                    return Err(self.remote(&why(&flight)));
                }
            }
        }
    }

    fn more(
        &self,
        socket: &mut TcpStream,
        arrived: &mut Arrived,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let left = left(deadline).ok_or_else(|| self.late())?;
        let _ = socket.set_read_timeout(Some(left));
        let mut bytes = [0; layer::CHUNK];
        match socket.read(&mut bytes) {
            Ok(0) => Err(self.remote(
                "the server closed during the handshake; its log says why (does it speak TLS there, \
                 and accept the identity's certificate?)",
            )),
            Ok(size) => {
                arrived.extend(&bytes[..size]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn remote(&self, text: &str) -> Failure {
        Failure::Remote(format!("{}: {text}", self.server))
    }

    fn late(&self) -> Failure {
        self.remote("no handshake in time; does a TLS server listen there? (--timeout-s)")
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late(),
            _ => self.remote(&error.to_string()),
        }
    }
}

/// Why a handshake failed: an alert of the server's in the clear, else the element's own verdict.
fn why(flight: &[u8]) -> String {
    match flight {
        [0x15, _, _, 0, 2, _, description] => layer::refused(*description),
        _ => "the element ended the handshake: does the server's certificate lead to the identity's anchors \
              and carry its expected names (gose identity add --anchors, --expect), and do both ends share a \
              version and a suite?"
            .into(),
    }
}

fn left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

impl Agreed {
    fn text(&self) -> String {
        format!(
            "{}: TLS {}, suite {}, {}, records {}, {:.1} ms",
            self.server,
            self.version,
            self.suite,
            if self.resumed { "resumed" } else { "full" },
            match self.records {
                Records::Host => "on the host",
                Records::Element => "in the element",
            },
            self.handshake_ms
        )
    }
}
