//! The bearer's and the operator's PIN.

use gose_proto::apdu::StatusWord;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::command::Holder;
use crate::{
    factory::{EAP_OPERATOR as OPERATOR, EAP_PIN as BEARER},
    nvm::Nvm,
    pin::Reference,
};

/// The operator PIN that everybody knows.
const PUBLISHED_OPERATOR: &[u8; 8] = b"00000000";
/// Present while the bearer's PIN is disabled.
const DISABLED: &str = "eap/pin-disabled";

pub(super) fn reference(holder: Holder) -> Reference {
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
pub(super) fn wrong(tries: u8) -> StatusWord {
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
pub(super) fn unblock_bearer(nvm: &mut Nvm) {
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

pub(super) fn set_disabled(nvm: &mut Nvm, disabled: bool) {
    if disabled {
        nvm.put(DISABLED, [1]);
    } else {
        nvm.delete(DISABLED);
    }
}
