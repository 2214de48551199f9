//! What the functions do, without a pointer. One file a chapter of the standard.

pub(crate) mod keys;
pub(crate) mod objects;
pub(crate) mod operations;
pub(crate) mod sessions;
pub(crate) mod slots;
pub(crate) mod stored;

use cryptoki_sys::*;

use crate::rv::{Result, Rv};

/// Where an application wants a result: a buffer, or only its length.
pub(crate) trait Sink {
    /// Bytes that fit; nothing where only the length is asked for.
    fn capacity(&self) -> Option<usize>;
    /// Tells the length.
    fn tell(&mut self, len: usize);
    /// Writes at most [`Sink::capacity`] bytes and tells their number.
    fn give(&mut self, bytes: &[u8]);
}

/// Whether a result of `len` bytes can be given; its length is told where it cannot.
///
/// # Errors
/// CKR_BUFFER_TOO_SMALL
pub(crate) fn fits(out: &mut dyn Sink, len: usize) -> Result<bool> {
    match out.capacity() {
        Some(capacity) if capacity >= len => Ok(true),
        Some(_) => {
            out.tell(len);
            Err(Rv(CKR_BUFFER_TOO_SMALL))
        }
        None => {
            out.tell(len);
            Ok(false)
        }
    }
}

/// An attribute of a template.
pub(crate) type Attribute = (CK_ATTRIBUTE_TYPE, Vec<u8>);

/// The value of an attribute of a template.
pub(crate) fn value(template: &[Attribute], kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
    let found = template.iter().find(|(other, _)| *other == kind)?;
    Some(&found.1)
}

/// A CK_ULONG of a template.
///
/// # Errors
/// CKR_ATTRIBUTE_VALUE_INVALID for another length.
pub(crate) fn number(template: &[Attribute], kind: CK_ATTRIBUTE_TYPE) -> Result<Option<CK_ULONG>> {
    value(template, kind)
        .map(|bytes| {
            Ok(CK_ULONG::from_ne_bytes(
                bytes
                    .try_into()
                    .map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?,
            ))
        })
        .transpose()
}

/// A CK_BBOOL of a template.
///
/// # Errors
/// CKR_ATTRIBUTE_VALUE_INVALID for another length.
pub(crate) fn boolean(template: &[Attribute], kind: CK_ATTRIBUTE_TYPE) -> Result<Option<bool>> {
    value(template, kind)
        .map(|bytes| match bytes {
            [byte] => Ok(*byte != CK_FALSE),
            _ => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
        })
        .transpose()
}
