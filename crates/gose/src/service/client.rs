//! One client: its requests, one after the other, each a transaction.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use gose_client::endpoint::YIELD;
use gose_element::Seid;
use gose_proto::racs::{Failure, Request, Verb};
use zeroize::Zeroizing;

use super::{
    Service,
    config::Allowed,
    request::{Answer, Arrived, Asked, Input},
    turns::{End, NoTurn, Turn},
    upstream::Trouble,
};
use crate::{output::log, socket::Peer};

/// Time without a byte after which a client is left. It comes again when it needs something.
const IDLE: Duration = Duration::from_secs(600);

/// Time for a client to take its response, and to finish a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// A client's connection.
pub(super) struct Client {
    number: u64,
    service: Arc<Service>,
    stream: UnixStream,
    peer: Peer,
    yields: bool,
    input: Input,
    /// Elements that it left powered up, and the opening of the session that it did it in.
    held: Vec<(Seid, u64)>,
}

impl Client {
    pub(super) fn new(number: u64, service: Arc<Service>, stream: UnixStream, peer: Peer) -> Self {
        Self {
            number,
            service,
            stream,
            peer,
            yields: false,
            input: Input::default(),
            held: Vec::new(),
        }
    }

    /// Serves until the client goes; what it left powered up is powered down then.
    pub(super) fn serve(mut self) {
        if let Err(error) = self.requests() {
            // That clients go is nothing to tell of.
            if !matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) {
                let Peer { uid, pid } = self.peer;
                log(&format!("user {uid}, process {pid}: {error}"));
            }
        }
        for (seid, number) in std::mem::take(&mut self.held) {
            self.power_down(seid, number);
        }
    }

    fn requests(&mut self) -> io::Result<()> {
        self.stream.set_write_timeout(Some(PATIENCE))?;
        let mut begun = false;
        let mut buffer = Zeroizing::new([0; CHUNK]);
        loop {
            let unfinished = self.run_down(&mut begun)?;
            let limit = if unfinished { PATIENCE } else { IDLE };
            self.stream.set_read_timeout(Some(limit))?;
            match self.stream.read(&mut *buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.receive(&buffer[..count]);
                    buffer[..count].fill(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Rested: it may come again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !unfinished => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers what has arrived; tells whether a request has begun and not ended.
    fn run_down(&mut self, begun: &mut bool) -> io::Result<bool> {
        if !*begun {
            match self.input.take_line(YIELD) {
                None => return Ok(false),
                Some(yields) => (*begun, self.yields) = (true, yields),
            }
        }
        loop {
            let answer = match self.input.request() {
                Arrived::More => return Ok(!self.input.is_empty()),
                Arrived::Nonsense => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it does not speak RACS; is another program configured with this socket?",
                    ));
                }
                Arrived::Wrong(answer) => answer,
                Arrived::Request(asked) => self.answer(&asked),
            };
            self.stream.write_all(&answer.0)?;
        }
    }

    /// One transaction.
    fn answer(&mut self, asked: &Asked) -> Answer {
        let service = self.service.clone();
        let nothing = Allowed::These(Vec::new());
        let allowed = service.users.allowed(self.peer.uid).unwrap_or(&nothing);
        let seids = asked.elements();
        let refuse = |seid: &Seid, failure| {
            let (number, verb) = asked.first(seid).unwrap_or((1, Verb::BEGIN));
            asked.refuse(number, verb, failure)
        };
        if let Some(seid) = seids.iter().find(|seid| !allowed.has(seid)) {
            return refuse(seid, Failure::Unauthorised);
        }
        let deadline = Instant::now() + service.wait;
        let mut turns: Vec<Turn<'_>> = Vec::new();
        for seid in &seids {
            match service
                .turns
                .take(*seid, self.number, self.yields, deadline)
            {
                Ok(turn) => turns.push(turn),
                Err(why) => {
                    let Peer { uid, pid } = self.peer;
                    let why = match why {
                        NoTurn::Full => "too many programs wait for it (`queue`)",
                        NoTurn::Late => "others used it for too long (`wait-ms`)",
                    };
                    log(&format!(
                        "user {uid}, process {pid}: no turn with element {seid}: {why}"
                    ));
                    turns.into_iter().for_each(Turn::give_back);
                    return refuse(seid, Failure::InUse);
                }
            }
        }
        // What a client believes to have powered up, and another one had meanwhile.
        let mut needed = None;
        for turn in &turns {
            let held = self.held.iter().find(|(held, _)| *held == turn.seid);
            let goes_on = asked
                .first(&turn.seid)
                .is_some_and(|(_, verb)| verb != Verb::POWERON);
            match held {
                Some(_) if goes_on && !turn.own => {
                    let seid = turn.seid;
                    self.held.retain(|(held, _)| *held != seid);
                    turns.into_iter().for_each(Turn::give_back);
                    return refuse(&seid, Failure::InUse);
                }
                Some((_, number)) if goes_on => needed = Some(*number),
                _ => {}
            }
        }
        let before = |opening: u64| -> Vec<Seid> {
            let left = |turn: &&Turn<'_>| !turn.own && turn.powered == Some(opening);
            turns.iter().filter(left).map(|turn| turn.seid).collect()
        };
        let outcome = service
            .upstream
            .ask(deadline, needed, |opening| asked.forward(&before(opening)));
        let (opening, response) = match outcome {
            Ok(answered) => answered,
            Err(trouble) => {
                let failure = match trouble {
                    // The client powers it up again.
                    Trouble::Lost => Failure::InUse,
                    Trouble::Away => Failure::Transport,
                    Trouble::Unknown => Failure::OutcomeUnknown,
                    Trouble::Unwritable => Failure::Unsupported,
                };
                self.held.retain(|(held, _)| !seids.contains(held));
                let end = match trouble {
                    Trouble::Unwritable => End::Unknown,
                    _ => End::Down,
                };
                turns.into_iter().for_each(|turn| turn.end(end));
                return match seids.first() {
                    Some(seid) => refuse(seid, failure),
                    None => asked.refuse(1, Verb::BEGIN, failure),
                };
            }
        };
        let lines = before(opening).len();
        for turn in turns {
            let own = turn.own && turn.powered == Some(opening);
            let powered = asked.leaves_powered(&turn.seid, &response, lines, own);
            let refused = response
                .decide()
                .is_err_and(|refusal| usize::from(refusal.line) <= lines);
            self.held.retain(|(held, _)| *held != turn.seid);
            if refused {
                turn.end(End::Left(opening));
            } else if powered {
                self.held.push((turn.seid, opening));
                turn.end(End::Held(opening));
            } else {
                turn.end(End::Down);
            }
        }
        if let Err(refusal) = response.decide()
            && usize::from(refusal.line) <= lines
        {
            return match seids.first() {
                Some(seid) => refuse(seid, refusal.failure()),
                None => asked.refuse(1, Verb::BEGIN, refusal.failure()),
            };
        }
        asked.relay(&response, lines, |seid| allowed.has(seid))
    }

    /// The client went; an element that it left powered up is powered down, unless another one has it.
    fn power_down(&self, seid: Seid, opening: u64) {
        if !self.service.turns.is_owner(seid, self.number) {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let Ok(turn) = self.service.turns.take(seid, self.number, false, deadline) else {
            return;
        };
        let down = self.service.upstream.ask(deadline, Some(opening), |_| {
            let mut request = Request::new();
            request.shutdown(&seid)?;
            Ok(request)
        });
        turn.end(match down {
            Ok((_, response)) if response.decide().is_err() => End::Left(opening),
            _ => End::Down,
        });
    }
}
