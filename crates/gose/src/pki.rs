//! `gose pki init|issue|revoke|crl`: a small certification authority whose key sits in an element.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand, ValueEnum};
use gose_client::{
    element_key::ElementKey,
    pki::{Authority, Kind, Reason, UnixTime, common_name, to_pem},
};
use gose_element::drive::piv::Slot;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use serde::Serialize;

use crate::{Failure, Output, key::element_key, node::Node, output::write_file, secrets::PinFlags};

/// What to do with an authority.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a root certificate for a key of an element, and the authority's directory
    Init(Init),
    /// Issue a certificate for a request
    Issue(Box<Issue>),
    /// Revoke a certificate; `crl` then tells the world
    Revoke(Revoke),
    /// Make a new revocation list
    Crl(Crl),
}

/// The authority and the element that signs for it.
#[derive(Args)]
struct Place {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The authority's directory
    directory: PathBuf,
}

/// Flags of `init`.
#[derive(Args)]
pub(crate) struct Init {
    #[command(flatten)]
    place: Place,
    /// Common name of the root
    #[arg(long)]
    name: String,
    /// The element that holds the key
    #[arg(long)]
    seid: String,
    /// The key's slot
    #[arg(long, default_value = "9C")]
    slot: Slot,
    /// Days that the root is valid
    #[arg(long, default_value_t = 3650)]
    days: u32,
}

/// Flags of `issue`.
#[derive(Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    place: Place,
    /// Certificate request, PEM or DER
    request: PathBuf,
    /// What the certificate is for
    #[arg(long)]
    kind: KindName,
    /// Common name of a client; the request's unless given
    #[arg(long)]
    name: Option<String>,
    /// DNS name or IP address of a server; may be given several times
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<String>,
    /// SPIFFE identifier of a hypervisor: spiffe://DOMAIN/hv/ID
    #[arg(long, value_name = "URI")]
    spiffe: Option<String>,
    /// Days that the certificate is valid
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// Write the certificate to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `revoke`.
#[derive(Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    place: Place,
    /// Serial number of the certificate, hexadecimal
    serial: String,
    /// Why: unspecified, key-compromise, affiliation-changed, superseded, cessation-of-operation
    #[arg(long, default_value = "unspecified")]
    reason: Reason,
}

/// Flags of `crl`.
#[derive(Args)]
pub(crate) struct Crl {
    #[command(flatten)]
    place: Place,
    /// Days until the next one
    #[arg(long, default_value_t = 7)]
    days: u32,
    /// Write the list to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Kinds of certificates.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// TLS server, by --san
    Server,
    /// TLS client, by --name
    Client,
    /// TLS identity of a hypervisor, by --spiffe and --san
    Hv,
    /// Key of a hypervisor that signs tokens, by --spiffe
    HvCa,
    /// EAP-TLS authentication server, by --san
    EapServer,
    /// EAP-TLS peer, by --name
    EapClient,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Init(flags) => flags.run(output),
            Self::Issue(flags) => flags.run(output),
            Self::Revoke(flags) => flags.run(output),
            Self::Crl(flags) => flags.run(output),
        }
    }
}

/// Where the authority's key is, so that only `init` has to be told: `SEID SLOT`.
const ELEMENT: &str = "element";

impl Place {
    fn key(&self, seid: &str, slot: Slot) -> Result<ElementKey, Failure> {
        element_key(&self.node, &self.pin, seid, slot)
    }

    fn open(&self) -> Result<Authority, Failure> {
        let path = self.directory.join(ELEMENT);
        let wrong = |what: &str| Failure::local(format!("{}: {what}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| wrong(&error.to_string()))?;
        let (seid, slot) = text
            .trim()
            .split_once(' ')
            .ok_or_else(|| wrong("not `SEID SLOT`"))?;
        let slot = slot.parse().map_err(|_| wrong("not `SEID SLOT`"))?;
        Ok(Authority::open(&self.directory, self.key(seid, slot)?)?)
    }
}

/// A PEM file that the authority made.
#[derive(Serialize)]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    pem: String,
}

impl Made {
    fn give(&self, out: Option<&Path>, output: &Output) -> Result<(), Failure> {
        if let Some(path) = out {
            write_file(path, &self.pem)?;
        }
        output.result(self, |made| match (out, &made.serial) {
            (None, _) => made.pem.clone(),
            (Some(_), Some(serial)) => format!("serial {serial}"),
            (Some(_), None) => String::new(),
        })
    }
}

impl Init {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let key = self.place.key(&self.seid, self.slot)?;
        let directory = &self.place.directory;
        let authority = Authority::init(directory, &self.name, key, now()?, self.days)?;
        let element = format!("{} {}\n", self.seid, self.slot);
        write_file(&directory.join(ELEMENT), &element)?;
        let made = Made {
            serial: None,
            pem: to_pem("CERTIFICATE", authority.root()),
        };
        made.give(None, output)
    }
}

impl Issue {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let request = fs::read(&self.request)
            .map_err(|error| Failure::local(format!("{}: {error}", self.request.display())))?;
        let kind = self.kind(&request)?;
        let issued = self
            .place
            .open()?
            .issue(&request, &kind, now()?, self.days)?;
        let made = Made {
            pem: issued.pem(),
            serial: Some(issued.serial),
        };
        made.give(self.out.as_deref(), output)
    }

    fn kind(&self, request: &[u8]) -> Result<Kind, Failure> {
        let names = self.names.clone();
        Ok(match self.kind {
            KindName::Server => Kind::Server { names },
            KindName::EapServer => Kind::EapServer { names },
            KindName::Client => Kind::Client {
                name: self.common_name(request)?,
            },
            KindName::EapClient => Kind::EapClient {
                name: self.common_name(request)?,
            },
            KindName::Hv => Kind::Hypervisor {
                id: self.spiffe()?,
                names,
            },
            KindName::HvCa => Kind::HypervisorCa { id: self.spiffe()? },
        })
    }

    fn common_name(&self, request: &[u8]) -> Result<String, Failure> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let der = CertificateSigningRequestDer::from_pem_slice(request)
            .unwrap_or_else(|_| CertificateSigningRequestDer::from(request.to_vec()));
        common_name(&der)?.ok_or_else(|| {
            Failure::local("the request has not one common name; give one with --name")
        })
    }

    fn spiffe(&self) -> Result<gose_proto::identity::SpiffeId, Failure> {
        let text = self.spiffe.as_deref().unwrap_or_default();
        text.parse()
            .map_err(|error| Failure::local(format!("--spiffe {text:?}: {error}")))
    }
}

impl Revoke {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Revoked<'a> {
            serial: &'a str,
            reason: String,
        }
        let authority = self.place.open()?;
        authority.revoke(&self.serial, self.reason, now()?)?;
        let revoked = Revoked {
            serial: &self.serial,
            reason: self.reason.to_string(),
        };
        output.result(&revoked, |revoked| {
            format!(
                "{} is revoked; `gose pki crl` makes the list",
                revoked.serial
            )
        })
    }
}

impl Crl {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let made = Made {
            serial: None,
            pem: self.place.open()?.crl(now()?, self.days)?,
        };
        made.give(self.out.as_deref(), output)
    }
}

fn now() -> Result<UnixTime, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .ok_or_else(|| Failure::local("the clock stands before 1970"))
}
