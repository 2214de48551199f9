//! What opens and closes a port: the kernel's packet filter, or a program of the administrator's.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Terms, Why, Wire};
use crate::{config::Port, hypervisor::namespace::DEVICES};

/// Time that nft or a hook may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The table of this node.
const TABLE: &str = "inet gose-guests";

/// What opens and closes ports.
pub(in crate::hypervisor) enum Gate {
    /// A set names the links that are open; what comes by another link of a guest reaches the middleware alone.
    Nftables,
    /// This program, with `open` or `close` and the guest's UUID.
    Hook(PathBuf),
}

impl Gate {
    /// As the configuration has it, which names a program for a hook.
    pub(in crate::hypervisor) fn new(port: Port, hook: Option<&PathBuf>) -> Self {
        match (port, hook) {
            (Port::Hook, Some(program)) => Self::Hook(program.clone()),
            (Port::Nftables | Port::Hook, _) => Self::Nftables,
        }
    }

    /// Closes every port, whatever an earlier life of this node has left. A hook is asked when a guest begins.
    pub(super) fn close_all(&self) -> io::Result<()> {
        match self {
            Self::Nftables => nft(&ruleset()),
            Self::Hook(_) => Ok(()),
        }
    }

    pub(super) fn open(&self, wire: &Wire, session: &str, terms: &Terms) -> io::Result<()> {
        match self {
            Self::Nftables => {
                // What the server wants and nobody does would be an open port where a restricted one was meant.
                if *terms != Terms::default() {
                    return Err(io::Error::other(
                        "the server asks for a filter or a VLAN: port = \"hook\" can serve that",
                    ));
                }
                nft(&format!("add element {TABLE} open {{ {} }}\n", link(wire)?))
            }
            Self::Hook(program) => {
                let mut hook = hook(program, "open", wire);
                hook.env("GOSE_SESSION", session);
                let asked = [("GOSE_FILTER", &terms.filter), ("GOSE_VLAN", &terms.vlan)];
                for (name, value) in asked {
                    hook.envs(value.as_ref().map(|value| (name, value)));
                }
                run(hook, "")
            }
        }
    }

    pub(super) fn close(&self, wire: &Wire, why: Why) -> io::Result<()> {
        match self {
            // One transaction, which succeeds whether the element is there or not.
            Self::Nftables => {
                let link = link(wire)?;
                nft(&format!(
                    "add element {TABLE} open {{ {link} }}\ndelete element {TABLE} open {{ {link} }}\n"
                ))
            }
            Self::Hook(program) => {
                let mut hook = hook(program, "close", wire);
                hook.env("GOSE_REASON", why.word());
                run(hook, "")
            }
        }
    }
}

/// The table, with all ports closed: a guest reaches the two ports of the middleware on its own link and nothing else.
fn ruleset() -> String {
    use gose_client::guest::{ATTACH_PORT, SESSION_PORT};
    format!(
        "table {TABLE} {{ }}
delete table {TABLE}
table {TABLE} {{
    set open {{ type ifname; }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname \"{DEVICES}*\" tcp dport {{ {SESSION_PORT}, {ATTACH_PORT} }} accept
        iifname \"{DEVICES}*\" iifname != @open drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname \"{DEVICES}*\" iifname != @open drop
        oifname \"{DEVICES}*\" oifname != @open drop
    }}
}}
"
    )
}

fn link(wire: &Wire) -> io::Result<String> {
    let device = wire.device.as_ref();
    let device = device.ok_or_else(|| io::Error::other("the guest has no link"))?;
    Ok(format!("\"{device}\""))
}

fn nft(script: &str) -> io::Result<()> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stderr(Stdio::piped());
    run(nft, script).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("the program nft is missing: install nftables, or use port = \"hook\"")
        }
        _ => error,
    })
}

/// What it complains of goes where the node's own log goes.
fn hook(program: &PathBuf, verb: &str, wire: &Wire) -> Command {
    let mut hook = Command::new(program);
    hook.arg(verb)
        .arg(wire.vm.to_string())
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(wire.device.as_ref().map(|device| ("GOSE_DEVICE", device)));
    hook
}

/// Runs a program with this input, for [`PATIENCE`] at most.
fn run(mut command: Command, input: &str) -> io::Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    // A program that does not read its input is none the worse for it.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            let mut said = String::new();
            if let Some(stderr) = &mut child.stderr {
                stderr.read_to_string(&mut said)?;
            }
            let first = said.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("{status} {first}")));
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
