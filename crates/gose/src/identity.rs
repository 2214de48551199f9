//! `gose identity key|add|remove`: identities of the EAP-TLS application.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use gose_client::tls;
use gose_element::{
    SecureElement,
    drive::{
        eap_tls::personalisation::{Key as Place, Operator, Personalisation, Policy},
        eap_tls::scripts::AID,
        piv::Slot,
    },
};
use gose_proto::eap::Role;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use serde::Serialize;

use crate::{Failure, Output, node::Node, secrets::OperatorFlags};

/// What to do with the identities of an element.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a key pair for one identity alone, which PIV does not see, and print its public key; an authority
    /// certifies it without a request (`openssl x509 -new -force_pubkey`), then `add --own-key`
    Key(Box<Key>),
    /// Write an identity, in place of the one with its label
    Add(Box<Add>),
    /// Remove an identity
    Remove(Box<Remove>),
}

/// Flags of `key`.
#[derive(Args)]
pub(crate) struct Key {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    operator: OperatorFlags,
    /// The element
    seid: String,
    /// The identity's name in the element; it is added where it is not there
    label: String,
    /// Algorithm
    #[arg(long, default_value = "p256")]
    alg: crate::key::Algorithm,
    /// Write the public key to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `add`.
#[derive(Args)]
pub(crate) struct Add {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    operator: OperatorFlags,
    /// The element
    seid: String,
    /// The identity's name in the element
    label: String,
    /// Which end of EAP it plays
    #[arg(long, default_value = "peer")]
    role: End,
    /// Answer to EAP-Request/Identity: a name that tells the realm only is better
    #[arg(long, value_name = "NAI", default_value = "anonymous")]
    eap_id: String,
    /// Slot of its key, which PIV shares
    #[arg(long, default_value = "9A")]
    slot: Slot,
    /// Its key is the one that `identity key` made
    #[arg(long, conflicts_with = "slot")]
    own_key: bool,
    /// Its certificate and those above it but the root, PEM or DER
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// Roots that the other end's certificate must lead to
    #[arg(long, value_name = "FILE")]
    anchors: PathBuf,
    /// Name that the other end's certificate must carry; may be given several times
    #[arg(long = "expect", value_name = "NAME")]
    expected_names: Vec<String>,
    /// Revocation list, PEM or DER; may be given several times
    #[arg(long = "crl", value_name = "FILE")]
    crls: Vec<PathBuf>,
    /// Lowest version of TLS
    #[arg(long, value_name = "VERSION", default_value = "1.2")]
    min_version: Version,
    /// Highest version of TLS
    #[arg(long, value_name = "VERSION", default_value = "1.3")]
    max_version: Version,
    /// Bytes of TLS in one EAP packet that this end sends
    #[arg(long, value_name = "BYTES", default_value_t = Policy::default().fragment_size,
          value_parser = clap::value_parser!(u16).range(100..=1398))]
    fragment_size: u16,
    /// As a peer, take a resumed TLS 1.3 session without the server's protected success (RFC 9190, 2.1.1),
    /// which hostapd does not send
    #[arg(long)]
    accept_missing_commitment: bool,
    /// Every authentication is a full handshake
    #[arg(long)]
    no_resumption: bool,
    /// The session's keys never leave the element: phase 3 stays inside
    #[arg(long)]
    no_key_block: bool,
    /// Application master session keys (RFC 5295) may be read after success
    #[arg(long)]
    amsk: bool,
    /// Long answers are announced by 9Fxx, for hosts that know the old traces only
    #[arg(long)]
    legacy_9f: bool,
}

/// Flags of `remove`.
#[derive(Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    operator: OperatorFlags,
    /// The element
    seid: String,
    /// The identity's name in the element
    label: String,
}

/// Roles in EAP's words.
#[derive(Clone, Copy, ValueEnum)]
enum End {
    /// TLS client
    Peer,
    /// TLS server
    Authenticator,
}

#[derive(Clone, Copy, ValueEnum)]
enum Version {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

#[derive(Serialize)]
struct Done<'a> {
    seid: &'a str,
    identity: &'a str,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Key(flags) => flags.run(output),
            Self::Add(flags) => flags.run(output),
            Self::Remove(flags) => flags.run(output),
        }
    }
}

impl Key {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let pin = self.operator.pin(&self.seid)?;
        let algorithm = self
            .alg
            .asymmetric()
            .ok_or_else(|| Failure::local("an identity's key is RSA or on a curve".to_owned()))?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let mut operator = Operator::open(&mut element, &AID, &pin)?;
        let info = operator.generate_own(&self.label, algorithm)?;
        element.power_off();
        let place = format!("identity {}", self.label);
        crate::key::made(&self.seid, place, algorithm, &info).give(self.out.as_ref(), output)
    }
}

impl Add {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let identity = self.personalisation()?;
        let pin = self.operator.pin(&self.seid)?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        Operator::open(&mut element, &AID, &pin)?.add_identity(&identity)?;
        element.power_off();
        let done = Done {
            seid: &self.seid,
            identity: &self.label,
        };
        output.result(&done, |done| {
            format!("{} now has the identity {}", done.seid, done.identity)
        })
    }

    fn personalisation(&self) -> Result<Personalisation, Failure> {
        let ders = |path| Ok::<_, Failure>(tls::certificates(path)?);
        let bytes = |certificates: Vec<_>| {
            certificates
                .iter()
                .map(|der: &rustls_pki_types::CertificateDer<'_>| der.to_vec())
                .collect()
        };
        Ok(Personalisation {
            label: self.label.clone(),
            eap_id: self.eap_id.clone(),
            role: match self.role {
                End::Peer => Role::Peer,
                End::Authenticator => Role::Authenticator,
            },
            key: if self.own_key {
                Place::Own
            } else {
                Place::Slot(self.slot.id())
            },
            chain: bytes(ders(&self.chain)?),
            anchors: bytes(ders(&self.anchors)?),
            policy: Policy {
                min_version: self.min_version.number(),
                max_version: self.max_version.number(),
                resumption: !self.no_resumption,
                export_key_block: !self.no_key_block,
                fragment_size: self.fragment_size,
                accept_missing_commitment: self.accept_missing_commitment,
                export_amsk: self.amsk,
                legacy_9f: self.legacy_9f,
                ..Policy::default()
            },
            expected_names: self.expected_names.clone(),
            crls: self.crls.iter().map(crl).collect::<Result<_, _>>()?,
        })
    }
}

impl Remove {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let pin = self.operator.pin(&self.seid)?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        Operator::open(&mut element, &AID, &pin)?.remove_identity(&self.label)?;
        element.power_off();
        let done = Done {
            seid: &self.seid,
            identity: &self.label,
        };
        output.result(&done, |done| {
            format!("{} has no identity {}", done.seid, done.identity)
        })
    }
}

impl Version {
    fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

fn crl(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let wrong = |error: String| Failure::local(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    if bytes.first() == Some(&0x30) {
        return Ok(bytes);
    }
    CertificateRevocationListDer::from_pem_slice(&bytes)
        .map(|crl| crl.to_vec())
        .map_err(|_| wrong("holds no revocation list".into()))
}
