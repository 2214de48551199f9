//! `gose-bench pkcs11`: signatures through PKCS#11 modules, each client a process of its own.
//!
//! The own module signs with elements of a node behind mutual TLS, an element a client, policy and log on, once by
//! itself and once through the guest service; beside it SoftHSM2 in process, through p11-kit over a Unix socket, and through p11-kit and a TLS tunnel.

mod client;
mod peers;
mod report;

use std::{fs, path::Path, path::PathBuf, time::Duration};

use serde_json::{Value, json};

pub(crate) use self::client::run as client;
use self::{
    client::{Key, Rate},
    peers::Setup,
};
use crate::child::Outcome;

/// Clients at a time.
const CLIENTS: [usize; 2] = [1, 8];
/// Rounds, in each of which every peer has its turn: all see the same machine.
const ROUNDS: u32 = 3;

/// Runs everything and prints it.
pub(crate) fn run(module: Option<PathBuf>, json: bool, short: bool) -> Outcome<()> {
    let module = match module {
        Some(module) => module,
        None => default_module()?,
    };
    let folder = std::env::temp_dir().join(format!("gose-bench-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let time = Duration::from_millis(if short { 300 } else { 2000 });
    let outcome = measure(&folder, &module, time);
    let _ = fs::remove_dir_all(&folder);
    let report = outcome?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report::table(&report));
    }
    Ok(())
}

/// The module that lies beside this program's profile.
fn default_module() -> Outcome<PathBuf> {
    let program = std::env::current_exe()?;
    let profiles = program.ancestors().nth(2).ok_or("no folder of profiles")?;
    ["module", "release", "debug"]
        .map(|profile| profiles.join(profile).join("libgose_pkcs11.so"))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| "build the module: cargo build --profile module -p gose-pkcs11".into())
}

fn measure(folder: &Path, module: &Path, time: Duration) -> Outcome<Value> {
    let most = CLIENTS.into_iter().max().unwrap_or(1);
    let setup = Setup::new(folder, module, most)?;
    let mut report = serde_json::Map::new();
    for key in [Key::P256, Key::Rsa2048] {
        let mut of_key = serde_json::Map::new();
        for clients in CLIENTS {
            let mut sums: Vec<Vec<Rate>> = setup.peers().iter().map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                for (peer, rates) in setup.peers().iter().zip(&mut sums) {
                    rates.push(client::measure(peer, key, clients, time / ROUNDS)?);
                }
            }
            let mut row = serde_json::Map::new();
            for (peer, rates) in setup.peers().iter().zip(sums) {
                row.insert(peer.name.into(), Rate::all(rates).json());
            }
            of_key.insert(clients.to_string(), Value::Object(row));
        }
        report.insert(key.name().into(), Value::Object(of_key));
    }
    report.insert("goals".into(), report::goals());
    report.insert("rounds".into(), json!(ROUNDS));
    Ok(Value::Object(report))
}
