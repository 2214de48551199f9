//! Tries of a PIN: a guess that was answered has cost its try, and a cut gives none back. The counter is written
//! before the comparison, so a cut between the two costs a try as well.

use gose_client::RemoteElement;
use gose_element::drive::{
    piv::{Piv, PivError},
    provision::Secrets,
};

use crate::{Gone, Writer, daemon::Place, keys::answer, number::Numbers};

/// What the PIN has after it was told.
const LIMIT: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Right,
    Wrong,
    /// By the PUK, once a cut has cost the last try.
    Unblock,
}

pub(crate) struct Tries {
    secrets: Secrets,
    numbers: Numbers,
    left: u8,
    under_way: Option<Write>,
    acknowledged: u64,
    cut: (u64, u64),
}

impl Tries {
    pub(crate) fn new(place: &Place) -> Self {
        Self {
            secrets: place.initialised("TRIES"),
            numbers: Numbers::new(1),
            left: LIMIT,
            under_way: None,
            acknowledged: 0,
            cut: (0, 0),
        }
    }

    fn guess(&self, element: &mut RemoteElement, guess: Write) -> Result<u8, PivError> {
        let mut pin = *self.secrets.piv_pin;
        if guess == Write::Wrong {
            pin[7] = b'0' + (pin[7] - b'0' + 1) % 10;
        }
        match (Piv::open(element).verify(&pin), guess) {
            (Ok(()), Write::Right) => Ok(LIMIT),
            (Err(PivError::WrongPin { tries }), Write::Wrong) => Ok(tries),
            (Err(PivError::PinBlocked), Write::Wrong) => Ok(0),
            (Err(error), _) => Err(error),
            (Ok(()), _) => panic!("a wrong PIN was taken"),
        }
    }

    /// Tries that an element may have after the last guess.
    fn possible(&self) -> Vec<u8> {
        let left = self.left;
        match self.under_way {
            None => vec![left],
            Some(Write::Wrong) => vec![left, left - 1],
            Some(Write::Right) => vec![left, left - 1, LIMIT],
            Some(Write::Unblock) => vec![left, LIMIT],
        }
    }
}

impl Writer for Tries {
    fn check(&mut self, place: &Place) -> Result<(), Gone> {
        let mut element = place.element("TRIES")?;
        let mut piv = Piv::open(&mut element);
        let tries = answer(piv.pin_tries())?.expect("nobody told the PIN");
        let possible = self.possible();
        assert!(
            possible.contains(&tries),
            "{tries} tries, {possible:?} are possible after {:?}",
            self.under_way
        );
        self.cut.1 += u64::from(tries != self.left);
        (self.left, self.under_way) = (tries, None);
        if tries == 0 {
            self.under_way = Some(Write::Unblock);
            let pin = self.secrets.piv_pin.as_slice();
            answer(piv.unblock_pin(&self.secrets.piv_puk, pin))?;
            (self.left, self.under_way) = (LIMIT, None);
        }
        Ok(())
    }

    fn write(&mut self, place: &Place) -> Gone {
        let Ok(mut element) = place.element("TRIES") else {
            return Gone;
        };
        loop {
            let guess = match self.left {
                1 => Write::Right,
                _ if self.numbers.below(2) == 0 => Write::Right,
                _ => Write::Wrong,
            };
            self.under_way = Some(guess);
            match answer(self.guess(&mut element, guess)) {
                Ok(left) => {
                    let expected = match guess {
                        Write::Wrong => self.left - 1,
                        Write::Right | Write::Unblock => LIMIT,
                    };
                    assert_eq!(left, expected, "after {guess:?}");
                    (self.left, self.under_way) = (left, None);
                    self.acknowledged += 1;
                }
                Err(gone) => {
                    self.cut.0 += 1;
                    return gone;
                }
            }
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn cut(&self) -> (u64, u64) {
        self.cut
    }
}
