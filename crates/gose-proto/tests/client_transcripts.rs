//! RACS responses as text, and how a client reads them: whole, byte by byte and in random pieces.
//!
//! ```text
//! == title                begins a conversation with a new session
//! C: BEGIN q              a request of the client, up to END: it must write these very lines
//! S: +004 001 SE1         a line of the server; as in the server's transcripts, {x*9} and \ too
//! S*9: +009 001 x         nine of them
//! R: -706 001 in use      the client has a whole response, and this status decides on it
//! R: nothing              … has none so far
//! R: error WORDS          … is done with this server
//! L: 003 9000             the text that the client finds for a command line; ? when there is none
//! I: SE1 SE2              the SEIDs in the status that decided
//! A: 3B00                 the answer to reset in it; ? when there is none
//! O: 002 9000 ? failed    what a script of three APDUs came to whose first line was 002: ? is an
//!                         answer that was not told, ! one that CONTINUE did not expect
//! ```

#![allow(clippy::unwrap_used)]
#![expect(clippy::disallowed_methods, reason = "the scripts are files")]

mod transcript_text;

use std::fs;

use gose_proto::{
    hex,
    racs::{
        Client, Request, Response, Status,
        script::{Script, Step},
    },
};
use proptest::prelude::*;
use transcript_text::{expand, line};

type Pieces<'a> = &'a mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>;

/// The client's side of a conversation, line by line.
struct Reader<'a> {
    title: String,
    client: Client,
    /// The lines of the request that is being written.
    request: Vec<String>,
    /// What was received and not polled yet.
    received: Vec<u8>,
    response: Option<Response>,
    pieces: Pieces<'a>,
}

impl Reader<'_> {
    fn row(&mut self, kind: &str, rest: &str) {
        let title = self.title.clone();
        let check = |got: String| assert_eq!(got, expand(rest), "{kind} in: {title}");
        match kind {
            "C" => self.ask(rest),
            "R" => check(self.poll()),
            "L" => {
                let (number, _) = rest.split_once(' ').expect("a line number");
                let status = self.response().line(number.parse().unwrap());
                check(format!(
                    "{number} {}",
                    status.map_or("?", |status| &*status.text)
                ));
            }
            "I" => check(match self.decided().seids() {
                Ok(seids) => {
                    let seids: Vec<&str> = seids.iter().map(|seid| seid.as_str()).collect();
                    seids.join(" ")
                }
                Err(error) => format!("error {error}"),
            }),
            "A" => check(
                self.decided()
                    .atr()
                    .map_or_else(|| "?".into(), |atr| hex::encode(&atr)),
            ),
            "O" => check(self.outcomes(&rest[..3])),
            _ => {
                let times = kind.strip_prefix('S').expect("C, S, R, L, I, A or O");
                let times = times.strip_prefix('*').map_or(1, |n| n.parse().unwrap());
                self.received.extend(line(rest).repeat(times));
            }
        }
    }

    fn response(&self) -> &Response {
        self.response.as_ref().expect("a response before this")
    }

    /// The status that decided.
    fn decided(&self) -> &Status {
        self.response().decide().unwrap().unwrap()
    }

    fn ask(&mut self, row: &str) {
        self.request.push(row.to_owned());
        if row != "END" {
            return;
        }
        let rows = std::mem::take(&mut self.request);
        let mut request = match rows[0].strip_prefix("BEGIN ") {
            Some(id) => Request::with_id(id).unwrap(),
            None => Request::new(),
        };
        for (number, row) in (1..).zip(&rows[1..rows.len() - 1]) {
            assert_eq!(request.text(row), Ok(number), "in: {}", self.title);
        }
        let written = String::from_utf8(self.client.send(request).to_vec()).unwrap();
        assert_eq!(written, rows.join("\r\n") + "\r\n", "in: {}", self.title);
    }

    fn poll(&mut self) -> String {
        let mut polled = self.client.poll();
        for piece in (self.pieces)(&std::mem::take(&mut self.received)) {
            self.client.receive(&piece);
            if polled == Ok(None) {
                polled = self.client.poll();
            }
        }
        match polled {
            Err(error) => format!("error {error}"),
            Ok(None) => "nothing".into(),
            Ok(Some(response)) => {
                let told = match response.decide() {
                    Ok(status) => {
                        let status = status.expect("a status line");
                        format!("{} {:03} {}", status.code, status.line, *status.text)
                    }
                    Err(refusal) => refusal.to_string(),
                };
                self.response = Some(response);
                told
            }
        }
    }

    fn outcomes(&self, first: &str) -> String {
        let script = Script::new(vec![Step::new([0; 4]); 3]);
        let (done, failed) = self.response().outcomes(first.parse().unwrap(), &script);
        let mut words = vec![first.to_owned()];
        words.extend(done.iter().map(|outcome| match outcome {
            Some(o) => {
                let mark = if o.expected { "" } else { "!" };
                format!("{}{}{mark}", hex::encode(&o.body), o.sw)
            }
            None => "?".into(),
        }));
        words.extend(failed.map(|failure| failure.sentence().to_owned()));
        words.join(" ")
    }
}

fn play_all(pieces: Pieces<'_>) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/racs_client");
    let mut conversations = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let mut reader = None;
        for row in text.lines() {
            if row.is_empty() || row.starts_with('#') {
                continue;
            }
            if let Some(title) = row.strip_prefix("== ") {
                conversations += 1;
                reader = Some(Reader {
                    title: format!("{}: {title}", path.display()),
                    client: Client::new(),
                    request: Vec::new(),
                    received: Vec::new(),
                    response: None,
                    pieces: &mut *pieces,
                });
                continue;
            }
            let (kind, rest) = row.split_once(':').expect("KIND: …");
            let reader = reader.as_mut().expect("a title first");
            reader.row(kind, rest.strip_prefix(' ').unwrap_or(rest));
        }
    }
    assert!(conversations > 20, "{conversations}");
}

#[test]
fn whole() {
    play_all(&mut |bytes| vec![bytes.to_vec()]);
}

#[test]
fn byte_by_byte() {
    play_all(&mut |bytes| bytes.iter().map(|&byte| vec![byte]).collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn in_random_pieces(sizes in proptest::collection::vec(1usize..200, 1..40)) {
        let mut sizes = sizes.into_iter().cycle();
        play_all(&mut |mut bytes| {
            let mut pieces = Vec::new();
            while !bytes.is_empty() {
                let size = if bytes.len() > 20_000 { 4096 } else { 0 };
                let size = (size + sizes.next().unwrap_or(1)).min(bytes.len());
                pieces.push(bytes[..size].to_vec());
                bytes = &bytes[size..];
            }
            pieces
        });
    }
}
