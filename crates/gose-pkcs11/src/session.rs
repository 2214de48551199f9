//! Sessions (PKCS#11 v3.0, 5.6).

use cryptoki_sys::*;

use crate::{
    mechanism::Mechanism,
    object::Handle,
    operation::{Gather, Use},
    public::Public,
    stored::{Job, Work},
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
    /// What was begun with secret keys of the element, at the place of each [`Work`].
    pub(crate) jobs: [Option<Job>; 4],
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
            jobs: [const { None }; 4],
        }
    }

    /// What was begun with a secret key of the element.
    pub(crate) fn job(&mut self, work: Work) -> &mut Option<Job> {
        &mut self.jobs[work as usize]
    }

    /// Whether an operation of this kind was begun, with whatever key.
    pub(crate) fn is_active(&self, work: Work) -> bool {
        self.jobs[work as usize].is_some()
            || match work {
                Work::Sign => self.sign.is_some(),
                Work::Verify => self.verify.is_some(),
                Work::Encrypt => self.encrypt.is_some(),
                Work::Decrypt => self.decrypt.is_some(),
            }
    }
}
