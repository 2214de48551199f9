//! Input and output of the C functions.

use cryptoki_sys::*;

use crate::{
    api::Sink,
    rv::{Result, Rv},
};

/// Bytes that an application may hand over at once: lengths above it are lies, or would not fit.
const LARGEST: CK_ULONG = 1 << 31;

/// Where a result goes.
pub(super) struct Output {
    buffer: *mut u8,
    len: *mut CK_ULONG,
    capacity: Option<usize>,
}

impl Output {
    /// # Safety
    /// `len` is NULL or valid; `buffer` is NULL or valid for writes of `*len` bytes, as long as this lives.
    pub(super) unsafe fn new(buffer: *mut u8, len: *mut CK_ULONG) -> Result<Self> {
        if len.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: not NULL, hence valid (the caller's promise).
        let given = unsafe { len.read_unaligned() };
        let capacity = (!buffer.is_null()).then(|| usize::try_from(given).unwrap_or(usize::MAX));
        Ok(Self {
            buffer,
            len,
            capacity,
        })
    }
}

impl Sink for Output {
    fn capacity(&self) -> Option<usize> {
        self.capacity
    }

    fn tell(&mut self, len: usize) {
        // SAFETY: `new` saw that it is not NULL, hence valid.
        unsafe { self.len.write_unaligned(len as CK_ULONG) };
    }

    fn give(&mut self, bytes: &[u8]) {
        let fitting = self
            .capacity
            .map_or(0, |capacity| capacity.min(bytes.len()));
        if fitting > 0 {
            // SAFETY: the buffer is not NULL and has room for `capacity` bytes; `copy` allows that it
            // overlaps.
            unsafe { std::ptr::copy(bytes.as_ptr(), self.buffer, fitting) };
        }
        self.tell(fitting);
    }
}

/// A copy of the application's bytes: its output may lie over its input.
///
/// # Errors
/// CKR_ARGUMENTS_BAD for NULL with a length, and for lengths that cannot be.
///
/// # Safety
/// `bytes` is NULL or valid for reads of `len` bytes.
pub(super) unsafe fn input(bytes: *const u8, len: CK_ULONG) -> Result<Vec<u8>> {
    // SAFETY: the caller's promise.
    unsafe { borrowed(bytes, len) }.map(<[u8]>::to_vec)
}

/// The application's bytes, where nothing is written meanwhile.
///
/// # Errors
/// As [`input`].
///
/// # Safety
/// `bytes` is NULL or valid for reads of `len` bytes, which nobody writes as long as the slice lives.
pub(super) unsafe fn borrowed<'a>(bytes: *const u8, len: CK_ULONG) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if bytes.is_null() || len > LARGEST {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    let len = usize::try_from(len).map_err(|_| Rv(CKR_ARGUMENTS_BAD))?;
    // SAFETY: not NULL, and valid for `len` bytes (the caller's promise).
    Ok(unsafe { std::slice::from_raw_parts(bytes, len) })
}

/// Writes a value where the application wants it.
///
/// # Errors
/// CKR_ARGUMENTS_BAD for NULL.
///
/// # Safety
/// `place` is NULL or valid for a write.
pub(super) unsafe fn put<T>(place: *mut T, value: T) -> Result<()> {
    if place.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: not NULL, hence valid (the caller's promise).
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Writes a list, or tells its length where `list` is NULL.
///
/// # Errors
/// CKR_BUFFER_TOO_SMALL, CKR_ARGUMENTS_BAD
///
/// # Safety
/// `count` is NULL or valid; `list` is NULL or valid for `*count` values.
pub(super) unsafe fn put_list<T: Copy>(
    list: *mut T,
    count: *mut CK_ULONG,
    values: &[T],
) -> Result<()> {
    if count.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    let needed = values.len() as CK_ULONG;
    // SAFETY: not NULL, hence valid (the caller's promise).
    let room = unsafe { count.read_unaligned() };
    // SAFETY: as above.
    unsafe { count.write_unaligned(needed) };
    if list.is_null() {
        return Ok(());
    }
    if room < needed {
        return Err(Rv(CKR_BUFFER_TOO_SMALL));
    }
    for (index, value) in values.iter().enumerate() {
        // SAFETY: `list` has room for `needed` values.
        unsafe { list.add(index).write_unaligned(*value) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fits;

    #[test]
    fn output_is_told_or_written_never_both_wrongly() {
        let mut buffer = [0xEE; 8];
        let mut len: CK_ULONG = 4;
        // SAFETY: both pointers are valid, the buffer for more than four bytes.
        let mut out = unsafe { Output::new(buffer.as_mut_ptr(), &raw mut len) }.unwrap();
        assert_eq!(fits(&mut out, 5), Err(Rv(CKR_BUFFER_TOO_SMALL)));
        assert_eq!(len, 5);
        // Even a result that was not announced never passes the buffer.
        out.give(&[1; 8]);
        assert_eq!((buffer, len), ([1, 1, 1, 1, 0xEE, 0xEE, 0xEE, 0xEE], 4));
        // SAFETY: NULL is allowed.
        let mut asked = unsafe { Output::new(std::ptr::null_mut(), &raw mut len) }.unwrap();
        assert_eq!(fits(&mut asked, 7), Ok(false));
        assert_eq!(len, 7);
        // SAFETY: NULL is allowed.
        let none = unsafe { Output::new(buffer.as_mut_ptr(), std::ptr::null_mut()) };
        assert_eq!(none.err(), Some(Rv(CKR_ARGUMENTS_BAD)));
    }

    #[test]
    fn input_of_nothing_and_lies() {
        let null = std::ptr::null();
        // SAFETY: NULL is allowed; a length beyond the bound is refused before anything is read.
        unsafe {
            assert_eq!(input(null, 0), Ok(vec![]));
            assert_eq!(input(null, 1), Err(Rv(CKR_ARGUMENTS_BAD)));
            let byte = 7;
            assert_eq!(
                input(&raw const byte, CK_ULONG::MAX),
                Err(Rv(CKR_ARGUMENTS_BAD))
            );
            assert_eq!(input(&raw const byte, 1), Ok(vec![7]));
        }
    }
}
