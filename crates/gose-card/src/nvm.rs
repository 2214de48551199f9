//! Non-volatile memory of a card: named objects, changed by deltas that are applied whole or not at all.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// The bytes of one object; wiped when dropped, since any object may be a key or a PIN.
pub type Value = Zeroizing<Vec<u8>>;

/// A change of the memory: for each name its new value, or `None` where the object is deleted.
/// A host writes it durably, whole or not at all.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Changes by name, in name order.
    pub changes: BTreeMap<String, Option<Value>>,
}

impl std::fmt::Debug for Delta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.changes.keys()).finish()
    }
}

/// The memory as the card sees it: what is durable, and what the running command has staged.
#[derive(Clone, Default)]
pub struct Nvm {
    durable: BTreeMap<String, Value>,
    staged: Delta,
}

impl std::fmt::Debug for Nvm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.durable.keys()).finish()
    }
}

impl Nvm {
    /// A memory that holds the changes of `deltas`, applied in order.
    #[must_use]
    pub fn replay(deltas: impl IntoIterator<Item = Delta>) -> Self {
        let mut nvm = Self::default();
        for delta in deltas {
            nvm.apply(delta);
        }
        nvm
    }

    /// The value of an object, staged or durable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        match self.staged.changes.get(name) {
            Some(value) => value.as_ref().map(|v| v.as_slice()),
            None => self.durable.get(name).map(|v| v.as_slice()),
        }
    }

    /// Stages a new value.
    pub fn put(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        let value = Zeroizing::new(value.into());
        self.staged.changes.insert(name.into(), Some(value));
    }

    /// Stages a deletion.
    pub fn delete(&mut self, name: impl Into<String>) {
        self.staged.changes.insert(name.into(), None);
    }

    /// Names that begin with `prefix`, in order, as after the staged changes.
    #[must_use]
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .durable
            .keys()
            .filter(|name| !self.staged.changes.contains_key(*name))
            .chain(
                self.staged
                    .changes
                    .iter()
                    .filter(|(_, v)| v.is_some())
                    .map(|(name, _)| name),
            )
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect();
        names.sort_unstable();
        names
    }

    /// Bytes held, names and values, durable only: what quotas count.
    #[must_use]
    pub fn size(&self) -> usize {
        self.durable
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Bytes that would be held with what is staged.
    pub(crate) fn staged_size(&self) -> usize {
        let mut size = self.size();
        for (name, value) in &self.staged.changes {
            let before = self
                .durable
                .get(name)
                .map_or(0, |old| name.len() + old.len());
            let after = value.as_ref().map_or(0, |new| name.len() + new.len());
            size = size.saturating_sub(before) + after;
        }
        size
    }

    /// Everything durable as one delta: what a compacted image holds.
    #[must_use]
    pub fn snapshot(&self) -> Delta {
        Delta {
            changes: self
                .durable
                .iter()
                .map(|(n, v)| (n.clone(), Some(v.clone())))
                .collect(),
        }
    }

    /// What is staged, if anything; it stays staged until [`Nvm::commit`] or [`Nvm::roll_back`].
    #[must_use]
    pub(crate) fn staged(&self) -> Option<&Delta> {
        (!self.staged.changes.is_empty()).then_some(&self.staged)
    }

    /// The staged changes are durable now.
    pub(crate) fn commit(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        self.apply(staged);
    }

    /// The staged changes are forgotten.
    pub(crate) fn roll_back(&mut self) {
        self.staged = Delta::default();
    }

    pub(crate) fn apply(&mut self, delta: Delta) {
        for (name, value) in delta.changes {
            match value {
                Some(value) => self.durable.insert(name, value),
                None => self.durable.remove(&name),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_changes_are_seen_and_can_be_forgotten() {
        let mut nvm = Nvm::default();
        nvm.put("a", [1]);
        nvm.commit();
        nvm.put("b", [2]);
        nvm.delete("a");
        assert_eq!((nvm.get("a"), nvm.get("b")), (None, Some(&[2][..])));
        assert_eq!(nvm.names(""), ["b"]);
        assert_eq!((nvm.size(), nvm.staged_size()), (2, 2));
        nvm.put("c", [0; 9]);
        assert_eq!((nvm.size(), nvm.staged_size()), (2, 12));
        nvm.roll_back();
        assert_eq!((nvm.get("a"), nvm.get("b")), (Some(&[1][..]), None));
        let copy = Nvm::replay([nvm.snapshot()]);
        assert_eq!(copy.get("a"), Some(&[1][..]));
    }
}
