//! `gosed demo`: the paper's experiment with separate processes, real sockets, real certificates, real TLS.
//!
//! `site` makes the installation, `play` gives the orders, `guest` is a guest's process, `attack` what a malicious
//! one tries, `report` the tables.

mod attack;
mod control;
mod counted;
mod element;
mod guest;
mod play;
mod process;
mod report;
mod site;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use indicatif::{ProgressBar, ProgressStyle};

use play::Play;
use report::Report;
use site::Site;

/// Why the demo failed, in a sentence.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// Flags of `gosed demo`.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Prints the figures as JSON
    #[arg(long)]
    json: bool,
    /// Leaves the three nodes running and says what to type next
    #[arg(long)]
    keep: bool,
    /// How often each phase is measured; the tables show medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Leaves out the cards that take their time as the paper's do (about five seconds)
    #[arg(long)]
    no_paper: bool,
}

/// Flags of a guest's process.
#[derive(Debug, clap::Args)]
pub struct DemoGuest {
    /// The demo's folder
    #[arg(long)]
    folder: PathBuf,
    /// Which guest
    #[arg(long)]
    name: String,
}

impl Demo {
    /// Plays, prints, cleans up. A failure or an attempt that went through makes the exit status non-zero.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match self.play() {
            Ok(report) if report.all_refused() => ExitCode::SUCCESS,
            Ok(_) => {
                eprintln!("gosed demo: an attempt was not refused");
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("gosed demo: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn play(&self) -> Result<Report, Failure> {
        let folder = Folder::new()?;
        let at = folder.0.clone();
        self.play_in(&folder)
            .inspect_err(|_| {
                eprintln!("gosed demo: the nodes' logs are kept in {}", at.display());
            })
            .inspect(|_| folder.clear(self.keep))
    }

    fn play_in(&self, folder: &Folder) -> Result<Report, Failure> {
        let bar = std::io::stderr().is_terminal().then(progress);
        let mut step = |what: &str| tell(bar.as_ref(), &mut std::io::stderr(), what);
        let site = Site::build(&folder.0, &mut step)?;
        let (report, site) = Play::new(site, self.rounds.into(), &mut step)?.run(!self.no_paper)?;
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.table());
        }
        if self.keep {
            eprint!("{}", hint(&site));
            site.leave();
        } else {
            site.stop()?;
        }
        Ok(report)
    }
}

impl DemoGuest {
    /// The life of a guest.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match guest::run(&guest::Settings {
            folder: &self.folder,
            name: &self.name,
        }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("gosed demo-guest: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

fn progress() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(120));
    progress
}

/// Says which step begins: on the bar of a terminal, elsewhere in a line of its own.
fn tell(bar: Option<&ProgressBar>, out: &mut impl Write, what: &str) {
    match bar {
        Some(bar) => bar.set_message(what.to_owned()),
        // Nobody has to read it.
        None => drop(writeln!(out, "gosed demo: {what}")),
    }
}

/// What to type next. Each line that begins with two spaces is a command; `cargo xtask test demo` types them all.
fn hint(site: &Site) -> String {
    let folder = site.folder.display();
    format!(
        "\nThree nodes are running; everything is in {folder}\n\n\
         The grid's elements, what one of them says of itself, and what it was used for:\n\n\
         \x20 cargo run --release -p gose -- element list --socket {folder}/grid/admin.sock\n\
         \x20 cargo run --release -p gose -- element info SE-A --socket {folder}/grid/admin.sock\n\
         \x20 cargo run --release -p gose -- element use SE-A --socket {folder}/grid/admin.sock\n\n\
         What the hypervisor logged, each refusal with its reason:\n\n\
         \x20 tail -n 20 {folder}/hypervisor/log\n\n\
         To end it:\n\n\
         \x20 kill {} {} {} && sleep 1 && rm -rf {folder}\n",
        site.grid.pid(),
        site.hypervisor.pid(),
        site.authentication.pid(),
    )
}

/// The demo's folder, readable by its owner only.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("gose-demo-{}", std::process::id()));
        site::directory(&folder)?;
        Ok(Self(folder))
    }

    fn clear(self, keep: bool) {
        if !keep {
            // What is left behind holds nothing but the demo's own keys.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Seconds since 1970.
fn unix_time() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_plain_line_where_there_is_no_terminal() {
        let mut out = Vec::new();
        tell(None, &mut out, "phase 0: a user's element");
        tell(None, &mut out, "phase 1");
        let expected = "gosed demo: phase 0: a user's element\ngosed demo: phase 1\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        let bar = ProgressBar::hidden();
        tell(Some(&bar), &mut out, "phase 0");
        assert_eq!((out.len(), bar.message()), (0, "phase 0".to_owned()));
    }
}
