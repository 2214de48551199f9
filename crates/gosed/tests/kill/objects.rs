//! A counter in a data object of changing length: it never goes back behind what was answered, and is never half
//! of one value and half of another.

use gose_client::RemoteElement;
use gose_element::drive::{
    piv::{Piv, PivError, Slot},
    provision::Secrets,
};

use crate::{Gone, Writer, daemon::Place, keys::answer, number::Numbers};

pub(crate) struct Objects {
    secrets: Secrets,
    answered: u64,
    under_way: bool,
    cut: (u64, u64),
}

impl Objects {
    pub(crate) fn new(place: &Place) -> Self {
        let objects = Self {
            secrets: place.initialised("OBJECTS"),
            answered: 0,
            under_way: false,
            cut: (0, 0),
        };
        let mut element = place.element("OBJECTS").unwrap();
        objects.put(&mut element, 0).unwrap();
        objects
    }

    fn put(&self, element: &mut RemoteElement, value: u64) -> Result<(), PivError> {
        let mut piv = Piv::open(element);
        piv.authenticate_management(&self.secrets.management_key)?;
        piv.put_object(Slot::SIGNATURE.certificate_tag(), &content(value))
    }
}

/// A value, and up to 1,500 bytes that follow from it.
fn content(value: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(value);
    let words = numbers.below(188);
    let filler = (0..words).flat_map(|_| numbers.next().to_be_bytes());
    value.to_be_bytes().into_iter().chain(filler).collect()
}

impl Writer for Objects {
    fn check(&mut self, place: &Place) -> Result<(), Gone> {
        let mut element = place.element("OBJECTS")?;
        let tag = Slot::SIGNATURE.certificate_tag();
        let held = answer(Piv::open(&mut element).object(tag))?;
        let value = u64::from_be_bytes(held[..8].try_into().unwrap());
        assert!(held == content(value), "half of {value}");
        let possible = self.answered..=self.answered + u64::from(self.under_way);
        assert!(
            possible.contains(&value),
            "the element holds {value}; answered was {}, {} under way",
            self.answered,
            self.under_way
        );
        self.cut.1 += value - self.answered;
        (self.answered, self.under_way) = (value, false);
        Ok(())
    }

    fn write(&mut self, place: &Place) -> Gone {
        let Ok(mut element) = place.element("OBJECTS") else {
            return Gone;
        };
        loop {
            self.under_way = true;
            if let Err(gone) = answer(self.put(&mut element, self.answered + 1)) {
                self.cut.0 += 1;
                return gone;
            }
            (self.answered, self.under_way) = (self.answered + 1, false);
        }
    }

    fn acknowledged(&self) -> u64 {
        self.answered
    }

    fn cut(&self) -> (u64, u64) {
        self.cut
    }
}
