//! Whose turn it is: an element has one client at a time, those who wait come in their order.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use gose_element::Seid;

/// Turns with elements.
pub(super) struct Turns {
    elements: Mutex<HashMap<Seid, Element>>,
    /// Clients that may wait for an element.
    queue: usize,
    /// After so much time without a request, whoever waits may have an element.
    hold: Duration,
}

#[derive(Default)]
struct Element {
    owner: Option<Owner>,
    /// Its owner has a turn now.
    busy: bool,
    waiting: VecDeque<(u64, Thread)>,
    /// The opening of the session in which somebody left it powered up.
    powered: Option<u64>,
}

#[derive(Clone, Copy)]
struct Owner {
    client: u64,
    /// Gives way between two requests.
    yields: bool,
    since: Instant,
}

/// Why a client gets no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// Too many wait.
    Full,
    /// Others took too long.
    Late,
}

/// A turn: until it ends nobody else uses the element.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    client: u64,
    yields: bool,
    pub(super) seid: Seid,
    /// Whether the element is as this client left it.
    pub(super) own: bool,
    /// The opening of the session in which somebody left it powered up.
    pub(super) powered: Option<u64>,
    end: End,
}

/// How an element is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Powered up, for the client to go on, in this opening of the session.
    Held(u64),
    /// Powered down.
    Down,
    /// Perhaps powered up, in this opening of the session, and nobody's.
    Left(u64),
    /// As it was found, and nobody's.
    Unknown,
}

impl Turns {
    pub(super) fn new(queue: usize, hold: Duration) -> Self {
        Self {
            elements: Mutex::default(),
            queue,
            hold,
        }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`NoTurn`]
    pub(super) fn take(
        &self,
        seid: Seid,
        client: u64,
        yields: bool,
        deadline: Instant,
    ) -> Result<Turn<'_>, NoTurn> {
        let mut queued = false;
        loop {
            let wait = {
                let mut elements = self.lock();
                let element = elements.entry(seid).or_default();
                let now = Instant::now();
                match element.wait(client, now, self.hold) {
                    Wait::No => {
                        element.leave(client);
                        let own = element.owner.is_some_and(|owner| owner.client == client);
                        element.busy = true;
                        element.owner = Some(Owner {
                            client,
                            yields,
                            since: now,
                        });
                        return Ok(Turn {
                            turns: self,
                            client,
                            yields,
                            seid,
                            own: own && element.powered.is_some(),
                            powered: element.powered,
                            end: End::Unknown,
                        });
                    }
                    _ if now >= deadline => {
                        element.leave(client);
                        element.wake();
                        forget(&mut elements, seid);
                        return Err(NoTurn::Late);
                    }
                    _ if !queued && element.waiting.len() >= self.queue => {
                        return Err(NoTurn::Full);
                    }
                    wait => {
                        if !queued {
                            element.waiting.push_back((client, thread::current()));
                            queued = true;
                        }
                        wait
                    }
                }
            };
            let until = match wait {
                Wait::Until(hold) => deadline.min(hold),
                _ => deadline,
            };
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Whether an element is still as a client left it.
    pub(super) fn is_owner(&self, seid: Seid, client: u64) -> bool {
        self.lock()
            .get(&seid)
            .and_then(|element| element.owner)
            .is_some_and(|owner| owner.client == client)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Seid, Element>> {
        self.elements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a client has to wait.
enum Wait {
    No,
    /// Until the owner held the element for long enough.
    Until(Instant),
    /// Until somebody says so.
    Told,
}

impl Element {
    fn wait(&self, client: u64, now: Instant, hold: Duration) -> Wait {
        let first = self
            .waiting
            .front()
            .is_none_or(|(first, _)| *first == client);
        match self.owner {
            _ if self.busy => Wait::Told,
            Some(owner) if owner.client == client && (first || !owner.yields) => Wait::No,
            _ if !first => Wait::Told,
            Some(owner) if !owner.yields && now < owner.since + hold => {
                Wait::Until(owner.since + hold)
            }
            _ => Wait::No,
        }
    }

    fn leave(&mut self, client: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != client);
    }

    fn wake(&self) {
        if let Some((_, first)) = self.waiting.front() {
            first.unpark();
        }
    }
}

/// An element that nobody uses leaves nothing behind.
fn forget(elements: &mut HashMap<Seid, Element>, seid: Seid) {
    let unused = elements.get(&seid).is_some_and(|element| {
        element.owner.is_none()
            && !element.busy
            && element.waiting.is_empty()
            && element.powered.is_none()
    });
    if unused {
        elements.remove(&seid);
    }
}

impl Turn<'_> {
    /// Ends a turn that was not used.
    pub(super) fn give_back(self) {
        let end = match self.powered {
            Some(number) if self.own => End::Held(number),
            _ => End::Unknown,
        };
        self.end(end);
    }

    /// Ends the turn. A turn that is dropped leaves the element in a state that nobody knows.
    pub(super) fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut elements = self.turns.lock();
        if let Some(element) = elements.get_mut(&self.seid) {
            element.busy = false;
            let owner = Owner {
                client: self.client,
                yields: self.yields,
                since: Instant::now(),
            };
            (element.owner, element.powered) = match self.end {
                End::Held(number) => (Some(owner), Some(number)),
                End::Left(number) => (None, Some(number)),
                End::Down => (None, None),
                End::Unknown => (None, element.powered),
            };
            element.wake();
        }
        forget(&mut elements, self.seid);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn seid() -> Seid {
        "SE1".parse().unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn who_holds_an_element_has_it_until_it_lets_go() {
        let turns = Turns::new(4, Duration::from_secs(60));
        turns
            .take(seid(), 1, false, soon())
            .unwrap()
            .end(End::Held(7));
        let late = turns.take(seid(), 2, false, soon()).err();
        assert_eq!(late, Some(NoTurn::Late));
        let turn = turns.take(seid(), 1, false, soon()).unwrap();
        assert!(turn.own && turn.powered == Some(7));
        turn.end(End::Down);
        let turn = turns.take(seid(), 2, false, soon()).unwrap();
        assert!(!turn.own && turn.powered.is_none());
        turn.end(End::Down);
        assert!(turns.lock().is_empty());
    }

    #[test]
    fn who_yields_or_rests_gives_way_and_the_next_one_knows() {
        let turns = Turns::new(4, Duration::from_millis(20));
        for yields in [true, false] {
            turns
                .take(seid(), 1, yields, later())
                .unwrap()
                .end(End::Held(7));
            let turn = turns.take(seid(), 2, true, later()).unwrap();
            assert!(!turn.own && turn.powered == Some(7));
            turn.end(End::Held(7));
            assert!(!turns.is_owner(seid(), 1));
            let turn = turns.take(seid(), 1, yields, later()).unwrap();
            assert!(!turn.own);
            turn.end(End::Down);
        }
    }

    #[test]
    fn a_turn_that_is_dropped_leaves_an_element_to_be_powered_down() {
        let turns = Turns::new(4, Duration::from_secs(60));
        turns
            .take(seid(), 1, true, soon())
            .unwrap()
            .end(End::Held(3));
        drop(turns.take(seid(), 1, true, soon()).unwrap());
        let turn = turns.take(seid(), 1, true, soon()).unwrap();
        assert!(!turn.own && turn.powered == Some(3));
    }

    #[test]
    fn the_queue_is_bounded_and_in_order() {
        let turns = Arc::new(Turns::new(2, Duration::from_secs(60)));
        let first = turns.take(seid(), 1, false, later()).unwrap();
        let order = Arc::new(AtomicUsize::new(0));
        let mut waiting = Vec::new();
        for number in 0..2 {
            let (shared, order) = (turns.clone(), order.clone());
            waiting.push(thread::spawn(move || {
                let turn = shared
                    .take(seid(), 10 + number as u64, false, later())
                    .unwrap();
                assert_eq!(order.fetch_add(1, Ordering::SeqCst), number);
                turn.end(End::Down);
            }));
            while turns.lock()[&seid()].waiting.len() <= number {
                thread::yield_now();
            }
        }
        let full = turns.take(seid(), 2, false, later()).err();
        assert_eq!(full, Some(NoTurn::Full));
        first.end(End::Down);
        for thread in waiting {
            thread.join().unwrap();
        }
        assert!(turns.lock().is_empty());
    }

    #[test]
    fn many_threads_never_share_a_turn() {
        let turns = Arc::new(Turns::new(16, Duration::from_secs(60)));
        let inside = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..8_u64)
            .map(|client| {
                let (turns, inside) = (turns.clone(), inside.clone());
                thread::spawn(move || {
                    for round in 0..200 {
                        let turn = turns
                            .take(seid(), client, client % 2 == 0, later())
                            .unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        let held = client % 2 == 0 && round < 199;
                        turn.end(if held { End::Held(1) } else { End::Down });
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
