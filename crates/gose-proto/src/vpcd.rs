//! vpcd: a virtual reader's driver and the card in it, over one TCP connection (vsmartcard).
//!
//! Frames both ways: a length of two bytes, then as many bytes. The driver asks, the card answers.

use crate::apdu::CommandRef;

/// The port of a driver's first slot; the next slots follow.
pub const PORT: u16 = 35_963;

/// What the driver asks of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Power down; no answer.
    PowerOff,
    /// Power up; no answer.
    PowerOn,
    /// Warm reset; no answer.
    Reset,
    /// Answer with the ATR: the driver looks whether a card is there.
    Atr,
    /// A command APDU; answer with the response APDU.
    Apdu(&'a [u8]),
    /// Nothing that the protocol knows; no answer.
    Unknown,
}

impl<'a> Request<'a> {
    /// Reads the content of a frame. An APDU has at least four bytes, so that controls of one byte cannot be
    /// taken for one.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Self {
        match frame {
            [0x00] => Self::PowerOff,
            [0x01] => Self::PowerOn,
            [0x02] => Self::Reset,
            [0x04] => Self::Atr,
            [] | [_] => Self::Unknown,
            apdu => Self::Apdu(apdu),
        }
    }

    /// The frame's content.
    #[must_use]
    pub fn encode(self) -> &'a [u8] {
        match self {
            Self::PowerOff => &[0x00],
            Self::PowerOn => &[0x01],
            Self::Reset => &[0x02],
            Self::Atr => &[0x04],
            Self::Apdu(apdu) => apdu,
            Self::Unknown => &[],
        }
    }
}

/// A content does not fit into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a vpcd frame carries at most 65535 bytes, these are {0}")]
pub struct TooLong(usize);

/// The frame of a content, as one piece, since two writes cost the other side 40 ms.
///
/// # Errors
/// [`TooLong`] over 65,535 bytes.
pub fn frame(content: &[u8]) -> Result<Vec<u8>, TooLong> {
    let len = u16::try_from(content.len()).map_err(|_| TooLong(content.len()))?;
    let mut frame = Vec::with_capacity(2 + content.len());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(content);
    Ok(frame)
}

/// Joins bytes of a stream to contents of frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: zeroize::Zeroizing<Vec<u8>>,
}

impl Frames {
    /// Bytes that came from the stream.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The content of the next frame, once it is whole. Frames without content are passed over.
    pub fn poll(&mut self) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        loop {
            let len = usize::from(u16::from_be_bytes(*self.buffer.first_chunk()?));
            let content = self.buffer.get(2..2 + len)?.to_vec();
            self.buffer.drain(..2 + len);
            if len > 0 {
                return Some(content.into());
            }
        }
    }
}

/// Whether a reader whose card has had no application selected sends `apdu` to the card (`true`), or
/// answers it itself with [`before_selection`]. OpenSC asks a card about itself before any SELECT; a grid
/// refuses what is sent to an element without a selected application.
#[must_use]
pub fn selects(apdu: &[u8]) -> bool {
    CommandRef::parse(apdu)
        .is_ok_and(|command| command.cla == 0x00 && command.ins == 0xA4 && command.p1 == 0x04)
}

/// What a reader answers in the place of a card without a selected application: GET DATA finds nothing,
/// nothing else is known.
#[must_use]
pub fn before_selection(apdu: &[u8]) -> crate::apdu::StatusWord {
    match apdu {
        [_, 0xCA | 0xCB, ..] => crate::apdu::StatusWord::FILE_NOT_FOUND,
        _ => crate::apdu::StatusWord::INS_NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apdu::StatusWord;

    #[test]
    fn what_frames_mean() {
        let check = |hex: &str, request: Request<'_>| {
            let bytes = crate::hex::decode(hex).unwrap();
            assert_eq!(Request::parse(&bytes), request, "{hex}");
        };
        check("00", Request::PowerOff);
        check("01", Request::PowerOn);
        check("02", Request::Reset);
        check("04", Request::Atr);
        check("03", Request::Unknown);
        check("", Request::Unknown);
        check("00A40400", Request::Apdu(&[0x00, 0xA4, 0x04, 0x00]));
        assert_eq!(frame(&[4]).unwrap(), [0, 1, 4]);
        assert_eq!(frame(&[0; 65_536]), Err(TooLong(65_536)));
    }

    #[test]
    fn probes_before_select() {
        let check = |hex: &str, sent: bool, sw: StatusWord| {
            let apdu = crate::hex::decode(hex).unwrap();
            assert_eq!(
                (selects(&apdu), before_selection(&apdu)),
                (sent, sw),
                "{hex}"
            );
        };
        check("00CB3FFF035C017E00", false, StatusWord::FILE_NOT_FOUND);
        check("00CA000000", false, StatusWord::FILE_NOT_FOUND);
        check("00FD000003", false, StatusWord::INS_NOT_SUPPORTED);
        check("8000000000", false, StatusWord::INS_NOT_SUPPORTED);
        check("00A4000002", false, StatusWord::INS_NOT_SUPPORTED);
        check("00A4040005A000000308", true, StatusWord::INS_NOT_SUPPORTED);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            cuts in proptest::collection::vec(1usize..40, 1..40),
        ) {
            let stream: Vec<u8> = contents.iter().flat_map(|c| frame(c).unwrap()).collect();
            let mut frames = Frames::default();
            let (mut found, mut rest) = (Vec::new(), stream.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at(rest.len().min(*cut));
                frames.receive(head);
                rest = tail;
                found.extend(std::iter::from_fn(|| frames.poll()).map(|c| c.to_vec()));
            }
            let expected: Vec<Vec<u8>> = contents.into_iter().filter(|c| !c.is_empty()).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut frames = Frames::default();
            frames.receive(&bytes);
            while let Some(content) = frames.poll() {
                let _ = Request::parse(&content);
                let _ = (selects(&content), before_selection(&content));
            }
        }
    }
}
