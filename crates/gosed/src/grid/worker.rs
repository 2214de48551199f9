//! An element on a thread of its own, for as long as it is leased.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use gose_element::{Atr, ElementError, Outcomes, Script, SecureElement};
use gose_proto::apdu::Response;
use tokio::sync::oneshot;

use super::{
    Peer, Refusal,
    slot::{Runs, Slot},
};

/// The handle of an element's thread. When it is dropped the thread powers the element down, puts it
/// back into its slot, unlocks the slot and ends.
pub(super) struct Worker {
    slot: Arc<Slot>,
    jobs: mpsc::SyncSender<Job>,
    progress: Arc<AtomicU64>,
    timeout: Duration,
}

/// What the thread is to do; one at a time.
enum Job {
    PowerOn(oneshot::Sender<Result<Atr, ElementError>>),
    Reset(bool, oneshot::Sender<Result<Atr, ElementError>>),
    Run(Script, oneshot::Sender<Outcomes>),
}

impl Worker {
    pub(super) fn spawn(
        slot: Arc<Slot>,
        kept: Option<Box<dyn SecureElement>>,
        peer: Peer,
        timeout: Duration,
    ) -> Result<Self, Refusal> {
        let (jobs, inbox) = mpsc::sync_channel(1);
        let progress = Arc::new(AtomicU64::new(0));
        let spawned = std::thread::Builder::new()
            .name(format!("slot-{}", slot.id().0))
            .spawn({
                let (slot, progress) = (slot.clone(), progress.clone());
                // The key that a call to another node needs may sit in an element of this one.
                let runtime = tokio::runtime::Handle::try_current().ok();
                move || {
                    let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
                    work(&slot, kept, &peer, &inbox, progress);
                }
            });
        match spawned {
            Ok(_) => Ok(Self {
                slot,
                jobs,
                progress,
                timeout,
            }),
            Err(error) => {
                slot.free(None);
                Err(ElementError::Transport(format!("no thread for the element: {error}")).into())
            }
        }
    }

    pub(super) async fn power_on(&self) -> Result<Atr, ElementError> {
        self.ask(Job::PowerOn).await?
    }

    pub(super) async fn reset(&self, warm: bool) -> Result<Atr, ElementError> {
        self.ask(|answer| Job::Reset(warm, answer)).await?
    }

    pub(super) async fn run(&self, script: Script) -> Outcomes {
        match self.ask(|answer| Job::Run(script, answer)).await {
            Ok(outcomes) => outcomes,
            Err(error) => Outcomes {
                done: Vec::new(),
                failed: Some(error),
            },
        }
    }

    /// Waits as long as the element goes on answering APDUs, each within the time limit.
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, ElementError> {
        if self.slot.is_quarantined() {
            return Err(ElementError::Mute);
        }
        let (answer, mut wait) = oneshot::channel();
        // A full inbox means that an earlier job outlived its time limit.
        self.jobs
            .try_send(job(answer))
            .map_err(|_| ElementError::Mute)?;
        let mut seen = self.progress.load(Ordering::Relaxed);
        loop {
            match tokio::time::timeout(self.timeout, &mut wait).await {
                Ok(answer) => return answer.map_err(|_| ElementError::Mute),
                Err(_) => {
                    let now = self.progress.load(Ordering::Relaxed);
                    if now == seen {
                        self.slot.quarantine();
                        wait.close();
                        if let Ok(answer) = wait.try_recv() {
                            self.slot.returned();
                            return Ok(answer);
                        }
                        let seconds = u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX);
                        return Err(ElementError::Timeout(seconds));
                    }
                    seen = now;
                }
            }
        }
    }
}

fn work(
    slot: &Slot,
    kept: Option<Box<dyn SecureElement>>,
    peer: &Peer,
    inbox: &mpsc::Receiver<Job>,
    progress: Arc<AtomicU64>,
) {
    let mut element = kept
        .map_or_else(|| slot.open(peer), Ok)
        .map(|element| Counted {
            element,
            whole: slot.runs() == Runs::ThreadEachLease,
            progress,
        });
    while let Ok(job) = inbox.recv() {
        let waited_for = match (job, &mut element) {
            (Job::PowerOn(answer), Ok(element)) => answer.send(element.power_on()).is_ok(),
            (Job::Reset(warm, answer), Ok(element)) => answer.send(element.reset(warm)).is_ok(),
            (Job::Run(script, answer), Ok(element)) => answer.send(element.drive(&script)).is_ok(),
            (Job::PowerOn(answer) | Job::Reset(_, answer), Err(error)) => {
                answer.send(Err(error.clone())).is_ok()
            }
            (Job::Run(_, answer), Err(error)) => {
                let failed = Some(error.clone());
                let done = Vec::new();
                answer.send(Outcomes { done, failed }).is_ok()
            }
        };
        // Nobody knows what the element did after its time limit: it begins afresh.
        if !waited_for && slot.is_quarantined() {
            if let Ok(element) = &mut element {
                element.power_off();
            }
            slot.returned();
        }
    }
    if let Ok(element) = &mut element {
        element.power_off();
    }
    slot.free(element.ok().map(|counted| counted.element));
}

/// An element whose answers are counted.
struct Counted {
    element: Box<dyn SecureElement>,
    /// Whether the element takes a script as one request.
    whole: bool,
    progress: Arc<AtomicU64>,
}

impl Counted {
    fn drive(&mut self, script: &Script) -> Outcomes {
        if self.whole {
            self.element.run(script)
        } else {
            self.run(script)
        }
    }
}

impl SecureElement for Counted {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.element.power_on()
    }

    fn power_off(&mut self) {
        self.element.power_off();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.element.reset(warm)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        let response = self.element.transmit(apdu);
        self.progress.fetch_add(1, Ordering::Relaxed);
        response
    }
}
