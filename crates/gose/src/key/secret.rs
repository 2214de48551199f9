//! `gose key import|list|delete|encrypt|decrypt|mac|wrap|unwrap`: secret keys of the storage application.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gose_element::{
    SecretAlgorithm, SecureElement,
    drive::storage::{KeyReference, NewKey, Origin, SecretKeyInfo, Storage},
};
use gose_proto::hex;
use serde::Serialize;
use zeroize::Zeroizing;

use super::Algorithm;
use crate::{
    Failure, Output,
    node::Node,
    output::{Bytes, read_bytes},
    secrets::{ManagementFlags, PinFlags, Source},
};

/// What a new secret key is.
#[derive(Args)]
pub(crate) struct Attributes {
    /// What people call a secret key: at most 32 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// A secret key may leave, wrapped by another key of the element
    #[arg(long)]
    wrappable: bool,
}

impl Attributes {
    pub(super) fn new_key(
        &self,
        reference: KeyReference,
        algorithm: SecretAlgorithm,
    ) -> NewKey<'_> {
        NewKey {
            reference,
            algorithm,
            wrappable: self.wrappable,
            label: &self.label,
        }
    }

    /// Whether anything was said that only secret keys have.
    pub(super) fn any(&self) -> bool {
        self.wrappable || !self.label.is_empty()
    }
}

/// Flags of `import`.
#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    management: ManagementFlags,
    #[command(flatten)]
    attributes: Attributes,
    /// The element
    seid: String,
    /// Number of the secret key, 01 to 7F
    reference: KeyReference,
    /// Algorithm
    #[arg(long)]
    alg: Algorithm,
    /// Where the key comes from, hexadecimal: prompt, file:PATH, fd:NUMBER, env:NAME
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    key_source: Source,
}

/// Flags of `list`.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The element
    seid: String,
}

/// Flags of `delete`.
#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    management: ManagementFlags,
    /// The element
    seid: String,
    /// Number of the secret key, 01 to 7F
    reference: KeyReference,
}

/// Flags of everything that a user does with a secret key.
#[derive(Args)]
pub(crate) struct Use {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The element
    seid: String,
    /// Number of the secret key, 01 to 7F
    reference: KeyReference,
}

/// Flags of `encrypt` and `decrypt`.
#[derive(Args)]
pub(crate) struct Cipher {
    #[command(flatten)]
    common: Use,
    /// What is read, at most 16,000 bytes [default: standard input]
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the result goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Text that is authenticated with it and not kept: decryption needs the same
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    associated: String,
}

/// Flags of `mac`.
#[derive(Args)]
pub(crate) struct Mac {
    #[command(flatten)]
    common: Use,
    /// What is read, at most 16,000 bytes [default: standard input]
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
    /// Have the element compare with this MAC, hexadecimal, instead
    #[arg(long, value_name = "MAC")]
    verify: Option<String>,
}

/// Flags of `wrap`.
#[derive(Args)]
pub(crate) struct Wrap {
    #[command(flatten)]
    common: Use,
    /// The key that leaves wrapped
    what: KeyReference,
    /// Where the wrapped key goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `unwrap`.
#[derive(Args)]
pub(crate) struct Unwrap {
    #[command(flatten)]
    common: Use,
    #[command(flatten)]
    attributes: Attributes,
    /// Number that the key gets
    what: KeyReference,
    /// Algorithm of the key
    #[arg(long)]
    alg: Algorithm,
    /// The wrapped key [default: standard input]
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
}

#[derive(Serialize)]
struct Told<'a> {
    seid: &'a str,
    key: String,
    did: &'static str,
}

impl Told<'_> {
    fn give(&self, output: &Output) -> Result<(), Failure> {
        output.result(self, |told| {
            format!("{} {} {}", told.seid, told.key, told.did)
        })
    }
}

#[derive(Serialize)]
struct Listed {
    key: String,
    algorithm: &'static str,
    origin: &'static str,
    wrappable: bool,
    label: String,
}

/// Makes a secret key: `gose key generate` with one of their algorithms.
pub(super) fn generate(
    node: &Node,
    management: &ManagementFlags,
    seid: &str,
    new: &NewKey<'_>,
    output: &Output,
) -> Result<(), Failure> {
    administrate(node, management, seid, |storage| Ok(storage.generate(new)?))?;
    told(seid, new.reference, "made").give(output)
}

impl Import {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let algorithm = secret(self.alg)?;
        let text = self.key_source.read("key in hexadecimal")?;
        let key = hex::decode(text.as_str())
            .map(Zeroizing::new)
            .map_err(|_| Failure::local("a key is given in hexadecimal digits"))?;
        if !algorithm.takes(key.len()) {
            return Err(Failure::local(format!(
                "a key of {} bytes is none of {}",
                key.len(),
                secret_name(algorithm)
            )));
        }
        let new = self.attributes.new_key(self.reference, algorithm);
        administrate(&self.node, &self.management, &self.seid, |storage| {
            Ok(storage.import(&new, &key)?)
        })?;
        told(&self.seid, self.reference, "taken in").give(output)
    }
}

impl List {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let keys = use_storage(&self.node, &self.pin, &self.seid, |storage| {
            Ok(storage.keys()?)
        })?;
        let listed: Vec<Listed> = keys.iter().map(Listed::new).collect();
        output.result(&listed, |listed| listed.iter().map(Listed::text).collect())
    }
}

impl Delete {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        administrate(&self.node, &self.management, &self.seid, |storage| {
            Ok(storage.delete_key(self.reference)?)
        })?;
        told(&self.seid, self.reference, "deleted").give(output)
    }
}

impl Cipher {
    pub(super) fn encrypt(&self, output: &Output) -> Result<(), Failure> {
        let input = read_bytes(self.input.as_deref())?;
        let out = self.common.with(|storage| {
            let associated = self.associated.as_bytes();
            Ok(storage.encipher(self.common.reference, associated, &input)?)
        })?;
        Bytes::new(out).give(self.out.as_deref(), output)
    }

    pub(super) fn decrypt(&self, output: &Output) -> Result<(), Failure> {
        let input = read_bytes(self.input.as_deref())?;
        let out = self.common.with(|storage| {
            let associated = self.associated.as_bytes();
            Ok(storage.decipher(self.common.reference, associated, &input)?)
        })?;
        Bytes::secret(out).give(self.out.as_deref(), output)
    }
}

impl Mac {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let message = read_bytes(self.input.as_deref())?;
        let Some(given) = &self.verify else {
            let mac = self
                .common
                .with(|storage| Ok(storage.mac(self.common.reference, &message)?))?;
            return output.result(&hex::encode(&mac), |mac| mac.clone());
        };
        let given = hex::decode(given)
            .map_err(|_| Failure::local("a MAC is given in hexadecimal digits"))?;
        let fits = self
            .common
            .with(|storage| Ok(storage.verify_mac(self.common.reference, &message, &given)?))?;
        if fits {
            told(
                &self.common.seid,
                self.common.reference,
                "made this MAC of this message",
            )
            .give(output)
        } else {
            Err(Failure::Remote(
                "the MAC is another key's or another message's".into(),
            ))
        }
    }
}

impl Wrap {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let wrapped = self
            .common
            .with(|storage| Ok(storage.wrap(self.common.reference, self.what)?))?;
        Bytes::new(wrapped).give(self.out.as_deref(), output)
    }
}

impl Unwrap {
    pub(super) fn run(&self, output: &Output) -> Result<(), Failure> {
        let wrapped = read_bytes(self.input.as_deref())?;
        let new = self.attributes.new_key(self.what, secret(self.alg)?);
        self.common
            .with(|storage| Ok(storage.unwrap(self.common.reference, &new, &wrapped)?))?;
        told(&self.common.seid, self.what, "unwrapped").give(output)
    }
}

impl Use {
    fn with<T>(
        &self,
        f: impl FnOnce(&mut Storage<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        use_storage(&self.node, &self.pin, &self.seid, f)
    }
}

impl Listed {
    fn new(key: &SecretKeyInfo) -> Self {
        Self {
            key: key.reference.to_string(),
            algorithm: secret_name(key.algorithm),
            origin: match key.origin {
                Origin::Generated => "generated",
                Origin::Imported => "imported",
                Origin::Unwrapped => "unwrapped",
            },
            wrappable: key.wrappable,
            label: key.label.clone(),
        }
    }

    fn text(&self) -> String {
        let stays = if self.wrappable { "wrappable" } else { "stays" };
        let line = format!(
            "{}  {:11}  {:9}  {:9}  {}",
            self.key, self.algorithm, self.origin, stays, self.label
        );
        format!("{}\n", line.trim_end())
    }
}

/// Does something as the user of the storage application.
pub(crate) fn use_storage<T>(
    node: &Node,
    pin: &PinFlags,
    seid: &str,
    f: impl FnOnce(&mut Storage<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let pin = pin.pin(seid)?;
    let mut element = node.element(seid)?;
    element.power_on()?;
    let mut storage = Storage::open(&mut element);
    storage.with_pin(&pin)?;
    let done = f(&mut storage)?;
    element.power_off();
    Ok(done)
}

fn administrate<T>(
    node: &Node,
    management: &ManagementFlags,
    seid: &str,
    f: impl FnOnce(&mut Storage<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let key = management.key(seid)?;
    let mut element = node.element(seid)?;
    element.power_on()?;
    let mut storage = Storage::open(&mut element);
    storage.authenticate_management(&key)?;
    let done = f(&mut storage)?;
    element.power_off();
    Ok(done)
}

fn told<'a>(seid: &'a str, key: KeyReference, did: &'static str) -> Told<'a> {
    Told {
        seid,
        key: key.to_string(),
        did,
    }
}

fn secret(algorithm: Algorithm) -> Result<SecretAlgorithm, Failure> {
    algorithm.secret().ok_or_else(|| {
        Failure::local(format!(
            "{} is no algorithm of secret keys",
            algorithm_name(algorithm)
        ))
    })
}

fn secret_name(algorithm: SecretAlgorithm) -> &'static str {
    match algorithm {
        SecretAlgorithm::Aes128Gcm => "aes128",
        SecretAlgorithm::Aes256Gcm => "aes256",
        SecretAlgorithm::HmacSha256 => "hmac-sha256",
        SecretAlgorithm::Aes128Kw => "aes128-kw",
        SecretAlgorithm::Aes256Kw => "aes256-kw",
        _ => "unknown to this version",
    }
}

impl Algorithm {
    /// Of secret keys; nothing for algorithms of key pairs.
    pub(super) fn secret(self) -> Option<SecretAlgorithm> {
        match self {
            Self::Aes128 => Some(SecretAlgorithm::Aes128Gcm),
            Self::Aes256 => Some(SecretAlgorithm::Aes256Gcm),
            Self::HmacSha256 => Some(SecretAlgorithm::HmacSha256),
            Self::Aes128Kw => Some(SecretAlgorithm::Aes128Kw),
            Self::Aes256Kw => Some(SecretAlgorithm::Aes256Kw),
            _ => None,
        }
    }
}

fn algorithm_name(algorithm: Algorithm) -> String {
    algorithm
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}
