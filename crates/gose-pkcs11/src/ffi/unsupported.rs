//! Functions that elements have no use for: CKR_FUNCTION_NOT_SUPPORTED, as the standard wants.

use cryptoki_sys::*;

use super::exported;
use crate::{
    module,
    rv::{Result, Rv},
};

/// # Errors
/// CKR_CRYPTOKI_NOT_INITIALIZED, CKR_FUNCTION_NOT_SUPPORTED
fn unsupported() -> Result<()> {
    module::lock()?;
    Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
}

exported! {
    fn C_InitToken(_session: CK_SLOT_ID, _a: *mut CK_UTF8CHAR, _b: CK_ULONG, _c: *mut CK_UTF8CHAR) {
        unsupported()
    }

    fn C_GetOperationState(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: *mut CK_ULONG) {
        unsupported()
    }

    fn C_SetOperationState(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: CK_OBJECT_HANDLE, _d: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_DigestKey(_session: CK_SESSION_HANDLE, _a: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_SignRecoverInit(_session: CK_SESSION_HANDLE, _a: *mut CK_MECHANISM, _b: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_SignRecover(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: *mut CK_BYTE, _d: *mut CK_ULONG) {
        unsupported()
    }

    fn C_VerifyRecoverInit(_session: CK_SESSION_HANDLE, _a: *mut CK_MECHANISM, _b: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_VerifyRecover(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: *mut CK_BYTE, _d: *mut CK_ULONG) {
        unsupported()
    }

    fn C_DigestEncryptUpdate(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: *mut CK_BYTE, _d: *mut CK_ULONG) {
        unsupported()
    }

    fn C_DecryptDigestUpdate(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: *mut CK_BYTE, _d: *mut CK_ULONG) {
        unsupported()
    }

    fn C_SignEncryptUpdate(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: *mut CK_BYTE, _d: *mut CK_ULONG) {
        unsupported()
    }

    fn C_DecryptVerifyUpdate(_session: CK_SESSION_HANDLE, _a: *mut CK_BYTE, _b: CK_ULONG, _c: *mut CK_BYTE, _d: *mut CK_ULONG) {
        unsupported()
    }

    fn C_MessageEncryptInit(_session: CK_SESSION_HANDLE, _a: *mut CK_MECHANISM, _b: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_EncryptMessage(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: CK_ULONG, _g: *mut CK_BYTE, _h: *mut CK_ULONG) {
        unsupported()
    }

    fn C_EncryptMessageBegin(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG) {
        unsupported()
    }

    fn C_EncryptMessageNext(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: *mut CK_ULONG, _g: CK_FLAGS) {
        unsupported()
    }

    fn C_MessageEncryptFinal(_session: CK_SESSION_HANDLE) {
        unsupported()
    }

    fn C_MessageDecryptInit(_session: CK_SESSION_HANDLE, _a: *mut CK_MECHANISM, _b: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_DecryptMessage(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: CK_ULONG, _g: *mut CK_BYTE, _h: *mut CK_ULONG) {
        unsupported()
    }

    fn C_DecryptMessageBegin(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG) {
        unsupported()
    }

    fn C_DecryptMessageNext(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: *mut CK_ULONG, _g: CK_FLAGS) {
        unsupported()
    }

    fn C_MessageDecryptFinal(_session: CK_SESSION_HANDLE) {
        unsupported()
    }

    fn C_MessageSignInit(_session: CK_SESSION_HANDLE, _a: *mut CK_MECHANISM, _b: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_SignMessage(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: *mut CK_ULONG) {
        unsupported()
    }

    fn C_SignMessageBegin(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG) {
        unsupported()
    }

    fn C_SignMessageNext(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: *mut CK_ULONG) {
        unsupported()
    }

    fn C_MessageSignFinal(_session: CK_SESSION_HANDLE) {
        unsupported()
    }

    fn C_MessageVerifyInit(_session: CK_SESSION_HANDLE, _a: *mut CK_MECHANISM, _b: CK_OBJECT_HANDLE) {
        unsupported()
    }

    fn C_VerifyMessage(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: CK_ULONG) {
        unsupported()
    }

    fn C_VerifyMessageBegin(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG) {
        unsupported()
    }

    fn C_VerifyMessageNext(_session: CK_SESSION_HANDLE, _a: *mut std::ffi::c_void, _b: CK_ULONG, _c: *mut CK_BYTE, _d: CK_ULONG, _e: *mut CK_BYTE, _f: CK_ULONG) {
        unsupported()
    }

    fn C_MessageVerifyFinal(_session: CK_SESSION_HANDLE) {
        unsupported()
    }
}
