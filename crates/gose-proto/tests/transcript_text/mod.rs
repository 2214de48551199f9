//! How lines of transcripts are written.

use gose_proto::hex;

/// Writes `{x*3}` out.
pub(crate) fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').expect("closing brace");
        let (what, times) = inside.rsplit_once('*').expect("{what*times}");
        out.push_str(before);
        out.push_str(&what.repeat(times.parse().expect("a number")));
        rest = after;
    }
    out + rest
}

/// A line as bytes: `\xNN` is a byte, a final `\` leaves the line end out.
pub(crate) fn line(text: &str) -> Vec<u8> {
    let text = expand(text);
    let (text, end): (&str, &[u8]) = match text.strip_suffix('\\') {
        Some(text) => (text, b""),
        None => (&text, b"\r\n"),
    };
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.extend(hex::decode(&part[..2]).expect("\\xNN"));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes.extend_from_slice(end);
    bytes
}
