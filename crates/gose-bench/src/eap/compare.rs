//! The servers side by side: the same peers, in turns, so that all see the same machine; medians.

use std::{path::Path, time::Duration};

use rustls::{SupportedProtocolVersion, version::TLS12, version::TLS13};
use serde_json::{Value, json};

use super::{
    credentials::{Credentials, Keys},
    load::{self, Measured, Until, number},
    peer::Peer,
    servers::{Kind, Server, Site, cpu_of},
};
use crate::child::Outcome;

/// Cores that the possible rate is told for.
const CORES: f64 = 2.0;

/// Authentications in flight.
const IN_FLIGHT: usize = 8;

/// One line of the comparison.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    keys: Keys,
    version: &'static SupportedProtocolVersion,
    resumes: bool,
    /// GoSE's rate against FreeRADIUS's: at least this.
    rate: Option<f64>,
    /// GoSE's processor time against FreeRADIUS's: at most this.
    cpu: Option<f64>,
}

static CASES: [Case; 6] = [
    Case {
        name: "full, TLS 1.3, P-256",
        keys: Keys::P256,
        version: &TLS13,
        resumes: false,
        rate: Some(1.7),
        cpu: Some(0.4),
    },
    Case {
        name: "full, TLS 1.2, P-256",
        keys: Keys::P256,
        version: &TLS12,
        resumes: false,
        rate: Some(1.4),
        cpu: Some(0.4),
    },
    Case {
        name: "resumed, TLS 1.3, P-256",
        keys: Keys::P256,
        version: &TLS13,
        resumes: true,
        rate: Some(4.0),
        cpu: None,
    },
    Case {
        name: "resumed, TLS 1.2, P-256",
        keys: Keys::P256,
        version: &TLS12,
        resumes: true,
        rate: Some(1.5),
        cpu: None,
    },
    Case {
        name: "full, TLS 1.3, RSA-2048",
        keys: Keys::Rsa2048,
        version: &TLS13,
        resumes: false,
        rate: Some(1.25),
        cpu: Some(0.6),
    },
    Case {
        name: "full, TLS 1.2, RSA-2048",
        keys: Keys::Rsa2048,
        version: &TLS12,
        resumes: false,
        rate: Some(1.25),
        cpu: Some(0.6),
    },
];

/// What a server did in the rounds of a case.
#[derive(Default)]
struct Rounds {
    rates: Vec<f64>,
    /// Server's processor time an authentication, ms.
    cpu: Vec<f64>,
    /// The client's, ms.
    client: Vec<f64>,
    /// What the processor time of both leaves possible on two cores, authentications a second.
    possible: Vec<f64>,
    p99: Vec<f64>,
    done: usize,
    resumed: usize,
    failed: usize,
    failures: Vec<String>,
}

impl Rounds {
    fn add(&mut self, measured: Measured, cpu: Duration, client: Duration) {
        self.rates.push(measured.per_second());
        let done = number(measured.done.max(1));
        let [server, client] = [cpu, client].map(|time| time.as_secs_f64() * 1e3 / done);
        self.cpu.push(server);
        self.client.push(client);
        self.possible.push(CORES * 1e3 / (server + client));
        self.p99.push(measured.percentile(99).as_secs_f64() * 1e3);
        self.done += measured.done;
        self.resumed += measured.resumed;
        self.failed += measured.failed;
        self.failures.extend(measured.failures);
        self.failures.truncate(3);
    }

    fn report(&self) -> Value {
        json!({
            "per_s": median(&self.rates),
            "cpu_ms": median(&self.cpu),
            "client_cpu_ms": median(&self.client),
            "possible_per_s": median(&self.possible),
            "p99_ms": median(&self.p99),
            "authentications": self.done,
            "resumed": self.resumed,
            "failed": self.failed,
            "failures": self.failures,
        })
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// How long everything takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
}

/// A site for a kind of keys, with its certificates.
pub(crate) struct Ground {
    folder: std::path::PathBuf,
    pub(crate) credentials: Credentials,
    keys: Keys,
}

impl Ground {
    pub(crate) fn new(folder: &Path, keys: Keys) -> Outcome<Self> {
        let folder = folder.join(keys.name());
        std::fs::create_dir(&folder)?;
        let credentials = Credentials::new(keys)?;
        Ok(Self {
            folder,
            credentials,
            keys,
        })
    }

    pub(crate) fn site(&self) -> Outcome<Site<'_>> {
        Site::new(&self.folder, &self.credentials, self.keys)
    }
}

/// Measures every case; lines go to standard output unless JSON is wanted.
pub(crate) fn run(
    folder: &Path,
    effort: Effort,
    wanted: Option<&str>,
    print: bool,
) -> Outcome<Value> {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.is_here())
        .collect();
    let mut cases = Vec::new();
    let is_wanted = |case: &&Case| wanted.is_none_or(|text| case.name.contains(text));
    if !CASES.iter().any(|case| is_wanted(&case)) {
        let names = CASES.map(|case| case.name).join("; ");
        return Err(format!("no such case; there are: {names}").into());
    }
    for keys in [Keys::P256, Keys::Rsa2048] {
        let own = |case: &&Case| case.keys == keys && is_wanted(case);
        if !CASES.iter().any(|case| own(&case)) {
            continue;
        }
        let ground = Ground::new(folder, keys)?;
        let site = ground.site()?;
        for case in CASES.iter().filter(own) {
            let measured = measure(&ground, &site, case, &kinds, effort)?;
            if print {
                show(case, &measured);
            }
            cases.push(measured);
        }
    }
    let absent: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| !kind.is_here())
        .map(Kind::name)
        .collect();
    if print && !absent.is_empty() {
        println!("not installed, so not measured: {}", absent.join(", "));
    }
    Ok(json!({ "cases": cases, "absent": absent }))
}

fn measure(
    ground: &Ground,
    site: &Site<'_>,
    case: &Case,
    kinds: &[Kind],
    effort: Effort,
) -> Outcome<Value> {
    let mut servers: Vec<(Kind, Server, Vec<Peer>)> = Vec::new();
    for kind in kinds {
        let server = site.start(*kind, case.resumes)?;
        let peers = peers(ground, case, &server)?;
        servers.push((*kind, server, peers));
    }
    let mut rounds: Vec<(Kind, Rounds)> = kinds
        .iter()
        .map(|kind| (*kind, Rounds::default()))
        .collect();
    for round in 0..effort.rounds {
        for ((kind, server, peers), (_, rounds)) in servers.iter_mut().zip(&mut rounds) {
            // hostapd rejects everything after 1,000 sessions.
            if *kind == Hostapd && round > 0 {
                *server = site.start(*kind, case.resumes)?;
                *peers = self::peers(ground, case, server)?;
            }
            let until = match kind {
                Hostapd => Until::Count(800),
                _ => Until::Time(effort.time),
            };
            let mut own = std::mem::take(peers);
            // Fresh peers have no session yet.
            (own, _) = load::run(own, Until::Count(2 * IN_FLIGHT))?;
            let (before, own_before) = (server.cpu()?, cpu_of("self")?);
            let (own, measured) = load::run(own, until)?;
            let client = cpu_of("self")?.saturating_sub(own_before);
            rounds.add(measured, server.cpu()?.saturating_sub(before), client);
            *peers = own;
        }
    }
    let of = |wanted: Kind| {
        let found = rounds.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, rounds)| rounds)
    };
    let ratio = |kind: Kind, against: Kind, value: fn(&Rounds) -> &Vec<f64>| {
        let (own, other) = (of(kind)?, of(against)?);
        // A ratio a round: both saw the same machine then.
        let ratios: Vec<f64> = value(own)
            .iter()
            .zip(value(other))
            .map(|(a, b)| a / b)
            .collect();
        Some(median(&ratios))
    };
    let rate: fn(&Rounds) -> &Vec<f64> = |rounds| &rounds.rates;
    let cpu: fn(&Rounds) -> &Vec<f64> = |rounds| &rounds.cpu;
    let possible: fn(&Rounds) -> &Vec<f64> = |rounds| &rounds.possible;
    let p99: fn(&Rounds) -> &Vec<f64> = |rounds| &rounds.p99;
    use Kind::{Elements, FreeRadius, Host, Hostapd};
    Ok(json!({
        "case": case.name,
        "servers": rounds.iter().map(|(kind, rounds)| {
            (kind.name().to_owned(), rounds.report())
        }).collect::<serde_json::Map<_, _>>(),
        "rate_to_freeradius": ratio(Elements, FreeRadius, rate),
        "rate_to_freeradius_goal": case.rate,
        "possible_rate_to_freeradius": ratio(Elements, FreeRadius, possible),
        "possible_rate_to_freeradius_goal": case.rate,
        "host_possible_rate_to_freeradius": ratio(Host, FreeRadius, possible),
        "cpu_to_freeradius": ratio(Elements, FreeRadius, cpu),
        "cpu_to_freeradius_goal": case.cpu,
        "p99_to_freeradius": ratio(Elements, FreeRadius, p99),
        "p99_to_freeradius_goal": 1.0,
        "host_rate_to_freeradius": ratio(Host, FreeRadius, rate),
        "host_cpu_to_freeradius": ratio(Host, FreeRadius, cpu),
        "rate_to_hostapd": ratio(Elements, Hostapd, rate),
        "cpu_to_hostapd": ratio(Elements, Hostapd, cpu),
        "cpu_elements_to_host": ratio(Elements, Host, cpu),
        "cpu_elements_to_host_goal": 1.1,
    }))
}

fn peers(ground: &Ground, case: &Case, server: &Server) -> Outcome<Vec<Peer>> {
    let peer = |number| {
        Peer::new(
            server.address,
            &ground.credentials,
            case.version,
            case.resumes,
            number,
        )
    };
    (0..IN_FLIGHT).map(peer).collect()
}

fn show(case: &Case, measured: &Value) {
    println!("{} ({IN_FLIGHT} in flight):", case.name);
    println!("  server                  rate /s   CPU ms  client ms   p99 ms  resumed  failed");
    if let Some(servers) = measured["servers"].as_object() {
        for (name, row) in servers {
            let field = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
            println!(
                "  {name:22} {:8.0} {:8.2} {:10.2} {:8.1}  {:6.0}%  {:6}",
                field("per_s"),
                field("cpu_ms"),
                field("client_cpu_ms"),
                field("p99_ms"),
                100.0 * field("resumed") / field("authentications"),
                row["failed"],
            );
        }
    }
    for (label, name, at_least) in [
        ("rate to FreeRADIUS", "rate_to_freeradius", true),
        ("rate by CPU of both", "possible_rate_to_freeradius", true),
        ("CPU to FreeRADIUS", "cpu_to_freeradius", false),
        ("p99 to FreeRADIUS", "p99_to_freeradius", false),
        ("CPU, elements to host", "cpu_elements_to_host", false),
    ] {
        let Some(value) = measured[name].as_f64() else {
            continue;
        };
        let goal = measured[format!("{name}_goal")].as_f64();
        let verdict = goal.map(|goal| {
            let sign = if at_least { "≥" } else { "≤" };
            let met = if at_least {
                value >= goal
            } else {
                value <= goal
            };
            let word = if met { "met" } else { "missed" };
            format!("goal {sign} {goal:.2}: {word}")
        });
        println!("  {label:22} {value:8.2}   {}", verdict.unwrap_or_default());
    }
    for (label, name) in [
        ("host: rate to FreeRADIUS", "host_rate_to_freeradius"),
        ("host: rate by CPU", "host_possible_rate_to_freeradius"),
        ("host: CPU to FreeRADIUS", "host_cpu_to_freeradius"),
        ("rate to hostapd", "rate_to_hostapd"),
        ("CPU to hostapd", "cpu_to_hostapd"),
    ] {
        if let Some(value) = measured[name].as_f64() {
            println!("  {label:24} {value:6.2}");
        }
    }
}

/// Authentications by eight peers that may not fail.
pub(crate) fn long(ground: &Ground, site: &Site<'_>, count: usize, print: bool) -> Outcome<Value> {
    let mut rows = serde_json::Map::new();
    for kind in [Kind::Elements, Kind::Host] {
        let server = site.start(kind, false)?;
        let (before, resident) = (server.cpu()?, server.resident()?);
        let (_, measured) = load::run(peers(ground, &CASES[0], &server)?, Until::Count(count))?;
        let row = json!({
            "authentications": measured.done,
            "failed": measured.failed,
            "failures": measured.failures,
            "packets": measured.sent,
            "per_s": measured.per_second(),
            "cpu_ms": (server.cpu()? - before).as_secs_f64() * 1e3 / number(measured.done.max(1)),
            "p99_ms": measured.percentile(99).as_secs_f64() * 1e3,
            "resident_mib": [resident, server.resident()?],
        });
        if print {
            println!(
                "{}: {} authentications one after another, {} failed (goal 0), {:.0} /s, memory {:.1} to {:.1} MiB",
                kind.name(),
                measured.done,
                measured.failed,
                measured.per_second(),
                resident,
                server.resident()?,
            );
        }
        rows.insert(kind.name().into(), row);
    }
    Ok(rows.into())
}

/// So many conversations that go no further; then others are served.
pub(crate) fn half_open(
    ground: &Ground,
    site: &Site<'_>,
    count: usize,
    print: bool,
) -> Outcome<Value> {
    let mut rows = serde_json::Map::new();
    for (kind, hello) in [
        (Kind::Elements, false),
        (Kind::Host, false),
        (Kind::Host, true),
    ] {
        let server = site.start(kind, false)?;
        let mut silent = peers(ground, &CASES[0], &server)?;
        let warm = load::run(peers(ground, &CASES[0], &server)?, Until::Count(32))?;
        let before = server.resident()?;
        for number in 0..count {
            silent[number % IN_FLIGHT].half_open(hello)?;
        }
        let after = server.resident()?;
        let (_, measured) = load::run(warm.0, Until::Count(200))?;
        let where_ = if hello {
            "after ServerHello"
        } else {
            "after Start"
        };
        let each = (after - before) * 1024.0 / number(count);
        if print {
            println!(
                "{}: {count} half-open conversations, {where_}: {before:.1} to {after:.1} MiB ({each:.1} KiB each); \
                 then {} of 200 new ones served, p99 {:.1} ms",
                kind.name(),
                measured.done,
                measured.percentile(99).as_secs_f64() * 1e3,
            );
        }
        rows.insert(
            format!("{}, {where_}", kind.name()),
            json!({
                "half_open": count,
                "resident_mib": [before, after],
                "kib_each": each,
                "served": measured.done,
                "failed": measured.failed,
                "p99_ms": measured.percentile(99).as_secs_f64() * 1e3,
            }),
        );
    }
    Ok(rows.into())
}
