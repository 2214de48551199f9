//! Driver `libvirt`: guests of QEMU that libvirt's daemon runs, told by `virsh`. A guest has one link to this node, a tap
//! with a listener of its own bound to it.
//!
//! Nothing goes round the gate unseen: libvirt's hook (`packaging/libvirt-hook`) asks it before any domain of the machine
//! runs, a domain that passed no hook is not let go on, and a watch ends those that this node did not create.

mod domain;
mod site;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gose_proto::identity::VmId;
use tokio::{process::Command, runtime::Handle, task::AbortHandle, time::timeout};

use super::{
    driver::{Build, Hypervisor, Sockets},
    vif::{LinkNetwork, Vif},
};
use crate::config::{self, UnauthorisedDomains};
use site::Site;

/// Time that one call of `virsh` may take. A create starts QEMU and waits for the hook.
const PATIENCE: Duration = Duration::from_secs(120);

/// Domains of this machine's libvirt.
pub struct Guests(Arc<Shared>);

struct Shared {
    config: config::Libvirt,
    /// Files of guests while they are built, a folder each.
    folder: PathBuf,
    table: Mutex<Table>,
}

/// The domains that this node created.
#[derive(Default)]
struct Table {
    /// Those that are being built.
    creating: HashSet<VmId>,
    running: HashMap<VmId, Running>,
}

struct Running {
    network: LinkNetwork,
    /// What listens on its tap.
    serving: AbortHandle,
    sockets: Arc<dyn Sockets>,
    /// Its tap and what is left of its files; taken down when dropped.
    _site: Site,
}

impl Guests {
    /// Watches the domains of this machine's libvirt; those that this node did not create are reported, and new ones ended
    /// where that is wanted. Called within a runtime.
    ///
    /// # Errors
    /// What the system says: no libvirt, no right; a folder that QEMU's user cannot reach.
    pub fn new(
        config: config::Libvirt,
        folder: PathBuf,
        unauthorised: UnauthorisedDomains,
    ) -> io::Result<Self> {
        site::open_folder(&folder, &config.user)?;
        let shared = Arc::new(Shared {
            config,
            folder,
            table: Mutex::default(),
        });
        watch::start(shared.clone(), unauthorised)?;
        Ok(Self(shared))
    }

    /// The domain is there, held, and has passed the gate: its listener works before it does anything.
    fn let_go(
        &self,
        build: &Build,
        network: LinkNetwork,
        site: Site,
        sockets: Arc<dyn Sockets>,
    ) -> io::Result<()> {
        let vm = build.vm();
        if !build.gate.is_used(vm) {
            return Err(io::Error::other(
                "libvirt asked for no ticket: install packaging/libvirt-hook as /etc/libvirt/hooks/qemu.d/gose and \
                 restart libvirt's daemon",
            ));
        }
        let vif = Vif::listen(site.device(), network.host().into())?;
        let serving = tokio::spawn(vif.serve(sockets.clone())).abort_handle();
        // What QEMU has read is of no use to anybody else.
        site.remove_files();
        let running = Running {
            network,
            serving,
            sockets,
            _site: site,
        };
        self.table().running.insert(vm, running);
        self.0.virsh(&["resume", &domain::name(vm)])?;
        tracing::info!(%vm, "domain started");
        Ok(())
    }

    fn build(&self, mut build: Build, sockets: Arc<dyn Sockets>) -> io::Result<()> {
        let vm = build.vm();
        let network = {
            let table = self.table();
            LinkNetwork::free(|network| {
                let mut running = table.running.values();
                running.any(|other| other.network == network)
            })
        };
        let network = network.ok_or_else(|| io::Error::other("no link-local network is free"))?;
        build.join.host = Some(network.host().into());
        let site = Site::make(vm, &self.0.folder, network)?;
        site.write(&build, &self.0.config)?;
        let path = site.describe(&domain::xml(&build, network, &site, &self.0.config)?)?;
        // Held, until its listener is there. The hook runs within.
        self.0
            .virsh(&["create", "--paused", &path.display().to_string()])?;
        self.let_go(&build, network, site, sockets)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table()
    }
}

impl Hypervisor for Guests {
    fn create(&self, build: Build, sockets: Arc<dyn Sockets>) -> io::Result<()> {
        let vm = build.vm();
        {
            let mut table = self.table();
            if table.running.contains_key(&vm) || !table.creating.insert(vm) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        let done = self.build(build, sockets);
        if done.is_err() {
            self.clear(vm);
        }
        self.table().creating.remove(&vm);
        done
    }

    fn destroy(&self, vm: VmId) -> bool {
        if !self.table().running.contains_key(&vm) {
            return false;
        }
        let destroyed = self.0.virsh(&["destroy", &domain::name(vm)]);
        match destroyed {
            Ok(_) => {}
            Err(error) if is_missing(&error) => {}
            // It stays in the list: it may still run.
            Err(error) => {
                tracing::error!(%vm, %error, "the domain is not destroyed");
                return false;
            }
        }
        self.0.ended(vm);
        true
    }

    fn pause(&self, vm: VmId, paused: bool) -> io::Result<()> {
        let verb = if paused { "suspend" } else { "resume" };
        self.0.virsh(&[verb, &domain::name(vm)]).map(drop)
    }

    fn domains(&self) -> Vec<VmId> {
        self.table().running.keys().copied().collect()
    }

    fn clear(&self, vm: VmId) {
        self.table().running.remove(&vm);
        match self.0.virsh(&["destroy", &domain::name(vm)]) {
            Ok(_) => tracing::info!(%vm, "a domain that is not to run was destroyed"),
            Err(error) if is_missing(&error) => {}
            Err(error) => tracing::error!(%vm, %error, "the domain is not destroyed"),
        }
        Site::take_down(vm, &self.0.folder);
    }
}

impl Shared {
    /// The domain runs no more: nothing listens for it, and its link is gone.
    fn ended(&self, vm: VmId) {
        let Some(running) = self.table().running.remove(&vm) else {
            return;
        };
        let sockets = running.sockets.clone();
        crate::long_step(|| drop(running));
        sockets.ended();
        tracing::info!(%vm, "domain ended");
    }

    /// Runs `virsh`; gives what it prints. Blocks.
    fn virsh(&self, arguments: &[&str]) -> io::Result<String> {
        crate::long_step(|| Handle::current().block_on(self.ask(arguments)))
    }

    /// Runs `virsh`; gives what it prints.
    async fn ask(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = Command::new("virsh");
        command
            .args(["--quiet", "--connect", &self.config.uri])
            .args(arguments)
            // What it says is read.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await?;
        let output = output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other("the program virsh is missing: install libvirt-clients")
            }
            _ => error,
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().map(str::trim).collect();
        let what = arguments.first().copied().unwrap_or_default();
        let kind = if said.iter().any(|line| line.contains(MISSING)) {
            io::ErrorKind::NotFound
        } else {
            io::ErrorKind::Other
        };
        Err(io::Error::new(
            kind,
            format!("virsh {what}: {}", said.join(" ")),
        ))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What `virsh` says of a domain that is not there.
const MISSING: &str = "failed to get domain";

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
