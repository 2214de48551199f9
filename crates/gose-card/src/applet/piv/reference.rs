//! PIN and PUK: VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER (part 2, 3.2.1 to 3.2.3).

use gose_proto::apdu::{Response, StatusWord};

use super::{
    Next, PivApplet,
    command::{Digits, Verify, Which},
};
use crate::{card::Env, pin};

/// The PIV Card Application PIN (key reference 80).
pub const PIN: pin::Reference = pin::Reference("piv/pin");
/// The PIN unblocking key (key reference 81).
pub const PUK: pin::Reference = pin::Reference("piv/puk");

const VERIFY: u32 = 0x20;
const CHANGE: u32 = 0x24;
const RESET: u32 = 0x2C;

impl PivApplet {
    pub(super) fn verify(&mut self, verify: Verify, env: &mut Env<'_>) -> Result<Next, StatusWord> {
        match verify {
            Verify::Status => Ok(self.status(env).into()),
            Verify::LogOut => {
                self.state.pin = None;
                self.state.pin_fresh = false;
                Ok(StatusWord::NORMAL.into())
            }
            Verify::Compare(digits) => {
                // Until the comparison is done, nothing is verified.
                self.state.pin = None;
                self.state.pin_fresh = false;
                PIN.attempt(env.nvm, &digits, VERIFY).map(Next::ComparePin)
            }
        }
    }

    fn status(&self, env: &Env<'_>) -> StatusWord {
        if self.state.pin.is_some() {
            return StatusWord::NORMAL;
        }
        match PIN.tries(env.nvm) {
            None => StatusWord::REFERENCE_DATA_NOT_USABLE,
            Some(0) => StatusWord::AUTHENTICATION_METHOD_BLOCKED,
            Some(tries) => StatusWord::tries_left(tries),
        }
    }

    /// What follows a comparison whose counter is durable.
    pub(super) fn compared(&mut self, attempt: &pin::Attempt, env: &mut Env<'_>) -> Response {
        let verified = match attempt.compare(env.nvm) {
            Ok(verified) => verified,
            Err(mismatch) => {
                if attempt.reference().0 == PIN.0 {
                    self.state.pin = None;
                }
                return StatusWord::tries_left(mismatch.tries).into();
            }
        };
        let new = <[u8; 8]>::try_from(attempt.extra.as_slice());
        match (attempt.purpose, new) {
            (VERIFY, _) => {
                self.state.pin = Some(verified);
                self.state.pin_fresh = true;
            }
            (CHANGE, Ok(new)) => attempt.reference().replace(env.nvm, &new),
            (RESET, Ok(new)) => PIN.replace(env.nvm, &new),
            _ => return StatusWord::NO_PRECISE_DIAGNOSIS.into(),
        }
        StatusWord::NORMAL.into()
    }
}

pub(super) fn change(
    which: Which,
    old: &Digits,
    new: &[u8; 8],
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let reference = match which {
        Which::Pin => PIN,
        Which::Puk => PUK,
    };
    compare_then(reference, old, CHANGE, new, env)
}

pub(super) fn reset(puk: &Digits, new: &[u8; 8], env: &mut Env<'_>) -> Result<Next, StatusWord> {
    compare_then(PUK, puk, RESET, new, env)
}

fn compare_then(
    reference: pin::Reference,
    candidate: &Digits,
    purpose: u32,
    new: &[u8; 8],
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let attempt = reference.attempt(env.nvm, candidate, purpose)?;
    Ok(Next::ComparePin(attempt.with_extra(new.to_vec())))
}
