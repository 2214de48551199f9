//! Stages that run the product as a person would.

use crate::stage::{cargo, output};

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
    Ok(format!(
        "full {:.1} ms, resumed {:.1} ms, {:.0} round trips, {:.0} MiB/s on the host, paper's profile {:.2} s and {:.2} s",
        value("phase2_full_ms"),
        value("phase2_resumed_ms"),
        value("racs_round_trips_full"),
        value("phase3_host_mib_s"),
        value("paper_profile_full_s"),
        value("paper_profile_resumed_s"),
    ))
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
