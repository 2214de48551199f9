//! `gose-bench racs`: round trips, batches, a flight, records, memory.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use gose_client::tls::{Identity, client_config, load_anchors, server_name};
use serde_json::{Value, json};

use crate::{
    child::{Outcome, Server, runtime, server_config},
    load::{self, Exchange, Target},
    memory,
    pki::{self, Pki},
    record,
};

/// SELECT of the PIV application.
const SELECT: &str = "00A404000BA000000308000010000100";
/// GET DATA of the discovery object: 15 bytes to the card, 22 back.
const GET_DATA: &str = "00CB3FFF035C017E00";
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
    for (name, connections) in [("1", 1), ("64", 64)] {
        let raw = raw_server(folder, &raw_one)?;
        let (raw, own) = turns(|| {
            let raw = runtime.block_on(load::run(
                &target(&raw)?,
                vec![raw_one.clone(); connections],
                time / 4,
            ))?;
            let own =
                runtime.block_on(load::run(&target(&node)?, single(connections), time / 4))?;
            Ok((raw.per_second, own.per_second))
        })?;
        report.insert(format!("raw_{name}"), json!(raw.round()));
        report.insert(format!("racs_{name}"), json!(own.round()));
        report.insert(format!("ratio_{name}"), json!(own / raw));
    }
    let raw_sixteen = raw_batch();
    let raw = raw_server(folder, &raw_exchange_of(&raw_sixteen))?;
    let (raw, own) = turns(|| {
        let raw = runtime.block_on(load::run(
            &target(&raw)?,
            vec![raw_sixteen.clone(); 8],
            time / 4,
        ))?;
        let own = runtime.block_on(load::run(&target(&node)?, batch(8), time / 4))?;
        Ok((raw.per_second, own.per_second))
    })?;
    let (_, unbatched) = turns(|| {
        let own = runtime.block_on(load::run(&target(&node)?, single(8), time / 4))?;
        Ok((0.0, own.per_second))
    })?;
    report.insert("raw_batch".into(), json!(raw.round()));
    report.insert("racs_batch".into(), json!(own.round()));
    report.insert("ratio_batch".into(), json!(own / raw));
    report.insert("racs_unbatched_8".into(), json!(unbatched.round()));
    report.insert("batch_over_unbatched".into(), json!(own / unbatched));

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

/// Both sides in turns, four times, so that they see the same machine; the means.
fn turns(mut turn: impl FnMut() -> Outcome<(f64, f64)>) -> Outcome<(f64, f64)> {
    let mut sums = (0.0, 0.0);
    for _ in 0..4 {
        let (raw, own) = turn()?;
        sums = (sums.0 + raw, sums.1 + own);
    }
    Ok((sums.0 / 4.0, sums.1 / 4.0))
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

/// 5 kB to a card in pieces of 240 bytes: as one request, and a request a piece. Command chaining carries it to
/// PUT DATA, which the card refuses at the end (no management key): the bytes still all went in.
fn flight(target: &Target, runtime: &tokio::runtime::Runtime, time: Duration) -> Outcome<Value> {
    const PIECES: usize = 21;
    let piece = |last: bool| {
        let cla = if last { "00" } else { "10" };
        format!("APDU SE0 {cla}DB3FFFF0{}\r\n", "5C".repeat(240))
    };
    let one = (0..PIECES)
        .map(|n| piece(n + 1 == PIECES))
        .collect::<String>();
    let refused = "BEGIN\r\n+006 021 6985\r\nEND\r\n".len();
    let select =
        format!("BEGIN\r\nAPDU SE0 {SELECT} CONTINUE=9000\r\nAPDU SE0 {GET_DATA}\r\nEND\r\n")
            .into_bytes();
    let exchange = |request: String, answer| Exchange {
        opening: select.clone(),
        opening_answer: racs_answer(1),
        request: request.into_bytes(),
        answer,
        weight: 1,
    };
    let together = exchange(format!("BEGIN\r\n{one}END\r\n"), refused);
    let together = runtime
        .block_on(load::run(target, vec![together], time / 4))?
        .per_second;
    let alone = exchange(format!("BEGIN\r\n{}END\r\n", piece(false)), refused);
    let alone = runtime
        .block_on(load::run(target, vec![alone], time / 4))?
        .per_second
        / PIECES as f64;
    Ok(json!({
        "bytes": PIECES * 240,
        "one_request_ms": 1000.0 / together,
        "request_a_piece_ms": 1000.0 / alone,
        "times_faster": together / alone,
    }))
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
         [[aid]]\naid = \"A000000308000010000100\"\nallow = [\"{}\"]\n",
        images.display(),
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
    let mut out = String::new();
    let mut row = |what: &str, own: f64, raw: f64, ratio: f64, goal: f64| {
        let _ = writeln!(
            out,
            "{what:46} {own:>10.0} {raw:>10.0}   {ratio:>5.2}   {goal:.2}"
        );
    };
    row(
        "APDU round trips/s, 1 connection",
        number("racs_1"),
        number("raw_1"),
        number("ratio_1"),
        0.9,
    );
    row(
        "APDU round trips/s, 64 connections",
        number("racs_64"),
        number("raw_64"),
        number("ratio_64"),
        0.8,
    );
    row(
        "16 APDUs a request, 8 connections, APDUs/s",
        number("racs_batch"),
        number("raw_batch"),
        number("ratio_batch"),
        0.3,
    );
    row(
        "  over one APDU a request, 8 connections",
        number("racs_batch"),
        number("racs_unbatched_8"),
        number("batch_over_unbatched"),
        5.0,
    );
    row(
        "records on the host, MiB/s (raw: rustls)",
        number("record_host_mib_s"),
        number("record_rustls_mib_s"),
        number("ratio_record"),
        0.8,
    );
    let head = format!(
        "{:46} {:>10} {:>10}   {:>5}   goal\n",
        "", "GoSE", "raw", "ratio"
    );
    let flight = &report["flight"];
    let memory = &report["memory"];
    format!(
        "{head}{out}\n5 kB to a card in 21 pieces: one request {:.2} ms, a request a piece {:.2} ms\n\
         memory of a node: {} elements and {} idle sessions {:.1} MiB (goal: under 96 at 1,000 and 2,000), empty {:.1} MiB\n",
        flight["one_request_ms"].as_f64().unwrap_or(f64::NAN),
        flight["request_a_piece_ms"].as_f64().unwrap_or(f64::NAN),
        memory["elements"],
        memory["sessions"],
        memory["resident_mib"].as_f64().unwrap_or(f64::NAN),
        memory["before_sessions_mib"].as_f64().unwrap_or(f64::NAN),
    )
}
