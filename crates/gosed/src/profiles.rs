//! `gosed profiles`: the cards that software elements can imitate.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use gose_card::timing::Profile;

/// Prints the list, or everything about one profile.
#[must_use]
pub fn print(name: Option<&str>) -> ExitCode {
    let Some(name) = name else {
        print!("{}", list());
        return ExitCode::SUCCESS;
    };
    match Profile::named(name) {
        Some(profile) => {
            print!("{}", prices(profile));
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("gosed: no profile is called {name}; `gosed profiles` lists them");
            ExitCode::FAILURE
        }
    }
}

fn list() -> String {
    let mut text = format!(
        "{:14} {:>12} {:>12} {:>12} {:>12}  card\n",
        "profile", "RSA-2048 ms", "P-256 sign", "P-256 verify", "I/O ms/byte"
    );
    for profile in Profile::all() {
        let _ = writeln!(
            text,
            "{:14} {:>12} {:>12} {:>12} {:>12}  {}",
            profile.name,
            ms(profile.rsa_private),
            ms(profile.ecdsa_sign),
            ms(profile.ecdsa_verify),
            ms(profile.io_byte),
            profile.card
        );
    }
    text
}

fn prices(profile: &Profile) -> String {
    let rows = [
        ("RSA-2048, private key", profile.rsa_private),
        ("RSA-2048, public key", profile.rsa_public),
        ("RSA-2048 key pair", profile.rsa_generate),
        ("ECDSA P-256, signature", profile.ecdsa_sign),
        ("ECDSA P-256, verification", profile.ecdsa_verify),
        ("ECDH P-256", profile.ec_agree),
        ("ephemeral key pair", profile.ec_ephemeral),
        ("P-256 key pair", profile.key_generate),
        ("hash: 64 bytes", profile.hash_block),
        ("hash: begin and end", profile.hash_message),
        ("cipher: a byte", profile.cipher_byte),
        ("cipher: begin and end", profile.cipher_message),
        ("cipher: a new key", profile.cipher_key),
        ("a byte of an APDU", profile.io_byte),
    ];
    let mut text = format!("{}: {}\n", profile.name, profile.card);
    for (what, price) in rows {
        let _ = writeln!(text, "  {what:26} {:>12} ms", ms(price));
    }
    text.push_str("where nobody measured:\n");
    for substitute in profile.substitutes.iter() {
        let _ = writeln!(text, "  {}: {}", substitute.figure, substitute.instead);
    }
    text
}

fn ms(time: Duration) -> String {
    let text = format!("{:.4}", time.as_secs_f64() * 1000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_listed_and_says_what_was_not_measured() {
        let list = list();
        for profile in Profile::all() {
            assert!(list.contains(profile.name) && list.contains(profile.card));
            assert!(prices(profile).contains("where nobody measured"));
        }
        assert!(
            prices(Profile::named("j3r180").unwrap_or(&Profile::PAPER_2014)).contains("31.96 ms")
        );
    }
}
