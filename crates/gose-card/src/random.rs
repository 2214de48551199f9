//! Where a card draws randomness from: an argument, so that tests replay; for keys and signatures, and inside of TLS,
//! the system's. Nothing else of the crate draws any itself.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the one place"
)]

use std::{fmt, sync::Arc};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// A source of random bytes.
#[derive(Clone)]
pub struct Random(Arc<Source>);

type Source = dyn Fn(&mut [u8]) -> Result<(), NoRandomness> + Send + Sync;

/// The source gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness")]
pub struct NoRandomness;

impl Random {
    /// A source of the caller's.
    pub fn new(
        source: impl Fn(&mut [u8]) -> Result<(), NoRandomness> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(source))
    }

    /// The operating system's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(fill)
    }

    /// `N` random bytes.
    ///
    /// # Errors
    /// [`NoRandomness`] where the source fails.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], NoRandomness> {
        let mut bytes = [0; N];
        (self.0)(&mut bytes)?;
        Ok(bytes)
    }
}

/// Fills with the operating system's randomness.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| NoRandomness)
}

/// The operating system's, as AWS-LC asks for it in signatures.
pub(crate) fn signing() -> impl SecureRandom {
    SystemRandom::new()
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}
