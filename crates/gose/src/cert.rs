//! `gose cert import|export`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gose_client::{pki, tls};
use gose_element::{
    SecureElement,
    drive::piv::{Piv, PivError, Slot},
};
use serde::Serialize;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{Failure, Output, node::Node, output::write_file, secrets::ManagementFlags};

/// What to do with the certificates of an element.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Put the certificate of a slot's key into the element
    Import(Import),
    /// Print the certificate of a slot
    Export(Export),
}

/// Flags of `import`.
#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    management: ManagementFlags,
    /// The element
    seid: String,
    /// The slot
    slot: Slot,
    /// Certificate, PEM or DER; the first one of a chain is taken
    file: PathBuf,
    /// Also where the certificate is another key's
    #[arg(long)]
    force: bool,
}

/// Flags of `export`.
#[derive(Args)]
pub(crate) struct Export {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// The slot
    slot: Slot,
    /// Write the certificate to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Certificate<'a> {
    seid: &'a str,
    slot: String,
    subject: String,
    pem: String,
}

impl Verb {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        match self {
            Self::Import(flags) => flags.run(output),
            Self::Export(flags) => flags.run(output),
        }
    }
}

impl Import {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let chain = tls::certificates(&self.file)?;
        let certificate = chain
            .first()
            .ok_or_else(|| Failure::local("the file holds no certificate"))?;
        let told = describe(&self.seid, self.slot, certificate)?;
        let key = self.management.key(&self.seid)?;
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let mut piv = Piv::open(&mut element);
        if !self.force {
            self.check_key(&mut piv, certificate)?;
        }
        piv.authenticate_management(&key)?;
        piv.put_certificate(self.slot, certificate)?;
        element.power_off();
        output.result(&told, |told| {
            format!("{} {} now holds {}", told.seid, told.slot, told.subject)
        })
    }

    fn check_key(&self, piv: &mut Piv<'_>, certificate: &[u8]) -> Result<(), Failure> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| Failure::local("the file holds no X.509 certificate"))?;
        match piv.public_key(self.slot) {
            Ok(key) if key.info == parsed.public_key().raw => Ok(()),
            Ok(_) | Err(PivError::NoKey(_)) => Err(Failure::local(format!(
                "the certificate is not for the key in slot {}; --force puts it there all the same",
                self.slot
            ))),
            Err(error) => Err(error.into()),
        }
    }
}

impl Export {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let der = Piv::open(&mut element).certificate(self.slot)?;
        element.power_off();
        let told = describe(&self.seid, self.slot, &der)?;
        if let Some(path) = &self.out {
            write_file(path, &told.pem)?;
        }
        output.result(&told, |told| match self.out {
            Some(_) => String::new(),
            None => told.pem.clone(),
        })
    }
}

fn describe<'a>(seid: &'a str, slot: Slot, der: &[u8]) -> Result<Certificate<'a>, Failure> {
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|_| Failure::local("not an X.509 certificate"))?;
    Ok(Certificate {
        seid,
        slot: slot.to_string(),
        subject: parsed.subject().to_string(),
        pem: pki::to_pem("CERTIFICATE", der),
    })
}
