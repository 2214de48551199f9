//! The roles that a section of the configuration switches on, each on the same grid engine.

use std::{sync::Arc, time::Duration};

use crate::{
    admin::AdminHandler,
    auth::{EapChannel, Identity, Pool, Terms, Tuning},
    config::{self, AuthenticationServer, Caller, Config, SlotKind, Text},
    generations::{Told, ToldError},
    grid::Grid,
    hypervisor::{Middleware, MiddlewareError, Publisher},
    keys::{self, KeyError},
    listen::{ADMIN, EAP},
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
            SlotKind::Software { .. } | SlotKind::Pcsc { .. } => None,
        });
        publisher.tell(&nodes.collect());
    }

    /// Takes what another configuration says and what needs no restart; see [`Config::needs_restart`].
    ///
    /// # Errors
    /// [`RoleError`]; everything stays as it was.
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
    let admin = AdminHandler::new(node.grid().clone(), middleware.clone(), told.clone());
    node.register(ADMIN, Arc::new(admin));
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
        keys::secret(&role.pin)?;
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
    crate::long_step(|| Middleware::new(role, tls, limits, node.grid().clone(), stop)).map(Some)
}

fn pool(role: &AuthenticationServer, grid: &Arc<Grid>) -> Result<Arc<Pool>, KeyError> {
    let mut identities = Vec::new();
    for company in &role.companies {
        let mut identity = Identity::new(
            &company.name,
            &company.identity,
            &keys::secret(&company.pin)?,
            company.elements.iter().map(|seid| seid.0).collect(),
        );
        identity.realms = company
            .realms
            .iter()
            .map(|realm| realm.to_lowercase())
            .collect();
        let Terms { allow, reply } = terms(&company.allow, &company.reply);
        (identity.allow, identity.reply) = (allow, reply);
        identities.push(identity);
    }
    let pin = keys::secret(&role.pin)?;
    let elements = role.elements.iter().map(|seid| seid.0).collect();
    let mut identity = Identity::new(OWN, &role.identity, &pin, elements);
    let Terms { allow, reply } = terms(&role.allow, &role.reply);
    (identity.allow, identity.reply) = (allow, reply);
    identities.push(identity);
    Ok(Pool::new(grid, identities, &tuning(role)))
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
