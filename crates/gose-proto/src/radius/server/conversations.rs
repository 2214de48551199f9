//! Conversations and the States that name them.
//!
//! A State is the conversation's random handle and the number of its round, so that a State that was answered is
//! told from one that never was.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{super::request::Discard, Client};

/// A conversation's name: random, unknown to who was not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle([u8; 12]);

impl Handle {
    /// Its bytes, as a key in logs.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

/// Handle, then round.
pub(super) type State = [u8; 16];

struct Conversation {
    client: Arc<Client>,
    round: u32,
    in_work: bool,
    last_request: Vec<u8>,
    last_used: Duration,
}

#[derive(Default)]
pub(super) struct Conversations {
    open: HashMap<Handle, Conversation>,
    of_client: HashMap<String, usize>,
    /// In the order of their last use; entries of another time than the conversation's are stale.
    order: VecDeque<(Duration, Handle)>,
}

/// What a State names.
#[derive(Debug)]
pub(super) enum Resumed {
    Yes(Handle),
    /// It was never given out, or its conversation is over.
    Unknown,
}

impl Conversations {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn of_client(&self, name: &str) -> usize {
        self.of_client.get(name).copied().unwrap_or_default()
    }

    pub(super) fn begin(&mut self, client: &Arc<Client>, now: Duration, fresh: [u8; 16]) -> Handle {
        let mut handle = Handle([0; 12]);
        handle.0.copy_from_slice(&fresh[..12]);
        let conversation = Conversation {
            client: client.clone(),
            round: 0,
            in_work: true,
            last_request: Vec::new(),
            last_used: now,
        };
        if self.open.insert(handle, conversation).is_none() {
            *self.of_client.entry(client.name.clone()).or_default() += 1;
        }
        self.order.push_back((now, handle));
        self.compact();
        handle
    }

    /// Takes up the conversation that a State names.
    pub(super) fn resume(
        &mut self,
        state: &[u8],
        client: &Arc<Client>,
        now: Duration,
    ) -> Result<Resumed, Discard> {
        let Ok(state) = State::try_from(state) else {
            return Ok(Resumed::Unknown);
        };
        let mut handle = Handle([0; 12]);
        handle.0.copy_from_slice(&state[..12]);
        let Some(conversation) = self.open.get_mut(&handle) else {
            return Ok(Resumed::Unknown);
        };
        if conversation.client.name != client.name {
            return Err(Discard::ForeignState);
        }
        if conversation.in_work || state[12..] != conversation.round.to_be_bytes() {
            return Err(Discard::ReplayedState);
        }
        conversation.in_work = true;
        self.touch(handle, now);
        Ok(Resumed::Yes(handle))
    }

    /// The conversation waits for the response to this request: its next State. `None` if it is over.
    pub(super) fn wait(&mut self, handle: Handle, request: &[u8], now: Duration) -> Option<State> {
        let conversation = self.open.get_mut(&handle)?;
        conversation.in_work = false;
        conversation.round = conversation.round.wrapping_add(1);
        request.clone_into(&mut conversation.last_request);
        let mut state = [0; 16];
        state[..12].copy_from_slice(&handle.0);
        state[12..].copy_from_slice(&conversation.round.to_be_bytes());
        self.touch(handle, now);
        Some(state)
    }

    pub(super) fn is_open(&self, handle: Handle) -> bool {
        self.open.contains_key(&handle)
    }

    /// Takes back that the open State was used. A conversation without one cannot be tried again.
    pub(super) fn try_again(&mut self, handle: Handle, now: Duration) -> bool {
        let Some(conversation) = self
            .open
            .get_mut(&handle)
            .filter(|conversation| conversation.round > 0)
        else {
            return false;
        };
        conversation.in_work = false;
        self.touch(handle, now);
        true
    }

    pub(super) fn last_request(&self, handle: Handle) -> Option<Vec<u8>> {
        self.open
            .get(&handle)
            .map(|conversation| conversation.last_request.clone())
    }

    pub(super) fn end(&mut self, handle: Handle) -> bool {
        let Some(conversation) = self.open.remove(&handle) else {
            return false;
        };
        if let Some(count) = self.of_client.get_mut(&conversation.client.name) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&conversation.client.name);
            }
        }
        true
    }

    /// Ends the conversation that waited for longest, of one client or of all; `None` if an element is at work in
    /// every one.
    pub(super) fn evict(&mut self, client: Option<&str>) -> Option<Handle> {
        let at = self.order.iter().position(|(time, handle)| {
            self.open.get(handle).is_some_and(|conversation| {
                let current = conversation.last_used == *time && !conversation.in_work;
                current && client.is_none_or(|name| conversation.client.name == name)
            })
        })?;
        let (_, handle) = self.order.remove(at)?;
        self.end(handle).then_some(handle)
    }

    /// Ends the conversations that were not used for `silence`, and names them.
    pub(super) fn expire(&mut self, now: Duration, silence: Duration) -> Vec<Handle> {
        let mut ended = Vec::new();
        while let Some((time, handle)) = self.order.front().copied() {
            let current = self
                .open
                .get(&handle)
                .is_some_and(|conversation| conversation.last_used == time);
            if current && now.saturating_sub(time) < silence {
                break;
            }
            self.order.pop_front();
            if current && self.end(handle) {
                ended.push(handle);
            }
        }
        ended
    }

    fn touch(&mut self, handle: Handle, now: Duration) {
        if let Some(conversation) = self.open.get_mut(&handle)
            && conversation.last_used != now
        {
            conversation.last_used = now;
            self.order.push_back((now, handle));
        }
        self.compact();
    }

    /// Stale entries stay few: at most as many as there are conversations.
    fn compact(&mut self) {
        if self.order.len() > 64 + 2 * self.open.len() {
            let open = &self.open;
            self.order
                .retain(|(time, handle)| open.get(handle).is_some_and(|c| c.last_used == *time));
        }
    }
}
