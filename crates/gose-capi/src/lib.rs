//! `libgose.so`: the paper's ten functions, for C. `gose.h` is their documentation.
//!
//! [`gose_client::middleware`] does the work; `ffi` turns pointers into values; `status` gives every cause
//! its number.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod ffi;
mod status;
