//! A watch on the domains of the machine: it tells of their ends, and ends those that nobody authorised.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gose_client::xenstore::{Xenstore, XenstoreError};
use gose_proto::identity::VmId;
use tokio::runtime::Handle;

use super::{Running, lock, xl};
use crate::{
    config::UnauthorisedDomains,
    hypervisor::{
        journal::{Journal, State},
        vif::LinkNetwork,
    },
};

/// Time after which a watch that broke is set up again.
const AGAIN: Duration = Duration::from_secs(1);

/// Domains that run, and the numbers of those that the node is destroying.
type Tables = (
    Arc<Mutex<HashMap<VmId, Running>>>,
    Arc<Mutex<BTreeSet<u32>>>,
);

/// A connection for questions, and one on which changes are told.
type Lines = (Xenstore<UnixStream>, Xenstore<UnixStream>);

/// Starts the watch; it ends with the process. Called within a runtime.
pub(super) fn start(
    (running, ending): Tables,
    journal: Arc<Journal>,
    unauthorised: UnauthorisedDomains,
) -> io::Result<()> {
    let runtime = Handle::current();
    let mut lines = connect().map_err(io::Error::other)?;
    let mut watch = Watch {
        running,
        ending,
        journal,
        unauthorised,
        tolerated: BTreeSet::new(),
    };
    // Whoever was here before the node has been let in by somebody; it is told of, and left alone.
    for (id, uuid) in domains(&mut lines.0).map_err(io::Error::other)? {
        if !watch.is_authorised(id, uuid) {
            let uuid = uuid.map(|uuid| uuid.to_string());
            tracing::warn!(domid = id, uuid, "a domain is here that GoSE did not make");
            watch.tolerated.insert(id);
        }
    }
    let look = move || {
        let _entered = runtime.enter();
        loop {
            if let Err(error) = watch.follow(&mut lines) {
                tracing::error!(%error, "the watch on new domains broke; it is set up again");
            }
            std::thread::sleep(AGAIN);
            if let Ok(connected) = connect() {
                lines = connected;
            }
        }
    };
    let thread = std::thread::Builder::new().name("xen-watch".into());
    thread.spawn(look).map(drop)
}

fn connect() -> Result<Lines, XenstoreError> {
    let mut events = Xenstore::of_host()?;
    for name in ["@introduceDomain", "@releaseDomain"] {
        events.watch(name)?;
    }
    Ok((Xenstore::of_host()?, events.without_end()?))
}

struct Watch {
    running: Arc<Mutex<HashMap<VmId, Running>>>,
    ending: Arc<Mutex<BTreeSet<u32>>>,
    journal: Arc<Journal>,
    unauthorised: UnauthorisedDomains,
    tolerated: BTreeSet<u32>,
}

impl Watch {
    fn follow(&mut self, (store, events): &mut Lines) -> Result<(), XenstoreError> {
        loop {
            // A watch tells once at its beginning: what happened while there was none is seen.
            events.event()?;
            let present = domains(store)?;
            self.tolerated.retain(|id| present.contains_key(id));
            self.ending().retain(|id| present.contains_key(id));
            self.ended(&present);
            for (id, uuid) in present {
                if !self.is_authorised(id, uuid) && !self.tolerated.contains(&id) {
                    self.stop(id, uuid);
                }
            }
        }
    }

    /// A domain counts while the journal says that it is made or runs; once it runs, by its number too.
    fn is_authorised(&self, id: u32, uuid: Option<VmId>) -> bool {
        // One without a UUID in xenstore is not introduced yet, or on its way out.
        let Some(vm) = uuid else {
            return true;
        };
        if let Some(running) = lock(&self.running).get(&vm) {
            return running.id == id;
        }
        if self.ending().contains(&id) {
            return true;
        }
        // One that runs and is not in the table yet is being taken over; one that goes is ended by whoever ends it.
        let state = self.journal.get(vm).map(|record| record.state);
        state.is_some_and(|state| state != State::Stopped)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, id: u32, uuid: Option<VmId>) {
        let uuid = uuid.map(|uuid| uuid.to_string());
        match self.unauthorised {
            UnauthorisedDomains::Report => {
                tracing::error!(domid = id, uuid, "an unauthorised domain is here");
            }
            UnauthorisedDomains::Destroy => {
                tracing::error!(domid = id, uuid, "an unauthorised domain is destroyed");
                if let Err(error) = xl(&["destroy", &id.to_string()]) {
                    tracing::error!(domid = id, uuid, %error, "an unauthorised domain is not destroyed");
                }
            }
        }
    }

    /// Domains that are not there any more, or whose number another one has by now.
    fn ended(&self, present: &BTreeMap<u32, Option<VmId>>) {
        let mut gone = Vec::new();
        lock(&self.running).retain(|vm, running| {
            let uuid = present.get(&running.id);
            let stays = uuid.is_some_and(|uuid| uuid.is_none_or(|uuid| uuid == *vm));
            if !stays {
                running.serving.abort();
                gone.push((*vm, running.sockets.clone()));
            }
            stays
        });
        for (vm, sockets) in gone {
            tracing::info!(%vm, "domain ended");
            sockets.ended();
        }
    }
}

/// The domains beside dom0: number, and UUID where it is known already.
pub(super) fn domains<S: Read + Write>(
    store: &mut Xenstore<S>,
) -> Result<BTreeMap<u32, Option<VmId>>, XenstoreError> {
    let mut found = BTreeMap::new();
    for name in store.list("/local/domain")? {
        let Some(id) = name.parse::<u32>().ok().filter(|id| *id != 0) else {
            continue;
        };
        let uuid = match store.read(&format!("/local/domain/{id}/vm")) {
            Ok(path) => {
                let path = String::from_utf8_lossy(&path).into_owned();
                path.trim_start_matches("/vm/").parse().ok()
            }
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        found.insert(id, uuid);
    }
    Ok(found)
}

/// The network of a domain's vif.
pub(super) fn network<S: Read + Write>(store: &mut Xenstore<S>, id: u32) -> Option<LinkNetwork> {
    let address = store.read(&format!("/local/domain/0/backend/vif/{id}/0/ip"));
    let address = String::from_utf8(address.ok()?).ok()?;
    LinkNetwork::of_guest(address.parse().ok()?)
}

/// The networks of all vifs.
pub(super) fn networks<S: Read + Write>(store: &mut Xenstore<S>) -> Vec<LinkNetwork> {
    let all = store
        .list("/local/domain/0/backend/vif")
        .unwrap_or_default();
    let ids = all.iter().filter_map(|id| id.parse().ok());
    ids.filter_map(|id| network(store, id)).collect()
}
