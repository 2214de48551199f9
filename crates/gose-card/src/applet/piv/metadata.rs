//! What a card, a key or a PIN is, in the form of the YubiKey's vendor commands F7, F8 and FD.

use gose_element::drive::piv::{PinPolicy, Slot};
use gose_proto::apdu::{Response, StatusWord, tlv};

use super::{
    Next, PIN, PUK,
    command::{Reference, Which},
    key::{status, template},
    management,
};
use crate::{card::Env, factory};

/// The answer to GET VERSION (FD): that of a YubiKey whose PIV application has GET METADATA, attestation and management
/// keys for AES, so that its programs use them.
pub(super) const VERSION: [u8; 3] = [5, 4, 3];

/// Touch is never asked for.
const NO_TOUCH: u8 = 1;

pub(super) fn get(reference: Reference, env: &mut Env<'_>) -> Result<Next, StatusWord> {
    let metadata = match reference {
        Reference::Slot(slot) => of_key(slot, env)?,
        Reference::Pin(Which::Pin) => of_pin(PIN, env)?,
        Reference::Pin(Which::Puk) => of_pin(PUK, env)?,
        Reference::Management => of_management(env)?,
    };
    Ok(Response::ok(metadata).into())
}

/// GET SERIAL (F8): the first bytes of the card's GUID.
pub(super) fn serial(env: &Env<'_>) -> Result<Next, StatusWord> {
    let [a, b, c, d, ..] = factory::guid(env.nvm).ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    Ok(Response::ok(vec![a, b, c, d]).into())
}

/// 01 algorithm, 02 PIN and touch policy, 03 origin (1 generated, 2 from outside), 04 public key.
fn of_key(slot: Slot, env: &mut Env<'_>) -> Result<Vec<u8>, StatusWord> {
    let key = env
        .keys
        .get(env.nvm, slot.id())
        .map_err(status)?
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    let origin = if env.keys.was_generated(env.nvm, slot.id()) {
        1
    } else {
        2
    };
    let mut out = tlv::object(0x01, &[key.algorithm().id()]);
    tlv::write(&mut out, 0x02, &[PinPolicy::of(slot).id(), NO_TOUCH]);
    tlv::write(&mut out, 0x03, &[origin]);
    tlv::write(&mut out, 0x04, &template(&*key)?);
    Ok(out)
}

/// 05 whether it is the published one, 06 tries in all and tries left. 05 says whether the card is still as it was born,
/// and looks at no value: that would be a try for nothing.
fn of_pin(reference: crate::pin::Reference, env: &Env<'_>) -> Result<Vec<u8>, StatusWord> {
    match (reference.limit(env.nvm), reference.tries(env.nvm)) {
        (Some(limit), Some(tries)) => {
            let mut out = tlv::object(0x01, &[0xFF]);
            let as_born = env.nvm.get(management::NAME).is_none();
            tlv::write(&mut out, 0x05, &[u8::from(as_born)]);
            tlv::write(&mut out, 0x06, &[limit, tries]);
            Ok(out)
        }
        _ => Err(StatusWord::REFERENCED_DATA_NOT_FOUND),
    }
}

/// 01 algorithm, 02 policies, 05 not a published one: there is none.
fn of_management(env: &Env<'_>) -> Result<Vec<u8>, StatusWord> {
    let key = env
        .nvm
        .get(management::NAME)
        .and_then(|key| management::algorithm(key.len()))
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
    let mut out = tlv::object(0x01, &[key]);
    tlv::write(&mut out, 0x02, &[0x00, NO_TOUCH]);
    tlv::write(&mut out, 0x05, &[0]);
    Ok(out)
}
