//! Bytes that arrived and are not yet a line. Lines carry PINs and keys: what was read is wiped.

use zeroize::Zeroize;

/// Capacity that an empty buffer keeps: an idle session costs little.
const KEPT: usize = 2048;

/// Unread bytes, cut into lines.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// Where the unread bytes begin.
    start: usize,
    /// Unread bytes known to hold no line end.
    scanned: usize,
}

/// The first line of the unread bytes, without its end.
pub(super) struct Peeked<'a> {
    pub line: &'a [u8],
    /// Bytes with the line end.
    pub size: usize,
}

/// More bytes than a line may have, and no line end in them.
#[derive(Debug)]
pub(super) struct TooLong;

impl Input {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            let unread = self.len();
            self.bytes.copy_within(self.start.., 0);
            self.bytes[unread..].fill(0);
            self.bytes.truncate(unread);
            self.start = 0;
        }
        if self.bytes.len() + bytes.len() > self.bytes.capacity() {
            let room = (self.len() + bytes.len()).max(2 * self.bytes.capacity());
            let mut larger = Vec::with_capacity(room);
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The first line if it is whole: up to LF, or CR LF.
    pub(super) fn peek(&mut self, limit: usize) -> Result<Option<Peeked<'_>>, TooLong> {
        let unread = &self.bytes[self.start..];
        let Some(at) = find(&unread[self.scanned..], b'\n') else {
            self.scanned = unread.len();
            // One more may be the CR of a line end.
            return if unread.len() > limit + 1 {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        let end = self.scanned + at;
        self.scanned = end;
        let line = unread[..end].strip_suffix(b"\r").unwrap_or(&unread[..end]);
        if line.len() > limit {
            return Err(TooLong);
        }
        Ok(Some(Peeked {
            line,
            size: end + 1,
        }))
    }

    /// Takes `size` bytes off the front and wipes them.
    pub(super) fn consume(&mut self, size: usize) {
        let end = self.start.saturating_add(size).min(self.bytes.len());
        self.bytes[self.start..end].fill(0);
        self.start = end;
        self.scanned = 0;
        if self.len() == 0 {
            self.start = 0;
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        }
    }

    /// Forgets everything.
    pub(super) fn discard(&mut self) {
        self.consume(usize::MAX);
    }
}

/// Where the first such byte is. Pieces without one are passed over many bytes at once.
pub(super) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    let mut start = 0;
    // What is short is looked at byte by byte: most words and lines are.
    while let Some(piece) = bytes.get(start..start + PIECE) {
        if piece.iter().fold(false, |found, &b| found | (b == wanted)) {
            break;
        }
        start += PIECE;
    }
    let at = bytes[start..].iter().position(|&b| b == wanted)?;
    Some(start + at)
}

/// Bytes that are looked at together.
const PIECE: usize = 64;

impl Drop for Input {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whatever_the_pieces() {
        let mut input = Input::default();
        let mut lines = Vec::new();
        for byte in b"one\r\ntwo\n\r\nfour\r\nrest" {
            input.push(&[*byte]);
            while let Some(Peeked { line, size }) = input.peek(10).unwrap() {
                lines.push(line.to_vec());
                input.consume(size);
            }
        }
        assert_eq!(lines, [&b"one"[..], b"two", b"", b"four"]);
        assert_eq!(input.len(), 4);
    }

    #[test]
    fn the_limit_does_not_count_the_line_end() {
        let check = |bytes: &[u8], fits: bool| {
            let mut input = Input::default();
            input.push(bytes);
            assert_eq!(input.peek(4).is_ok(), fits, "{bytes:?}");
        };
        check(b"1234\r\n", true);
        check(b"1234\r", true);
        check(b"12345", true);
        check(b"12345\n", false);
        check(b"12345\r\n", false);
        check(b"123456", false);
    }
}
