//! `gose-eap/1`: EAP packets on a TLS stream, then the stream itself.
//!
//! Length (2, big endian) ‖ EAP packet, lock-step; the server begins with Request/Identity. FFFF in place
//! of a length closes. After EAP-Success there are no frames any more: both directions carry the TLS
//! records of the session that the elements made.

/// Bytes that a packet may have.
pub const MAX_PACKET: usize = 4000;

/// The length field that closes a conversation before EAP-Success.
pub const CLOSE: [u8; 2] = [0xFF, 0xFF];

/// What a length field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A packet of so many bytes follows.
    Packet(usize),
    /// The other end closes the conversation.
    Close,
}

/// Why a frame is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is under 4 or over [`MAX_PACKET`].
    #[error("a frame holds an EAP packet of 4 to 4000 bytes, not {0}")]
    Length(usize),
    /// The packet's own length field (RFC 3748, 4) differs from the frame's.
    #[error("the EAP packet says {said} bytes, the frame has {found}")]
    PacketLength {
        /// In the packet's header.
        said: usize,
        /// In the frame.
        found: usize,
    },
}

/// Reads a length field.
///
/// # Errors
/// [`FrameError::Length`]: the connection is to be closed.
pub fn next(field: [u8; 2]) -> Result<Next, FrameError> {
    if field == CLOSE {
        return Ok(Next::Close);
    }
    let length = usize::from(u16::from_be_bytes(field));
    check_length(length)?;
    Ok(Next::Packet(length))
}

/// The frame of a packet.
///
/// # Errors
/// [`FrameError`] if it is no EAP packet of this length.
pub fn encode(packet: &[u8]) -> Result<Vec<u8>, FrameError> {
    check(packet)?;
    let length = u16::try_from(packet.len()).map_err(|_| FrameError::Length(packet.len()))?;
    Ok([&length.to_be_bytes(), packet].concat())
}

/// Whether a frame's content has the length that its EAP header says.
///
/// # Errors
/// [`FrameError`]: the connection is to be closed.
pub fn check(packet: &[u8]) -> Result<(), FrameError> {
    check_length(packet.len())?;
    let said = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let found = packet.len();
    if said == found {
        Ok(())
    } else {
        Err(FrameError::PacketLength { said, found })
    }
}

fn check_length(length: usize) -> Result<(), FrameError> {
    if (4..=MAX_PACKET).contains(&length) {
        Ok(())
    } else {
        Err(FrameError::Length(length))
    }
}

/// How a packet ends the frames: EAP-Success opens the stream, EAP-Failure closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Records follow.
    Success,
    /// Nothing follows.
    Failure,
}

/// Whether a packet of the server is its last one (RFC 3748, 4.2).
#[must_use]
pub fn end(packet: &[u8]) -> Option<End> {
    match packet.first() {
        Some(3) => Some(End::Success),
        Some(4) => Some(End::Failure),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames() {
        let success = [3, 9, 0, 4];
        assert_eq!(encode(&success).unwrap(), [0, 4, 3, 9, 0, 4]);
        assert_eq!(next([0, 4]), Ok(Next::Packet(4)));
        assert_eq!(next([0x0F, 0xA0]), Ok(Next::Packet(4000)));
        assert_eq!(next(CLOSE), Ok(Next::Close));
        assert_eq!(next([0, 3]), Err(FrameError::Length(3)));
        assert_eq!(next([0x0F, 0xA1]), Err(FrameError::Length(4001)));
        assert_eq!(next([0xFF, 0xFE]), Err(FrameError::Length(0xFFFE)));
        assert_eq!(encode(&[1]), Err(FrameError::Length(1)));
        let liar = FrameError::PacketLength { said: 5, found: 4 };
        assert_eq!(encode(&[1, 1, 0, 5]), Err(liar));
    }

    #[test]
    fn ends() {
        assert_eq!(end(&[3, 1, 0, 4]), Some(End::Success));
        assert_eq!(end(&[4, 1, 0, 4]), Some(End::Failure));
        assert_eq!(end(&[1, 1, 0, 5, 1]), None);
        assert_eq!(end(&[]), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_framed_or_refused(packet in proptest::collection::vec(any::<u8>(), 0..40), honest: bool) {
            let mut packet = packet;
            if honest && packet.len() >= 4 {
                packet[2] = 0;
                packet[3] = u8::try_from(packet.len()).unwrap();
            }
            match encode(&packet) {
                Ok(frame) => {
                    prop_assert_eq!(next([frame[0], frame[1]]), Ok(Next::Packet(packet.len())));
                    prop_assert_eq!(&frame[2..], &packet);
                }
                Err(_) => prop_assert!(check(&packet).is_err()),
            }
        }
    }
}
