//! Authentications: GoSE beside FreeRADIUS and hostapd's EAP server, and how a pool of cards that are as slow as real
//! ones scales.
//!
//! Every server is a process of its own and sees the same peers in turns; its processor time is read from /proc.

mod cards;
mod compare;
mod credentials;
mod load;
mod peer;
mod servers;

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

pub(crate) use servers::serve;

use crate::child::{Outcome, runtime};
use compare::{Effort, Ground};
use credentials::Keys;

/// What all servers share with their client.
const SECRET: &[u8] = b"testing123";

/// Who the peers say they are.
const IDENTITY: &[u8] = b"@bench.test";

/// The name in servers' certificates.
const SERVER_NAME: &str = "radius.bench.test";

fn secret_text() -> &'static str {
    "testing123"
}

/// What is asked for on the command line.
pub(crate) struct Wanted {
    pub(crate) cards: Vec<usize>,
    pub(crate) servers: bool,
    /// Of the comparison, cases whose names contain this, and nothing else of the servers.
    pub(crate) case: Option<String>,
    pub(crate) json: bool,
    pub(crate) short: bool,
    pub(crate) long: usize,
    pub(crate) half_open: usize,
}

/// Measures and prints.
pub(crate) fn run(wanted: &Wanted) -> Outcome<()> {
    let print = !wanted.json;
    let mut report = serde_json::Map::new();
    if wanted.servers {
        let folder = std::env::temp_dir().join(format!("gose-bench-eap-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let measured = servers_in(&folder, wanted, print);
        let _ = fs::remove_dir_all(&folder);
        report.insert("servers".into(), measured?);
    }
    if !wanted.cards.is_empty() {
        let runtime = runtime()?;
        let _entered = runtime.enter();
        report.insert(
            "cards".into(),
            cards::run(&wanted.cards, print, wanted.short)?,
        );
    }
    if wanted.json {
        println!("{}", serde_json::to_string_pretty(&Value::Object(report))?);
    }
    Ok(())
}

fn servers_in(folder: &Path, wanted: &Wanted, print: bool) -> Outcome<Value> {
    let effort = if wanted.short {
        Effort {
            rounds: 1,
            time: Duration::from_secs(1),
        }
    } else {
        Effort {
            rounds: 5,
            time: Duration::from_secs(3),
        }
    };
    let comparison = compare::run(folder, effort, wanted.case.as_deref(), print)?;
    if wanted.case.is_some() {
        return Ok(json!({ "comparison": comparison }));
    }
    let more = folder.join("more");
    fs::create_dir(&more)?;
    let ground = Ground::new(&more, Keys::P256)?;
    let site = ground.site()?;
    Ok(json!({
        "comparison": comparison,
        "long": compare::long(&ground, &site, wanted.long, print)?,
        "half_open": compare::half_open(&ground, &site, wanted.half_open, print)?,
    }))
}
