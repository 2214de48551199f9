//! Actions on virtual machines: authorised, then executed; default deny.

use std::sync::Arc;

use super::middleware::{Creator, Listed, Middleware, MiddlewareError, Start};
use crate::{
    admin::{Denied, denied},
    config::{self, Seids},
    grid::Names,
};
use gose_client::admin::{Action, Answer, Refusal, Vm, VmCreate};
use gose_element::Seid;
use gose_proto::identity::VmId;

/// Arguments that a creator may add, and characters of each.
const ARGUMENTS: (usize, usize) = (16, 256);

/// Elements that one virtual machine may have.
const ELEMENTS: usize = 16;

/// Authorises and executes an action on virtual machines.
pub(crate) fn perform(
    middleware: &Arc<Middleware>,
    names: &Names,
    action: &Action,
) -> Result<Answer, Denied> {
    authorise(middleware, names, action).and_then(|authorised| execute(middleware, authorised))
}

/// An action that policy allows; only [`authorise`] makes one.
enum Authorised {
    Create(Start),
    Destroy(VmId),
    List(Creator),
}

fn authorise(
    middleware: &Middleware,
    names: &Names,
    action: &Action,
) -> Result<Authorised, Denied> {
    let config = middleware.config();
    let caller = caller(&config, names);
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
        Action::ElementUse { .. }
        | Action::ElementInfo { .. }
        | Action::ElementFault { .. }
        | Action::Generations { .. }
        | Action::EapRevoke { .. } => denied(Refusal::Unknown, "not an action on virtual machines"),
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
    let mut command = command(&middleware.config(), create)?;
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
