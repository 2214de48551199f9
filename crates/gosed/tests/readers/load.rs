//! Clients of elements, and what they see.

use std::{
    iter::Sum,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gose_client::{Endpoint, RemoteElement};
use gose_element::SecureElement;
use gose_proto::apdu::StatusWord;

const SELECT: &[u8] = b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00\x00";

/// What a client saw in a span of time.
#[derive(Default)]
pub(crate) struct Span {
    times: Vec<Duration>,
    pub(crate) failures: u64,
}

impl Span {
    pub(crate) fn answers(&self) -> usize {
        self.times.len()
    }

    /// The time that one answer in a hundred passes.
    pub(crate) fn p99(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }
}

impl Sum for Span {
    fn sum<I: Iterator<Item = Self>>(spans: I) -> Self {
        spans.fold(Self::default(), |mut all, span| {
            all.times.extend(span.times);
            all.failures += span.failures;
            all
        })
    }
}

/// A client that selects PIV on an element over and over, in one session; in a new one after an error.
pub(crate) struct Client {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    span: Mutex<Span>,
    answers: AtomicU64,
    failures: AtomicU64,
    paused: AtomicBool,
    ended: AtomicBool,
    last_error: Mutex<String>,
}

impl Client {
    pub(crate) fn start(socket: PathBuf, seid: &'static str) -> Self {
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                while !shared.ended.load(Ordering::SeqCst) {
                    session(&socket, seid, &shared);
                    // As a client would that tries again.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Answers of the right kind so far.
    pub(crate) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::SeqCst)
    }

    /// Errors and wrong answers so far.
    pub(crate) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::SeqCst)
    }

    /// What went wrong last.
    pub(crate) fn last_error(&self) -> String {
        self.shared.last_error.lock().unwrap().clone()
    }

    /// Gives the element up, or takes it again.
    pub(crate) fn pause(&self, paused: bool) {
        self.shared.paused.store(paused, Ordering::SeqCst);
    }

    /// What was seen since the last call.
    pub(crate) fn take(&self) -> Span {
        std::mem::take(&mut self.shared.span.lock().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn session(socket: &std::path::Path, seid: &str, shared: &Shared) {
    let over = || shared.ended.load(Ordering::SeqCst) || shared.paused.load(Ordering::SeqCst);
    if over() {
        return;
    }
    let mut element = RemoteElement::at(Endpoint::Unix(socket.into()), seid.parse().unwrap());
    while !over() {
        let start = Instant::now();
        let answer = element.transmit(SELECT);
        let good = answer
            .as_ref()
            .is_ok_and(|answer| answer.sw == StatusWord::NORMAL && answer.data.len() < 100);
        let mut span = shared.span.lock().unwrap();
        if good {
            span.times.push(start.elapsed());
            shared.answers.fetch_add(1, Ordering::SeqCst);
        } else {
            span.failures += 1;
            *shared.last_error.lock().unwrap() = match answer {
                Ok(answer) => format!("{} bytes, {}", answer.data.len(), answer.sw),
                Err(error) => error.to_string(),
            };
            shared.failures.fetch_add(1, Ordering::SeqCst);
            drop(span);
            return;
        }
    }
}
