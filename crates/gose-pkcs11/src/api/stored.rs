//! Secret keys and data objects of the element's storage application (PKCS#11 v3.0, 5.7 to 5.18).

use cryptoki_sys::*;
use gose_element::drive::storage::{self, KeyReference, NewKey, NewObject, Storage, StorageError};
use zeroize::Zeroizing;

use super::{
    Attribute, Sink, boolean, fits, number,
    objects::{administer, object, writable},
    value,
};
use crate::{
    mechanism::Mechanism,
    module::{self, Access, Module},
    object::{self, Handle, Kind, Object},
    rv::{Result, Rv},
    stored::{self, Job, MOST, WRAPPING, Wanted, Work},
};

type Handles = CK_SESSION_HANDLE;

/// Bytes of a cryptogram's head: what it is.
const GCM: u8 = 0x80;

/// The use of an element by who is logged in.
fn access(module: &mut Module, id: CK_SLOT_ID) -> Result<Access> {
    module.show_pin(id)?;
    let keep = !module.slot(id)?.policy.shared;
    module.access(id, keep)
}

/// Reads what lies in the storage application, where an application may see it, unless it is known: one request.
///
/// # Errors
/// CKR_SESSION_HANDLE_INVALID, and the element's.
pub(crate) fn read(session: Handles) -> Result<()> {
    let (mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        let slot = module.slot(id)?;
        if slot.stored.is_some() || slot.stores == Some(false) || !slot.shows_private() {
            return Ok(());
        }
        (access(&mut module, id)?, id)
    };
    let outcome = access.storage(|storage| storage.inventory());
    let mut module = module::lock()?;
    let inventory = match outcome {
        Ok(inventory) => inventory,
        Err(error) if error.without_storage() => {
            module.slot(id)?.stores = Some(false);
            return Ok(());
        }
        Err(error) => return Err(module.disowned(id, &error)),
    };
    let slot = module.slot(id)?;
    slot.stores = Some(true);
    slot.stored = Some(stored::of_inventory(id, &inventory));
    Ok(())
}

/// Whether the element has the storage application; it is asked once.
///
/// # Errors
/// CKR_SLOT_ID_INVALID, CKR_TOKEN_NOT_PRESENT, and the element's.
pub(crate) fn has(id: CK_SLOT_ID) -> Result<bool> {
    let mut access = {
        let mut module = module::lock()?;
        if let Some(known) = super::slots::present(&mut module, id)?.stores {
            return Ok(known);
        }
        module.access(id, false)?
    };
    access.pin = None;
    let outcome = access.storage(|storage| storage.random(1));
    let mut module = module::lock()?;
    let has = match outcome {
        Ok(_) => true,
        Err(error) if error.without_storage() => false,
        Err(error) => return Err(module.failed(id, &error)),
    };
    module.slot(id)?.stores = Some(has);
    Ok(has)
}

/// Runs a change by the user; what lies on the element is read anew when it is next asked for.
fn change<T>(
    session: Handles,
    operation: impl FnMut(&mut Storage<'_>) -> std::result::Result<T, StorageError>,
) -> Result<T> {
    let (mut access, id) = {
        let mut module = module::lock()?;
        let session = module.session(session)?;
        if !session.read_write {
            return Err(Rv(CKR_SESSION_READ_ONLY));
        }
        let id = session.slot;
        (access(&mut module, id)?, id)
    };
    let outcome = access.storage(operation);
    let mut module = module::lock()?;
    module.slot(id)?.stored = None;
    outcome.map_err(|error| module.disowned(id, &error))
}

/// Runs a change by who has the management key.
fn manage(
    session: Handles,
    mut operation: impl FnMut(&mut Storage<'_>) -> std::result::Result<(), StorageError>,
) -> Result<()> {
    writable(session)?;
    let outcome = administer(session, |held, key| {
        held.storage(|storage| {
            storage.authenticate_management(key)?;
            operation(storage)
        })
    });
    module::lock()?.slot_of(session)?.stored = None;
    outcome
}

/// The numbers of the session's element that objects of a class have.
fn used(session: Handles, class: CK_OBJECT_CLASS) -> Result<(Vec<u8>, CK_SLOT_ID)> {
    let mut module = module::lock()?;
    let id = module.session(session)?.slot;
    module.show_pin(id)?;
    drop(module);
    read(session)?;
    let mut module = module::lock()?;
    let slot = module.slot(id)?;
    if slot.stores == Some(false) {
        return Err(Rv(CKR_FUNCTION_NOT_SUPPORTED));
    }
    let numbers = slot
        .stored
        .iter()
        .flatten()
        .filter_map(|object| match &object.kind {
            Kind::Stored { key, .. } if class == CKO_SECRET_KEY => Some(key.id()),
            Kind::StoredData(number) if class == CKO_DATA => Some(*number),
            _ => None,
        });
    Ok((numbers.collect(), id))
}

/// Where a new key comes: the number that its CKA_ID says, else the first one that is free.
fn place(session: Handles, wanted: &Wanted) -> Result<(KeyReference, CK_SLOT_ID)> {
    let (used, id) = used(session, CKO_SECRET_KEY)?;
    let free = |key: &KeyReference| !used.contains(&key.id());
    let found = match wanted.number {
        Some(number) => Some(number),
        None => (1..=0x7F)
            .filter_map(|number| number.try_into().ok())
            .find(free),
    };
    let found = found.filter(free).ok_or(Rv(CKR_DEVICE_MEMORY))?;
    Ok((found, id))
}

fn new_key(wanted: &Wanted, reference: KeyReference) -> NewKey<'_> {
    NewKey {
        reference,
        algorithm: wanted.algorithm,
        wrappable: wanted.wrappable,
        label: &wanted.label,
    }
}

/// C_GenerateKey: the key is made in the element.
pub(crate) fn generate(
    session: Handles,
    mechanism: &Mechanism,
    template: &[Attribute],
) -> Result<Handle> {
    let kind = match mechanism {
        Mechanism::AesKey => CKK_AES,
        Mechanism::GenericSecretKey => CKK_GENERIC_SECRET,
        _ => return Err(Rv(CKR_MECHANISM_INVALID)),
    };
    let len = number(template, CKA_VALUE_LEN)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let len = usize::try_from(len).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))?;
    let wanted = Wanted::read(template, kind, len)?;
    if len != wanted.algorithm.key_len() {
        return Err(Rv(CKR_KEY_SIZE_RANGE));
    }
    writable(session)?;
    let (reference, id) = place(session, &wanted)?;
    manage(session, |storage| {
        storage.generate(&new_key(&wanted, reference))
    })?;
    Ok(object::handle_of(id, CKO_SECRET_KEY, reference.id()))
}

/// C_CreateObject of a secret key on the element: the administrator gives it.
pub(crate) fn import(session: Handles, template: &[Attribute]) -> Result<Handle> {
    let kind = number(template, CKA_KEY_TYPE)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let key = value(template, CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let wanted = Wanted::read(template, kind, key.len()).map_err(|code| match code {
        Rv(CKR_KEY_SIZE_RANGE) => Rv(CKR_ATTRIBUTE_VALUE_INVALID),
        code => code,
    })?;
    writable(session)?;
    let (reference, id) = place(session, &wanted)?;
    manage(session, |storage| {
        storage.import(&new_key(&wanted, reference), key)
    })?;
    Ok(object::handle_of(id, CKO_SECRET_KEY, reference.id()))
}

/// C_CreateObject of data on the element.
pub(crate) fn create_data(session: Handles, template: &[Attribute]) -> Result<Handle> {
    let named = |kind| value(template, kind).is_some_and(|value| !value.is_empty());
    // The element keeps a label and the content.
    if named(CKA_APPLICATION) || named(CKA_OBJECT_ID) {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    if boolean(template, CKA_MODIFIABLE)? == Some(false)
        || boolean(template, CKA_DESTROYABLE)? == Some(false)
        || boolean(template, CKA_COPYABLE)? == Some(true)
    {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let label = stored::label(template)?;
    let content = value(template, CKA_VALUE).unwrap_or_default();
    let private = boolean(template, CKA_PRIVATE)?.unwrap_or(true);
    if !module::lock()?.session(session)?.read_write {
        return Err(Rv(CKR_SESSION_READ_ONLY));
    }
    let (used, id) = used(session, CKO_DATA)?;
    let number = (0..=u8::MAX)
        .find(|number| !used.contains(number))
        .ok_or(Rv(CKR_DEVICE_MEMORY))?;
    let new = NewObject {
        id: number,
        read: if private {
            storage::Access::Pin
        } else {
            storage::Access::Free
        },
        write: storage::Access::Pin,
        label: &label,
    };
    change(session, |storage| storage.create(&new, content))?;
    Ok(object::handle_of(id, CKO_DATA, number))
}

/// C_SetAttributeValue of data on the element: its content.
pub(crate) fn write_data(session: Handles, number: u8, template: &[Attribute]) -> Result<()> {
    match template {
        [(CKA_VALUE, content)] => change(session, |storage| storage.put(number, content)),
        _ => Err(Rv(CKR_ATTRIBUTE_READ_ONLY)),
    }
}

/// C_DestroyObject of data on the element.
pub(crate) fn destroy_data(session: Handles, number: u8) -> Result<()> {
    change(session, |storage| storage.delete(number))
}

/// C_DestroyObject of a secret key.
pub(crate) fn destroy_key(session: Handles, key: KeyReference) -> Result<()> {
    manage(session, |storage| storage.delete_key(key))
}

/// A data object of the element with its content, which is read when it is first asked for.
pub(crate) fn with_content(session: Handles, handle: Handle) -> Result<Object> {
    let found = object(session, handle)?;
    let Kind::StoredData(number) = found.kind else {
        return Ok(found);
    };
    if found.attribute(CKA_VALUE).is_ok() {
        return Ok(found);
    }
    let (mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        (access(&mut module, id)?, id)
    };
    let outcome = access.storage(|storage| storage.get(number));
    let mut module = module::lock()?;
    let content = outcome.map_err(|error| module.disowned(id, &error))?;
    let objects = module.slot(id)?.stored.iter_mut().flatten();
    let mut known = found;
    known.set(CKA_VALUE, content.to_vec());
    for object in objects.filter(|object| object.handle == handle) {
        *object = known.clone();
    }
    Ok(known)
}

/// A secret key of the element for an operation.
fn key(session: Handles, handle: Handle) -> Result<Kind> {
    match object(session, handle).map(|object| object.kind) {
        Ok(kind @ Kind::Stored { .. }) => Ok(kind),
        Ok(Kind::Private(_) | Kind::Public(_) | Kind::Secret) => Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
        Ok(_) | Err(Rv(CKR_OBJECT_HANDLE_INVALID)) => Err(Rv(CKR_KEY_HANDLE_INVALID)),
        Err(error) => Err(error),
    }
}

/// C_SignInit, C_VerifyInit, C_EncryptInit, C_DecryptInit with a mechanism of secret keys. The caller saw that
/// no such operation is active.
pub(crate) fn init(
    session: Handles,
    work: Work,
    mechanism: Mechanism,
    handle: Handle,
) -> Result<()> {
    let Kind::Stored { key, algorithm, .. } = key(session, handle)? else {
        return Err(Rv(CKR_KEY_HANDLE_INVALID));
    };
    stored::permits(work, &mechanism, algorithm)?;
    let mut module = module::lock()?;
    let id = module.session(session)?.slot;
    module.show_pin(id)?;
    *module.session(session)?.job(work) = Some(Job {
        key,
        mechanism,
        gathered: Zeroizing::default(),
    });
    Ok(())
}

/// Whether such an operation was begun with a secret key of the element.
///
/// # Errors
/// CKR_SESSION_HANDLE_INVALID
pub(crate) fn is_begun(session: Handles, work: Work) -> Result<bool> {
    Ok(module::lock()?.session(session)?.job(work).is_some())
}

/// C_SignUpdate and so on.
pub(crate) fn add(session: Handles, work: Work, part: &[u8]) -> Result<()> {
    let mut module = module::lock()?;
    let begun = module.session(session)?.job(work);
    let job = begun.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    job.add(work, part).inspect_err(|_| *begun = None)
}

/// The operation, taken from the session, and the way to the element.
fn take(session: Handles, work: Work, last: Option<&[u8]>) -> Result<(Job, Access, CK_SLOT_ID)> {
    let mut module = module::lock()?;
    let taken = module.session(session)?.job(work).take();
    let mut job = taken.ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    job.add(work, last.unwrap_or_default())?;
    let id = module.session(session)?.slot;
    Ok((job, access(&mut module, id)?, id))
}

/// C_Sign, C_Encrypt, C_Decrypt and their last parts: one request.
pub(crate) fn finish(
    session: Handles,
    work: Work,
    last: Option<&[u8]>,
    out: &mut dyn Sink,
) -> Result<()> {
    {
        let mut module = module::lock()?;
        let begun = module.session(session)?.job(work);
        let job = begun.as_ref().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
        let len = job.result_len(work, last.map_or(0, <[u8]>::len));
        let len = len.inspect_err(|_| *begun = None)?;
        if !fits(out, len)? {
            return Ok(());
        }
    }
    let (job, mut access, id) = take(session, work, last)?;
    let outcome = access.storage(|storage| job.run(work, storage));
    let result = outcome.map_err(|error| {
        module::lock().map_or_else(|code| code, |mut module| module.disowned(id, &error))
    })?;
    out.give(&result);
    Ok(())
}

impl Job {
    fn run(
        &self,
        work: Work,
        storage: &mut Storage<'_>,
    ) -> std::result::Result<Zeroizing<Vec<u8>>, StorageError> {
        let Mechanism::AesGcm { nonce, associated } = &self.mechanism else {
            return storage.mac(self.key, &self.gathered).map(Zeroizing::new);
        };
        if work == Work::Decrypt {
            let nonce = nonce.as_ref().map_or(&[][..], |nonce| nonce);
            let cryptogram = [&[GCM], nonce, &self.gathered].concat();
            return storage.decipher(self.key, associated, &cryptogram);
        }
        let cryptogram = storage.encipher(self.key, associated, &self.gathered)?;
        match cryptogram.strip_prefix(&[GCM]) {
            Some(sealed) => Ok(Zeroizing::new(sealed.to_vec())),
            None => Err(StorageError::Malformed("cryptogram")),
        }
    }
}

/// C_Verify, C_VerifyFinal: the element compares.
pub(crate) fn verify(session: Handles, last: Option<&[u8]>, signature: &[u8]) -> Result<()> {
    let (job, mut access, id) = take(session, Work::Verify, last)?;
    if signature.len() != 32 {
        return Err(Rv(CKR_SIGNATURE_LEN_RANGE));
    }
    let outcome = access.storage(|storage| storage.verify_mac(job.key, &job.gathered, signature));
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(Rv(CKR_SIGNATURE_INVALID)),
        Err(error) => Err(module::lock()?.disowned(id, &error)),
    }
}

/// C_WrapKey (RFC 3394).
pub(crate) fn wrap(
    session: Handles,
    mechanism: &Mechanism,
    by: Handle,
    what: Handle,
    out: &mut dyn Sink,
) -> Result<()> {
    if *mechanism != Mechanism::AesKeyWrap {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    let by = wrapping_key(
        session,
        by,
        CKR_WRAPPING_KEY_HANDLE_INVALID,
        CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
    )?;
    let (key, most) = match object(session, what).map(|object| object.kind) {
        Ok(Kind::Stored {
            key,
            algorithm,
            wrappable: true,
        }) => {
            // An HMAC key that came from outside has up to 64 bytes.
            let hmac = !algorithm.encrypts();
            (key, WRAPPING + if hmac { 64 } else { algorithm.key_len() })
        }
        Ok(Kind::Stored { .. } | Kind::Private(_)) => return Err(Rv(CKR_KEY_UNEXTRACTABLE)),
        Ok(Kind::Secret | Kind::Public(_)) => return Err(Rv(CKR_KEY_NOT_WRAPPABLE)),
        Ok(_) | Err(Rv(CKR_OBJECT_HANDLE_INVALID)) => return Err(Rv(CKR_KEY_HANDLE_INVALID)),
        Err(error) => return Err(error),
    };
    if out.capacity().is_none() {
        out.tell(most);
        return Ok(());
    }
    let (mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        (access(&mut module, id)?, id)
    };
    let outcome = access.storage(|storage| storage.wrap(by, key));
    let wrapped = match outcome {
        Ok(wrapped) => wrapped,
        Err(error) => return Err(module::lock()?.disowned(id, &error)),
    };
    if fits(out, wrapped.len())? {
        out.give(&wrapped);
    }
    Ok(())
}

/// A key that wraps; codes of their own tell what is wrong with it.
fn wrapping_key(
    session: Handles,
    handle: Handle,
    none: CK_RV,
    other: CK_RV,
) -> Result<KeyReference> {
    match key(session, handle) {
        Ok(Kind::Stored { key, algorithm, .. }) if algorithm.wraps() => Ok(key),
        Ok(Kind::Stored { algorithm, .. }) if algorithm.encrypts() => {
            Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED))
        }
        Ok(_) | Err(Rv(CKR_KEY_TYPE_INCONSISTENT)) => Err(Rv(other)),
        Err(Rv(CKR_KEY_HANDLE_INVALID)) => Err(Rv(none)),
        Err(error) => Err(error),
    }
}

/// C_UnwrapKey (RFC 3394): the key comes into the element; the user may do that.
pub(crate) fn unwrap(
    session: Handles,
    mechanism: &Mechanism,
    by: Handle,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<Handle> {
    if *mechanism != Mechanism::AesKeyWrap {
        return Err(Rv(CKR_MECHANISM_INVALID));
    }
    let by = wrapping_key(
        session,
        by,
        CKR_UNWRAPPING_KEY_HANDLE_INVALID,
        CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
    )?;
    let len = wrapped.len().checked_sub(WRAPPING);
    let len = len
        .filter(|len| (16..=MOST).contains(len) && len.is_multiple_of(8))
        .ok_or(Rv(CKR_WRAPPED_KEY_LEN_RANGE))?;
    let kind = number(template, CKA_KEY_TYPE)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let wanted = Wanted::read(template, kind, len).map_err(|code| match code {
        Rv(CKR_KEY_SIZE_RANGE) => Rv(CKR_WRAPPED_KEY_LEN_RANGE),
        code => code,
    })?;
    // What is unwrapped never wraps: the same bytes under two uses would let one undo the other.
    if wanted.algorithm.wraps() || value(template, CKA_VALUE).is_some() {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    if !module::lock()?.session(session)?.read_write {
        return Err(Rv(CKR_SESSION_READ_ONLY));
    }
    let (reference, id) = place(session, &wanted)?;
    change(session, |storage| {
        storage.unwrap(by, &new_key(&wanted, reference), wrapped)
    })
    .map_err(|code| match code {
        Rv(CKR_ENCRYPTED_DATA_INVALID) => Rv(CKR_WRAPPED_KEY_INVALID),
        code => code,
    })?;
    Ok(object::handle_of(id, CKO_SECRET_KEY, reference.id()))
}
