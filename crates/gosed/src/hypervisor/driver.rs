//! The joint: whatever starts virtual machines.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gose_client::guest::{JoinRecord, Request, send_record};
use gose_proto::identity::VmId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::process;

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

/// Creates, destroys and lists domains.
pub trait Hypervisor: Send + Sync {
    /// Starts a domain and gives it its join record.
    ///
    /// # Errors
    /// What the system says; the domain does not run then.
    fn create(
        &self,
        vm: VmId,
        command: &[String],
        record: JoinRecord,
        sockets: Arc<dyn Sockets>,
    ) -> io::Result<()>;

    /// Stops a domain; `false` if it does not run.
    fn destroy(&self, vm: VmId) -> bool;

    /// The domains that run.
    fn domains(&self) -> Vec<VmId>;
}

/// Driver `process`: every guest is a process of this node.
#[derive(Default)]
pub struct Processes(Arc<Mutex<HashMap<VmId, Option<oneshot::Sender<()>>>>>);

impl Hypervisor for Processes {
    fn create(
        &self,
        vm: VmId,
        command: &[String],
        record: JoinRecord,
        sockets: Arc<dyn Sockets>,
    ) -> io::Result<()> {
        let mut domains = lock(&self.0);
        if domains.contains_key(&vm) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let record = send_record(&record).map_err(io::Error::other)?;
        let (mut guest, control) = process::start(command)?;
        let (stop, stopped) = oneshot::channel();
        domains.insert(vm, Some(stop));
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
            lock(&all).remove(&vm);
            sockets.ended();
        });
        Ok(())
    }

    fn destroy(&self, vm: VmId) -> bool {
        // It stays in the list until its process is gone.
        let mut domains = lock(&self.0);
        let stop = domains.get_mut(&vm).and_then(Option::take);
        stop.is_some_and(|stop| stop.send(()).is_ok())
    }

    fn domains(&self) -> Vec<VmId> {
        lock(&self.0).keys().copied().collect()
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
