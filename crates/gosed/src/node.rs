//! A node: grid, listeners, reload, stop.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use gose_proto::identity::Generations;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    clock::Clock,
    config::{Config, ConfigError, Limits, TlsKey, Unknown},
    grid::{Grid, Policy},
    keys::{self, KeyError},
    listen::{
        AdminShared, AdminSocket, Handler, Handlers, Listener, Sessions, Shared, Stop, Stopper,
        admission::{Sources, Tokens},
        tls::{self, Tls, TlsError},
    },
    metrics::{Endpoint, Figures, Metrics},
    roles::{self, RoleError, Roles},
    store::{self, Calls, Held, StoreError},
};

/// How often certificates of open sessions are looked at again, for those that expire.
const REVIEW: Duration = Duration::from_secs(60);

/// A node that does not listen yet: roles register their protocols on it.
pub struct Node {
    config: Config,
    limits: Arc<ArcSwap<Limits>>,
    grid: Arc<Grid>,
    handlers: Handlers,
    tokens: Sources,
    /// Tell when a generation changes.
    changes: Vec<watch::Receiver<()>>,
    calls: Arc<Calls>,
    held: Arc<Held>,
    metrics: Arc<Metrics>,
    stopper: Stopper,
    stop: Stop,
}

/// A node that listens. Dropping it cuts every connection; [`Running::stop`] does it gently.
pub struct Running {
    /// What the node started with.
    started: Config,
    limits: Arc<ArcSwap<Limits>>,
    grid: Arc<Grid>,
    sessions: Arc<Sessions>,
    shared: Option<Arc<Shared>>,
    handlers: Handlers,
    tokens: Sources,
    calls: Arc<Calls>,
    held: Arc<Held>,
    metrics: Arc<Metrics>,
    roles: Roles,
    address: Option<SocketAddr>,
    stopper: Stopper,
    tasks: JoinSet<()>,
    metrics_address: Option<SocketAddr>,
    metrics_task: Option<AbortOnDrop>,
    _readers: Option<store::Readers>,
}

/// A task that ends with whoever holds this.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a node does not start, or keeps what it had at a reload.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The node's own key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Images of software elements.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The roles beside the grid.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// A socket.
    #[error("cannot listen on {place}: {cause}")]
    Listen {
        /// Address or path.
        place: String,
        /// What the system says.
        cause: io::Error,
    },
}

impl Node {
    /// A node with the slots and the policy of a configuration.
    ///
    /// # Errors
    /// [`StartError::Store`].
    pub fn new(config: Config) -> Result<Self, StartError> {
        Clock::start();
        for danger in config.dangers() {
            tracing::warn!("{danger}");
        }
        let calls = Arc::default();
        let held = Arc::default();
        let specs = store::specs(&config, &calls, &held)?;
        let timeout = config.limits.apdu_timeout_s.duration();
        let grid = Grid::new(specs, Policy::new(&config), timeout);
        let metrics = grid.metrics().clone();
        let (stopper, stop) = Stopper::new();
        Ok(Self {
            limits: Arc::new(ArcSwap::from_pointee(config.limits.clone())),
            config,
            grid,
            handlers: Handlers::default(),
            tokens: Sources::default(),
            changes: Vec::new(),
            calls,
            held,
            metrics,
            stopper,
            stop,
        })
    }

    /// The elements.
    #[must_use]
    pub fn grid(&self) -> &Arc<Grid> {
        &self.grid
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tells when the node stops.
    #[must_use]
    pub fn when_stopped(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves a protocol beside RACS.
    pub fn register(&mut self, alpn: &'static [u8], handler: Arc<dyn Handler>) {
        self.handlers.register(alpn, handler);
    }

    /// Something that knows virtual machines' tokens, beside what is known already, and tells when it knows more.
    pub fn know_tokens(
        &mut self,
        tokens: Arc<dyn Generations + Send + Sync>,
        changes: watch::Receiver<()>,
    ) {
        self.tokens.0.push(tokens);
        self.changes.push(changes);
    }

    /// The limits of now.
    #[must_use]
    pub fn limits(&self) -> &Arc<ArcSwap<Limits>> {
        &self.limits
    }

    /// Calls to other nodes.
    #[must_use]
    pub fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// Listens.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub async fn start(mut self) -> Result<Running, StartError> {
        allow_descriptors();
        let roles = roles::take_up(&mut self)?;
        let mut running = Running {
            started: self.config.clone(),
            limits: self.limits,
            grid: self.grid,
            sessions: Arc::default(),
            shared: None,
            handlers: self.handlers,
            tokens: self.tokens,
            calls: self.calls,
            held: self.held,
            metrics: self.metrics,
            roles,
            address: None,
            stopper: self.stopper,
            tasks: JoinSet::new(),
            metrics_address: None,
            metrics_task: None,
            _readers: store::watch_readers(&self.config),
        };
        // The admin socket first: a key in an element needs it to be made.
        running.serve_admin(&self.config, &self.stop)?;
        running.serve_tls(&self.config, &self.stop).await?;
        if let Some(shared) = &running.shared {
            for changes in self.changes {
                let cut = cut_outdated(shared.clone(), changes, self.stop.clone());
                running.tasks.spawn(cut);
            }
        }
        running.roles.publish(&self.config);
        running.serve_metrics(&self.config).await;
        if let Some(middleware) = &running.roles.middleware {
            crate::long_step(|| {
                middleware.recover();
                middleware.start_configured();
            });
            running.tasks.spawn(middleware.clone().tend());
        }
        Ok(running)
    }
}

impl Running {
    /// Where it listens for TLS.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The elements.
    #[must_use]
    pub fn grid(&self) -> &Arc<Grid> {
        &self.grid
    }

    /// The roles beside the grid.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// The sessions that are open.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes a configuration: certificates, revocation lists, users, rules, slots, limits, and what the roles can
    /// change. Sessions whose certificate is no longer good end; leases that policy no longer gives are taken
    /// back; sessions that are open keep their time limits. What only a restart changes is logged
    /// ([`Config::needs_restart`]).
    ///
    /// # Errors
    /// [`StartError`]; everything stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        let specs = store::specs(config, &self.calls, &self.held)?;
        let tls = self.load_tls(config)?;
        self.roles.reload(config)?;
        self.call_with(tls.as_ref());
        if let (Some(shared), Some(tls)) = (&self.shared, tls) {
            shared.tls.store(Arc::new(tls));
        }
        self.limits.store(Arc::new(config.limits.clone()));
        self.grid
            .set_apdu_timeout(config.limits.apdu_timeout_s.duration());
        self.grid.replace_slots(specs);
        self.grid.replace_policy(Policy::new(config));
        self.sessions.review();
        if let Some(shared) = &self.shared {
            self.sessions.verify_again(&shared.tls.load().admission);
        }
        self.roles.follow(config);
        Metrics::add(&self.metrics.reloads);
        for setting in config.needs_restart(&self.started) {
            tracing::warn!(
                "{setting} was changed and needs a restart; the node goes on with what it started with"
            );
        }
        tracing::info!("configuration reloaded");
        Ok(())
    }

    /// Reads the configuration again; on any error the node goes on with what it has.
    ///
    /// # Errors
    /// [`StartError`]; everything stays as it was.
    pub fn reload_file(&self, path: &Path) -> Result<(), StartError> {
        self.reload(&Config::read(path)?)
    }

    /// Stops accepting, lets running requests end within the drain time, closes.
    pub async fn stop(mut self) {
        self.stopper.stop();
        if let Some(middleware) = &self.roles.middleware {
            middleware.stop(Duration::from_secs(5)).await;
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn serve_admin(&mut self, config: &Config, stop: &Stop) -> Result<(), StartError> {
        let Some(admin) = &config.admin else {
            return Ok(());
        };
        let socket = AdminSocket::bind(&admin.socket).map_err(|cause| StartError::Listen {
            place: admin.socket.display().to_string(),
            cause,
        })?;
        let shared = AdminShared {
            grid: self.grid.clone(),
            sessions: self.sessions.clone(),
            handlers: self.handlers.clone(),
            limits: self.limits.clone(),
        };
        self.tasks.spawn(socket.serve(shared, stop.clone()));
        Ok(())
    }

    /// Figures are nothing that a node would not start without: another program may have the port.
    async fn serve_metrics(&mut self, config: &Config) {
        let Some(address) = config.metrics.address.0.0 else {
            return;
        };
        let radius = self.roles.radius.as_ref();
        let sources = Figures {
            grid: self.grid.clone(),
            sessions: self.sessions.clone(),
            pool: self.roles.pool.clone(),
            radius: radius.map(|radius| (radius.front().clone(), radius.disconnector().clone())),
            middleware: self.roles.middleware.clone(),
            certificates: config.own_certificates(),
        };
        match Endpoint::bind(address, sources).await {
            Ok(endpoint) => {
                self.metrics_address = endpoint.address().ok();
                tracing::info!(%address, "metrics");
                self.metrics_task = Some(AbortOnDrop(tokio::spawn(endpoint.serve())));
            }
            Err(error) => {
                tracing::warn!(%address, %error, "no metrics; set [metrics] address to a free port, or to \"\"");
            }
        }
    }

    /// Where `GET /metrics` is answered.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Reads `[tls]`.
    fn load_tls(&self, config: &Config) -> Result<Option<Tls>, StartError> {
        let Some(section) = &config.tls else {
            return Ok(None);
        };
        let identity = crate::long_step(|| keys::identity(&self.grid, section))?;
        let generations = config.generations.as_ref();
        let tokens = Tokens {
            known: Arc::new(self.tokens.clone()),
            refuse_unknown: generations.is_some_and(|told| told.unknown == Unknown::Refuse),
        };
        let tls = tls::load(section, &identity, &self.handlers, tokens)?;
        Ok(Some(tls))
    }

    /// Calls to other nodes use this from now on.
    fn call_with(&self, tls: Option<&Tls>) {
        if let Some(calls) = tls.and_then(|tls| tls.calls.clone()) {
            self.calls.replace(calls);
        }
    }

    async fn serve_tls(&mut self, config: &Config, stop: &Stop) -> Result<(), StartError> {
        let tls = self.load_tls(config)?;
        self.call_with(tls.as_ref());
        let (Some(listen), Some(tls)) = (&config.listen, tls) else {
            return Ok(());
        };
        let shared = Arc::new(Shared {
            grid: self.grid.clone(),
            tls: ArcSwap::from_pointee(tls),
            sessions: self.sessions.clone(),
            handlers: self.handlers.clone(),
            limits: self.limits.clone(),
            metrics: self.metrics.clone(),
        });
        let failed = |cause| StartError::Listen {
            place: listen.address.to_string(),
            cause,
        };
        let listener = Listener::bind(listen.address, shared.clone())
            .await
            .map_err(failed)?;
        self.address = Some(listener.address().map_err(failed)?);
        self.tasks.spawn(listener.serve(stop.clone()));
        self.tasks.spawn(review(shared.clone(), stop.clone()));
        self.shared = Some(shared);
        Ok(())
    }
}

/// Takes as many file descriptors as the system gives: one a connection, one an image.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the number of file descriptors stays as it is");
    }
}

/// Ends sessions whose certificates expire.
async fn review(shared: Arc<Shared>, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(REVIEW) => {}
        }
        let shared = shared.clone();
        let again = move || shared.sessions.verify_again(&shared.tls.load().admission);
        let _ = tokio::task::spawn_blocking(again).await;
    }
}

/// Ends sessions of virtual machines of which a newer generation is known.
async fn cut_outdated(shared: Arc<Shared>, mut changes: watch::Receiver<()>, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let shared = shared.clone();
        let again = move || {
            let admission = shared.tls.load().admission.clone();
            shared.sessions.verify_machines_again(&admission);
        };
        let _ = tokio::task::spawn_blocking(again).await;
    }
}

/// Reads everything that a configuration names, as a start would, and listens nowhere.
///
/// # Errors
/// [`StartError`].
pub fn check(path: &Path) -> Result<Config, StartError> {
    let config = Config::read(path)?;
    store::check(&config)?;
    if let Some(section) = &config.tls {
        tls::admission(section, Tokens::default())?;
        tls::certificates(&section.certificate_file)?;
        if let TlsKey::File { file } = &section.key {
            tls::private_key(file)?;
        }
    }
    roles::check(&config)?;
    Ok(config)
}

/// Where the configuration is sought when none is named.
#[must_use]
pub fn default_path() -> PathBuf {
    let own =
        std::env::var_os("XDG_CONFIG_HOME").map(|home| Path::new(&home).join("gose/gosed.toml"));
    own.filter(|path| path.exists())
        .unwrap_or_else(|| "/etc/gose/gosed.toml".into())
}
