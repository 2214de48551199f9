//! `gose racs FILE`: request lines in, answers out.

use std::{io::Read, path::PathBuf};

use clap::Args as Flags;
use gose_client::{Connection, Error};
use gose_proto::racs::{Line, Request, Response};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{Failure, Output, node::Node};

/// The flags.
#[derive(Flags)]
pub(crate) struct Args {
    #[command(flatten)]
    node: Node,
    /// Requests as RACS has them, from BEGIN to END; blank lines and lines that begin with # are
    /// skipped; - reads standard input
    file: PathBuf,
}

/// A response.
#[derive(Serialize)]
struct Answer {
    id: Option<String>,
    ok: bool,
    statuses: Vec<Status>,
}

#[derive(Serialize)]
struct Status {
    code: String,
    line: u16,
    text: String,
}

impl Args {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let text = self.read()?;
        let requests = parse(&text)?;
        let mut connection = self.node.connect()?;
        let mut answers = Vec::with_capacity(requests.len());
        let outcome = ask_all(&mut connection, requests, &mut answers);
        output.result(&answers, |answers| {
            answers.iter().map(Answer::text).collect()
        })?;
        outcome?;
        match answers.iter().position(|answer| !answer.ok) {
            None => Ok(()),
            Some(at) => Err(Failure::Remote(format!(
                "request {} was answered with an error",
                at + 1
            ))),
        }
    }

    fn read(&self) -> Result<Zeroizing<String>, Failure> {
        let mut text = Zeroizing::new(String::new());
        let outcome = if self.file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map(|_| ())
        } else {
            std::fs::read_to_string(&self.file).map(|read| *text = read)
        };
        outcome.map_err(|error| Failure::local(format!("{}: {error}", self.file.display())))?;
        Ok(text)
    }
}

/// All requests of a transcript; nothing is sent before the whole of it was read.
fn parse(text: &str) -> Result<Vec<Request>, Failure> {
    let mut requests = Vec::new();
    let mut open: Option<Request> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: String| Failure::local(format!("line {number}: {what}"));
        let parsed = Line::parse(line.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        open = match (parsed, open) {
            (Line::Begin(None), None) => Some(Request::new()),
            (Line::Begin(Some(id)), None) => {
                Some(Request::with_id(id).map_err(|error| wrong(error.to_string()))?)
            }
            (Line::End, Some(request)) => {
                requests.push(request);
                None
            }
            (Line::Command(..), Some(mut request)) => {
                request
                    .text(line)
                    .map_err(|error| wrong(error.to_string()))?;
                Some(request)
            }
            (Line::Begin(_), Some(_)) => return Err(wrong("BEGIN inside a request".into())),
            (_, None) => return Err(wrong("expecting BEGIN".into())),
        };
    }
    match open {
        Some(_) => Err(Failure::local("the last request has no END")),
        None => Ok(requests),
    }
}

fn ask_all(
    connection: &mut Connection,
    requests: Vec<Request>,
    answers: &mut Vec<Answer>,
) -> Result<(), Error> {
    for request in requests {
        let response = connection.ask(request)?;
        answers.push(Answer::new(&response));
    }
    Ok(())
}

impl Answer {
    fn new(response: &Response) -> Self {
        let status = |status: &gose_proto::racs::Status| Status {
            code: status.code.to_string(),
            line: status.line,
            text: String::clone(&status.text),
        };
        Self {
            id: response.id().map(str::to_owned),
            ok: response.decide().is_ok(),
            statuses: response.statuses().iter().map(status).collect(),
        }
    }

    /// The response as it came.
    fn text(&self) -> String {
        let mut text = String::from("BEGIN");
        if let Some(id) = &self.id {
            text.push(' ');
            text.push_str(id);
        }
        for Status {
            code,
            line,
            text: words,
        } in &self.statuses
        {
            let space = if words.is_empty() { "" } else { " " };
            text.push_str(&format!("\n{code} {line:03}{space}{words}"));
        }
        text.push_str("\nEND\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcripts() {
        let check = |text: &str, expected: Result<usize, &str>| {
            let told = parse(text).map(|requests| requests.len());
            assert_eq!(
                told.map_err(|failure| failure.to_string()),
                expected.map_err(str::to_owned)
            );
        };
        check("# nothing\n\n", Ok(0));
        check("BEGIN a\nLIST\nEND\n\nBEGIN\r\nEND\r\n", Ok(2));
        check("LIST\n", Err("line 1: expecting BEGIN"));
        check("BEGIN\nBEGIN\n", Err("line 2: BEGIN inside a request"));
        check("BEGIN\n\nPOWER SE1\nEND\n", Err("line 3: unknown command"));
        check("BEGIN\nLIST\n", Err("the last request has no END"));
    }
}
