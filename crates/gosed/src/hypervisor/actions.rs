//! Actions on virtual machines: authorised, then executed; default deny.

use std::sync::Arc;

use super::{
    journal::Record,
    middleware::{Creator, Listed, Middleware, MiddlewareError, Start},
    policy::{self, Wish},
    pool::PoolError,
};
use crate::{
    admin::{Denied, denied},
    clock::Clock,
    config::{self, Name},
    grid::Names,
};
use gose_client::admin::{Action, Answer, Refusal, Vm, VmCreate};
use gose_element::Seid;
use gose_proto::{hex, identity::VmId};

/// Arguments that a creator may add, and characters of each.
const ARGUMENTS: (usize, usize) = (16, 256);

/// Elements that one virtual machine may have.
const ELEMENTS: usize = 16;

/// Characters of a name.
const NAME: usize = 64;

/// Memory that a virtual machine may be asked for, MiB: 4 TiB; and processors.
const LARGEST: (u32, u32) = (4 << 20, 512);

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
    Create(Box<Start>),
    On(Verb, VmId),
    Admit(VmId, Vec<u8>),
    List(Creator),
}

/// What is done with a machine that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Show,
    Destroy,
    Stop,
    Start,
    Pause,
    Resume,
}

fn authorise(
    middleware: &Middleware,
    names: &Names,
    action: &Action,
) -> Result<Authorised, Denied> {
    let config = middleware.config();
    let user = match names {
        Names::Operator => None,
        names => match policy::creator(&config, names) {
            Some(user) => Some(user),
            None => return denied(Refusal::Unauthorised, "not among [[hypervisor.creator]]"),
        },
    };
    let caller = Caller { names, user };
    let on = |verb, which: &str| authorise_on(middleware, &config, &caller, verb, which);
    match action {
        Action::VmCreate(create) => authorise_create(middleware, &config, &caller, create),
        Action::VmShow { uuid } => on(Verb::Show, uuid),
        Action::VmDestroy { uuid } => on(Verb::Destroy, uuid),
        Action::VmStop { uuid } => on(Verb::Stop, uuid),
        Action::VmStart { uuid } => on(Verb::Start, uuid),
        Action::VmPause { uuid } => on(Verb::Pause, uuid),
        Action::VmResume { uuid } => on(Verb::Resume, uuid),
        Action::VmList => Ok(Authorised::List(caller.creator())),
        Action::VmAdmit { uuid, ticket } => match (&caller.user, uuid.parse(), hex::decode(ticket))
        {
            (None, Ok(vm), Ok(ticket)) => Ok(Authorised::Admit(vm, ticket)),
            (None, ..) => denied(Refusal::Malformed, "a UUID and a ticket in hexadecimal"),
            (Some(_), ..) => denied(Refusal::Unauthorised, "the gate asks on the admin socket"),
        },
        Action::ElementUse { .. }
        | Action::ElementInfo { .. }
        | Action::ElementFault { .. }
        | Action::Generations { .. }
        | Action::EapRevoke { .. }
        | Action::EapReinstate { .. }
        | Action::EapRevoked => denied(Refusal::Unknown, "not an action on virtual machines"),
    }
}

/// Who asks: the operator, or a user who may create.
struct Caller<'a> {
    names: &'a Names,
    user: Option<Name>,
}

impl Caller<'_> {
    fn creator(&self) -> Creator {
        self.user.clone().map_or(Creator::Operator, Creator::User)
    }

    /// Whether a machine is one of theirs.
    fn owns(&self, listed: &Listed) -> bool {
        match (&self.user, &listed.creator) {
            (None, _) => true,
            (Some(_), Creator::User(creator)) => self.names.is(creator),
            (Some(_), Creator::Operator) => false,
        }
    }
}

/// One's own machine, by its UUID or its name. Another's is not told from one that is not there.
fn authorise_on(
    middleware: &Middleware,
    config: &config::Hypervisor,
    caller: &Caller<'_>,
    verb: Verb,
    which: &str,
) -> Result<Authorised, Denied> {
    let vm: Option<VmId> = which.parse().ok();
    let listed = middleware.list();
    let is =
        |listed: &&Listed| Some(listed.vm) == vm || listed.record.name.as_deref() == Some(which);
    let found = match listed.iter().find(is) {
        Some(found) if caller.owns(found) => found,
        Some(_) => return denied(Refusal::Unknown, "the virtual machine is another user's"),
        None => return denied(Refusal::Unknown, "no such virtual machine"),
    };
    if verb == Verb::Start && caller.user.is_some() {
        // What was allowed when it was created may not be now.
        let Record {
            image,
            kernel,
            pool,
            memory_mib,
            vcpus,
            ..
        } = &found.record;
        let own = match pool {
            Some(_) => found.seids.get(1..).unwrap_or_default(),
            None => &found.seids,
        };
        let wish = Wish {
            hypervisor: &middleware.hypervisor(),
            image,
            kernel: kernel.as_ref().map(|kernel| kernel.0),
            seids: own,
            pool: pool.as_deref(),
            memory_mib: *memory_mib,
            vcpus: *vcpus,
            now: Clock::seconds(),
        };
        policy::decide(config, caller.names, &wish).map_err(unauthorised)?;
    }
    Ok(Authorised::On(verb, found.vm))
}

fn unauthorised(cause: String) -> Denied {
    Denied {
        reason: Refusal::Unauthorised,
        cause,
    }
}

fn authorise_create(
    middleware: &Middleware,
    config: &config::Hypervisor,
    caller: &Caller<'_>,
    create: &VmCreate,
) -> Result<Authorised, Denied> {
    let Some(image) = config
        .images
        .iter()
        .find(|image| image.name == create.image)
    else {
        return denied(Refusal::Unknown, format!("no image \"{}\"", create.image));
    };
    let command = command(image, create)?;
    let seids = elements(create)?;
    if let Some(name) = &create.name
        && !is_name(name)
    {
        return denied(
            Refusal::Malformed,
            "a name has 1 to 64 of A-Z a-z 0-9 . _ - and is no UUID",
        );
    }
    let memory_mib = create.memory_mib.unwrap_or(Start::MEMORY);
    let vcpus = create.vcpus.unwrap_or(1);
    if !(1..=LARGEST.0).contains(&memory_mib) || !(1..=LARGEST.1).contains(&vcpus) {
        return denied(Refusal::Malformed, "no such size");
    }
    if caller.user.is_some() && create.uuid.is_some() {
        return denied(Refusal::Unauthorised, "only the operator chooses a UUID");
    }
    let [kernel, ramdisk] =
        crate::long_step(|| middleware.measure(image)).map_err(|error| Denied {
            reason: Refusal::Failed,
            cause: error.to_string(),
        })?;
    let mut start = Start {
        name: create.name.clone(),
        pool: create.pool.clone(),
        kernel,
        ramdisk,
        memory_mib,
        vcpus,
        keep: create.keep,
        creator: caller.creator(),
        ..Start::of(uuid(create)?, &image.name, command)
    };
    if caller.user.is_some() {
        let wish = Wish {
            hypervisor: &middleware.hypervisor(),
            image: &image.name,
            kernel,
            seids: &seids,
            pool: create.pool.as_deref(),
            memory_mib,
            vcpus,
            now: Clock::seconds(),
        };
        let allowed = policy::decide(config, caller.names, &wish).map_err(unauthorised)?;
        start.creator = Creator::User(allowed.creator);
        start.quota = Some(allowed.quota);
    }
    start.seids = seids;
    Ok(Authorised::Create(Box::new(start)))
}

fn elements(create: &VmCreate) -> Result<Vec<Seid>, Denied> {
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
    Ok(seids)
}

fn uuid(create: &VmCreate) -> Result<VmId, Denied> {
    match &create.uuid {
        Some(text) => text.parse().map_err(|_| Denied {
            reason: Refusal::Malformed,
            cause: format!("\"{text}\" is no UUID"),
        }),
        None => new_uuid(),
    }
}

/// Names end up in files of other programs: nothing that means anything there.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && name.len() <= NAME && name.bytes().all(fits) && name.parse::<VmId>().is_err()
}

fn command(image: &config::Image, create: &VmCreate) -> Result<Vec<String>, Denied> {
    let (count, length) = ARGUMENTS;
    let fits = |argument: &String| argument.len() <= length && !argument.contains('\0');
    if create.arguments.len() > count || !create.arguments.iter().all(fits) {
        return denied(Refusal::Malformed, "too many or too long arguments");
    }
    if !create.arguments.is_empty() && !image.takes_arguments {
        return denied(Refusal::Unauthorised, "the image takes no arguments");
    }
    let arguments = create.arguments.iter();
    Ok(image.command.iter().chain(arguments).cloned().collect())
}

fn execute(middleware: &Arc<Middleware>, action: Authorised) -> Result<Answer, Denied> {
    let answer = match action {
        Authorised::Create(start) => crate::long_step(|| middleware.create(*start))
            .map(|listed| Answer::Created(vm(&listed))),
        Authorised::On(verb, which) => crate::long_step(|| {
            match verb {
                Verb::Show => middleware.show(which).ok_or(MiddlewareError::Unknown),
                Verb::Destroy => return middleware.destroy(which).map(|()| Answer::Destroyed),
                Verb::Stop => middleware.stop_machine(which),
                Verb::Start => middleware.start(which),
                Verb::Pause => middleware.pause(which),
                Verb::Resume => middleware.resume(which),
            }
            .map(|listed| Answer::Vm(vm(&listed)))
        }),
        Authorised::Admit(which, ticket) => {
            middleware.admit(which, &ticket).map(|()| Answer::Admitted)
        }
        Authorised::List(creator) => {
            let mut machines = middleware.list();
            machines.retain(|listed| creator == Creator::Operator || listed.creator == creator);
            let vms = machines.iter().map(vm).collect();
            Ok(Answer::Vms { vms })
        }
    };
    answer.map_err(|error| Denied {
        reason: reason(&error),
        cause: error.to_string(),
    })
}

fn reason(error: &MiddlewareError) -> Refusal {
    match error {
        MiddlewareError::Running
        | MiddlewareError::Bound(_)
        | MiddlewareError::Name(_)
        | MiddlewareError::Stopped
        | MiddlewareError::Pool(PoolError::Empty(_)) => Refusal::InUse,
        MiddlewareError::Quota(_) => Refusal::Quota,
        MiddlewareError::Unknown | MiddlewareError::Pool(PoolError::Unknown(_)) => Refusal::Unknown,
        MiddlewareError::Gate(_) => Refusal::Unauthorised,
        _ => Refusal::Failed,
    }
}

fn vm(listed: &Listed) -> Vm {
    let record = &listed.record;
    Vm {
        uuid: listed.vm.to_string(),
        name: record.name.clone(),
        generation: listed.generation,
        id: listed.id.clone(),
        seid: listed.seids.iter().map(ToString::to_string).collect(),
        state: record.state.to_string(),
        image: record.image.clone(),
        kernel: record.kernel.as_ref().map(|hash| hash.to_string()),
        ramdisk: record.ramdisk.as_ref().map(|hash| hash.to_string()),
        pool: record.pool.clone(),
        creator: record.creator.as_ref().map(|creator| creator.to_string()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machines() {
        let check = |name: &str, expected| assert_eq!(is_name(name), expected, "{name}");
        check("web-1", true);
        check("Web_1.example", true);
        check(&"a".repeat(64), true);
        check(&"a".repeat(65), false);
        for wrong in [
            "",
            "-f",
            ".x",
            "a b",
            "a/b",
            "a\"b",
            "ä",
            "00000000-0000-4000-8000-00000000000a",
        ] {
            check(wrong, false);
        }
    }
}
