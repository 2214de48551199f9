//! Responses as bytes.

use super::{Code, Seid};
use crate::{apdu::StatusWord, hex};

/// `BEGIN [id]`
pub(super) fn begin(out: &mut Vec<u8>, id: Option<&str>) {
    out.extend_from_slice(b"BEGIN");
    if let Some(id) = id {
        out.push(b' ');
        out.extend_from_slice(id.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A status line with its parameters.
pub(super) fn status(out: &mut Vec<u8>, code: Code, line: u16, parameters: Parameters<'_>) {
    out.extend_from_slice(&code.as_bytes());
    out.push(b' ');
    let digit = |value: u16| b'0' + value.to_le_bytes()[0] % 10;
    out.extend_from_slice(&[
        digit(line / 100 % 10),
        digit(line / 10 % 10),
        digit(line % 10),
    ]);
    parameters.encode(out);
    out.extend_from_slice(b"\r\n");
}

/// `END`
pub(super) fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"END\r\n");
}

/// What stands after the line number.
#[derive(Clone, Copy)]
pub(super) enum Parameters<'a> {
    /// Text as it is.
    Text(&'a str),
    /// Body and status word of an answer.
    Answer(&'a [u8], StatusWord),
    /// A status word that CONTINUE did not expect.
    WrongStatus(StatusWord),
    /// SEIDs.
    Seids(&'a [Seid]),
    /// An element, what was done to it, its answer to reset.
    Done(&'a Seid, &'static str, Option<&'a [u8]>),
}

impl Parameters<'_> {
    fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => word(out, text.as_bytes()),
            Self::Answer(body, sw) => {
                out.push(b' ');
                hex::encode_into(body, out);
                hex::encode_into(&sw.bytes(), out);
            }
            Self::WrongStatus(sw) => {
                word(out, b"wrong status ");
                hex::encode_into(&sw.bytes(), out);
            }
            Self::Seids(seids) => seids.iter().for_each(|seid| word(out, seid.as_bytes())),
            Self::Done(seid, what, atr) => {
                word(out, seid.as_bytes());
                word(out, what.as_bytes());
                if let Some(atr) = atr {
                    word(out, b"ATR=");
                    hex::encode_into(atr, out);
                }
            }
        }
    }
}

fn word(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(word);
}
