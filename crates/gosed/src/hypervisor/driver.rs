//! The joint: whatever starts virtual machines.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gose_client::guest::{JoinRecord, Request, send_record};
use gose_proto::identity::VmId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{gate::Gate, journal::Record, process};
use crate::clock::Clock;

/// What a guest opened, of whatever kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket of one domain.
pub type Socket = Box<dyn Stream>;

/// Takes what one domain opens. There is one value a domain: that is how a peer is known before its first
/// byte.
pub trait Sockets: Send + Sync {
    /// Serves a new socket of the domain; `false` refuses it: the domain has too many.
    fn serve(&self, request: Request, socket: Socket) -> bool;

    /// The domain runs no more.
    fn ended(&self);
}

/// A domain to build.
pub struct Build {
    /// What was authorised.
    pub record: Record,
    /// What boots: the copy that was hashed.
    pub kernel: Option<PathBuf>,
    /// Its RAM disk, likewise.
    pub ramdisk: Option<PathBuf>,
    /// What the guest is told.
    pub join: JoinRecord,
    /// The creation ticket.
    pub ticket: Vec<u8>,
    /// Where the ticket is to be used up before the guest runs.
    pub gate: Arc<Gate>,
}

impl Build {
    /// The domain.
    #[must_use]
    pub fn vm(&self) -> VmId {
        self.record.uuid.0
    }

    /// Passes the gate: the ticket is used up.
    ///
    /// # Errors
    /// The gate's reason; the guest must not run.
    pub fn admit(&self) -> io::Result<()> {
        let admitted = self.gate.admit(self.vm(), &self.ticket, Clock::seconds());
        admitted.map_err(io::Error::other)
    }

    /// Program and arguments, where a guest is a program.
    #[must_use]
    pub fn program(&self) -> Vec<String> {
        let kernel = self.kernel.iter().map(|path| path.display().to_string());
        kernel.chain(self.record.command.iter().cloned()).collect()
    }
}

/// Creates, destroys and lists domains.
pub trait Hypervisor: Send + Sync {
    /// Starts a domain that passes the gate, and gives it its join record.
    ///
    /// # Errors
    /// What the system says; the domain does not run then.
    fn create(&self, build: Build, sockets: Arc<dyn Sockets>) -> io::Result<()>;

    /// Stops a domain; `false` if it does not run.
    fn destroy(&self, vm: VmId) -> bool;

    /// Holds a domain, or lets it go on.
    ///
    /// # Errors
    /// What the system says; the domain is as it was.
    fn pause(&self, vm: VmId, paused: bool) -> io::Result<()>;

    /// The domains that run.
    fn domains(&self) -> Vec<VmId>;

    /// Takes away what an earlier life of the node made for a domain that is not to run.
    fn clear(&self, vm: VmId);

    /// The guest has joined: its secret is used up.
    fn joined(&self, _vm: VmId) {}

    /// Whether guests go on when the node ends.
    fn outlives(&self) -> bool {
        false
    }

    /// Whether a guest of an earlier life of the node is still there.
    fn survived(&self, _vm: VmId) -> bool {
        false
    }

    /// Takes over a guest that survived, with another join record.
    ///
    /// # Errors
    /// What the system says.
    fn take_over(
        &self,
        _vm: VmId,
        _join: JoinRecord,
        _sockets: Arc<dyn Sockets>,
    ) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Driver `process`: every guest is a process of this node.
#[derive(Default)]
pub struct Processes(Arc<Mutex<HashMap<VmId, Guest>>>);

/// A guest that is a process.
struct Guest {
    stop: Option<oneshot::Sender<()>>,
    process: Option<u32>,
}

impl Hypervisor for Processes {
    fn create(&self, build: Build, sockets: Arc<dyn Sockets>) -> io::Result<()> {
        let vm = build.vm();
        let mut domains = lock(&self.0);
        if domains.contains_key(&vm) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let record = send_record(&build.join).map_err(io::Error::other)?;
        build.admit()?;
        let (mut guest, control) = process::start(&build.program())?;
        let (stop, stopped) = oneshot::channel();
        let (stop, process) = (Some(stop), guest.id());
        domains.insert(vm, Guest { stop, process });
        tracing::info!(%vm, process = guest.id(), "domain started");
        let all = self.0.clone();
        tokio::spawn(async move {
            let served = control.serve(&record, sockets.clone());
            tokio::select! {
                biased;
                _ = stopped => tracing::info!(%vm, "domain stopped"),
                ended = guest.ended() => match ended {
                    Ok(status) => tracing::info!(%vm, %status, "domain ended"),
                    Err(error) => tracing::warn!(%vm, %error, "domain lost"),
                },
                // A guest that closed its control socket goes on; one that misuses it does not.
                () = misused(served, vm) => {}
            }
            if let Err(error) = guest.kill().await {
                tracing::warn!(%vm, %error, "the guest's process could not be killed");
            }
            // What it had is free before it is gone from the list.
            sockets.ended();
            lock(&all).remove(&vm);
        });
        Ok(())
    }

    fn pause(&self, vm: VmId, paused: bool) -> io::Result<()> {
        let process = lock(&self.0).get(&vm).and_then(|guest| guest.process);
        let process = process.and_then(|process| i32::try_from(process).ok());
        let group = process.and_then(rustix::process::Pid::from_raw);
        let group = group.ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::kill_process_group(group, signal(paused))?)
    }

    /// A guest's control socket ended with the node, and with it the guest.
    fn clear(&self, _vm: VmId) {}

    fn destroy(&self, vm: VmId) -> bool {
        // It stays in the list until its process is gone.
        let mut domains = lock(&self.0);
        let stop = domains.get_mut(&vm).and_then(|guest| guest.stop.take());
        stop.is_some_and(|stop| stop.send(()).is_ok())
    }

    fn domains(&self) -> Vec<VmId> {
        lock(&self.0).keys().copied().collect()
    }
}

/// What holds a process, or lets it go on.
pub(super) fn signal(paused: bool) -> rustix::process::Signal {
    match paused {
        true => rustix::process::Signal::STOP,
        false => rustix::process::Signal::CONT,
    }
}

async fn misused(served: impl Future<Output = io::Result<()>>, vm: VmId) {
    match served.await {
        Ok(()) => std::future::pending().await,
        Err(error) => tracing::warn!(%vm, %error, "the guest's control socket was misused"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
