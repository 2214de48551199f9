//! The fuzz targets, for a short and a long time, as many at a time as there are processors.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    process::Command,
    sync::Mutex,
    time::Instant,
};

use crate::stage::{cargo, has, output, root, succeed};

/// Seconds that one input may take: more is a hang.
const TIMEOUT_S: u32 = 10;
/// MiB that a target may take: more is memory without bound.
const MEMORY_MIB: u32 = 2048;
/// Targets at a time, whatever the machine has.
const AT_A_TIME: usize = 4;

pub(crate) fn short() -> Result<String, String> {
    run(60)
}

pub(crate) fn long() -> Result<String, String> {
    run(600)
}

/// Runs every target for `seconds`. A crash, an input that hangs and one that takes too much memory end a target
/// with another status than 0. cargo-fuzz instruments with unstable flags, which the pinned compiler takes with
/// RUSTC_BOOTSTRAP.
fn run(seconds: u32) -> Result<String, String> {
    if !has("cargo-fuzz") {
        println!("    building cargo-fuzz (once a machine)");
        succeed(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz@0.13.2"]))?;
    }
    let listed = output(fuzz().arg("list"))?;
    let targets: Vec<&str> = listed.split_whitespace().collect();
    if targets.is_empty() {
        return Err("fuzz/ names no target".into());
    }
    succeed(fuzz().args(["build", "--sanitizer", "none"]))?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let at_a_time = processors.min(AT_A_TIME).min(targets.len());
    println!(
        "    {} targets, {seconds} s each, {at_a_time} at a time",
        targets.len()
    );
    let waiting = Mutex::new(targets.iter().enumerate());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some((number, target)) = next(&waiting) {
                    println!("    {}/{} {target} begins", number + 1, targets.len());
                    let start = Instant::now();
                    match one(target, seconds) {
                        Ok(done) => println!(
                            "    {}/{} {target}: {done} in {:.0} s",
                            number + 1,
                            targets.len(),
                            start.elapsed().as_secs_f32()
                        ),
                        Err(cause) => {
                            println!("    {}/{} {target} FAILED", number + 1, targets.len());
                            if let Ok(mut failures) = failures.lock() {
                                failures.push(cause);
                            }
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().map_err(|error| error.to_string())?;
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    Ok(format!("{} targets, {seconds} s each", targets.len()))
}

fn fuzz() -> Command {
    let mut command = cargo();
    command.env("RUSTC_BOOTSTRAP", "1").arg("fuzz");
    command
}

fn next<T>(waiting: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    waiting.lock().ok()?.next()
}

/// Runs one target; what it says goes into a file, of which the end is shown where it fails.
fn one(target: &str, seconds: u32) -> Result<String, String> {
    // What is found goes into the working corpus; the one of the repository is read.
    let seeds = root().join("fuzz/corpus").join(target);
    let corpus = root().join("target/fuzz-corpus").join(target);
    let logs = root().join("target/fuzz-logs");
    for folder in [&seeds, &corpus, &logs] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = logs.join(format!("{target}.log"));
    let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let copy = file.try_clone().map_err(|error| error.to_string())?;
    let mut command = fuzz();
    command
        .args(["run", "--sanitizer", "none", target])
        .args([&corpus, &seeds])
        .args(["--", "-print_final_stats=1"])
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_total_time={seconds}"))
        .stdout(file)
        .stderr(copy);
    succeed(&mut command).map_err(|error| format!("{error}\n{}", tail(&log)))?;
    Ok(done(&log).unwrap_or_else(|| "ended".into()))
}

/// How much was tried, in libFuzzer's words.
fn done(log: &Path) -> Option<String> {
    let lines = BufReader::new(File::open(log).ok()?).lines();
    let executed = lines
        .map_while(Result::ok)
        .filter(|line| line.contains("number_of_executed_units"))
        .last()?;
    let count = executed.rsplit(' ').next()?;
    Some(format!("{count} inputs"))
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
