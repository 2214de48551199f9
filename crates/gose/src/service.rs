//! `gose guest serve`: the guest service.
//!
//! It has the guest's only session with its middleware and gives programs of the guest, on a Unix socket that
//! speaks RACS, transactions with the elements: one program at a time has an element, and finds nothing of what
//! the one before did. A program that begins with [`YIELD`](gose_client::endpoint::YIELD) gives way between two
//! requests as soon as another one waits.

mod client;
mod config;
mod request;
mod turns;
mod upstream;
mod users;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;
use serde::Serialize;

use self::{client::Client, config::Config, turns::Turns, upstream::Upstream, users::Users};
use crate::{Failure, Output, output::log, socket::Listener};

/// How often a token that was renewed is taken from the attach channel, and the channel looked at.
const RENEWAL: Duration = Duration::from_secs(30);

/// Flags of `guest serve`.
#[derive(Args)]
pub(crate) struct Serve {
    /// The service's configuration
    #[arg(
        long,
        value_name = "FILE",
        env = "GOSE_GUEST_CONF",
        default_value = "/etc/gose/guest.toml"
    )]
    config: PathBuf,
}

#[derive(Serialize)]
struct Serving<'a> {
    socket: &'a Path,
}

/// What all clients use.
struct Service {
    upstream: Upstream,
    turns: Turns,
    users: Users,
    /// How long a request waits for its turn, and for a node that is away.
    wait: Duration,
}

impl Serve {
    /// Serves for ever.
    ///
    /// # Errors
    /// [`Failure::Local`] when the configuration is wrong or the socket is taken.
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let config = Config::load(&self.config)?;
        let listener = Listener::bind(&config.socket, config.group)?;
        let service = Arc::new(Service {
            upstream: Upstream::new(config.way()?),
            turns: Turns::new(config.queue, config.hold),
            users: Users::new(config.users, config.clients),
            wait: config.wait,
        });
        let keeper = service.clone();
        thread::spawn(move || {
            loop {
                keeper.upstream.keep();
                thread::sleep(RENEWAL);
            }
        });
        output.result(
            &Serving {
                socket: listener.path(),
            },
            |serving| format!("serves {}", serving.socket.display()),
        )?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let numbers = AtomicU64::new(1);
        loop {
            let (stream, peer) = listener.accept();
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            let Some(admitted) = Users::admit(&service, &peer) else {
                continue;
            };
            let service = service.clone();
            let client = thread::Builder::new().spawn(move || {
                Client::new(number, service, stream, peer).serve();
                drop(admitted);
            });
            if let Err(error) = client {
                log(&format!("a client is turned away: {error}"));
            }
        }
    }
}
