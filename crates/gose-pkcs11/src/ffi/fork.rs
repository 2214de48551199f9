//! What a fork means: the module's lock is nobody's in the child, and sockets of the parent's threads are
//! closed there.

use std::{
    cell::UnsafeCell,
    sync::{MutexGuard, Once},
};

use crate::module::{self, Module};

/// The module's lock while a fork is under way.
struct Held(UnsafeCell<Option<MutexGuard<'static, Option<Module>>>>);

// SAFETY: only the handlers touch it, and between `prepare` and `done` only the forking thread runs them:
// another fork waits in `prepare` for the lock itself.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

static REGISTERED: Once = Once::new();

/// Has the lock taken before every fork from now on: otherwise a child could inherit it from a thread that
/// it has not, and wait for ever.
pub(super) fn watch() {
    REGISTERED.call_once(|| {
        // SAFETY: the handlers are functions of this library, which stays mapped (build.rs).
        unsafe { libc::pthread_atfork(Some(prepare), Some(done), Some(done)) };
    });
}

unsafe extern "C" fn prepare() {
    let state = module::state();
    // SAFETY: this thread has the lock, and with it the right to the cell.
    unsafe { *HELD.0.get() = Some(state) };
}

unsafe extern "C" fn done() {
    // SAFETY: in the parent and in the child this is the thread that took the lock.
    let state = unsafe { (*HELD.0.get()).take() };
    drop(state);
}

/// Closes sockets that threads of the parent were using at the fork: whoever owned them here is gone.
pub(crate) fn close_inherited(sockets: &mut Vec<i32>) {
    for socket in sockets.drain(..) {
        // SAFETY: the descriptor is open in this process since the fork, and its owner, a thread of the
        // parent, does not exist here.
        unsafe { libc::close(socket) };
    }
}
