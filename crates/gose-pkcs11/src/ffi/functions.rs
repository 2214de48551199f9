//! The functions that do something, in the standard's order.

use cryptoki_sys::*;

use super::{
    buffer::{Output, borrowed, input, put, put_list},
    exported, fork, mechanisms, template,
};
use crate::{
    api::{
        Sink, keys, objects,
        operations::{self, Opening, Purpose},
        sessions, slots, stored,
    },
    module,
    rv::Rv,
};

type Session = CK_SESSION_HANDLE;
type Bytes = *mut CK_BYTE;
type Ulong = CK_ULONG;
type Count = *mut CK_ULONG;
type Attributes = *mut CK_ATTRIBUTE;
type Object = CK_OBJECT_HANDLE;
type Mechanism = *mut CK_MECHANISM;

exported! {
    fn C_Initialize(arguments: *mut std::ffi::c_void) {
        if let Some(given) = arguments.cast::<CK_C_INITIALIZE_ARGS>().as_ref() {
            let own = [
                given.CreateMutex.is_some(),
                given.DestroyMutex.is_some(),
                given.LockMutex.is_some(),
                given.UnlockMutex.is_some(),
            ];
            let (all, none) = (own == [true; 4], own == [false; 4]);
            if !given.pReserved.is_null() || !all && !none {
                return Err(Rv(CKR_ARGUMENTS_BAD));
            }
            // The module locks by means of the system's only.
            if all && given.flags & CKF_OS_LOCKING_OK == 0 {
                return Err(Rv(CKR_CANT_LOCK));
            }
        }
        fork::watch();
        module::initialize()
    }

    fn C_Finalize(reserved: *mut std::ffi::c_void) {
        if !reserved.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        module::finalize()
    }

    fn C_GetInfo(info: *mut CK_INFO) {
        module::lock()?;
        put(info, CK_INFO {
            cryptokiVersion: CK_VERSION { major: 3, minor: 0 },
            manufacturerID: slots::padded(b"GoSE"),
            flags: 0,
            libraryDescription: slots::padded(b"Grid of Secure Elements"),
            libraryVersion: slots::VERSION,
        })
    }

    fn C_GetSlotList(token_present: CK_BBOOL, list: *mut CK_SLOT_ID, count: Count) {
        if count.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // The list is the same between the call for its length and the one for itself; some ask only once.
        if list.is_null() || slots::never_asked()? {
            slots::refresh()?;
        }
        put_list(list, count, &slots::ids(token_present != CK_FALSE)?)
    }

    fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) {
        put(info, slots::info(slot)?)
    }

    fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) {
        put(info, slots::token(slot)?)
    }

    fn C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: Count) {
        let found: Vec<_> = slots::mechanisms(slot)?.into_iter().map(|(kind, _)| kind).collect();
        put_list(list, count, &found)
    }

    fn C_GetMechanismInfo(slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO) {
        let found = slots::mechanisms(slot)?.into_iter().find(|(other, _)| *other == kind);
        put(info, found.ok_or(Rv(CKR_MECHANISM_INVALID))?.1)
    }

    fn C_InitPIN(session: Session, pin: Bytes, len: Ulong) {
        slots::init_pin(session, borrowed(pin, len)?)
    }

    fn C_SetPIN(session: Session, old: Bytes, old_len: Ulong, new: Bytes, new_len: Ulong) {
        slots::set_pin(session, borrowed(old, old_len)?, borrowed(new, new_len)?)
    }

    fn C_OpenSession(
        slot: CK_SLOT_ID,
        flags: CK_FLAGS,
        _application: *mut std::ffi::c_void,
        _notify: CK_NOTIFY,
        session: *mut Session,
    ) {
        if session.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        put(session, sessions::open(slot, flags)?)
    }

    fn C_CloseSession(session: Session) {
        sessions::close(session)
    }

    fn C_CloseAllSessions(slot: CK_SLOT_ID) {
        sessions::close_all(slot)
    }

    fn C_GetSessionInfo(session: Session, info: *mut CK_SESSION_INFO) {
        put(info, sessions::info(session)?)
    }

    fn C_Login(session: Session, user: CK_USER_TYPE, pin: Bytes, len: Ulong) {
        let given = !pin.is_null();
        let pin = borrowed(pin, len)?;
        sessions::login(session, user, given.then_some(pin))
    }

    fn C_Logout(session: Session) {
        sessions::logout(session)
    }

    fn C_CreateObject(session: Session, attributes: Attributes, count: Ulong, object: *mut Object) {
        if object.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let attributes = template::read(attributes, count)?;
        put(object, objects::create(session, &attributes)?)
    }

    fn C_CopyObject(
        session: Session,
        from: Object,
        attributes: Attributes,
        count: Ulong,
        object: *mut Object,
    ) {
        if object.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let attributes = template::read(attributes, count)?;
        put(object, objects::copy(session, from, &attributes)?)
    }

    fn C_DestroyObject(session: Session, object: Object) {
        objects::destroy(session, object)
    }

    fn C_GetObjectSize(session: Session, object: Object, size: Count) {
        let bytes = objects::object(session, object)?.size();
        put(size, bytes as Ulong)
    }

    fn C_GetAttributeValue(session: Session, object: Object, attributes: Attributes, count: Ulong) {
        let object = if template::asks(attributes, count, CKA_VALUE) {
            stored::with_content(session, object)?
        } else {
            objects::object(session, object)?
        };
        template::fill(attributes, count, &object)
    }

    fn C_SetAttributeValue(session: Session, object: Object, attributes: Attributes, count: Ulong) {
        let attributes = template::read(attributes, count)?;
        objects::set(session, object, &attributes)
    }

    fn C_FindObjectsInit(session: Session, attributes: Attributes, count: Ulong) {
        objects::find(session, &template::read(attributes, count)?)
    }

    fn C_FindObjects(session: Session, list: *mut Object, most: Ulong, count: Count) {
        if count.is_null() || list.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let found = objects::found(session, most)?;
        put(count, found.len() as Ulong)?;
        put_list(list, count, &found)
    }

    fn C_FindObjectsFinal(session: Session) {
        objects::found_all(session)
    }

    fn C_EncryptInit(session: Session, mechanism: Mechanism, key: Object) {
        operations::public_init(session, Opening::Encrypt, mechanisms::read(mechanism)?, key)
    }

    fn C_Encrypt(session: Session, data: Bytes, len: Ulong, out: Bytes, out_len: Count) {
        let data = input(data, len)?;
        operations::encrypt(session, Some(&data), &mut Output::new(out, out_len)?)
    }

    fn C_EncryptUpdate(session: Session, part: Bytes, len: Ulong, out: Bytes, out_len: Count) {
        let part = input(part, len)?;
        let mut out = Output::new(out, out_len)?;
        // NULL asks for the length alone: the part comes again.
        let part = if out.capacity().is_some() { &*part } else { &[] };
        operations::public_add(session, Opening::Encrypt, part)?;
        out.tell(0);
        Ok(())
    }

    fn C_EncryptFinal(session: Session, out: Bytes, out_len: Count) {
        operations::encrypt(session, None, &mut Output::new(out, out_len)?)
    }

    fn C_DecryptInit(session: Session, mechanism: Mechanism, key: Object) {
        operations::private_init(session, Purpose::Decrypt, mechanisms::read(mechanism)?, key)
    }

    fn C_Decrypt(session: Session, data: Bytes, len: Ulong, out: Bytes, out_len: Count) {
        let data = input(data, len)?;
        let mut out = Output::new(out, out_len)?;
        operations::private_finish(session, Purpose::Decrypt, Some(&data), &mut out)
    }

    fn C_DecryptUpdate(session: Session, part: Bytes, len: Ulong, out: Bytes, out_len: Count) {
        let part = input(part, len)?;
        let mut out = Output::new(out, out_len)?;
        let part = if out.capacity().is_some() { &*part } else { &[] };
        operations::private_add(session, Purpose::Decrypt, part)?;
        out.tell(0);
        Ok(())
    }

    fn C_DecryptFinal(session: Session, out: Bytes, out_len: Count) {
        let mut out = Output::new(out, out_len)?;
        operations::private_finish(session, Purpose::Decrypt, None, &mut out)
    }

    fn C_DigestInit(session: Session, mechanism: Mechanism) {
        operations::digest_init(session, &mechanisms::read(mechanism)?)
    }

    fn C_Digest(session: Session, data: Bytes, len: Ulong, out: Bytes, out_len: Count) {
        let data = input(data, len)?;
        operations::digest(session, Some(&data), &mut Output::new(out, out_len)?)
    }

    fn C_DigestUpdate(session: Session, part: Bytes, len: Ulong) {
        operations::digest_add(session, borrowed(part, len)?)
    }

    fn C_DigestFinal(session: Session, out: Bytes, out_len: Count) {
        operations::digest(session, None, &mut Output::new(out, out_len)?)
    }

    fn C_SignInit(session: Session, mechanism: Mechanism, key: Object) {
        operations::private_init(session, Purpose::Sign, mechanisms::read(mechanism)?, key)
    }

    fn C_Sign(session: Session, data: Bytes, len: Ulong, out: Bytes, out_len: Count) {
        let data = input(data, len)?;
        let mut out = Output::new(out, out_len)?;
        operations::private_finish(session, Purpose::Sign, Some(&data), &mut out)
    }

    fn C_SignUpdate(session: Session, part: Bytes, len: Ulong) {
        operations::private_add(session, Purpose::Sign, borrowed(part, len)?)
    }

    fn C_SignFinal(session: Session, out: Bytes, out_len: Count) {
        let mut out = Output::new(out, out_len)?;
        operations::private_finish(session, Purpose::Sign, None, &mut out)
    }

    fn C_VerifyInit(session: Session, mechanism: Mechanism, key: Object) {
        operations::public_init(session, Opening::Verify, mechanisms::read(mechanism)?, key)
    }

    fn C_Verify(session: Session, data: Bytes, len: Ulong, signature: Bytes, signature_len: Ulong) {
        let signature = borrowed(signature, signature_len)?;
        operations::verify(session, Some(borrowed(data, len)?), signature)
    }

    fn C_VerifyUpdate(session: Session, part: Bytes, len: Ulong) {
        operations::public_add(session, Opening::Verify, borrowed(part, len)?)
    }

    fn C_VerifyFinal(session: Session, signature: Bytes, len: Ulong) {
        operations::verify(session, None, borrowed(signature, len)?)
    }

    fn C_GenerateKey(
        session: Session,
        mechanism: Mechanism,
        attributes: Attributes,
        count: Ulong,
        key: *mut Object,
    ) {
        if key.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let mechanism = mechanisms::read(mechanism)?;
        let attributes = template::read(attributes, count)?;
        put(key, stored::generate(session, &mechanism, &attributes)?)
    }

    fn C_WrapKey(
        session: Session,
        mechanism: Mechanism,
        by: Object,
        key: Object,
        out: Bytes,
        out_len: Count,
    ) {
        let mechanism = mechanisms::read(mechanism)?;
        stored::wrap(session, &mechanism, by, key, &mut Output::new(out, out_len)?)
    }

    fn C_UnwrapKey(
        session: Session,
        mechanism: Mechanism,
        by: Object,
        wrapped: Bytes,
        len: Ulong,
        attributes: Attributes,
        count: Ulong,
        key: *mut Object,
    ) {
        if key.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let mechanism = mechanisms::read(mechanism)?;
        let attributes = template::read(attributes, count)?;
        put(key, stored::unwrap(session, &mechanism, by, borrowed(wrapped, len)?, &attributes)?)
    }

    fn C_GenerateKeyPair(
        session: Session,
        mechanism: Mechanism,
        public: Attributes,
        public_count: Ulong,
        private: Attributes,
        private_count: Ulong,
        public_key: *mut Object,
        private_key: *mut Object,
    ) {
        if public_key.is_null() || private_key.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let mechanism = mechanisms::read(mechanism)?;
        let public = template::read(public, public_count)?;
        let private = template::read(private, private_count)?;
        let made = keys::generate(session, &mechanism, &public, &private)?;
        put(public_key, made.0)?;
        put(private_key, made.1)
    }

    fn C_DeriveKey(
        session: Session,
        mechanism: Mechanism,
        key: Object,
        attributes: Attributes,
        count: Ulong,
        derived: *mut Object,
    ) {
        if derived.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let mechanism = mechanisms::read(mechanism)?;
        let attributes = template::read(attributes, count)?;
        put(derived, operations::derive(session, &mechanism, key, &attributes)?)
    }

    fn C_SeedRandom(session: Session, _seed: Bytes, _len: Ulong) {
        module::lock()?.session(session)?;
        Err(Rv(CKR_RANDOM_SEED_NOT_SUPPORTED))
    }

    fn C_GenerateRandom(session: Session, out: Bytes, len: Ulong) {
        module::lock()?.session(session)?;
        let size = usize::try_from(len).ok().filter(|size| *size <= 1 << 24);
        let mut drawn = vec![0; size.ok_or(Rv(CKR_ARGUMENTS_BAD))?];
        keys::random(&mut drawn)?;
        let mut len = len;
        if out.is_null() && len > 0 {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        Output::new(out, &raw mut len)?.give(&drawn);
        Ok(())
    }

    fn C_GetFunctionStatus(session: Session) {
        module::lock()?.session(session)?;
        Err(Rv(CKR_FUNCTION_NOT_PARALLEL))
    }

    fn C_CancelFunction(session: Session) {
        module::lock()?.session(session)?;
        Err(Rv(CKR_FUNCTION_NOT_PARALLEL))
    }

    fn C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut std::ffi::c_void) {
        if slot.is_null() || !reserved.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        put(slot, slots::wait(flags & CKF_DONT_BLOCK == 0)?)
    }

    fn C_LoginUser(
        session: Session,
        user: CK_USER_TYPE,
        pin: Bytes,
        len: Ulong,
        name: Bytes,
        name_len: Ulong,
    ) {
        let given = !pin.is_null();
        let pin = borrowed(pin, len)?;
        // Elements have one user, without a name.
        if !borrowed(name, name_len)?.is_empty() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        sessions::login(session, user, given.then_some(pin))
    }

    fn C_SessionCancel(session: Session, flags: CK_FLAGS) {
        sessions::cancel(session, flags)
    }
}
