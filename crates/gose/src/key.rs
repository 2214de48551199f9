//! `gose key`: key pairs of PIV, and secret keys.

mod secret;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex},
};

use clap::{Args, Subcommand, ValueEnum};
use gose_client::{element_key::ElementKey, pki};
use gose_element::{
    SecureElement,
    drive::{
        piv::{Piv, PublicKey, Slot},
        storage::KeyReference,
    },
};
use serde::Serialize;

pub(crate) use self::secret::use_storage;

use crate::{
    Failure, Output,
    node::Node,
    output::write_file,
    secrets::{ManagementFlags, PinFlags},
};

/// What to do with the keys of an element.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a key pair in a slot, in place of the one there, and print its public key; or make a secret key
    Generate(Generate),
    /// Print the public key of a slot
    Show(Show),
    /// Print certificates by which the element says that it made a slot's key: over that key, and its attestation key's
    Attest(Show),
    /// Make a certificate request (PKCS #10) that the element signs
    Csr(Csr),
    /// Give the element a secret key
    Import(secret::Import),
    /// Tell the secret keys of an element
    List(secret::List),
    /// Delete a secret key; what it encrypted is lost
    Delete(secret::Delete),
    /// Encrypt and authenticate by a secret key (AES-GCM)
    Encrypt(secret::Cipher),
    /// Decrypt what a secret key encrypted
    Decrypt(secret::Cipher),
    /// Authenticate by a secret key (HMAC-SHA-256), or have the element compare
    Mac(secret::Mac),
    /// Let a secret key leave the element, wrapped by another one (AES key wrap, RFC 3394)
    Wrap(secret::Wrap),
    /// Take in a secret key that another one of the element wrapped
    Unwrap(secret::Unwrap),
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
    /// Key pairs: 9A authentication, 9C signature, 9D key management, 9E no PIN, 82 to 95, F9 attestation; secret keys:
    /// 01 to 7F
    place: Place,
    /// Algorithm [default: p256, or aes256 for a secret key]
    #[arg(long)]
    alg: Option<Algorithm>,
    #[command(flatten)]
    attributes: secret::Attributes,
    /// Write the public key to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Where a key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Slot(Slot),
    Attestation,
    Secret(KeyReference),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text.parse(), text.parse()) {
            _ if text.eq_ignore_ascii_case("F9") => Ok(Self::Attestation),
            (Ok(slot), _) => Ok(Self::Slot(slot)),
            (_, Ok(key)) => Ok(Self::Secret(key)),
            _ => Err("a key is one of 9A 9C 9D 9E, 82 to 95 and F9, a secret key one of 01 to 7F"),
        }
    }
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
    /// Secret key that encrypts: AES-128 in GCM
    Aes128,
    /// Secret key that encrypts: AES-256 in GCM
    Aes256,
    /// Secret key that authenticates
    HmacSha256,
    /// Secret key that wraps secret keys: AES-128
    Aes128Kw,
    /// Secret key that wraps secret keys: AES-256
    Aes256Kw,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Generate(flags) => flags.run(output),
            Self::Show(flags) => flags.run(output),
            Self::Attest(flags) => flags.attest(output),
            Self::Csr(flags) => flags.run(output),
            Self::Import(flags) => flags.run(output),
            Self::List(flags) => flags.run(output),
            Self::Delete(flags) => flags.run(output),
            Self::Encrypt(flags) => flags.encrypt(output),
            Self::Decrypt(flags) => flags.decrypt(output),
            Self::Mac(flags) => flags.run(output),
            Self::Wrap(flags) => flags.run(output),
            Self::Unwrap(flags) => flags.run(output),
        }
    }
}

/// A public key or a request.
#[derive(Serialize)]
pub(crate) struct Made<'a> {
    seid: &'a str,
    slot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    pem: String,
}

impl Made<'_> {
    pub(crate) fn give(&self, out: Option<&PathBuf>, output: &Output) -> Result<(), Failure> {
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
        match self.place {
            Place::Slot(_) | Place::Attestation => self.key_pair(output),
            Place::Secret(reference) => {
                let algorithm = self.alg.unwrap_or(Algorithm::Aes256);
                let algorithm = algorithm
                    .secret()
                    .filter(|_| self.out.is_none())
                    .ok_or_else(|| self.misplaced("secret keys"))?;
                let new = self.attributes.new_key(reference, algorithm);
                secret::generate(&self.node, &self.management, &self.seid, &new, output)
            }
        }
    }

    fn key_pair(&self, output: &Output) -> Result<(), Failure> {
        let algorithm = self
            .alg
            .unwrap_or(Algorithm::P256)
            .asymmetric()
            .filter(|_| !self.attributes.any())
            .ok_or_else(|| self.misplaced("key pairs"))?;
        let key = self.management.key(&self.seid)?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let mut piv = Piv::open(&mut element);
        piv.authenticate_management(&key)?;
        let info = match self.place {
            Place::Slot(slot) => piv.generate(slot, algorithm)?,
            _ => piv.generate_attestation_key(algorithm)?,
        };
        element.power_off();
        let key = PublicKey { algorithm, info };
        public_key(&self.seid, self.place.to_string(), &key).give(self.out.as_ref(), output)
    }

    fn misplaced(&self, what: &str) -> Failure {
        Failure::local(format!(
            "{} is for {what}; look at the algorithms and flags of `gose key generate --help`",
            self.place
        ))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => slot.fmt(f),
            Self::Attestation => f.write_str("F9"),
            Self::Secret(key) => key.fmt(f),
        }
    }
}

impl Show {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let key = Piv::open(&mut element).public_key(self.slot)?;
        element.power_off();
        public_key(&self.seid, self.slot.to_string(), &key).give(None, output)
    }

    fn attest(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let mut piv = Piv::open(&mut element);
        let attestation = piv.attest(self.slot)?;
        let signer = piv.attestation_certificate()?;
        element.power_off();
        let chain = [attestation, signer].map(|der| pki::to_pem("CERTIFICATE", &der));
        let made = Made {
            seid: &self.seid,
            slot: self.slot.to_string(),
            algorithm: None,
            pem: chain.concat(),
        };
        made.give(None, output)
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

fn public_key<'a>(seid: &'a str, slot: String, key: &PublicKey) -> Made<'a> {
    made(seid, slot, key.algorithm, &key.info)
}

/// A public key (DER) in the form in which it is printed.
pub(crate) fn made<'a>(
    seid: &'a str,
    slot: String,
    algorithm: gose_element::Algorithm,
    info: &[u8],
) -> Made<'a> {
    Made {
        seid,
        slot,
        algorithm: Some(name(algorithm)),
        pem: pki::to_pem("PUBLIC KEY", info),
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

impl Algorithm {
    /// Of key pairs; nothing for algorithms of secret keys.
    pub(crate) fn asymmetric(self) -> Option<gose_element::Algorithm> {
        match self {
            Self::P256 => Some(gose_element::Algorithm::P256),
            Self::P384 => Some(gose_element::Algorithm::P384),
            Self::Rsa2048 => Some(gose_element::Algorithm::Rsa2048),
            Self::Rsa3072 => Some(gose_element::Algorithm::Rsa3072),
            Self::Rsa4096 => Some(gose_element::Algorithm::Rsa4096),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_keys() {
        let check = |text: &str, expected: &str| {
            let place = text.parse::<Place>().map(|place| format!("{place:?}"));
            assert!(place.unwrap_or_default().starts_with(expected), "{text}");
        };
        check("9a", "Slot");
        check("82", "Slot");
        check("f9", "Attestation");
        check("01", "Secret");
        check("7F", "Secret");
        for bad in ["00", "80", "81", "9B", "zz", ""] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
