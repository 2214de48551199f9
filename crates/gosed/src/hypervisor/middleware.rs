//! The secure middleware: every domain has its own channels, and through them its own elements.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use gose_client::{
    guest::{JoinRecord, RecordError},
    tls::{EAP, Identity, RACS},
};
use gose_proto::identity::{Generations, VmId};
use rustls::sign::SingleCertAndKey;
use tokio::{sync::watch, task::JoinSet, time::timeout};

pub use super::start::{Creator, Listed, MiddlewareError, Start};
use super::{
    authenticator::Authenticator,
    channels::DomainSockets,
    domain::Domain,
    driver::{Hypervisor, Processes, Sockets},
    eap_relay::Upstream,
    gate::Gate,
    generations::GenerationFile,
    guest_tls::{self, GuestVerifier},
    journal::{Journal, Record, State},
    libvirt,
    measure::Measured,
    namespace::Namespaces,
    publish::Publisher,
    token::TokenIssuer,
    xen::Domains,
};
use crate::{
    clock::Clock,
    config::{self, Limits, Name},
    grid::{Bound, Grid},
    keys,
    listen::{Stop, tls::TlsError, tls::certificates},
    store::Calls,
};

/// Time after which a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// The hypervisor role of a node.
pub struct Middleware {
    pub(super) grid: Arc<Grid>,
    config: ArcSwap<config::Hypervisor>,
    pub(super) limits: Arc<ArcSwap<Limits>>,
    pub(super) issuer: Arc<TokenIssuer>,
    pub(super) generations: Arc<GenerationFile>,
    pub(super) journal: Arc<Journal>,
    pub(super) gate: Arc<Gate>,
    pub(super) measured: Measured,
    /// What the hypervisor shows to guests, and what they trust; as of the last reload.
    towards_guests: ArcSwap<TowardsGuests>,
    pub(super) upstream: ArcSwapOption<Upstream>,
    pub(super) authenticator: Option<Authenticator>,
    pub(super) driver: Box<dyn Hypervisor>,
    guests: Mutex<BTreeMap<VmId, Guest>>,
    pub(super) creation: Mutex<()>,
    pub(super) stop: Stop,
}

/// What guests see of the hypervisor.
struct TowardsGuests {
    /// `hv-tls`.
    identity: Identity,
    /// The name in its certificate.
    name: String,
    /// What guests trust for it.
    anchors: Vec<Vec<u8>>,
}

/// What a reload reads again.
struct Reloaded {
    towards_guests: TowardsGuests,
    upstream: Option<Upstream>,
}

impl Reloaded {
    fn read(
        role: &config::Hypervisor,
        tls: &config::Tls,
        grid: &Arc<Grid>,
    ) -> Result<Self, MiddlewareError> {
        let ders = |files: &[std::path::PathBuf]| -> Result<Vec<_>, TlsError> {
            let read: Result<Vec<_>, _> = files.iter().map(|file| certificates(file)).collect();
            Ok(read?.concat())
        };
        let identity = keys::identity(grid, tls)?;
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
        let anchors = ders(&role.guest_anchor_files)?;
        Ok(Self {
            towards_guests: TowardsGuests {
                identity,
                name: role.name.clone(),
                anchors: anchors.iter().map(|der| der.to_vec()).collect(),
            },
            upstream,
        })
    }
}

/// A guest that runs.
pub(super) struct Guest {
    pub(super) domain: Arc<Domain>,
    pub(super) tasks: Mutex<JoinSet<()>>,
}

impl Middleware {
    /// The role as a configuration has it; `admin` is the node's admin socket, which the gate is asked on. Blocks while
    /// elements answer.
    ///
    /// # Errors
    /// [`MiddlewareError`].
    pub fn new(
        role: config::Hypervisor,
        tls: &config::Tls,
        admin: &std::path::Path,
        limits: Arc<ArcSwap<Limits>>,
        grid: Arc<Grid>,
        stop: Stop,
    ) -> Result<Arc<Self>, MiddlewareError> {
        let chain = certificates(&role.ca_certificate_file)?;
        let chain = chain.iter().map(|der| der.to_vec()).collect();
        let key = Arc::new(keys::element_key(&grid, &role.ca_key)?);
        let lifetime = role.token_lifetime_s.duration();
        let issuer = Arc::new(TokenIssuer::new(chain, key, lifetime)?);
        let reloaded = Reloaded::read(&role, tls, &grid)?;
        let identity = &reloaded.towards_guests.identity;
        let authenticator = role.authenticator.as_ref();
        let authenticator = authenticator
            .map(|section| Authenticator::start(section, &role.name, role.driver, tls, identity))
            .transpose()?;
        let machines = role.machines();
        let journal = Arc::new(Journal::open(&machines)?);
        let measured = Measured::open(&machines.join("boot"))?;
        let lifetime = role.ticket_lifetime_s.duration();
        let gate = Arc::new(Gate::new(issuer.clone(), journal.clone(), lifetime));
        let driver: Box<dyn Hypervisor> = match &role.driver {
            config::Driver::Process => Box::new(Processes::default()),
            config::Driver::Namespace => Box::new(Namespaces::new(role.join_folder.clone())),
            config::Driver::Xen => {
                let (folder, unauthorised) = (role.join_folder.clone(), role.unauthorised_domains);
                let domains = Domains::new(folder, admin, journal.clone(), unauthorised);
                Box::new(domains.map_err(MiddlewareError::Driver)?)
            }
            config::Driver::Libvirt => {
                let (section, unauthorised) = (role.libvirt.clone(), role.unauthorised_domains);
                let guests = libvirt::Guests::new(section, role.join_folder.clone(), unauthorised);
                Box::new(guests.map_err(MiddlewareError::Driver)?)
            }
        };
        Ok(Arc::new(Self {
            generations: Arc::new(GenerationFile::open(
                &role.generation_file,
                issuer.key_hash(),
            )?),
            journal,
            gate,
            measured,
            grid,
            config: ArcSwap::from_pointee(role),
            limits,
            issuer,
            towards_guests: ArcSwap::from_pointee(reloaded.towards_guests),
            upstream: ArcSwapOption::from_pointee(reloaded.upstream),
            authenticator,
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
        let key = TokenIssuer::check_certificate(hv_ca.first().map_or(&[], |der| der))?;
        for file in &role.guest_anchor_files {
            certificates(file)?;
        }
        GenerationFile::open(&role.generation_file, key)?;
        if let Some(pin) = &role.ca_key.pin {
            keys::secret(pin)?;
        }
        let secret = role.authenticator.as_ref();
        if let Some(secret) = secret.and_then(|section| section.secret.as_ref()) {
            keys::secret(secret)?;
        }
        Ok(())
    }

    /// The role as it is configured.
    #[must_use]
    pub fn config(&self) -> Arc<config::Hypervisor> {
        self.config.load_full()
    }

    /// Takes what another configuration says of images, creators, guests, the authentication server, and of what
    /// guests see and trust; guests that run keep what they have. New ones of the configuration are to be started by
    /// [`Middleware::start_configured`].
    ///
    /// # Errors
    /// [`MiddlewareError`]. What is returned makes the change, which cannot fail.
    pub fn reload(
        &self,
        role: &config::Hypervisor,
        tls: &config::Tls,
    ) -> Result<impl FnOnce() + '_, MiddlewareError> {
        let reloaded = Reloaded::read(role, tls, &self.grid)?;
        let role = role.clone();
        Ok(move || {
            self.towards_guests.store(Arc::new(reloaded.towards_guests));
            self.upstream.store(reloaded.upstream.map(Arc::new));
            self.config.store(Arc::new(role));
        })
    }

    /// What this hypervisor knows about its virtual machines.
    #[must_use]
    pub fn generations(&self) -> Arc<dyn Generations + Send + Sync> {
        self.generations.clone()
    }

    /// Tells of every change of [`Middleware::generations`].
    #[must_use]
    pub fn generation_changes(&self) -> watch::Receiver<()> {
        self.generations.changes()
    }

    /// Tells remote grids the generations, once [`Publisher::tell`] says which.
    #[must_use]
    pub fn publisher(&self, calls: Arc<Calls>) -> Publisher {
        let (generations, stop) = (self.generations.clone(), self.stop.clone());
        Publisher::new(generations, self.issuer.key_hash(), calls, stop)
    }

    /// Hashes and copies what an image boots: kernel and RAM disk.
    ///
    /// # Errors
    /// [`MiddlewareError::Measure`].
    pub fn measure(
        &self,
        image: &config::Image,
    ) -> Result<[Option<config::Sha256>; 2], MiddlewareError> {
        let take = |path: &Option<std::path::PathBuf>,
                    expected: &Option<config::Text<config::Sha256>>| {
            let path = path.as_ref();
            let expected = expected.as_ref().map(|expected| expected.0);
            path.map(|path| self.measured.take(path, expected))
                .transpose()
        };
        Ok([
            take(&image.kernel, &image.kernel_sha256)?,
            take(&image.ramdisk, &image.ramdisk_sha256)?,
        ])
    }

    /// The last part of this hypervisor's name.
    #[must_use]
    pub fn hypervisor(&self) -> String {
        self.issuer.hypervisor().as_str().to_owned()
    }

    /// Starts the guests of the configuration that do not run; one that does not start is logged.
    pub fn start_configured(self: &Arc<Self>) {
        let config = self.config();
        for guest in &config.guests {
            let vm = guest.uuid.0;
            let started = match self.show(vm).map(|listed| listed.record.state) {
                None => self.create_configured(&config, guest),
                Some(State::Stopped) => self.start(vm).map(drop),
                Some(_) => Ok(()),
            };
            if let Err(error) = started {
                tracing::error!(%vm, %error, "a configured guest does not start");
            }
        }
    }

    fn create_configured(
        self: &Arc<Self>,
        config: &config::Hypervisor,
        guest: &config::Guest,
    ) -> Result<(), MiddlewareError> {
        let image = config.images.iter().find(|image| image.name == guest.image);
        let image = image.ok_or(MiddlewareError::Unknown)?;
        let [kernel, ramdisk] = self.measure(image)?;
        self.create(Start {
            seids: guest.seid.iter().map(|seid| seid.0).collect(),
            kernel,
            ramdisk,
            ..Start::of(guest.uuid.0, &image.name, image.command.clone())
        })
        .map(drop)
    }

    /// Stops every guest and waits for their ends, at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        if self.driver.outlives() {
            // They go on, and are found again.
            self.guests().clear();
            return;
        }
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

    /// Handshake signatures that guests asked for: given, refused.
    #[must_use]
    pub fn attach_counts(&self) -> [u64; 2] {
        let asked = self.issuer.asked();
        [&asked.signed, &asked.refused]
            .map(|counter| counter.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// What lets guests in by RADIUS, where it is configured.
    #[must_use]
    pub fn authenticator(&self) -> Option<&Authenticator> {
        self.authenticator.as_ref()
    }

    /// Makes a new token for a guest now; `false` if it does not run or the element does not sign.
    #[must_use]
    pub fn renew(&self, vm: VmId) -> bool {
        let domain = self.guests().get(&vm).map(|guest| guest.domain.clone());
        domain.is_some_and(|domain| domain.renew(Clock::seconds(), Instant::now()).is_ok())
    }

    pub(super) fn prepare(
        self: &Arc<Self>,
        record: &Record,
        domain: Arc<Domain>,
    ) -> Result<(Arc<dyn Sockets>, Guest), MiddlewareError> {
        let bound = Arc::new(Bound {
            name: Name::Uri(domain.name().to_string().into()),
            seids: record.elements(),
        });
        let verifier = GuestVerifier::new(domain.clone(), self.generations.clone());
        let shown = self.towards_guests.load().identity.certified_key();
        let own = Arc::new(SingleCertAndKey::from(shown));
        let tls = guest_tls::server_config(verifier, own, &[RACS, EAP])?;
        let sockets = DomainSockets::new(self.clone(), domain.clone(), bound, tls);
        let guest = Guest {
            domain,
            tasks: Mutex::default(),
        };
        Ok((Arc::new(sockets), guest))
    }

    pub(super) fn join_record(&self, domain: &Domain) -> Result<JoinRecord, MiddlewareError> {
        let secret = domain.join_secret().ok_or(RecordError::Field("secret"))?;
        let token = domain.token();
        let towards_guests = self.towards_guests.load();
        Ok(JoinRecord::new(
            domain.vm(),
            &towards_guests.name,
            &towards_guests.anchors,
            token.chain.certificates(),
            &secret,
        ))
    }

    pub(super) fn guests(&self) -> MutexGuard<'_, BTreeMap<VmId, Guest>> {
        lock(&self.guests)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.domain.end();
    }
}

/// A new token at half of the old one's life.
pub(super) async fn renew(domain: Arc<Domain>) {
    let every = domain.issuer().lifetime() / 2;
    let mut wait = every;
    loop {
        tokio::time::sleep(wait).await;
        let renewed = crate::long_step(|| domain.renew(Clock::seconds(), Instant::now()));
        wait = match renewed {
            Ok(()) => every,
            Err(error) => {
                tracing::error!(vm = %domain.vm(), %error, "the attachment token was not renewed");
                RETRY
            }
        };
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
