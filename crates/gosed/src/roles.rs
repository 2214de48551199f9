//! The roles that a section of the configuration switches on, each on the same grid engine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gose_card::applet::eap_tls::host::Unusable;
use gose_element::Seid;
use gose_proto::identity::RevokedCertificates;

use crate::{
    admin::AdminHandler,
    auth::{
        Certificates, EapChannel, Identity, OnHost, Pool, Revoked, RevokedError, Terms, Tuning,
    },
    config::{self, AuthenticationServer, Caller, Config, Secret, SlotKind, Text},
    generations::{Told, ToldError},
    grid::Grid,
    hypervisor::{Middleware, MiddlewareError, Publisher},
    keys::{self, KeyError},
    listen::{
        ADMIN, EAP,
        tls::{self, TlsError},
    },
    node::Node,
    radius,
};

/// The name of the authentication server's identity that is no company's.
const OWN: &str = "authentication-server";

/// The roles of a node.
#[derive(Default)]
pub struct Roles {
    /// `[hypervisor]`.
    pub middleware: Option<Arc<Middleware>>,
    /// Tells remote grids the generations of this hypervisor's virtual machines.
    pub publisher: Option<Publisher>,
    /// `[generations]`: what hypervisors told this node.
    pub told: Option<Arc<Told>>,
    /// `[authentication-server]`: its elements.
    pub pool: Option<Arc<Pool>>,
    /// What hypervisors bring to the pool.
    pub channel: Option<Arc<EapChannel>>,
    /// `[authentication-server.radius]`, which listens already.
    pub radius: Option<radius::Server>,
}

impl Roles {
    /// Tells the generations to every grid that has elements for this node, from now on.
    pub fn publish(&self, config: &Config) {
        let Some(publisher) = &self.publisher else {
            return;
        };
        let nodes = config.slots.iter().filter_map(|slot| match &slot.kind {
            SlotKind::Remote { node, .. } => Some(node.as_str()),
            SlotKind::Software(_) | SlotKind::Pcsc { .. } => None,
        });
        publisher.tell(&nodes.collect());
    }

    /// Takes what another configuration says and what needs no restart; see [`Config::needs_restart`].
    ///
    /// # Errors
    /// [`RoleError`]; what is wrong stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), RoleError> {
        let server = config.authentication_server.as_ref();
        // What can fail comes before anything changes.
        let mut changes: Vec<Box<dyn FnOnce() + '_>> = Vec::new();
        if let (Some(told), Some(section)) = (&self.told, &config.generations) {
            changes.push(Box::new(told.reload(section)?));
        }
        let section = server.and_then(|server| server.radius.as_ref());
        if let (Some(server), Some(section)) = (&self.radius, section) {
            changes.push(Box::new(server.reload(section)?));
        }
        if let (Some(middleware), Some(role), Some(tls)) =
            (&self.middleware, &config.hypervisor, &config.tls)
        {
            let change = crate::long_step(|| middleware.reload(role, tls))?;
            changes.push(Box::new(change));
        }
        if let (Some(pool), Some(role)) = (&self.pool, server) {
            changes.extend(renewals(pool, role)?);
        }
        let revoked = revoked(config)?;
        changes.into_iter().for_each(|change| change());
        if let (Some(pool), Some(role)) = (&self.pool, server) {
            let companies = role.companies.iter();
            let mut terms: Vec<_> = companies
                .map(|company| (company.name.as_str(), terms(&company.allow, &company.reply)))
                .collect();
            terms.push((OWN, self::terms(&role.allow, &role.reply)));
            pool.reload(&terms, &tuning(role));
        }
        if let (Some(channel), Some(role)) = (&self.channel, server) {
            channel.reload(callers(role), role.service);
        }
        if let Some(server) = &self.radius {
            let disconnector = server.disconnector();
            let listed = |session: &radius::Session| {
                let id = &session.certificate;
                revoked.contains(&id.issuer, &id.serial)
            };
            let ended = disconnector.end("its certificate is on a revocation list", listed);
            if ended > 0 {
                tracing::warn!(sessions = ended, "revoked peers have sessions; they end");
            }
        }
        Ok(())
    }

    /// Starts guests, and tells grids, that a configuration has and that are new. Called within a runtime.
    pub fn follow(&self, config: &Config) {
        if let Some(middleware) = &self.middleware {
            crate::long_step(|| middleware.start_configured());
        }
        self.publish(config);
    }
}

/// Why a node cannot take up a role.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// `[hypervisor]`.
    #[error(transparent)]
    Hypervisor(#[from] MiddlewareError),
    /// `[generations]`.
    #[error(transparent)]
    Generations(#[from] ToldError),
    /// `[authentication-server]`.
    #[error("[authentication-server] {0}")]
    AuthenticationServer(#[from] KeyError),
    /// Names that were taken back.
    #[error("[authentication-server] revoked-file: {0}")]
    Revoked(#[from] RevokedError),
    /// Files of `tls-on-host`.
    #[error("[authentication-server] tls-on-host: {0}")]
    Certificates(#[from] TlsError),
    /// Files and key of `tls-on-host` do not go together.
    #[error("[authentication-server] tls-on-host: {0}")]
    OnHost(#[from] Unusable),
    /// `[authentication-server.radius]`.
    #[error("[authentication-server.radius] {0}")]
    Radius(#[from] radius::StartError),
}

/// Takes up what the node's configuration says: protocols are registered; of what listens,
/// RADIUS alone does so already. Called within a runtime.
///
/// # Errors
/// [`RoleError`].
pub fn take_up(node: &mut Node) -> Result<Roles, RoleError> {
    let middleware = hypervisor(node)?;
    let told = node.config().generations.as_ref();
    let told = told.map(Told::open).transpose()?.map(Arc::new);
    if let Some(middleware) = &middleware {
        node.know_tokens(middleware.generations(), middleware.generation_changes());
    }
    if let Some(told) = &told {
        node.know_tokens(told.clone(), told.changes());
    }
    let publisher = middleware
        .as_ref()
        .map(|middleware| middleware.publisher(node.calls().clone()));
    let server = node.config().authentication_server.clone();
    let mut radius = None;
    let mut channel = None;
    let pool = match server {
        None => None,
        Some(role) => {
            let pool = pool(&role, node.grid())?;
            let served = EapChannel::new(pool.clone(), callers(&role), role.service);
            let served = Arc::new(served);
            node.register(EAP, served.clone());
            channel = Some(served);
            radius = match &role.radius {
                Some(section) => {
                    let tls = node.config().tls.clone();
                    Some(radius::Server::start(
                        section,
                        tls.as_ref(),
                        node.grid(),
                        pool.clone(),
                    )?)
                }
                None => None,
            };
            Some(pool)
        }
    };
    let disconnector = radius.as_ref().map(|server| server.disconnector().clone());
    let admin = AdminHandler::new(
        node.grid().clone(),
        middleware.clone(),
        told.clone(),
        disconnector,
    );
    node.register(ADMIN, Arc::new(admin));
    Ok(Roles {
        middleware,
        publisher,
        told,
        pool,
        channel,
        radius,
    })
}

/// Reads what the roles' sections name, as far as no element is needed for it.
///
/// # Errors
/// [`RoleError`].
pub fn check(config: &Config) -> Result<(), RoleError> {
    if let Some(role) = &config.hypervisor {
        Middleware::check_files(role)?;
    }
    if let Some(section) = &config.generations {
        Told::open(section)?;
    }
    if let Some(role) = &config.authentication_server {
        Revoked::open(&role.revoked_file)?;
        let companies = role.companies.iter();
        let pins = role
            .pin
            .iter()
            .chain(companies.clone().filter_map(|one| one.pin.as_ref()));
        for pin in pins {
            keys::secret(pin)?;
        }
        let others = companies.filter_map(|one| one.tls_on_host.as_ref());
        for on_host in role.tls_on_host.iter().chain(others) {
            certificates(on_host)?;
        }
        if let Some(section) = &role.radius {
            radius::Server::check(section, config.tls.as_ref())?;
        }
    }
    Ok(())
}

fn hypervisor(node: &Node) -> Result<Option<Arc<Middleware>>, MiddlewareError> {
    let Config {
        hypervisor: Some(role),
        tls: Some(tls),
        ..
    } = node.config()
    else {
        return Ok(None);
    };
    let (role, limits) = (role.clone(), node.limits().clone());
    let stop = node.when_stopped();
    let admin = node.config().admin.as_ref();
    let admin = admin.map_or_else(PathBuf::new, |admin| admin.socket.clone());
    crate::long_step(|| Middleware::new(role, tls, &admin, limits, node.grid().clone(), stop))
        .map(Some)
}

fn pool(role: &AuthenticationServer, grid: &Arc<Grid>) -> Result<Arc<Pool>, RoleError> {
    let mut identities = Vec::new();
    for company in &role.companies {
        let made = Made {
            name: &company.name,
            label: &company.identity,
            pin: company.pin.as_ref(),
            elements: &company.elements,
            on_host: company.tls_on_host.as_ref(),
        };
        let mut identity = made.identity(grid)?;
        identity.realms = company
            .realms
            .iter()
            .map(|realm| realm.to_lowercase())
            .collect();
        let Terms { allow, reply } = terms(&company.allow, &company.reply);
        (identity.allow, identity.reply) = (allow, reply);
        identities.push(identity);
    }
    let made = Made {
        name: OWN,
        label: &role.identity,
        pin: role.pin.as_ref(),
        elements: &role.elements,
        on_host: role.tls_on_host.as_ref(),
    };
    let mut identity = made.identity(grid)?;
    let Terms { allow, reply } = terms(&role.allow, &role.reply);
    (identity.allow, identity.reply) = (allow, reply);
    identities.push(identity);
    let revoked = Revoked::open(&role.revoked_file)?;
    Ok(Pool::new(grid, identities, &tuning(role), revoked))
}

fn tuning(role: &AuthenticationServer) -> Tuning {
    Tuning {
        patience: role.element_wait_s.duration(),
        // Without RADIUS, the channel's own time limit: a peer may take as long as a step may.
        preempt: role
            .radius
            .as_ref()
            .map_or(Duration::from_secs(60), |radius| {
                radius.preempt_s.duration()
            }),
        ..Tuning::DEFAULT
    }
}

fn callers(role: &AuthenticationServer) -> Vec<Caller> {
    role.callers.iter().map(|caller| caller.0.clone()).collect()
}

fn terms(allow: &[Text<Caller>], reply: &config::Reply) -> Terms {
    Terms {
        allow: allow.iter().map(|name| name.0.to_string()).collect(),
        reply: reply.into(),
    }
}

/// What the revocation lists of `[tls]` and of TLS on the host name.
fn revoked(config: &Config) -> Result<RevokedCertificates, TlsError> {
    let tls = config.tls.iter().flat_map(|tls| &tls.crl_files);
    let role = config.authentication_server.as_ref();
    let own = role.and_then(|role| role.tls_on_host.as_ref());
    let companies = role.iter().flat_map(|role| &role.companies);
    let others = companies.filter_map(|company| company.tls_on_host.as_ref());
    let on_host = own.into_iter().chain(others);
    let files = tls.chain(on_host.flat_map(|on_host| &on_host.crl_files));
    let mut revoked = RevokedCertificates::default();
    for file in files {
        for crl in tls::revocation_lists(file)? {
            revoked.add(&crl);
        }
    }
    Ok(revoked)
}

/// Certificates and revocation lists of identities whose TLS runs on the host, to be taken at once.
fn renewals<'p>(
    pool: &'p Pool,
    role: &AuthenticationServer,
) -> Result<Vec<Box<dyn FnOnce() + 'p>>, RoleError> {
    let mut renewals: Vec<Box<dyn FnOnce() + 'p>> = Vec::new();
    for (name, on_host) in pool.on_host() {
        let company = role.companies.iter().find(|company| company.name == name);
        let section = match company {
            Some(company) => company.tls_on_host.as_ref(),
            None if name == OWN => role.tls_on_host.as_ref(),
            None => None,
        };
        if let Some(section) = section {
            renewals.push(Box::new(on_host.renewed(&certificates(section)?)?));
        }
    }
    Ok(renewals)
}

/// What an identity is made of.
struct Made<'c> {
    name: &'c str,
    label: &'c str,
    pin: Option<&'c Text<Secret>>,
    elements: &'c [Text<Seid>],
    on_host: Option<&'c config::OnHost>,
}

impl Made<'_> {
    fn identity(&self, grid: &Arc<Grid>) -> Result<Identity, RoleError> {
        let Some(on_host) = self.on_host else {
            let pin = self.pin.map(|pin| keys::secret(pin)).transpose()?;
            let elements = self.elements.iter().map(|seid| seid.0).collect();
            let pin = pin.unwrap_or_default();
            return Ok(Identity::new(self.name, self.label, &pin, elements));
        };
        let key = crate::long_step(|| keys::kept_key(grid, &on_host.key))?;
        let place = on_host.key.seid.to_string();
        let tls = OnHost::new(key, &place, &certificates(on_host)?)?;
        Ok(Identity::on_host(self.name, tls))
    }
}

fn certificates(on_host: &config::OnHost) -> Result<Certificates, TlsError> {
    fn all<T>(
        files: &[PathBuf],
        read: fn(&Path) -> Result<Vec<T>, TlsError>,
    ) -> Result<Vec<T>, TlsError> {
        let mut all = Vec::new();
        for file in files {
            all.extend(read(file)?);
        }
        Ok(all)
    }
    Ok(Certificates {
        chain: tls::certificates(&on_host.certificate_file)?,
        anchors: all(&on_host.anchor_files, tls::certificates)?,
        crls: all(&on_host.crl_files, tls::revocation_lists)?,
        policy: on_host.policy(),
        sessions: on_host.sessions as usize,
    })
}
