//! Cards in virtual readers of pcscd: the backend's round trips beside the raw library's, in turns.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use gose_backend::{
    pcsc::{self, PcscElement, Selector},
    vpcd::Reader,
};
use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::SecureElement;
use gose_proto::{hex, vpcd};
use serde_json::{Map, Value, json};

use crate::child::Outcome;

/// Readers in parallel.
const PARALLEL: [usize; 4] = [1, 2, 4, 8];
/// Virtual readers of one driver: vpcd has two.
const SLOTS: usize = 2;
/// Where vsmartcard's driver is on Debian.
const DRIVER: &str = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so";

const SELECT: &str = "00A4040009A00000030800001000";
/// GET DATA of the discovery object.
const GET_DATA: &str = "00CB3FFF035C017E00";

/// How long pcscd and its readers may take to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long each side pings in a round.
const ROUND: Duration = Duration::from_millis(400);

/// Starts pcscd with eight cards, and lets both sides ping them in turns.
pub(super) fn beside_raw(
    folder: &Path,
    rounds: usize,
    report: &mut Map<String, Value>,
) -> Outcome<()> {
    let raw = compile(folder)?;
    let _pcscd = Pcscd::start(folder)?;
    let _cards = Cards::start()?;
    let names = readers_with_cards(PARALLEL[PARALLEL.len() - 1])?;
    let mut rows = Vec::new();
    for count in PARALLEL {
        let (mut own, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who begins changes, so that nobody always comes second.
            let (a, b) = if round % 2 == 0 {
                let a = backend(&names[..count])?;
                (a, raw_peer(&raw, &names[..count])?)
            } else {
                let b = raw_peer(&raw, &names[..count])?;
                (backend(&names[..count])?, b)
            };
            own.push(a);
            theirs.push(b);
            ratios.push(a / b);
        }
        rows.push(json!({
            "readers": count,
            "gose_per_second": median(own),
            "raw_per_second": median(theirs),
            "ratio": median(ratios),
            "rounds": rounds,
        }));
    }
    report.insert("readers".into(), Value::Array(rows));
    Ok(())
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// APDUs a second through the backend, a thread a reader.
fn backend(names: &[String]) -> Outcome<f64> {
    let begin = Arc::new(Barrier::new(names.len()));
    let threads: Vec<_> = names
        .iter()
        .map(|name| {
            let (begin, name) = (begin.clone(), name.clone());
            thread::spawn(move || -> Result<f64, String> {
                let selector = Selector::exactly(&name).map_err(|error| error.to_string())?;
                let mut element = PcscElement::new(selector);
                let failed = |error: gose_element::ElementError| error.to_string();
                element.power_on().map_err(failed)?;
                let apdu = hex::decode(GET_DATA).map_err(|error| error.to_string())?;
                let select = hex::decode(SELECT).map_err(|error| error.to_string())?;
                element.transmit(&select).map_err(failed)?;
                begin.wait();
                let start = Instant::now();
                let mut count = 0_u32;
                while start.elapsed() < ROUND {
                    let answer = element.transmit(&apdu).map_err(failed)?;
                    if answer.sw.value() != 0x9000 {
                        return Err(format!("GET DATA was answered {}", answer.sw));
                    }
                    count += 1;
                }
                let rate = f64::from(count) / start.elapsed().as_secs_f64();
                element.power_off();
                Ok(rate)
            })
        })
        .collect();
    let mut sum = 0.0;
    for thread in threads {
        sum += thread.join().map_err(|_| "a thread broke")??;
    }
    Ok(sum)
}

fn raw_peer(program: &Path, names: &[String]) -> Outcome<f64> {
    let output = Command::new(program)
        .args([SELECT, GET_DATA, &ROUND.as_millis().to_string()])
        .args(names)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the raw peer failed".into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn compile(folder: &Path) -> Outcome<PathBuf> {
    let (source, program) = (folder.join("raw.c"), folder.join("raw"));
    fs::write(&source, include_str!("raw.c"))?;
    let status = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(&source)
        .args(["-ldl", "-lpthread"])
        .status()
        .map_err(|error| format!("cc: {error}; the raw peer is a C program"))?;
    if status.success() {
        Ok(program)
    } else {
        Err("cc cannot compile the raw peer".into())
    }
}

/// A pcscd of our own. Killed when dropped.
struct Pcscd(Child);

impl Pcscd {
    /// Each driver has two readers and state of its own, so each is a copy of the library.
    fn start(folder: &Path) -> Outcome<Self> {
        let config = folder.join("readers");
        fs::create_dir(&config)?;
        let mut text = String::new();
        for driver in 0..PARALLEL[PARALLEL.len() - 1] / SLOTS {
            let library = folder.join(format!("vpcd{driver}.so"));
            fs::copy(DRIVER, &library).map_err(|error| {
                format!("{DRIVER}: {error}; apt-get install pcscd vsmartcard-vpcd")
            })?;
            let port = usize::from(vpcd::PORT) + driver * SLOTS;
            text += &format!(
                "FRIENDLYNAME \"GoSE bench {driver}\"\nDEVICENAME /dev/null:{port:#06X}\nLIBPATH {}\nCHANNELID {port:#06X}\n\n",
                library.display()
            );
        }
        fs::write(config.join("readers"), text)?;
        let child = Command::new("pcscd")
            .arg("-f")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("pcscd: {error}; apt-get install pcscd"))?;
        let pcscd = Self(child);
        wait("readers", || {
            pcsc::readers().is_ok_and(|readers| readers.len() >= PARALLEL[PARALLEL.len() - 1])
        })?;
        Ok(pcscd)
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // What a killed pcscd leaves keeps the next one from starting.
        for left in ["/run/pcscd/pcscd.comm", "/run/pcscd/pcscd.pid"] {
            let _ = fs::remove_file(left);
        }
    }
}

/// The cards: a process of their own, so that neither side has them beside it. Killed when dropped.
struct Cards(Child);

impl Cards {
    fn start() -> Outcome<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("cards")
            .arg(PARALLEL[PARALLEL.len() - 1].to_string())
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of `cards`: software cards in as many virtual readers.
pub(crate) fn serve_cards(count: u16) -> Outcome<()> {
    let threads: Vec<_> = (0..count)
        .map(|number| {
            thread::spawn(move || -> Result<(), String> {
                let nvm = Nvm::replay([factory::birth([1; 16])]);
                let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
                let mut element = Hosted::new(card, Memory::default());
                let line = TcpStream::connect(("127.0.0.1", vpcd::PORT + number))
                    .map_err(|error| error.to_string())?;
                line.set_nodelay(true).map_err(|error| error.to_string())?;
                let mut reader = Reader::new(&mut element).map_err(|error| error.to_string())?;
                Err(reader.serve(line).to_string())
            })
        })
        .collect();
    for thread in threads {
        if let Err(error) = thread.join().map_err(|_| "a thread broke")? {
            writeln!(std::io::stderr(), "gose-bench: {error}")?;
        }
    }
    Ok(())
}

fn readers_with_cards(count: usize) -> Outcome<Vec<String>> {
    let names = || -> Vec<String> {
        let readers = pcsc::readers().unwrap_or_default().into_iter();
        readers
            .filter(|reader| reader.atr.is_some())
            .map(|reader| reader.name)
            .collect()
    };
    wait("cards in readers", || names().len() >= count)?;
    Ok(names())
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) -> Outcome<()> {
    let begun = Instant::now();
    while !ready() {
        if begun.elapsed() > PATIENCE {
            return Err(
                format!("{what}: not within {PATIENCE:?}; is another pcscd running?").into(),
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
