//! Software cards that take their time, in one node.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use gose_card::timing::Profile;
use gose_client::{
    Endpoint, RemoteElement,
    tls::{Identity, RACS, client_config, load_anchors, server_name},
};
use gose_element::{
    Algorithm, SecureElement, Seid,
    drive::piv::{Piv, Slot},
};
use serde_json::{Map, Value, json};

use crate::{
    child::{Outcome, Server},
    pki,
};

/// The management key that the cards are given.
const KEY: [u8; 32] = [0x42; 32];

/// Slow cards in the node whose start is measured.
const STARTED: usize = 120;

/// GENERAL AUTHENTICATE of 9E, which wants no PIN, on P-256 with this digest.
fn signature() -> Vec<u8> {
    let mut apdu = vec![0x00, 0x87, 0x11, 0x9E, 38, 0x7C, 36, 0x82, 0x00, 0x81, 32];
    apdu.extend_from_slice(&[0x5A; 32]);
    apdu.push(0);
    apdu
}

/// One card alone, then all of them at once.
pub(super) fn rates(
    folder: &Path,
    profile: &Profile,
    cards: usize,
    time: Duration,
    report: &mut Map<String, Value>,
) -> Outcome<()> {
    let config = configuration(folder, "cards", Some(profile.name), cards)?;
    let node = Server::start(&["node", &config])?;
    let open = |number: usize| -> Outcome<RemoteElement> { element(folder, &node, number) };
    // Keys are made by all at once, each card taking its time.
    let elements = thread::scope(|scope| {
        let made: Vec<_> = (0..cards)
            .map(|number| {
                scope.spawn(move || -> Result<RemoteElement, String> {
                    let mut element = open(number).map_err(|error| error.to_string())?;
                    prepare(&mut element).map_err(|error| error.to_string())?;
                    Ok(element)
                })
            })
            .collect();
        made.into_iter()
            .map(|thread| thread.join().map_err(|_| "a thread broke".to_owned())?)
            .collect::<Result<Vec<_>, String>>()
    })?;
    let mut elements = elements.into_iter();
    let first = elements.next().ok_or("no cards")?;
    let (mut one, first) = signing(vec![first], time)?;
    let all: Vec<_> = first.into_iter().chain(elements).collect();
    let before = processor()?;
    let begun = Instant::now();
    let (together, all) = signing(all, time)?;
    let busy = (processor()? - before) / begun.elapsed().as_secs_f64() / processors();
    // One card again, so that both saw the same machine.
    let (again, _) = signing(all.into_iter().take(1).collect(), time)?;
    one = f64::midpoint(one, again);
    report.insert("profile".into(), json!(profile.name));
    report.insert("cards".into(), json!(cards));
    report.insert("signature_ms".into(), json!(1000.0 / one));
    report.insert("one_card_per_second".into(), json!(one));
    report.insert("cards_per_second".into(), json!(together));
    report.insert("cards_ratio".into(), json!(together / (one * cards as f64)));
    report.insert("processor_percent".into(), json!(100.0 * busy));
    Ok(())
}

/// Signatures a second while all of these sign; whole signatures only, in the time that they took.
fn signing(elements: Vec<RemoteElement>, time: Duration) -> Outcome<(f64, Vec<RemoteElement>)> {
    let start = Arc::new(Barrier::new(elements.len()));
    let threads: Vec<_> = elements
        .into_iter()
        .map(|mut element| {
            let start = start.clone();
            thread::spawn(move || -> Result<(f64, RemoteElement), String> {
                let apdu = signature();
                start.wait();
                let begun = Instant::now();
                let mut count = 0_u32;
                while begun.elapsed() < time {
                    let answer = element.transmit(&apdu).map_err(|error| error.to_string())?;
                    if answer.sw.value() != 0x9000 {
                        return Err(format!("a signature was answered {}", answer.sw));
                    }
                    count += 1;
                }
                Ok((f64::from(count) / begun.elapsed().as_secs_f64(), element))
            })
        })
        .collect();
    let mut sum = 0.0;
    let mut elements = Vec::new();
    for thread in threads {
        let (rate, element) = thread.join().map_err(|_| "a thread broke")??;
        sum += rate;
        elements.push(element);
    }
    Ok((sum, elements))
}

/// A P-256 key in 9E, and PIV selected.
fn prepare(element: &mut RemoteElement) -> Outcome<()> {
    element.power_on()?;
    let mut piv = Piv::open(element);
    piv.set_management_key(&KEY)?;
    let mut piv = Piv::open(element);
    piv.authenticate_management(&KEY)?;
    piv.generate(Slot::CARD_AUTHENTICATION, Algorithm::P256)?;
    Ok(())
}

fn element(folder: &Path, node: &Server, number: usize) -> Outcome<RemoteElement> {
    let identity = Identity::load(&folder.join("user.pem"), &folder.join("user.key"))?;
    let endpoint = Endpoint::Tls {
        address: node.address.to_string(),
        name: server_name(pki::SERVER)?,
        config: client_config(&identity, load_anchors(&folder.join("ca.pem"))?, RACS)?,
    };
    let seid: Seid = format!("SE{number}").parse()?;
    Ok(RemoteElement::at(endpoint, seid))
}

/// From the start of the process to its first word, and to the first answer of a card.
pub(super) fn start(
    folder: &Path,
    profile: &Profile,
    report: &mut Map<String, Value>,
) -> Outcome<()> {
    let config = configuration(folder, "start", Some(profile.name), STARTED)?;
    let mut ready = Vec::new();
    let mut answered = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let node = Server::start(&["node", &config])?;
        ready.push(begun.elapsed().as_secs_f64());
        element(folder, &node, STARTED - 1)?.power_on()?;
        answered.push(begun.elapsed().as_secs_f64());
    }
    report.insert("start_cards".into(), json!(STARTED));
    report.insert("start_ready_s".into(), json!(super::readers::median(ready)));
    report.insert(
        "start_first_answer_s".into(),
        json!(super::readers::median(answered)),
    );
    Ok(())
}

/// A node with so many elements, all of them the user's to administer.
fn configuration(
    folder: &Path,
    name: &str,
    timing: Option<&str>,
    elements: usize,
) -> Outcome<String> {
    let images = folder.join(name);
    fs::create_dir(&images)?;
    let at = folder.display();
    let mut text = format!(
        "version = 1\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n[tls]\ncertificate-file = \"{at}/node.pem\"\n\
         key = {{ file = \"{at}/node.key\" }}\nuser-anchor-files = [\"{at}/ca.pem\"]\n\n\
         [store]\ndirectory = \"{}\"\nmaster-key-file = \"{at}/master.key\"\n\n\
         [[user]]\ncn = \"{}\"\nseid = [\"*\"]\nrole = \"admin\"\n\n\
         [[aid]]\naid = \"A000000308000010000100\"\nallow = [\"*\"]\n",
        images.display(),
        pki::USER,
    );
    for n in 0..elements {
        write!(text, "\n[[slot]]\nseid = \"SE{n}\"\nkind = \"software\"\n")?;
        if let Some(timing) = timing {
            writeln!(text, "timing = \"{timing}\"")?;
        }
    }
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn processors() -> f64 {
    thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

/// Processor time that the machine spent on anything, seconds (the first line of /proc/stat, without idle and waiting).
fn processor() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    let busy = |at: usize| ticks.get(at).copied().unwrap_or_default();
    // USER_HZ is 100 on every architecture that Linux has today.
    Ok((busy(0) + busy(1) + busy(2) + busy(5) + busy(6)) / 100.0)
}
