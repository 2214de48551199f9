//! Stages that are one tool each.

use std::process::Command;

use crate::stage::{cargo, has, need, root, succeed};

type Proof = Result<String, String>;

pub(crate) fn format() -> Proof {
    succeed(cargo().args(["fmt", "--all", "--", "--check"]))
        .map_err(|error| format!("{error}; run `cargo fmt --all`"))?;
    Ok(String::new())
}

pub(crate) fn lints() -> Proof {
    succeed(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--features",
        "gose-backend/__judges",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(String::new())
}

pub(crate) fn tests() -> Proof {
    // The daemon tests talk to a foreign TLS client.
    need("openssl", "openssl")?;
    // A test of the daemon lets its disk fail.
    need("strace", "strace")?;
    succeed(cargo().args(["test", "--quiet", "--workspace"]))?;
    Ok(String::new())
}

pub(crate) fn docs() -> Proof {
    let mut doc = cargo();
    doc.env("RUSTDOCFLAGS", "-D warnings")
        .args(["doc", "--quiet", "--workspace", "--no-deps"]);
    succeed(&mut doc)?;
    Ok(String::new())
}

/// Licences, bans and sources; advisories need a clone of their database, which is not part of this run.
pub(crate) fn deny() -> Proof {
    if !has("cargo-deny") {
        println!("    building cargo-deny (some minutes, once a machine)");
        succeed(cargo().args(["install", "--quiet", "--locked", "cargo-deny@0.20.2"]))?;
    }
    succeed(
        Command::new("cargo")
            .current_dir(root())
            .args(["deny", "check", "licenses", "bans", "sources"]),
    )?;
    Ok("advisories: run `cargo deny check advisories` where the network reaches them".into())
}

pub(crate) fn kill() -> Proof {
    let mut test = cargo();
    test.env("GOSE_KILLS", "1000").args([
        "test",
        "--release",
        "--package",
        "gosed",
        "--test",
        "kill",
        "--",
        "--nocapture",
    ]);
    succeed(&mut test)?;
    Ok(String::new())
}

/// A node from outside, for as long as it takes, by the figures of a quiet machine.
pub(crate) fn endurance() -> Proof {
    succeed(enduring().args(["--", "--nocapture", "--skip", "steady::"]))?;
    Ok(String::new())
}

/// Thirty minutes, or `GOSE_SOAK_S` seconds.
pub(crate) fn steady() -> Proof {
    succeed(enduring().args(["--", "--nocapture", "steady::"]))?;
    Ok(String::new())
}

fn enduring() -> Command {
    let mut test = cargo();
    test.env("GOSE_TEST_LONG", "1");
    test.args([
        "test",
        "--release",
        "--package",
        "gosed",
        "--test",
        "endurance",
    ]);
    test
}

/// Every system call on an image, every error, every scene.
pub(crate) fn disk() -> Proof {
    need("strace", "strace")?;
    let mut test = cargo();
    test.env("GOSE_DISK", "all").args([
        "test",
        "--package",
        "gosed",
        "--test",
        "daemon",
        "disk::",
        "--",
        "--nocapture",
    ]);
    succeed(&mut test)?;
    Ok(String::new())
}

/// Welch's t-test on what takes secrets.
pub(crate) fn timing() -> Proof {
    let mut bench = cargo();
    bench.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "gose-bench",
        "--",
        "constant",
        "--samples",
        "100000",
    ]);
    succeed(&mut bench)?;
    Ok(String::new())
}
