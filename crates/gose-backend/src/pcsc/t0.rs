//! APDUs by T=0 (ISO/IEC 7816-3:2006, 12.2): what PC/SC leaves to the caller.

use gose_element::{ElementError, Script};
use gose_proto::apdu::{CommandRef, Response};

/// Sends a command by T=0: case 1 with P3 = 00, case 4 without its Le and with GET RESPONSE after it, an
/// extended form as the short one that says the same.
///
/// A command without Le gets its `61xx` as it comes: its sender fetches himself.
///
/// # Errors
/// [`ElementError::Malformed`] for more than 255 data bytes, which T=0 cannot carry without ENVELOPE.
pub(super) fn transmit(
    apdu: &[u8],
    mut send: impl FnMut(&[u8]) -> Result<Response, ElementError>,
) -> Result<Response, ElementError> {
    let command =
        CommandRef::parse(apdu).map_err(|error| ElementError::Malformed(error.to_string()))?;
    let lc = u8::try_from(command.data.len()).map_err(|_| {
        ElementError::Malformed(
            "the card speaks T=0, which carries 255 data bytes; use command chaining".into(),
        )
    })?;
    let mut tpdu = command.header().to_vec();
    if lc == 0 {
        // Case 1 is P3 = 00 as case 2 with Ne = 256 is; the card knows which it is.
        tpdu.push(command.ne.map_or(0, short_le));
        return send(&tpdu);
    }
    tpdu.push(lc);
    tpdu.extend_from_slice(command.data);
    let response = send(&tpdu)?;
    match command.ne {
        Some(ne) => fetch(command.cla, ne, response, send),
        None => Ok(response),
    }
}

fn short_le(ne: u32) -> u8 {
    u8::try_from(ne).unwrap_or(0)
}

/// Collects up to `ne` bytes while the card says 61xx.
fn fetch(
    cla: u8,
    ne: u32,
    first: Response,
    mut send: impl FnMut(&[u8]) -> Result<Response, ElementError>,
) -> Result<Response, ElementError> {
    let mut whole = first;
    let mut rounds = 0;
    while let Some(available) = whole.sw.more_available() {
        let wanted = ne.saturating_sub(u32::try_from(whole.data.len()).unwrap_or(u32::MAX));
        if wanted == 0 {
            break;
        }
        rounds += 1;
        if rounds > Script::MAX_FETCHES {
            return Err(ElementError::AnswerTooLong);
        }
        let le = match available {
            0 => short_le(wanted),
            available => short_le(wanted.min(available.into())),
        };
        let next = send(&[cla & !gose_proto::apdu::chaining::MORE, 0xC0, 0, 0, le])?;
        whole.data.extend_from_slice(&next.data);
        whole.sw = next.sw;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use gose_proto::hex;

    use super::*;

    fn check(apdu: &str, exchange: &[(&str, &str)], answer: &str) {
        let mut exchange = exchange.iter();
        let response = transmit(&hex::decode(apdu).unwrap(), |tpdu| {
            let (sent, answer) = exchange.next().unwrap();
            assert_eq!(hex::encode(tpdu), *sent);
            Ok(Response::parse(&hex::decode(answer).unwrap()).unwrap())
        });
        assert_eq!(hex::encode(&response.unwrap().encode()), answer);
        assert_eq!(exchange.next(), None, "{apdu}");
    }

    #[test]
    fn the_cases_of_the_standard() {
        check("00A40400", &[("00A4040000", "9000")], "9000");
        check(
            "00B0000004",
            &[("00B0000004", "010203049000")],
            "010203049000",
        );
        check("00B00000000000", &[("00B0000000", "6C04")], "6C04");
        check("00A4040002A000", &[("00A4040002A000", "6105")], "6105");
        check(
            "00A4040002A00000",
            &[
                ("00A4040002A000", "6102"),
                ("00C0000002", "0102619F"),
                ("00C000009F", "039000"),
            ],
            "0102039000",
        );
        check(
            "A0A400000000023F000002",
            &[("A0A40000023F00", "6100"), ("A0C0000002", "01026109")],
            "01026109",
        );
    }

    #[test]
    fn what_t0_cannot_carry_is_said() {
        let mut long = vec![0, 0xDB, 0x3F, 0xFF, 0, 1, 0];
        long.resize(7 + 256, 0);
        let refused = transmit(&long, |_| Err(ElementError::Mute));
        assert!(matches!(refused, Err(ElementError::Malformed(_))));
        let endless = transmit(&[0, 0xA4, 4, 0, 1, 0xA0, 0], |_| {
            Ok(Response {
                data: Vec::new(),
                sw: gose_proto::apdu::StatusWord::more(0),
            })
        });
        assert_eq!(endless, Err(ElementError::AnswerTooLong));
    }
}
