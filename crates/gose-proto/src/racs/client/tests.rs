use proptest::prelude::*;

use super::{
    super::{Verb, script::Step},
    *,
};

fn ask(id: Option<&str>) -> Client {
    let mut client = Client::new();
    let request = id.map_or_else(Request::new, |id| Request::with_id(id).unwrap());
    let _ = client.send(request);
    client
}

fn check(id: Option<&str>, bytes: &str, expected: Result<&[&str], ProtocolError>) {
    let mut client = ask(id);
    client.receive(bytes.as_bytes());
    let told = client.poll().map(|response| {
        let statuses = response.expect("whole").statuses;
        let line = |s: Status| format!("{} {} {}", s.code, s.line, *s.text);
        statuses.into_iter().map(line).collect::<Vec<_>>()
    });
    let expected = expected.map(|lines| lines.iter().map(ToString::to_string).collect());
    assert_eq!(told, expected, "{bytes:?}");
}

#[test]
fn responses() {
    check(
        None,
        "BEGIN\r\n+001 000 ready\r\nEND\r\n",
        Ok(&["+001 0 ready"]),
    );
    // The reference server prints trailing spaces; lines may end in LF alone.
    check(
        None,
        "BEGIN \n+004 001 SE1 SE2 \nEND \n",
        Ok(&["+004 1 SE1 SE2"]),
    );
    check(
        Some("q"),
        "BEGIN q\r\n+006 012\r\n-706 013 x\r\nEND\r\n",
        Ok(&["+006 12 ", "-706 13 x"]),
    );
    check(
        Some("q"),
        "BEGIN\r\n-302 000 id\r\nEND\r\n",
        Ok(&["-302 0 id"]),
    );
    check(
        Some("q"),
        "BEGIN\r\n+001 000\r\nEND\r\n",
        Err(ProtocolError::WrongId),
    );
    check(Some("q"), "BEGIN r\r\n", Err(ProtocolError::WrongId));
    check(None, "BEGIN r\r\n", Err(ProtocolError::WrongId));
    check(None, "BEGIN\r\nEND\r\n", Err(ProtocolError::Empty));
    for bad in ["+001 000 x", "HTTP/1.1 400", "BEGINNING"] {
        check(
            None,
            &format!("{bad}\r\n"),
            Err(ProtocolError::Syntax(bad.into())),
        );
    }
    for bad in [
        "+001",
        "+001 00",
        "+001 000x",
        "*001 000",
        "BEGIN",
        "+0x1 000",
    ] {
        let bytes = format!("BEGIN\r\n{bad}\r\n");
        check(None, &bytes, Err(ProtocolError::Syntax(bad.into())));
    }
}

#[test]
fn only_what_was_asked() {
    let mut client = ask(None);
    client.receive(b"BEGIN\n+001 000\nEND\nB");
    assert!(client.poll().unwrap().is_some());
    assert_eq!(client.poll(), Err(ProtocolError::Unsolicited));
    let mut client = ask(None);
    client.receive(&vec![b'x'; MAX_RESPONSE + 2]);
    assert_eq!(client.poll(), Err(ProtocolError::TooLong));
    let mut client = ask(None);
    client.receive(b"BEGIN\n");
    client.receive("+009 001 x\n".repeat(MAX_STATUSES + 1).as_bytes());
    assert_eq!(client.poll(), Err(ProtocolError::TooLong));
}

fn outcomes(bytes: &str) -> String {
    let mut client = ask(None);
    client.receive(format!("BEGIN\n{bytes}END\n").as_bytes());
    let response = client.poll().unwrap().expect("whole");
    let script = Script::new(vec![Step::new([0; 4]); 3]);
    // POWERON was line 1.
    let (done, failed) = response.outcomes(2, &script);
    let done = done.iter().map(|outcome| match outcome {
        Some(o) => format!(
            "{}{}{}",
            hex::encode(&o.body),
            o.sw,
            if o.expected { "" } else { "!" }
        ),
        None => "?".into(),
    });
    format!("{} {failed:?}", done.collect::<Vec<_>>().join(" "))
}

#[test]
fn scripts_are_read_by_line_numbers() {
    let check = |bytes: &str, expected: &str| assert_eq!(outcomes(bytes), expected, "{bytes}");
    check("+006 004 AA9000\n", "? ? AA9000 None");
    check(
        "+006 002 9000\n+006 003 6A82\n+006 004 9000\n",
        "9000 6A82 9000 None",
    );
    check(
        "+006 002 9000\n-006 003 wrong status 6A82\n",
        "9000 6A82! None",
    );
    check("-006 003 wrong SW\n", "? 6F00! None");
    check("-806 003 the element is mute\n", "? Some(Mute)");
    check("-806 002 something\n", " Some(Transport)");
    check("-706 002 in use by another session\n", " Some(InUse)");
    check(
        "-608 001 unknown or unauthorised SEID\n",
        " Some(Unauthorised)",
    );
    // A later line failed: all of the script ran.
    check("+006 002 9000\n-607 005 no\n", "9000 ? ? None");
}

#[test]
fn answers_to_reset() {
    let status = |text: &str| Status {
        code: Code::success(Verb::POWERON),
        line: 1,
        text: Zeroizing::new(text.into()),
    };
    assert_eq!(status("SE1 powered on ATR=3B00").atr(), Some(vec![0x3B, 0]));
    assert_eq!(status("device#45 powered on").atr(), None);
    assert_eq!(status("ATR=3B0").atr(), None);
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut client = ask(Some("q"));
        client.receive(&bytes);
        let _ = client.poll();
    }

    #[test]
    fn any_status_text_does_not_panic(text in "[ -~]{0,60}", line in 0u16..6) {
        let _ = outcomes(&format!("+006 {line:03} {text}\n"));
        let _ = list::expand(&text);
    }
}
