//! The secure middleware: every domain has its own channels, and through them its own elements.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use gose_client::{
    guest::{JoinRecord, RecordError, Request},
    tls::{EAP, Identity, RACS},
};
use gose_element::{Seid, drive::piv::Slot};
use gose_proto::{
    identity::{
        Generations, VmId,
        attach::{AttachError, Chain},
    },
    racs::Mode,
};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName, sign::SingleCertAndKey};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};

use super::{
    attach::{self, IdentityTokens},
    domain::Domain,
    driver::{Hypervisor, Processes, Socket, Sockets},
    eap_relay,
    generations::{GenerationError, GenerationFile},
    guest_tls::{self, GuestVerifier},
    namespace::Namespaces,
    token::{IssueError, Subject, TokenIssuer},
};
use crate::{
    config::{self, Limits, Name},
    grid::{Bound, Grid, Names, Peer},
    keys::{self, KeyError},
    listen::{Stop, racs, tls::TlsError, tls::certificates},
};

/// Sockets that one guest may have open at a time.
const SOCKETS: usize = 32;

/// Time to connect to the authentication server, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Time that a guest may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Time after which a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// The hypervisor role of a node.
pub struct Middleware {
    grid: Arc<Grid>,
    config: config::Hypervisor,
    limits: Limits,
    issuer: Arc<TokenIssuer>,
    generations: Arc<GenerationFile>,
    identity: Identity,
    guest_anchors: Vec<Vec<u8>>,
    upstream: Option<Upstream>,
    driver: Box<dyn Hypervisor>,
    guests: Mutex<BTreeMap<VmId, Guest>>,
    creation: Mutex<()>,
    stop: Stop,
}

/// Where `gose-eap/1` goes.
struct Upstream {
    node: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// A guest that runs.
struct Guest {
    domain: Arc<Domain>,
    bound: Arc<Bound>,
    creator: Creator,
    tasks: Mutex<JoinSet<()>>,
}

/// Who had a guest created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creator {
    /// The configuration, or the operator.
    Operator,
    /// A user.
    User(Name),
}

/// A guest to start; whoever makes one has authorised it.
#[derive(Debug, Clone)]
pub struct Start {
    /// The domain's UUID.
    pub vm: VmId,
    /// Its elements; the first one holds its key.
    pub seids: Vec<Seid>,
    /// What it runs.
    pub command: Vec<String>,
    /// Whose it is.
    pub creator: Creator,
    /// How many of the creator's may run, this one included.
    pub quota: Option<u32>,
}

/// A guest that runs, for lists.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The domain's UUID.
    pub vm: VmId,
    /// Counts its starts.
    pub generation: u64,
    /// Its SPIFFE identifier.
    pub id: String,
    /// Its elements.
    pub seids: Vec<Seid>,
    /// Whose it is.
    pub creator: Creator,
}

/// Why the hypervisor role does not start, or a guest does not.
#[derive(Debug, thiserror::Error)]
pub enum MiddlewareError {
    /// Keys and secrets.
    #[error("[hypervisor] {0}")]
    Key(#[from] KeyError),
    /// Certificates.
    #[error("[hypervisor] {0}")]
    Tls(#[from] TlsError),
    /// Names and anchors.
    #[error("[hypervisor] {0}")]
    Client(#[from] gose_client::Error),
    /// The token cannot be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The generations.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// TLS towards the guest.
    #[error("TLS towards guests: {0}")]
    Rustls(#[from] rustls::Error),
    /// The join record.
    #[error("join record: {0}")]
    Record(#[from] RecordError),
    /// The guest runs already.
    #[error("the virtual machine runs already")]
    Running,
    /// An element is bound to a guest that runs.
    #[error("element {0} is bound to another virtual machine")]
    Bound(Seid),
    /// As many of the creator's guests run as may.
    #[error("the creator's quota of {0} is used up")]
    Quota(u32),
    /// The driver could not start it.
    #[error("the guest cannot be started: {0}")]
    Driver(io::Error),
}

impl Middleware {
    /// The role as a configuration has it. Blocks while elements answer.
    ///
    /// # Errors
    /// [`MiddlewareError`].
    pub fn new(
        role: config::Hypervisor,
        tls: &config::Tls,
        limits: Limits,
        grid: Arc<Grid>,
        stop: Stop,
    ) -> Result<Arc<Self>, MiddlewareError> {
        let ders = |files: &[std::path::PathBuf]| -> Result<Vec<_>, TlsError> {
            let read: Result<Vec<_>, _> = files.iter().map(|file| certificates(file)).collect();
            Ok(read?.concat())
        };
        let chain = certificates(&role.ca_certificate_file)?;
        let chain = chain.iter().map(|der| der.to_vec()).collect();
        let key = Arc::new(keys::element_key(&grid, &role.ca_key)?);
        let lifetime = role.token_lifetime_s.duration();
        let issuer = Arc::new(TokenIssuer::new(chain, key, lifetime)?);
        let identity = keys::identity(&grid, tls)?;
        let upstream = match &role.authentication_server {
            None => None,
            Some(called) => Some(Upstream {
                node: called.node.clone(),
                name: gose_client::tls::server_name(&called.name)?,
                config: gose_client::tls::client_config(
                    &identity,
                    gose_client::tls::anchors(ders(&tls.node_anchor_files)?)?,
                    EAP,
                )?,
            }),
        };
        let driver: Box<dyn Hypervisor> = match &role.driver {
            config::Driver::Process => Box::new(Processes::default()),
            config::Driver::Namespace => Box::new(Namespaces::new(role.join_folder.clone())),
        };
        Ok(Arc::new(Self {
            generations: Arc::new(GenerationFile::open(&role.generation_file)?),
            guest_anchors: ders(&role.guest_anchor_files)?
                .iter()
                .map(|der| der.to_vec())
                .collect(),
            grid,
            config: role,
            limits,
            issuer,
            identity,
            upstream,
            driver,
            guests: Mutex::default(),
            creation: Mutex::default(),
            stop,
        }))
    }

    /// Reads the files that the role names: certificates, generations, the PIN.
    ///
    /// # Errors
    /// [`MiddlewareError`].
    pub fn check_files(role: &config::Hypervisor) -> Result<(), MiddlewareError> {
        let hv_ca = certificates(&role.ca_certificate_file)?;
        hv_ca
            .first()
            .map_or(Ok(()), |der| TokenIssuer::check_certificate(der))?;
        for file in &role.guest_anchor_files {
            certificates(file)?;
        }
        GenerationFile::open(&role.generation_file)?;
        if let Some(pin) = &role.ca_key.pin {
            keys::secret(pin)?;
        }
        Ok(())
    }

    /// The role as it is configured.
    #[must_use]
    pub fn config(&self) -> &config::Hypervisor {
        &self.config
    }

    /// What this hypervisor knows about its virtual machines.
    #[must_use]
    pub fn generations(&self) -> Arc<dyn Generations + Send + Sync> {
        self.generations.clone()
    }

    /// Starts the guests of the configuration; one that does not start is logged.
    pub fn start_configured(self: &Arc<Self>) {
        for guest in &self.config.guests {
            let image = self
                .config
                .images
                .iter()
                .find(|image| image.name == guest.image);
            let start = Start {
                vm: guest.uuid.0,
                seids: guest.seid.iter().map(|seid| seid.0).collect(),
                command: image.map(|image| image.command.clone()).unwrap_or_default(),
                creator: Creator::Operator,
                quota: None,
            };
            if let Err(error) = self.create(start) {
                tracing::error!(vm = %guest.uuid.0, %error, "a configured guest does not start");
            }
        }
    }

    /// Starts a guest: next generation, first token, its own listener. Blocks while the element signs.
    ///
    /// # Errors
    /// [`MiddlewareError`].
    pub fn create(self: &Arc<Self>, start: Start) -> Result<Listed, MiddlewareError> {
        let vm = start.vm;
        // One at a time, so that what is checked still holds when the guest is there; the guests that run
        // do not wait for it.
        let _turn = lock(&self.creation);
        self.check(&start)?;
        self.wait_until_gone(vm)?;
        let generation = self.generations.next(vm)?;
        let domain = Domain::start(self.issuer.clone(), vm, generation, unix_now())?;
        let renewal = renew(domain.clone(), self.issuer.lifetime() / 2);
        let record = self.join_record(&domain)?;
        let (sockets, guest) = self.prepare(&start, domain)?;
        lock(&guest.tasks).spawn(renewal);
        let listed = guest.listed(vm);
        self.guests().insert(vm, guest);
        if let Err(error) = self.driver.create(vm, &start.command, record, sockets) {
            self.guests().remove(&vm);
            return Err(MiddlewareError::Driver(error));
        }
        tracing::info!(%vm, generation, id = %listed.id, seids = ?listed.seids, creator = ?listed.creator, "virtual machine created");
        Ok(listed)
    }

    /// An earlier start of the domain may still be ending.
    fn wait_until_gone(&self, vm: VmId) -> Result<(), MiddlewareError> {
        let begun = Instant::now();
        while self.driver.domains().contains(&vm) {
            if begun.elapsed() > ENDING {
                return Err(MiddlewareError::Running);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn check(&self, start: &Start) -> Result<(), MiddlewareError> {
        let guests = self.guests();
        if guests.contains_key(&start.vm) {
            return Err(MiddlewareError::Running);
        }
        let taken = |seid: &&Seid| {
            guests
                .values()
                .any(|guest| guest.bound.seids.contains(seid))
        };
        if let Some(seid) = start.seids.iter().find(taken) {
            return Err(MiddlewareError::Bound(*seid));
        }
        let own = guests
            .values()
            .filter(|guest| guest.creator == start.creator);
        let own = u32::try_from(own.count()).unwrap_or(u32::MAX);
        match start.quota {
            Some(quota) if own >= quota => Err(MiddlewareError::Quota(quota)),
            _ => Ok(()),
        }
    }

    /// Stops a guest and ends its sessions; `false` if it does not run.
    pub fn destroy(&self, vm: VmId) -> bool {
        let running = self.guests().remove(&vm).is_some();
        self.driver.destroy(vm) || running
    }

    /// Stops every guest and waits for their ends, at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        let running: Vec<VmId> = self.guests().keys().copied().collect();
        for vm in running {
            self.driver.destroy(vm);
        }
        let ended = async {
            while !self.driver.domains().is_empty() || !self.guests().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(patience, ended).await.is_err() {
            tracing::warn!("guests are left behind: they did not end in time");
        }
    }

    /// The guests that run.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let guests = self.guests();
        guests.iter().map(|(vm, guest)| guest.listed(*vm)).collect()
    }

    /// Makes a new token for a guest now; `false` if it does not run or the element does not sign.
    #[must_use]
    pub fn renew(&self, vm: VmId) -> bool {
        let domain = self.guests().get(&vm).map(|guest| guest.domain.clone());
        domain.is_some_and(|domain| domain.renew(unix_now(), Instant::now()).is_ok())
    }

    fn prepare(
        self: &Arc<Self>,
        start: &Start,
        domain: Arc<Domain>,
    ) -> Result<(Arc<dyn Sockets>, Guest), MiddlewareError> {
        let bound = Arc::new(Bound {
            name: Name::Uri(domain.name().to_string().into()),
            seids: start.seids.clone(),
        });
        let verifier = GuestVerifier::new(domain.clone(), self.generations.clone());
        let own = Arc::new(SingleCertAndKey::from(self.identity.certified_key()));
        let tls = guest_tls::server_config(verifier, own, &[RACS, EAP])?;
        let sockets = DomainSockets(Arc::new(Channels {
            middleware: self.clone(),
            domain: domain.clone(),
            bound: bound.clone(),
            tls: Arc::new(tls),
            permits: Arc::new(Semaphore::new(SOCKETS)),
        }));
        let guest = Guest {
            domain,
            bound,
            creator: start.creator.clone(),
            tasks: Mutex::default(),
        };
        Ok((Arc::new(sockets), guest))
    }

    fn join_record(&self, domain: &Domain) -> Result<JoinRecord, MiddlewareError> {
        let secret = domain.join_secret().ok_or(RecordError::Field("secret"))?;
        let token = domain.token();
        Ok(JoinRecord::new(
            domain.vm(),
            &self.config.name,
            &self.guest_anchors,
            token.chain.certificates(),
            &secret,
        ))
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<VmId, Guest>> {
        lock(&self.guests)
    }
}

impl Guest {
    fn listed(&self, vm: VmId) -> Listed {
        Listed {
            vm,
            generation: self.domain.generation(),
            id: self.domain.name().to_string(),
            seids: self.bound.seids.clone(),
            creator: self.creator.clone(),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.domain.end();
    }
}

/// A new token at half of the old one's life.
async fn renew(domain: Arc<Domain>, every: Duration) {
    let mut wait = every;
    loop {
        tokio::time::sleep(wait).await;
        let renewed = crate::long_step(|| domain.renew(unix_now(), Instant::now()));
        wait = match renewed {
            Ok(()) => every,
            Err(error) => {
                tracing::error!(vm = %domain.vm(), %error, "the attachment token was not renewed");
                RETRY
            }
        };
    }
}

/// What one domain opens.
struct DomainSockets(Arc<Channels>);

struct Channels {
    middleware: Arc<Middleware>,
    domain: Arc<Domain>,
    bound: Arc<Bound>,
    tls: Arc<ServerConfig>,
    permits: Arc<Semaphore>,
}

impl Sockets for DomainSockets {
    fn serve(&self, request: Request, socket: Socket) -> bool {
        let channels = self.0.clone();
        let vm = channels.domain.vm();
        let Ok(permit) = channels.permits.clone().try_acquire_owned() else {
            tracing::warn!(%vm, "refused: the guest has too many sockets open");
            return false;
        };
        let guests = channels.middleware.guests();
        match guests.get(&vm) {
            Some(guest) => {
                let mut tasks = lock(&guest.tasks);
                while tasks.try_join_next().is_some() {}
                tasks.spawn(channels.clone().channel(request, socket, permit));
                true
            }
            None => false,
        }
    }

    fn ended(&self) {
        let vm = self.0.domain.vm();
        let mut guests = self.0.middleware.guests();
        // A domain that was created again since is another one.
        if let Entry::Occupied(guest) = guests.entry(vm)
            && Arc::ptr_eq(&guest.get().domain, &self.0.domain)
        {
            guest.remove();
        }
    }
}

impl Channels {
    async fn channel(
        self: Arc<Self>,
        request: Request,
        socket: Socket,
        permit: OwnedSemaphorePermit,
    ) {
        match request {
            Request::Attach => {
                let identities = self.clone();
                if let Err(error) = attach::serve(socket, self.domain.clone(), identities).await {
                    tracing::warn!(vm = %self.domain.vm(), %error, "attach channel closed");
                }
            }
            Request::Session => self.session(socket).await,
        }
        drop(permit);
    }

    async fn session(&self, socket: Socket) {
        let vm = self.domain.vm();
        let limit = self.middleware.limits.handshake_timeout_s.duration();
        let accepted = timeout(limit, TlsAcceptor::from(self.tls.clone()).accept(socket)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::warn!(%vm, %error, "refused: handshake of a guest");
                return;
            }
            Err(_) => {
                tracing::warn!(%vm, "refused: the handshake of a guest took too long");
                return;
            }
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == EAP => self.eap(stream).await,
            _ => self.racs(stream).await,
        }
    }

    /// The guest's own elements, local and remote; consecutive APDUs go upstream as one request.
    async fn racs(&self, stream: TlsStream<Socket>) {
        let Middleware {
            grid, limits, stop, ..
        } = &*self.middleware;
        let peer = Peer::new(grid.new_sid(), Names::Guest(self.bound.clone()));
        tracing::info!(peer = %peer, "guest session begins");
        let ended = racs::serve(stream, grid, &peer, limits, Mode::Gather, stop.clone()).await;
        tracing::info!(peer = %peer, reason = %ended, "guest session ended");
    }

    async fn eap(&self, mut stream: TlsStream<Socket>) {
        let vm = self.domain.vm();
        let Some(upstream) = &self.middleware.upstream else {
            tracing::warn!(%vm, "refused: no authentication server is configured");
            let _ = eap_relay::close(&mut stream).await;
            return;
        };
        let mut server = match upstream.connect().await {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%vm, node = %upstream.node, %error, "the authentication server cannot be reached");
                let _ = eap_relay::close(&mut stream).await;
                return;
            }
        };
        match eap_relay::relay(&mut stream, &mut server).await {
            Ok(relayed) => tracing::info!(%vm, ?relayed, "EAP conversation relayed"),
            Err(error) => tracing::warn!(%vm, %error, "EAP conversation broke"),
        }
    }
}

impl IdentityTokens for Channels {
    fn identity(&self, domain: &Domain) -> Result<Chain, AttachError> {
        let vm = domain.vm();
        let seid = *self.bound.seids.first().ok_or(AttachError::NoElement)?;
        // The key is asked of the element itself, not of the guest.
        let key = keys::public_key(&self.middleware.grid, seid, Slot::AUTHENTICATION);
        let key = key.map_err(|error| {
            tracing::warn!(%vm, %error, "no identity token: the guest's element shows no key");
            AttachError::NoElement
        })?;
        let subject = Subject::Own(&key);
        let issued = domain
            .issuer()
            .issue(vm, domain.generation(), subject, unix_now());
        let issued = issued.map_err(|error| {
            tracing::error!(%vm, %error, "no identity token");
            AttachError::Element
        })?;
        tracing::info!(%vm, serial = %issued.serial, "identity token issued");
        Ok(issued.chain)
    }
}

impl Upstream {
    async fn connect(&self) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let connect = async {
            let tcp = TcpStream::connect(&self.node).await?;
            tcp.set_nodelay(true)?;
            let connector = TlsConnector::from(self.config.clone());
            connector.connect(self.name.clone(), tcp).await
        };
        timeout(CONNECT, connect).await?
    }
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0, |passed| {
        i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
