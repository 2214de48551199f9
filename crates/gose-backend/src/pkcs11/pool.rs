//! Sessions with a token: opened as needed, logged in, given up together when the token is gone.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cryptoki::{
    error::{Error, RvError},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};

use super::{HsmError, Settings, module::Module};

/// How long a caller waits for a session.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Pool {
    pub(super) settings: Settings,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Opened>,
    /// Sessions that exist, idle or in use, of this generation.
    open: usize,
    /// Counts tokens lost: handles of an older generation mean nothing.
    generation: u64,
    /// The PIN was refused: it is not tried again.
    refused: Option<HsmError>,
}

struct Opened {
    /// Always there until it is dropped.
    session: Option<Session>,
    module: Arc<Module>,
    generation: u64,
    epoch: u64,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // After a new initialisation the handle may be another session's.
        if let Some(session) = self
            .session
            .take()
            .filter(|_| self.module.epoch() == self.epoch)
        {
            let _ = session.close();
        }
    }
}

impl Pool {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Runs `operation` in a session, with the generation that its handles belong to; once more, after
    /// everything was opened anew, if the token was lost.
    pub(super) fn run<T>(
        &self,
        operation: impl Fn(&Session, u64) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        match self.once(&operation) {
            Err(error) if error.is_loss() => {
                self.restart_module();
                self.once(&operation)
            }
            other => other,
        }
    }

    fn once<T>(
        &self,
        operation: impl Fn(&Session, u64) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let opened = self.take()?;
        let module = opened.module.clone();
        let calls = module.calls.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &opened.session {
            Some(session) if module.epoch() == opened.epoch => {
                operation(session, opened.generation)
            }
            _ => Err(HsmError::lost()),
        };
        let lost = result.as_ref().is_err_and(HsmError::is_loss);
        self.give_back(opened, lost);
        drop(calls);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Opened, HsmError> {
        let mut state = self.lock();
        loop {
            if let Some(refused) = &state.refused {
                return Err(refused.clone());
            }
            if let Some(opened) = state.idle.pop() {
                return Ok(opened);
            }
            if state.open < self.settings.sessions.max(1) {
                // Under the lock: two threads do not log in at the same time.
                let opened = self.open(state.generation);
                match &opened {
                    Ok(_) => state.open += 1,
                    Err(error @ (HsmError::PinRefused | HsmError::PinLocked)) => {
                        state.refused = Some(error.clone());
                    }
                    Err(_) => {}
                }
                return opened;
            }
            let (woken, timeout) = self
                .freed
                .wait_timeout(state, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() {
                return Err(HsmError::Busy(PATIENCE.as_secs()));
            }
        }
    }

    fn give_back(&self, opened: Opened, lost: bool) {
        let mut state = self.lock();
        if opened.generation != state.generation {
            return;
        }
        if lost {
            state.generation += 1;
            state.open = 0;
            state.idle.clear();
        } else {
            state.idle.push(opened);
        }
        self.freed.notify_one();
    }

    fn open(&self, generation: u64) -> Result<Opened, HsmError> {
        let module = Module::of(&self.settings.module)?;
        let calls = module.calls.read().unwrap_or_else(PoisonError::into_inner);
        let epoch = module.epoch();
        let slot = module.slot(&self.settings.token)?;
        // Making keys needs a session that may write.
        let session = match module.context().open_rw_session_no_drop(slot) {
            Err(Error::Pkcs11(RvError::TokenWriteProtected, _)) => {
                module.context().open_ro_session_no_drop(slot)
            }
            other => other,
        }?;
        let opened = Opened {
            session: Some(session),
            module: module.clone(),
            generation,
            epoch,
        };
        self.log_in(&opened, slot)?;
        drop(calls);
        Ok(opened)
    }

    fn log_in(&self, opened: &Opened, slot: Slot) -> Result<(), HsmError> {
        let (Some(pin), Some(session)) = (&self.settings.pin, &opened.session) else {
            return Ok(());
        };
        let info = opened.module.context().get_token_info(slot)?;
        if info.user_pin_locked() {
            return Err(HsmError::PinLocked);
        }
        if info.user_pin_final_try() && !self.settings.danger_spend_last_try {
            return Err(HsmError::LastTry);
        }
        match session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn restart_module(&self) {
        let Ok(module) = Module::of(&self.settings.module) else {
            return;
        };
        let epoch = module.epoch();
        // Reopening is enough where the module still finds the token.
        let found = {
            let _calls = module.calls.read().unwrap_or_else(PoisonError::into_inner);
            module.slot(&self.settings.token).is_ok()
        };
        if !found {
            // A failure shows at the next try.
            let _ = module.restart(epoch);
        }
    }
}

impl HsmError {
    pub(super) fn lost() -> Self {
        Self::Refused(format!("{:?}", RvError::SessionHandleInvalid))
    }

    /// Whether sessions and handles mean nothing any more.
    fn is_loss(&self) -> bool {
        const LOSSES: [RvError; 10] = [
            RvError::SessionHandleInvalid,
            RvError::SessionClosed,
            RvError::DeviceRemoved,
            RvError::DeviceError,
            RvError::TokenNotPresent,
            RvError::ObjectHandleInvalid,
            RvError::KeyHandleInvalid,
            RvError::UserNotLoggedIn,
            RvError::CryptokiNotInitialized,
            RvError::GeneralError,
        ];
        match self {
            Self::NoToken => true,
            Self::Refused(code) => LOSSES.iter().any(|loss| *code == format!("{loss:?}")),
            _ => false,
        }
    }
}
