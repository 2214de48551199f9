//! Stages that run the product as a person would.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::stage::{cargo, output, root};

/// Figures that `demo --json` must hold.
const DEMO: &[&str] = &[
    "phase0_ms",
    "phase1_ms",
    "phase2_full_ms",
    "phase2_resumed_ms",
    "phase3_host_mib_s",
    "phase3_element_mib_s",
    "racs_round_trips_full",
    "isolation_attempts",
    "isolation_refused",
    "paper_profile_full_s",
    "paper_profile_resumed_s",
];

pub(crate) fn run() -> Result<String, String> {
    let text = output(cargo().args(["run", "--quiet", "--release", "--", "demo", "--json"]))?;
    let values = figures(&text, DEMO)?;
    let value = |name: &str| {
        DEMO.iter()
            .position(|n| *n == name)
            .map_or(f64::NAN, |index| values[index])
    };
    if value("racs_round_trips_full") > 12.0 {
        return Err(format!(
            "{} RACS round trips for a full authentication; 12 are allowed",
            value("racs_round_trips_full")
        ));
    }
    if value("isolation_attempts") < 6.0
        || (value("isolation_attempts") - value("isolation_refused")).abs() > 0.1
    {
        return Err(format!(
            "{} of {} attempts were refused",
            value("isolation_refused"),
            value("isolation_attempts")
        ));
    }
    let typed = keep()?;
    Ok(format!(
        "full {:.1} ms, resumed {:.1} ms, {:.0} round trips, {:.0} MiB/s on the host, paper's profile {:.2} s and {:.2} s; {typed} commands of the hint typed",
        value("phase2_full_ms"),
        value("phase2_resumed_ms"),
        value("racs_round_trips_full"),
        value("phase3_host_mib_s"),
        value("paper_profile_full_s"),
        value("paper_profile_resumed_s"),
    ))
}

/// Leaves the demo running and types every command of its hint, the one that ends it last.
fn keep() -> Result<usize, String> {
    let mut demo = cargo();
    let kept = demo
        .args(["run", "--quiet", "--release", "--", "demo"])
        .args(["--keep", "--no-paper", "--rounds", "1"])
        .output()
        .map_err(|error| format!("cannot start the demo: {error}"))?;
    let hint = String::from_utf8_lossy(&kept.stderr).into_owned();
    if !kept.status.success() {
        return Err(format!("demo --keep: {}\n{hint}", kept.status));
    }
    let commands: Vec<&str> = hint
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    let Some((end, first)) = commands.split_last() else {
        return Err(format!("demo --keep names no command:\n{hint}"));
    };
    let failed = first.iter().find_map(|command| said(command).err());
    said_nothing(end)?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    ended(end)?;
    Ok(commands.len())
}

/// Types a command that must say something.
fn said(command: &str) -> Result<(), String> {
    let said = output(&mut shell(command))?;
    if said.trim().is_empty() {
        return Err(format!("{command}: said nothing"));
    }
    Ok(())
}

fn said_nothing(command: &str) -> Result<(), String> {
    output(&mut shell(command)).map(|_| ())
}

/// The nodes that `kill A B C && … FOLDER` named are gone, and so is the folder.
fn ended(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let folder = words.last().copied().unwrap_or_default();
    // `sleep 1` is none of them.
    let numbers = words
        .iter()
        .filter(|word| word.parse::<u32>().is_ok_and(|n| n > 1));
    let until = Instant::now() + Duration::from_secs(20);
    for number in numbers {
        let process = Path::new("/proc").join(number).join("exe");
        // A process that has ended shows no program, also while nobody has waited for it.
        while fs::read_link(&process).is_ok() {
            if Instant::now() > until {
                return Err(format!("{command}: process {number} is still there"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if folder.is_empty() || Path::new(folder).exists() {
        return Err(format!("{command}: {folder} is still there"));
    }
    Ok(())
}

/// A line as a person types it, in the workspace's folder.
fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.current_dir(root()).args(["-c", command]);
    shell
}

/// A short run; the ratios are printed, not judged: a busy machine would judge them wrongly.
pub(crate) fn bench() -> Result<String, String> {
    let names = &["ratio_1", "ratio_64", "ratio_batch"];
    let mut run = cargo();
    run.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "gose-bench",
        "--",
        "racs",
        "--json",
        "--short",
    ]);
    let values = figures(&output(&mut run)?, names)?;
    let shown: Vec<String> = names
        .iter()
        .zip(&values)
        .map(|(name, value)| format!("{name} {value:.2}"))
        .collect();
    Ok(shown.join(", "))
}

/// The numbers of these names, each of which must be there and finite.
fn figures(json: &str, names: &[&str]) -> Result<Vec<f64>, String> {
    names
        .iter()
        .map(|name| {
            let quoted = format!("\"{name}\":");
            let after = json
                .split_once(&quoted)
                .ok_or_else(|| format!("no {name} in the output:\n{json}"))?
                .1;
            let text: String = after
                .trim_start()
                .chars()
                .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | 'e' | 'E' | '+'))
                .collect();
            text.parse()
                .map_err(|_| format!("{name} is no number: {after:.20}"))
        })
        .collect()
}
