//! Objects (PKCS#11 v3.0, 5.7).

use cryptoki_sys::*;
use gose_client::middleware::Source;
use gose_element::{
    ElementError,
    drive::piv::{KEY_HISTORY, Piv, PivError, Slot},
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{Attribute, boolean, number, stored, value};
use crate::{
    failure::Failure,
    line::Held,
    module::{self, Contents, contents, field},
    names::{self, Name},
    object::{self, Attributes, Handle, Kind, Object},
    public::{Curve, Public, Rsa, unsigned},
    rv::{Result, Rv},
};

/// Reads what lies on the session's element unless it is known: one request.
///
/// # Errors
/// CKR_SESSION_HANDLE_INVALID, and the element's.
pub(crate) fn read(session: CK_SESSION_HANDLE) -> Result<()> {
    let (mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        if module.slot(id)?.objects.is_some() {
            return Ok(());
        }
        (module.access(id, false)?, id)
    };
    let outcome = access.run(|piv| piv.inventory(&Slot::ALL));
    let mut module = module::lock()?;
    let inventory = outcome.map_err(|error| module.disowned(id, &error))?;
    let slot = module.slot(id)?;
    slot.objects = Some(contents(id, &slot.policy, inventory));
    Ok(())
}

/// An object that the session sees.
///
/// # Errors
/// CKR_OBJECT_HANDLE_INVALID
pub(crate) fn object(session: CK_SESSION_HANDLE, handle: Handle) -> Result<Object> {
    if handle < object::SESSION_OBJECTS {
        match (handle >> 8 & 0xFF).wrapping_sub(1) {
            CKO_SECRET_KEY | CKO_DATA => stored::read(session)?,
            _ => read(session)?,
        }
    }
    module::lock()?.object(session, handle)
}

/// C_FindObjectsInit
pub(crate) fn find(session: CK_SESSION_HANDLE, template: &[Attribute]) -> Result<()> {
    if module::lock()?.session(session)?.find.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    // The applications are asked for what the template may name; a program that wants its private key pays nothing
    // for what else the element keeps.
    let class = number(template, CKA_CLASS);
    if !matches!(class, Ok(Some(CKO_SECRET_KEY | CKO_DATA))) {
        read(session)?;
    }
    if matches!(class, Ok(None | Some(CKO_SECRET_KEY | CKO_DATA))) {
        stored::read(session)?;
    }
    let mut module = module::lock()?;
    let id = module.session(session)?.slot;
    let mut found: Vec<Handle> = module
        .slot(id)?
        .visible()
        .filter(|object| object.matches(template))
        .map(|object| object.handle)
        .collect();
    let own = module.objects.values().filter(|owned| owned.slot == id);
    found.extend(
        own.filter(|owned| owned.object.matches(template))
            .map(|owned| owned.object.handle),
    );
    // Taken from the end.
    found.reverse();
    module.session(session)?.find = Some(found);
    Ok(())
}

/// C_FindObjects
pub(crate) fn found(session: CK_SESSION_HANDLE, most: usize) -> Result<Vec<Handle>> {
    let mut module = module::lock()?;
    let left = &mut module.session(session)?.find;
    let left = left.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    let taken = left.split_off(left.len().saturating_sub(most));
    Ok(taken.into_iter().rev().collect())
}

/// C_FindObjectsFinal
pub(crate) fn found_all(session: CK_SESSION_HANDLE) -> Result<()> {
    let mut module = module::lock()?;
    let found = module.session(session)?.find.take();
    found.map(drop).ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
}

/// C_CreateObject: a certificate on the element, beside the key that it is for, secret keys and data; other
/// objects live as long as their session.
pub(crate) fn create(session: CK_SESSION_HANDLE, template: &[Attribute]) -> Result<Handle> {
    let class = number(template, CKA_CLASS)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let token = boolean(template, CKA_TOKEN)?.unwrap_or(false);
    match (class, token) {
        (CKO_CERTIFICATE, true) => import_certificate(session, template),
        (CKO_SECRET_KEY, true) => stored::import(session, template),
        (CKO_DATA, true) => stored::create_data(session, template),
        (_, true) => Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        _ => own_object(session, class, template),
    }
}

fn own_object(
    session: CK_SESSION_HANDLE,
    class: CK_OBJECT_CLASS,
    template: &[Attribute],
) -> Result<Handle> {
    let mut attributes = Attributes::of(class);
    for (kind, value) in template {
        attributes.put(*kind, value.clone());
    }
    let yes = |kind| !matches!(boolean(template, kind), Ok(Some(false)));
    for (kind, default) in [
        (CKA_TOKEN, false),
        (CKA_PRIVATE, false),
        (CKA_MODIFIABLE, yes(CKA_MODIFIABLE)),
        (CKA_COPYABLE, yes(CKA_COPYABLE)),
        (CKA_DESTROYABLE, yes(CKA_DESTROYABLE)),
    ] {
        attributes.put_default(kind, vec![u8::from(default)]);
    }
    attributes.put_default(CKA_LABEL, []);
    let kind = match class {
        CKO_DATA => {
            for kind in [CKA_VALUE, CKA_APPLICATION, CKA_OBJECT_ID] {
                attributes.put_default(kind, []);
            }
            Kind::Data
        }
        CKO_CERTIFICATE => {
            let der = value(template, CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
            let parsed = certificate(der)?;
            object::certificate_attributes(&mut attributes, der, &parsed);
            Kind::Certificate(None)
        }
        CKO_PUBLIC_KEY => {
            let public = public_key(template)?;
            attributes.put_default(CKA_ID, []);
            attributes.put_default(CKA_VERIFY, [CK_TRUE]);
            attributes.put_default(CKA_PUBLIC_KEY_INFO, public.info());
            let encrypts = u8::from(matches!(public, Public::Rsa(_)));
            attributes.put_default(CKA_ENCRYPT, [encrypts]);
            Kind::Public(public)
        }
        CKO_SECRET_KEY => {
            let value = value(template, CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
            return secret(session, template, Zeroizing::new(value.to_vec()), false);
        }
        // The private key of somebody who has it already is no key of an element.
        _ => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
    };
    module::lock()?.new_object(session, |handle| attributes.object(handle, kind))
}

/// A secret key of the session.
pub(crate) fn secret(
    session: CK_SESSION_HANDLE,
    template: &[Attribute],
    value: Zeroizing<Vec<u8>>,
    local: bool,
) -> Result<Handle> {
    if boolean(template, CKA_TOKEN)?.unwrap_or(false) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let mut attributes = Attributes::of(CKO_SECRET_KEY);
    for (kind, value) in template {
        attributes.put(*kind, value.clone());
    }
    attributes.put_default(CKA_KEY_TYPE, object::ulong(CKK_GENERIC_SECRET));
    for kind in [CKA_LABEL, CKA_ID, CKA_START_DATE, CKA_END_DATE] {
        attributes.put_default(kind, []);
    }
    for kind in [
        CKA_TOKEN,
        CKA_PRIVATE,
        CKA_SENSITIVE,
        CKA_ALWAYS_SENSITIVE,
        CKA_NEVER_EXTRACTABLE,
    ] {
        attributes.put_default(kind, [CK_FALSE]);
    }
    for kind in [
        CKA_EXTRACTABLE,
        CKA_MODIFIABLE,
        CKA_COPYABLE,
        CKA_DESTROYABLE,
        CKA_DERIVE,
    ] {
        attributes.put_default(kind, [CK_TRUE]);
    }
    attributes.put(CKA_LOCAL, [u8::from(local)]);
    attributes.put(CKA_VALUE_LEN, object::ulong(value.len() as CK_ULONG));
    attributes.put(CKA_VALUE, value.to_vec());
    module::lock()?.new_object(session, |handle| attributes.object(handle, Kind::Secret))
}

fn public_key(template: &[Attribute]) -> Result<Public> {
    let need = |kind| value(template, kind).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE));
    match number(template, CKA_KEY_TYPE)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))? {
        CKK_RSA => {
            let modulus = unsigned(need(CKA_MODULUS)?).to_vec();
            let exponent = unsigned(need(CKA_PUBLIC_EXPONENT)?).to_vec();
            if modulus.len() < 128 || exponent.is_empty() {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            Ok(Public::Rsa(Rsa { modulus, exponent }))
        }
        CKK_EC => {
            let curve =
                Curve::of_parameters(need(CKA_EC_PARAMS)?).ok_or(Rv(CKR_CURVE_NOT_SUPPORTED))?;
            let point = need(CKA_EC_POINT)?;
            // DER, or as some applications give it.
            let point = gose_proto::apdu::tlv::find(point, 0x04)
                .filter(|inner| inner.len() == 2 * curve.len() + 1)
                .unwrap_or(point);
            if point.len() != 2 * curve.len() + 1 || point.first() != Some(&4) {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            Ok(Public::Ec(curve, point.to_vec()))
        }
        _ => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
    }
}

fn certificate(der: &[u8]) -> Result<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
    }
}

fn import_certificate(session: CK_SESSION_HANDLE, template: &[Attribute]) -> Result<Handle> {
    let der = value(template, CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
    let certified = Public::of_info(certificate(der)?.public_key().raw);
    writable(session)?;
    read(session)?;
    let (slot, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        let objects = module.slot(id)?.objects.clone();
        let objects = objects.iter().flat_map(|contents| &contents.objects);
        let key = objects
            .filter_map(|object| match &object.kind {
                Kind::Private(key) => Some(key),
                _ => None,
            })
            .find(|key| Some(&key.public) == certified.as_ref());
        (
            key.map(|key| key.slot)
                .ok_or(Rv(CKR_TEMPLATE_INCONSISTENT))?,
            id,
        )
    };
    manage(session, |piv, _| piv.put_certificate(slot, der))?;
    Ok(object::handle(id, CKO_CERTIFICATE, slot))
}

/// C_DestroyObject: objects of sessions; certificates, secret keys and data on the element.
pub(crate) fn destroy(session: CK_SESSION_HANDLE, handle: Handle) -> Result<()> {
    let object = object(session, handle)?;
    if !object.is(CKA_DESTROYABLE) {
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    match object.kind {
        Kind::Certificate(Some(slot)) => {
            writable(session)?;
            manage(session, |piv, _| {
                piv.put_object(slot.certificate_tag(), &[])
            })
        }
        Kind::Stored { key, .. } => stored::destroy_key(session, key),
        Kind::StoredData(number) => stored::destroy_data(session, number),
        _ => {
            module::lock()?.objects.remove(&handle);
            Ok(())
        }
    }
}

/// C_CopyObject: objects of sessions.
pub(crate) fn copy(
    session: CK_SESSION_HANDLE,
    handle: Handle,
    template: &[Attribute],
) -> Result<Handle> {
    let object = object(session, handle)?;
    if handle < object::SESSION_OBJECTS || !object.is(CKA_COPYABLE) {
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    if boolean(template, CKA_TOKEN)?.unwrap_or(false) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let mut copy = object;
    for (kind, value) in template {
        changeable(&copy, *kind)?;
        copy.set(*kind, value.clone());
    }
    module::lock()?.new_object(session, |handle| copy.under(handle))
}

/// What C_SetAttributeValue and C_CopyObject may change.
fn changeable(object: &Object, kind: CK_ATTRIBUTE_TYPE) -> Result<()> {
    match kind {
        CKA_LABEL | CKA_ID | CKA_APPLICATION | CKA_SUBJECT => Ok(()),
        CKA_VALUE if object.kind == Kind::Data => Ok(()),
        // They can only be made stricter; the caller's value is looked at by the application alone.
        CKA_COPYABLE | CKA_DESTROYABLE | CKA_DERIVE | CKA_ENCRYPT | CKA_VERIFY => Ok(()),
        _ => Err(Rv(CKR_ATTRIBUTE_READ_ONLY)),
    }
}

/// C_SetAttributeValue: labels and identifiers of keys on the element, more of session objects.
pub(crate) fn set(
    session: CK_SESSION_HANDLE,
    handle: Handle,
    template: &[Attribute],
) -> Result<()> {
    let object = object(session, handle)?;
    if !object.is(CKA_MODIFIABLE) {
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    if handle >= object::SESSION_OBJECTS {
        for (kind, _) in template {
            changeable(&object, *kind)?;
        }
        let mut module = module::lock()?;
        let owned = module
            .objects
            .get_mut(&handle)
            .ok_or(Rv(CKR_OBJECT_HANDLE_INVALID))?;
        for (kind, value) in template {
            owned.object.set(*kind, value.clone());
        }
        return Ok(());
    }
    if let Kind::StoredData(number) = object.kind {
        return stored::write_data(session, number, template);
    }
    if template
        .iter()
        .any(|(kind, _)| !matches!(*kind, CKA_LABEL | CKA_ID))
    {
        return Err(Rv(CKR_ATTRIBUTE_READ_ONLY));
    }
    writable(session)?;
    let slot = Slot::try_from((handle & 0xFF) as u8).map_err(|_| Rv(CKR_OBJECT_HANDLE_INVALID))?;
    manage(session, |piv, contents| name(piv, contents, slot, template))
}

/// Calls a key as a template says; what the template does not say stays.
pub(crate) fn name(
    piv: &mut Piv<'_>,
    contents: Option<&Contents>,
    slot: Slot,
    template: &[Attribute],
) -> std::result::Result<(), PivError> {
    let own = |kind| value(template, kind).map(<[u8]>::to_vec);
    let (id, label) = (own(CKA_ID), own(CKA_LABEL));
    if id.is_none() && label.is_none() {
        return Ok(());
    }
    let history = contents.and_then(|contents| contents.key_history.as_deref());
    let known = history.map(names::read).unwrap_or_default();
    let before = known.into_iter().find(|name| name.slot == slot);
    let (old_id, old_label) = before.map(|name| (name.id, name.label)).unwrap_or_default();
    let name = Name {
        slot,
        id: id.or(old_id),
        label: label.or(old_label),
    };
    let keys = contents.iter().flat_map(|contents| &contents.objects);
    let slots = keys.filter_map(|object| match &object.kind {
        Kind::Private(key) => Some(key.slot),
        _ => None,
    });
    // The retired slots are counted up to the last one with a key.
    let retired = slots
        .chain([slot])
        .filter_map(|slot| slot.id().checked_sub(0x81).filter(|number| *number <= 20))
        .max()
        .unwrap_or(0);
    piv.put_object(KEY_HISTORY, &object::rename(history, name, retired))
}

/// Whether a template's names can be kept.
pub(crate) fn names_fit(template: &[Attribute]) -> Result<()> {
    let long = |kind| value(template, kind).is_some_and(|value| value.len() > names::LONGEST);
    if long(CKA_ID) || long(CKA_LABEL) {
        return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    }
    Ok(())
}

/// Whether the session may write to the element.
///
/// # Errors
/// CKR_SESSION_READ_ONLY, CKR_TOKEN_WRITE_PROTECTED
pub(crate) fn writable(session: CK_SESSION_HANDLE) -> Result<()> {
    let mut module = module::lock()?;
    if !module.session(session)?.read_write {
        return Err(Rv(CKR_SESSION_READ_ONLY));
    }
    let config = module.config.clone();
    let slot = module.slot_of(session)?;
    if slot.policy.management_key.is_none() {
        config.log.line(&format!(
            "element {}: nothing can be written without a `management-key`",
            slot.seid
        ));
        return Err(Rv(CKR_TOKEN_WRITE_PROTECTED));
    }
    Ok(())
}

/// Runs an operation that needs the management key; what lies on the element is read anew after it.
pub(crate) fn manage<T>(
    session: CK_SESSION_HANDLE,
    mut operation: impl FnMut(&mut Piv<'_>, Option<&Contents>) -> std::result::Result<T, PivError>,
) -> Result<T> {
    let before = module::lock()?.slot_of(session)?.objects.take();
    let (done, inventory) = administer(session, |held, key| {
        held.piv(|piv| {
            piv.authenticate_management(key)?;
            let done = operation(piv, before.as_deref())?;
            Ok((done, piv.inventory(&Slot::ALL)?))
        })
    })?;
    let mut module = module::lock()?;
    let id = module.session(session)?.slot;
    let slot = module.slot(id)?;
    slot.objects = Some(contents(id, &slot.policy, inventory));
    Ok(done)
}

/// Runs an operation that gets the management key.
///
/// # Errors
/// CKR_TOKEN_WRITE_PROTECTED without the key, and where the grid has another administrator; the element's.
pub(crate) fn administer<T>(
    session: CK_SESSION_HANDLE,
    mut operation: impl FnMut(&mut Held<'_>, &[u8; 32]) -> std::result::Result<T, Failure>,
) -> Result<T> {
    let (mut access, id, key, keeps) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        let config = module.config.clone();
        let slot = module.slot(id)?;
        let key = management_key(slot.policy.management_key.as_ref(), &config.folder);
        let key = key.ok_or_else(|| {
            config.log.line(&format!(
                "element {}: the management key has 64 hexadecimal digits, in a file of its own or one of `gose element init`",
                slot.seid
            ));
            Rv(CKR_TOKEN_WRITE_PROTECTED)
        })?;
        let keeps = slot.kept;
        (module.access(id, true)?, id, key, keeps)
    };
    access.throughout();
    let outcome = access.hold(|held| operation(held, &key));
    if !keeps {
        access.release();
    }
    let mut module = module::lock()?;
    module.slot(id)?.kept = keeps;
    outcome.map_err(|error| {
        let code = module.failed(id, &error);
        match error.element() {
            Some(ElementError::Refused) => {
                let hint = "keys and certificates are made by who has role = \"admin\" there";
                module.config.log.line(hint);
                Rv(CKR_TOKEN_WRITE_PROTECTED)
            }
            _ => code,
        }
    })
}

fn management_key(
    source: Option<&Source>,
    folder: &std::path::Path,
) -> Option<Zeroizing<[u8; 32]>> {
    let text = source?.read(folder).ok()?;
    let digits = field(&text, "management-key").unwrap_or(text);
    let bytes = Zeroizing::new(gose_proto::hex::decode(&digits).ok()?);
    bytes.as_slice().try_into().map(Zeroizing::new).ok()
}
