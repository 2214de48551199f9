//! A key object on a token, found by class and CKA_ID.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::{
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{HsmError, pool::Pool};

/// An object; its handle is sought once a generation of the pool.
pub(super) struct Object {
    pub(super) pool: Arc<Pool>,
    class: ObjectClass,
    id: Vec<u8>,
    found: Mutex<Option<(u64, Found)>>,
}

/// What a key's use needs.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) handle: ObjectHandle,
    /// Whether it wants the PIN at every use.
    pub(super) always_authenticate: bool,
}

impl Object {
    pub(super) fn new(pool: Arc<Pool>, class: ObjectClass, id: Vec<u8>) -> Self {
        Self {
            pool,
            class,
            id,
            found: Mutex::new(None),
        }
    }

    /// Runs `operation` on the object, once more where the token was lost meanwhile.
    pub(super) fn run<T>(
        &self,
        operation: impl Fn(&Session, Found) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        self.pool
            .run(|session, generation| operation(session, self.find(session, generation)?))
    }

    fn find(&self, session: &Session, generation: u64) -> Result<Found, HsmError> {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((of, found)) if of == generation => return Ok(found),
            _ => {}
        }
        let handle = handle(session, self.class, &self.id)?;
        let asked = session.get_attributes(handle, &[AttributeType::AlwaysAuthenticate]);
        let found = Found {
            handle,
            always_authenticate: asked
                .is_ok_and(|attributes| attributes.contains(&Attribute::AlwaysAuthenticate(true))),
        };
        *known = Some((generation, found));
        Ok(found)
    }
}

/// The first object of a class with this CKA_ID.
pub(super) fn handle(
    session: &Session,
    class: ObjectClass,
    id: &[u8],
) -> Result<ObjectHandle, HsmError> {
    let template = [Attribute::Class(class), Attribute::Id(id.to_vec())];
    let found = session.find_objects(&template)?;
    found.first().copied().ok_or(HsmError::NoKey)
}
