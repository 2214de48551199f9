//! The state of an initialised module. Its lock is held for moments, never while an element works.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Deref, DerefMut},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use cryptoki_sys::*;
use gose_client::{Connection, Endpoint, middleware::Key};
use gose_element::{
    Seid,
    drive::{
        piv::{Inventory, Piv, PivError},
        storage::{Storage, StorageError},
    },
};
use zeroize::Zeroizing;

use crate::{
    config::{Config, Login, Policy},
    failure::Failure,
    line::{Held, Line, Reach, Secret},
    log::Log,
    object::{self, Handle, Object, Private},
    rv::{Result, Rv},
    session::Session,
};

static STATE: Mutex<Option<Module>> = Mutex::new(None);

/// Told when the module is finalised: C_WaitForSlotEvent waits on it.
pub(crate) static FINALISED: Condvar = Condvar::new();

/// The module between C_Initialize and C_Finalize.
pub(crate) struct Module {
    pub(crate) config: Arc<Config>,
    pub(crate) endpoint: Endpoint,
    pub(crate) slots: Vec<Slot>,
    pub(crate) sessions: HashMap<CK_SESSION_HANDLE, Session>,
    pub(crate) objects: BTreeMap<Handle, Owned>,
    next_session: CK_SESSION_HANDLE,
    next_object: Handle,
    /// A session that no element uses yet.
    pub(crate) spare: Option<Connection>,
    pub(crate) listed: Option<Instant>,
    process: u32,
    /// This process inherited the state by fork and has not called C_Initialize itself.
    inherited: bool,
    /// Descriptors of sockets of the parent that threads of it were using at the fork.
    pub(crate) left: Vec<i32>,
}

/// An object that lives as long as its session.
pub(crate) struct Owned {
    pub(crate) session: CK_SESSION_HANDLE,
    pub(crate) slot: CK_SLOT_ID,
    pub(crate) object: Object,
}

/// A slot: an element that this client may use, or may have used.
pub(crate) struct Slot {
    pub(crate) seid: Seid,
    pub(crate) present: bool,
    /// Whether C_WaitForSlotEvent has not told of the last change.
    pub(crate) changed: bool,
    pub(crate) policy: Policy,
    /// The PIN that the configuration names.
    known: Option<Secret>,
    pub(crate) line: Arc<Line>,
    /// What lies on the element; asked for when first needed.
    pub(crate) objects: Option<Arc<Contents>>,
    /// What lies in its storage application; asked for when first needed, after the PIN is known.
    pub(crate) stored: Option<Vec<Object>>,
    /// Whether it has that application, once it was asked.
    pub(crate) stores: Option<bool>,
    pub(crate) user: LoggedIn,
    pub(crate) pin: Option<Secret>,
    /// The PIN that the configuration names was wrong: it is not shown again.
    pub(crate) source_failed: bool,
    pub(crate) tries: Option<u8>,
    /// The element is powered up and locked for this process.
    pub(crate) kept: bool,
}

/// What lies on an element.
pub(crate) struct Contents {
    pub(crate) objects: Vec<Object>,
    pub(crate) key_history: Option<Vec<u8>>,
}

/// Who is logged in.
pub(crate) enum LoggedIn {
    Nobody,
    User,
    /// The security officer knows the PUK.
    Officer(Secret),
}

/// The locked module.
pub(crate) struct Locked(MutexGuard<'static, Option<Module>>);

impl Deref for Locked {
    type Target = Module;

    fn deref(&self) -> &Module {
        match &*self.0 {
            Some(module) => module,
            None => unreachable!("made only where there is a module"),
        }
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Module {
        match &mut *self.0 {
            Some(module) => module,
            None => unreachable!("made only where there is a module"),
        }
    }
}

/// The state, locked, whether or not there is a module: for the handlers of fork.
pub(crate) fn state() -> MutexGuard<'static, Option<Module>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The module, locked.
///
/// # Errors
/// CKR_CRYPTOKI_NOT_INITIALIZED
pub(crate) fn lock() -> Result<Locked> {
    let mut state = state();
    match &mut *state {
        None => Err(Rv(CKR_CRYPTOKI_NOT_INITIALIZED)),
        Some(module) => {
            module.notice_fork()?;
            Ok(Locked(state))
        }
    }
}

/// C_Initialize. A process that inherited a module by fork may call it, and begins anew then, with the
/// configuration and the secrets of its parent: it may have lost the right to read them.
pub(crate) fn initialize() -> Result<()> {
    let mut state = state();
    if let Some(module) = &mut *state {
        module.notice_fork()?;
        if !std::mem::take(&mut module.inherited) {
            return Err(Rv(CKR_CRYPTOKI_ALREADY_INITIALIZED));
        }
        module.begin_anew();
        return Ok(());
    }
    let config = Config::load().map_err(|error| {
        Log::Stderr.line(&error);
        Rv(CKR_FUNCTION_FAILED)
    })?;
    let endpoint = config.endpoint().map_err(|error| {
        config.log.line(&error.to_string());
        Rv(CKR_FUNCTION_FAILED)
    })?;
    *state = Some(Module::new(config, endpoint));
    Ok(())
}

/// C_Finalize: sessions with elements end.
pub(crate) fn finalize() -> Result<()> {
    let module = {
        let _ = lock()?;
        state().take()
    };
    FINALISED.notify_all();
    drop(module);
    Ok(())
}

impl Module {
    fn new(config: Config, endpoint: Endpoint) -> Self {
        let mut module = Self {
            config: Arc::new(config),
            endpoint,
            slots: Vec::new(),
            sessions: HashMap::new(),
            objects: BTreeMap::new(),
            next_session: 1,
            next_object: object::SESSION_OBJECTS,
            spare: None,
            listed: None,
            process: std::process::id(),
            inherited: false,
            left: Vec::new(),
        };
        for seid in module.config.clone().named() {
            module.add(seid, false);
        }
        module
    }

    /// No session, nobody logged in, nothing known of the elements.
    fn begin_anew(&mut self) {
        self.sessions.clear();
        self.objects.clear();
        self.listed = None;
        for slot in &mut self.slots {
            (slot.user, slot.pin, slot.objects) = (LoggedIn::Nobody, None, None);
            slot.stored = None;
        }
    }

    /// In a child process: the parent goes on using the sessions with elements, so that this process
    /// forgets them and opens its own. Sessions, logins and handles of the application stay valid.
    fn notice_fork(&mut self) -> Result<()> {
        let process = std::process::id();
        if process == self.process {
            return Ok(());
        }
        self.process = process;
        self.inherited = true;
        for slot in &mut self.slots {
            let line = std::mem::take(&mut slot.line);
            self.left.extend(line.abandon());
            slot.kept = false;
        }
        if let Some(spare) = self.spare.take() {
            spare.abandon();
        }
        if matches!(self.config.grid.key, Some(Key::Element { .. })) {
            let endpoint = self.config.endpoint();
            self.endpoint = endpoint.map_err(|error| {
                self.config.log.line(&error.to_string());
                Rv(CKR_DEVICE_ERROR)
            })?;
        }
        crate::ffi::close_inherited(&mut self.left);
        Ok(())
    }

    /// The slot of an element; a new one where there is none.
    pub(crate) fn add(&mut self, seid: Seid, present: bool) -> CK_SLOT_ID {
        if let Some(index) = self.slots.iter().position(|slot| slot.seid == seid) {
            return index as CK_SLOT_ID;
        }
        let policy = self.config.policy(seid);
        let known = policy.pin.as_ref().and_then(|source| {
            let text = source.read(&self.config.folder).inspect_err(|error| {
                self.config.log.line(&format!("PIN of {seid}: {error}"));
            });
            let text = text.ok()?;
            let pin = field(&text, "piv-pin").unwrap_or(text);
            Some(Arc::new(Zeroizing::new(pin.as_bytes().to_vec())))
        });
        self.slots.push(Slot {
            seid,
            present,
            changed: false,
            policy,
            known,
            line: Arc::default(),
            objects: None,
            stored: None,
            stores: None,
            user: LoggedIn::Nobody,
            pin: None,
            source_failed: false,
            tries: None,
            kept: false,
        });
        (self.slots.len() - 1) as CK_SLOT_ID
    }

    /// # Errors
    /// CKR_SLOT_ID_INVALID
    pub(crate) fn slot(&mut self, id: CK_SLOT_ID) -> Result<&mut Slot> {
        usize::try_from(id)
            .ok()
            .and_then(|index| self.slots.get_mut(index))
            .ok_or(Rv(CKR_SLOT_ID_INVALID))
    }

    /// # Errors
    /// CKR_SESSION_HANDLE_INVALID
    pub(crate) fn session(&mut self, handle: CK_SESSION_HANDLE) -> Result<&mut Session> {
        self.sessions
            .get_mut(&handle)
            .ok_or(Rv(CKR_SESSION_HANDLE_INVALID))
    }

    /// The slot of a session.
    pub(crate) fn slot_of(&mut self, handle: CK_SESSION_HANDLE) -> Result<&mut Slot> {
        let slot = self.session(handle)?.slot;
        self.slot(slot)
    }

    pub(crate) fn new_session(&mut self, session: Session) -> CK_SESSION_HANDLE {
        let handle = self.next_session;
        self.next_session += 1;
        self.sessions.insert(handle, session);
        handle
    }

    /// Adds an object that ends with the session.
    pub(crate) fn new_object(
        &mut self,
        session: CK_SESSION_HANDLE,
        make: impl FnOnce(Handle) -> Object,
    ) -> Result<Handle> {
        let slot = self.session(session)?.slot;
        if self.objects.len() >= MOST_OBJECTS {
            return Err(Rv(CKR_HOST_MEMORY));
        }
        let handle = self.next_object;
        self.next_object += 1;
        let owned = Owned {
            session,
            slot,
            object: make(handle),
        };
        self.objects.insert(handle, owned);
        Ok(handle)
    }

    /// An object that the session sees. The token's must have been read before.
    ///
    /// # Errors
    /// CKR_OBJECT_HANDLE_INVALID
    pub(crate) fn object(&mut self, session: CK_SESSION_HANDLE, handle: Handle) -> Result<Object> {
        let id = self.session(session)?.slot;
        if let Some(owned) = self.objects.get(&handle).filter(|owned| owned.slot == id) {
            return Ok(owned.object.clone());
        }
        let slot = self.slot(id)?;
        slot.visible()
            .find(|object| object.handle == handle)
            .cloned()
            .ok_or(Rv(CKR_OBJECT_HANDLE_INVALID))
    }

    /// How to use an element. `keep`: it stays locked for this process afterwards, where it is not shared.
    pub(crate) fn access(&mut self, id: CK_SLOT_ID, keep: bool) -> Result<Access> {
        let spare = self.spare.take();
        let (endpoint, patience) = (self.endpoint.clone(), self.config.patience);
        let slot = self.slot(id)?;
        slot.kept |= keep;
        Ok(Access {
            line: slot.line.clone(),
            reach: Reach {
                endpoint,
                seid: slot.seid,
                keep: slot.kept,
                throughout: false,
                patience,
            },
            pin: slot.pin.clone(),
            spare,
        })
    }

    /// The PIN for a private key: what somebody logged in with, or what the configuration names.
    ///
    /// # Errors
    /// CKR_USER_NOT_LOGGED_IN, CKR_PIN_INCORRECT
    pub(crate) fn authorise(&mut self, id: CK_SLOT_ID, key: &Private) -> Result<()> {
        if key.needs_login() {
            self.show_pin(id)
        } else {
            Ok(())
        }
    }

    /// Makes sure that there is a PIN to show.
    ///
    /// # Errors
    /// CKR_USER_NOT_LOGGED_IN, CKR_PIN_INCORRECT
    pub(crate) fn show_pin(&mut self, id: CK_SLOT_ID) -> Result<()> {
        let slot = self.slot(id)?;
        if slot.pin.is_none() && slot.policy.login == Login::NotRequired {
            slot.pin = Some(slot.source_pin()?);
        }
        match slot.pin {
            Some(_) => Ok(()),
            None => Err(Rv(CKR_USER_NOT_LOGGED_IN)),
        }
    }

    /// What an operation's failure means for the slot, and the code for the application.
    pub(crate) fn failed(&mut self, id: CK_SLOT_ID, error: &Failure) -> Rv {
        let config = self.config.clone();
        let Ok(slot) = self.slot(id) else {
            return Rv(CKR_SLOT_ID_INVALID);
        };
        if let Some(tries) = error.tries() {
            slot.tries = Some(tries);
        }
        if error.element().is_some() {
            slot.kept = false;
        }
        if !error.is_slip() {
            config.log.line(&format!("element {}: {error}", slot.seid));
        }
        error.into()
    }

    /// A PIN that was right once is wrong now: it is not shown again.
    pub(crate) fn disowned(&mut self, id: CK_SLOT_ID, error: &Failure) -> Rv {
        let code = self.failed(id, error);
        if error.tries().is_none() {
            return code;
        }
        let config = self.config.clone();
        if let Ok(slot) = self.slot(id) {
            let seid = slot.seid;
            config.log.line(&format!(
                "element {seid}: the PIN is another one now; log in again"
            ));
            (slot.pin, slot.user, slot.source_failed) = (None, LoggedIn::Nobody, true);
        }
        Rv(CKR_USER_NOT_LOGGED_IN)
    }
}

/// Session objects that may exist at a time.
const MOST_OBJECTS: usize = 65_536;

impl Slot {
    /// Objects of the token that the application sees now.
    pub(crate) fn visible(&self) -> impl Iterator<Item = &Object> {
        let all = self.shows_private();
        let objects = self.objects.iter().flat_map(|contents| &contents.objects);
        let stored = self.stored.iter().flatten();
        objects
            .chain(stored)
            .filter(move |object| all || !object.is(CKA_PRIVATE))
    }

    /// Whether the application sees private objects now.
    pub(crate) fn shows_private(&self) -> bool {
        matches!(self.user, LoggedIn::User) || self.policy.login == Login::NotRequired
    }

    /// The PIN that the configuration names.
    ///
    /// # Errors
    /// CKR_PIN_INCORRECT where it was wrong before or cannot be read.
    pub(crate) fn source_pin(&self) -> Result<Secret> {
        let known = self.known.clone().filter(|_| !self.source_failed);
        known.ok_or(Rv(CKR_PIN_INCORRECT))
    }
}

/// A field of a file of secrets that `gose element init` wrote.
pub(crate) fn field(text: &str, name: &str) -> Option<Zeroizing<String>> {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then_some(value)
    })?;
    Some(Zeroizing::new(value.trim().trim_matches('"').to_owned()))
}

/// The use of an element, outside the module's lock.
pub(crate) struct Access {
    line: Arc<Line>,
    reach: Reach,
    pub(crate) pin: Option<Secret>,
    spare: Option<Connection>,
}

impl Access {
    /// Runs an operation of PIV; see [`Line::run`].
    pub(crate) fn run<T>(
        &mut self,
        mut operation: impl FnMut(&mut Piv<'_>) -> std::result::Result<T, PivError>,
    ) -> std::result::Result<T, Failure> {
        self.hold(|held| held.piv(&mut operation))
    }

    /// Runs an operation of the storage application.
    pub(crate) fn storage<T>(
        &mut self,
        mut operation: impl FnMut(&mut Storage<'_>) -> std::result::Result<T, StorageError>,
    ) -> std::result::Result<T, Failure> {
        self.hold(|held| held.storage(&mut operation))
    }

    /// Runs an operation of either application.
    pub(crate) fn hold<T>(
        &mut self,
        operation: impl FnMut(&mut Held<'_>) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        self.line
            .run(&self.reach, self.spare.take(), self.pin.as_ref(), operation)
    }

    /// The operation is several requests.
    pub(crate) fn throughout(&mut self) {
        self.reach.throughout = true;
    }

    /// Gives the element back.
    pub(crate) fn release(&self) {
        self.line.release();
    }
}

/// What lies on the element, as objects.
pub(crate) fn contents(id: CK_SLOT_ID, policy: &Policy, inventory: Inventory) -> Arc<Contents> {
    let always = policy.login == Login::Application;
    Arc::new(Contents {
        objects: object::of_inventory(id, &inventory, always),
        key_history: inventory.key_history,
    })
}
