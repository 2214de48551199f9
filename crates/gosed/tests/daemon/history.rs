//! Eight clients, four elements: whatever they do at the same time, and however their sessions end, each element
//! answers as if one request had come after the other (linearizability). A history is kept of what was asked when and
//! answered when, and an order is sought that explains it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::world::{SELECT, Settings, World};

const CLIENTS: usize = 8;
const ELEMENTS: usize = 4;
const ROUNDS: usize = 60;

/// Ends of sessions, of each client.
const ENDS: usize = 2;

/// What a session asks of an element, in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    PowerOn,
    Reset,
    /// SELECT, VERIFY with the right PIN, then how many tries are left.
    Verify,
    /// SELECT alone.
    Select,
    /// How many tries are left, whatever is selected.
    Query,
    ShutDown,
    /// The session ends: at some time after this.
    End,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    /// Powered already.
    Already,
    /// The PIN stands.
    Verified,
    /// It does not.
    Unverified,
    /// Nothing is selected.
    Refused,
    InUse,
    /// Nobody heard an answer.
    Unknown,
}

/// One request on one element.
#[derive(Debug, Clone, Copy)]
struct Event {
    session: usize,
    ask: Ask,
    told: Told,
    from: Instant,
    /// `None`: it may happen at any later time, or never.
    until: Option<Instant>,
}

/// An element as it should be: who holds it, and what that session made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Model {
    holder: Option<usize>,
    selected: bool,
    verified: bool,
}

impl Model {
    /// What happens, if this answer can be.
    fn step(mut self, event: &Event) -> Option<Self> {
        let Event { session, ask, .. } = *event;
        let mine = self.holder == Some(session);
        let told = match ask {
            _ if self.holder.is_some() && !mine && ask != Ask::End => Told::InUse,
            Ask::End => {
                if mine {
                    self = Self::default();
                }
                Told::Unknown
            }
            Ask::ShutDown => {
                self = Self::default();
                Told::Done
            }
            Ask::PowerOn if mine => Told::Already,
            Ask::PowerOn | Ask::Reset => {
                self = Self {
                    holder: Some(session),
                    ..Self::default()
                };
                Told::Done
            }
            Ask::Verify => {
                self = Self {
                    holder: Some(session),
                    selected: true,
                    verified: true,
                };
                Told::Verified
            }
            Ask::Select => {
                self = Self {
                    holder: Some(session),
                    selected: true,
                    verified: false,
                };
                Told::Done
            }
            Ask::Query => {
                self.holder = Some(session);
                match (self.selected, self.verified) {
                    (false, _) => Told::Refused,
                    (true, true) => Told::Verified,
                    (true, false) => Told::Unverified,
                }
            }
        };
        (event.told == told || event.told == Told::Unknown).then_some(self)
    }
}

/// Whether some order explains what was told: a depth-first search that remembers where it was.
fn is_linearizable(history: &[Event]) -> bool {
    let mut tried = HashSet::new();
    let mut stack = vec![(vec![false; history.len()], Model::default())];
    while let Some((done, model)) = stack.pop() {
        let open = || (0..history.len()).filter(|at| !done[*at]);
        if open().all(|at| history[at].until.is_none()) {
            return true;
        }
        if !tried.insert((done.clone(), model)) {
            continue;
        }
        // What begins after another one has ended comes after it.
        let first_end = open().filter_map(|at| history[at].until).min();
        for at in open() {
            if first_end.is_some_and(|end| history[at].from > end) {
                continue;
            }
            // What need not happen is worth a thought where it changes something.
            let changes = |next: &Model| history[at].until.is_some() || *next != model;
            if let Some(next) = model.step(&history[at]).filter(changes) {
                let mut done = done.clone();
                done[at] = true;
                stack.push((done, next));
            }
        }
    }
    false
}

#[test]
fn what_is_linearizable() {
    let zero = Instant::now();
    let at = |seconds: u64| zero + Duration::from_secs(seconds);
    let event = |session, ask, told, from: u64, until: u64| Event {
        session,
        ask,
        told,
        from: at(from),
        until: (until > 0).then(|| at(until)),
    };
    let check =
        |history: &[Event], is: bool| assert_eq!(is_linearizable(history), is, "{history:?}");
    let on = event(1, Ask::PowerOn, Told::Done, 1, 2);
    check(&[on], true);
    check(&[on, event(2, Ask::PowerOn, Told::InUse, 3, 4)], true);
    check(&[on, event(2, Ask::PowerOn, Told::Done, 3, 4)], false);
    // At the same time either may be first, but one must be.
    check(&[on, event(2, Ask::PowerOn, Told::InUse, 1, 4)], true);
    let both = [on, event(2, Ask::PowerOn, Told::Done, 1, 4)];
    check(&both, false);
    // Two holders, with an end of the first that may come late.
    let end = event(1, Ask::End, Told::Unknown, 2, 0);
    check(&[on, end, event(2, Ask::PowerOn, Told::Done, 3, 4)], true);
    check(&[on, end, event(2, Ask::PowerOn, Told::InUse, 3, 4)], true);
    // Nobody has what another one verified, and nothing of it stays behind a shutdown.
    let verified = event(1, Ask::Verify, Told::Verified, 3, 4);
    let shut = event(1, Ask::ShutDown, Told::Done, 5, 6);
    let query = |told| event(2, Ask::Query, told, 7, 8);
    check(&[on, verified, shut, query(Told::Refused)], true);
    check(&[on, verified, shut, query(Told::Verified)], false);
    check(&[on, verified, query(Told::Verified)], false);
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_on_four_elements() {
    let world = Arc::new(
        World::new(Settings {
            elements: ELEMENTS,
            ..Settings::default()
        })
        .await,
    );
    let histories: Arc<[Mutex<Vec<Event>>; ELEMENTS]> = Arc::default();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (world, histories) = (world.clone(), histories.clone());
        clients.push(tokio::spawn(async move {
            let mut numbers = Numbers(number as u64 + 1);
            // Sessions are numbered by their client and by how often it came back.
            let mut session = number * 1000;
            let mut client = world.alice().await;
            let mut held = Vec::new();
            for _ in 0..ROUNDS {
                let element = numbers.below(ELEMENTS);
                // A session that ends may hold on for a moment: every such end doubles what may have been.
                let kinds = if session < number * 1000 + ENDS {
                    12
                } else {
                    11
                };
                let ask = match numbers.below(kinds) {
                    0 | 1 => Ask::PowerOn,
                    2 => Ask::Reset,
                    3 | 4 => Ask::Verify,
                    5 => Ask::Select,
                    6 | 7 => Ask::Query,
                    8..=10 => Ask::ShutDown,
                    _ => Ask::End,
                };
                let add = |element: usize, ask, told, from, until| {
                    histories[element].lock().unwrap().push(Event {
                        session,
                        ask,
                        told,
                        from,
                        until,
                    });
                };
                held.push(element);
                if ask != Ask::End {
                    let from = Instant::now();
                    let told = read(ask, &client.ask(&lines(ask, element)).await);
                    add(element, ask, told, from, Some(Instant::now()));
                    continue;
                }
                // The connection is reset, half of the time with a request under way.
                let from = Instant::now();
                if numbers.below(2) == 0 {
                    let request = lines(Ask::Verify, element).join("\r\n");
                    client.send(&format!("BEGIN\r\n{request}\r\nEND\r\n")).await;
                    add(element, Ask::Verify, Told::Unknown, from, None);
                }
                for element in held.drain(..).collect::<HashSet<_>>() {
                    add(element, Ask::End, Told::Unknown, from, None);
                }
                client.stream.get_ref().0.set_zero_linger().unwrap();
                client = world.alice().await;
                session += 1;
            }
            // Those who are done wait for the others with their sessions open.
            client
        }));
    }
    let mut open = Vec::new();
    for client in clients {
        open.push(client.await.unwrap());
    }
    let mut events = 0;
    for (number, history) in histories.iter().enumerate() {
        let history = history.lock().unwrap();
        events += history.len();
        assert!(is_linearizable(&history), "SE{}: {history:#?}", number + 1);
        let count = |told| history.iter().filter(|event| event.told == told).count();
        assert!(
            count(Told::InUse) > 0 && count(Told::Verified) > 0,
            "SE{}",
            number + 1
        );
    }
    assert!(events >= CLIENTS * ROUNDS, "{events}");
}

fn lines(ask: Ask, element: usize) -> Vec<&'static str> {
    let seid = format!("SE{}", element + 1);
    let select = format!("APDU {seid} {SELECT} CONTINUE=9000");
    let verify = format!("APDU {seid} 0020008008313233343536FFFF CONTINUE=9000");
    let tries = format!("APDU {seid} 00200080");
    let lines = match ask {
        Ask::PowerOn => vec![format!("POWERON {seid}")],
        Ask::Reset => vec![format!("RESET {seid}")],
        Ask::Verify => vec![select, verify, tries],
        Ask::Select => vec![select],
        Ask::Query | Ask::End => vec![tries],
        Ask::ShutDown => vec![format!("SHUTDOWN {seid}")],
    };
    lines.into_iter().map(|line| &*line.leak()).collect()
}

fn read(ask: Ask, answer: &str) -> Told {
    match (ask, answer) {
        (_, text) if text.starts_with("-7") => Told::InUse,
        (Ask::PowerOn, text) if text.contains("already powered on") => Told::Already,
        (Ask::PowerOn | Ask::Reset | Ask::Select | Ask::ShutDown, text)
            if text.starts_with('+') =>
        {
            Told::Done
        }
        (Ask::Verify, "+006 003 9000") | (Ask::Query, "+006 001 9000") => Told::Verified,
        (Ask::Query, "+006 001 63C3") => Told::Unverified,
        (Ask::Query, text) if text.starts_with("-606") => Told::Refused,
        other => panic!("{other:?}"),
    }
}
