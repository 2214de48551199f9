//! One stage of a test run: its name, what it proves, how it went.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

/// A stage.
pub(crate) struct Stage {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it shows when it passes.
    pub(crate) proves: &'static str,
    run: fn() -> Result<String, String>,
}

/// How a stage went.
pub(crate) struct Outcome {
    name: &'static str,
    proves: &'static str,
    took: Duration,
    result: Result<String, String>,
}

impl Stage {
    pub(crate) const fn new(
        name: &'static str,
        proves: &'static str,
        run: fn() -> Result<String, String>,
    ) -> Self {
        Self { name, proves, run }
    }

    pub(crate) fn run(&self) -> Outcome {
        println!("==> {}: {}", self.name, self.proves);
        let start = Instant::now();
        let result = (self.run)();
        let outcome = Outcome {
            name: self.name,
            proves: self.proves,
            took: start.elapsed(),
            result,
        };
        if let Err(cause) = &outcome.result {
            println!("    FAILED: {cause}");
        }
        outcome
    }
}

/// Prints one line a stage and the closing count.
pub(crate) fn report(outcomes: &[Outcome]) -> ExitCode {
    println!();
    for Outcome {
        name,
        proves,
        took,
        result,
    } in outcomes
    {
        let (mark, note) = match result {
            Ok(note) => ("ok    ", note.as_str()),
            Err(cause) => ("FAILED", cause.lines().next().unwrap_or_default()),
        };
        println!("{mark} {name:8} {:6.1} s  {proves}", took.as_secs_f32());
        if !note.is_empty() {
            println!("                          {note}");
        }
    }
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.result.is_err())
        .count();
    println!(
        "\nstages: {} passed, {failed} failed",
        outcomes.len() - failed
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command with its output on the terminal.
pub(crate) fn succeed(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command
        .status()
        .map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{shown}: {status}"))
    }
}

/// Runs a command and returns its standard output; standard error goes to the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start {shown}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{shown}: {}\n{text}", output.status))
    }
}

/// Whether a program is on the PATH.
pub(crate) fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Installs a Debian package unless `program` is there already.
pub(crate) fn need(program: &str, package: &str) -> Result<(), String> {
    if has(program) {
        return Ok(());
    }
    println!("    installing {package} for {program}");
    let mut update = Command::new("apt-get");
    succeed(update.args(["-qq", "update"]))?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-qq",
        "-y",
        "--no-install-recommends",
        "-o",
        "DPkg::Lock::Timeout=500",
        "install",
        package,
    ]);
    succeed(&mut install).map_err(|error| format!("{error}; install {package} by hand"))
}
