//! RACS over a stream: the shell around [`Session`], which runs operations on leases.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use gose_proto::racs::{Class, Close, Completion, Failure, Mode, Operation, Output, Seid, Session};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt},
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, timeout},
};

use super::Stop;
use crate::{
    config::Limits,
    grid::{Eviction, Evictions, Grid, Lease, Peer, Plane, Ran, Refusal},
};

/// How long an administrator waits for the holder of an element to give it up.
const EVICTION: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The peer closed.
    #[error("the peer closed the connection")]
    Peer,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// The session's own rules.
    #[error("{0:?}")]
    Closed(Close),
    /// The peer does not read its responses.
    #[error("the peer does not read its responses")]
    NotReading,
    /// The peer's certificate is no longer good.
    #[error("the peer's certificate is no longer good")]
    Revoked,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// Serves RACS until the peer or the node ends it. Whatever the session holds is powered down and
/// unlocked when this returns or is dropped.
///
/// With [`Mode::Gather`] consecutive APDU lines become one script: for nodes that relay.
pub async fn serve<S>(
    stream: S,
    grid: &Arc<Grid>,
    peer: &Peer,
    limits: &Limits,
    mode: Mode,
    stop: Stop,
) -> Ended
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let session = Session::new(mode).with_time_limits(
        limits.idle_timeout_s.duration(),
        limits.request_timeout_s.duration(),
    );
    let peer = &peer.sharing_upstreams();
    let now = Instant::now();
    let mut shell = Shell {
        stream,
        session,
        leases: Leases {
            grid,
            peer,
            held: Vec::new(),
        },
        write_timeout: limits.write_timeout_s.duration(),
        start: now,
        now,
        stop,
        relays: mode == Mode::Gather,
    };
    let ended = shell.serve().await;
    drop(shell.leases);
    if ended != Ended::Broken && ended != Ended::NotReading {
        let _ = timeout(shell.write_timeout, shell.stream.shutdown()).await;
    }
    ended
}

struct Shell<'a, S> {
    stream: S,
    session: Session,
    leases: Leases<'a>,
    write_timeout: Duration,
    start: Instant,
    /// The time when it was looked at last: when bytes came, when an operation ended.
    now: Instant,
    stop: Stop,
    /// Whether requests go on to other nodes, under the same identifier.
    relays: bool,
}

/// What a session waits for beside bytes and evictions. The task is registered with all of it once, not with each
/// request: what happened is then told by values that cost a load to look at.
struct Waits<'a, F> {
    timer: Pin<&'a mut Sleep>,
    /// Kept for its place among those that a stop wakes.
    stopped: Pin<&'a mut F>,
    /// Who is woken by all of these, and by evictions.
    registered: Option<Waker>,
}

impl<F: Future<Output = ()>> Waits<'_, F> {
    /// Sets the timer, unless it rings before: then it is set anew when it rang.
    fn until(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && (deadline < self.timer.deadline() || self.timer.is_elapsed())
        {
            self.timer.as_mut().reset(deadline);
            self.registered = None;
        }
    }

    fn are_registered(&self, context: &Context<'_>) -> bool {
        self.registered
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
    }

    /// The task of `context` is woken by the timer and by the stop from now on.
    fn register(&mut self, stop: &Stop, context: &mut Context<'_>) {
        if !stop.is_stopped() {
            // Its outcome is looked up in `stop`.
            let _ = self.stopped.as_mut().poll(context);
        }
        let _ = self.timer.as_mut().poll(context);
        // A task whose budget is used up was registered with nothing; it is polled again soon.
        self.registered = has_budget_remaining().then(|| context.waker().clone());
    }
}

/// What a session waits for.
enum Event {
    /// Bytes came; so many.
    Read(usize),
    Broken,
    Eviction(Eviction),
    Timer,
    Stop,
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Shell<'_, S> {
    async fn serve(&mut self) -> Ended {
        let stop = self.stop.clone();
        let stopped = stop.stopped();
        tokio::pin!(stopped);
        let timer = tokio::time::sleep_until(self.start);
        tokio::pin!(timer);
        let mut waits = Waits {
            timer,
            stopped,
            registered: None,
        };
        loop {
            if let Err(ended) = self.run_down().await {
                return ended;
            }
            self.session.expire(self.now - self.start);
            let deadline = self.session.deadline().map(|after| self.start + after);
            waits.until(deadline);
            match poll_fn(|context| self.poll_event(&mut waits, context)).await {
                Event::Read(0) => return Ended::Peer,
                Event::Read(_) => {}
                Event::Timer => {
                    self.now = Instant::now();
                    self.session.expire(self.now - self.start);
                }
                Event::Broken => return Ended::Broken,
                Event::Eviction(eviction) => {
                    if self.leases.give_up(&eviction) {
                        return Ended::Revoked;
                    }
                }
                Event::Stop => return Ended::Stopping,
            }
        }
    }

    fn poll_event<F: Future<Output = ()>>(
        &mut self,
        waits: &mut Waits<'_, F>,
        context: &mut Context<'_>,
    ) -> Poll<Event> {
        let evictions = &self.leases.peer.evictions;
        let registered = waits.are_registered(context);
        if (evictions.is_pending() || !registered)
            && let Poll::Ready(eviction) = evictions.poll_wait(context)
        {
            return Poll::Ready(Event::Eviction(eviction));
        }
        if !registered {
            waits.register(&self.stop, context);
        }
        if self.session.wants_input()
            && let Poll::Ready(read) = Pin::new(&mut self.stream).poll_fill_buf(context)
        {
            let Ok(bytes) = read else {
                return Poll::Ready(Event::Broken);
            };
            let count = bytes.len();
            // What was waited counts against the peer, however little came then.
            self.now = Instant::now();
            self.session.expire(self.now - self.start);
            self.session.receive(bytes);
            Pin::new(&mut self.stream).consume(count);
            return Poll::Ready(Event::Read(count));
        }
        evictions.answer();
        // A request that has begun is finished before the node stops.
        if self.stop.is_stopped() && self.session.is_between_requests() {
            return Poll::Ready(Event::Stop);
        }
        if waits.timer.is_elapsed() {
            return Poll::Ready(Event::Timer);
        }
        Poll::Pending
    }

    /// Runs and sends until the session waits for bytes.
    async fn run_down(&mut self) -> Result<(), Ended> {
        loop {
            match self.session.poll() {
                None => return Ok(()),
                Some(Output::Send(bytes)) => {
                    let evictions = &self.leases.peer.evictions;
                    let at_once =
                        write(&mut self.stream, bytes, self.write_timeout, evictions).await?;
                    if !at_once {
                        self.now = Instant::now();
                    }
                }
                Some(Output::Close(reason)) => return Err(Ended::Closed(reason)),
                Some(Output::Run(operation)) => {
                    let completion = self.run(operation).await?;
                    self.session.complete(completion);
                }
            }
        }
    }

    async fn run(&mut self, operation: Operation) -> Result<Completion, Ended> {
        if self.relays || !matches!(operation, Operation::Apdus { .. }) {
            self.leases.peer.request.set(self.session.request_id());
        }
        if let Some((completion, ended)) = self.leases.run_at_once(&operation, self.now) {
            self.now = ended;
            return Ok(completion);
        }
        let evictions = &self.leases.peer.evictions;
        let seid = target(&operation);
        let mut deferred = Vec::new();
        let completion = {
            let run = self.leases.run(operation);
            tokio::pin!(run);
            // What takes time is not waited for with responses in the hand.
            let at_once = tokio::select! {
                biased;
                completion = &mut run => Some(completion),
                () = std::future::ready(()) => None,
            };
            match at_once {
                Some(completion) => completion,
                None => {
                    if let Some(bytes) = self.session.flush() {
                        write(&mut self.stream, bytes, self.write_timeout, evictions).await?;
                    }
                    let mut watched = true;
                    loop {
                        tokio::select! {
                            biased;
                            completion = &mut run => break completion,
                            // What the peer asked for is done although it has closed: it may still read.
                            read = self.stream.fill_buf(), if watched => {
                                watched = false;
                                if !read.is_ok_and(|bytes| !bytes.is_empty()) {
                                    evictions.leave();
                                }
                            }
                            eviction = evictions.wait() => match eviction {
                                Eviction::End => return Err(Ended::Revoked),
                                Eviction::Elements(seids) if seid.is_some_and(|seid| seids.contains(&seid)) => {
                                    deferred.push(Eviction::Elements(seids));
                                    break Completion::Failed(Failure::InUse);
                                }
                                other => deferred.push(other),
                            },
                        }
                    }
                }
            }
        };
        self.now = Instant::now();
        for eviction in deferred {
            self.leases.give_up(&eviction);
        }
        Ok(completion)
    }
}

/// One write and one flush, within the time limit. Whether nobody had to wait.
async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    limit: Duration,
    evictions: &Evictions,
) -> Result<bool, Ended> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    tokio::pin!(written);
    // It nearly always goes out at once: then there is nothing to wait for.
    let at_once = tokio::select! {
        biased;
        written = &mut written => Some(written),
        () = std::future::ready(()) => None,
    };
    let waited = at_once.is_none();
    let written = match at_once {
        Some(written) => Ok(written),
        None => tokio::select! {
            biased;
            written = timeout(limit, written) => written,
            () = evictions.ended() => return Err(Ended::Revoked),
        },
    };
    match written {
        Ok(Ok(())) => Ok(!waited),
        Ok(Err(_)) => Err(Ended::Broken),
        Err(_) => Err(Ended::NotReading),
    }
}

/// What a script came to, as the session tells it.
fn completed(ran: Ran) -> Completion {
    Completion::Apdus {
        done: ran.done,
        failed: ran.refused.as_ref().map(Failure::from),
    }
}

fn target(operation: &Operation) -> Option<Seid> {
    match operation {
        Operation::List => None,
        Operation::PowerOn { seid }
        | Operation::Reset { seid, .. }
        | Operation::Apdus { seid, .. }
        | Operation::Shutdown { seid } => Some(*seid),
    }
}

/// What a session holds.
struct Leases<'a> {
    grid: &'a Arc<Grid>,
    peer: &'a Peer,
    held: Vec<Lease>,
}

impl Leases<'_> {
    /// APDUs for an element that is held, up, and in this task: most of what comes. `None`, and nothing was done, where
    /// the operation has to be waited for.
    fn run_at_once(
        &mut self,
        operation: &Operation,
        now: Instant,
    ) -> Option<(Completion, Instant)> {
        let Operation::Apdus { seid, script } = operation else {
            return None;
        };
        let held = self.held.iter_mut().find(|lease| lease.seid() == *seid)?;
        let (ran, ended) = held.run_at_once(script, now)?;
        let completion = completed(ran);
        self.count(&completion);
        Some((completion, ended))
    }

    async fn run(&mut self, operation: Operation) -> Completion {
        let done = match operation {
            Operation::List => Ok(Completion::Seids(self.grid.list(self.peer))),
            Operation::PowerOn { seid } => self.power_on(seid).await,
            Operation::Reset { seid, warm } => self.reset(seid, warm).await,
            Operation::Apdus { seid, script } => match self.lease(seid).await {
                Ok(lease) => Ok(completed(lease.run(script).await)),
                Err(refusal) => Err(refusal),
            },
            Operation::Shutdown { seid } => self.shutdown(seid).await,
        };
        let completion = done.unwrap_or_else(|refusal| Completion::Failed(Failure::from(&refusal)));
        self.count(&completion);
        completion
    }

    fn count(&self, completion: &Completion) {
        self.grid.metrics().racs.add(match completion {
            Completion::Failed(failure)
            | Completion::Apdus {
                failed: Some(failure),
                ..
            } => failure.class(),
            _ => Class::Success,
        });
    }

    async fn power_on(&mut self, seid: Seid) -> Result<Completion, Refusal> {
        let powered = self.lease(seid).await?.power_on().await;
        self.keep_if(seid, powered.is_ok());
        let powered = powered?;
        Ok(Completion::PoweredOn {
            atr: Some(powered.atr.as_bytes().to_vec()),
            already: powered.already,
        })
    }

    async fn reset(&mut self, seid: Seid, warm: bool) -> Result<Completion, Refusal> {
        let reset = self.lease(seid).await?.reset(warm).await;
        self.keep_if(seid, reset.is_ok());
        Ok(Completion::Reset {
            atr: Some(reset?.as_bytes().to_vec()),
        })
    }

    async fn shutdown(&mut self, seid: Seid) -> Result<Completion, Refusal> {
        let at = self.held.iter().position(|lease| lease.seid() == seid);
        match at {
            Some(at) => self.held.swap_remove(at).shutdown().await,
            None => self.grid.evict(self.peer, seid, EVICTION).await?,
        }
        Ok(Completion::Shutdown)
    }

    /// The lease of an element, taken now if the session has none. One that is still being powered down
    /// after its holder's end is waited for.
    async fn lease(&mut self, seid: Seid) -> Result<&mut Lease, Refusal> {
        let held = self.held.iter().position(|lease| lease.seid() == seid);
        let at = match held {
            Some(at) => at,
            None => {
                let plane = self.grid.plane(self.peer, seid).unwrap_or(Plane::User);
                let opened = self.grid.open_when_released(self.peer, seid, plane).await;
                self.held.push(opened?);
                let request = self.peer.request.get();
                tracing::info!(peer = %self.peer, %seid, request, "element leased");
                self.held.len() - 1
            }
        };
        Ok(&mut self.held[at])
    }

    /// An element without power is not kept locked.
    fn keep_if(&mut self, seid: Seid, powered: bool) {
        if !powered {
            self.held.retain(|lease| lease.seid() != seid);
        }
    }

    /// Whether everything is given up: the session ends.
    fn give_up(&mut self, eviction: &Eviction) -> bool {
        match eviction {
            Eviction::End => return true,
            Eviction::Review => self.held.retain(Lease::is_permitted),
            Eviction::Elements(seids) => self.held.retain(|lease| !seids.contains(&lease.seid())),
        }
        false
    }
}
