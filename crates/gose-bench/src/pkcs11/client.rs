//! One client: a process that loads a module and signs for a while.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass},
    session::UserType,
    types::AuthPin,
};
use serde_json::{Value, json};

use super::peers::Peer;
use crate::child::Outcome;

/// Which key signs.
#[derive(Clone, Copy)]
pub(super) enum Key {
    P256,
    Rsa2048,
}

impl Key {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::Rsa2048 => "rsa2048",
        }
    }

    fn kind(self) -> KeyType {
        match self {
            Self::P256 => KeyType::EC,
            Self::Rsa2048 => KeyType::RSA,
        }
    }
}

/// How fast clients were.
pub(super) struct Rate {
    /// Microseconds of each signature.
    times: Vec<u32>,
    seconds: f64,
}

impl Rate {
    /// Several rounds together.
    pub(super) fn all(rounds: Vec<Self>) -> Self {
        let mut whole = Self {
            times: Vec::new(),
            seconds: 0.0,
        };
        for mut round in rounds {
            whole.times.append(&mut round.times);
            whole.seconds += round.seconds;
        }
        whole.times.sort_unstable();
        whole
    }

    pub(super) fn json(&self) -> Value {
        let part = |percent: usize| {
            let at = self.times.len() * percent / 100;
            let found = self.times.get(at).or_else(|| self.times.last());
            found.copied().unwrap_or_default()
        };
        json!({
            "per_second": (self.times.len() as f64 / self.seconds).round(),
            "p50_us": part(50),
            "p99_us": part(99),
        })
    }
}

/// Has clients sign at the same time.
pub(super) fn measure(peer: &Peer, key: Key, clients: usize, time: Duration) -> Outcome<Rate> {
    let mut running = Vec::new();
    for number in 0..clients {
        // One after the other: SoftHSM loses its token to those who start at the same time. All are ready before
        // one begins.
        let mut client = Running::start(peer, key, number, time)?;
        client
            .ready()
            .map_err(|error| format!("{}: {error}", peer.name))?;
        running.push(client);
    }
    for client in &mut running {
        client.go()?;
    }
    let mut times = Vec::new();
    for client in running {
        times.extend(client.times()?);
    }
    Ok(Rate {
        times,
        seconds: time.as_secs_f64(),
    })
}

struct Running {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

/// A client that others' failure left behind would go on for ever.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(peer: &Peer, key: Key, number: usize, time: Duration) -> Outcome<Self> {
        let token = peer
            .tokens
            .get(number % peer.tokens.len())
            .ok_or("no token")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("pkcs11-client")
            .arg(&peer.module)
            .args([&token.label, key.name(), &time.as_millis().to_string()])
            .env("GOSE_BENCH_PIN", &token.pin)
            .envs(peer.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        Ok(Self {
            child,
            out: BufReader::new(out),
        })
    }

    fn ready(&mut self) -> Outcome<()> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        if line != "ready\n" {
            return Err("a client did not get ready".into());
        }
        Ok(())
    }

    fn go(&mut self) -> Outcome<()> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        Ok(input.write_all(b"go\n")?)
    }

    fn times(mut self) -> Outcome<Vec<u32>> {
        let mut times = Vec::new();
        for line in (&mut self.out).lines() {
            times.push(line?.parse()?);
        }
        if !self.child.wait()?.success() || times.is_empty() {
            return Err("a client failed".into());
        }
        Ok(times)
    }
}

/// The body of `pkcs11-client`.
pub(crate) fn run(
    module: &std::path::Path,
    label: &str,
    key: &str,
    milliseconds: u64,
) -> Outcome<()> {
    let key = if key == Key::P256.name() {
        Key::P256
    } else {
        Key::Rsa2048
    };
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let mut found = None;
    for slot in context.get_slots_with_token()? {
        if context.get_token_info(slot)?.label() == label {
            found = Some(slot);
        }
    }
    let session = context.open_ro_session(found.ok_or("no such token")?)?;
    let pin = std::env::var("GOSE_BENCH_PIN")?;
    session.login(UserType::User, Some(&AuthPin::new(pin.into())))?;
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(key.kind()),
    ];
    let private = *session.find_objects(&template)?.first().ok_or("no key")?;
    // What a TLS library asks for: a digest, or a DigestInfo.
    let (mechanism, data) = match key {
        Key::P256 => (Mechanism::Ecdsa, vec![7; 32]),
        Key::Rsa2048 => (Mechanism::RsaPkcs, digest_info()),
    };
    session.sign(&mechanism, private, &data)?;
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
    let mut times = Vec::with_capacity(1 << 16);
    while start.elapsed() < time {
        let began = Instant::now();
        session.sign(&mechanism, private, &data)?;
        times.push(u32::try_from(began.elapsed().as_micros())?);
    }
    let mut out = std::io::stdout().lock();
    for time in times {
        writeln!(out, "{time}")?;
    }
    Ok(())
}

/// DigestInfo of some SHA-256 digest.
fn digest_info() -> Vec<u8> {
    const PREFIX: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0D, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20,
    ];
    [PREFIX.as_slice(), &[7; 32]].concat()
}
