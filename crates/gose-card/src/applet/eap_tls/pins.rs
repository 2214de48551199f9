//! The bearer's and the operator's PIN.

use gose_proto::apdu::StatusWord;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::command::{EapTlsCommand, Holder, Pin};
use crate::{
    factory::{EAP_OPERATOR as OPERATOR, EAP_PIN as BEARER},
    nvm::Nvm,
    pin::{Attempt, PinVerified, Reference},
};

/// The operator PIN that everybody knows.
const PUBLISHED_OPERATOR: &[u8; 8] = b"00000000";
/// Present while the bearer's PIN is disabled.
const DISABLED: &str = "eap/pin-disabled";

fn reference(holder: Holder) -> Reference {
    match holder {
        Holder::Bearer => BEARER,
        Holder::Operator => OPERATOR,
    }
}

/// `630x` with the tries left, `6983` when none is.
pub(super) fn needed(nvm: &Nvm, holder: Holder) -> StatusWord {
    match reference(holder).tries(nvm) {
        Some(0) => StatusWord::AUTHENTICATION_METHOD_BLOCKED,
        tries => wrong(tries.unwrap_or_default()),
    }
}

/// `630x` (draft-urien-eap-smartcard-25, 9.1).
fn wrong(tries: u8) -> StatusWord {
    StatusWord::new(0x6300 | u16::from(tries.min(0x0F)))
}

/// Whether the operator PIN is still the published one: then nothing may be written.
pub(super) fn operator_is_published(nvm: &Nvm) -> bool {
    let record = nvm.get(OPERATOR.0).unwrap_or_default();
    match record.get(2..) {
        Some(value) => value.ct_eq(PUBLISHED_OPERATOR).into(),
        None => true,
    }
}

/// The operator showed its PIN: the bearer's has its tries back.
fn unblock_bearer(nvm: &mut Nvm) {
    let mut record = Zeroizing::new(nvm.get(BEARER.0).unwrap_or_default().to_vec());
    if let [tries, limit, ..] = record.as_mut_slice()
        && *tries != *limit
    {
        *tries = *limit;
        nvm.put(BEARER.0, record.to_vec());
    }
}

pub(super) fn is_disabled(nvm: &Nvm) -> bool {
    nvm.get(DISABLED).is_some()
}

fn set_disabled(nvm: &mut Nvm, disabled: bool) {
    if disabled {
        nvm.put(DISABLED, [1]);
    } else {
        nvm.delete(DISABLED);
    }
}

/// Why a PIN is compared.
#[derive(Clone, Copy)]
enum Purpose {
    Verify(Holder),
    Change(Holder),
    Enable,
    Disable,
    /// The operator PIN is the unblock code of the bearer's.
    Unblock,
}

impl Purpose {
    const ALL: [Self; 7] = [
        Self::Verify(Holder::Bearer),
        Self::Verify(Holder::Operator),
        Self::Change(Holder::Bearer),
        Self::Change(Holder::Operator),
        Self::Enable,
        Self::Disable,
        Self::Unblock,
    ];

    /// INS and P2 of the command.
    fn number(self) -> u32 {
        match self {
            Self::Verify(holder) => 0x2000 | holder as u32,
            Self::Change(holder) => 0x2400 | holder as u32,
            Self::Enable => 0x2600,
            Self::Disable => 0x2800,
            Self::Unblock => 0x2C00,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|purpose| purpose.number() == number)
    }

    fn compared(self) -> Holder {
        match self {
            Self::Verify(holder) | Self::Change(holder) => holder,
            Self::Enable | Self::Disable => Holder::Bearer,
            Self::Unblock => Holder::Operator,
        }
    }
}

/// Counts the try down; the comparison comes when the counter is durable.
///
/// # Errors
/// `6983` where no try is left, `6985` for unblocking with the published operator PIN.
pub(super) fn attempt(command: EapTlsCommand, nvm: &mut Nvm) -> Result<Attempt, StatusWord> {
    use EapTlsCommand as C;
    let no_new = || Pin::new([0xFF; 8]);
    let (purpose, candidate, new) = match command {
        C::Verify(holder, pin) => (Purpose::Verify(holder), pin, no_new()),
        C::ChangePin { holder, old, new } => (Purpose::Change(holder), old, new),
        C::EnablePin(pin) => (Purpose::Enable, pin, no_new()),
        C::DisablePin(pin) => (Purpose::Disable, pin, no_new()),
        C::UnblockPin { code, new } => (Purpose::Unblock, code, new),
        _ => return Err(StatusWord::NO_PRECISE_DIAGNOSIS),
    };
    if matches!(purpose, Purpose::Unblock) && operator_is_published(nvm) {
        return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
    }
    let reference = reference(purpose.compared());
    let attempt = reference.attempt(nvm, &candidate, purpose.number())?;
    Ok(attempt.with_extra(new.as_slice()))
}

/// What a comparison came to.
pub(super) enum Compared {
    /// VERIFY matched.
    Verified(Holder, PinVerified),
    /// Another PIN command matched, and is done.
    Done,
    /// It did not match.
    Wrong(Holder, StatusWord),
}

/// Compares, and stages what the command does where it matches.
pub(super) fn complete(attempt: &Attempt, nvm: &mut Nvm) -> Compared {
    let Some(purpose) = Purpose::from_number(attempt.purpose) else {
        return Compared::Wrong(Holder::Bearer, StatusWord::NO_PRECISE_DIAGNOSIS);
    };
    let verified = match attempt.compare(nvm) {
        Ok(verified) => verified,
        Err(mismatch) => return Compared::Wrong(purpose.compared(), wrong(mismatch.tries)),
    };
    // Longer than eight bytes is no PIN of this application: `attempt` wrote eight.
    let mut new = Pin::new([0xFF; 8]);
    for (to, from) in new.iter_mut().zip(attempt.extra.iter()) {
        *to = *from;
    }
    match purpose {
        Purpose::Verify(holder) => {
            if holder == Holder::Operator {
                unblock_bearer(nvm);
            }
            return Compared::Verified(holder, verified);
        }
        Purpose::Change(holder) => reference(holder).replace(nvm, &new),
        Purpose::Unblock => BEARER.replace(nvm, &new),
        Purpose::Enable => set_disabled(nvm, false),
        Purpose::Disable => set_disabled(nvm, true),
    }
    Compared::Done
}
