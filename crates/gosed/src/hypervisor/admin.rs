//! `gose-admin/1`: actions are parsed, authorised, executed, answered; in this order, default deny.

use std::{pin::Pin, sync::Arc};

use gose_client::admin::{self, Action, Answer, Refusal, Vm, VmCreate};
use gose_element::Seid;
use gose_proto::identity::VmId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::middleware::{Creator, Listed, Middleware, MiddlewareError, Start};
use crate::{
    config::{self, Seids},
    grid::{Names, Peer},
    listen::{BoxedStream, Connection, Handler},
};

/// Arguments that a creator may add, and characters of each.
const ARGUMENTS: (usize, usize) = (16, 256);

/// Elements that one virtual machine may have.
const ELEMENTS: usize = 16;

/// Serves `gose-admin/1` with the hypervisor's actions.
pub struct AdminHandler(Arc<Middleware>);

impl AdminHandler {
    /// For this hypervisor.
    #[must_use]
    pub fn new(middleware: Arc<Middleware>) -> Self {
        Self(middleware)
    }

    async fn converse(&self, mut connection: Connection) -> Result<(), admin::AdminError> {
        let idle = std::time::Duration::from_secs(60);
        loop {
            let action = tokio::select! {
                biased;
                () = connection.stop.stopped() => return Ok(()),
                eviction = connection.peer.evictions.wait() => {
                    tracing::info!(peer = %connection.peer, ?eviction, "management session ends");
                    return Ok(());
                }
                action = timeout(idle, read(&mut connection.stream)) => match action {
                    Ok(Ok(Some(action))) => action,
                    Ok(Ok(None)) | Err(_) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                },
            };
            let answer = self.answer(&connection.peer, &action);
            let frame = admin::encode(&answer)?;
            let sent = connection.stream.write_all(&frame);
            timeout(idle, sent).await.map_err(std::io::Error::from)??;
            timeout(idle, connection.stream.flush())
                .await
                .map_err(std::io::Error::from)??;
        }
    }

    /// The audit of the management plane: who asked for what, and what came of it.
    fn answer(&self, peer: &Peer, json: &[u8]) -> Answer {
        let Ok(action) = serde_json::from_slice::<Action>(json) else {
            tracing::warn!(peer = %peer, "management: not an action");
            return refused(
                Refusal::Malformed,
                "the message is no action of this version",
            );
        };
        let done = authorise(&self.0, &peer.names, &action)
            .and_then(|authorised| execute(&self.0, authorised));
        match done {
            Ok(answer) => {
                tracing::info!(peer = %peer, ?action, "management: done");
                answer
            }
            Err(Denied { reason, cause }) => {
                tracing::warn!(peer = %peer, ?action, reason = cause, "management: refused");
                refused(reason, sentence(reason))
            }
        }
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

/// An action that policy allows; only [`authorise`] makes one.
enum Authorised {
    Create(Start),
    Destroy(VmId),
    List(Creator),
}

/// Why an action is refused: what the caller is told, and what the log is told.
struct Denied {
    reason: Refusal,
    cause: String,
}

fn denied<T>(reason: Refusal, cause: impl Into<String>) -> Result<T, Denied> {
    let cause = cause.into();
    Err(Denied { reason, cause })
}

fn authorise(
    middleware: &Middleware,
    names: &Names,
    action: &Action,
) -> Result<Authorised, Denied> {
    let caller = caller(middleware.config(), names);
    let creator = match &caller {
        Caller::Operator => Creator::Operator,
        Caller::User(user) => Creator::User(user.user.0.clone()),
        Caller::Nobody => {
            return denied(Refusal::Unauthorised, "not among [[hypervisor.creator]]");
        }
    };
    match action {
        Action::VmCreate(create) => authorise_create(middleware, &caller, creator, create),
        Action::VmDestroy { uuid } => {
            let vm = uuid.parse().ok();
            let listed = middleware.list();
            let found = listed.iter().find(|listed| Some(listed.vm) == vm);
            match found {
                Some(found) if creator == Creator::Operator || found.creator == creator => {
                    Ok(Authorised::Destroy(found.vm))
                }
                Some(_) => denied(Refusal::Unknown, "the virtual machine is another user's"),
                None => denied(Refusal::Unknown, "no such virtual machine"),
            }
        }
        Action::VmList => Ok(Authorised::List(creator)),
    }
}

enum Caller<'a> {
    Operator,
    User(&'a config::Creator),
    Nobody,
}

fn caller<'a>(role: &'a config::Hypervisor, names: &Names) -> Caller<'a> {
    if *names == Names::Operator {
        return Caller::Operator;
    }
    let found = role.creators.iter().find(|creator| names.is(&creator.user));
    found.map_or(Caller::Nobody, Caller::User)
}

fn authorise_create(
    middleware: &Middleware,
    caller: &Caller<'_>,
    creator: Creator,
    create: &VmCreate,
) -> Result<Authorised, Denied> {
    let mut command = command(middleware.config(), create)?;
    command.extend(create.arguments.iter().cloned());
    let mut seids = Vec::new();
    for text in &create.seid {
        let Ok(seid) = text.parse::<Seid>() else {
            return denied(Refusal::Unauthorised, format!("\"{text}\" is no SEID"));
        };
        seids.push(seid);
    }
    if seids.len() > ELEMENTS {
        return denied(Refusal::Malformed, "too many elements");
    }
    if let Caller::User(user) = caller {
        within_rights(user, &seids)?;
        if create.uuid.is_some() {
            return denied(Refusal::Unauthorised, "only the operator chooses a UUID");
        }
    }
    let vm = match &create.uuid {
        Some(text) => text.parse().map_err(|_| Denied {
            reason: Refusal::Malformed,
            cause: format!("\"{text}\" is no UUID"),
        })?,
        None => new_uuid()?,
    };
    Ok(Authorised::Create(Start {
        vm,
        seids,
        command,
        creator,
        quota: match caller {
            Caller::User(user) => Some(user.quota),
            Caller::Operator | Caller::Nobody => None,
        },
    }))
}

fn command(role: &config::Hypervisor, create: &VmCreate) -> Result<Vec<String>, Denied> {
    let Some(image) = role.images.iter().find(|image| image.name == create.image) else {
        return denied(Refusal::Unknown, format!("no image \"{}\"", create.image));
    };
    let (count, length) = ARGUMENTS;
    let fits = |argument: &String| argument.len() <= length && !argument.contains('\0');
    if create.arguments.len() > count || !create.arguments.iter().all(fits) {
        return denied(Refusal::Malformed, "too many or too long arguments");
    }
    if !create.arguments.is_empty() && !image.takes_arguments {
        return denied(Refusal::Unauthorised, "the image takes no arguments");
    }
    Ok(image.command.clone())
}

fn within_rights(user: &config::Creator, seids: &[Seid]) -> Result<(), Denied> {
    let may = |seid: &Seid| {
        user.seid.iter().any(|granted| match &granted.0 {
            Seids::All => true,
            Seids::One(granted) => granted == seid,
        })
    };
    if let Some(seid) = seids.iter().find(|seid| !may(seid)) {
        return denied(
            Refusal::Unauthorised,
            format!("may not bind element {seid}"),
        );
    }
    Ok(())
}

fn execute(middleware: &Arc<Middleware>, action: Authorised) -> Result<Answer, Denied> {
    match action {
        Authorised::Create(start) => {
            let created = crate::long_step(|| middleware.create(start));
            created
                .map(|listed| Answer::Created(vm(listed)))
                .map_err(|error| Denied {
                    reason: match error {
                        MiddlewareError::Running | MiddlewareError::Bound(_) => Refusal::InUse,
                        MiddlewareError::Quota(_) => Refusal::Quota,
                        _ => Refusal::Failed,
                    },
                    cause: error.to_string(),
                })
        }
        Authorised::Destroy(vm) => match middleware.destroy(vm) {
            true => Ok(Answer::Destroyed),
            false => denied(Refusal::Unknown, "it ended meanwhile"),
        },
        Authorised::List(creator) => {
            let mut running = middleware.list();
            running.retain(|listed| creator == Creator::Operator || listed.creator == creator);
            let vms = running.into_iter().map(vm).collect();
            Ok(Answer::Vms { vms })
        }
    }
}

fn vm(listed: Listed) -> Vm {
    Vm {
        uuid: listed.vm.to_string(),
        generation: listed.generation,
        id: listed.id,
        seid: listed.seids.iter().map(ToString::to_string).collect(),
    }
}

fn refused(reason: Refusal, text: &str) -> Answer {
    Answer::Refused {
        reason,
        text: text.to_owned(),
    }
}

/// Callers get a fixed sentence; the log has the cause.
const fn sentence(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Malformed => "the action is malformed",
        Refusal::Unauthorised => "not allowed; ask the administrator of this hypervisor",
        Refusal::Quota => "your quota is used up; destroy a virtual machine first",
        Refusal::InUse => "the virtual machine runs, or an element is bound to another one",
        Refusal::Unknown => "there is no such thing",
        Refusal::Failed => "the node could not do it; its log says why",
    }
}

/// A random UUID (RFC 9562, 5.4).
fn new_uuid() -> Result<VmId, Denied> {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return denied(Refusal::Failed, "no random numbers");
    }
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    Ok(VmId(bytes))
}
