//! Names that an administrator took back: they are not let in while the daemon runs.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Names kept; the oldest goes first. What must last is a revocation list.
const CAPACITY: usize = 4096;

/// The names.
#[derive(Debug, Default)]
pub struct Revoked(Mutex<(HashSet<String>, VecDeque<String>)>);

impl Revoked {
    /// Takes a name back.
    pub fn add(&self, name: &str) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, order) = &mut *held;
        if !names.insert(name.to_owned()) {
            return;
        }
        order.push_back(name.to_owned());
        if order.len() > CAPACITY
            && let Some(oldest) = order.pop_front()
        {
            names.remove(&oldest);
        }
    }

    /// Whether a name was taken back.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded() {
        let revoked = Revoked::default();
        for number in 0..=CAPACITY {
            revoked.add(&number.to_string());
            revoked.add(&number.to_string());
        }
        assert!(!revoked.contains("0") && revoked.contains("1"));
        assert!(revoked.contains(&CAPACITY.to_string()));
    }
}
