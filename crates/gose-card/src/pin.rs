//! PINs with retry counters. The counter is written down before the comparison, so that a cut between
//! the two never gives a free try.

use gose_proto::apdu::StatusWord;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::nvm::Nvm;

/// A PIN as it stands in memory: `tries left (1) ‖ limit (1) ‖ PIN padded with FF (8)` under one name.
#[derive(Debug, Clone, Copy)]
pub struct Reference(
    /// The object's name, e.g. `piv/pin`.
    pub &'static str,
);

/// A comparison that waits for its counter to be durable.
pub struct Attempt {
    reference: Reference,
    candidate: Zeroizing<[u8; 8]>,
    /// What the applet does with the result (its own code, e.g. the command's INS).
    pub purpose: u32,
    /// Further data of the command, e.g. a new PIN.
    pub extra: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attempt({})", self.reference.0)
    }
}

/// A comparison succeeded; only [`Attempt::compare`] makes one.
#[derive(Debug)]
pub struct PinVerified(());

/// A comparison failed, with the tries left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Tries left; 0 = blocked.
    pub tries: u8,
}

impl Reference {
    /// Stages a new value and its full number of tries.
    pub fn set(self, nvm: &mut Nvm, value: &[u8; 8], limit: u8) {
        let mut record = Zeroizing::new(vec![limit, limit]);
        record.extend_from_slice(value);
        nvm.put(self.0, record.to_vec());
    }

    /// Stages a new value and puts the counter back to its limit. Nothing happens to a PIN that was never set.
    pub fn replace(self, nvm: &mut Nvm, value: &[u8; 8]) {
        if let Some(limit) = self.limit(nvm) {
            self.set(nvm, value, limit);
        }
    }

    /// Tries left; `None` where the PIN was never set.
    #[must_use]
    pub fn tries(self, nvm: &Nvm) -> Option<u8> {
        nvm.get(self.0).and_then(|record| record.first().copied())
    }

    /// Tries after a success; `None` where the PIN was never set.
    #[must_use]
    pub fn limit(self, nvm: &Nvm) -> Option<u8> {
        nvm.get(self.0).and_then(|record| record.get(1).copied())
    }

    /// Stages the counter one lower and hands out the comparison.
    ///
    /// # Errors
    /// `6983` when no try is left, `6984` when the PIN was never set.
    pub fn attempt(
        self,
        nvm: &mut Nvm,
        candidate: &[u8; 8],
        purpose: u32,
    ) -> Result<Attempt, StatusWord> {
        let mut record = Zeroizing::new(
            nvm.get(self.0)
                .ok_or(StatusWord::REFERENCE_DATA_NOT_USABLE)?
                .to_vec(),
        );
        let tries = record
            .first_mut()
            .ok_or(StatusWord::REFERENCE_DATA_NOT_USABLE)?;
        *tries = tries
            .checked_sub(1)
            .ok_or(StatusWord::AUTHENTICATION_METHOD_BLOCKED)?;
        nvm.put(self.0, record.to_vec());
        Ok(Attempt {
            reference: self,
            candidate: Zeroizing::new(*candidate),
            purpose,
            extra: Zeroizing::default(),
        })
    }
}

impl Attempt {
    /// The same attempt with further data of its command.
    #[must_use]
    pub fn with_extra(mut self, extra: impl Into<Vec<u8>>) -> Self {
        self.extra = Zeroizing::new(extra.into());
        self
    }

    /// Which PIN is compared.
    #[must_use]
    pub fn reference(&self) -> Reference {
        self.reference
    }

    /// Compares in constant time; a match stages the counter back to its limit.
    ///
    /// # Errors
    /// [`Mismatch`] with the tries left.
    pub fn compare(&self, nvm: &mut Nvm) -> Result<PinVerified, Mismatch> {
        let record = Zeroizing::new(nvm.get(self.reference.0).unwrap_or_default().to_vec());
        let [tries, limit, value @ ..] = record.as_slice() else {
            return Err(Mismatch { tries: 0 });
        };
        if bool::from(value.ct_eq(self.candidate.as_slice())) {
            let mut restored = Zeroizing::new(vec![*limit, *limit]);
            restored.extend_from_slice(value);
            nvm.put(self.reference.0, restored.to_vec());
            Ok(PinVerified(()))
        } else {
            Err(Mismatch { tries: *tries })
        }
    }
}

/// Pads a PIN with FF to eight bytes; `None` if it is longer.
#[must_use]
pub fn pad(pin: &[u8]) -> Option<[u8; 8]> {
    let mut padded = [0xFF; 8];
    padded.get_mut(..pin.len())?.copy_from_slice(pin);
    Some(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: Reference = Reference("test/pin");

    #[test]
    fn the_counter_falls_before_the_comparison() {
        let mut nvm = Nvm::default();
        PIN.set(&mut nvm, b"123456\xFF\xFF", 3);
        nvm.commit();
        let wrong = PIN.attempt(&mut nvm, b"000000\xFF\xFF", 0).unwrap();
        nvm.commit();
        assert_eq!(PIN.tries(&nvm), Some(2));
        assert_eq!(wrong.compare(&mut nvm).unwrap_err(), Mismatch { tries: 2 });
        let right = PIN.attempt(&mut nvm, b"123456\xFF\xFF", 0).unwrap();
        nvm.commit();
        assert_eq!(PIN.tries(&nvm), Some(1));
        right.compare(&mut nvm).unwrap();
        assert_eq!(PIN.tries(&nvm), Some(3));
    }

    #[test]
    fn a_blocked_pin_is_not_compared() {
        let mut nvm = Nvm::default();
        PIN.set(&mut nvm, b"123456\xFF\xFF", 1);
        let _ = PIN.attempt(&mut nvm, b"000000\xFF\xFF", 0).unwrap();
        assert_eq!(
            PIN.attempt(&mut nvm, b"123456\xFF\xFF", 0).unwrap_err(),
            StatusWord::AUTHENTICATION_METHOD_BLOCKED
        );
    }
}
