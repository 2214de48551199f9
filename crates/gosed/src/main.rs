//! `gosed`: the daemon.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use gosed::{
    config::Config,
    demo::{Demo, DemoGuest},
    node::{self, Node, Running, StartError},
};
use tokio::signal::unix::{SignalKind, signal};

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
    /// Makes the master key of software elements, sealed by the TPM that `[store] sealed-by` names.
    Seal(Configuration),
    /// Plays the paper's experiment: a grid node, a hypervisor node, an authentication server and two guests as
    /// processes of their own.
    Demo(Demo),
    /// A guest of the demo.
    #[command(hide = true)]
    DemoGuest(DemoGuest),
}

#[derive(clap::Args)]
struct Configuration {
    /// The configuration file [default: $XDG_CONFIG_HOME/gose/gosed.toml, /etc/gose/gosed.toml].
    #[arg(long, value_name = "FILE", env = "GOSE_CONFIG")]
    config: Option<PathBuf>,
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
        Command::Run(configuration) => run(&configuration.path()),
        Command::Check(configuration) => check(&configuration.path()),
        Command::Seal(configuration) => seal(&configuration.path()),
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
    Ok(gosed::store::seal_master_key(&Config::read(path)?)?)
}

fn run(path: &std::path::Path) -> Result<(), StartError> {
    let config = Config::read(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| StartError::Listen {
            place: "the runtime".into(),
            cause,
        })?;
    let done = runtime.block_on(async {
        let running = Node::new(config)?.start().await?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        if let Some(address) = running.address() {
            tracing::info!(%address, "listening");
        }
        until_told(&running, path).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        running.stop().await;
        Ok(())
    });
    // A thread that waits for a mute reader is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Follows signals until one says to stop.
async fn until_told(running: &Running, path: &std::path::Path) {
    let (Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::hangup()),
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals cannot be received");
        return;
    };
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
