//! Faults on purpose, for grids that are there to be tested: a card that falls silent, lies, is pulled, is
//! slow, or whose line flips bits; each after so many command APDUs, so many times, the same in every run.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gose_element::{Atr, ElementError, SecureElement};
use gose_proto::apdu::{CommandRef, Response, StatusWord};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `mute`: the command is not executed and no answer comes.
    Mute,
    /// `status=XXXX`: the command is executed, and answered with this status word and no data.
    Status(u16),
    /// `reset`: the card is reset in the middle of the command; the seed decides whether it was executed before.
    Reset,
    /// `pulled`: there is no card, for so many uses (APDUs, power-ups, resets); then it is back, without power.
    Pulled,
    /// `slow=N`: the command takes so many times as long as the slot's `timing` says.
    Slow(u16),
    /// `flip`: one bit of the command or of the answer changes on the line; the seed decides which.
    Flip,
    /// `more`: whatever is asked, there are 16 bytes and more to fetch (`6110`).
    More,
    /// `length`: whatever is asked, the length was wrong (`6C05`).
    Length,
    /// `long=N`: the answer has so many bytes, whatever was promised.
    Long(u32),
}

/// A fault, and when it happens: at the command APDUs after the first `after`, `times` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What goes wrong.
    pub fault: Fault,
    /// Commands that go well before.
    pub after: u64,
    /// Commands that go wrong.
    pub times: u64,
    /// What a fault that chooses, chooses by.
    pub seed: u64,
}

/// Why a text is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no fault: one of mute, status=XXXX, reset, pulled, slow=N, flip, more, length, long=N, then after=N, \
     times=N, seed=N as wanted"
)]
pub struct NoPlan(String);

impl FromStr for Plan {
    type Err = NoPlan;

    fn from_str(text: &str) -> Result<Self, NoPlan> {
        plan(text).ok_or_else(|| NoPlan(text.chars().take(80).collect()))
    }
}

fn plan(text: &str) -> Option<Plan> {
    let mut words = text.split_ascii_whitespace();
    let (kind, value) = pair(words.next()?);
    let fault = match (kind, value) {
        ("mute", None) => Fault::Mute,
        ("status", Some(word)) if word.len() == 4 => {
            Fault::Status(u16::from_str_radix(word, 16).ok()?)
        }
        ("reset", None) => Fault::Reset,
        ("pulled", None) => Fault::Pulled,
        ("slow", Some(factor)) => Fault::Slow(factor.parse().ok().filter(|factor| *factor > 0)?),
        ("flip", None) => Fault::Flip,
        ("more", None) => Fault::More,
        ("length", None) => Fault::Length,
        ("long", Some(bytes)) => Fault::Long(bytes.parse().ok().filter(|n| *n <= LONGEST)?),
        _ => return None,
    };
    let mut plan = Plan {
        fault,
        after: 0,
        times: 1,
        seed: 0,
    };
    for word in words {
        let (name, value) = pair(word);
        let number = value?.parse().ok()?;
        match name {
            "after" => plan.after = number,
            "times" => plan.times = number,
            "seed" => plan.seed = number,
            _ => return None,
        }
    }
    Some(plan)
}

fn pair(word: &str) -> (&str, Option<&str>) {
    word.split_once('=')
        .map_or((word, None), |(name, value)| (name, Some(value)))
}

/// More than any host takes.
const LONGEST: u32 = 1 << 20;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::Mute => f.write_str("mute"),
            Fault::Status(word) => write!(f, "status={word:04X}"),
            Fault::Reset => f.write_str("reset"),
            Fault::Pulled => f.write_str("pulled"),
            Fault::Slow(factor) => write!(f, "slow={factor}"),
            Fault::Flip => f.write_str("flip"),
            Fault::More => f.write_str("more"),
            Fault::Length => f.write_str("length"),
            Fault::Long(bytes) => write!(f, "long={bytes}"),
        }?;
        write!(
            f,
            " after={} times={} seed={}",
            self.after, self.times, self.seed
        )
    }
}

/// The faults of one card, which whoever tests it changes while it is used.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Armed>>);

#[derive(Debug)]
struct Armed {
    plan: Plan,
    /// Commands since the plan was made.
    seen: u64,
    /// How often it happened.
    happened: u64,
}

impl Faults {
    /// A card with these faults ahead.
    #[must_use]
    pub fn new(plans: &[Plan]) -> Self {
        let faults = Self::default();
        faults.replace(plans);
        faults
    }

    /// These faults in place of all before; counting begins anew.
    pub fn replace(&self, plans: &[Plan]) {
        let armed = |plan: &Plan| Armed {
            plan: *plan,
            seen: 0,
            happened: 0,
        };
        *self.lock() = plans.iter().map(armed).collect();
    }

    /// Each plan, and how often it happened.
    #[must_use]
    pub fn state(&self) -> Vec<(Plan, u64)> {
        let of = |armed: &Armed| (armed.plan, armed.happened);
        self.lock().iter().map(of).collect()
    }

    /// The fault of the next command; the first plan that is due counts.
    fn next(&self) -> Option<Due> {
        let mut due = None;
        for armed in self.lock().iter_mut() {
            armed.seen = armed.seen.saturating_add(1);
            let now = armed.seen > armed.plan.after && armed.happened < armed.plan.times;
            if now && due.is_none() {
                armed.happened += 1;
                due = Some(Due {
                    fault: armed.plan.fault,
                    number: mixed(armed.plan.seed, armed.happened),
                });
            }
        }
        due
    }

    /// A use of a card that was pulled: whether it is still out.
    fn is_out(&self) -> bool {
        let mut all = self.lock();
        let out = all.iter_mut().find(|armed| {
            armed.plan.fault == Fault::Pulled
                && armed.happened > 0
                && armed.happened < armed.plan.times
        });
        if let Some(armed) = out {
            armed.happened += 1;
            return true;
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Due {
    fault: Fault,
    number: u64,
}

/// A number that looks random and is the same in every run (SplitMix64).
fn mixed(seed: u64, count: u64) -> u64 {
    let mut mixed = seed.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A card that can be told how many times as long its next command takes.
pub trait Slowness {
    /// For the next command alone.
    fn set_factor(&mut self, factor: u16);
}

/// An element whose faults can be chosen.
pub struct Faulty<E> {
    element: E,
    faults: Arc<Faults>,
    /// The card was pulled and has had no power since.
    out: bool,
}

impl<E> Faulty<E> {
    /// An element, and what goes wrong with it.
    #[must_use]
    pub fn new(element: E, faults: Arc<Faults>) -> Self {
        Self {
            element,
            faults,
            out: false,
        }
    }
}

impl<E: SecureElement + Slowness> SecureElement for Faulty<E> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        if self.faults.is_out() {
            return Err(ElementError::Absent);
        }
        self.out = false;
        self.element.power_on()
    }

    fn power_off(&mut self) {
        self.element.power_off();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        if self.faults.is_out() {
            return Err(ElementError::Absent);
        }
        // Power was gone: no reset line alone brings the card back.
        let out = std::mem::take(&mut self.out);
        self.element.reset(warm && !out)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        if self.out {
            // As a reader does: a card that is back has no power.
            return Err(match self.faults.is_out() {
                true => ElementError::Absent,
                false => ElementError::Transport("the element is not powered; power it on".into()),
            });
        }
        let Some(Due { fault, number }) = self.faults.next() else {
            return self.element.transmit(apdu);
        };
        let answer = |sw: u16, length: usize| {
            Ok(Response {
                data: vec![0xA5; length],
                sw: StatusWord::new(sw),
            })
        };
        match fault {
            Fault::Mute => Err(ElementError::Mute),
            Fault::Status(word) => {
                self.element.transmit(apdu)?;
                answer(word, 0)
            }
            Fault::Reset => {
                if number & 1 == 1 {
                    self.element.transmit(apdu)?;
                }
                self.element.reset(true)?;
                Err(ElementError::OutcomeUnknown)
            }
            Fault::Pulled => {
                self.element.power_off();
                self.out = true;
                Err(ElementError::Absent)
            }
            Fault::Slow(factor) => {
                self.element.set_factor(factor);
                self.element.transmit(apdu)
            }
            Fault::Flip => self.flip(apdu, number),
            Fault::More => answer(0x6110, 16),
            Fault::Length => answer(0x6C05, 0),
            Fault::Long(bytes) => answer(0x9000, bytes as usize),
        }
    }
}

impl<E: SecureElement> Faulty<E> {
    /// A command whose flipped bit makes it no command at all is lost on the way to the card.
    fn flip(&mut self, apdu: &[u8], number: u64) -> Result<Response, ElementError> {
        let (in_command, number) = (number & 1 == 1, number >> 1);
        if in_command {
            let mut changed = apdu.to_vec();
            flip(&mut changed, number);
            return match CommandRef::parse(&changed) {
                Ok(_) => self.element.transmit(&changed),
                Err(_) => Err(ElementError::Mute),
            };
        }
        let response = self.element.transmit(apdu)?;
        let mut bytes = response.data;
        bytes.extend_from_slice(&response.sw.value().to_be_bytes());
        flip(&mut bytes, number);
        let status = bytes.split_off(bytes.len().saturating_sub(2));
        let sw = status.iter().fold(0, |sw, byte| sw << 8 | u16::from(*byte));
        Ok(Response {
            data: bytes,
            sw: StatusWord::new(sw),
        })
    }
}

fn flip(bytes: &mut [u8], number: u64) {
    let bits = (bytes.len() as u64 * 8).max(1);
    // Below the number of bits, which is a usize times eight.
    let bit = usize::try_from(number % bits).unwrap_or(0);
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests;
