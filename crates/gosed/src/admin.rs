//! `gose-admin/1`: actions are parsed, authorised, executed, answered; in this order, default deny.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use gose_card::fault::{Fault, Plan};
use gose_client::admin::{
    self, Action, Answer, ElementFault, ElementInfo, ElementMemory, ElementUse, Refusal,
};
use gose_element::Seid;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    auth::RevokedError,
    generations::Told,
    grid::{Counted, Grid, Names, Peer, Used},
    hypervisor::{self, Middleware},
    listen::{BoxedStream, Connection, Handler},
    radius::Disconnector,
};

/// How long a session may be silent, and a message may take.
const IDLE: Duration = Duration::from_secs(60);

/// Serves `gose-admin/1` on a node.
pub struct AdminHandler {
    grid: Arc<Grid>,
    middleware: Option<Arc<Middleware>>,
    told: Option<Arc<Told>>,
    disconnector: Option<Arc<Disconnector>>,
}

/// Why an action is refused: what the caller is told, and what the log is told.
pub(crate) struct Denied {
    pub(crate) reason: Refusal,
    pub(crate) cause: String,
}

/// Names in one answer.
const NAMES: usize = 64;

fn not_kept(error: RevokedError) -> Denied {
    Denied {
        reason: match error {
            RevokedError::Full => Refusal::Quota,
            _ => Refusal::Failed,
        },
        cause: error.to_string(),
    }
}

pub(crate) fn denied<T>(reason: Refusal, cause: impl Into<String>) -> Result<T, Denied> {
    let cause = cause.into();
    Err(Denied { reason, cause })
}

impl AdminHandler {
    /// For a node, with its roles where it has them, and what hypervisors tell it where they may.
    #[must_use]
    pub fn new(
        grid: Arc<Grid>,
        middleware: Option<Arc<Middleware>>,
        told: Option<Arc<Told>>,
        disconnector: Option<Arc<Disconnector>>,
    ) -> Self {
        Self {
            grid,
            middleware,
            told,
            disconnector,
        }
    }

    async fn converse(&self, mut connection: Connection) -> Result<(), admin::AdminError> {
        loop {
            let action = tokio::select! {
                biased;
                () = connection.stop.stopped() => return Ok(()),
                eviction = connection.peer.evictions.wait() => {
                    tracing::info!(peer = %connection.peer, ?eviction, "management session ends");
                    return Ok(());
                }
                action = timeout(IDLE, read(&mut connection.stream)) => match action {
                    Ok(Ok(Some(action))) => action,
                    Ok(Ok(None)) | Err(_) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                },
            };
            let frame = admin::encode(&self.answer(&connection.peer, &action))?;
            let sent = connection.stream.write_all(&frame);
            timeout(IDLE, sent).await.map_err(std::io::Error::from)??;
            timeout(IDLE, connection.stream.flush())
                .await
                .map_err(std::io::Error::from)??;
        }
    }

    /// The audit of the management plane: who asked for what, and what came of it.
    fn answer(&self, peer: &Peer, json: &[u8]) -> Answer {
        let Ok(action) = serde_json::from_slice::<Action>(json) else {
            tracing::warn!(peer = %peer, "management: not an action");
            return refused(Refusal::Malformed);
        };
        match self.perform(peer, &action) {
            Ok(answer) => {
                tracing::info!(peer = %peer, action = %Brief(&action), "management: done");
                answer
            }
            Err(Denied { reason, cause }) => {
                tracing::warn!(peer = %peer, action = %Brief(&action), reason = cause, "management: refused");
                refused(reason)
            }
        }
    }

    fn perform(&self, peer: &Peer, action: &Action) -> Result<Answer, Denied> {
        match (action, &self.middleware) {
            (
                Action::Generations {
                    hypervisor,
                    generations,
                },
                _,
            ) => match &self.told {
                Some(told) => told.take(&peer.names, hypervisor, generations),
                None => denied(Refusal::Unauthorised, "this node has no [generations]"),
            },
            (Action::EapRevoke { name }, _) => {
                let ended = self.revoker(peer)?.revoke(name).map_err(not_kept)?;
                Ok(Answer::Revoked {
                    sessions: u64::try_from(ended).unwrap_or(u64::MAX),
                })
            }
            (Action::EapReinstate { name }, _) => {
                match self.revoker(peer)?.reinstate(name).map_err(not_kept)? {
                    true => Ok(Answer::Reinstated),
                    false => denied(Refusal::Unknown, "the name was not revoked"),
                }
            }
            (Action::EapRevoked, _) => {
                let mut names = self.revoker(peer)?.revoked();
                let total = u64::try_from(names.len()).unwrap_or(u64::MAX);
                names.truncate(NAMES);
                Ok(Answer::RevokedNames { names, total })
            }
            (Action::VmDestroy { uuid }, Some(middleware)) => {
                // It may be called by its name.
                let show = Action::VmShow { uuid: uuid.clone() };
                let shown = hypervisor::perform(middleware, &peer.names, &show)?;
                let answer = hypervisor::perform(middleware, &peer.names, action)?;
                if let Answer::Vm(vm) = shown {
                    self.gone(&vm.uuid);
                }
                Ok(answer)
            }
            (Action::ElementUse { seid }, _) => {
                let (_, used) = self.administered(peer, seid)?;
                Ok(Answer::Use(shown(&used.counted())))
            }
            (Action::ElementInfo { seid }, _) => {
                let (seid, used) = self.administered(peer, seid)?;
                Ok(Answer::Info(info(seid, &used)))
            }
            (Action::ElementFault { seid, faults }, _) => {
                let (seid, used) = self.administered(peer, seid)?;
                choose_faults(&used, faults)?;
                Ok(Answer::Info(info(seid, &used)))
            }
            (_, Some(middleware)) => hypervisor::perform(middleware, &peer.names, action),
            (_, None) => denied(Refusal::Unauthorised, "this node has no [hypervisor]"),
        }
    }

    /// The sessions of a virtual machine that is no more end.
    fn gone(&self, uuid: &str) {
        let Some(disconnector) = &self.disconnector else {
            return;
        };
        let place = format!("/vm/{}", uuid.to_lowercase());
        disconnector.end("the virtual machine is destroyed", |session| {
            session.peer.starts_with("spiffe://") && session.peer.ends_with(&place)
        });
    }

    /// What takes names back, for the operator.
    fn revoker(&self, peer: &Peer) -> Result<&Disconnector, Denied> {
        if peer.names != Names::Operator {
            return denied(Refusal::Unauthorised, "only the operator revokes");
        }
        match &self.disconnector {
            Some(disconnector) => Ok(disconnector),
            None => denied(
                Refusal::Unknown,
                "this node has no [authentication-server.radius]",
            ),
        }
    }

    /// What is known of an element that this peer administers.
    fn administered(&self, peer: &Peer, seid: &str) -> Result<(Seid, Arc<Used>), Denied> {
        let unknown = |cause: String| Denied {
            reason: Refusal::Unknown,
            cause,
        };
        let seid = seid
            .parse()
            .map_err(|_| unknown(format!("\"{seid}\" is no SEID")))?;
        let used = self.grid.used(peer, seid).map_err(|_| {
            unknown(format!(
                "{seid} is not there, or not this peer's to administer"
            ))
        })?;
        Ok((seid, used))
    }
}

/// Faults in place of all that were chosen before. A node that is no test grid has none.
fn choose_faults(used: &Used, faults: &[String]) -> Result<(), Denied> {
    let Some(present) = &used.settings().faults else {
        return denied(
            Refusal::TestGrid,
            "faults are for software elements of a node with [node] test-grid = true",
        );
    };
    let plans: Result<Vec<Plan>, _> = faults.iter().map(|fault| fault.parse()).collect();
    let plans = match plans {
        Ok(plans) if plans.len() <= FAULTS => plans,
        Ok(_) => return denied(Refusal::Malformed, format!("more than {FAULTS} faults")),
        Err(error) => return denied(Refusal::Malformed, error.to_string()),
    };
    let slow = |plan: &Plan| matches!(plan.fault, Fault::Slow(_));
    if used.settings().timing.is_none() && plans.iter().any(slow) {
        return denied(Refusal::Malformed, "slow=N for an element without `timing`");
    }
    present.replace(&plans);
    Ok(())
}

/// Faults that an element may have at a time.
const FAULTS: usize = 16;

fn info(seid: Seid, used: &Used) -> ElementInfo {
    let settings = used.settings();
    ElementInfo {
        seid: seid.to_string(),
        commands: used.counted().commands,
        memory: used.memory().map(|memory| ElementMemory {
            bytes: memory.bytes,
            quota: settings.quota,
            image_version: memory.image_version,
            image_bytes: memory.image_bytes,
            image_records: memory.image_records,
        }),
        timing: settings.timing.map(|profile| profile.name.to_owned()),
        faults: settings.faults.as_ref().map(|faults| {
            let state = faults.state().into_iter();
            let fault = |(plan, happened): (Plan, u64)| ElementFault {
                fault: plan.to_string(),
                happened,
            };
            state.map(fault).collect()
        }),
    }
}

/// An action as the log shows it: without long lists.
struct Brief<'a>(&'a Action);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Action::Generations {
                hypervisor,
                generations,
            } => write!(
                f,
                "Generations of {} machines of {hypervisor}",
                generations.len()
            ),
            Action::VmAdmit { uuid, .. } => write!(f, "VmAdmit of {uuid}"),
            action => write!(f, "{action:?}"),
        }
    }
}

/// The counters of an element, as administrators see them.
pub(crate) fn shown(counted: &Counted) -> ElementUse {
    let cost = &counted.cost;
    ElementUse {
        commands: counted.commands,
        hash_blocks: cost.hash_blocks,
        rsa_private: cost.rsa_private,
        rsa_public: cost.rsa_public,
        ecdsa_sign: cost.ecdsa_sign,
        ecdsa_verify: cost.ecdsa_verify,
        ec_agree: cost.ec_agree,
        key_generate: cost.key_generate,
        cipher_bytes: cost.cipher_bytes,
        io_bytes: cost.io_bytes,
    }
}

/// Callers get a fixed sentence; the log has the cause.
fn refused(reason: Refusal) -> Answer {
    let text = match reason {
        Refusal::Malformed => "the message is no action of this version, or a malformed one",
        Refusal::Unauthorised => "not allowed; ask the administrator of this node",
        Refusal::Quota => "your quota is used up; destroy a virtual machine first",
        Refusal::InUse => {
            "the virtual machine's state does not allow it, its name is taken, or an element is bound to another one; see gose vm list"
        }
        Refusal::Unknown => "there is no such thing",
        Refusal::TestGrid => {
            "faults are for test grids: software elements of a node with [node] test-grid = true"
        }
        Refusal::Failed => "the node could not do it; its log says why",
    };
    Answer::Refused {
        reason,
        text: text.to_owned(),
    }
}

impl Handler for AdminHandler {
    fn serve(&self, connection: Connection) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let peer = connection.peer.clone();
            if let Err(error) = self.converse(connection).await {
                tracing::warn!(peer = %peer, %error, "management session broke");
            }
        })
    }
}

/// The JSON of the next action; `None` at the end.
async fn read(stream: &mut BoxedStream) -> Result<Option<Vec<u8>>, admin::AdminError> {
    let mut field = [0; 4];
    match stream.read_exact(&mut field).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut json = vec![0; admin::message_len(field)?];
    stream.read_exact(&mut json).await?;
    Ok(Some(json))
}
