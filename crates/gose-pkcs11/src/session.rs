//! Sessions (PKCS#11 v3.0, 5.6).

use cryptoki_sys::*;

use crate::{
    mechanism::Mechanism,
    object::Handle,
    operation::{Gather, Use},
    public::Public,
};

/// A session: what it may do and what it has begun.
pub(crate) struct Session {
    pub(crate) slot: CK_SLOT_ID,
    pub(crate) read_write: bool,
    pub(crate) find: Option<Vec<Handle>>,
    pub(crate) digest: Option<Gather>,
    pub(crate) sign: Option<Use>,
    pub(crate) decrypt: Option<Use>,
    pub(crate) verify: Option<Check>,
    pub(crate) encrypt: Option<Check>,
}

/// A use of a public key that C_VerifyInit or C_EncryptInit began.
pub(crate) struct Check {
    pub(crate) public: Public,
    pub(crate) mechanism: Mechanism,
    pub(crate) gather: Gather,
}

impl Session {
    pub(crate) fn new(slot: CK_SLOT_ID, read_write: bool) -> Self {
        Self {
            slot,
            read_write,
            find: None,
            digest: None,
            sign: None,
            decrypt: None,
            verify: None,
            encrypt: None,
        }
    }
}
