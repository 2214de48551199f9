//! `gose-bench elements`: many slow cards in one node, its start, and readers of pcscd beside the raw library.

mod cards;
mod readers;

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use gose_card::timing::Profile;
use serde_json::{Map, Value};

use crate::{
    child::Outcome,
    pki::{self, Pki},
};

pub(crate) use readers::serve_cards;

/// What is measured.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) json: bool,
    pub(crate) short: bool,
    /// The card that is imitated.
    pub(crate) profile: String,
    pub(crate) cards: usize,
    /// Whether pcscd is started.
    pub(crate) readers: bool,
}

/// Runs everything and prints it.
pub(crate) fn run(wanted: &Wanted) -> Outcome<()> {
    let profile =
        Profile::named(&wanted.profile).ok_or("no such profile; `gosed profiles` lists them")?;
    let folder = std::env::temp_dir().join(format!("gose-bench-elements-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let measured = measure(&folder, wanted, profile);
    let _ = fs::remove_dir_all(&folder);
    let report = Value::Object(measured?);
    if wanted.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

fn measure(folder: &Path, wanted: &Wanted, profile: &Profile) -> Outcome<Map<String, Value>> {
    Pki::new()?.write(folder)?;
    pki::private(&folder.join("master.key"), &[0x47; 32])?;
    let time = Duration::from_secs(if wanted.short { 3 } else { 15 });
    let mut report = Map::new();
    cards::rates(folder, profile, wanted.cards, time, &mut report)?;
    cards::start(folder, profile, &mut report)?;
    if wanted.readers {
        let rounds = if wanted.short { 5 } else { 15 };
        readers::beside_raw(folder, rounds, &mut report)?;
    }
    Ok(report)
}

fn table(report: &Value) -> String {
    let number = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} cards like {}, one signature {:.2} ms: {:.1} signatures/s together, {:.2}/s one alone\n  \
         ratio to {} times one {:>5.3}   goal >= 0.95   (processor {:.0} % busy)",
        report["cards"],
        report["profile"].as_str().unwrap_or("?"),
        number("signature_ms"),
        number("cards_per_second"),
        number("one_card_per_second"),
        report["cards"],
        number("cards_ratio"),
        number("processor_percent"),
    );
    let _ = writeln!(
        out,
        "a node with {} slow cards is ready after {:.3} s   goal < 3   (first answer of a card after {:.3} s)",
        report["start_cards"],
        number("start_ready_s"),
        number("start_first_answer_s"),
    );
    let Some(rows) = report["readers"].as_array() else {
        return out;
    };
    let _ = writeln!(
        out,
        "\n{:8} {:>14} {:>14} {:>10}   goal",
        "readers", "GoSE APDUs/s", "raw APDUs/s", "GoSE/raw"
    );
    for row in rows {
        let n = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        let goal = if row["readers"] == 1 {
            "  >= 0.91 (overhead <= 10 %)"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "{:<8} {:>14.0} {:>14.0} {:>10.3} {goal}",
            row["readers"],
            n("gose_per_second"),
            n("raw_per_second"),
            n("ratio")
        );
    }
    out
}
