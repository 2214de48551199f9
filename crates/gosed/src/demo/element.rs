//! Elements of the demo, made as an administrator makes them: secrets, keys in the element, requests signed by it.

use std::sync::{Arc, Mutex};

use gose_card::{
    Host, HostError, Hosted, Memory, factory,
    keystore::SoftwareKeyStore,
    nvm::{Delta, Nvm},
    timing::Cost,
};
use gose_client::{
    Endpoint, RemoteElement,
    element_key::{ElementKey, SharedElement},
    pki::{self, Authority, Kind},
};
use gose_element::{
    Algorithm, SecureElement, Seid,
    drive::{
        eap_tls::{AID, Personalisation, personalisation::Operator},
        piv::{Piv, Slot},
        provision::{Secrets, initialise},
    },
};

use super::Failure;
use crate::grid::Used;

/// An element with the secrets that its initialisation gave it.
pub(super) struct Element {
    pub(super) shared: SharedElement,
    pub(super) secrets: Secrets,
    /// What an element in this process was used for; a node counts for its own.
    used: Arc<Used>,
}

/// Keeps the memory of an element in this process, and counts.
#[derive(Default)]
struct Desk {
    memory: Memory,
    used: Arc<Used>,
}

impl Host for Desk {
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError> {
        self.memory.persist(delta)
    }

    fn spend(&mut self, cost: &Cost) {
        self.used.count(cost);
    }
}

/// A certificate and those above it, DER.
pub(super) type Chain = Vec<Vec<u8>>;

impl Element {
    /// A software element in this process: an authority's, or a user's.
    pub(super) fn here() -> Result<Self, Failure> {
        let mut guid = [0; 16];
        aws_lc_rs::rand::fill(&mut guid).map_err(|_| "the system gives no randomness")?;
        let nvm = Nvm::replay([factory::birth(guid)]);
        let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
        let desk = Desk::default();
        let used = desk.used.clone();
        Self::initialise(Arc::new(Mutex::new(Hosted::new(card, desk))), used)
    }

    /// An element of a node, over its admin socket.
    pub(super) fn of(node: &Endpoint, seid: Seid) -> Result<Self, Failure> {
        let remote = RemoteElement::at(node.clone(), seid);
        Self::initialise(Arc::new(Mutex::new(remote)), Arc::default())
    }

    fn initialise(shared: SharedElement, used: Arc<Used>) -> Result<Self, Failure> {
        let secrets = Secrets::random()?;
        {
            let mut element = lock(&shared);
            element.power_on()?;
            initialise(&mut *element, &secrets)?;
        }
        Ok(Self {
            shared,
            secrets,
            used,
        })
    }

    /// Signatures and decryptions with long-term keys so far, of an element in this process.
    pub(super) fn private_operations(&self) -> u64 {
        crate::admin::shown(&self.used.counted()).private_operations()
    }

    /// Makes a key in a slot and has an authority certify it.
    pub(super) fn certify(
        &self,
        slot: Slot,
        algorithm: Algorithm,
        authority: &Authority,
        kind: &Kind,
    ) -> Result<Chain, Failure> {
        let key = self.generate(slot, algorithm)?;
        let request = pki::certificate_request(&key, "the authority names it")?;
        let issued = authority.issue(&request, kind, super::unix_time(), DAYS)?;
        Ok(vec![issued.der.to_vec()])
    }

    /// Makes a key in a slot.
    pub(super) fn generate(&self, slot: Slot, algorithm: Algorithm) -> Result<ElementKey, Failure> {
        {
            let mut element = lock(&self.shared);
            let mut piv = Piv::open(&mut *element);
            piv.authenticate_management(&self.secrets.management_key)?;
            piv.generate(slot, algorithm)?;
        }
        self.key(slot)
    }

    /// The key of a slot, which signs with the PIN.
    pub(super) fn key(&self, slot: Slot) -> Result<ElementKey, Failure> {
        Ok(ElementKey::open(
            self.shared.clone(),
            slot,
            Some(self.secrets.piv_pin.as_slice()),
        )?)
    }

    /// Writes an EAP-TLS identity.
    pub(super) fn add_identity(&self, identity: &Personalisation) -> Result<(), Failure> {
        let mut element = lock(&self.shared);
        let mut operator =
            Operator::open(&mut *element, &AID, self.secrets.operator_pin.as_slice())?;
        Ok(operator.add_identity(identity)?)
    }

    /// Changes the bearer's PIN, which [`Secrets`] then no longer names.
    pub(super) fn set_bearer_pin(&self, pin: &[u8; 8]) -> Result<(), Failure> {
        let mut element = lock(&self.shared);
        let mut operator =
            Operator::open(&mut *element, &AID, self.secrets.operator_pin.as_slice())?;
        Ok(operator.change_pin(0x00, self.secrets.bearer_pin.as_slice(), pin)?)
    }

    /// Lets go of it.
    pub(super) fn power_off(&self) {
        lock(&self.shared).power_off();
    }
}

/// Days that the demo's certificates are valid.
pub(super) const DAYS: u32 = 7;

fn lock(shared: &SharedElement) -> std::sync::MutexGuard<'_, dyn SecureElement + 'static> {
    shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
