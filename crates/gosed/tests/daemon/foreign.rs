//! An element that belongs to others is, to a peer that may not use it, one that does not exist.

use crate::world::{PATIENCE, SELECT, World};

/// An element that exists, and that `bob` may not use.
const FOREIGN: &str = "SE1";
/// One that does not exist, as long as the other.
const NOWHERE: &str = "QX7";

/// Spellings that a client may hope to be taken for this element.
fn aliases(seid: &str) -> Vec<String> {
    let (head, tail) = seid.split_at(seid.len() - 1);
    let mut aliases = vec![
        seid.to_owned(),
        seid.to_ascii_lowercase(),
        format!("{}{}", head[..1].to_ascii_lowercase(), &seid[1..]),
        format!(" {seid}"),
        format!("   {seid}"),
        format!("{seid} "),
        format!("{head} {tail}"),
        head.to_owned(),
        seid[..1].to_owned(),
        format!("{seid}{tail}"),
        format!("{seid}x"),
        format!("{seid}-"),
        format!("{seid}_"),
        format!("{seid}."),
        format!("{seid},SE2"),
        format!("SE2,{seid}"),
        format!("{seid}/../SE2"),
        format!("{seid}*"),
        format!("{head}?"),
        format!("{head}[{tail}]"),
        format!("{head}[{tail}-{tail}]"),
        format!("\"{seid}\""),
        format!("{head}%3{tail}"),
        format!("0{seid}"),
        format!("{head}0{tail}"),
        format!("{seid}{}", "x".repeat(64)),
    ];
    aliases.extend((0..4).map(|n| format!("slot#{n}")));
    aliases.extend((0..4).map(|n| format!("{seid}#{n}")));
    aliases
}

/// Every command that names an element, with every option.
fn commands(alias: &str) -> Vec<String> {
    let verify = "0020008008313233343536FFFF";
    let mut commands = vec![
        format!("LIST {alias}"),
        format!("POWERON {alias}"),
        format!("POWERON {alias} APPEND"),
        format!("SHUTDOWN {alias}"),
        format!("SHUTDOWN {alias} APPEND"),
        format!("RESET {alias}"),
        format!("RESET {alias} WARM"),
        format!("RESET {alias} WARM APPEND"),
        format!("RESET {alias} HOT"),
        format!("SEN {alias} name"),
        format!("GET-SEN {alias}"),
        format!("APDU {alias}"),
        format!("APDU {alias} 00A4"),
    ];
    for apdu in [SELECT, verify, "00200080", "00CB3FFF055C035FC10200"] {
        for options in [
            "",
            " APPEND",
            " CONTINUE=9000",
            " CONTINUE=63C0",
            " CONTINUE=9",
            " MORE=61",
            " FETCH=61",
            " FETCH=C0",
            " MORE=61 FETCH=C0",
            " CONTINUE=9000 MORE=61 FETCH=C0 APPEND",
            " MOST=61",
        ] {
            commands.push(format!("APDU {alias} {apdu}{options}"));
        }
    }
    commands
}

/// A command alone; in a batch after one that works; two requests in one piece, before their answers are read.
fn requests(command: &str) -> [String; 3] {
    [
        format!("BEGIN\r\n{command}\r\nEND\r\n"),
        format!("BEGIN b\r\nPOWERON SE2\r\n{command}\r\nECHO never\r\nEND\r\n"),
        format!("BEGIN 1\r\n{command}\r\nEND\r\nBEGIN 2\r\nECHO last\r\nEND\r\n"),
    ]
}

/// The answers to everything that can be said of an element.
async fn answers(world: &World, seid: &str) -> Vec<(String, String)> {
    let mut client = world.bob().await;
    let mut answers = Vec::new();
    for (place, alias) in aliases(seid).iter().enumerate() {
        for (number, command) in commands(alias).iter().enumerate() {
            for (form, request) in requests(command).iter().enumerate() {
                client.send(request).await;
                let mut answer = client.response().await;
                if form == 2 {
                    answer += &client.response().await;
                    assert!(answer.ends_with("BEGIN 2\r\n+009 001 last\r\nEND\r\n"));
                }
                assert!(!answer.contains("never"), "{command}: {answer}");
                let told = format!("alias {place}, command {number}, form {form}: {command}");
                answers.push((told, answer));
            }
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_of_others_is_as_one_that_does_not_exist() {
    let world = World::small().await;
    let never = answers(&world, NOWHERE).await;
    assert!(never.len() > 5000, "{}", never.len());
    let refused = never.iter().filter(|(_, answer)| answer.contains("-6"));
    assert!(refused.count() > 500, "the matrix reaches the policy");
    let mut alice = world.alice().await;
    let select = format!("APDU SE1 {SELECT} CONTINUE=9000");
    let verify = "APDU SE1 0020008008313233343536FFFF CONTINUE=9000";
    for held in [false, true] {
        if held {
            alice.check(&[&select, verify], "+006 002 9000").await;
        }
        let seen = answers(&world, FOREIGN).await;
        assert_eq!(seen.len(), never.len());
        for ((told, seen), (_, never)) in seen.iter().zip(&never) {
            assert_eq!(seen, never, "held: {held}, {told}");
            assert!(!seen.contains(FOREIGN), "{told}: {seen}");
        }
    }
    let mut bob = world.bob().await;
    bob.check(&["LIST"], "+004 001 SE2").await;
    // Nothing of it reached the element: the lock, the selection and the PIN are as they were.
    bob.check(&["POWERON SE1"], "-608 001…").await;
    tokio::time::timeout(
        PATIENCE,
        alice.check(&["APDU SE1 00200080"], "+006 001 9000"),
    )
    .await
    .unwrap();
}
