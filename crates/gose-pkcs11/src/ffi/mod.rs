//! The C functions: pointers become values and slices, panics become codes. Nothing else happens here.

mod buffer;
mod fork;
mod functions;
mod list;
mod mechanisms;
mod template;
mod unsupported;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::*;

pub(crate) use fork::close_inherited;

use crate::rv::Result;

/// Runs a function; a panic in the module is CKR_GENERAL_ERROR and no end of somebody else's process.
fn guard(name: &str, function: impl FnOnce() -> Result<()>) -> CK_RV {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(code)) => code.0,
        Err(_) => {
            crate::log::Log::Stderr.line(&format!(
                "{name} failed inside the module; please report it"
            ));
            CKR_GENERAL_ERROR
        }
    }
}

/// Functions of the standard, exported under their names.
macro_rules! exported {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "some functions only pass numbers on")]
        pub(super) unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
            super::guard(stringify!($name), || {
                // SAFETY: the application keeps to the standard (PKCS#11 v3.0, 5.1): a pointer is NULL or
                // valid for the length beside it until the function returns, and output is written by
                // nobody else meanwhile.
                unsafe { $body }
            })
        }
    )*};
}
pub(super) use exported;
