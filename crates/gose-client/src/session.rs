//! A RACS session as elements need it: opened when the first of them asks, and again after it broke.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gose_proto::racs::{Request, Response};

use crate::{Connection, Endpoint, Error};

/// A RACS session with one node that several of its elements share. Their requests go one after the other.
///
/// It ends when the last element and the last copy of this value are gone.
#[derive(Clone)]
pub struct SharedSession(Arc<Mutex<Session>>);

impl SharedSession {
    /// A session with a node that is called when an element first asks.
    #[must_use]
    pub fn at(endpoint: Endpoint) -> Self {
        Self(Arc::new(Mutex::new(Session {
            endpoint: Some(endpoint),
            connection: None,
            number: 0,
        })))
    }

    /// Where the node is called when the session must be opened again.
    pub fn call_at(&self, endpoint: Endpoint) {
        self.lock().endpoint = Some(endpoint);
    }

    /// A session that exists and is never opened again.
    pub(crate) fn over(connection: Connection) -> Self {
        Self(Arc::new(Mutex::new(Session {
            endpoint: None,
            connection: Some(connection),
            number: 0,
        })))
    }

    /// The connection, where nobody shares it.
    pub(crate) fn into_connection(self) -> Option<Connection> {
        let session = Arc::into_inner(self.0)?;
        let session = session.into_inner().unwrap_or_else(PoisonError::into_inner);
        session.connection
    }

    /// Sends a request of an element whose state depends on opening `held`, or on none. Gives the number of
    /// the opening that took it.
    ///
    /// # Errors
    /// [`Error::Closed`] where that opening is over: nothing was sent. Those of [`Endpoint::connect`] and
    /// [`Connection::ask`].
    pub(crate) fn ask(
        &self,
        held: Option<u64>,
        request: Request,
    ) -> Result<(u64, Response), Error> {
        self.lock().ask(held, request)
    }

    /// Whether the opening of this number goes on; looks at the socket.
    pub(crate) fn is_open(&self, number: u64) -> bool {
        let mut session = self.lock();
        number == session.number
            && session
                .connection
                .as_mut()
                .is_some_and(|connection| !connection.is_over())
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that can be opened again; each opening has a number.
struct Session {
    endpoint: Option<Endpoint>,
    connection: Option<Connection>,
    number: u64,
}

impl Session {
    fn ask(&mut self, held: Option<u64>, request: Request) -> Result<(u64, Response), Error> {
        if held.is_some_and(|number| number != self.number) {
            return Err(Error::Closed);
        }
        if held.is_none() && self.connection.as_mut().is_some_and(Connection::is_over) {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None if held.is_some() => return Err(Error::Closed),
            None => {
                let endpoint = self.endpoint.as_ref().ok_or(Error::Closed)?;
                let connection = endpoint.connect()?;
                self.number += 1;
                self.connection.insert(connection)
            }
        };
        Ok((self.number, connection.ask(request)?))
    }
}
