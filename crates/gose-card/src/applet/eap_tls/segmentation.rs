//! Joins the pieces of a Process-EAP payload (draft-urien-eap-smartcard-25, 10; its ETSI form: 9.13.2).

use gose_proto::apdu::StatusWord;
use zeroize::Zeroizing;

use super::command::Target;

/// Bytes of one payload: the greatest EAP packet and the time behind it.
const LIMIT: usize = 65_535 + 4;

/// Pieces that came with P1 bit 0 set.
#[derive(Default)]
pub(super) struct Pieces {
    target: Option<Target>,
    data: Zeroizing<Vec<u8>>,
}

impl Pieces {
    /// Takes a piece; gives the whole payload with its last one. A piece for another target starts anew.
    pub(super) fn take(
        &mut self,
        more: bool,
        target: Target,
        piece: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StatusWord> {
        if self.target.replace(target) != Some(target) {
            self.data = Zeroizing::default();
        }
        if self.data.len() + piece.len() > LIMIT {
            self.clear();
            return Err(StatusWord::NOT_ENOUGH_MEMORY);
        }
        self.data.extend_from_slice(piece);
        let more = match target {
            Target::Implicit { .. } => !is_whole(&self.data),
            Target::Packet { .. } | Target::Encrypt { .. } => more,
        };
        if more {
            return Ok(None);
        }
        self.target = None;
        Ok(Some(std::mem::take(&mut self.data)))
    }

    /// Another command came: the pieces are forgotten.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whether as many bytes came as the EAP Length of the first ones says.
fn is_whole(packet: &[u8]) -> bool {
    match packet {
        [_, _, high, low, ..] => packet.len() >= usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_bounded_and_forgotten() {
        let packet = Target::Packet { handle: 0 };
        let mut pieces = Pieces::default();
        assert_eq!(pieces.take(true, packet, &[1]), Ok(None));
        assert_eq!(
            pieces
                .take(false, packet, &[2])
                .unwrap()
                .unwrap()
                .as_slice(),
            [1, 2]
        );
        assert_eq!(pieces.take(true, packet, &[1]), Ok(None));
        let other = Target::Packet { handle: 1 };
        assert_eq!(
            pieces.take(false, other, &[3]).unwrap().unwrap().as_slice(),
            [3]
        );
        for _ in 0..256 {
            assert_eq!(pieces.take(true, packet, &[0; 255]), Ok(None));
        }
        assert_eq!(pieces.take(true, packet, &[0; 255]), Ok(None));
        assert_eq!(
            pieces.take(true, packet, &[0; 5]),
            Err(StatusWord::NOT_ENOUGH_MEMORY)
        );
        assert_eq!(
            pieces
                .take(false, packet, &[4])
                .unwrap()
                .unwrap()
                .as_slice(),
            [4]
        );
    }

    #[test]
    fn an_implicit_transfer_ends_with_the_length_of_the_packet() {
        let target = Target::Implicit { handle: 0 };
        let mut pieces = Pieces::default();
        let mut take = |piece: &[u8]| {
            let taken = pieces.take(false, target, piece);
            taken.map(|whole| whole.map(|data| data.to_vec()))
        };
        // The length itself may come in two pieces; what lies behind it is OOB data.
        for piece in [&[1, 7][..], &[0], &[6, 13]] {
            assert_eq!(take(piece), Ok(None));
        }
        assert_eq!(
            take(&[0x20, 9, 9]),
            Ok(Some(vec![1, 7, 0, 6, 13, 0x20, 9, 9]))
        );
        // A length under four is no packet, and waits for nothing.
        assert_eq!(take(&[1, 7, 0, 0]), Ok(Some(vec![1, 7, 0, 0])));
        // The longest packet, and more than any.
        assert_eq!(take(&[1, 7, 0xFF, 0xFF]), Ok(None));
        for _ in 0..256 {
            assert_eq!(take(&[0; 255]), Ok(None));
        }
        assert_eq!(take(&[0; 250]), Ok(None));
        assert_eq!(take(&[0; 9]), Err(StatusWord::NOT_ENOUGH_MEMORY));
        assert_eq!(take(&[1, 7, 0, 4]), Ok(Some(vec![1, 7, 0, 4])));
    }
}
