//! Input and output of the C functions.

use std::ffi::{CStr, c_char};

use crate::status::Status;

/// Bytes that an application may hand over at once.
const LARGEST: usize = 1 << 20;

/// Where an answer goes.
pub(super) struct Output {
    buffer: *mut u8,
    len: *mut usize,
    capacity: usize,
}

impl Output {
    /// # Safety
    /// `len` is NULL or valid; `buffer` is NULL or valid for writes of `*len` bytes, as long as this lives.
    pub(super) unsafe fn new(buffer: *mut u8, len: *mut usize) -> Result<Self, Status> {
        if len.is_null() {
            return Err(Status::InvalidArgument);
        }
        // SAFETY: not NULL, hence valid (the caller's promise).
        let given = unsafe { len.read() };
        let capacity = if buffer.is_null() { 0 } else { given };
        Ok(Self {
            buffer,
            len,
            capacity,
        })
    }

    /// Tells the length, and writes the bytes where they fit.
    pub(super) fn give(&mut self, bytes: &[u8]) -> bool {
        // SAFETY: `new` saw that it is not NULL, hence valid.
        unsafe { self.len.write(bytes.len()) };
        if bytes.len() > self.capacity {
            return false;
        }
        if !bytes.is_empty() {
            // SAFETY: the buffer is not NULL and has room for `capacity` bytes; `copy` allows that it
            // overlaps.
            unsafe { std::ptr::copy(bytes.as_ptr(), self.buffer, bytes.len()) };
        }
        true
    }
}

/// A copy of the application's bytes.
///
/// # Safety
/// `bytes` is NULL or valid for reads of `len` bytes.
pub(super) unsafe fn input(bytes: *const u8, len: usize) -> Result<Vec<u8>, Status> {
    if len == 0 {
        return Ok(Vec::new());
    }
    if bytes.is_null() || len > LARGEST {
        return Err(Status::InvalidArgument);
    }
    // SAFETY: not NULL, and valid for `len` bytes (the caller's promise).
    Ok(unsafe { std::slice::from_raw_parts(bytes, len) }.to_vec())
}

/// A copy of the application's text.
///
/// # Safety
/// `words` is NULL or ends with NUL.
pub(super) unsafe fn text(words: *const c_char) -> Result<String, Status> {
    if words.is_null() {
        return Err(Status::InvalidArgument);
    }
    // SAFETY: not NULL, and ended by NUL (the caller's promise).
    let words = unsafe { CStr::from_ptr(words) };
    words
        .to_str()
        .map(str::to_owned)
        .map_err(|_| Status::InvalidArgument)
}
