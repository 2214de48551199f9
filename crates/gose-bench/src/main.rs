//! Load generator and report.
//!
//! Speed is a ratio in one run against a named peer: the same bytes through a raw TLS 1.3 ping-pong of the same
//! library and runtime. The servers are processes of their own; everything is on loopback.
#![forbid(unsafe_code)]

mod child;
mod constant;
mod eap;
mod elements;
mod load;
mod memory;
mod pkcs11;
mod pki;
mod racs;
mod raw;
mod record;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures GoSE against the raw limit, in ratios of one run.
#[derive(Parser)]
#[command(name = "gose-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// RACS over mutual TLS, records on the host, memory of a node
    Racs {
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// A tenth of the time, fewer idle sessions
        #[arg(long)]
        short: bool,
    },
    /// Authentications: beside FreeRADIUS and hostapd, and with a pool of cards that are as slow as the paper's
    Eap {
        /// How many slow cards, one measurement each
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8],
              value_parser = clap::value_parser!(u16).range(1..=256))]
        cards: Vec<u16>,
        /// Only this part
        #[arg(long, value_enum)]
        only: Option<EapPart>,
        /// Of the comparison only cases whose names contain this, and nothing else of the servers
        #[arg(long, value_name = "TEXT")]
        case: Option<String>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// One round of a second instead of five of three; three conversations a slow card instead of eight
        #[arg(long)]
        short: bool,
        /// Authentications of the run in which none may fail
        #[arg(long, default_value_t = 2000)]
        long: usize,
        /// Conversations that go no further
        #[arg(long, default_value_t = 10_000)]
        half_open: usize,
    },
    /// Serves RADIUS (started by `eap`)
    #[command(hide = true)]
    Radius {
        /// Its configuration
        config: PathBuf,
    },
    /// Signatures through PKCS#11: elements of a node against SoftHSM2, in process and remote
    Pkcs11 {
        /// The module [default: the one of this program's folder of profiles]
        #[arg(long, env = "GOSE_PKCS11_MODULE")]
        module: Option<PathBuf>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// A seventh of the time
        #[arg(long)]
        short: bool,
    },
    /// Signs for a while (started by `pkcs11`)
    #[command(hide = true)]
    Pkcs11Client {
        /// The module
        module: PathBuf,
        /// The token's label
        label: String,
        /// `p256` or `rsa2048`
        key: String,
        /// How long
        milliseconds: u64,
    },
    /// Slow cards in one node, its start, readers of pcscd beside the raw library
    Elements {
        /// The card that software elements imitate (`gosed profiles`); one so slow that the processor is not the limit
        #[arg(long, default_value = "cjtop-80k")]
        profile: String,
        /// How many of them sign at once
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        cards: u16,
        /// Without pcscd, which is one a machine
        #[arg(long)]
        no_readers: bool,
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// A fifth of the time
        #[arg(long)]
        short: bool,
    },
    /// Whether times depend on secrets: Welch's t-test on PINs, authenticators, RSA, the nonce of ECDSA
    Constant {
        /// Operations a test
        #[arg(long, default_value_t = 100_000)]
        samples: usize,
        /// This test alone
        #[arg(long)]
        only: Option<String>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Software cards in virtual readers (started by `elements`)
    #[command(hide = true)]
    Cards {
        /// How many
        count: u16,
    },
    /// Serves the raw ping-pong (started by `racs`)
    #[command(hide = true)]
    Raw {
        /// The folder with the certificates' files
        folder: PathBuf,
        /// Bytes of a request
        request: usize,
        /// Bytes of an answer
        answer: usize,
    },
    /// Serves a grid node (started by `racs`)
    #[command(hide = true)]
    Node {
        /// Its configuration
        config: PathBuf,
    },
}

/// Parts of `eap`.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EapPart {
    /// GoSE, FreeRADIUS and hostapd side by side
    Servers,
    /// The pool of slow cards
    Cards,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Racs { json, short } => racs::run(json, short),
        Command::Eap {
            cards,
            only,
            case,
            json,
            short,
            long,
            half_open,
        } => eap::run(&eap::Wanted {
            case,
            cards: match only {
                Some(EapPart::Servers) => Vec::new(),
                _ => cards.into_iter().map(usize::from).collect(),
            },
            servers: only != Some(EapPart::Cards),
            json,
            short,
            long,
            half_open,
        }),
        Command::Radius { config } => eap::serve(&config),
        Command::Pkcs11 {
            module,
            json,
            short,
        } => pkcs11::run(module, json, short),
        Command::Pkcs11Client {
            module,
            label,
            key,
            milliseconds,
        } => pkcs11::client(&module, &label, &key, milliseconds),
        Command::Elements {
            profile,
            cards,
            no_readers,
            json,
            short,
        } => elements::run(&elements::Wanted {
            json,
            short,
            profile,
            cards: usize::from(cards),
            readers: !no_readers,
        }),
        Command::Constant {
            samples,
            only,
            json,
        } => constant::run(samples, only.as_deref(), json),
        Command::Cards { count } => elements::serve_cards(count),
        Command::Raw {
            folder,
            request,
            answer,
        } => child::raw(&folder, raw::Ping { request, answer }),
        Command::Node { config } => child::node(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gose-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
