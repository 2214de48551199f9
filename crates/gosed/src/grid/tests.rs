use std::sync::{Mutex, PoisonError};

use gose_element::{Atr, Outcomes, Script, SecureElement, Step};
use gose_proto::{
    apdu::{Response, StatusWord},
    hex,
};

use super::{slot::LOOK, *};
use crate::config::{Config, Name};

const PIV: &str = "00A404000BA000000308000010000100";

/// What elements were asked, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// An element that answers 9000, notes what it is asked, and is as slow as it is told.
struct Noting {
    log: Log,
    delay: Duration,
    whole: bool,
}

impl Noting {
    fn note(&self, text: &str) {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.to_owned());
    }
}

impl SecureElement for Noting {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.note("on");
        Ok(Atr::new(&[0x3B, 0x00]).unwrap())
    }

    fn power_off(&mut self) {
        self.note("off");
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.note(if warm { "warm" } else { "cold" });
        Ok(Atr::new(&[0x3B, 0x00]).unwrap())
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        std::thread::sleep(self.delay);
        self.note(&hex::encode(&apdu[..4]));
        Ok(StatusWord::NORMAL.into())
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        if self.whole {
            self.note(&format!("request of {}", script.steps.len()));
        }
        let answered = |step: &Step| {
            Some(gose_element::Outcome {
                body: Vec::new(),
                sw: StatusWord::NORMAL,
                expected: step.expect.is_none_or(|sw| sw == StatusWord::NORMAL),
            })
        };
        Outcomes {
            done: script.steps.iter().map(answered).collect(),
            failed: None,
        }
    }
}

struct World {
    grid: Arc<Grid>,
    log: Log,
}

fn policy(users: &str) -> Policy {
    let text = format!(
        "version = 1\n[admin]\n[[aid]]\naid = \"A000000308000010000100\"\nallow = [\"alice\", \"root\"]\n{users}"
    );
    Policy::new(&Config::parse(&text).unwrap())
}

const USERS: &str = "[[user]]\ncn = \"alice\"\nseid = [\"*\"]\n[[user]]\ncn = \"root\"\nseid = [\"*\"]\nrole = \"admin\"\n";

fn world(runs: Runs, delay: Duration) -> World {
    let log = Log::default();
    let specs = ["A", "B"].map(|name| {
        let log = log.clone();
        let open: Opener = Arc::new(move |_| {
            Ok(Box::new(Noting {
                log: log.clone(),
                delay,
                whole: runs == Runs::ThreadEachLease,
            }))
        });
        Spec {
            seid: name.parse().unwrap(),
            runs,
            place: name.into(),
            open,
            used: Arc::default(),
        }
    });
    let timeout = Duration::from_millis(100);
    let grid = Grid::new(specs.into(), policy(USERS), timeout);
    World { grid, log }
}

impl World {
    fn peer(&self, name: &str) -> Peer {
        let names: Box<[Name]> = [name.parse().unwrap()].into();
        Peer::new(self.grid.new_sid(), Names::Certified(names))
    }

    fn open(&self, peer: &Peer, seid: &str) -> Result<Lease, Refusal> {
        self.grid.open(peer, seid.parse().unwrap(), Plane::User)
    }

    fn take_log(&self) -> String {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner)).join(" ")
    }
}

fn script(steps: &[&str]) -> Script {
    let step = |text: &&str| match text.strip_suffix('!') {
        Some(apdu) => Step::new(hex::decode(apdu).unwrap()).expect_normal(),
        None => Step::new(hex::decode(text).unwrap()),
    };
    Script::new(steps.iter().map(step).collect())
}

#[tokio::test]
async fn a_lease_powers_up_and_down() {
    for runs in [Runs::Inline, Runs::Thread] {
        let world = world(runs, Duration::ZERO);
        let alice = world.peer("alice");
        let mut lease = world.open(&alice, "A").unwrap();
        assert_eq!(
            world.open(&world.peer("root"), "A").err(),
            Some(Refusal::InUse)
        );
        let ran = lease.run(script(&[PIV, "00200080"])).await;
        assert_eq!((ran.done.len(), ran.refused), (2, None));
        assert!(lease.power_on().await.unwrap().already);
        lease.reset(true).await.unwrap();
        let ran = lease.run(script(&["00200080"])).await;
        assert!(
            matches!(ran.refused, Some(Refusal::Forbidden(_))),
            "RESET forgets what is selected"
        );
        lease.shutdown().await;
        assert_eq!(
            world.take_log(),
            "on 00A40400 00200080 warm off",
            "{runs:?}"
        );
        let mut lease = world.open(&world.peer("root"), "A").unwrap();
        // Power comes with RESET too, and then it is a cold one.
        lease.reset(true).await.unwrap();
        drop(lease);
        tokio::time::timeout(Duration::from_secs(5), async {
            while world.open(&alice, "A").is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        assert!(world.take_log().starts_with("cold off"), "{runs:?}");
    }
}

#[tokio::test]
async fn a_flight_is_one_request_to_a_remote_grid() {
    let world = world(Runs::ThreadEachLease, Duration::ZERO);
    let mut lease = world.open(&world.peer("alice"), "A").unwrap();
    let select = &format!("{PIV}!");
    lease.power_on().await.unwrap();
    world.take_log();
    let ran = lease
        .run(script(&[select, "00200080!", "0087119A", "0087119A"]))
        .await;
    assert_eq!((ran.done.len(), ran.refused), (4, None));
    assert_eq!(world.take_log(), "request of 4");
    // After a SELECT whose failure would not stop the script its answer is awaited.
    let ran = lease.run(script(&["0087119A", PIV, "0087119A"])).await;
    assert_eq!((ran.done.len(), ran.refused), (3, None));
    assert_eq!(world.take_log(), "request of 2 request of 1");
    // What the firewall refuses stops the script there.
    let ran = lease
        .run(script(&["0087119A", "00DB3FFF", "0087119A"]))
        .await;
    assert_eq!(ran.done.len(), 1);
    assert!(matches!(ran.refused, Some(Refusal::Forbidden(_))));
    assert_eq!(world.take_log(), "request of 1");
    let ran = lease.run(script(&["00DB3FFF"])).await;
    assert!(ran.done.is_empty() && ran.refused.is_some());
    assert_eq!(world.take_log(), "");
}

#[tokio::test]
async fn a_mute_element_disturbs_nobody_else() {
    let world = world(Runs::Thread, Duration::from_millis(300));
    let alice = world.peer("alice");
    let mut mute = world.open(&alice, "A").unwrap();
    mute.power_on().await.unwrap();
    let ran = mute.run(script(&[PIV])).await;
    assert_eq!(
        ran.refused,
        Some(Refusal::Element(ElementError::Timeout(0)))
    );
    // Until it answers it is no use, and stays locked.
    let ran = mute.run(script(&[PIV])).await;
    assert!(ran.refused.is_some());
    drop(mute);
    assert_eq!(
        world.open(&world.peer("root"), "A").err(),
        Some(ElementError::Mute.into())
    );
    world.open(&alice, "B").unwrap().power_on().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        while world.open(&alice, "A").is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

async fn waiting(world: &World, peer: &Peer) -> (Result<Lease, Refusal>, Duration) {
    let start = Instant::now();
    let seid = "A".parse().unwrap();
    let opened = world.grid.open_when_released(peer, seid, Plane::User).await;
    (opened, start.elapsed())
}

#[tokio::test]
async fn what_an_ended_session_leaves_is_waited_for() {
    let world = world(Runs::Thread, Duration::from_millis(300));
    world.grid.set_apdu_timeout(Duration::from_secs(20));
    let (alice, root) = (world.peer("alice"), world.peer("root"));
    let mut lease = world.open(&alice, "A").unwrap();
    lease.power_on().await.unwrap();
    // The answer is not waited for; the element is busy when its holder goes.
    let _ = tokio::time::timeout(Duration::from_millis(20), lease.run(script(&[PIV]))).await;
    // While the holder is there, the refusal comes at once: its session looks, and answers.
    let session = tokio::spawn({
        let evictions = alice.evictions.clone();
        async move { while evictions.wait().await != Eviction::End {} }
    });
    let (refused, after) = waiting(&world, &root).await;
    assert_eq!(refused.err(), Some(Refusal::InUse));
    assert!(after < RELEASE / 2, "{after:?}");
    drop(lease);
    assert_eq!(world.open(&root, "A").err(), Some(Refusal::InUse));
    let (opened, after) = waiting(&world, &root).await;
    assert!(opened.is_ok() && after < RELEASE, "{after:?}");
    assert_eq!(world.take_log(), "on 00A40400 off");
    alice.evictions.end();
    session.await.unwrap();
}

#[tokio::test]
async fn what_a_peer_that_has_closed_still_runs_is_waited_for() {
    let world = world(Runs::Thread, Duration::from_millis(300));
    world.grid.set_apdu_timeout(Duration::from_secs(20));
    let (alice, root) = (world.peer("alice"), world.peer("root"));
    let mut lease = world.open(&alice, "A").unwrap();
    let session = tokio::spawn(async move {
        lease.run(script(&[PIV])).await;
        drop(lease);
    });
    alice.evictions.leave();
    let (opened, after) = waiting(&world, &root).await;
    assert!(opened.is_ok() && after < RELEASE, "{after:?}");
    session.await.unwrap();
}

#[tokio::test]
async fn an_element_that_does_not_come_back_is_not_waited_for_for_ever() {
    let world = world(Runs::Thread, RELEASE + Duration::from_secs(1));
    world.grid.set_apdu_timeout(Duration::from_secs(20));
    let mut lease = world.open(&world.peer("alice"), "A").unwrap();
    lease.power_on().await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(20), lease.run(script(&[PIV]))).await;
    drop(lease);
    let (refused, after) = waiting(&world, &world.peer("root")).await;
    assert_eq!(refused.err(), Some(Refusal::InUse));
    assert!(after >= RELEASE, "{after:?}");
}

#[tokio::test]
async fn an_element_that_hangs_is_quarantined_until_it_comes_back() {
    let world = world(Runs::Thread, Duration::from_millis(500));
    let mut lease = world.open(&world.peer("alice"), "A").unwrap();
    lease.power_on().await.unwrap();
    let ran = lease.run(script(&[PIV])).await;
    assert_eq!(ran.refused, Some(ElementError::Timeout(0).into()));
    // Neither its holder nor others wait for it; other elements are as they were.
    let start = Instant::now();
    let mute: Refusal = ElementError::Mute.into();
    assert_eq!(lease.power_on().await.err(), Some(mute.clone()));
    assert_eq!(
        world.open(&world.peer("root"), "A").err(),
        Some(mute.clone())
    );
    assert_eq!(
        waiting(&world, &world.peer("root")).await.0.err(),
        Some(mute)
    );
    assert!(start.elapsed() < LOOK, "{:?}", start.elapsed());
    // It comes back, is powered down, and begins afresh.
    let back = async {
        while lease.power_on().await.is_err() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(RELEASE, back).await.unwrap();
    assert_eq!(world.take_log(), "on 00A40400 off on");
    let ran = lease.run(script(&["00200080"])).await;
    assert!(matches!(ran.refused, Some(Refusal::Forbidden(_))));
}

#[tokio::test]
async fn a_slow_element_that_goes_on_answering_is_waited_for() {
    let world = world(Runs::Thread, Duration::from_millis(60));
    let mut lease = world.open(&world.peer("alice"), "A").unwrap();
    let ran = lease
        .run(script(&[PIV, "00200080", "00200080", "00200080"]))
        .await;
    assert_eq!((ran.done.len(), ran.refused), (4, None));
}

#[tokio::test]
async fn the_policy_decides() {
    let world = world(Runs::Inline, Duration::ZERO);
    let (alice, root) = (world.peer("alice"), world.peer("root"));
    let seid = "A".parse().unwrap();
    assert_eq!(world.grid.plane(&alice, seid), Some(Plane::User));
    assert_eq!(world.grid.plane(&root, seid), Some(Plane::Management));
    for (peer, seid, plane) in [
        (world.peer("mallory"), "A", Plane::User),
        (alice.clone(), "C", Plane::User),
        (alice.clone(), "A", Plane::Management),
    ] {
        let opened = world.grid.open(&peer, seid.parse().unwrap(), plane);
        assert_eq!(opened.err(), Some(Refusal::Unauthorised), "{peer} {seid}");
    }
    // A policy that gives nothing any more stops a lease that is held.
    let mut lease = world.open(&alice, "A").unwrap();
    assert_eq!(lease.run(script(&[PIV])).await.refused, None);
    assert!(lease.is_permitted());
    world.grid.replace_policy(policy(USERS));
    assert_eq!(lease.run(script(&["00200080"])).await.refused, None);
    world.grid.replace_policy(policy(""));
    assert!(!lease.is_permitted());
    let ran = lease.run(script(&["00200080"])).await;
    assert_eq!(ran.refused, Some(Refusal::Unauthorised));
    assert_eq!(world.grid.list(&alice), []);
}

#[tokio::test]
async fn every_refusal_has_its_class() {
    use gose_proto::racs::Class;
    let storage = ElementError::Storage(String::new());
    for (refusal, class) in [
        (Refusal::Unauthorised, Class::Unauthorised),
        (Refusal::Forbidden(""), Class::Unauthorised),
        (Refusal::InUse, Class::InUse),
        (ElementError::Absent.into(), Class::Hardware),
        (ElementError::Mute.into(), Class::Hardware),
        (ElementError::Timeout(60).into(), Class::Hardware),
        (
            ElementError::Transport(String::new()).into(),
            Class::Hardware,
        ),
        (ElementError::OutcomeUnknown.into(), Class::Hardware),
        (ElementError::AnswerTooLong.into(), Class::Hardware),
        (ElementError::Malformed(String::new()).into(), Class::Value),
        (ElementError::Refused.into(), Class::Unauthorised),
        (ElementError::InUse.into(), Class::InUse),
        (storage.into(), Class::System),
    ] {
        assert_eq!(Failure::from(&refusal).class(), class, "{refusal:?}");
    }
}
