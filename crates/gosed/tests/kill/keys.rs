//! Keys: each new one replaces the key of a slot. What was answered signs after the restart.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use gose_client::RemoteElement;
use gose_element::{
    Algorithm, ElementError, Scheme,
    drive::{
        piv::{Piv, PivError, Slot},
        provision::Secrets,
    },
};

use crate::{Gone, Writer, daemon::Place};

const SLOTS: [Slot; 3] = [Slot::AUTHENTICATION, Slot::SIGNATURE, Slot::KEY_MANAGEMENT];

pub(crate) struct Keys {
    secrets: Secrets,
    /// The public key that was answered last for each slot.
    answered: [Vec<u8>; 3],
    /// The slot whose new key was not answered.
    under_way: Option<usize>,
    acknowledged: u64,
    cut: (u64, u64),
}

impl Keys {
    pub(crate) fn new(place: &Place) -> Self {
        let mut keys = Self {
            secrets: place.initialised("KEYS"),
            answered: Default::default(),
            under_way: None,
            acknowledged: 0,
            cut: (0, 0),
        };
        let mut element = place.element("KEYS").unwrap();
        for (slot, answered) in SLOTS.into_iter().zip(&mut keys.answered) {
            *answered = generate(&mut element, &keys.secrets, slot).unwrap();
        }
        keys
    }

    /// Whether the key of a slot is the one with this public half.
    fn signs(&self, element: &mut RemoteElement, slot: Slot, public: &[u8]) -> Result<bool, Gone> {
        let mut piv = Piv::open(element);
        piv.with_pin(self.secrets.piv_pin.as_slice()).unwrap();
        let signature = answer(piv.sign(slot, Scheme::EcdsaP256Sha256, b"after the restart"))?;
        // The uncompressed point ends the structure.
        let point = &public[public.len() - 65..];
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
        Ok(public.verify(b"after the restart", &signature).is_ok())
    }
}

fn generate(
    element: &mut RemoteElement,
    secrets: &Secrets,
    slot: Slot,
) -> Result<Vec<u8>, PivError> {
    let mut piv = Piv::open(element);
    piv.authenticate_management(&secrets.management_key)?;
    piv.generate(slot, Algorithm::P256)
}

/// An answer, or none because the node is gone. A refusal fails the test.
pub(crate) fn answer<T>(result: Result<T, PivError>) -> Result<T, Gone> {
    match result {
        Ok(value) => Ok(value),
        Err(PivError::Element(ElementError::Transport(_) | ElementError::OutcomeUnknown)) => {
            Err(Gone)
        }
        Err(refused) => panic!("{refused}"),
    }
}

impl Writer for Keys {
    fn check(&mut self, place: &Place) -> Result<(), Gone> {
        let mut element = place.element("KEYS")?;
        for (number, slot) in SLOTS.into_iter().enumerate() {
            if self.signs(&mut element, slot, &self.answered[number])? {
                continue;
            }
            assert_eq!(
                self.under_way,
                Some(number),
                "the key of {slot} was answered and is lost"
            );
            // Then it is the new one, whole.
            let new = answer(Piv::open(&mut element).public_key(slot))?.info;
            assert!(
                self.signs(&mut element, slot, &new)?,
                "half a key in {slot}"
            );
            self.answered[number] = new;
            self.cut.1 += 1;
        }
        self.under_way = None;
        Ok(())
    }

    fn write(&mut self, place: &Place) -> Gone {
        let Ok(mut element) = place.element("KEYS") else {
            return Gone;
        };
        for number in (0..SLOTS.len()).cycle() {
            self.under_way = Some(number);
            match answer(generate(&mut element, &self.secrets, SLOTS[number])) {
                Ok(public) => self.answered[number] = public,
                Err(gone) => {
                    self.cut.0 += 1;
                    return gone;
                }
            }
            self.under_way = None;
            self.acknowledged += 1;
        }
        Gone
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn cut(&self) -> (u64, u64) {
        self.cut
    }
}
