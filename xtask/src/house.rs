//! Checks of the house that neither the compiler nor clippy makes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    names::{self, File},
    stage::root,
};

/// Which crates of the house a crate may use; arrows go down only (ARCHITECTURE.md, "Crates").
const ARROWS: &[(&str, &[&str])] = &[
    ("gose-proto", &[]),
    ("gose-element", &["gose-proto"]),
    ("gose-card", &["gose-proto", "gose-element"]),
    ("gose-client", &["gose-proto", "gose-element"]),
    ("gose-backend", &["gose-proto", "gose-element", "gose-card"]),
    ("gose-testkit", &["gose-proto", "gose-element", "gose-card"]),
    (
        "gosed",
        &[
            "gose-proto",
            "gose-element",
            "gose-card",
            "gose-client",
            "gose-backend",
            "gose-testkit",
        ],
    ),
    (
        "gose",
        &["gose-proto", "gose-element", "gose-client", "gose-backend"],
    ),
    (
        "gose-pkcs11",
        &["gose-proto", "gose-element", "gose-client"],
    ),
    ("gose-capi", &["gose-proto", "gose-element", "gose-client"]),
    (
        "gose-bench",
        &[
            "gose-proto",
            "gose-element",
            "gose-card",
            "gose-client",
            "gose-backend",
            "gosed",
        ],
    ),
];

/// Files and folders that may hold unsafe code, each block with its SAFETY line: foreign function interfaces.
const UNSAFE: &[&str] = &[
    "gose-backend/src/pcsc/library.rs",
    "gose-pkcs11/src/ffi/",
    "gose-capi/src/ffi/",
];

/// Where such a folder is let in.
const LETS_IN: &[&str] = &["gose-pkcs11/src/lib.rs", "gose-capi/src/lib.rs"];

/// Crates in which clippy forbids clocks and I/O.
const PURE: &[&str] = &["gose-proto", "gose-card"];

/// One of each kind of what clippy refuses there: clocks, waiting, threads, surroundings, files, sockets, processes, terminals.
const REFUSED: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::env::var",
    "std::fs::read",
    "std::fs::File",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process::Command",
    "std::io::stdin",
    "std::println",
];

/// What a pure crate would do I/O with, and what draws randomness: the card draws with AWS-LC, in one place.
const IMPURE: &[&str] = &[
    "rand",
    "getrandom",
    "rustix",
    "libc",
    "mio",
    "socket2",
    "tokio",
];

/// Words that say a thing is not done, or a test does not run.
const UNDONE: &[&str] = &["todo!(", "unimplemented!(", "#[ignore", "FIXME", "dbg!("];

pub(crate) fn check() -> Result<String, String> {
    let mut faults = Vec::new();
    for (name, allowed) in ARROWS {
        arrows(name, allowed, &mut faults);
    }
    crates_are_known(&mut faults);
    for name in PURE {
        let refused = read(&root().join(format!("crates/{name}/clippy.toml")));
        for path in REFUSED {
            if !refused.contains(&format!("{{ path = \"{path}\"")) {
                faults.push(format!("crates/{name}/clippy.toml does not refuse {path}"));
            }
        }
    }
    let sources = sources();
    for path in &sources {
        source(path, &mut faults);
    }
    documents(&mut faults);
    seeds(&mut faults);
    let names = tests_are_there(&sources, &mut faults);
    if faults.is_empty() {
        Ok(format!(
            "{} source files, {} crates, {names} documents whose tests are there",
            sources.len(),
            ARROWS.len()
        ))
    } else {
        Err(faults.join("\n            "))
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn arrows(name: &str, allowed: &[&str], faults: &mut Vec<String>) {
    let manifest = read(&root().join(format!("crates/{name}/Cargo.toml")));
    if manifest.is_empty() {
        faults.push(format!("crates/{name}/Cargo.toml cannot be read"));
    }
    let mut test_only = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            test_only = line.contains("dev-dependencies");
        }
        let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let of_the_house = used.starts_with("gose") && used != name;
        if of_the_house && !test_only && !allowed.contains(&used) {
            faults.push(format!("{name} uses {used}: that arrow goes up"));
        }
        if used == "gose-testkit" && !test_only {
            faults.push(format!("{name} uses gose-testkit outside its tests"));
        }
        if PURE.contains(&name) && !test_only && IMPURE.contains(&used) {
            faults.push(format!("{name} uses {used}: the crate would not be pure"));
        }
        if used == "tokio" && !test_only && !matches!(name, "gosed" | "gose-bench") {
            faults.push(format!("{name} uses tokio: only gosed and gose-bench may"));
        }
    }
}

fn crates_are_known(faults: &mut Vec<String>) {
    for entry in fs::read_dir(root().join("crates"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ARROWS.iter().all(|(known, _)| *known != name) {
            faults.push(format!(
                "crates/{name} is not in xtask's list of crates and arrows"
            ));
        }
        // A crate with a file of unsafe code denies it, so that the file can allow it; others forbid it.
        let interface = UNSAFE
            .iter()
            .any(|file| file.starts_with(&format!("{name}/")));
        let lint = if interface {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        let has_root = ["src/lib.rs", "src/main.rs"]
            .iter()
            .any(|root_file| read(&entry.path().join(root_file)).contains(lint));
        if !has_root {
            faults.push(format!("crates/{name} does not forbid unsafe code"));
        }
    }
}

fn sources() -> Vec<PathBuf> {
    files("rs")
}

/// Files of the crates and of the fuzz targets with this extension.
fn files(wanted: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("fuzz/fuzz_targets")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == wanted)
            {
                found.push(path);
            }
        }
    }
    found
}

fn source(path: &Path, faults: &mut Vec<String>) {
    let shown = path.display().to_string();
    let interface = UNSAFE.iter().any(|part| shown.contains(part));
    let lets_in = LETS_IN.iter().any(|file| path.ends_with(file));
    let mut allowances = 0;
    for (number, line) in read(path).lines().enumerate() {
        allowances += usize::from(line.contains("allow(unsafe_code)"));
        if line.contains("allow(unsafe_code)") && !interface && !(lets_in && allowances == 1) {
            faults.push(format!(
                "{}:{}: allows unsafe code",
                path.display(),
                number + 1
            ));
        }
        // A program that other tests start has no other way to be none of the tests itself.
        let program = line.contains("#[ignore = \"the program of");
        for word in UNDONE {
            if line.contains(word) && !program {
                faults.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
}

/// Documents that say which test shows a thing: their number.
fn tests_are_there(sources: &[PathBuf], faults: &mut Vec<String>) -> usize {
    const DOCUMENTS: [&str; 3] = ["docs/lessons.md", "docs/eap-card.md", "docs/reliability.md"];
    let transcripts = files("txt");
    let files: Vec<File> = sources
        .iter()
        .chain(&transcripts)
        .map(|path| File {
            path: path.display().to_string(),
            text: read(path),
        })
        .collect();
    for document in DOCUMENTS {
        let text = read(&root().join(document));
        if text.is_empty() {
            faults.push(format!("{document} is missing"));
        }
        faults.extend(names::faults(document, &text, &files));
    }
    DOCUMENTS.len()
}

/// Every path of this repository that a document names in backquotes exists.
fn documents(faults: &mut Vec<String>) {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        let text = read(&root().join(document));
        if text.is_empty() {
            faults.push(format!("{document} is missing"));
        }
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = [
                "crates/",
                "docs/",
                "fuzz/",
                "xtask/",
                "interop/",
                "examples/",
            ]
            .iter()
            .any(|folder| quoted.starts_with(folder));
            let plain = !quoted.contains([' ', '*', '<', '{']);
            if is_path && plain && !root().join(quoted.trim_end_matches('/')).exists() {
                faults.push(format!("{document} names {quoted}, which is not there"));
            }
        }
    }
}

/// Every fuzz target begins with inputs that mean something to it.
fn seeds(faults: &mut Vec<String>) {
    let manifest = read(&root().join("fuzz/Cargo.toml"));
    let targets: Vec<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|bin| bin.split("name = \"").nth(1)?.split('"').next())
        .collect();
    if targets.is_empty() {
        faults.push("fuzz/Cargo.toml names no target".into());
    }
    for target in targets {
        let corpus = root().join("fuzz/corpus").join(target);
        let some = fs::read_dir(&corpus).is_ok_and(|mut seeds| {
            seeds.any(|seed| {
                seed.and_then(|seed| seed.metadata())
                    .is_ok_and(|seed| seed.is_file() && seed.len() > 0)
            })
        });
        if !some {
            faults.push(format!("fuzz/corpus/{target} has no seed"));
        }
    }
}
