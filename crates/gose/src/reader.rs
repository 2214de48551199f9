//! `gose element plug` and `gose reader`: an element as the card in a virtual reader of pcscd.

use std::{convert::Infallible, net::TcpStream, thread, time::Duration};

use clap::Args;
use gose_backend::vpcd::{Reader, Unplugged};
use gose_client::RemoteElement;
use serde::Serialize;

use crate::{
    Failure, Output,
    node::{Node, parse_seid},
};

/// Between two tries while pcscd or the node is away.
const AGAIN: Duration = Duration::from_secs(1);

/// Flags of `reader` and of `element plug`.
#[derive(Args)]
pub(crate) struct Plug {
    #[command(flatten)]
    node: Node,
    /// The element
    seid: String,
    /// Driver of the virtual reader (vsmartcard's vpcd); each further slot has the next port
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:35963")]
    vpcd: String,
}

#[derive(Serialize)]
struct Plugged<'a> {
    seid: &'a str,
    reader: &'a str,
}

impl Plugged<'_> {
    fn text(&self) -> String {
        format!("{} is in the reader at {}", self.seid, self.reader)
    }
}

impl Plug {
    /// Until pcscd or the element goes away.
    ///
    /// # Errors
    /// Always, in the end: who went away.
    pub(crate) fn once(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.element()?;
        self.serve(&mut element, output).map(|never| match never {})
    }

    /// For ever: whoever went away is waited for.
    ///
    /// # Errors
    /// [`Failure::Local`] when the flags are wrong.
    pub(crate) fn forever(&self, output: &Output) -> Result<(), Failure> {
        let mut element = self.element()?;
        let mut told = String::new();
        loop {
            let Err(failure) = self.serve(&mut element, output);
            let text = failure.to_string();
            if text != told {
                output.failure(&failure);
                told = text;
            }
            thread::sleep(AGAIN);
        }
    }

    fn element(&self) -> Result<RemoteElement, Failure> {
        Ok(RemoteElement::at(
            self.node.endpoint()?,
            parse_seid(&self.seid)?,
        ))
    }

    fn serve(&self, element: &mut RemoteElement, output: &Output) -> Result<Infallible, Failure> {
        let mut reader = Reader::new(element)?;
        let line = TcpStream::connect(&self.vpcd).map_err(|error| {
            Failure::local(format!(
                "no virtual reader at {}: {error}; is pcscd running, with the driver vpcd?",
                self.vpcd
            ))
        })?;
        let plugged = Plugged {
            seid: &self.seid,
            reader: &self.vpcd,
        };
        output.result(&plugged, Plugged::text)?;
        Err(match reader.serve(line) {
            Unplugged::Element(error) => error.into(),
            gone @ Unplugged::Reader(_) => Failure::local(gone.to_string()),
        })
    }
}
