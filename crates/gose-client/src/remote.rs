//! An element of a remote grid.

use gose_element::{Atr, ElementError, Outcomes, Script, SecureElement, Seid, Step};
use gose_proto::{
    apdu,
    racs::{Class, Failure, MAX_COMMANDS, Refusal, Request, RequestError, Response, Status},
};

use crate::{Connection, Endpoint, Error, SharedSession};

/// An element of a remote grid: a script is one request.
///
/// A session that breaks is not replaced behind the caller's back, since the element loses its
/// state with it: the caller is told, and [`SecureElement::power_on`] connects again.
pub struct RemoteElement {
    seid: Seid,
    session: SharedSession,
    /// The opening of the session in which the node may hold the element for this client.
    held: Option<u64>,
    powered: bool,
    /// The session in which the element had its power is over, and `power_on` did not come since.
    lost: bool,
    id: Option<String>,
    round_trips: u64,
}

impl RemoteElement {
    /// An element over a session that exists.
    #[must_use]
    pub fn new(connection: Connection, seid: Seid) -> Self {
        Self::sharing(SharedSession::over(connection), seid)
    }

    /// An element of a node that is called when the element is first used, and again by `power_on`
    /// after a connection broke.
    #[must_use]
    pub fn at(endpoint: Endpoint, seid: Seid) -> Self {
        Self::sharing(SharedSession::at(endpoint), seid)
    }

    /// An element in a session with its node that other elements use too. When it breaks each of them is told
    /// once.
    #[must_use]
    pub fn sharing(session: SharedSession, seid: Seid) -> Self {
        Self {
            seid,
            session,
            held: None,
            powered: false,
            lost: false,
            id: None,
            round_trips: 0,
        }
    }

    /// The element's name in its grid.
    #[must_use]
    pub fn seid(&self) -> Seid {
        self.seid
    }

    /// The identifier of the requests that follow, for the logs on both sides.
    pub fn set_request_id(&mut self, id: Option<String>) {
        self.id = id;
    }

    /// Requests sent so far.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips
    }

    /// The session, to go on with alone; `None` where it is shared.
    #[must_use]
    pub fn into_connection(self) -> Option<Connection> {
        self.session.into_connection()
    }

    /// POWERON, the script, SHUTDOWN, in one request. Nothing is left locked.
    ///
    /// # Errors
    /// [`ElementError`] when the element could not be powered up.
    pub fn run_once(&mut self, script: &Script) -> Result<(Atr, Outcomes), ElementError> {
        let mut request = self.request()?;
        request.power_on(&self.seid).map_err(unwritable)?;
        request.append();
        let first = request.script(&self.seid, script).map_err(unwritable)?;
        // The answer of the last step is wanted although SHUTDOWN follows.
        if script.steps.last().is_some_and(|step| !step.append) {
            request.append();
        }
        request.shutdown(&self.seid).map_err(unwritable)?;
        let response = self.ask(request)?;
        self.powered = false;
        let atr = atr(response.line(1));
        match response.decide() {
            Err(refusal) if refusal.line < first => Err(self.not_powered(&refusal)),
            Err(_) => {
                // SHUTDOWN was not reached.
                self.power_off();
                Ok((atr, outcomes(&response, first, script)))
            }
            Ok(_) => {
                self.held = None;
                Ok((atr, outcomes(&response, first, script)))
            }
        }
    }

    /// The element for scripts of which each is one request and leaves nothing locked.
    pub fn once(&mut self) -> Once<'_> {
        Once(self)
    }

    fn request(&self) -> Result<Request, ElementError> {
        match &self.id {
            Some(id) => Request::with_id(id).map_err(unwritable),
            None => Ok(Request::new()),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Response, ElementError> {
        if self.lost {
            return Err(session_over());
        }
        let apdus = request.has_apdus();
        self.round_trips += 1;
        match self.session.ask(self.held, request) {
            Ok((number, response)) => {
                self.held = Some(number);
                Ok(response)
            }
            Err(error) => {
                self.powered = false;
                self.lost = self.held.take().is_some() || error.is_outcome_unknown();
                Err(match error {
                    Error::Closed => session_over(),
                    error => lost(&error, apdus),
                })
            }
        }
    }

    /// POWERON was refused.
    fn not_powered(&mut self, refusal: &Refusal) -> ElementError {
        let error = refused(refusal);
        // What another session holds is not this one's to shut down.
        if matches!(error, ElementError::InUse | ElementError::Refused) {
            self.held = None;
        }
        error
    }

    /// One request: POWERON where the element is not yet powered, then the script.
    fn run_script(&mut self, script: &Script) -> Result<Outcomes, ElementError> {
        if !self.powered && script.steps.len() >= usize::from(MAX_COMMANDS) {
            self.power_on()?;
        }
        let mut request = self.request()?;
        if !self.powered {
            request.power_on(&self.seid).map_err(unwritable)?;
        }
        let first = request.script(&self.seid, script).map_err(unwritable)?;
        let response = self.ask(request)?;
        match response.decide() {
            Err(refusal) if refusal.line < first => drop(self.not_powered(&refusal)),
            // Another one has it meanwhile: what was selected and verified is gone.
            Err(refusal) if refusal.failure() == Failure::InUse => {
                (self.powered, self.held) = (false, None);
            }
            _ => self.powered = true,
        }
        Ok(outcomes(&response, first, script))
    }
}

impl SecureElement for RemoteElement {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.lost = false;
        if let Some(number) = self.held
            && !self.session.is_open(number)
        {
            self.held = None;
        }
        let mut request = self.request()?;
        request.power_on(&self.seid).map_err(unwritable)?;
        let response = self.ask(request)?;
        let status = response
            .decide()
            .map_err(|refusal| self.not_powered(&refusal))?;
        self.powered = true;
        Ok(atr(status))
    }

    fn power_off(&mut self) {
        self.powered = false;
        self.lost = false;
        // A session that is over has powered the element down.
        if let Some(number) = self.held
            && self.session.is_open(number)
            && let Ok(mut request) = self.request()
            && request.shutdown(&self.seid).is_ok()
        {
            let _ = self.ask(request);
        }
        self.held = None;
        self.lost = false;
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        let mut request = self.request()?;
        if !self.powered {
            request.power_on(&self.seid).map_err(unwritable)?;
        }
        request.reset(&self.seid, warm).map_err(unwritable)?;
        let response = self.ask(request)?;
        let status = response.decide().map_err(|refusal| refused(&refusal))?;
        self.powered = true;
        Ok(atr(status))
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<apdu::Response, ElementError> {
        let mut outcomes = self.run(&Step::new(apdu).into());
        match (outcomes.done.pop().flatten(), outcomes.failed) {
            (Some(outcome), _) => Ok(apdu::Response {
                data: outcome.body,
                sw: outcome.sw,
            }),
            (None, failed) => Err(failed.unwrap_or(ElementError::OutcomeUnknown)),
        }
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        if script.steps.is_empty() {
            return Outcomes::default();
        }
        self.run_script(script).unwrap_or_else(failed)
    }
}

/// An element that is powered up for one script and down after it, in one request.
pub struct Once<'a>(&'a mut RemoteElement);

impl SecureElement for Once<'_> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.0.power_on()
    }

    fn power_off(&mut self) {
        self.0.power_off();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.0.reset(warm)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<apdu::Response, ElementError> {
        self.0.transmit(apdu)
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        match self.0.run_once(script) {
            Ok((_, outcomes)) => outcomes,
            Err(error) => failed(error),
        }
    }
}

fn outcomes(response: &Response, first: u16, script: &Script) -> Outcomes {
    let (done, failed) = response.outcomes(first, script);
    let failed = failed.map(|failure| match response.decide() {
        Err(refusal) => refused(&refusal),
        Ok(_) => failure.into(),
    });
    Outcomes { done, failed }
}

fn failed(error: ElementError) -> Outcomes {
    Outcomes {
        done: Vec::new(),
        failed: Some(error),
    }
}

/// What a status line means for the element: the class decides; where it says no more than
/// "hardware" or "system", the node's words are kept.
fn refused(refusal: &Refusal) -> ElementError {
    match (refusal.code.class, refusal.failure()) {
        (_, Failure::Transport | Failure::Internal | Failure::Illegal) => {
            ElementError::Transport(format!("the remote grid answers {refusal}"))
        }
        (Class::Syntax | Class::Value | Class::UnknownCommand | Class::NotImplemented, _) => {
            ElementError::Malformed(format!("the remote grid answers {refusal}"))
        }
        (_, failure) => failure.into(),
    }
}

/// What a lost connection means: a command that was sent may have been executed.
fn lost(error: &Error, apdus: bool) -> ElementError {
    match error {
        Error::Refused(refusal) => refused(refusal),
        error if apdus && error.is_outcome_unknown() => ElementError::OutcomeUnknown,
        error => ElementError::Transport(error.to_string()),
    }
}

fn unwritable(error: RequestError) -> ElementError {
    ElementError::Malformed(error.to_string())
}

fn session_over() -> ElementError {
    ElementError::Transport("the session with the node is over; power the element up again".into())
}

/// Foreign servers do not tell the answer to reset; the shortest one, without history, stands for it.
fn atr(status: Option<&Status>) -> Atr {
    status
        .and_then(Status::atr)
        .and_then(|bytes| Atr::new(&bytes))
        .unwrap_or_else(Atr::unknown)
}
