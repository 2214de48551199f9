//! Modules, each initialised once in a process.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    slot::Slot,
};
use gose_proto::pkcs11::Uri;

use super::HsmError;

/// A loaded module. All stores of the process that name the same file share it.
pub(super) struct Module {
    context: Pkcs11,
    /// Counts initialisations: what was opened under an older one is gone.
    epoch: AtomicU64,
    /// Held for reading while the module is called, for writing while it is initialised anew.
    pub(super) calls: RwLock<()>,
}

impl Module {
    /// The module of a file, loaded and initialised at the first call.
    pub(super) fn of(path: &Path) -> Result<Arc<Self>, HsmError> {
        static MODULES: OnceLock<Mutex<HashMap<std::path::PathBuf, Arc<Module>>>> = OnceLock::new();
        let modules = MODULES.get_or_init(Mutex::default);
        let mut modules = modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(path) {
            return Ok(module.clone());
        }
        let failed = |error: Error| HsmError::Module(format!("{}: {error}", path.display()));
        let context = Pkcs11::new(path).map_err(failed)?;
        initialize(&context).map_err(failed)?;
        let module = Arc::new(Self {
            context,
            epoch: AtomicU64::new(1),
            calls: RwLock::new(()),
        });
        modules.insert(path.to_path_buf(), module.clone());
        Ok(module)
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Finalises and initialises the module, unless somebody did since `epoch`: some modules see a token that
    /// was inserted only so.
    pub(super) fn restart(&self, epoch: u64) -> Result<(), HsmError> {
        let _alone = self.calls.write().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() != epoch {
            return Ok(());
        }
        self.epoch.store(epoch + 1, Ordering::SeqCst);
        // A module that is gone for good fails at the next call, which tells more.
        let _ = self.context.clone().finalize();
        Ok(initialize(&self.context)?)
    }

    /// The slot whose token is what the URI says.
    pub(super) fn slot(&self, token: &Uri) -> Result<Slot, HsmError> {
        let slots = self.context.get_slots_with_token()?;
        slots
            .into_iter()
            .find(|slot| {
                self.context
                    .get_token_info(*slot)
                    .is_ok_and(|info| matches(token, *slot, &info))
            })
            .ok_or(HsmError::NoToken)
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        other => other,
    }
}

fn matches(token: &Uri, slot: Slot, info: &cryptoki::slot::TokenInfo) -> bool {
    let fits = |wanted: &Option<String>, told: &str| {
        wanted
            .as_ref()
            .is_none_or(|wanted| wanted == told.trim_end())
    };
    info.token_initialized()
        && fits(&token.token, info.label())
        && fits(&token.serial, info.serial_number())
        && fits(&token.manufacturer, info.manufacturer_id())
        && fits(&token.model, info.model())
        && token.slot_id.is_none_or(|wanted| wanted == slot.id())
}
