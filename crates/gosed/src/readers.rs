//! `gosed readers`: what pcscd has, in the words of a slot's configuration.

use std::process::ExitCode;

use gose_backend::pcsc::{self, CardSerial, Selector};
use serde_json::json;

/// Prints a line a reader and what its card says of itself.
#[must_use]
pub fn print(as_json: bool) -> ExitCode {
    let readers = match pcsc::readers() {
        Ok(readers) => readers,
        Err(error) => {
            eprintln!("gosed: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut rows = Vec::new();
    for reader in readers {
        let asked = reader
            .atr
            .as_ref()
            .map(|_| pcsc::card_serials(&reader.name));
        let (cards, trouble) = match asked {
            Some(Ok(told)) => (told.iter().map(CardSerial::to_string).collect(), None),
            Some(Err(error)) => (Vec::new(), Some(error.to_string())),
            None => (Vec::new(), None),
        };
        if as_json {
            rows.push(json!({
                "name": reader.name,
                "reader": Selector::pattern(&reader.name),
                "atr": reader.atr.as_ref().map(ToString::to_string),
                "card": cards,
                "error": trouble,
            }));
            continue;
        }
        println!("reader = '{}'", Selector::pattern(&reader.name));
        if let Some(atr) = &reader.atr {
            println!("    atr = \"{atr}\"");
        }
        for card in cards {
            println!("    card = \"{card}\"");
        }
        if let Some(trouble) = trouble {
            println!("    (the card was not asked: {trouble})");
        }
    }
    if as_json {
        println!("{}", json!(rows));
    }
    ExitCode::SUCCESS
}
