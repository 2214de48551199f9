//! The way to one element: a RACS session of its own, opened when first needed and kept.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use gose_client::{Connection, Endpoint, RemoteElement};
use gose_element::{
    ElementError, SecureElement, Seid,
    drive::{
        piv::{self, Piv, PivError},
        storage::{self, Storage, StorageError},
    },
};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// A PIN or PUK in memory, wiped when nothing needs it any more.
pub(crate) type Secret = Arc<Zeroizing<Vec<u8>>>;

/// The way to one element. Whoever has the lock uses the element.
#[derive(Default)]
pub(crate) struct Line {
    state: Mutex<State>,
    /// The socket's descriptor while there is one, else -1: a child process closes it without the lock.
    socket: Descriptor,
}

/// What an element is ready for: one application is selected at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    #[default]
    Nothing,
    Piv(piv::Standing),
    Storage(storage::Standing),
}

/// An element for one operation: either application of it.
pub(crate) struct Held<'a> {
    element: &'a mut dyn SecureElement,
    standing: &'a mut Standing,
    pin: Option<&'a [u8]>,
}

impl Held<'_> {
    /// Uses the PIV application.
    ///
    /// # Errors
    /// The operation's.
    pub(crate) fn piv<T>(
        &mut self,
        operation: impl FnOnce(&mut Piv<'_>) -> Result<T, PivError>,
    ) -> Result<T, Failure> {
        let standing = match *self.standing {
            Standing::Piv(standing) => standing,
            _ => piv::Standing::default(),
        };
        let mut piv = Piv::resume(&mut *self.element, standing, self.pin)?;
        let outcome = operation(&mut piv);
        *self.standing = match piv.standing() {
            none if none == piv::Standing::default() => Standing::Nothing,
            standing => Standing::Piv(standing),
        };
        Ok(outcome?)
    }

    /// Uses the storage application.
    ///
    /// # Errors
    /// The operation's.
    pub(crate) fn storage<T>(
        &mut self,
        operation: impl FnOnce(&mut Storage<'_>) -> Result<T, StorageError>,
    ) -> Result<T, Failure> {
        let standing = match *self.standing {
            Standing::Storage(standing) => standing,
            _ => storage::Standing::default(),
        };
        let mut storage = Storage::resume(&mut *self.element, standing, self.pin)?;
        let outcome = operation(&mut storage);
        *self.standing = match storage.standing() {
            none if none == storage::Standing::default() => Standing::Nothing,
            standing => Standing::Storage(standing),
        };
        Ok(outcome?)
    }
}

struct Descriptor(AtomicI32);

impl Default for Descriptor {
    fn default() -> Self {
        Self(AtomicI32::new(-1))
    }
}

#[derive(Default)]
struct State {
    element: Option<RemoteElement>,
    standing: Standing,
    /// Whether there was a session before.
    opened: bool,
    /// Other programs use the element too, until then: nothing is kept.
    contended: Option<Instant>,
}

/// Where the element is, and how it is used.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) endpoint: Endpoint,
    pub(crate) seid: Seid,
    /// Whether the element is kept powered up, locked and verified after an operation.
    pub(crate) keep: bool,
    /// The operation is several requests, for which it must be kept.
    pub(crate) throughout: bool,
    /// How long an element that is in use is waited for.
    pub(crate) patience: Duration,
}

/// Pauses while an element is in use by another session.
const PAUSE: Duration = Duration::from_millis(2);

/// Pauses while a guest service starts anew.
const RESTART: Duration = Duration::from_millis(50);

/// After a guest service gave the element to another program, it is given back after each operation for so long.
const CONTENDED: Duration = Duration::from_secs(1);

impl Reach {
    /// Whether a guest service lets programs wait for the element.
    fn queues(&self) -> bool {
        matches!(self.endpoint, Endpoint::Service { .. })
    }
}

impl Line {
    /// Runs an operation on the element, connecting where no session is open, and again where the session
    /// broke before: the operation must do no harm when it is done twice.
    ///
    /// `spare` is a session to begin with.
    ///
    /// # Errors
    /// The operation's, or that of the last try to reach the element.
    pub(crate) fn run<T>(
        &self,
        reach: &Reach,
        spare: Option<Connection>,
        pin: Option<&Secret>,
        mut operation: impl FnMut(&mut Held<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spare) = spare
            && state.element.is_none()
        {
            self.open(&mut state, spare, reach.seid);
        }
        let deadline = Instant::now() + reach.patience;
        let mut pause = PAUSE;
        let mut again = true;
        let mut displaced = false;
        loop {
            let fresh = self.connect(&mut state, reach, deadline)?;
            let began = state.standing;
            let error = match state.operate(reach, pin, &mut operation) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match error.element() {
                // Another program had the element meanwhile: this one waits for its turn there.
                Some(ElementError::InUse) if reach.queues() && !displaced => {
                    displaced = true;
                    state.standing = Standing::default();
                    state.contended = Some(Instant::now() + CONTENDED);
                }
                Some(ElementError::InUse) if Instant::now() < deadline => {
                    // Nothing tells when it is free; those who wait come at different times.
                    let mut chance = [0];
                    let _ = aws_lc_rs::rand::fill(&mut chance);
                    thread::sleep(pause.mul_f32(0.5 + f32::from(chance[0]) / 255.0));
                    pause = (2 * pause).min(Duration::from_millis(20));
                }
                // The grid gives the storage application to others; the session is as good as before.
                Some(ElementError::Refused) if error.without_storage() => {
                    state.standing = Standing::default();
                    return Err(error);
                }
                // The node ended the session, or took the element away, since the last operation.
                Some(_) if again && !fresh => {
                    again = false;
                    self.close(&mut state);
                }
                Some(_) => {
                    self.close(&mut state);
                    return Err(error);
                }
                // The element forgot what it was shown.
                None if error.forgot() && again && began != Standing::default() => {
                    again = false;
                    state.standing = Standing::default();
                }
                None => return Err(error),
            }
        }
    }

    /// Powers the element down where it was kept, so that others can use it; the session stays.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.standing = Standing::default();
        if let Some(element) = &mut state.element {
            element.power_off();
        }
    }

    /// What a child process does with a line that it inherited: the parent goes on using the session.
    pub(crate) fn abandon(&self) -> Option<i32> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            // A thread of the parent is in the middle; only the descriptor is known.
            Err(TryLockError::WouldBlock) => {
                let socket = self.socket.0.swap(-1, Ordering::AcqRel);
                return (socket >= 0).then_some(socket);
            }
        };
        self.socket.0.store(-1, Ordering::Release);
        let element = state.element.take();
        if let Some(connection) = element.and_then(RemoteElement::into_connection) {
            connection.abandon();
        }
        None
    }

    fn open(&self, state: &mut State, connection: Connection, seid: Seid) {
        let socket = connection.link().as_fd().as_raw_fd();
        state.element = Some(RemoteElement::new(connection, seid));
        state.opened = true;
        state.standing = Standing::default();
        self.socket.0.store(socket, Ordering::Release);
    }

    fn close(&self, state: &mut State) {
        self.socket.0.store(-1, Ordering::Release);
        state.element = None;
        state.standing = Standing::default();
    }

    /// Makes sure of a session; tells whether it is a new one. A guest service that was there is waited for.
    fn connect(
        &self,
        state: &mut State,
        reach: &Reach,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        if state.element.is_some() {
            return Ok(false);
        }
        loop {
            match reach.endpoint.connect() {
                Ok(connection) => {
                    self.open(state, connection, reach.seid);
                    return Ok(true);
                }
                Err(_) if state.opened && reach.queues() && Instant::now() < deadline => {
                    thread::sleep(RESTART);
                }
                Err(error) => {
                    let error = ElementError::Transport(error.to_string());
                    return Err(Failure::Piv(error.into()));
                }
            }
        }
    }
}

impl State {
    fn operate<T>(
        &mut self,
        reach: &Reach,
        pin: Option<&Secret>,
        operation: &mut impl FnMut(&mut Held<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(element) = &mut self.element else {
            return Err(PivError::Host.into());
        };
        let pin = pin.map(|pin| pin.as_slice());
        let alone = self.contended.is_none_or(|until| Instant::now() >= until);
        if !reach.keep || !(alone || reach.throughout) {
            self.standing = Standing::default();
            return operation(&mut Held {
                element: &mut element.once(),
                standing: &mut Standing::default(),
                pin,
            });
        }
        operation(&mut Held {
            element,
            standing: &mut self.standing,
            pin,
        })
    }
}
