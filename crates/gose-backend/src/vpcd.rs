//! An element as the card in a virtual reader of pcscd (vsmartcard's vpcd).

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use gose_element::{Atr, ElementError, SecureElement};
use gose_proto::{
    apdu::{Response, StatusWord},
    vpcd::{Frames, Request, TooLong, before_selection, frame, selects},
};
use zeroize::Zeroizing;

/// pcscd asks for the card's presence several times a second; a reader that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Why a card left its reader.
#[derive(Debug, thiserror::Error)]
pub enum Unplugged {
    /// The reader's driver went away.
    #[error("the virtual reader is gone: {0}")]
    Reader(#[from] io::Error),
    /// The element went away.
    #[error("the element is gone: {0}")]
    Element(ElementError),
}

/// An element in a virtual reader: powered while pcscd wants it, free for others meanwhile.
///
/// pcscd's clients ask a card about itself before they select an application, which a grid refuses. So until
/// the first successful SELECT the reader answers in the card's place, and refusals of the grid become status
/// words.
pub struct Reader<'a> {
    element: &'a mut dyn SecureElement,
    /// Told while the element has no power: pcscd takes a card without ATR for no card.
    atr: Atr,
    powered: bool,
    selected: bool,
}

impl<'a> Reader<'a> {
    /// Powers the element up once, to know its ATR, and down again.
    ///
    /// # Errors
    /// [`ElementError`] of the element.
    pub fn new(element: &'a mut dyn SecureElement) -> Result<Self, ElementError> {
        let atr = element.power_on()?;
        element.power_off();
        Ok(Self {
            element,
            atr,
            powered: false,
            selected: false,
        })
    }

    /// Serves the driver at the other end of `line` until one side goes away.
    pub fn serve(&mut self, line: TcpStream) -> Unplugged {
        let end = match self.serve_line(line) {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.power_off();
        end
    }

    fn serve_line(&mut self, mut line: TcpStream) -> Result<std::convert::Infallible, Unplugged> {
        line.set_nodelay(true)?;
        line.set_read_timeout(Some(SILENCE))?;
        let mut frames = Frames::default();
        let mut buffer = Zeroizing::new([0_u8; 4096]);
        loop {
            while let Some(request) = frames.poll() {
                let answer = self
                    .answer(Request::parse(&request))
                    .map_err(Unplugged::Element)?;
                if let Some(answer) = answer {
                    line.write_all(&answer)?;
                }
            }
            // The driver writes length and content apart and waits for the acknowledgement in between: 40 ms,
            // unless it is sent at once. The kernel forgets the wish, so it is told before each read.
            rustix::net::sockopt::set_tcp_quickack(&line, true).map_err(io::Error::from)?;
            match line.read(buffer.as_mut_slice())? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                len => frames.receive(buffer.get(..len).unwrap_or_default()),
            }
        }
    }

    /// What one request comes to: the frame to send, or that the card leaves the reader.
    fn answer(&mut self, request: Request<'_>) -> Result<Option<Zeroizing<Vec<u8>>>, ElementError> {
        match request {
            Request::PowerOn => self.power(|element| element.power_on())?,
            Request::Reset => self.power(|element| element.reset(true))?,
            Request::PowerOff => self.power_off(),
            Request::Atr => return Ok(Some(framed(self.atr.as_bytes()))),
            Request::Apdu(apdu) => {
                let response = Zeroizing::new(self.transmit(apdu)?.encode());
                return Ok(Some(framed(&response)));
            }
            Request::Unknown => {}
        }
        Ok(None)
    }

    fn power(
        &mut self,
        f: impl FnOnce(&mut dyn SecureElement) -> Result<Atr, ElementError>,
    ) -> Result<(), ElementError> {
        self.selected = false;
        match f(self.element) {
            Ok(atr) => {
                self.atr = atr;
                self.powered = true;
                Ok(())
            }
            // Somebody else has it, or may have it: the card is there and does nothing.
            Err(ElementError::Refused | ElementError::InUse) => {
                self.powered = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn power_off(&mut self) {
        if std::mem::take(&mut self.powered) {
            self.element.power_off();
        }
        self.selected = false;
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        if !self.powered {
            return Ok(StatusWord::CONDITIONS_NOT_SATISFIED.into());
        }
        let selects = selects(apdu);
        if !self.selected && !selects {
            return Ok(before_selection(apdu).into());
        }
        let response = match self.element.transmit(apdu) {
            Ok(response) => response,
            Err(ElementError::Refused) => StatusWord::SECURITY_STATUS_NOT_SATISFIED.into(),
            Err(ElementError::InUse | ElementError::Malformed(_) | ElementError::AnswerTooLong) => {
                StatusWord::INS_NOT_SUPPORTED.into()
            }
            Err(error) => return Err(error),
        };
        self.selected |= selects && response.sw.is_process_completed();
        Ok(response)
    }
}

/// A frame; what is too long for one becomes the status word that says so.
fn framed(content: &[u8]) -> Zeroizing<Vec<u8>> {
    let framed = frame(content)
        .or_else(|TooLong { .. }| frame(&StatusWord::NO_PRECISE_DIAGNOSIS.bytes()))
        .unwrap_or_default();
    Zeroizing::new(framed)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use gose_proto::hex;

    use super::*;

    /// Answers a SELECT with 9000, other instructions by their number, and notes what it was asked.
    #[derive(Default)]
    struct Noting {
        log: Vec<String>,
    }

    impl SecureElement for Noting {
        fn power_on(&mut self) -> Result<Atr, ElementError> {
            self.log.push("on".into());
            Atr::new(&[0x3B, 0x00]).ok_or(ElementError::Mute)
        }
        fn power_off(&mut self) {
            self.log.push("off".into());
        }
        fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
            self.log.push(format!("reset {warm}"));
            Atr::new(&[0x3B, 0x00]).ok_or(ElementError::Mute)
        }
        fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
            self.log.push(hex::encode(apdu));
            match apdu[1] {
                0x06 => Err(ElementError::Refused),
                0x07 => Err(ElementError::InUse),
                0x08 => Err(ElementError::Absent),
                _ => Ok(StatusWord::NORMAL.into()),
            }
        }
    }

    /// Plays the driver: sends frames in two pieces as it does, expects answers, closes.
    fn drive(exchange: &[(&str, &str)]) -> (Vec<String>, Unplugged) {
        let driver = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = driver.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut line, _) = driver.accept().unwrap();
                for (request, answer) in exchange {
                    let request = frame(&hex::decode(request).unwrap()).unwrap();
                    line.write_all(&request[..2]).unwrap();
                    line.write_all(&request[2..]).unwrap();
                    let expected = hex::decode(answer).unwrap();
                    if !expected.is_empty() {
                        let mut got = vec![0; 2 + expected.len()];
                        line.read_exact(&mut got).unwrap();
                        assert_eq!(got[2..], expected, "{request:02X?}");
                    }
                }
            });
            let mut element = Noting::default();
            let end = Reader::new(&mut element)
                .unwrap()
                .serve(TcpStream::connect(address).unwrap());
            (element.log, end)
        })
    }

    #[test]
    fn power_follows_the_reader_and_probes_stay_with_it() {
        let (log, end) = drive(&[
            ("04", "3B00"),
            ("00A40400", "6985"),
            ("01", ""),
            ("00CB3FFF035C017E00", "6A82"),
            ("00FD000003", "6D00"),
            ("00A4040005A000000308", "9000"),
            ("00CB3FFF035C017E00", "9000"),
            ("00060000", "6982"),
            ("00070000", "6D00"),
            ("02", ""),
            ("00CB3FFF035C017E00", "6A82"),
            ("00", ""),
            ("04", "3B00"),
        ]);
        assert!(matches!(end, Unplugged::Reader(_)));
        assert_eq!(
            log,
            [
                "on",
                "off",
                "on",
                "00A4040005A000000308",
                "00CB3FFF035C017E00",
                "00060000",
                "00070000",
                "reset true",
                "off"
            ]
        );
    }

    #[test]
    fn an_element_that_is_gone_leaves_the_reader() {
        let (log, end) = drive(&[
            ("01", ""),
            ("00A4040005A000000308", "9000"),
            ("00080000", ""),
        ]);
        assert!(matches!(end, Unplugged::Element(ElementError::Absent)));
        assert_eq!(log.last().map(String::as_str), Some("off"));
    }
}
