//! A private key in an element of this node that signs often: the element stays leased between signatures.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use gose_card::keystore::{KeyError as NoSignature, PrivateKey};
use gose_element::{
    Algorithm, Scheme, Seid,
    drive::piv::{Piv, PivError, PublicKey, Slot, Standing},
};
use zeroize::Zeroizing;

use super::{KeyError, LeasedKey};
use crate::{
    grid::{Grid, Names, Peer, Plane},
    leased::Leased,
};

/// How long a signature waits for an element that another session holds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an administrator who took the element has it undisturbed at least.
const REST: Duration = Duration::from_millis(500);

/// A key in a PIV slot. SELECT and VERIFY are done once a lease, so that a signature costs one command; an
/// administrator who wants the element gets it after the signature that runs.
pub struct KeptKey {
    grid: Arc<Grid>,
    peer: Peer,
    seid: Seid,
    slot: Slot,
    public: PublicKey,
    held: Mutex<Held>,
}

struct Held {
    pin: Option<Zeroizing<Vec<u8>>>,
    element: Option<(Leased, Standing)>,
    rest_until: Option<Instant>,
    /// The element said that the PIN is wrong: shown again with every signature, it would block the card.
    locked_out: bool,
}

impl KeptKey {
    /// Looks the key up. Blocks. Called within a runtime.
    ///
    /// # Errors
    /// [`KeyError`] if there is no such element or key.
    pub fn open(
        grid: &Arc<Grid>,
        seid: Seid,
        slot: Slot,
        pin: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Arc<Self>, KeyError> {
        let public = LeasedKey::open(grid, seid, slot, None)?.public();
        let peer = Peer::new(grid.new_sid(), Names::Operator);
        let key = Arc::new(Self {
            grid: grid.clone(),
            peer: peer.clone(),
            seid,
            slot,
            public,
            held: Mutex::new(Held {
                pin,
                element: None,
                rest_until: None,
                locked_out: false,
            }),
        });
        tokio::spawn(watch(peer, Arc::downgrade(&key)));
        Ok(key)
    }

    fn compute(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut held = self.held();
        if held.locked_out {
            return Err("the PIN was refused; correct it and restart".into());
        }
        if let Some((mut leased, standing)) = held.element.take() {
            // It may have lost power, or the policy may have changed: once more, from the start.
            let again = self.sign_with(&mut leased, standing, &held, scheme, message);
            if let Ok((signature, standing)) = again {
                held.element = Some((leased, standing));
                return Ok(signature);
            }
        }
        if let Some(until) = held.rest_until.take() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        let leased = Leased::wait_for(&self.grid, &self.peer, self.seid, Plane::User, PATIENCE);
        let mut leased = leased.map_err(|refusal| refusal.to_string())?;
        let fresh = Standing::default();
        match self.sign_with(&mut leased, fresh, &held, scheme, message) {
            Ok((signature, standing)) => {
                held.element = Some((leased, standing));
                Ok(signature)
            }
            Err(error) => {
                held.locked_out = matches!(
                    error,
                    PivError::WrongPin { .. } | PivError::PinBlocked | PivError::PinForm
                );
                Err(error.to_string())
            }
        }
    }

    fn sign_with(
        &self,
        leased: &mut Leased,
        standing: Standing,
        held: &Held,
        scheme: Scheme,
        message: &[u8],
    ) -> Result<(Vec<u8>, Standing), PivError> {
        let pin = held.pin.as_ref().map(|pin| pin.as_slice());
        let mut piv = Piv::resume(leased, standing, pin)?;
        piv.know(self.slot, self.public.clone());
        let signature = piv.sign(self.slot, scheme, message)?;
        Ok((signature, piv.standing()))
    }

    fn give_up(&self, rest: Duration) {
        let mut held = self.held();
        held.element = None;
        held.rest_until = Some(Instant::now() + rest);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PrivateKey for KeptKey {
    fn algorithm(&self) -> Algorithm {
        self.public.algorithm
    }

    fn public_key_info(&self) -> &[u8] {
        &self.public.info
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, NoSignature> {
        let signed = crate::long_step(|| self.compute(scheme, message));
        signed.map_err(|reason| {
            tracing::error!(seid = %self.seid, slot = %self.slot, reason, "the key does not sign");
            NoSignature::Store(reason)
        })
    }

    fn sign_digest(&self, _digest: &[u8]) -> Result<Vec<u8>, NoSignature> {
        Err(NoSignature::Unsupported)
    }

    fn rsa_raw(&self, _block: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoSignature> {
        Err(NoSignature::Unsupported)
    }

    fn agree(&self, _point: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoSignature> {
        Err(NoSignature::Unsupported)
    }
}

impl fmt::Debug for KeptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptKey({} {})", self.seid, self.slot)
    }
}

/// Gives the element up when the grid asks for it.
async fn watch(peer: Peer, key: Weak<KeptKey>) {
    loop {
        tokio::select! {
            _ = peer.evictions.wait() => {}
            // Looks whether the key is gone.
            () = tokio::time::sleep(Duration::from_secs(5)) => {
                if key.strong_count() == 0 { return }
                continue;
            }
        }
        let Some(key) = key.upgrade() else { return };
        let given_up = tokio::task::spawn_blocking(move || key.give_up(REST));
        if given_up.await.is_err() {
            return;
        }
    }
}
