//! `gose element init`: the published PINs of an element give way to secrets of its own.

use std::path::PathBuf;

use clap::Args;
use gose_element::{
    SecureElement,
    drive::provision::{Secrets, initialise},
};
use serde::Serialize;

use crate::{Failure, Output, node::Node, secrets::Stored};

/// Flags of `init`.
#[derive(Args)]
pub(crate) struct Init {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// Write the secrets to this file (mode 0600) instead of showing them; where it exists already, an
    /// initialisation that was cut goes on with the secrets in it
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Done<'a> {
    seid: &'a str,
    eap_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets_file: Option<&'a PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<Stored>,
}

impl Init {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.node.element(&self.seid)?;
        element.power_on()?;
        let secrets = self.secrets()?;
        let outcome = initialise(&mut element, &secrets);
        element.power_off();
        // Without a file they are shown after a failure too: some may be in force.
        let shown = self.secrets_file.is_none();
        let shown = shown.then(|| Stored::new(&self.seid, &secrets));
        if let (Err(_), Some(stored)) = (&outcome, &shown) {
            eprint!("{}", stored.text());
        }
        let done = Done {
            seid: &self.seid,
            eap_tls: outcome?.eap_tls,
            secrets_file: self.secrets_file.as_ref(),
            secrets: shown,
        };
        output.result(&done, Done::text)
    }

    /// Kept before anything is changed.
    fn secrets(&self) -> Result<Secrets, Failure> {
        match &self.secrets_file {
            Some(path) if path.exists() => {
                let stored = Stored::read(path)?;
                stored.check(path, &self.seid)?;
                stored.secrets()
            }
            Some(path) => {
                let secrets = Secrets::random()?;
                Stored::new(&self.seid, &secrets).write(path)?;
                Ok(secrets)
            }
            None => Ok(Secrets::random()?),
        }
    }
}

impl Done<'_> {
    fn text(&self) -> String {
        let mut text = format!("{} is initialised\n", self.seid);
        if !self.eap_tls {
            text.push_str("It has no EAP-TLS application: only PIV was initialised\n");
        }
        if let Some(path) = self.secrets_file {
            text.push_str(&format!("Its secrets are in {}\n", path.display()));
        }
        if let Some(secrets) = &self.secrets {
            text.push_str(&secrets.text());
        }
        text
    }
}
