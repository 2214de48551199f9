//! The roles that a section of the configuration switches on, each on the same grid engine.

use std::{sync::Arc, time::Duration};

use crate::{
    auth::{EapChannel, Identity, Pool, Tuning},
    config::{AuthenticationServer, Config},
    grid::Grid,
    hypervisor::{AdminHandler, Middleware, MiddlewareError},
    keys::{self, KeyError},
    listen::{ADMIN, EAP},
    node::Node,
};

/// The roles of a node.
#[derive(Default)]
pub struct Roles {
    /// `[hypervisor]`.
    pub middleware: Option<Arc<Middleware>>,
    /// `[authentication-server]`: its elements.
    pub pool: Option<Arc<Pool>>,
}

/// Why a node cannot take up a role.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// `[hypervisor]`.
    #[error(transparent)]
    Hypervisor(#[from] MiddlewareError),
    /// `[authentication-server]`.
    #[error("[authentication-server] {0}")]
    AuthenticationServer(#[from] KeyError),
}

/// Takes up what the node's configuration says: protocols are registered, nothing listens yet.
///
/// # Errors
/// [`RoleError`].
pub fn take_up(node: &mut Node) -> Result<Roles, RoleError> {
    let middleware = hypervisor(node)?;
    if let Some(middleware) = &middleware {
        node.know_tokens(middleware.generations());
        node.register(ADMIN, Arc::new(AdminHandler::new(middleware.clone())));
    }
    let server = node.config().authentication_server.clone();
    let pool = match server {
        None => None,
        Some(role) => {
            let pool = pool(&role, node.grid())?;
            let callers = role.callers.into_iter().map(|caller| caller.0).collect();
            let channel = EapChannel::new(pool.clone(), callers, role.service);
            node.register(EAP, Arc::new(channel));
            Some(pool)
        }
    };
    Ok(Roles { middleware, pool })
}

fn hypervisor(node: &Node) -> Result<Option<Arc<Middleware>>, MiddlewareError> {
    let Config {
        hypervisor: Some(role),
        tls: Some(tls),
        limits,
        ..
    } = node.config()
    else {
        return Ok(None);
    };
    let (role, limits) = (role.clone(), limits.clone());
    let stop = node.when_stopped();
    crate::long_step(|| Middleware::new(role, tls, limits, node.grid().clone(), stop)).map(Some)
}

fn pool(role: &AuthenticationServer, grid: &Arc<Grid>) -> Result<Arc<Pool>, KeyError> {
    let pin = keys::secret(&role.pin)?;
    let elements = role.elements.iter().map(|seid| seid.0).collect();
    let mut identity = Identity::new("authentication-server", &role.identity, &pin, elements);
    identity.allow = role.allow.iter().map(|name| name.0.to_string()).collect();
    let tuning = Tuning {
        patience: role.element_wait_s.duration(),
        // The channel's own time limit: a peer may take as long as a step may.
        preempt: Duration::from_secs(60),
        ..Tuning::DEFAULT
    };
    Ok(Pool::new(grid, vec![identity], &tuning))
}
