//! Servers under load, each a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use gose_client::tls::{Identity, load_anchors};
use gosed::{config::Config, node::Node};
use rustls::{crypto::aws_lc_rs::default_provider, server::WebPkiClientVerifier, version::TLS13};
use tokio::net::TcpListener;

use crate::raw::{self, Ping};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A child that says its address on its first line and ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts this program again with other arguments.
    pub(crate) fn start(arguments: &[&str]) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line
            .trim()
            .parse()
            .map_err(|_| "a server did not come up")?;
        Ok(Self { child, address })
    }

    /// Processor time that its threads have used, seconds.
    pub(crate) fn processor_time(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        // First field: nanoseconds on a processor. A thread that has just ended is not there.
        let nanoseconds = threads
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
            .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        nanoseconds.sum::<f64>() / 1e9
    }

    /// Resident memory, MiB (VmRSS).
    pub(crate) fn resident(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .ok_or("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of `raw`.
pub(crate) fn raw(folder: &Path, ping: Ping) -> Outcome<()> {
    let tls = server_config(folder)?;
    runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        raw::serve(listener, tls, ping).await
    })?;
    Ok(())
}

/// The body of `node`.
pub(crate) fn node(config: &Path) -> Outcome<()> {
    let config = Config::read(config)?;
    runtime()?.block_on(async {
        let running = Node::new(config)?.start().await?;
        println!("{}", running.address().ok_or("the node does not listen")?);
        std::future::pending::<Outcome<()>>().await
    })
}

/// The same versions, provider and demand for client certificates as a node.
pub(crate) fn server_config(folder: &Path) -> Outcome<Arc<rustls::ServerConfig>> {
    let identity = Identity::load(&folder.join("node.pem"), &folder.join("node.key"))?;
    let roots = Arc::new(load_anchors(&folder.join("ca.pem"))?);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::new(default_provider())).build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
            identity.certified_key(),
        )));
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"racs/0.2".to_vec()];
    Ok(Arc::new(config))
}

/// The runtime that the daemon has.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}
