//! Ratios beside their goals.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// The module that talks to the node by itself, and through the guest service.
const DIRECT: &str = "gose";
const SERVICE: &str = "gose-service";

/// Key, clients, own way, peer, and how many times its rate the own one is to be.
const GOALS: [(&str, &str, &str, &str, f64); 9] = [
    ("p256", "1", DIRECT, "p11-kit-tls", 4.0),
    ("p256", "1", DIRECT, "p11-kit", 1.6),
    ("p256", "8", DIRECT, "p11-kit-tls", 6.0),
    ("p256", "8", DIRECT, "p11-kit", 2.0),
    ("p256", "8", DIRECT, "softhsm", 1.0),
    ("rsa2048", "8", DIRECT, "p11-kit-tls", 2.0),
    ("rsa2048", "8", DIRECT, "softhsm", 1.0),
    ("p256", "1", SERVICE, "p11-kit-tls", 2.5),
    ("p256", "1", SERVICE, "p11-kit", 1.0),
];

/// The own p99 at eight clients, as a share of the tunnel's.
const TAIL: f64 = 0.5;

pub(super) fn goals() -> Value {
    let rows = GOALS.map(|(key, clients, own, peer, times)| {
        json!({ "key": key, "clients": clients, "way": own, "over": peer, "times": times })
    });
    json!({ "rates": rows, "p99_of_tunnel": TAIL })
}

pub(super) fn table(report: &Value) -> String {
    let mut out = format!(
        "{:8} {:>7}  {:12} {:>10} {:>8} {:>8}\n",
        "key", "clients", "peer", "per second", "p50 us", "p99 us"
    );
    for (key, clients) in [
        ("p256", "1"),
        ("p256", "8"),
        ("rsa2048", "1"),
        ("rsa2048", "8"),
    ] {
        let Some(row) = report[key][clients].as_object() else {
            continue;
        };
        for (peer, rate) in row {
            let number = |name: &str| rate[name].as_f64().unwrap_or(f64::NAN);
            let _ = writeln!(
                out,
                "{key:8} {clients:>7}  {peer:12} {:>10.0} {:>8.0} {:>8.0}",
                number("per_second"),
                number("p50_us"),
                number("p99_us")
            );
        }
    }
    out.push('\n');
    let rate = |key: &str, clients: &str, peer: &str, what: &str| {
        report[key][clients][peer][what]
            .as_f64()
            .unwrap_or(f64::NAN)
    };
    for (key, clients, own, peer, goal) in GOALS {
        let ratio = rate(key, clients, own, "per_second") / rate(key, clients, peer, "per_second");
        let _ = writeln!(
            out,
            "{key:8} {clients} clients, {own:12} over {peer:12} {ratio:>6.2}   goal {goal:.2}"
        );
    }
    let tail = rate("p256", "8", DIRECT, "p99_us") / rate("p256", "8", "p11-kit-tls", "p99_us");
    let _ = writeln!(
        out,
        "p256     8 clients p99 of the tunnel's {tail:>6.2}   goal under {TAIL:.2}"
    );
    out
}
