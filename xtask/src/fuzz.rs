//! The fuzz targets, for a short and a long time.

use std::fs;

use crate::stage::{cargo, has, output, root, succeed};

pub(crate) fn short() -> Result<String, String> {
    run(30)
}

pub(crate) fn long() -> Result<String, String> {
    run(600)
}

/// Runs every target for `seconds`. cargo-fuzz instruments with unstable flags, which the pinned compiler takes
/// with RUSTC_BOOTSTRAP.
fn run(seconds: u32) -> Result<String, String> {
    if !has("cargo-fuzz") {
        println!("    building cargo-fuzz (once a machine)");
        succeed(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz@0.13.2"]))?;
    }
    let mut list = cargo();
    let targets = output(list.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "list"]))?;
    let mut count = 0;
    for target in targets.split_whitespace() {
        // What is found goes into the working corpus; the one of the repository is read.
        let seeds = root().join("fuzz/corpus").join(target);
        let corpus = root().join("target/fuzz-corpus").join(target);
        for folder in [&seeds, &corpus] {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let mut fuzz = cargo();
        fuzz.env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--sanitizer", "none", target]);
        fuzz.args([&corpus, &seeds]).args([
            "--",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-close_fd_mask=3",
        ]);
        fuzz.arg(format!("-max_total_time={seconds}"));
        succeed(&mut fuzz)?;
        count += 1;
    }
    if count == 0 {
        return Err("fuzz/ names no target".into());
    }
    Ok(format!("{count} targets, {seconds} s each"))
}
