//! `gose-bench racs`: round trips, batches, a flight, records, memory.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use gose_client::tls::{Identity, client_config, load_anchors, server_name};
use serde_json::{Value, json};

use crate::{
    child::{Outcome, Server, runtime, server_config},
    load::{self, Exchange, Rate, Target},
    memory,
    pki::{self, Pki},
    record,
};

/// SELECT of the PIV application.
const SELECT: &str = "00A404000BA000000308000010000100";
/// GET DATA of the discovery object: 15 bytes to the card, 22 back.
const GET_DATA: &str = "00CB3FFF035C017E00";
/// SELECT of the EAP-TLS application.
const SELECT_EAP: &str = "00A4040009F0474F534545415001";
/// The bearer's PIN of an element as it is born.
const VERIFY: &str = "A02000000830303030FFFFFFFF";
/// APDUs of a batch.
const BATCH: usize = 16;

/// Runs everything and prints it.
pub(crate) fn run(json: bool, short: bool) -> Outcome<()> {
    let folder = tempdir()?;
    let outcome = measure(&folder, short);
    let _ = fs::remove_dir_all(&folder);
    let report = outcome?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

fn tempdir() -> Outcome<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("gose-bench-{}", std::process::id()));
    fs::create_dir(&folder)?;
    Ok(folder)
}

fn measure(folder: &Path, short: bool) -> Outcome<Value> {
    Pki::new()?.write(folder)?;
    pki::private(&folder.join("master.key"), &[0x47; 32])?;
    let time = Duration::from_millis(if short { 400 } else { 4000 });
    let identity = Identity::load(&folder.join("user.pem"), &folder.join("user.key"))?;
    let target = |server: &Server| -> Outcome<Target> {
        Ok(Target {
            address: server.address,
            tls: client_config(
                &identity,
                load_anchors(&folder.join("ca.pem"))?,
                b"racs/0.2",
            )?,
            name: server_name(pki::SERVER)?,
        })
    };
    let config = configuration(folder, 64)?;
    let node = Server::start(&["node", &config])?;
    let runtime = runtime()?;

    let mut report = serde_json::Map::new();
    let answer = racs_answer(1);
    let single = |n: usize| {
        (0..n)
            .map(|i| racs(&format!("SE{i}"), 1))
            .collect::<Vec<_>>()
    };
    let batch = |n: usize| {
        (0..n)
            .map(|i| racs(&format!("SE{i}"), BATCH))
            .collect::<Vec<_>>()
    };
    let raw_one = raw_exchange(&single(1)[0], answer, 1);
    let load = |server: &Server, exchanges: Vec<Exchange>| -> Outcome<Rate> {
        let used = || server.processor_time() * 1e6;
        Ok(runtime.block_on(load::run(&target(server)?, exchanges, time / 4, used))?)
    };
    let raw = raw_server(folder, &raw_one)?;
    for (name, connections) in [("1", 1), ("64", 64)] {
        let compared = turns(
            || load(&raw, vec![raw_one.clone(); connections]),
            || load(&node, single(connections)),
        )?;
        report.insert(format!("raw_{name}"), json!(compared.other.round()));
        report.insert(format!("racs_{name}"), json!(compared.own.round()));
        compared.insert(&mut report, &format!("ratio_{name}"));
        report.insert(format!("raw_{name}_processor_us"), json!(compared.used[0]));
        report.insert(format!("racs_{name}_processor_us"), json!(compared.used[1]));
    }
    drop(raw);
    let raw_sixteen = raw_batch();
    let raw = raw_server(folder, &raw_exchange_of(&raw_sixteen))?;
    let compared = turns(
        || load(&raw, vec![raw_sixteen.clone(); 8]),
        || load(&node, batch(8)),
    )?;
    report.insert("raw_batch".into(), json!(compared.other.round()));
    report.insert("racs_batch".into(), json!(compared.own.round()));
    compared.insert(&mut report, "ratio_batch");
    let compared = turns(|| load(&node, single(8)), || load(&node, batch(8)))?;
    report.insert("racs_unbatched_8".into(), json!(compared.other.round()));
    compared.insert(&mut report, "batch_over_unbatched");

    report.insert("flight".into(), flight(&target(&node)?, &runtime, time)?);
    drop(node);

    let client = client_config(
        &identity,
        load_anchors(&folder.join("ca.pem"))?,
        b"racs/0.2",
    )?;
    let (client, server) =
        record::handshake(client, server_config(folder)?, server_name(pki::SERVER)?)?;
    let records = record::measure(client, server, time);
    report.insert("record_host_mib_s".into(), json!(records.host.round()));
    report.insert("record_rustls_mib_s".into(), json!(records.rustls.round()));
    report.insert("ratio_record".into(), json!(records.host / records.rustls));

    let (elements, sessions) = if short { (100, 200) } else { (1000, 2000) };
    let config = configuration(folder, elements)?;
    let node = Server::start(&["node", &config])?;
    report.insert(
        "memory".into(),
        runtime.block_on(memory::measure(&node, &target(&node)?, elements, sessions))?,
    );
    Ok(Value::Object(report))
}

/// Rounds of a comparison.
const ROUNDS: usize = 7;

/// Two sides measured in turns.
struct Compared {
    /// The peer's rate: the median of its rounds.
    other: f64,
    /// Ours.
    own: f64,
    /// Ours over the peer's, a round each, sorted.
    ratios: Vec<f64>,
    /// Processor time of the servers an APDU, microseconds: the peer's, ours; medians. It tells of the program alone,
    /// however busy the machine is.
    used: [f64; 2],
}

impl Compared {
    /// The median of the ratios under this name, and the least and the greatest beside it.
    fn insert(&self, report: &mut serde_json::Map<String, Value>, name: &str) {
        report.insert(name.into(), json!(median(&self.ratios)));
        report.insert(
            format!("{name}_spread"),
            json!([self.ratios.first(), self.ratios.last()]),
        );
    }
}

/// Both sides in turns, so that they see the same machine; who begins a round alternates.
fn turns(
    mut other: impl FnMut() -> Outcome<Rate>,
    mut own: impl FnMut() -> Outcome<Rate>,
) -> Outcome<Compared> {
    let (mut others, mut owns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let (theirs, ours) = if round % 2 == 0 {
            let theirs = other()?;
            (theirs, own()?)
        } else {
            let ours = own()?;
            (other()?, ours)
        };
        others.push(theirs.per_second);
        owns.push(ours.per_second);
        ratios.push(ours.per_second / theirs.per_second);
        used[0].push(theirs.used);
        used[1].push(ours.used);
    }
    let [used_theirs, used_ours] = &mut used;
    for values in [&mut others, &mut owns, &mut ratios, used_theirs, used_ours] {
        values.sort_by(f64::total_cmp);
    }
    Ok(Compared {
        other: median(&others),
        own: median(&owns),
        ratios,
        used: used.map(|values| median(&values)),
    })
}

/// The value in the middle of sorted ones.
fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn raw_server(folder: &Path, exchange: &Exchange) -> Outcome<Server> {
    let (request, answer) = (
        exchange.request.len().to_string(),
        exchange.answer.to_string(),
    );
    Server::start(&["raw", &folder.display().to_string(), &request, &answer])
}

/// A request of `count` APDUs whose answers are all wanted.
fn racs(seid: &str, count: usize) -> Exchange {
    let line = format!("APDU {seid} {GET_DATA}");
    let append = if count > 1 { " APPEND" } else { "" };
    let request = format!(
        "BEGIN\r\n{}END\r\n",
        format!("{line}{append}\r\n").repeat(count)
    );
    Exchange {
        opening: format!("BEGIN\r\nAPDU {seid} {SELECT} CONTINUE=9000\r\nAPDU {seid} {GET_DATA} CONTINUE=9000\r\nEND\r\n").into_bytes(),
        opening_answer: racs_answer(1),
        request: request.into_bytes(),
        answer: racs_answer(count),
        weight: count as u64,
    }
}

/// Bytes of the answer to such a request: the discovery object is 20 bytes and its status word.
fn racs_answer(count: usize) -> usize {
    let line = "+006 001 ".len() + 2 * (20 + 2) + 2;
    "BEGIN\r\n".len() + count * line + "END\r\n".len()
}

fn raw_exchange(like: &Exchange, answer: usize, weight: u64) -> Exchange {
    Exchange {
        opening: vec![b'o'; like.request.len()],
        opening_answer: answer,
        request: vec![b'x'; like.request.len()],
        answer,
        weight,
    }
}

/// Sixteen requests in one write, each as long as a RACS request of one APDU.
fn raw_batch() -> Exchange {
    let one = raw_exchange(&racs("SE0", 1), racs_answer(1), 1);
    Exchange {
        request: one.request.repeat(BATCH),
        answer: one.answer * BATCH,
        weight: BATCH as u64,
        ..one
    }
}

fn raw_exchange_of(batch: &Exchange) -> Exchange {
    Exchange {
        request: batch.opening.clone(),
        answer: batch.opening_answer,
        ..batch.clone()
    }
}

/// A flight of 5 kB to a card, in pieces of 240 bytes: as one request, and a request a piece. They are one EAP packet for the
/// EAP-TLS application, which takes every piece, and discards the whole (7000), because no identity is set.
fn flight(target: &Target, runtime: &tokio::runtime::Runtime, time: Duration) -> Outcome<Value> {
    const PIECES: usize = 21;
    let piece = |number: usize| {
        let more = u8::from(number + 1 < PIECES);
        // EAP-Request, EAP-TLS, without flags.
        let head = format!("0115{:04X}0D00", PIECES * 240);
        let head = if number == 0 {
            head.as_str()
        } else {
            "000000000000"
        };
        format!("APDU SE0 A080{more:02X}00F0{head}{}\r\n", "5C".repeat(234))
    };
    let one: String = (0..PIECES).map(piece).collect();
    let taken = "BEGIN\r\n+006 001 9000\r\nEND\r\n".len();
    let open =
        format!("BEGIN\r\nAPDU SE0 {SELECT_EAP} CONTINUE=9000\r\nAPDU SE0 {VERIFY}\r\nEND\r\n")
            .into_bytes();
    let exchange = Exchange {
        opening: open,
        opening_answer: taken,
        request: Vec::new(),
        answer: taken,
        weight: 1,
    };
    let send = |requests: &[String], line: usize| {
        let verdict = format!("BEGIN\r\n+006 {line:03} 7000\r\nEND\r\n");
        runtime.block_on(load::flights(
            target,
            &exchange,
            requests,
            &verdict,
            time / 4,
        ))
    };
    let together = send(&[format!("BEGIN\r\n{one}END\r\n")], PIECES)?;
    let pieces = (0..PIECES).map(|number| format!("BEGIN\r\n{}END\r\n", piece(number)));
    let alone = send(&pieces.collect::<Vec<_>>(), 1)?;
    let (one_ms, pieces_ms) = (milliseconds(together.each), milliseconds(alone.each));
    Ok(json!({
        "bytes": PIECES * 240,
        "one_request_round_trips": together.round_trips,
        "request_a_piece_round_trips": alone.round_trips,
        "one_request_ms": one_ms,
        "request_a_piece_ms": pieces_ms,
        "times_faster": pieces_ms / one_ms,
    }))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A node with `elements` software elements, which the user may all use.
fn configuration(folder: &Path, elements: usize) -> Outcome<String> {
    let images = folder.join(format!("images-{elements}"));
    fs::create_dir(&images)?;
    let at = folder.display();
    let mut text = format!(
        "version = 1\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n[tls]\ncertificate-file = \"{at}/node.pem\"\n\
         key = {{ file = \"{at}/node.key\" }}\nuser-anchor-files = [\"{at}/ca.pem\"]\n\n\
         [store]\ndirectory = \"{}\"\nmaster-key-file = \"{at}/master.key\"\n\n\
         [limits]\nconnections = 4096\n\n\
         [[user]]\ncn = \"{}\"\nseid = [\"*\"]\n\n\
         [[aid]]\naid = \"A000000308000010000100\"\nallow = [\"{}\"]\n\n\
         [[aid]]\naid = \"F0474F534545415001\"\nallow = [\"{}\"]\n",
        images.display(),
        pki::USER,
        pki::USER,
        pki::USER,
    );
    for n in 0..elements {
        write!(text, "\n[[slot]]\nseid = \"SE{n}\"\nkind = \"software\"\n")?;
    }
    let path = folder.join(format!("node-{elements}.toml"));
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn table(report: &Value) -> String {
    let number = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    let spread = |name: &str| {
        let bound = |at: usize| report[format!("{name}_spread")][at].as_f64();
        match (bound(0), bound(1)) {
            (Some(least), Some(greatest)) => format!("{least:.2} to {greatest:.2}"),
            _ => String::new(),
        }
    };
    let mut out = String::new();
    let mut row = |what: &str, own: &str, raw: &str, ratio: &str, goal: f64| {
        let _ = writeln!(
            out,
            "{what:46} {:>10.0} {:>10.0}   {:>5.2} {:>14}   {goal:.2}",
            number(own),
            number(raw),
            number(ratio),
            spread(ratio),
        );
    };
    row(
        "APDU round trips/s, 1 connection",
        "racs_1",
        "raw_1",
        "ratio_1",
        0.9,
    );
    row(
        "APDU round trips/s, 64 connections",
        "racs_64",
        "raw_64",
        "ratio_64",
        0.8,
    );
    row(
        "16 APDUs a request, 8 connections, APDUs/s",
        "racs_batch",
        "raw_batch",
        "ratio_batch",
        0.3,
    );
    row(
        "  over one APDU a request, 8 connections",
        "racs_batch",
        "racs_unbatched_8",
        "batch_over_unbatched",
        5.0,
    );
    row(
        "records on the host, MiB/s (raw: rustls)",
        "record_host_mib_s",
        "record_rustls_mib_s",
        "ratio_record",
        0.8,
    );
    let head = format!(
        "{:46} {:>10} {:>10}   {:>5} {:>14}   goal\n",
        "",
        "GoSE",
        "raw",
        "ratio",
        format!("of {ROUNDS} rounds")
    );
    let flight = &report["flight"];
    let memory = &report["memory"];
    format!(
        "{head}{out}\n5 kB to a card in 21 pieces: one request ({} round trip) {:.2} ms, a request a piece ({}) {:.2} ms\n\
         memory of a node: {} elements and {} idle sessions {:.1} MiB (goal: under 96 at 1,000 and 2,000), empty {:.1} MiB\n",
        flight["one_request_round_trips"],
        flight["one_request_ms"].as_f64().unwrap_or(f64::NAN),
        flight["request_a_piece_round_trips"],
        flight["request_a_piece_ms"].as_f64().unwrap_or(f64::NAN),
        memory["elements"],
        memory["sessions"],
        memory["resident_mib"].as_f64().unwrap_or(f64::NAN),
        memory["before_sessions_mib"].as_f64().unwrap_or(f64::NAN),
    )
}
