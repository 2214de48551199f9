//! The storage application, the paper's user plane (trusted computing and secure storage): secret keys that never
//! leave the element in clear, and data objects. docs/protocol.md has its commands byte by byte.
//!
//! It has PIV's PIN for its user and PIV's management key for its administrator.

mod command;
mod keys;
mod objects;

use gose_element::drive::storage::AID;
use gose_proto::apdu::{Command, Response, StatusWord, tlv};

use self::command::{StorageCommand, Verify};
use super::{
    Applet, Next,
    piv::{PIN, management::Management},
};
use crate::{
    card::Env,
    pin::{self, PinVerified},
    random::Random,
};

/// Bytes of a label.
const LABEL: usize = 32;

/// Keys, objects and their bytes that a card may hold; the answer to SELECT tells them. What a card holds already stays
/// when they become less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Secret keys; at most [`Quotas::MOST`]'s, which have references.
    pub keys: usize,
    /// Data objects.
    pub objects: usize,
    /// Bytes of one object.
    pub object_bytes: usize,
    /// Bytes of all objects, labels included.
    pub bytes: usize,
}

impl Quotas {
    /// What the application can serve at most: references, and an object in a chain of commands.
    pub const MOST: Self = Self {
        keys: 127,
        objects: 256,
        object_bytes: 15_360,
        bytes: 256 * (15_360 + 3 + LABEL),
    };
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            keys: 64,
            objects: 64,
            object_bytes: 15_360,
            bytes: 65_536,
        }
    }
}

/// The storage application.
#[derive(Debug)]
pub struct StorageApplet {
    random: Random,
    quotas: Quotas,
    state: Security,
    /// Encryptions that the counter in memory still covers, by key.
    covered: std::collections::HashMap<u8, u16>,
}

/// What the host has proven and chosen since the application was selected.
#[derive(Debug, Default)]
struct Security {
    pin: Option<PinVerified>,
    management: Management,
    /// MANAGE SECURITY ENVIRONMENT: the key, and what is authenticated with the next cryptogram.
    key: Option<u8>,
    associated: Vec<u8>,
}

impl StorageApplet {
    /// The application, drawing nonces and challenges from `random`, with the usual quotas.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self::within(Quotas::default(), random)
    }

    /// The application with these quotas.
    #[must_use]
    pub fn within(quotas: Quotas, random: Random) -> Self {
        Self {
            random,
            quotas,
            state: Security::default(),
            covered: std::collections::HashMap::new(),
        }
    }

    fn execute(
        &mut self,
        command: StorageCommand<'_>,
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        match command {
            StorageCommand::Verify(verify) => self.verify(verify, env),
            StorageCommand::AuthenticateManagement { algorithm, step } => {
                let management = &mut self.state.management;
                management.authenticate(algorithm, step, &self.random, env)
            }
            StorageCommand::GetChallenge(len) => self.challenge(len),
            StorageCommand::Generate(new) => {
                self.state.management.allows(env.nvm)?;
                keys::generate(&new, &self.quotas, env)
            }
            StorageCommand::Import { new, key } => {
                self.state.management.allows(env.nvm)?;
                keys::import(&new, key, &self.quotas, env)
            }
            StorageCommand::DeleteKey(reference) => {
                self.state.management.allows(env.nvm)?;
                self.covered.remove(&reference);
                keys::delete(reference, env)
            }
            StorageCommand::Keys => self.list(env, keys::list),
            StorageCommand::SetKey {
                reference,
                associated,
            } => {
                keys::check(reference.key, reference.template, env)?;
                self.state.key = Some(reference.key);
                self.state.associated = associated.to_vec();
                Ok(StatusWord::NORMAL.into())
            }
            StorageCommand::Operation(operation) => {
                self.state.user()?;
                self.operate(operation, env)
            }
            StorageCommand::Objects => self.list(env, objects::list),
            StorageCommand::Create(new) => {
                self.state.user_or_administrator(env)?;
                objects::create(&new, &self.quotas, env)
            }
            StorageCommand::Get(id) => objects::get(id, &self.state, env),
            StorageCommand::Put { id, content } => {
                objects::put(id, content, &self.state, &self.quotas, env)
            }
            StorageCommand::Delete(id) => objects::delete(id, &self.state, env),
        }
    }

    fn verify(&mut self, verify: Verify, env: &mut Env<'_>) -> Result<Next, StatusWord> {
        match verify {
            Verify::Status => Ok(match (&self.state.pin, PIN.tries(env.nvm)) {
                (Some(_), _) => StatusWord::NORMAL,
                (None, None) => StatusWord::REFERENCE_DATA_NOT_USABLE,
                (None, Some(0)) => StatusWord::AUTHENTICATION_METHOD_BLOCKED,
                (None, Some(tries)) => StatusWord::tries_left(tries),
            }
            .into()),
            Verify::LogOut => {
                self.state.pin = None;
                Ok(StatusWord::NORMAL.into())
            }
            Verify::Compare(digits) => {
                self.state.pin = None;
                PIN.attempt(env.nvm, &digits, 0).map(Next::ComparePin)
            }
        }
    }

    fn challenge(&self, len: usize) -> Result<Next, StatusWord> {
        let bytes: [u8; 256] = self
            .random
            .bytes()
            .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
        Ok(Response::ok(bytes.get(..len).unwrap_or(&bytes)).into())
    }

    fn list(
        &self,
        env: &Env<'_>,
        list: impl FnOnce(&Env<'_>) -> Result<Vec<u8>, StatusWord>,
    ) -> Result<Next, StatusWord> {
        self.state.user_or_administrator(env)?;
        Ok(Response::ok(list(env)?).into())
    }
}

impl Security {
    fn user(&self) -> Result<(), StatusWord> {
        match &self.pin {
            Some(_) => Ok(()),
            None => Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED),
        }
    }

    fn user_or_administrator(&self, env: &Env<'_>) -> Result<(), StatusWord> {
        if self.management.allows(env.nvm).is_ok() {
            return Ok(());
        }
        self.user()
    }
}

impl Applet for StorageApplet {
    fn aid(&self) -> &[u8] {
        &AID
    }

    fn select(&mut self, _env: &mut Env<'_>) -> Response {
        self.state = Security::default();
        Response::ok(file_control_information(&self.quotas))
    }

    fn deselect(&mut self) {
        self.state = Security::default();
    }

    fn process(&mut self, command: &Command, env: &mut Env<'_>) -> Next {
        StorageCommand::try_from(command)
            .and_then(|command| self.execute(command, env))
            .unwrap_or_else(Next::from)
    }

    fn resume(&mut self, attempt: pin::Attempt, env: &mut Env<'_>) -> Next {
        match attempt.compare(env.nvm) {
            Ok(verified) => {
                self.state.pin = Some(verified);
                StatusWord::NORMAL.into()
            }
            Err(mismatch) => StatusWord::tries_left(mismatch.tries).into(),
        }
    }

    fn rolled_back(&mut self, _env: &mut Env<'_>) {
        self.state = Security::default();
        self.covered.clear();
    }

    fn answers_without_le(&self) -> bool {
        true
    }
}

/// The answer to SELECT: name, version of the command table, quotas.
fn file_control_information(quotas: &Quotas) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
    let mut own = tlv::object(0x80, &[0x01]);
    tlv::write(&mut own, 0x81, &number(quotas.keys));
    tlv::write(&mut own, 0x82, &number(quotas.objects));
    tlv::write(&mut own, 0x83, &number(quotas.object_bytes));
    tlv::write(&mut own, 0x84, &number(quotas.bytes));
    let mut template = tlv::object(0x84, &AID);
    tlv::write(&mut template, 0xA5, &own);
    tlv::object(0x6F, &template)
}
