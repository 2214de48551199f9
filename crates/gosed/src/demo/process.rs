//! The demo's nodes as processes of their own, ended with the demo.

use std::{
    fs::File,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a node may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running node.
pub(super) struct Node {
    name: &'static str,
    child: Option<Child>,
    log: PathBuf,
}

impl Node {
    /// Starts `gosed run` with this configuration and waits until it says that it is ready.
    pub(super) fn start(name: &'static str, folder: &Path) -> Result<Self, String> {
        let log = folder.join("log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let copy = file.try_clone().map_err(|e| e.to_string())?;
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        // The node says when it is ready, as it says it to systemd.
        let notify = folder.join("notify.sock");
        let _ = std::fs::remove_file(&notify);
        let ready =
            UnixDatagram::bind(&notify).map_err(|e| format!("{}: {e}", notify.display()))?;
        let child = Command::new(program)
            .arg("run")
            .arg("--config")
            .arg(folder.join("gosed.toml"))
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::from(file))
            .stderr(Stdio::from(copy))
            .spawn()
            .map_err(|e| format!("cannot start the {name}: {e}"))?;
        let mut node = Self {
            name,
            child: Some(child),
            log,
        };
        node.wait_until_ready(&ready)?;
        Ok(node)
    }

    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// What it logged so far.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lets it end by itself (SIGTERM), by force after a while.
    pub(super) fn stop(mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if let Some(pid) = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(format!(
                        "the {} ended with {status}\n{}",
                        self.name,
                        self.tail()
                    ));
                }
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("the {} did not end by itself", self.name));
                }
            }
        }
    }

    /// Leaves it running.
    pub(super) fn leave(mut self) {
        self.child = None;
    }

    fn wait_until_ready(&mut self, ready: &UnixDatagram) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        ready
            .set_read_timeout(Some(Duration::from_millis(20)))
            .map_err(|e| e.to_string())?;
        let mut message = [0; 256];
        loop {
            if let Ok(n) = ready.recv(&mut message)
                && message[..n].windows(7).any(|part| part == b"READY=1")
            {
                return Ok(());
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(format!(
                    "the {} ended at once with {status}\n{}",
                    self.name,
                    self.tail()
                ));
            }
            if Instant::now() > until {
                return Err(format!(
                    "the {} did not come up\n{}",
                    self.name,
                    self.tail()
                ));
            }
        }
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
