//! Driver `namespace`: a guest is a process in a network namespace of its own, with one link to this node.
//!
//! For tests and demonstrations: the guest sees what a virtual machine sees of the network, and nothing keeps a
//! process that is root on this machine from leaving the namespace.

use std::{
    collections::HashMap,
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use gose_client::guest::JoinRecord;
use gose_proto::{hex, identity::VmId};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{
    driver::{Build, Hypervisor, Sockets, signal},
    vif::{LinkNetwork, Vif},
};

/// The environment variable that tells a guest where its join record is.
pub const JOIN: &str = "GOSE_JOIN";

/// What the names of guests' links begin with.
pub const DEVICES: &str = "gv";

/// Guests in network namespaces, made by `ip` of iproute2.
pub struct Namespaces {
    /// Where join records are put, a folder a guest.
    folder: PathBuf,
    domains: Domains,
}

type Domains = Arc<Mutex<HashMap<VmId, Running>>>;

struct Running {
    network: LinkNetwork,
    stop: Option<oneshot::Sender<()>>,
}

/// What the system keeps for one guest; taken down when dropped.
struct Site {
    namespace: String,
    device: String,
    folder: PathBuf,
}

impl Namespaces {
    /// Guests whose join records stand below `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            domains: Domains::default(),
        }
    }
}

impl Hypervisor for Namespaces {
    fn create(&self, mut build: Build, sockets: Arc<dyn Sockets>) -> io::Result<()> {
        let vm = build.vm();
        let mut domains = lock(&self.domains);
        if domains.contains_key(&vm) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let taken = |network| domains.values().any(|other| other.network == network);
        let network = LinkNetwork::free(taken)
            .ok_or_else(|| io::Error::other("no link-local network is free"))?;
        build.join.host = Some(network.host().into());
        let site = Site::make(vm, &self.folder, network)?;
        let join = site.write(&build.join)?;
        let vif = Vif::listen(&site.device, network.host().into())?;
        build.admit()?;
        let mut guest = site.start(&build.program(), &join)?;
        tracing::info!(%vm, process = guest.id(), device = site.device, "domain started");
        let (stop, stopped) = oneshot::channel();
        let stop = Some(stop);
        domains.insert(vm, Running { network, stop });
        let all = self.domains.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stopped => tracing::info!(%vm, "domain stopped"),
                ended = guest.wait() => match ended {
                    Ok(status) => tracing::info!(%vm, %status, "domain ended"),
                    Err(error) => tracing::warn!(%vm, %error, "domain lost"),
                },
                () = vif.serve(sockets.clone()) => {}
            }
            if let Err(error) = guest.kill().await {
                tracing::warn!(%vm, %error, "the guest's process could not be killed");
            }
            // Programs of the system are run: not on a thread that others' sockets wait for.
            let _ = tokio::task::spawn_blocking(move || drop(site)).await;
            // What it had is free before it is gone from the list.
            sockets.ended();
            lock(&all).remove(&vm);
        });
        Ok(())
    }

    fn pause(&self, vm: VmId, paused: bool) -> io::Result<()> {
        for process in processes(&Site::name(vm))? {
            rustix::process::kill_process(process, signal(paused))?;
        }
        Ok(())
    }

    fn clear(&self, vm: VmId) {
        Site::of(vm, &self.folder).take_down();
    }

    fn destroy(&self, vm: VmId) -> bool {
        // It stays in the list until it is taken down.
        let mut domains = lock(&self.domains);
        let stop = domains.get_mut(&vm).and_then(|running| running.stop.take());
        stop.is_some_and(|stop| stop.send(()).is_ok())
    }

    fn domains(&self) -> Vec<VmId> {
        lock(&self.domains).keys().copied().collect()
    }
}

impl Site {
    fn name(vm: VmId) -> String {
        format!("gose-{vm}")
    }

    fn of(vm: VmId, folder: &Path) -> Self {
        Self {
            namespace: Self::name(vm),
            device: device(vm),
            folder: folder.join(vm.to_string()),
        }
    }

    fn make(vm: VmId, folder: &Path, network: LinkNetwork) -> io::Result<Self> {
        let site = Self::of(vm, folder);
        // What a node that was killed has left.
        site.take_down();
        let (name, device) = (site.namespace.as_str(), site.device.as_str());
        let own = format!("{}/30", network.host());
        let theirs = format!("{}/30", network.guest());
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name,
        ])?;
        ip(&["address", "add", &own, "dev", device])?;
        ip(&["link", "set", device, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &theirs, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&site.folder)?;
        Ok(site)
    }

    fn write(&self, record: &JoinRecord) -> io::Result<PathBuf> {
        let path = self.folder.join("join.json");
        let json = Zeroizing::new(serde_json::to_vec(record)?);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&json)?;
        Ok(path)
    }

    fn start(&self, command: &[String], join: &Path) -> io::Result<tokio::process::Child> {
        let mut run = tokio::process::Command::new("ip");
        run.args(["netns", "exec", &self.namespace])
            .args(command)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env(JOIN, join)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    fn take_down(&self) {
        // Whoever is left in the namespace would keep it alive.
        for process in processes(&self.namespace).unwrap_or_default() {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
        // Not there is as good.
        let _ = run(&["link", "delete", &self.device]);
        let _ = run(&["netns", "delete", &self.namespace]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// Who is in a namespace.
fn processes(namespace: &str) -> io::Result<Vec<rustix::process::Pid>> {
    let listed = run(&["netns", "pids", namespace])?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let process = |word: &str| rustix::process::Pid::from_raw(word.parse().ok()?);
    Ok(text.split_whitespace().filter_map(process).collect())
}

/// The node's end of a guest's link: always the same for a guest, of the 15 characters that a name may have.
#[must_use]
pub fn device(vm: VmId) -> String {
    let hash = digest(&SHA256, &vm.0);
    let short = hash.as_ref().get(..6).unwrap_or_default();
    format!("{DEVICES}{}", hex::encode(short).to_lowercase())
}

pub(super) fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = run(arguments)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let arguments = arguments.join(" ");
    Err(io::Error::other(format!(
        "ip {arguments}: {}",
        said.trim_end()
    )))
}

fn run(arguments: &[&str]) -> io::Result<Output> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("the program ip is missing: install iproute2"),
        _ => error,
    })
}

fn lock(domains: &Domains) -> MutexGuard<'_, HashMap<VmId, Running>> {
    domains.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_of_their_own() {
        let names: Vec<_> = (0..=255)
            .map(|last| {
                let mut id = [0; 16];
                id[15] = last;
                device(VmId(id))
            })
            .collect();
        let mut different = names.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), names.len());
        assert!(names.iter().all(|name| name.len() == 14));
    }
}
