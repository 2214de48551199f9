//! Sessions and logins (PKCS#11 v3.0, 5.6).

use std::sync::Arc;

use cryptoki_sys::*;
use gose_element::drive::piv::Slot;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::slots::present;
use crate::{
    config::Login,
    line::Secret,
    module::{self, Access, LoggedIn, Module, contents},
    rv::{Result, Rv},
    session::Session,
    stored::Work,
};

/// C_OpenSession
pub(crate) fn open(id: CK_SLOT_ID, flags: CK_FLAGS) -> Result<CK_SESSION_HANDLE> {
    if flags & CKF_SERIAL_SESSION == 0 {
        return Err(Rv(CKR_SESSION_PARALLEL_NOT_SUPPORTED));
    }
    let read_write = flags & CKF_RW_SESSION != 0;
    let mut module = module::lock()?;
    let most = module.config.sessions;
    let slot = present(&mut module, id)?;
    if !read_write && matches!(slot.user, LoggedIn::Officer(_)) {
        return Err(Rv(CKR_SESSION_READ_WRITE_SO_EXISTS));
    }
    if module.sessions.len() >= most {
        let seid = module.slot(id)?.seid;
        module.config.log.line(&format!(
            "element {seid}: {most} sessions are open; the program leaks them, or raise `sessions`"
        ));
        return Err(Rv(CKR_SESSION_COUNT));
    }
    Ok(module.new_session(Session::new(id, read_write)))
}

/// C_CloseSession
pub(crate) fn close(handle: CK_SESSION_HANDLE) -> Result<()> {
    let released = {
        let mut module = module::lock()?;
        let id = module.session(handle)?.slot;
        module.sessions.remove(&handle);
        module.objects.retain(|_, owned| owned.session != handle);
        last_closed(&mut module, id)?
    };
    if let Some(access) = released {
        access.release();
    }
    Ok(())
}

/// C_CloseAllSessions
pub(crate) fn close_all(id: CK_SLOT_ID) -> Result<()> {
    let released = {
        let mut module = module::lock()?;
        module.slot(id)?;
        module.sessions.retain(|_, session| session.slot != id);
        module.objects.retain(|_, owned| owned.slot != id);
        last_closed(&mut module, id)?
    };
    if let Some(access) = released {
        access.release();
    }
    Ok(())
}

/// After the last session of a slot nobody is logged in, and what lies on the element is asked for anew.
fn last_closed(module: &mut Module, id: CK_SLOT_ID) -> Result<Option<Access>> {
    if module.sessions.values().any(|session| session.slot == id) {
        return Ok(None);
    }
    module.slot(id)?.objects = None;
    module.slot(id)?.stores = None;
    log_out(module, id)
}

/// Forgets PIN and PUK; gives the element back where it was kept.
fn log_out(module: &mut Module, id: CK_SLOT_ID) -> Result<Option<Access>> {
    let slot = module.slot(id)?;
    (slot.user, slot.pin, slot.stored) = (LoggedIn::Nobody, None, None);
    if !std::mem::take(&mut slot.kept) {
        return Ok(None);
    }
    module.access(id, false).map(Some)
}

/// C_GetSessionInfo
pub(crate) fn info(handle: CK_SESSION_HANDLE) -> Result<CK_SESSION_INFO> {
    let mut module = module::lock()?;
    let session = module.session(handle)?;
    let (id, read_write) = (session.slot, session.read_write);
    let slot = module.slot(id)?;
    let state = match (&slot.user, read_write) {
        (LoggedIn::Officer(_), _) => CKS_RW_SO_FUNCTIONS,
        (LoggedIn::User, true) => CKS_RW_USER_FUNCTIONS,
        (LoggedIn::User, false) => CKS_RO_USER_FUNCTIONS,
        (LoggedIn::Nobody, true) => CKS_RW_PUBLIC_SESSION,
        (LoggedIn::Nobody, false) => CKS_RO_PUBLIC_SESSION,
    };
    let mut flags = CKF_SERIAL_SESSION;
    if read_write {
        flags |= CKF_RW_SESSION;
    }
    Ok(CK_SESSION_INFO {
        slotID: id,
        state,
        flags,
        ulDeviceError: 0,
    })
}

/// C_Login; no PIN means the protected path.
pub(crate) fn login(
    handle: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: Option<&[u8]>,
) -> Result<()> {
    match user {
        CKU_USER => login_user(handle, pin),
        CKU_CONTEXT_SPECIFIC => login_again(handle, pin),
        CKU_SO => login_officer(handle, pin),
        _ => Err(Rv(CKR_USER_TYPE_INVALID)),
    }
}

/// The PIN that the application shows, or that the configuration names in its place.
fn shown(module: &mut Module, id: CK_SLOT_ID, pin: Option<&[u8]>) -> Result<Secret> {
    let slot = module.slot(id)?;
    match pin {
        Some(pin) => Ok(Arc::new(Zeroizing::new(pin.to_vec()))),
        None if slot.policy.login != Login::Application => slot.source_pin(),
        None => Err(Rv(CKR_ARGUMENTS_BAD)),
    }
}

fn login_user(handle: CK_SESSION_HANDLE, pin: Option<&[u8]>) -> Result<()> {
    let (mut access, id, unread) = {
        let mut module = module::lock()?;
        let id = module.session(handle)?.slot;
        match module.slot(id)?.user {
            LoggedIn::User => return Err(Rv(CKR_USER_ALREADY_LOGGED_IN)),
            LoggedIn::Officer(_) => return Err(Rv(CKR_USER_ANOTHER_ALREADY_LOGGED_IN)),
            LoggedIn::Nobody => {}
        }
        let secret = shown(&mut module, id, pin)?;
        let slot = module.slot(id)?;
        let (keep, unread) = (!slot.policy.shared, slot.objects.is_none());
        let mut access = module.access(id, keep)?;
        access.pin = Some(secret);
        (access, id, unread)
    };
    let secret = access.pin.clone();
    // What lies on the element comes with the same request where it is not known yet.
    let outcome = access.run(|piv| {
        if unread {
            return piv.verified_inventory(&Slot::ALL).map(Some);
        }
        let pin = secret
            .as_ref()
            .map(|pin| pin.as_slice())
            .unwrap_or_default();
        piv.verify(pin).map(|()| None)
    });
    let mut module = module::lock()?;
    let inventory = outcome.map_err(|error| {
        let code = module.failed(id, &error);
        if let Ok(slot) = module.slot(id) {
            slot.source_failed |= pin.is_none() && code == Rv(CKR_PIN_INCORRECT);
        }
        code
    })?;
    let slot = module.slot(id)?;
    (slot.user, slot.pin, slot.tries) = (LoggedIn::User, secret, None);
    if let Some(inventory) = inventory {
        slot.objects = Some(contents(id, &slot.policy, inventory));
    }
    Ok(())
}

/// For a key that wants the PIN each time. A PIN that is the known one needs no answer of the element,
/// which is shown it together with the operation.
fn login_again(handle: CK_SESSION_HANDLE, pin: Option<&[u8]>) -> Result<()> {
    let (mut access, id, secret) = {
        let mut module = module::lock()?;
        let session = module.session(handle)?;
        let id = session.slot;
        let waits = [&session.sign, &session.decrypt];
        if !waits
            .into_iter()
            .flatten()
            .any(|begun| begun.unauthenticated)
        {
            return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
        }
        let secret = shown(&mut module, id, pin)?;
        let known = module
            .slot(id)?
            .pin
            .clone()
            .ok_or(Rv(CKR_USER_NOT_LOGGED_IN))?;
        if bool::from(known.as_slice().ct_eq(secret.as_slice())) {
            return authenticated(&mut module, handle);
        }
        (module.access(id, false)?, id, secret)
    };
    access.pin = None;
    let outcome = access.run(|piv| piv.verify(&secret));
    let mut module = module::lock()?;
    outcome.map_err(|error| module.failed(id, &error))?;
    module.slot(id)?.pin = Some(secret);
    authenticated(&mut module, handle)
}

fn authenticated(module: &mut Module, handle: CK_SESSION_HANDLE) -> Result<()> {
    let session = module.session(handle)?;
    for begun in [&mut session.sign, &mut session.decrypt]
        .into_iter()
        .flatten()
    {
        begun.unauthenticated = false;
    }
    Ok(())
}

/// The security officer is who knows the PUK; the card compares it by "changing" it to itself.
fn login_officer(handle: CK_SESSION_HANDLE, pin: Option<&[u8]>) -> Result<()> {
    let (mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(handle)?.slot;
        match module.slot(id)?.user {
            LoggedIn::Officer(_) => return Err(Rv(CKR_USER_ALREADY_LOGGED_IN)),
            LoggedIn::User => return Err(Rv(CKR_USER_ANOTHER_ALREADY_LOGGED_IN)),
            LoggedIn::Nobody => {}
        }
        let mut own = module
            .sessions
            .values()
            .filter(|session| session.slot == id);
        if own.any(|session| !session.read_write) {
            return Err(Rv(CKR_SESSION_READ_ONLY_EXISTS));
        }
        (module.access(id, true)?, id)
    };
    let puk: [u8; 8] = pin
        .ok_or(Rv(CKR_ARGUMENTS_BAD))?
        .try_into()
        .map_err(|_| Rv(CKR_PIN_INCORRECT))?;
    let puk = Zeroizing::new(puk);
    let outcome = access.run(|piv| piv.change_puk(&puk, &puk));
    let mut module = module::lock()?;
    outcome.map_err(|error| Rv::from(&error))?;
    module.slot(id)?.user = LoggedIn::Officer(Arc::new(Zeroizing::new(puk.to_vec())));
    Ok(())
}

/// C_Logout
pub(crate) fn logout(handle: CK_SESSION_HANDLE) -> Result<()> {
    let released = {
        let mut module = module::lock()?;
        let id = module.session(handle)?.slot;
        if matches!(module.slot(id)?.user, LoggedIn::Nobody) {
            return Err(Rv(CKR_USER_NOT_LOGGED_IN));
        }
        // Private objects are seen no more, and what was begun with them ends.
        for session in module
            .sessions
            .values_mut()
            .filter(|session| session.slot == id)
        {
            (session.sign, session.decrypt) = (None, None);
            session.jobs = [const { None }; 4];
        }
        log_out(&mut module, id)?
    };
    if let Some(access) = released {
        access.release();
    }
    Ok(())
}

/// C_SessionCancel
pub(crate) fn cancel(handle: CK_SESSION_HANDLE, flags: CK_FLAGS) -> Result<()> {
    let mut module = module::lock()?;
    let session = module.session(handle)?;
    let ends = |flag| flags & flag != 0;
    if ends(CKF_FIND_OBJECTS) {
        session.find = None;
    }
    if ends(CKF_DIGEST) {
        session.digest = None;
    }
    for (flag, work) in [
        (CKF_SIGN, Work::Sign),
        (CKF_VERIFY, Work::Verify),
        (CKF_ENCRYPT, Work::Encrypt),
        (CKF_DECRYPT, Work::Decrypt),
    ] {
        if ends(flag) {
            *session.job(work) = None;
        }
    }
    if ends(CKF_SIGN) {
        session.sign = None;
    }
    if ends(CKF_VERIFY) {
        session.verify = None;
    }
    if ends(CKF_ENCRYPT) {
        session.encrypt = None;
    }
    if ends(CKF_DECRYPT) {
        session.decrypt = None;
    }
    Ok(())
}
