//! Attribute templates.

use cryptoki_sys::*;

use super::buffer::borrowed;
use crate::{
    api::Attribute,
    object::Object,
    rv::{Result, Rv},
};

/// Attributes that a template may have.
const MOST: CK_ULONG = 256;

/// Bytes that the value of an attribute may have.
const LONGEST: CK_ULONG = 1 << 20;

/// The attributes of a template.
///
/// # Errors
/// CKR_ARGUMENTS_BAD, CKR_ATTRIBUTE_VALUE_INVALID for a length that cannot be.
///
/// # Safety
/// `template` is NULL or valid for `count` attributes, each of whose values is NULL or valid for its length.
pub(super) unsafe fn read(
    template: *const CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Result<Vec<Attribute>> {
    if count > MOST || (template.is_null() && count > 0) {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    let mut read = Vec::new();
    for index in (0usize..).take_while(|index| (*index as CK_ULONG) < count) {
        // SAFETY: below `count`, hence valid (the caller's promise).
        let attribute = unsafe { template.add(index).read_unaligned() };
        if attribute.ulValueLen > LONGEST {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        // SAFETY: the value is NULL or valid for its length (the caller's promise).
        let value = unsafe { borrowed(attribute.pValue.cast(), attribute.ulValueLen) };
        let value = value.map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        read.push((attribute.type_, value.to_vec()));
    }
    Ok(read)
}

/// Whether a template names an attribute.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn asks(
    template: *const CK_ATTRIBUTE,
    count: CK_ULONG,
    kind: CK_ATTRIBUTE_TYPE,
) -> bool {
    !template.is_null()
        && (0usize..)
            .take_while(|index| (*index as CK_ULONG) < count.min(MOST))
            // SAFETY: below `count`, hence valid (the caller's promise).
            .any(|index| unsafe { template.add(index).read_unaligned() }.type_ == kind)
}

/// Fills a template with an object's values (PKCS#11 v3.0, 5.7.5): all attributes are worked on, whatever
/// comes of one of them.
///
/// # Errors
/// CKR_ARGUMENTS_BAD; CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL of one of
/// the attributes.
///
/// # Safety
/// As [`read`], and the values are valid for writes.
pub(super) unsafe fn fill(
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: &Object,
) -> Result<()> {
    if count > MOST || template.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    let mut outcome = Ok(());
    for index in (0usize..).take_while(|index| (*index as CK_ULONG) < count) {
        // SAFETY: below `count`, hence valid (the caller's promise).
        let place = unsafe { template.add(index) };
        // SAFETY: as above.
        let mut attribute = unsafe { place.read_unaligned() };
        match object.attribute(attribute.type_) {
            Err(code) => {
                attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
                outcome = Err(code);
            }
            Ok(value) => {
                let len = value.len() as CK_ULONG;
                if attribute.pValue.is_null() {
                    attribute.ulValueLen = len;
                } else if attribute.ulValueLen < len {
                    attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
                    outcome = Err(Rv(CKR_BUFFER_TOO_SMALL));
                } else {
                    // SAFETY: not NULL, and valid for `ulValueLen` bytes or more than the value has.
                    unsafe { std::ptr::copy(value.as_ptr(), attribute.pValue.cast(), value.len()) };
                    attribute.ulValueLen = len;
                }
            }
        }
        // SAFETY: as above.
        unsafe { place.write_unaligned(attribute) };
    }
    outcome
}
