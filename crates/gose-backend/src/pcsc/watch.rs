//! Readers and cards that come and go.

use std::{
    ffi::CString,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use gose_element::{Atr, ElementError};

use super::library::{Context, Failure, PLUG_AND_PLAY, ReaderState};

/// How long one wait for pcscd lasts, and the pause before pcscd is sought again.
const ROUND: Duration = Duration::from_secs(1);

/// What happened to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A reader is there.
    ReaderAdded(String),
    /// A reader is gone, with the card in it.
    ReaderRemoved(String),
    /// A card is in a reader.
    CardInserted(String, Atr),
    /// A card is in a reader and does not answer to reset.
    CardMute(String),
    /// A reader is empty.
    CardRemoved(String),
    /// pcscd is gone, with all readers; it is sought again every second.
    ServiceLost,
}

/// A thread that tells events until it is dropped.
pub struct Watcher {
    ended: Arc<AtomicBool>,
    context: Arc<Mutex<Option<Context>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches all readers; what is there at the start is told as added and inserted.
    ///
    /// # Errors
    /// [`ElementError::Transport`] when no thread can be had. An absent pcscd is waited for.
    pub fn start(events: Sender<Event>) -> Result<Self, ElementError> {
        let ended = Arc::new(AtomicBool::new(false));
        let context = Arc::new(Mutex::new(None));
        let watch = Watch {
            ended: ended.clone(),
            context: context.clone(),
            events,
            known: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("readers".into())
            .spawn(move || watch.run())
            .map_err(|error| ElementError::Transport(format!("no thread for readers: {error}")))?;
        Ok(Self {
            ended,
            context,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(context) = &*self.context.lock().unwrap_or_else(PoisonError::into_inner) {
            context.cancel();
        }
        if let Some(thread) = self.thread.take() {
            // At most one round.
            let _ = thread.join();
        }
    }
}

struct Watch {
    ended: Arc<AtomicBool>,
    context: Arc<Mutex<Option<Context>>>,
    events: Sender<Event>,
    known: Vec<ReaderState>,
}

impl Watch {
    fn run(mut self) {
        while !self.over() {
            if let Ok(Ok(context)) = Context::establish() {
                self.share(Some(context.clone()));
                self.follow(&context);
                self.share(None);
                if !self.over() && !self.known.is_empty() {
                    self.tell(Event::ServiceLost);
                }
                self.known.clear();
            }
            if !self.over() {
                thread::park_timeout(ROUND);
            }
        }
    }

    fn over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn share(&self, context: Option<Context>) {
        *self.context.lock().unwrap_or_else(PoisonError::into_inner) = context;
    }

    /// An event that nobody wants ends the watch.
    fn tell(&self, event: Event) {
        if self.events.send(event).is_err() {
            self.ended.store(true, Ordering::SeqCst);
        }
    }

    /// Until pcscd is lost or the watch ends.
    fn follow(&mut self, context: &Context) {
        while !self.over() {
            let Ok(names) = context.readers() else { return };
            self.compare(&names);
            let before = self.known.clone();
            let mut states = before.clone();
            // pcscd tells new readers by the number of readers in the upper half of this state.
            let mut news = ReaderState::unknown(PLUG_AND_PLAY.to_owned());
            news.state = u32::try_from(names.len()).unwrap_or(0) << 16;
            states.push(news);
            match context.status_change(&mut states, ROUND) {
                Ok(()) => states.truncate(before.len()),
                // Every place is taken, and pcscd takes no more states than it has places: there are no news to tell.
                Err(Failure::INVALID_PARAMETER) => {
                    states.truncate(before.len());
                    match context.status_change(&mut states, ROUND) {
                        Ok(()) => {}
                        Err(Failure::TIMEOUT | Failure::CANCELLED) => continue,
                        Err(Failure::UNKNOWN_READER | Failure::READER_UNAVAILABLE) => continue,
                        Err(_) => return,
                    }
                }
                Err(Failure::TIMEOUT | Failure::CANCELLED) => continue,
                // A reader went away between the list and the wait.
                Err(Failure::UNKNOWN_READER | Failure::READER_UNAVAILABLE) => continue,
                Err(_) => return,
            }
            for (old, new) in before.iter().zip(&states) {
                self.card(old, new);
            }
            self.known = states;
        }
    }

    fn compare(&mut self, names: &[CString]) {
        let (stay, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.known)
            .into_iter()
            .partition(|state| names.contains(&state.name));
        self.known = stay;
        for state in gone {
            self.tell(Event::ReaderRemoved(text(&state)));
        }
        for name in names {
            if self.known.iter().all(|state| state.name != *name) {
                let state = ReaderState::unknown(name.clone());
                self.tell(Event::ReaderAdded(text(&state)));
                self.known.push(state);
            }
        }
    }

    fn card(&self, old: &ReaderState, new: &ReaderState) {
        let mute = |state: &ReaderState| state.state & ReaderState::MUTE != 0;
        match (old.present(), new.present()) {
            (true, false) => self.tell(Event::CardRemoved(text(new))),
            (_, true) if mute(new) && !mute(old) => self.tell(Event::CardMute(text(new))),
            (_, true) if !old.present() || old.atr != new.atr => {
                if let Some(atr) = Atr::new(&new.atr) {
                    self.tell(Event::CardInserted(text(new), atr));
                }
            }
            _ => {}
        }
    }
}

fn text(state: &ReaderState) -> String {
    state.name.to_string_lossy().into_owned()
}
