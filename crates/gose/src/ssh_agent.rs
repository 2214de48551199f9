//! `gose ssh-agent`: keys of an element for OpenSSH, by its agent protocol (draft-ietf-sshm-ssh-agent).

mod key;
mod message;

use std::{
    env,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;
use gose_client::RemoteElement;
use gose_element::drive::piv::{Piv, PivError, Slot};
use serde::Serialize;
use zeroize::Zeroizing;

use self::{
    key::Key,
    message::{MAX_MESSAGE, Reply, Request},
};
use crate::{
    Failure, Output,
    node::{Node, parse_seid},
    output::log,
    secrets::PinFlags,
    socket::{Listener, Peer},
};

/// Programs at a time.
const CLIENTS: usize = 64;

/// Time for a program to finish a request, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flags of `ssh-agent`.
#[derive(Args)]
pub(crate) struct Agent {
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    pin: PinFlags,
    /// The element
    seid: String,
    /// A slot whose key is offered; several may be given
    #[arg(long, default_value = "9A")]
    slot: Vec<Slot>,
    /// Where the agent listens, mode 0600 [default: gose-agent.sock in XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    bind: Option<PathBuf>,
}

#[derive(Serialize)]
struct Serving<'a> {
    socket: &'a Path,
    keys: Vec<String>,
}

impl Serving<'_> {
    /// As ssh-agent prints it, for a shell to read.
    fn text(&self) -> String {
        let mut text = format!(
            "SSH_AUTH_SOCK={}; export SSH_AUTH_SOCK;\n",
            self.socket.display()
        );
        for key in &self.keys {
            text.push_str(&format!("# {key}\n"));
        }
        text
    }
}

/// What all clients use.
struct Keys {
    element: Mutex<RemoteElement>,
    /// Forgotten when it was wrong: another try would cost one.
    pin: Mutex<Option<Zeroizing<Vec<u8>>>>,
    keys: Vec<Key>,
}

impl Agent {
    /// Serves for ever.
    ///
    /// # Errors
    /// [`Failure`] where the element has none of the keys, or the socket is taken.
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let path = match (&self.bind, env::var_os("XDG_RUNTIME_DIR")) {
            (Some(path), _) => path.clone(),
            (None, Some(folder)) => PathBuf::from(folder).join("gose-agent.sock"),
            (None, None) => {
                return Err(Failure::local(
                    "say by --bind where to listen: XDG_RUNTIME_DIR is not set",
                ));
            }
        };
        let pin = self.pin.pin(&self.seid)?;
        let mut element = RemoteElement::at(self.node.endpoint()?, parse_seid(&self.seid)?);
        let keys = self.keys(&mut element, &pin)?;
        let listener = Listener::bind(&path, None)?;
        let serving = Serving {
            socket: listener.path(),
            keys: keys.iter().map(Key::line).collect(),
        };
        output.result(&serving, Serving::text)?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let keys = Arc::new(Keys {
            element: Mutex::new(element),
            pin: Mutex::new(Some(pin)),
            keys,
        });
        serve(&listener, &keys)
    }

    /// The public halves, and whether the PIN is right.
    fn keys(&self, element: &mut RemoteElement, pin: &[u8]) -> Result<Vec<Key>, Failure> {
        let mut once = element.once();
        let mut piv = Piv::open(&mut once);
        piv.with_pin(pin)?;
        let inventory = piv.verified_inventory(&self.slot)?;
        let mut keys = Vec::new();
        for slot in &self.slot {
            let entry = inventory.entries.iter().find(|entry| entry.slot == *slot);
            let public = entry
                .and_then(|entry| entry.key.clone())
                .ok_or(PivError::NoKey(*slot))?;
            let name = format!("{}:{slot}", self.seid);
            keys.push(Key::new(*slot, public, name).ok_or_else(|| {
                Failure::local(format!(
                    "the key in slot {slot} is of a kind that SSH does not know"
                ))
            })?);
        }
        Ok(keys)
    }
}

fn serve(listener: &Listener, keys: &Arc<Keys>) -> ! {
    let own = rustix::process::geteuid().as_raw();
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, Peer { uid, pid }) = listener.accept();
        // root may speak for everybody anyway.
        if uid != own && uid != 0 {
            log(&format!("user {uid} (process {pid}) is turned away"));
            continue;
        }
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            log(&format!(
                "process {pid} is turned away: {CLIENTS} programs are connected"
            ));
            continue;
        }
        let (keys, here) = (keys.clone(), clients.clone());
        let client = thread::Builder::new().spawn(move || {
            // However a program leaves.
            let _ = converse(stream, &keys);
            here.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = client {
            clients.fetch_sub(1, Ordering::Relaxed);
            log(&format!("process {pid} is turned away: {error}"));
        }
    }
}

/// Answers one program until it goes.
fn converse(mut stream: UnixStream, keys: &Keys) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        stream.set_read_timeout(None)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut message = vec![0; length];
        stream.read_exact(&mut message)?;
        let reply = match Request::parse(&message) {
            Some(Request::Identities) => Reply::identities(&keys.keys),
            Some(Request::Sign { key, data, flags }) => match keys.sign(key, data, flags) {
                Some(signature) => Reply::signature(&signature),
                None => Reply::failure(),
            },
            // Locks, keys to take in, extensions: nothing that an element's keys need.
            None => Reply::failure(),
        };
        stream.write_all(&reply.frame())?;
    }
}

impl Keys {
    fn sign(&self, blob: &[u8], data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let key = self.keys.iter().find(|key| key.blob() == blob)?;
        let mut element = self.element.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pin) = known.as_ref() else {
            log("the PIN is another one now; start the agent again");
            return None;
        };
        let mut again = true;
        loop {
            let mut once = element.once();
            let signed = Piv::resume(
                &mut once,
                gose_element::drive::piv::Standing::default(),
                Some(pin),
            )
            .and_then(|mut piv| key.sign(&mut piv, data, flags));
            match signed {
                Ok(signature) => return Some(signature),
                // The session ended since the last signature; signing twice does no harm.
                Err(PivError::Element(_)) if again => again = false,
                Err(error) => {
                    log(&error.to_string());
                    if matches!(error, PivError::WrongPin { .. } | PivError::PinBlocked) {
                        *known = None;
                    }
                    return None;
                }
            }
        }
    }
}
