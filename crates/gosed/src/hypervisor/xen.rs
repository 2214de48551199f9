//! Driver `xen`: domains of Xen by `xl` and xenstore. A domain has one link to dom0, a point-to-point vif with a listener
//! of its own bound to it.
//!
//! Nothing goes round the gate unseen: the vif's hotplug script asks it before a domain runs, and a watch on new domains
//! ends those that nobody authorised.

mod domain;
mod watch;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gose_client::{guest::JoinRecord, xenstore::Xenstore};
use gose_proto::identity::VmId;
use tokio::{process::Command, runtime::Handle, task::AbortHandle, time::timeout};

use super::{
    driver::{Build, Hypervisor, Sockets},
    journal::Journal,
    measure::private_folder,
    vif::{LinkNetwork, Vif},
};
use crate::{config::UnauthorisedDomains, store::durable};

/// Time that one call of `xl` may take. A create builds the domain and waits for the vif's script.
const PATIENCE: Duration = Duration::from_secs(120);

/// What asks the gate before a domain runs.
const SCRIPT: &str = include_str!("xen/vif-gose");

/// Domains of this machine's Xen.
pub struct Domains {
    /// Files of domains, a folder each: configuration and ticket.
    folder: PathBuf,
    /// The vif's hotplug script.
    script: PathBuf,
    running: Arc<Mutex<HashMap<VmId, Running>>>,
    /// Numbers of domains that this node is destroying.
    ending: Arc<Mutex<BTreeSet<u32>>>,
}

/// A domain that runs.
struct Running {
    /// Xen's number for it, which is used again after it ended.
    id: u32,
    network: LinkNetwork,
    /// What listens on its vif.
    serving: AbortHandle,
    sockets: Arc<dyn Sockets>,
}

impl Domains {
    /// Watches the domains of this machine; those that are not in the journal are reported, and new ones ended where that
    /// is wanted. `gate` is the admin socket of this node. Called within a runtime.
    ///
    /// # Errors
    /// What the system says: no Xen, no right.
    pub fn new(
        folder: PathBuf,
        gate: &Path,
        journal: Arc<Journal>,
        unauthorised: UnauthorisedDomains,
    ) -> io::Result<Self> {
        private_folder(&folder)?;
        let script = folder.join("vif-gose");
        durable::replace(&script, script_for(&folder, gate).as_bytes())?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
        let driver = Self {
            folder,
            script,
            running: Arc::default(),
            ending: Arc::default(),
        };
        let tables = (driver.running.clone(), driver.ending.clone());
        watch::start(tables, journal, unauthorised)?;
        Ok(driver)
    }

    fn place(&self, vm: VmId) -> PathBuf {
        self.folder.join(vm.to_string())
    }

    fn network(&self) -> io::Result<LinkNetwork> {
        let mut store = Xenstore::of_host().map_err(io::Error::other)?;
        let mut taken = watch::networks(&mut store);
        taken.extend(lock(&self.running).values().map(|running| running.network));
        LinkNetwork::free(|network| taken.contains(&network))
            .ok_or_else(|| io::Error::other("no link-local network is free"))
    }

    /// Listens on the vif of a domain, from now on.
    fn serve(
        &self,
        vm: VmId,
        id: u32,
        network: LinkNetwork,
        sockets: Arc<dyn Sockets>,
    ) -> io::Result<()> {
        let vif = Vif::listen(&format!("vif{id}.0"), network.host().into())?;
        let serving = tokio::spawn(vif.serve(sockets.clone())).abort_handle();
        let running = Running {
            id,
            network,
            serving,
            sockets,
        };
        lock(&self.running).insert(vm, running);
        Ok(())
    }

    /// What follows the creation of a domain that is still paused.
    fn introduce(
        &self,
        build: &Build,
        network: LinkNetwork,
        sockets: Arc<dyn Sockets>,
    ) -> io::Result<()> {
        let vm = build.vm();
        let id = xl(&["domid", &domain::name(vm)])?;
        let id = id.trim().parse().map_err(io::Error::other)?;
        let mut store = Xenstore::of_host().map_err(io::Error::other)?;
        let written = build.join.to_xenstore(&mut store, id);
        written.map_err(io::Error::other)?;
        self.serve(vm, id, network, sockets)?;
        xl(&["unpause", &id.to_string()])?;
        tracing::info!(%vm, domid = id, "domain started");
        Ok(())
    }

    /// Nothing listens for the domain any more; gives its number.
    fn forget(&self, vm: VmId) -> Option<u32> {
        let running = lock(&self.running).remove(&vm)?;
        running.serving.abort();
        Some(running.id)
    }
}

impl Hypervisor for Domains {
    fn create(&self, mut build: Build, sockets: Arc<dyn Sockets>) -> io::Result<()> {
        let vm = build.vm();
        let network = self.network()?;
        build.join.host = Some(network.host().into());
        let place = self.place(vm);
        private_folder(&place)?;
        let ticket = place.join("ticket");
        durable::replace(&ticket, &build.ticket)?;
        durable::replace(&place.join("host"), network.host().to_string().as_bytes())?;
        let configuration = domain::configuration(&build, network, &self.script)?;
        let path = place.join("domain.cfg");
        durable::replace(&path, configuration.as_bytes())?;
        // Paused, so that the guest finds its join record. The gate's script runs within.
        let built = xl(&["create", "-q", "-p", &path.display().to_string()]);
        let _ = fs::remove_file(ticket);
        let done = built.and_then(|_| self.introduce(&build, network, sockets));
        if done.is_err() {
            self.destroy(vm);
        }
        done
    }

    fn destroy(&self, vm: VmId) -> bool {
        let id = self.forget(vm).or_else(|| id_of(vm));
        let destroyed = id.map(|id| {
            // The watch does not take it for somebody else's.
            let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            ending.insert(id);
            drop(ending);
            xl(&["destroy", &id.to_string()])
        });
        if let Some(Err(error)) = &destroyed {
            tracing::error!(%vm, %error, "the domain is not destroyed");
        }
        let _ = fs::remove_dir_all(self.place(vm));
        matches!(destroyed, Some(Ok(_)))
    }

    fn pause(&self, vm: VmId, paused: bool) -> io::Result<()> {
        let id = lock(&self.running).get(&vm).map(|running| running.id);
        let id = id.ok_or(io::ErrorKind::NotFound)?.to_string();
        xl(&[if paused { "pause" } else { "unpause" }, &id]).map(drop)
    }

    fn domains(&self) -> Vec<VmId> {
        lock(&self.running).keys().copied().collect()
    }

    fn clear(&self, vm: VmId) {
        if id_of(vm).is_some() {
            self.destroy(vm);
        }
        let _ = fs::remove_dir_all(self.place(vm));
    }

    fn outlives(&self) -> bool {
        true
    }

    fn survived(&self, vm: VmId) -> bool {
        id_of(vm).is_some()
    }

    fn take_over(
        &self,
        vm: VmId,
        mut join: JoinRecord,
        sockets: Arc<dyn Sockets>,
    ) -> io::Result<()> {
        let id = id_of(vm).ok_or(io::ErrorKind::NotFound)?;
        let mut store = Xenstore::of_host().map_err(io::Error::other)?;
        let network = watch::network(&mut store, id).ok_or(io::ErrorKind::NotFound)?;
        join.host = Some(network.host().into());
        let written = join.to_xenstore(&mut store, id);
        written.map_err(io::Error::other)?;
        self.serve(vm, id, network, sockets)?;
        tracing::info!(%vm, domid = id, "domain taken over");
        Ok(())
    }

    fn joined(&self, vm: VmId) {
        let Some(id) = lock(&self.running).get(&vm).map(|running| running.id) else {
            return;
        };
        let store = Xenstore::of_host();
        let used = store.and_then(|mut store| JoinRecord::used_in_xenstore(&mut store, id));
        if let Err(error) = used {
            tracing::warn!(%vm, %error, "a used secret stays in xenstore");
        }
    }
}

/// Xen's number of a domain that is there.
fn id_of(vm: VmId) -> Option<u32> {
    let mut store = Xenstore::of_host().ok()?;
    let all = watch::domains(&mut store).ok()?;
    let found = all.into_iter().find(|(_, uuid)| *uuid == Some(vm))?;
    Some(found.0)
}

/// The script for this node: where its files are and whom it asks.
fn script_for(folder: &Path, gate: &Path) -> String {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    let beside = beside.unwrap_or_else(|| Path::new("/usr/bin"));
    SCRIPT
        .replace("@PROGRAMS@", &beside.display().to_string())
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@SOCKET@", &gate.display().to_string())
}

/// Runs `xl`; gives what it prints. Blocks.
fn xl(arguments: &[&str]) -> io::Result<String> {
    let mut command = Command::new("xl");
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null());
    let output = async { timeout(PATIENCE, command.output()).await };
    let output = crate::long_step(|| Handle::current().block_on(output))?;
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("the program xl is missing: install xen-utils-common")
        }
        _ => error,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    let what = arguments.first().copied().unwrap_or_default();
    Err(io::Error::other(format!("xl {what}: {}", said.join("; "))))
}

fn lock(running: &Mutex<HashMap<VmId, Running>>) -> MutexGuard<'_, HashMap<VmId, Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
