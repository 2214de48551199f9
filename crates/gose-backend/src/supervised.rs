//! An element whose driver may block for ever, on a thread of its own and under time limits.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    thread,
    time::Duration,
};

use gose_element::{
    Atr, ElementError, Outcome, Outcomes, Script, SecureElement, Step, element::run_step,
};
use gose_proto::apdu::Response;

/// How long a driver may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For power up and reset.
    pub power: Duration,
    /// For one APDU, the fetches that it leads to included.
    pub apdu: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            power: Duration::from_secs(10),
            apdu: Duration::from_secs(60),
        }
    }
}

/// An element on a thread of its own, which starts at the first use.
///
/// A call that passes its limit is given up: the caller is told [`ElementError::Timeout`], the element is in
/// quarantine ([`ElementError::Mute`]) while its driver does not return, and after that it is reset before
/// anybody uses it.
pub struct Supervised {
    limits: Limits,
    state: State,
}

enum State {
    Idle(Box<dyn SecureElement>),
    Running(Worker),
    /// The driver has not returned from a call that was given up.
    Quarantined(Worker),
    Ended,
}

struct Worker {
    jobs: Sender<Job>,
    replies: Receiver<Reply>,
    /// Calls that were given up and have not returned.
    abandoned: u32,
}

enum Job {
    PowerOn,
    PowerOff,
    Reset { warm: bool },
    Transmit(Step),
    Run(Script),
}

enum Reply {
    Power(Result<Atr, ElementError>),
    Response(Result<Response, ElementError>),
    Step(Result<Outcome, ElementError>),
    /// The script is at its end.
    End,
}

impl Reply {
    /// Whether the driver is free after this reply.
    fn last(&self) -> bool {
        !matches!(self, Self::Step(_))
    }
}

impl Supervised {
    /// Puts an element under limits.
    #[must_use]
    pub fn new(element: Box<dyn SecureElement>, limits: Limits) -> Self {
        Self {
            limits,
            state: State::Idle(element),
        }
    }

    /// Whether a call was given up and the driver has not returned from it.
    pub fn quarantined(&mut self) -> bool {
        self.release();
        matches!(self.state, State::Quarantined(_))
    }

    /// Ends the quarantine if the driver has returned; tells whether it did.
    fn release(&mut self) -> bool {
        let State::Quarantined(worker) = &mut self.state else {
            return false;
        };
        loop {
            match worker.replies.try_recv() {
                Ok(reply) if reply.last() => {
                    worker.abandoned = worker.abandoned.saturating_sub(1);
                    if worker.abandoned == 0 {
                        break;
                    }
                }
                Ok(_) => {}
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    self.state = State::Ended;
                    return false;
                }
            }
        }
        if let State::Quarantined(worker) = std::mem::replace(&mut self.state, State::Ended) {
            self.state = State::Running(worker);
        }
        true
    }

    /// Hands a job to the thread.
    fn submit(&mut self, job: Job) -> Result<(), ElementError> {
        let continues = matches!(job, Job::Transmit(_) | Job::Run(_));
        if self.release() {
            // What the given-up call did to the card is unknown.
            self.power(Job::Reset { warm: false })?;
            if continues {
                return Err(ElementError::Transport(
                    "the element was reset after a call that took too long; start again".into(),
                ));
            }
        }
        if matches!(self.state, State::Idle(_))
            && let State::Idle(element) = std::mem::replace(&mut self.state, State::Ended)
        {
            self.state = State::Running(start(element)?);
        }
        match &self.state {
            State::Running(worker) => worker.jobs.send(job).map_err(|_| ended()),
            State::Quarantined(_) => Err(ElementError::Mute),
            State::Idle(_) | State::Ended => Err(ended()),
        }
    }

    /// The thread's next reply, or the quarantine.
    fn reply(&mut self, limit: Duration) -> Result<Reply, ElementError> {
        let State::Running(worker) = &mut self.state else {
            return Err(ended());
        };
        match worker.replies.recv_timeout(limit) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
            Err(RecvTimeoutError::Timeout) => {
                worker.abandoned += 1;
                if let State::Running(worker) = std::mem::replace(&mut self.state, State::Ended) {
                    self.state = State::Quarantined(worker);
                }
                Err(ElementError::Timeout(
                    u32::try_from(limit.as_secs()).unwrap_or(u32::MAX),
                ))
            }
        }
    }

    fn power(&mut self, job: Job) -> Result<Atr, ElementError> {
        self.submit(job)?;
        match self.reply(self.limits.power)? {
            Reply::Power(result) => result,
            _ => Err(ended()),
        }
    }
}

fn ended() -> ElementError {
    ElementError::Transport("the thread of the element ended; restart the node".into())
}

fn start(element: Box<dyn SecureElement>) -> Result<Worker, ElementError> {
    let (jobs, inbox) = mpsc::channel();
    let (outbox, replies) = mpsc::channel();
    thread::Builder::new()
        .name("element".into())
        .spawn(move || work(element, &inbox, &outbox))
        .map_err(|error| ElementError::Transport(format!("no thread for the element: {error}")))?;
    Ok(Worker {
        jobs,
        replies,
        abandoned: 0,
    })
}

/// The thread: until nobody holds the other ends.
fn work(mut element: Box<dyn SecureElement>, inbox: &Receiver<Job>, outbox: &Sender<Reply>) {
    while let Ok(job) = inbox.recv() {
        let last = match job {
            Job::PowerOff => {
                element.power_off();
                continue;
            }
            Job::PowerOn => Reply::Power(element.power_on()),
            Job::Reset { warm } => Reply::Power(element.reset(warm)),
            Job::Transmit(step) => Reply::Response(element.transmit(&step.apdu)),
            Job::Run(script) => {
                for step in &script.steps {
                    let result = run_step(element.as_mut(), step);
                    let go_on = result.as_ref().is_ok_and(|outcome| outcome.expected);
                    if outbox.send(Reply::Step(result)).is_err() || !go_on {
                        break;
                    }
                }
                Reply::End
            }
        };
        if outbox.send(last).is_err() {
            break;
        }
    }
    element.power_off();
}

impl SecureElement for Supervised {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.power(Job::PowerOn)
    }

    fn power_off(&mut self) {
        // An element that never started is down; one in quarantine is reset when it returns.
        if matches!(self.state, State::Running(_)) {
            let _ = self.submit(Job::PowerOff);
        }
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.power(Job::Reset { warm })
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.submit(Job::Transmit(Step::new(apdu)))?;
        match self.reply(self.limits.apdu)? {
            Reply::Response(result) => result,
            _ => Err(ended()),
        }
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        let mut outcomes = Outcomes::default();
        if let Err(error) = self.submit(Job::Run(script.clone())) {
            outcomes.failed = Some(error);
            return outcomes;
        }
        loop {
            match self.reply(self.limits.apdu) {
                Ok(Reply::Step(Ok(outcome))) => outcomes.done.push(Some(outcome)),
                Ok(Reply::Step(Err(error))) | Err(error) => outcomes.failed = Some(error),
                Ok(_) => return outcomes,
            }
            if !matches!(self.state, State::Running(_)) {
                return outcomes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use gose_proto::apdu::StatusWord;

    use super::*;

    /// Hangs on the instruction FF until it is told to go on; counts resets.
    struct Hanging {
        go_on: Receiver<()>,
        resets: Arc<AtomicU32>,
    }

    impl SecureElement for Hanging {
        fn power_on(&mut self) -> Result<Atr, ElementError> {
            Atr::new(&[0x3B, 0x00]).ok_or(ElementError::Mute)
        }
        fn power_off(&mut self) {}
        fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
            self.resets.fetch_add(1, Ordering::SeqCst);
            self.power_on()
        }
        fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
            if apdu[1] == 0xFF {
                let _ = self.go_on.recv();
            }
            Ok(StatusWord::NORMAL.into())
        }
    }

    #[test]
    fn a_driver_that_hangs_is_left_alone_then_reset() {
        let (go_on, gate) = mpsc::channel();
        let resets = Arc::new(AtomicU32::new(0));
        let hanging = Hanging {
            go_on: gate,
            resets: resets.clone(),
        };
        let limits = Limits {
            power: Duration::from_secs(5),
            apdu: Duration::from_millis(30),
        };
        let mut element = Supervised::new(Box::new(hanging), limits);
        element.power_on().unwrap();
        assert_eq!(
            element.transmit(&[0, 0xFF, 0, 0]),
            Err(ElementError::Timeout(0))
        );
        assert_eq!(element.transmit(&[0, 0, 0, 0]), Err(ElementError::Mute));
        assert_eq!(element.power_on(), Err(ElementError::Mute));
        assert!(element.quarantined());
        go_on.send(()).unwrap();
        while element.quarantined() {
            thread::yield_now();
        }
        assert_eq!(element.reset(false).map(drop), Ok(()));
        assert_eq!(
            element.transmit(&[0, 0, 0, 0]).unwrap().sw,
            StatusWord::NORMAL
        );
        assert_eq!(resets.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn scripts_keep_what_came_before_the_hang() {
        let (go_on, gate) = mpsc::channel();
        let hanging = Hanging {
            go_on: gate,
            resets: Arc::default(),
        };
        let limits = Limits {
            power: Duration::from_secs(5),
            apdu: Duration::from_millis(30),
        };
        let mut element = Supervised::new(Box::new(hanging), limits);
        let steps = [0, 0, 0xFF, 0].map(|ins| Step::new([0, ins, 0, 0]));
        let outcomes = element.run(&Script::new(steps.to_vec()));
        assert_eq!(
            (outcomes.done.len(), outcomes.failed),
            (2, Some(ElementError::Timeout(0)))
        );
        go_on.send(()).unwrap();
        let again = loop {
            let outcomes = element.run(&Script::new(steps[..2].to_vec()));
            if outcomes.failed != Some(ElementError::Mute) {
                break outcomes;
            }
            thread::yield_now();
        };
        assert!(
            matches!(again.failed, Some(ElementError::Transport(_))),
            "the loss is told"
        );
        assert!(element.run(&Script::new(steps[..2].to_vec())).complete(2));
    }
}
