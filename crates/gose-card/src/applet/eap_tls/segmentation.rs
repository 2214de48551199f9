//! Joins the pieces of a Process-EAP payload (draft-urien-eap-smartcard-25, 10).

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
}
