//! IMPORT ASYMMETRIC KEY (vendor command FE, as on YubiKeys): a key that was made elsewhere. It is attested by nobody.

use gose_element::{Algorithm, drive::piv::Slot};
use gose_proto::apdu::StatusWord;

use super::{Next, key::status};
use crate::{card::Env, keystore::Numbers};

pub(super) fn import(
    slot: Slot,
    algorithm: Algorithm,
    numbers: &Numbers<'_>,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let pkcs8 = numbers.pkcs8(algorithm).map_err(status)?;
    env.keys
        .import(env.nvm, slot.id(), &pkcs8)
        .map_err(status)?;
    Ok(StatusWord::NORMAL.into())
}
