//! `gose key generate|show|csr`.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use clap::{Args, Subcommand, ValueEnum};
use gose_client::{element_key::ElementKey, pki};
use gose_element::{
    SecureElement,
    drive::piv::{Piv, PublicKey, Slot},
};
use serde::Serialize;

use crate::{
    Failure, Output,
    node::Node,
    output::write_file,
    secrets::{ManagementFlags, PinFlags},
};

/// What to do with the keys of an element.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a key pair in a slot, in place of the one there, and print its public key
    Generate(Generate),
    /// Print the public key of a slot
    Show(Show),
    /// Make a certificate request (PKCS #10) that the element signs
    Csr(Csr),
}

/// Flags of `generate`.
#[derive(Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    management: ManagementFlags,
    /// The element
    seid: String,
    /// 9A authentication, 9C signature, 9D key management, 9E no PIN, 82 to 95
    slot: Slot,
    /// Algorithm
    #[arg(long, default_value = "p256")]
    alg: Algorithm,
    /// Write the public key to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `show`.
#[derive(Args)]
pub(crate) struct Show {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// The slot
    slot: Slot,
}

/// Flags of `csr`.
#[derive(Args)]
pub(crate) struct Csr {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The element
    seid: String,
    /// The slot
    slot: Slot,
    /// Common name that is asked for
    #[arg(long)]
    name: String,
    /// Write the request to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Algorithms of keys.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Algorithm {
    /// ECDSA and ECDH on P-256
    P256,
    /// ECDSA and ECDH on P-384
    P384,
    /// RSA with 2,048 bits
    Rsa2048,
    /// RSA with 3,072 bits
    Rsa3072,
    /// RSA with 4,096 bits
    Rsa4096,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Generate(flags) => flags.run(output),
            Self::Show(flags) => flags.run(output),
            Self::Csr(flags) => flags.run(output),
        }
    }
}

/// A public key or a request.
#[derive(Serialize)]
struct Made<'a> {
    seid: &'a str,
    slot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    pem: String,
}

impl Made<'_> {
    fn give(&self, out: Option<&PathBuf>, output: &Output) -> Result<(), Failure> {
        if let Some(path) = out {
            write_file(path, &self.pem)?;
        }
        output.result(self, |made| {
            if out.is_some() {
                String::new()
            } else {
                made.pem.clone()
            }
        })
    }
}

impl Generate {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let key = self.management.key(&self.seid)?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let mut piv = Piv::open(&mut element);
        piv.authenticate_management(&key)?;
        let algorithm = self.alg.into();
        let info = piv.generate(self.slot, algorithm)?;
        element.power_off();
        public_key(&self.seid, self.slot, &PublicKey { algorithm, info })
            .give(self.out.as_ref(), output)
    }
}

impl Show {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let key = Piv::open(&mut element).public_key(self.slot)?;
        element.power_off();
        public_key(&self.seid, self.slot, &key).give(None, output)
    }
}

impl Csr {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let key = element_key(&self.node, &self.pin, &self.seid, self.slot)?;
        let request = pki::certificate_request(&key, &self.name)?;
        let made = Made {
            seid: &self.seid,
            slot: self.slot.to_string(),
            algorithm: None,
            pem: pki::to_pem("CERTIFICATE REQUEST", &request),
        };
        made.give(self.out.as_ref(), output)
    }
}

/// A key that signs: the element is powered down when the session ends.
pub(crate) fn element_key(
    node: &Node,
    pin: &PinFlags,
    seid: &str,
    slot: Slot,
) -> Result<ElementKey, Failure> {
    let pin = match slot {
        Slot::CARD_AUTHENTICATION => None,
        _ => Some(pin.pin(seid)?),
    };
    let mut element = node.element(seid)?;
    element.power_on()?;
    let element = Arc::new(Mutex::new(element));
    Ok(ElementKey::open(
        element,
        slot,
        pin.as_ref().map(|pin| pin.as_slice()),
    )?)
}

fn public_key<'a>(seid: &'a str, slot: Slot, key: &PublicKey) -> Made<'a> {
    Made {
        seid,
        slot: slot.to_string(),
        algorithm: Some(name(key.algorithm)),
        pem: pki::to_pem("PUBLIC KEY", &key.info),
    }
}

fn name(algorithm: gose_element::Algorithm) -> &'static str {
    match algorithm {
        gose_element::Algorithm::P256 => "p256",
        gose_element::Algorithm::P384 => "p384",
        gose_element::Algorithm::Rsa2048 => "rsa2048",
        gose_element::Algorithm::Rsa3072 => "rsa3072",
        gose_element::Algorithm::Rsa4096 => "rsa4096",
        _ => "unknown to this version",
    }
}

impl From<Algorithm> for gose_element::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::P256 => Self::P256,
            Algorithm::P384 => Self::P384,
            Algorithm::Rsa2048 => Self::Rsa2048,
            Algorithm::Rsa3072 => Self::Rsa3072,
            Algorithm::Rsa4096 => Self::Rsa4096,
        }
    }
}
