//! Data objects, 0100 to 01FF (ISO/IEC 7816-4: application data of proprietary coding).
//!
//! A record is `read (1) ‖ write (1) ‖ length of the label (1) ‖ label ‖ content`.

use gose_proto::apdu::{Response, StatusWord, tlv};

use super::{
    Next, Quotas, Security,
    command::{Access, NewObject},
};
use crate::{card::Env, nvm::Nvm};

const PREFIX: &str = "storage/object/";

struct Object<'a> {
    read: Access,
    write: Access,
    label: &'a [u8],
    content: &'a [u8],
}

pub(super) fn create(
    new: &NewObject<'_>,
    quotas: &Quotas,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let name = name(new.id);
    if env.nvm.get(&name).is_some() {
        return Err(StatusWord::FILE_ALREADY_EXISTS);
    }
    if env.nvm.names(PREFIX).len() >= quotas.objects {
        return Err(StatusWord::NOT_ENOUGH_MEMORY);
    }
    let object = Object {
        read: new.read,
        write: new.write,
        label: new.label,
        content: new.content,
    };
    store(name, object.record(quotas)?, quotas, env)
}

pub(super) fn get(id: u8, state: &Security, env: &Env<'_>) -> Result<Next, StatusWord> {
    let object = Object::find(id, env.nvm)?;
    permit(object.read, state, env)?;
    Ok(Response::ok(object.content).into())
}

pub(super) fn put(
    id: u8,
    content: &[u8],
    state: &Security,
    quotas: &Quotas,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let object = Object::find(id, env.nvm)?;
    permit(object.write, state, env)?;
    let record = Object { content, ..object }.record(quotas)?;
    store(name(id), record, quotas, env)
}

/// By who may write it, and by the administrator, who need not be able to read it.
pub(super) fn delete(id: u8, state: &Security, env: &mut Env<'_>) -> Result<Next, StatusWord> {
    let write = Object::find(id, env.nvm)?.write;
    if state.management.allows(env.nvm).is_err() {
        permit(write, state, env)?;
    }
    env.nvm.delete(name(id));
    Ok(StatusWord::NORMAL.into())
}

/// All objects: file control parameters each.
pub(super) fn list(env: &Env<'_>) -> Result<Vec<u8>, StatusWord> {
    let mut out = Vec::new();
    for name in env.nvm.names(PREFIX) {
        let Some(id) = name
            .strip_prefix(PREFIX)
            .and_then(|id| u8::from_str_radix(id, 16).ok())
        else {
            continue;
        };
        let object = Object::find(id, env.nvm)?;
        let size = u32::try_from(object.content.len()).unwrap_or(u32::MAX);
        let mut parameters = tlv::object(0x83, &[0x01, id]);
        tlv::write(&mut parameters, 0x80, &size.to_be_bytes());
        tlv::write(
            &mut parameters,
            0x86,
            &[object.read.id(), object.write.id()],
        );
        tlv::write(&mut parameters, 0x84, object.label);
        tlv::write(&mut out, 0x62, &parameters);
    }
    Ok(out)
}

impl<'a> Object<'a> {
    fn find(id: u8, nvm: &'a Nvm) -> Result<Self, StatusWord> {
        let record = nvm
            .get(&name(id))
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
        Self::parse(record).ok_or(StatusWord::NO_PRECISE_DIAGNOSIS)
    }

    fn parse(record: &'a [u8]) -> Option<Self> {
        let [read, write, length, rest @ ..] = record else {
            return None;
        };
        let (label, content) = rest.split_at_checked(usize::from(*length))?;
        Some(Self {
            read: Access::from_id(*read)?,
            write: Access::from_id(*write)?,
            label,
            content,
        })
    }

    fn record(&self, quotas: &Quotas) -> Result<Vec<u8>, StatusWord> {
        if self.content.len() > quotas.object_bytes {
            return Err(StatusWord::NOT_ENOUGH_MEMORY);
        }
        let length = u8::try_from(self.label.len()).unwrap_or(u8::MAX);
        let head = [self.read.id(), self.write.id(), length];
        Ok([&head, self.label, self.content].concat())
    }
}

fn permit(access: Access, state: &Security, env: &Env<'_>) -> Result<(), StatusWord> {
    match access {
        Access::Free => Ok(()),
        Access::Pin => state.user(),
        Access::Management => state.management.allows(env.nvm),
    }
}

/// Stages a record, where there is room for it in place of the one of its name.
fn store(
    name: String,
    record: Vec<u8>,
    quotas: &Quotas,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    let others = env.nvm.names(PREFIX).into_iter().filter(|n| *n != name);
    let used: usize = others
        .map(|name| env.nvm.get(&name).map_or(0, <[u8]>::len))
        .sum();
    if used + record.len() > quotas.bytes {
        return Err(StatusWord::NOT_ENOUGH_MEMORY);
    }
    env.nvm.put(name, record);
    Ok(StatusWord::NORMAL.into())
}

fn name(id: u8) -> String {
    format!("{PREFIX}{id:02x}")
}
