use proptest::prelude::*;

use super::*;

fn check(line: &str, expected: Result<Line<'_>, LineError>) {
    assert_eq!(Line::parse(line.as_bytes()), expected, "{line:?}");
}

fn command(command: Command<'_>) -> Result<Line<'_>, LineError> {
    Ok(Line::Command(command, false))
}

fn se1() -> Seid {
    "SE1".parse().unwrap()
}

#[test]
fn frames() {
    check("BEGIN", Ok(Line::Begin(None)));
    check("BEGIN ", Ok(Line::Begin(None)));
    check(
        "BEGIN  Marignan1515  ",
        Ok(Line::Begin(Some("Marignan1515"))),
    );
    check("BEGIN a b", Err(LineError::Begin));
    check("BEGIN APPEND", Err(LineError::Begin));
    check("BEGIN a APPEND", Err(LineError::Begin));
    check(
        &format!("BEGIN {}", "i".repeat(64)),
        Ok(Line::Begin(Some(&"i".repeat(64)))),
    );
    check(
        &format!("BEGIN {}", "i".repeat(65)),
        Err(LineError::IdTooLong),
    );
    check("END", Ok(Line::End));
    check("END  ", Ok(Line::End));
    check("END APPEND", Err(LineError::End));
    check("END now", Err(LineError::End));
    check("begin", Err(LineError::UnknownCommand));
    check("ENDE", Err(LineError::UnknownCommand));
}

#[test]
fn commands() {
    check("GET-VERSION", command(Command::GetVersion));
    check("SET-VERSION 0.2", command(Command::SetVersion("0.2")));
    check("SET-VERSION 10.22", command(Command::SetVersion("10.22")));
    check("LIST   ", command(Command::List));
    check("LIST APPEND", Ok(Line::Command(Command::List, true)));
    check("RESET SE1", command(Command::Reset(se1(), false)));
    check("RESET SE1 WARM", command(Command::Reset(se1(), true)));
    check("SHUTDOWN SE1", command(Command::Shutdown(se1())));
    check("POWERON   SE1", command(Command::PowerOn(se1())));
    check(
        "ECHO APPEND APPEND",
        Ok(Line::Command(Command::Echo("APPEND"), true)),
    );
    check("SEN SE1 name A000", command(Command::Sen));
    check("GET-SEN SE1", command(Command::GetSen));
    check("QUIT", Err(LineError::UnknownCommand));
    check("list", Err(LineError::UnknownCommand));
    check("", Err(LineError::UnknownCommand));
    check(" LIST", Err(LineError::UnknownCommand));
    check("APPEND", Err(LineError::UnknownCommand));
}

#[test]
fn parameters_that_are_wrong() {
    check("SET-VERSION", Err(LineError::Missing(Verb::SET_VERSION)));
    for version in ["1", "1.", ".2", "1.x", "1.2.3", "-1.2"] {
        check(&format!("SET-VERSION {version}"), Err(LineError::Version));
    }
    check("ECHO", Err(LineError::Missing(Verb::ECHO)));
    check("ECHO APPEND", Err(LineError::Missing(Verb::ECHO)));
    check("ECHO a b", Err(LineError::TooMany(Verb::ECHO)));
    check("LIST all", Err(LineError::TooMany(Verb::LIST)));
    check("POWERON", Err(LineError::Missing(Verb::POWERON)));
    check("POWERON S/1", Err(LineError::Seid(Verb::POWERON)));
    check("RESET SE1 HOT", Err(LineError::ResetMode));
    check("RESET SE1 WARM now", Err(LineError::TooMany(Verb::RESET)));
    check("LIST\0", Err(LineError::Byte));
    check("LIST\t", Err(LineError::Byte));
    check("ECHO \u{e9}", Err(LineError::Byte));
    check("LI\rST", Err(LineError::Byte));
}

#[test]
fn apdus() {
    let step = Step::new([0x00, 0xA4, 0x04, 0x00]);
    check(
        "APDU SE1 00a40400",
        command(Command::Apdu(se1(), step.clone())),
    );
    let mut full = step.expect_normal().collect([0xA0, 0xC0, 0, 0]).append();
    for line in [
        "APDU SE1 00A40400 CONTINUE=9000 MORE=61 FETCH=A0C00000 APPEND",
        "APDU SE1 00A40400 FETCH=a0c00000  MORE=61 CONTINUE=9000 APPEND ",
    ] {
        check(
            line,
            Ok(Line::Command(Command::Apdu(se1(), full.clone()), true)),
        );
    }
    full.more = None;
    check(
        "APDU SE1 00A40400 CONTINUE=9000 FETCH=A0C00000 APPEND",
        Ok(Line::Command(Command::Apdu(se1(), full), true)),
    );
    let errors = [
        ("APDU", LineError::Missing(Verb::APDU)),
        ("APDU SE1", LineError::Missing(Verb::APDU)),
        ("APDU SE1 APPEND", LineError::Missing(Verb::APDU)),
        ("APDU SE1 APPEND 00A40400", LineError::Hex),
        ("APDU SE1 00A4040", LineError::Hex),
        ("APDU SE1 0xA40400", LineError::Hex),
        ("APDU SE1 00A404", LineError::Apdu),
        ("APDU SE1 00A4040003A000", LineError::Apdu),
        ("APDU SE1 00A40400 CONTINUE=90", LineError::OptionValue),
        ("APDU SE1 00A40400 MORE=9000", LineError::OptionValue),
        ("APDU SE1 00A40400 FETCH=00C0000000", LineError::OptionValue),
        ("APDU SE1 00A40400 MORE=61 MORE=61", LineError::OptionValue),
        ("APDU SE1 00A40400 MORE", LineError::Option),
        ("APDU SE1 00A40400 more=61", LineError::Option),
        ("APDU SE1 00A40400 APPEND MORE=61", LineError::Option),
        ("APDU SE1 00A40400 00A40400", LineError::Option),
    ];
    for (line, error) in errors {
        check(line, Err(error));
    }
}

#[test]
fn the_longest_apdu() {
    let longest = format!("APDU SE1 00DB3FFF00FFFF{}0000", "00".repeat(65_535));
    assert!(longest.len() < super::super::MAX_LINE);
    assert!(matches!(
        Line::parse(longest.as_bytes()),
        Ok(Line::Command(Command::Apdu(_, step), false)) if step.apdu.len() == MAX_APDU
    ));
    check(&format!("{longest}00"), Err(LineError::Apdu));
}

#[test]
fn batches_are_told_by_their_first_words() {
    let check = |line: &str, yes: bool| {
        assert_eq!(Line::is_apdu_for(line.as_bytes(), &se1()), yes, "{line}");
    };
    check("APDU SE1 00A40400", true);
    check("APDU   SE1 x", true);
    check("APDU SE12 00A40400", false);
    check("APDU SE1", false);
    check("APDUSE1 00", false);
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Line::parse(&line);
    }

    #[test]
    fn any_words_do_not_panic(words in proptest::collection::vec(
        "(APDU|SE1|CONTINUE=|MORE=61|FETCH=00C00000|APPEND|00A40400|RESET|WARM|BEGIN|END|=| )", 0..8)) {
        let line = words.join(" ");
        if let Err(error) = Line::parse(line.as_bytes()) {
            prop_assert!(!error.code().is_success());
        }
    }
}
