//! `gose-bench constant`: whether times depend on secrets. Two classes of input in random turns, and Welch's t-test on
//! what they took (Reparaz, Balasch, Verbauwhede: Dude, is my code constant time?).
//!
//! A test of one run proves nothing; it finds what leaks plainly. |t| above 10 is a leak, above 4.5 a suspicion.

mod nonce;
mod welch;

use std::{fmt::Write as _, hint::black_box, time::Instant};

use gose_card::{
    keystore::{Algorithm, KeyStore, PrivateKey, SoftwareKeyStore},
    nvm::Nvm,
    pin::Reference,
};
use gose_proto::radius::authenticator::equal;
use rsa::{BigUint, RsaPublicKey, pkcs8::DecodePublicKey, traits::PublicKeyParts};
use serde_json::{Value, json};

use self::welch::Samples;
use crate::child::Outcome;

/// Above this a test fails.
const LEAK: f64 = 10.0;

/// Runs every test with so many samples and prints what came of it.
pub(crate) fn run(samples: usize, only: Option<&str>, json: bool) -> Outcome<()> {
    type Test = fn(usize) -> Outcome<Samples>;
    let tests: [(&str, &str, Test); 6] = [
        (
            "pin",
            "PIN: a guess wrong in its first digit, and one wrong in its last",
            pins,
        ),
        (
            "authenticator",
            "Message-Authenticator: wrong in its first byte, and in its last",
            authenticators,
        ),
        (
            "rsa-padding",
            "RSA-2048 private operation: ciphertexts of padded messages, and of random ones",
            rsa_padding,
        ),
        (
            "rsa-input",
            "RSA-2048 private operation: one ciphertext, and random ones",
            rsa_input,
        ),
        (
            "ecdsa-nonce",
            "ECDSA P-256: signatures whose nonce is short, and others",
            nonce::short,
        ),
        (
            "control",
            "control: a comparison that stops at the first difference; this one must leak",
            control,
        ),
    ];
    let mut rows = Vec::new();
    let mut leaks = Vec::new();
    for (name, what, test) in tests {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let samples = test(samples)?;
        let t = samples.greatest_t();
        let fails = (t > LEAK) != (name == "control");
        if fails {
            leaks.push(name);
        }
        rows.push(json!({
            "name": name, "what": what, "samples": samples.len(), "t": t,
            "leak": t > LEAK, "as_expected": !fails,
        }));
    }
    print(&rows, json)?;
    if leaks.is_empty() {
        Ok(())
    } else {
        Err(format!("not as it should be: {}", leaks.join(", ")).into())
    }
}

fn print(rows: &[Value], json: bool) -> Outcome<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    let mut text = format!(
        "{:>8} {:>9}   goal: t < {LEAK}, but for the control\n",
        "greatest t", "samples"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:>10.2} {:>9}   {}{}",
            row["t"].as_f64().unwrap_or(f64::NAN),
            row["samples"],
            row["what"].as_str().unwrap_or_default(),
            if row["as_expected"] == true {
                ""
            } else {
                "   <- FAILED"
            },
        );
    }
    print!("{text}");
    Ok(())
}

/// Times one operation a sample, with inputs of two classes in random turns. Inputs are made before the clock runs.
fn measure<I>(
    samples: usize,
    mut input: impl FnMut(bool) -> Outcome<I>,
    mut operation: impl FnMut(I),
) -> Outcome<Samples> {
    let mut coins = Coins::default();
    let mut taken = Samples::default();
    // The first ones warm caches and branch predictors up.
    for count in 0..samples + samples / 10 {
        let class = coins.toss()?;
        let made = black_box(input(class)?);
        let begun = Instant::now();
        operation(made);
        let took = begun.elapsed();
        if count >= samples / 10 {
            taken.add(class, took);
        }
    }
    Ok(taken)
}

/// Random bits.
#[derive(Default)]
struct Coins {
    bytes: Vec<u8>,
}

impl Coins {
    fn toss(&mut self) -> Outcome<bool> {
        if self.bytes.is_empty() {
            self.bytes = random(256)?;
        }
        Ok(self.bytes.pop().unwrap_or_default() & 1 == 1)
    }
}

fn random(length: usize) -> Outcome<Vec<u8>> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system gives no randomness")?;
    Ok(bytes)
}

fn pins(samples: usize) -> Outcome<Samples> {
    const PIN: Reference = Reference("bench/pin");
    let right = *b"73519048";
    let mut wrong = [right; 2];
    wrong[0][0] = b'1';
    wrong[1][7] = b'1';
    let mut nvm = Nvm::default();
    PIN.set(&mut nvm, &right, 255);
    let mut nvm_for = nvm.clone();
    let attempt = move |class: bool| {
        // A full counter each time: its value is no secret, and must not differ between the classes.
        PIN.set(&mut nvm_for, &right, 255);
        PIN.attempt(&mut nvm_for, &wrong[usize::from(class)], 0)
            .map_err(|_| "no attempt".into())
    };
    measure(samples, attempt, |attempt| {
        let compared = black_box(attempt.compare(&mut nvm));
        debug_assert!(compared.is_err());
    })
}

fn authenticators(samples: usize) -> Outcome<Samples> {
    let right: [u8; 16] = random(16)?.try_into().unwrap_or_default();
    let mut wrong = [right; 2];
    wrong[0][0] ^= 1;
    wrong[1][15] ^= 1;
    measure(
        samples,
        |class| Ok(wrong[usize::from(class)]),
        |shown| {
            // Some of them: a single one is shorter than the clock's own noise.
            for _ in 0..32 {
                black_box(equal(black_box(&right), black_box(&shown)));
            }
        },
    )
}

/// What must be found, or the test finds nothing.
fn control(samples: usize) -> Outcome<Samples> {
    let right = random(64)?;
    let mut wrong = [right.clone(), right.clone()];
    wrong[0][0] ^= 1;
    wrong[1][63] ^= 1;
    measure(
        samples,
        |class| Ok(wrong[usize::from(class)].clone()),
        |shown| {
            for _ in 0..32 {
                let differs = black_box(&right)
                    .iter()
                    .zip(black_box(&shown))
                    .position(|(a, b)| black_box(a) != black_box(b));
                black_box(differs);
            }
        },
    )
}

/// A key, its public half, and a ciphertext of the class. Operations cost milliseconds: a twentieth of the samples of
/// the others is what a run has time for, unless more are asked for.
struct Rsa {
    key: std::sync::Arc<dyn PrivateKey>,
    public: RsaPublicKey,
}

impl Rsa {
    fn new() -> Outcome<Self> {
        let key = SoftwareKeyStore.generate(Algorithm::Rsa2048)?.key;
        let public = RsaPublicKey::from_public_key_der(key.public_key_info())
            .map_err(|error| error.to_string())?;
        Ok(Self { key, public })
    }

    fn encrypt(&self, block: &[u8]) -> Vec<u8> {
        let plain = BigUint::from_bytes_be(block) % self.public.n();
        let sealed = plain.modpow(self.public.e(), self.public.n()).to_bytes_be();
        let mut out = vec![0; 256 - sealed.len()];
        out.extend_from_slice(&sealed);
        out
    }

    /// EME-PKCS1-v1_5 of 48 bytes (RFC 8017, 7.2.1): what TLS 1.2 once sent, and Bleichenbacher asked for.
    fn padded(&self) -> Outcome<Vec<u8>> {
        let mut block = vec![0x00, 0x02];
        block.extend(random(205)?.into_iter().map(|byte| byte.max(1)));
        block.push(0);
        block.extend(random(48)?);
        Ok(self.encrypt(&block))
    }

    fn unpadded(&self) -> Outcome<Vec<u8>> {
        let mut block = random(256)?;
        // Below any modulus of this length, and not two zeros at its head.
        block[0] = 0x40 | (block[0] & 0x3F);
        Ok(self.encrypt(&block))
    }

    fn decrypt(&self, block: &[u8]) {
        let opened = black_box(self.key.rsa_raw(block));
        debug_assert!(opened.is_ok());
    }
}

fn rsa_padding(samples: usize) -> Outcome<Samples> {
    let rsa = Rsa::new()?;
    let input = |class: bool| if class { rsa.padded() } else { rsa.unpadded() };
    measure(samples, input, |block| rsa.decrypt(&block))
}

fn rsa_input(samples: usize) -> Outcome<Samples> {
    let rsa = Rsa::new()?;
    let fixed = rsa.unpadded()?;
    let input = |class: bool| match class {
        true => rsa.unpadded().map(|_| fixed.clone()),
        false => rsa.unpadded(),
    };
    measure(samples, input, |block| rsa.decrypt(&block))
}
