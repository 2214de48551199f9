//! Where a card draws randomness from: an argument, so that tests replay.

use std::{fmt, sync::Arc};

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
        Self::new(|bytes| aws_lc_rs::rand::fill(bytes).map_err(|_| NoRandomness))
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

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}
