//! A card in a virtual reader that does what it is told to do.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::SecureElement;
use gose_proto::vpcd::{Frames, PORT, Request, frame};

/// How long a good card takes for a command.
const WORK: Duration = Duration::from_millis(2);

/// What a card does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// What a card must do.
    Good,
    /// It is not in its reader.
    Removed,
    /// It answers no command; the one that waits is answered when it is good again.
    Mute,
    /// It takes ten times as long.
    Slow,
    /// Its answer to reset is this.
    Atr(&'static [u8]),
    /// Its answer to every command is this, as bytes on the line.
    Answer(&'static [u8]),
}

/// A card, in its reader whenever there is one.
pub(crate) struct Card(Arc<(Mutex<Behaviour>, Condvar)>);

impl Card {
    pub(crate) fn insert(number: u16) -> Self {
        let state = Arc::new((Mutex::new(Behaviour::Good), Condvar::new()));
        let shared = state.clone();
        std::thread::spawn(move || {
            let nvm = Nvm::replay([factory::birth([u8::try_from(number).unwrap(); 16])]);
            let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
            let mut element = Hosted::new(card, Memory::default());
            loop {
                wait_until(&shared, |behaviour| behaviour != Behaviour::Removed);
                if let Ok(line) = TcpStream::connect(("127.0.0.1", PORT + number)) {
                    let _ = serve(line, &mut element, &shared);
                    element.power_off();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self(state)
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.0.0.lock().unwrap() = behaviour;
        self.0.1.notify_all();
    }
}

type State = (Mutex<Behaviour>, Condvar);

fn wait_until(state: &State, is_so: impl Fn(Behaviour) -> bool) {
    let guard = state.0.lock().unwrap();
    drop(
        state
            .1
            .wait_while(guard, |behaviour| !is_so(*behaviour))
            .unwrap(),
    );
}

/// Until the driver closes the line, or the card is to leave it.
fn serve(
    mut line: TcpStream,
    element: &mut dyn SecureElement,
    state: &State,
) -> std::io::Result<()> {
    let gone = || Err(std::io::ErrorKind::NotConnected.into());
    line.set_nodelay(true)?;
    let inserted_as = *state.0.lock().unwrap();
    let mut atr = element.power_on().unwrap().as_bytes().to_vec();
    if let Behaviour::Atr(wrong) = inserted_as {
        atr = wrong.to_vec();
    }
    let (mut frames, mut buffer) = (Frames::default(), [0; 4096]);
    loop {
        rustix::net::sockopt::set_tcp_quickack(&line, true)?;
        let len = line.read(&mut buffer)?;
        if len == 0 {
            return gone();
        }
        frames.receive(&buffer[..len]);
        while let Some(request) = frames.poll() {
            let now = *state.0.lock().unwrap();
            let has_other_atr = |one| matches!(one, Behaviour::Atr(_));
            if now == Behaviour::Removed || has_other_atr(now) != has_other_atr(inserted_as) {
                return gone();
            }
            match Request::parse(&request) {
                Request::Atr => line.write_all(&frame(&atr).unwrap())?,
                Request::PowerOn | Request::Reset => drop(element.reset(true)),
                Request::PowerOff => element.power_off(),
                Request::Apdu(apdu) => match now {
                    Behaviour::Answer(bytes) => {
                        line.write_all(bytes)?;
                        if bytes.len() <= 3 {
                            // The driver waits for the rest: only a card that is pulled frees it.
                            std::thread::sleep(Duration::from_secs(1));
                            return gone();
                        }
                    }
                    _ => {
                        wait_until(state, |behaviour| behaviour != Behaviour::Mute);
                        std::thread::sleep(if now == Behaviour::Slow {
                            10 * WORK
                        } else {
                            WORK
                        });
                        let answer = element.transmit(apdu).unwrap().encode();
                        line.write_all(&frame(&answer).unwrap())?;
                    }
                },
                Request::Unknown => {}
            }
        }
    }
}
