//! What cargo can't do: the test command of the README, and checks of the house.
//!
//! `cargo xtask test` runs every stage, cheapest first; `cargo xtask test NAME …` only these;
//! `cargo xtask interop` the stages with foreign judges; `cargo xtask contract` the element contract as a
//! table; `cargo xtask soak` the long forms; `cargo xtask list` names them.
#![forbid(unsafe_code)]

mod demo;
mod fuzz;
mod house;
mod interop;
mod names;
mod stage;
mod tools;

use std::process::ExitCode;

use stage::{Outcome, Stage};

/// Cheapest first: what fails early costs little.
const TEST: &[Stage] = &[
    Stage::new(
        "format",
        "rustfmt leaves every file as it is",
        tools::format,
    ),
    Stage::new(
        "house",
        "crates, arrows, purity and documents are as ARCHITECTURE.md says",
        house::check,
    ),
    Stage::new("lints", "clippy has no warning on any target", tools::lints),
    Stage::new(
        "tests",
        "unit, property, world, script and daemon tests pass",
        tools::tests,
    ),
    Stage::new(
        "docs",
        "every public item is documented, no link is broken",
        tools::docs,
    ),
    Stage::new(
        "demo",
        "the paper's three phases run in separate processes, every attack is refused",
        demo::run,
    ),
    Stage::new(
        "bench",
        "the load generator runs and its figures are sane",
        demo::bench,
    ),
    Stage::new(
        "fuzz",
        "no input of a short run crashes a parser",
        fuzz::short,
    ),
    Stage::new(
        "vpcd",
        "software cards keep the element contract in readers of pcscd, whatever happens to them",
        interop::vpcd,
    ),
    Stage::new(
        "readers",
        "a card that is pulled, mute, slow or lies, and pcscd killed: errors there alone, back in time",
        interop::readers,
    ),
    Stage::new(
        "opensc",
        "stock OpenSC uses a node's elements through gose reader: lists, signs, decrypts, agrees",
        interop::opensc,
    ),
    Stage::new(
        "pyscard",
        "pyscard, and Yubico's library over it, use an element that is plugged into pcscd",
        interop::pyscard,
    ),
    Stage::new(
        "swtpm",
        "keys in a TPM keep the contract; tpm2-tools and openssl agree",
        interop::swtpm,
    ),
    Stage::new(
        "softhsm",
        "keys in an HSM keep the contract; pkcs11-tool and openssl agree",
        interop::softhsm,
    ),
    Stage::new(
        "kinds",
        "one node with elements of all five kinds; openssl verifies what each signs",
        interop::kinds,
    ),
    Stage::new(
        "eapol",
        "eapol_test authenticates to server elements: versions, keys, fragments, resumption, refusals",
        interop::eapol,
    ),
    Stage::new(
        "pool",
        "server elements in software, in a TPM, an HSM, a reader and on another grid; one is pulled in the middle",
        interop::pool,
    ),
    Stage::new(
        "freeradius",
        "client elements authenticate to FreeRADIUS: versions, keys, resumption, refusals",
        interop::freeradius,
    ),
    Stage::new(
        "hostapd",
        "client elements authenticate to hostapd: versions, keys, resumption, refusals",
        interop::hostapd,
    ),
    Stage::new(
        "radsec",
        "radsecproxy carries eapol_test's authentications over TLS; tshark finds nothing malformed",
        interop::radsec,
    ),
    Stage::new(
        "tls",
        "gose tls connect talks to openssl s_server by an element's key: versions, records, resumption, refusals",
        interop::tls,
    ),
    Stage::new(
        "clock",
        "a node whose clock is two hours off lets in nobody whose certificate is not valid; set back, it revives nothing",
        interop::clock,
    ),
    Stage::new(
        "namespaces",
        "guests with a link of their own attach, authenticate, and reach nothing of each other's",
        interop::namespaces,
    ),
    Stage::new(
        "libvirt",
        "guests of libvirt's daemon and QEMU attach from their first boot; nothing starts without a ticket; attacks at virsh and in a guest",
        interop::libvirt,
    ),
    Stage::new(
        "ports",
        "guests behind ports: packets pass when FreeRADIUS or GoSE let a guest in, and none after its session",
        interop::ports,
    ),
    Stage::new(
        "pkcs11",
        "libgose_pkcs11.so serves OpenSC, GnuTLS, OpenSSL, Python, NSS, Java, nginx, ssh; forks, restarts, wrong calls",
        interop::pkcs11,
    ),
    Stage::new(
        "guests",
        "programs of several users share a guest's session: transactions, forks, kills, restarts, pcscd",
        interop::guests,
    ),
    Stage::new(
        "openssh",
        "ssh, sshd and git sign with keys of elements, by gose ssh-agent and the module; docs/guide/openssh.md",
        interop::openssh,
    ),
    Stage::new(
        "nginx",
        "nginx, httpd and stunnel serve with keys of elements, nginx after 100 reloads too; docs/guide/nginx.md",
        interop::nginx,
    ),
    Stage::new(
        "curl",
        "curl, openssl, Java and Python show keys of elements; docs/guide/curl.md",
        interop::curl,
    ),
    Stage::new(
        "capi",
        "a program of C plays the paper's experiment with the ten functions of libgose.so, under valgrind too",
        interop::capi,
    ),
    Stage::new(
        "wpa",
        "wpa_supplicant, hostapd, GoSE: a port really opens; logoff, revocation and time close it",
        interop::wpa,
    ),
    Stage::new(
        "deny",
        "licences, bans and sources of all dependencies are allowed",
        tools::deny,
    ),
];

const CONTRACT: &[Stage] = &[Stage::new(
    "contract",
    "every kind of element does what an element must do",
    interop::contract,
)];

const SOAK: &[Stage] = &[
    Stage::new(
        "fuzz-long",
        "no input of ten CPU minutes a target crashes a parser",
        fuzz::long,
    ),
    Stage::new(
        "readers-long",
        "the same with a minute of silence: the others' p99 at most 1.2 times what it was",
        interop::readers_long,
    ),
    Stage::new(
        "pkcs11-long",
        "the stage pkcs11 with 1,024 starts of the module",
        interop::pkcs11_long,
    ),
    Stage::new(
        "contract-long",
        "10,000 operations on every kind of element, 70,000 signatures in one session of an HSM",
        interop::contract_long,
    ),
    Stage::new(
        "kill",
        "1,000 kills at random points lose no acknowledged write and gain no PIN try",
        tools::kill,
    ),
    Stage::new(
        "disk",
        "an error at every system call on an image leaves the state before or after, never between",
        tools::disk,
    ),
    Stage::new(
        "endurance",
        "a million APDUs, a thousand slow connections, 100,000 bad handshakes: memory, descriptors and honest peers' p99",
        tools::endurance,
    ),
    Stage::new(
        "steady",
        "half an hour at 70 % of what a node can: no error, no drift, no growth, nothing left open",
        tools::steady,
    ),
    Stage::new(
        "timing",
        "100,000 samples show no time that depends on a PIN, an authenticator, an RSA block or a nonce",
        tools::timing,
    ),
];

/// Stages that run when they are named, not with the others: they bring a machine of their own.
const BY_NAME: &[Stage] = &[Stage::new(
    "xen",
    "two guests on a real Xen under QEMU: created, attached, three phases; what root in one, and somebody at xl, try",
    interop::xen,
)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test", names @ ..] => run(TEST, names),
        ["soak", names @ ..] => run(SOAK, names),
        ["interop"] => run(TEST, interop::NAMES),
        ["interop", name] if BY_NAME.iter().any(|stage| stage.name == *name) => {
            run(BY_NAME, &[name])
        }
        ["interop", names @ ..] => run(TEST, names),
        ["contract"] => run(CONTRACT, &[]),
        ["list"] => {
            for (command, stages) in [("test", TEST), ("interop", BY_NAME), ("soak", SOAK)] {
                for stage in stages {
                    println!("{command} {:10} {}", stage.name, stage.proves);
                }
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "usage: cargo xtask test [STAGE …] | interop [STAGE …] | contract | soak [STAGE …] | list"
            );
            ExitCode::from(1)
        }
    }
}

fn run(stages: &[Stage], names: &[&str]) -> ExitCode {
    if let Some(unknown) = names
        .iter()
        .find(|name| stages.iter().all(|stage| stage.name != **name))
    {
        eprintln!("no stage is called {unknown}; `cargo xtask list` names them");
        return ExitCode::from(1);
    }
    let outcomes: Vec<Outcome> = stages
        .iter()
        .filter(|stage| names.is_empty() || names.contains(&stage.name))
        .map(Stage::run)
        .collect();
    stage::report(&outcomes)
}
