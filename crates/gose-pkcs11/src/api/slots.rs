//! Slots and tokens (PKCS#11 v3.0, 5.5).

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use cryptoki_sys::*;
use gose_client::{Connection, Endpoint, Error};
use gose_element::Seid;

use super::stored;
use crate::{
    config::Login,
    hash::Hash,
    mechanism,
    module::{self, FINALISED, LoggedIn},
    rv::{Result, Rv},
};

/// A list of elements that is younger than this is not asked for again.
const FRESH: Duration = Duration::from_millis(500);

/// How often C_WaitForSlotEvent asks the grid: RACS tells of nothing by itself.
const ASK: Duration = Duration::from_secs(1);

const MANUFACTURER: &[u8] = b"GoSE";

/// Whether the grid was never asked for its elements.
///
/// # Errors
/// CKR_CRYPTOKI_NOT_INITIALIZED
pub(crate) fn never_asked() -> Result<bool> {
    Ok(module::lock()?.listed.is_none())
}

/// Asks the grid which elements there are, unless it was asked just now.
///
/// # Errors
/// CKR_CRYPTOKI_NOT_INITIALIZED; a grid that does not answer has no tokens.
pub(crate) fn refresh() -> Result<()> {
    let (endpoint, spare) = {
        let mut module = module::lock()?;
        if module.listed.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        (module.endpoint.clone(), module.spare.take())
    };
    let listed = list(&endpoint, spare);
    let mut module = module::lock()?;
    let seids = match listed {
        Ok((connection, seids)) => {
            module.spare = Some(connection);
            module.listed = Some(Instant::now());
            seids
        }
        Err(error) => {
            module.config.log.line(&error.to_string());
            Vec::new()
        }
    };
    let config = module.config.clone();
    for seid in seids.iter().filter(|seid| config.takes(**seid)) {
        module.add(*seid, false);
    }
    for slot in &mut module.slots {
        let present = seids.contains(&slot.seid);
        slot.changed |= present != slot.present;
        slot.present = present;
    }
    Ok(())
}

fn list(
    endpoint: &Endpoint,
    spare: Option<Connection>,
) -> std::result::Result<(Connection, Vec<Seid>), Error> {
    if let Some(mut connection) = spare
        && let Ok(seids) = connection.list()
    {
        return Ok((connection, seids));
    }
    let mut connection = endpoint.connect()?;
    let seids = connection.list()?;
    Ok((connection, seids))
}

/// The slots, all of them or those with a token.
pub(crate) fn ids(token_present: bool) -> Result<Vec<CK_SLOT_ID>> {
    let mut module = module::lock()?;
    let slots = (0..).zip(&mut module.slots);
    Ok(slots
        .filter(|(_, slot)| !token_present || slot.present)
        .map(|(id, slot)| {
            slot.changed = false;
            id
        })
        .collect())
}

/// C_GetSlotInfo
pub(crate) fn info(id: CK_SLOT_ID) -> Result<CK_SLOT_INFO> {
    let mut module = module::lock()?;
    let slot = module.slot(id)?;
    let mut info = CK_SLOT_INFO {
        slotDescription: padded(slot.seid.as_str().as_bytes()),
        manufacturerID: padded(MANUFACTURER),
        flags: CKF_REMOVABLE_DEVICE | CKF_HW_SLOT,
        hardwareVersion: VERSION,
        firmwareVersion: VERSION,
    };
    if slot.present {
        info.flags |= CKF_TOKEN_PRESENT;
    }
    Ok(info)
}

/// C_GetMechanismList and C_GetMechanismInfo: what the token offers. Whether it has the storage application is asked
/// of the element once; one that does not answer offers none of that now.
pub(crate) fn mechanisms(id: CK_SLOT_ID) -> Result<Vec<(CK_MECHANISM_TYPE, CK_MECHANISM_INFO)>> {
    present(&mut *module::lock()?, id)?;
    Ok(mechanism::list(stored::has(id).unwrap_or(false)))
}

/// This version of the module.
pub(crate) const VERSION: CK_VERSION = CK_VERSION { major: 0, minor: 1 };

/// C_GetTokenInfo. Nothing is asked of the element.
pub(crate) fn token(id: CK_SLOT_ID) -> Result<CK_TOKEN_INFO> {
    let mut module = module::lock()?;
    let most = module.config.sessions as CK_ULONG;
    let sessions = |read_write: bool| {
        let own = module
            .sessions
            .values()
            .filter(|session| session.slot == id);
        own.filter(|session| session.read_write || !read_write)
            .count() as CK_ULONG
    };
    let (all, read_write) = (sessions(false), sessions(true));
    let slot = present(&mut module, id)?;
    let mut flags = CKF_RNG | CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED;
    match slot.policy.login {
        Login::Application => flags |= CKF_LOGIN_REQUIRED,
        Login::ProtectedPath => flags |= CKF_LOGIN_REQUIRED | CKF_PROTECTED_AUTHENTICATION_PATH,
        Login::NotRequired => {}
    }
    if slot.policy.management_key.is_none() {
        flags |= CKF_WRITE_PROTECTED;
    }
    match slot.tries {
        Some(0) => flags |= CKF_USER_PIN_LOCKED,
        Some(1) => flags |= CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY,
        Some(_) => flags |= CKF_USER_PIN_COUNT_LOW,
        None => {}
    }
    let seid = slot.seid.as_str().as_bytes();
    let digest = Hash::Sha256.digest(seid);
    let serial = gose_proto::hex::encode(&digest.as_ref()[..8]);
    Ok(CK_TOKEN_INFO {
        label: padded(seid),
        manufacturerID: padded(MANUFACTURER),
        model: padded(b"PIV"),
        serialNumber: padded(serial.as_bytes()),
        flags,
        ulMaxSessionCount: most,
        ulSessionCount: all,
        ulMaxRwSessionCount: most,
        ulRwSessionCount: read_write,
        ulMaxPinLen: 8,
        ulMinPinLen: 6,
        ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
        ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
        ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
        ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
        hardwareVersion: VERSION,
        firmwareVersion: VERSION,
        utcTime: [b' '; 16],
    })
}

/// A slot whose token is there.
///
/// # Errors
/// CKR_SLOT_ID_INVALID, CKR_TOKEN_NOT_PRESENT
pub(crate) fn present(module: &mut module::Module, id: CK_SLOT_ID) -> Result<&mut module::Slot> {
    let slot = module.slot(id)?;
    if slot.present {
        Ok(slot)
    } else {
        Err(Rv(CKR_TOKEN_NOT_PRESENT))
    }
}

/// C_WaitForSlotEvent
pub(crate) fn wait(block: bool) -> Result<CK_SLOT_ID> {
    loop {
        refresh()?;
        let mut module = module::lock()?;
        let changed = (0..).zip(&mut module.slots).find(|(_, slot)| slot.changed);
        if let Some((id, slot)) = changed {
            slot.changed = false;
            return Ok(id);
        }
        if !block {
            return Err(Rv(CKR_NO_EVENT));
        }
        module.listed = None;
        drop(module);
        let state = module::state();
        let waited = FINALISED.wait_timeout(state, ASK);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// C_InitPIN: the security officer sets a new PIN by the PUK.
pub(crate) fn init_pin(session: CK_SESSION_HANDLE, pin: &[u8]) -> Result<()> {
    let (mut access, puk, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        let LoggedIn::Officer(puk) = &module.slot(id)?.user else {
            return Err(Rv(CKR_USER_NOT_LOGGED_IN));
        };
        let puk = puk.clone();
        (module.access(id, true)?, puk, id)
    };
    right_form(pin)?;
    let puk: &[u8; 8] = puk
        .as_slice()
        .try_into()
        .map_err(|_| Rv(CKR_PIN_INCORRECT))?;
    let outcome = access.run(|piv| piv.unblock_pin(puk, pin));
    let mut module = module::lock()?;
    outcome.map_err(|error| module.failed(id, &error))?;
    module.slot(id)?.tries = None;
    Ok(())
}

/// C_SetPIN: the user changes the PIN.
pub(crate) fn set_pin(session: CK_SESSION_HANDLE, old: &[u8], new: &[u8]) -> Result<()> {
    let (mut access, id) = {
        let mut module = module::lock()?;
        let session = module.session(session)?;
        if !session.read_write {
            return Err(Rv(CKR_SESSION_READ_ONLY));
        }
        let id = session.slot;
        (module.access(id, true)?, id)
    };
    right_form(new)?;
    access.pin = None;
    let outcome = access.run(|piv| piv.change_pin(old, new));
    let mut module = module::lock()?;
    outcome.map_err(|error| module.failed(id, &error))?;
    let slot = module.slot(id)?;
    slot.tries = None;
    if slot.pin.is_some() {
        slot.pin = Some(std::sync::Arc::new(zeroize::Zeroizing::new(new.to_vec())));
    }
    Ok(())
}

fn right_form(pin: &[u8]) -> Result<()> {
    if !(6..=8).contains(&pin.len()) {
        return Err(Rv(CKR_PIN_LEN_RANGE));
    }
    if !pin.iter().all(u8::is_ascii_digit) {
        return Err(Rv(CKR_PIN_INVALID));
    }
    Ok(())
}

/// Text in a field of the standard: blanks to the end, cut where it is longer.
pub(crate) fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut field = [b' '; N];
    let len = text.len().min(N);
    field[..len].copy_from_slice(&text[..len]);
    field
}
