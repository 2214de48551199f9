//! A software card on a key store, for the element contract.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

use std::sync::Arc;

use gose_card::{Hosted, Memory, factory, keystore::KeyStore, nvm::Nvm};

/// A card whose keys are in `store`.
pub(crate) fn card(store: Arc<dyn KeyStore>) -> Hosted<Memory> {
    let nvm = Nvm::replay([factory::birth([3; 16])]);
    Hosted::new(factory::new_card(nvm, store), Memory::default())
}
