//! The guest's one session: opened when first needed, and again after it broke.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use gose_client::{Connection, Endpoint, Error, guest::Guest};
use gose_proto::racs::{Request, RequestError, Response};

use crate::output::log;

/// Between two tries to reach a node that is away.
const AGAIN: Duration = Duration::from_millis(100);

/// How the elements are reached.
pub(super) enum Way {
    /// By joining the hypervisor with the record in this file.
    Join(PathBuf),
    /// A node that is called.
    Grid(Endpoint),
}

/// The session.
pub(super) struct Upstream {
    way: Way,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    guest: Option<Arc<Guest>>,
    connection: Option<Connection>,
    /// Counts openings: what was powered up in an earlier one is powered down.
    number: u64,
    /// When the node was last found to be away.
    failed: Option<Instant>,
    told: String,
}

/// Why a request came to nothing.
pub(super) enum Trouble {
    /// The session in which the client's elements were powered up is over; nothing was sent.
    Lost,
    /// The node is away, and nothing was sent.
    Away,
    /// The line broke after the request was sent.
    Unknown,
    /// The request cannot be written.
    Unwritable,
}

impl Upstream {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            state: Mutex::default(),
        }
    }

    /// Sends the request that `make` writes for an opening of the session; gives the opening's number. While the
    /// node is away it is called again until the deadline. `needed`: the one opening in which the request makes
    /// sense.
    ///
    /// # Errors
    /// [`Trouble`]
    pub(super) fn ask(
        &self,
        deadline: Instant,
        needed: Option<u64>,
        make: impl Fn(u64) -> Result<Request, RequestError>,
    ) -> Result<(u64, Response), Trouble> {
        loop {
            let mut state = self.lock();
            if needed.is_some_and(|number| number != state.number) {
                return Err(Trouble::Lost);
            }
            if let Some(mut connection) = state.connect(&self.way) {
                let number = state.number;
                if needed.is_some_and(|needed| needed != number) {
                    state.connection = Some(connection);
                    return Err(Trouble::Lost);
                }
                let request = make(number).map_err(|_| Trouble::Unwritable)?;
                match connection.ask(request) {
                    Ok(response) => {
                        if !connection.is_closed() {
                            state.connection = Some(connection);
                        }
                        return Ok((number, response));
                    }
                    // It ended meanwhile: nothing was sent.
                    Err(Error::Closed | Error::Unsolicited) if needed.is_none() => continue,
                    Err(Error::Closed | Error::Unsolicited) => return Err(Trouble::Lost),
                    Err(error) => {
                        state.tell(&format!("the session with the node ends: {error}"));
                        if error.is_outcome_unknown() {
                            return Err(Trouble::Unknown);
                        }
                        state.failed = Some(Instant::now());
                    }
                }
            }
            drop(state);
            if needed.is_some() {
                return Err(Trouble::Lost);
            }
            if Instant::now() + AGAIN > deadline {
                return Err(Trouble::Away);
            }
            thread::sleep(AGAIN);
        }
    }

    /// Looks after the attach channel: takes renewed tokens, and joins anew where it broke.
    pub(super) fn keep(&self) {
        let Way::Join(_) = &self.way else { return };
        let mut state = self.lock();
        if let Some(guest) = &state.guest
            && let Err(error) = guest.token()
        {
            state.guest = None;
            state.tell(&format!("the attach channel ends: {error}"));
        }
        // Attached, a guest has a token before the first program asks.
        let _ = state.endpoint(&self.way);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the session out, a new one where there is none. `None`: the node is away.
    fn connect(&mut self, way: &Way) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        // One try for all who wait.
        if self.failed.is_some_and(|at| at.elapsed() < AGAIN) {
            return None;
        }
        let connected = self
            .endpoint(way)
            .and_then(|endpoint| endpoint.connect().map_err(|error| error.to_string()));
        match connected {
            Ok(connection) => {
                self.number += 1;
                self.failed = None;
                if self.number > 1 {
                    log("the session with the node is open again");
                }
                self.told.clear();
                Some(connection)
            }
            Err(cause) => {
                self.failed = Some(Instant::now());
                // A hypervisor that was restarted knows nothing of the old channel.
                self.guest = None;
                self.tell(&format!("the node cannot be reached: {cause}"));
                None
            }
        }
    }

    fn endpoint(&mut self, way: &Way) -> Result<Endpoint, String> {
        let path = match way {
            Way::Grid(endpoint) => return Ok(endpoint.clone()),
            Way::Join(path) => path,
        };
        let guest = match &self.guest {
            Some(guest) => guest.clone(),
            None => {
                let guest = Guest::from_file(path)
                    .map_err(|error| format!("{}: {error}", path.display()))
                    .inspect_err(|error| self.tell(error))?;
                self.guest.insert(Arc::new(guest)).clone()
            }
        };
        Ok(Endpoint::Guest(guest))
    }

    /// Says something once, not with each try.
    fn tell(&mut self, text: &str) {
        if self.told != text {
            log(text);
            text.clone_into(&mut self.told);
        }
    }
}
