//! A disk that fails: an error at every system call on an image and its folder, one after the other, and writes that come
//! to an end in the middle. What was acknowledged is there after a restart; what was refused is not half there.
//!
//! `GOSE_DISK=all` tries every call, error and scene; otherwise the writes of an ordinary element alone.

use std::{
    fs,
    process::{Command, Stdio},
};

use gose_element::{
    ElementError, SecureElement,
    drive::piv::{Piv, PivError},
};
use gose_proto::hex;

use crate::{node_of_one::Place, world::SELECT};

/// Calls that touch an image.
const CALLS: [&str; 12] = [
    "openat",
    "read",
    "statx",
    "flock",
    "pwrite64",
    "fdatasync",
    "fsync",
    "ftruncate",
    "rename",
    "linkat",
    "unlink",
    "close",
];

const MANAGEMENT: [u8; 32] = [0x42; 32];
/// The first of the retired certificates: readable without a PIN.
const OBJECT: u32 = 0x5F_C10D;

/// What an element is before the disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Not born yet.
    Birth,
    /// In use.
    Ordinary,
    /// Its last record was cut.
    Torn,
    /// Its log is long enough to be replaced.
    Long,
}

/// What an element holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    tries: u8,
    object: Option<u32>,
}

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Done,
    /// An error, so that nothing may have changed; or no answer.
    Refused,
}

struct Runs {
    place: Place,
    runs: u32,
    injected: u32,
    refused: u32,
}

fn all() -> bool {
    std::env::var("GOSE_DISK").is_ok_and(|value| value == "all")
}

#[test]
fn errors_at_every_call() {
    let scenes: &[Scene] = if all() {
        &[Scene::Birth, Scene::Ordinary, Scene::Torn, Scene::Long]
    } else {
        &[Scene::Ordinary]
    };
    let calls: &[&str] = if all() { &CALLS } else { &CALLS[4..6] };
    let errors: &[&str] = if all() { &["EIO", "ENOSPC"] } else { &["EIO"] };
    for scene in scenes {
        let mut runs = Runs::new(*scene);
        for call in calls {
            for error in errors {
                runs.every_index(*scene, call, error);
            }
        }
        println!(
            "{scene:?}: {} runs, {} with an error on the disk, {} commands refused",
            runs.runs, runs.injected, runs.refused
        );
        assert!(runs.injected > 0);
    }
}

/// A limit on the file's length cuts writes short, and then refuses them (EFBIG), as a full disk does.
#[test]
fn writes_that_end_in_the_middle() {
    let mut runs = Runs::new(Scene::Ordinary);
    let length = fs::metadata(runs.place.path("SE1.image")).unwrap().len();
    let step = if all() { 7 } else { 151 };
    for limit in (length..length + 600).step_by(step) {
        runs.restore();
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "trap '' XFSZ; exec prlimit --fsize=\"$0\" \"$@\""])
            .arg(limit.to_string())
            .arg(env!("CARGO_BIN_EXE_gosed"));
        // The log is a file too, and longer than an image.
        runs.once(&mut limited, &format!("limit {limit}"));
    }
    println!("{} runs, {} commands refused", runs.runs, runs.refused);
    assert!(runs.refused > 0);
}

impl Runs {
    fn new(scene: Scene) -> Self {
        let place = Place::new();
        let key = place.with_key();
        place.configure(key, "");
        {
            let node = place.start_with(&[], "");
            let mut element = place.powered().unwrap();
            Piv::open(&mut element)
                .set_management_key(&MANAGEMENT)
                .unwrap();
            if scene == Scene::Long {
                // Half a megabyte of the same object, and some: the next opening replaces the log.
                for number in 0..60 {
                    put(&mut element, &[number; 3000]).unwrap();
                }
            }
            put(&mut element, &7_u32.to_be_bytes()).unwrap();
            drop(element);
            drop(node);
        }
        let image = place.path("SE1.image");
        match scene {
            Scene::Birth => {
                fs::remove_file(&image).unwrap();
                fs::remove_file(place.path("SE1.born")).unwrap();
            }
            Scene::Torn => {
                let bytes = fs::read(&image).unwrap();
                let longer = [&bytes[..], &bytes[bytes.len() - 100..][..50]].concat();
                // Half of a record's header is a record that was cut.
                fs::write(&image, &longer[..bytes.len() + 11]).unwrap();
            }
            Scene::Ordinary | Scene::Long => {}
        }
        if image.exists() {
            fs::copy(&image, place.path("before")).unwrap();
        }
        Self {
            place,
            runs: 0,
            injected: 0,
            refused: 0,
        }
    }

    /// The folder as it was.
    fn restore(&self) {
        for left in ["SE1.image", "SE1.image.new", "SE1.image.old"] {
            let _ = fs::remove_file(self.place.path(left));
        }
        if !self.place.path("before").exists() {
            let _ = fs::remove_file(self.place.path("SE1.born"));
        } else {
            fs::copy(self.place.path("before"), self.place.path("SE1.image")).unwrap();
        }
    }

    /// An error at the first call of this kind, at the second, and so on until there are no more.
    fn every_index(&mut self, scene: Scene, call: &str, error: &str) {
        for index in 1..200 {
            self.restore();
            let what = format!("{scene:?} {call} {error} {index}");
            let trace = self.place.path("trace");
            let mut traced = Command::new("strace");
            traced.args(["-D", "-f", "-qq", "-o"]).arg(&trace);
            for name in ["SE1.image", "SE1.image.new", "SE1.image.old", ""] {
                traced.arg("-P").arg(self.place.path(name));
            }
            traced
                .args(["-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={call}:error={error}:when={index}")])
                .arg(env!("CARGO_BIN_EXE_gosed"));
            self.once(&mut traced, &what);
            let trace = fs::read_to_string(trace).unwrap_or_default();
            if !trace.contains("(INJECTED)") {
                return;
            }
            self.injected += 1;
        }
        panic!("{call}: no end");
    }

    /// Commands to a node whose disk fails, then to one whose disk does not.
    fn once(&mut self, command: &mut Command, what: &str) {
        self.runs += 1;
        let born = self.place.path("SE1.image").exists();
        let mut expected = State {
            tries: 3,
            object: born.then_some(7),
        };
        let mut possible = vec![expected.clone()];
        // A node that does not even start is a clean error too.
        if let Ok(node) = self.place.start_by(command.stdin(Stdio::null()), &[], "") {
            let management = if born { Some(MANAGEMENT) } else { None };
            for number in 1..=3_u32 {
                // A wrong guess: its try is gone where it was answered.
                let after = State {
                    tries: expected.tries - 1,
                    ..expected.clone()
                };
                match guess(&self.place) {
                    Came::Done => (expected, possible) = (after.clone(), vec![after]),
                    Came::Refused => {
                        self.refused += 1;
                        possible.push(after);
                    }
                }
                if number == 3 {
                    break;
                }
                let Some(key) = management else { continue };
                let after = State {
                    object: Some(number),
                    ..expected.clone()
                };
                match write(&self.place, &key, number) {
                    Came::Done => (expected, possible) = (after.clone(), vec![after]),
                    Came::Refused => {
                        self.refused += 1;
                        let more = possible.iter().map(|state| State {
                            object: Some(number),
                            ..state.clone()
                        });
                        possible.extend(more.collect::<Vec<_>>());
                    }
                }
                // What was refused is not there while the same node runs, or the element cannot be had at all.
                if let Ok(now) = read(&self.place) {
                    assert!(
                        possible.contains(&now),
                        "{what}: {now:?} of {possible:?}\n{}",
                        node.log()
                    );
                    expected = now.clone();
                    possible = vec![now];
                }
            }
            drop(node);
        }
        let node = self.place.start_with(&[], "");
        let now =
            read(&self.place).unwrap_or_else(|error| panic!("{what}: {error}\n{}", node.log()));
        assert!(possible.contains(&now), "{what}: {now:?} of {possible:?}");
        for left in ["SE1.image.new", "SE1.image.old"] {
            let path = self.place.path(left);
            // What a failed replacement leaves is used again by the next one, and never read.
            assert!(!path.exists() || left == "SE1.image.new", "{what}: {left}");
        }
    }
}

fn guess(place: &Place) -> Came {
    match place.run(&["0020008008393939393939FFFF"]) {
        Ok(status) if status.starts_with("63C") => Came::Done,
        Ok(status) => {
            assert!(["6581", "6983"].contains(&&*status), "{status}");
            Came::Refused
        }
        Err(error) => clean(&error),
    }
}

fn write(place: &Place, key: &[u8; 32], number: u32) -> Came {
    let mut element = match place.powered() {
        Ok(element) => element,
        Err(error) => return clean(&error),
    };
    let mut piv = Piv::open(&mut element);
    let written = piv
        .authenticate_management(key)
        .and_then(|()| piv.put_object(OBJECT, &number.to_be_bytes()));
    match written {
        Ok(()) => Came::Done,
        Err(PivError::Element(error)) => clean(&error),
        Err(error) => {
            assert!(
                error.to_string().contains("6581") || format!("{error:?}").contains("6581"),
                "{error:?}"
            );
            Came::Refused
        }
    }
}

fn put(element: &mut gose_client::RemoteElement, bytes: &[u8]) -> Result<(), PivError> {
    let mut piv = Piv::open(element);
    piv.authenticate_management(&MANAGEMENT)?;
    piv.put_object(OBJECT, bytes)
}

/// An error of the element's storage, told as such.
fn clean(error: &ElementError) -> Came {
    let text = error.to_string();
    assert!(
        text.contains("-908") || text.contains("non-volatile memory"),
        "{text}"
    );
    Came::Refused
}

fn read(place: &Place) -> Result<State, ElementError> {
    let mut element = place.powered()?;
    let mut ask = |apdu: &str| element.transmit(&hex::decode(apdu).unwrap());
    ask(SELECT)?;
    let tries = ask("00200080")?.sw.value();
    let object = ask("00CB3FFF055C035FC10D00")?;
    element.power_off();
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u32, |n, byte| n << 8 | u32::from(*byte))
    };
    Ok(State {
        tries: match tries {
            0x6983 => 0,
            _ => u8::try_from(tries & 0x0F).unwrap(),
        },
        object: (object.sw.value() == 0x9000).then(|| number(&object.data[2..])),
    })
}
