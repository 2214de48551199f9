//! `gosed`: the daemon.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use gose_element::Seid;
use gosed::{
    config::{Config, KeySlot, PassphraseSource},
    demo::{Demo, DemoGuest},
    node::{self, Node, Running, StartError},
    store::{self, About, Change, Form, Question},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The daemon of a Grid of Secure Elements.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves what the configuration says; SIGHUP reloads it, SIGTERM ends it gently.
    Run(Configuration),
    /// Validates a configuration and everything it names, and prints it with all defaults.
    Check(Configuration),
    /// Makes the master key of software elements, and changes how it is kept: as it is, sealed by a TPM, or wrapped
    /// by a passphrase. Images stay as they are.
    Key {
        #[command(subcommand)]
        what: KeyCommand,
    },
    /// Makes the master key of software elements, sealed by the TPM that `[store] sealed-by` names.
    Seal(Configuration),
    /// Asks a TPM of the configuration what its machine booted, or whether an element's key is in it. Leaves
    /// `statement`, `signature` and `attestation-key.pem`, as tpm2_checkquote and openssl take them.
    Attest(Attest),
    /// Tells the cards whose slowness a software element can imitate (`timing` of a slot), and what they cost.
    Profiles {
        /// Every price of this one, and what stands where nobody measured.
        name: Option<String>,
    },
    /// Tells the readers of pcscd, and by which `atr` and `card` a slot can mean the card that is in one. Cards that other
    /// programs use are not asked.
    #[cfg(feature = "pcsc")]
    Readers {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Plays the paper's experiment: a grid node, a hypervisor node, an authentication server and two guests as
    /// processes of their own.
    Demo(Demo),
    /// A guest of the demo.
    #[command(hide = true)]
    DemoGuest(DemoGuest),
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Makes a random key in a new file, kept as `[store]` says unless told otherwise.
    Make(KeyFlags),
    /// Keeps the present key another way, or under another passphrase; asks for the present one as `[store]` says.
    Change(KeyFlags),
    /// Tells how the key is kept.
    Show(Configuration),
}

#[derive(clap::Args)]
struct KeyFlags {
    #[command(flatten)]
    configuration: Configuration,
    /// As it is, in a file of mode 0600: for systemd-creds, or a disk that is encrypted.
    #[arg(long, group = "form")]
    plain: bool,
    /// Sealed by the TPM of this `[[key-store]]`.
    #[arg(long, value_name = "NAME", group = "form")]
    sealed_by: Option<String>,
    /// Wrapped by a passphrase, which comes from: ask, systemd, fd:NUMBER, credential:NAME, file:PATH.
    #[arg(long, value_name = "SOURCE", group = "form")]
    passphrase: Option<PassphraseSource>,
    /// The file to write, in place of `master-key-file`.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Memory of Argon2id in KiB, 8 to 2097152 [default: 65536].
    #[arg(long, value_name = "KIB")]
    argon2_memory_kib: Option<u32>,
    /// Passes of Argon2id over its memory, 1 to 100 [default: 3].
    #[arg(long, value_name = "N")]
    argon2_passes: Option<u32>,
}

impl KeyFlags {
    fn change(&self) -> Change {
        let form = match (&self.sealed_by, &self.passphrase) {
            (Some(tpm), _) => Some(Form::Sealed(tpm.clone())),
            (None, Some(source)) => Some(Form::Wrapped(source.clone())),
            (None, None) => self.plain.then_some(Form::Plain),
        };
        Change {
            form,
            to: self.to.clone(),
            memory_kib: self.argon2_memory_kib,
            passes: self.argon2_passes,
        }
    }
}

#[derive(clap::Args)]
struct Configuration {
    /// The configuration file [default: $XDG_CONFIG_HOME/gose/gosed.toml, /etc/gose/gosed.toml].
    #[arg(long, value_name = "FILE", env = "GOSE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Attest {
    #[command(flatten)]
    configuration: Configuration,
    /// The asker's nonce: up to 32 bytes in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// The element whose key is asked about
    #[arg(
        long,
        value_name = "SEID",
        requires = "slot",
        conflicts_with = "key_store"
    )]
    element: Option<Seid>,
    /// The slot of that key
    #[arg(long, value_name = "SLOT", requires = "element")]
    slot: Option<KeySlot>,
    /// The [[key-store]] whose machine is asked about
    #[arg(long, value_name = "NAME", required_unless_present = "element")]
    key_store: Option<String>,
    /// Registers that are quoted, 0 to 23
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0, 1, 2, 3, 4, 5, 6, 7])]
    pcr: Vec<u8>,
    /// Directory for the answer
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

impl Configuration {
    fn path(self) -> PathBuf {
        self.config.unwrap_or_else(node::default_path)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    gosed::log_to_stderr();
    let done = match arguments.command {
        Command::Demo(demo) => return demo.run(),
        Command::DemoGuest(guest) => return guest.run(),
        Command::Profiles { name } => return gosed::profiles::print(name.as_deref()),
        #[cfg(feature = "pcsc")]
        Command::Readers { json } => return gosed::readers::print(json),
        Command::Run(configuration) => run(&configuration.path()),
        Command::Check(configuration) => check(&configuration.path()),
        Command::Seal(configuration) => seal(&configuration.path()),
        Command::Attest(attest) => return attest.run(),
        Command::Key { what } => key(what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gosed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(path: &std::path::Path) -> Result<(), StartError> {
    let config = node::check(path)?;
    for danger in config.dangers() {
        eprintln!("warning: {danger}");
    }
    print!("{}", config.effective());
    Ok(())
}

fn seal(path: &std::path::Path) -> Result<(), StartError> {
    let config = Config::read(path)?;
    let sealed = config
        .store
        .as_ref()
        .is_some_and(|store| store.sealed_by.is_some());
    if !sealed {
        return Err(store::StoreError::Hardware {
            place: "[store]".into(),
            cause: "sealed-by names the TPM to seal with; it is not there".into(),
        }
        .into());
    }
    store::make(&config, &Change::default())?;
    Ok(())
}

fn key(command: KeyCommand) -> Result<(), StartError> {
    let told = match command {
        KeyCommand::Make(flags) => {
            let change = flags.change();
            store::make(&Config::read(&flags.configuration.path())?, &change)?
        }
        KeyCommand::Change(flags) => {
            let change = flags.change();
            store::change(&Config::read(&flags.configuration.path())?, &change)?
        }
        KeyCommand::Show(configuration) => store::show(&Config::read(&configuration.path())?)?,
    };
    println!("{told}");
    Ok(())
}

impl Attest {
    fn run(self) -> ExitCode {
        match self.answer() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("gosed: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn answer(self) -> Result<(), Box<dyn std::error::Error>> {
        let nonce = gose_proto::hex::decode(self.nonce.as_bytes())?;
        let about = match (self.element, self.slot, self.key_store) {
            (Some(seid), Some(slot), _) => About::Key(seid, slot),
            (_, _, Some(store)) => About::Machine(store, self.pcr),
            _ => return Err("name --element and --slot, or --key-store".into()),
        };
        let config = Config::read(&self.configuration.path())?;
        let answer = store::attest(&config, &Question { nonce, about })?;
        let key = gose_client::pki::to_pem("PUBLIC KEY", &answer.attestation_key);
        std::fs::create_dir_all(&self.out)?;
        for (name, content) in [
            ("statement", answer.statement.as_slice()),
            ("signature", &answer.signature),
            ("attestation-key.pem", key.as_bytes()),
        ] {
            let path = self.out.join(name);
            std::fs::write(&path, content)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// The memory holds keys of software elements: no core is dumped, and no other process of this user looks into it.
fn keep_memory_to_oneself() {
    use rustix::process::{
        DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
    };
    let none = Rlimit {
        current: Some(0),
        maximum: getrlimit(Resource::Core).maximum,
    };
    for done in [
        setrlimit(Resource::Core, none),
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    ] {
        if let Err(error) = done {
            tracing::warn!(%error, "memory may be dumped: set LimitCORE=0");
        }
    }
}

fn run(path: &std::path::Path) -> Result<(), StartError> {
    keep_memory_to_oneself();
    let config = Config::read(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| StartError::Listen {
            place: "the runtime".into(),
            cause,
        })?;
    let done = runtime.block_on(async {
        // Before the node says that it is ready: a signal that came then would end it.
        let signals = Signals::new();
        let running = Node::new(config)?.start().await?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        if let Some(address) = running.address() {
            tracing::info!(%address, "listening");
        }
        match signals {
            Ok(signals) => until_told(signals, &running, path).await,
            Err(error) => tracing::error!(%error, "signals cannot be received"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        running.stop().await;
        Ok(())
    });
    // A thread that waits for a mute reader is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// What the daemon is told from outside.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Follows signals until one says to stop.
async fn until_told(signals: Signals, running: &Running, path: &std::path::Path) {
    let Signals {
        mut hangup,
        mut terminate,
        mut interrupt,
    } = signals;
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = hangup.recv() => {
                if let Err(error) = tokio::task::block_in_place(|| running.reload_file(path)) {
                    tracing::error!(%error, "the configuration was not reloaded; everything stays as it was");
                }
            }
        }
    }
}
