//! Power cuts: the daemon is killed while elements write, `GOSE_KILLS` times (6 if it is not set). No acknowledged
//! write is lost, no file is torn, no PIN try is gained, and every restart serves within a second.

#![allow(clippy::unwrap_used)]

mod daemon;
mod keys;
mod number;
mod objects;
mod tries;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use daemon::Place;
use number::Numbers;

/// A restart serves within this time.
const RESTART: Duration = Duration::from_secs(1);

/// Somebody who writes to an element of its own, and knows what it must hold.
trait Writer: Send {
    /// Compares what the element holds after a restart with what it acknowledged before; `Err` if the node is gone.
    fn check(&mut self, place: &Place) -> Result<(), Gone>;
    /// Writes until the node is gone.
    fn write(&mut self, place: &Place) -> Gone;
    /// Writes acknowledged so far.
    fn acknowledged(&self) -> u64;
    /// Writes that were under way when the node was killed, and of those the ones that the element then held.
    fn cut(&self) -> (u64, u64);
}

/// The node was killed: no answer came.
#[derive(Debug)]
struct Gone;

#[test]
fn kills_while_elements_write() {
    let kills: u64 = std::env::var("GOSE_KILLS").map_or(6, |text| text.parse().unwrap());
    // A short run has no time to make a thousand elements.
    let cards = if kills < 100 { 50 } else { 1000 };
    let place = Place::new(cards);
    let mut node = place.start();
    place.make_cards();
    let mut writers: Vec<Box<dyn Writer>> = vec![
        Box::new(keys::Keys::new(&place)),
        Box::new(objects::Objects::new(&place)),
        Box::new(tries::Tries::new(&place)),
    ];
    let mut numbers = Numbers::new(kills);
    let mut slowest = Duration::ZERO;
    for kill in 1..=kills {
        // Some kills hit a node that opens and compacts what the last one left.
        let early = kill % 8 == 0;
        let after = Duration::from_micros(numbers.below(if early { 8_000 } else { 40_000 }));
        cut(&place, &mut node, &mut writers, after, early);
        let begun = Instant::now();
        drop(node);
        node = place.start();
        place.first_answer();
        slowest = slowest.max(begun.elapsed());
        assert!(slowest <= RESTART, "kill {kill}: restart took {slowest:?}");
        if kill % kills.div_ceil(10) == 0 {
            progress(kill, kills, &writers, slowest);
        }
    }
    for writer in &mut writers {
        writer.check(&place).unwrap();
    }
    place.all_cards_open();
    drop(node);
    place.no_file_is_torn();
    progress(kills, kills, &writers, slowest);
    assert!(writers.iter().all(|writer| writer.acknowledged() > 0));
}

/// Checks and writes go on in all elements at once until the node is killed.
fn cut(
    place: &Place,
    node: &mut daemon::Node,
    writers: &mut [Box<dyn Writer>],
    after: Duration,
    early: bool,
) {
    let killed = Arc::new(AtomicBool::new(false));
    let (checked, all_checked) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for writer in writers {
            let (killed, checked) = (killed.clone(), checked.clone());
            scope.spawn(move || {
                let result = writer.check(place);
                drop(checked);
                let Gone = match result {
                    Ok(()) => writer.write(place),
                    Err(gone) => gone,
                };
                assert!(killed.load(Ordering::SeqCst), "the node went by itself");
            });
        }
        drop(checked);
        if !early {
            // Nothing is sent: it ends when nobody could send any more.
            all_checked.iter().for_each(drop);
        }
        std::thread::sleep(after);
        killed.store(true, Ordering::SeqCst);
        node.kill();
    });
}

fn progress(kill: u64, kills: u64, writers: &[Box<dyn Writer>], slowest: Duration) {
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledged()).sum();
    let (cut, held) = writers
        .iter()
        .map(|writer| writer.cut())
        .fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!(
        "{kill} of {kills} kills: {acknowledged} writes acknowledged, {cut} under way when killed, {held} of \
         those held; slowest restart {} ms",
        slowest.as_millis()
    );
}
