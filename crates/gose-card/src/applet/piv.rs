//! The PIV card application (NIST SP 800-73-4, part 2).

mod attestation;
pub(super) mod command;
mod import;
pub(super) mod key;
pub(super) mod management;
mod metadata;
mod objects;
mod reference;

use gose_element::drive::piv::AID;
use gose_proto::apdu::{Command, Response, StatusWord, tlv};

use self::{command::PivCommand, management::Management};
use super::{Applet, Next};
use crate::{
    card::Env,
    pin::{self, PinVerified},
    random::Random,
};

pub use self::{
    objects::{CARD_CAPABILITY_CONTAINER, object_name},
    reference::{PIN, PUK},
};

/// Algorithms in the answer to SELECT: RSA-2048, P-256, P-384, RSA-3072.
const ALGORITHMS: [u8; 15] = [
    0x80, 0x01, 0x07, 0x80, 0x01, 0x11, 0x80, 0x01, 0x14, 0x80, 0x01, 0x05, 0x06, 0x01, 0x00,
];

/// PIV with the keys of the card's [`crate::keyring::Keyring`].
#[derive(Debug)]
pub struct PivApplet {
    random: Random,
    state: Security,
}

/// What the host has proven since the application was selected.
#[derive(Debug, Default)]
struct Security {
    pin: Option<PinVerified>,
    /// The last command was a successful VERIFY: what a key with PIN ALWAYS asks for.
    pin_fresh: bool,
    management: Management,
}

impl PivApplet {
    /// The application, drawing its challenges from `random`.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            random,
            state: Security::default(),
        }
    }

    fn execute(&mut self, command: PivCommand<'_>, env: &mut Env<'_>) -> Result<Next, StatusWord> {
        let fresh = std::mem::take(&mut self.state.pin_fresh);
        match command {
            PivCommand::GetData(tag) => self.get_data(tag, env),
            PivCommand::Verify(verify) => {
                self.state.pin_fresh = fresh;
                self.verify(verify, env)
            }
            PivCommand::ChangeReferenceData { which, old, new } => {
                reference::change(which, &old, &new, env)
            }
            PivCommand::ResetRetryCounter { puk, new } => reference::reset(&puk, &new, env),
            PivCommand::GeneralAuthenticate {
                slot,
                algorithm,
                operation,
            } => self.compute(slot, algorithm, operation, fresh, env),
            PivCommand::AuthenticateManagement { algorithm, step } => {
                let management = &mut self.state.management;
                management.authenticate(algorithm, step, &self.random, env)
            }
            PivCommand::PutData { tag, content } => {
                self.state.management.allows(env.nvm)?;
                objects::put(tag, content, env)
            }
            PivCommand::Generate { slot, algorithm } => {
                self.state.management.allows(env.nvm)?;
                key::generate(slot, algorithm, env)
            }
            PivCommand::GenerateAttestationKey(algorithm) => {
                self.state.management.allows(env.nvm)?;
                attestation::generate(algorithm, &self.random, env)
            }
            PivCommand::Attest(slot) => attestation::attest(slot, &self.random, env),
            PivCommand::GetMetadata(reference) => metadata::get(reference, env),
            PivCommand::GetSerial => metadata::serial(env),
            PivCommand::GetVersion => Ok(Response::ok(metadata::VERSION.to_vec()).into()),
            PivCommand::Import {
                slot,
                algorithm,
                numbers,
            } => {
                self.state.management.allows(env.nvm)?;
                import::import(slot, algorithm, &numbers, env)
            }
            PivCommand::SetManagementKey(key) => self.state.management.set_key(&key, env),
        }
    }

    fn get_data(&self, tag: u32, env: &Env<'_>) -> Result<Next, StatusWord> {
        if objects::needs_pin(tag) && self.state.pin.is_none() {
            return Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED);
        }
        objects::get(tag, env)
    }
}

impl Applet for PivApplet {
    fn aid(&self) -> &[u8] {
        &AID
    }

    fn select(&mut self, _env: &mut Env<'_>) -> Response {
        self.state = Security::default();
        Response::ok(application_property_template())
    }

    fn deselect(&mut self) {
        self.state = Security::default();
    }

    fn process(&mut self, command: &Command, env: &mut Env<'_>) -> Next {
        let executed = PivCommand::try_from(command)
            .inspect_err(|_| self.state.pin_fresh = false)
            .and_then(|command| self.execute(command, env));
        executed.unwrap_or_else(Next::from)
    }

    fn resume(&mut self, attempt: pin::Attempt, env: &mut Env<'_>) -> Next {
        self.compared(&attempt, env).into()
    }

    fn rolled_back(&mut self, _env: &mut Env<'_>) {
        self.state = Security::default();
    }

    fn answers_without_le(&self) -> bool {
        true
    }
}

/// The answer to SELECT (part 2, table 3).
fn application_property_template() -> Vec<u8> {
    let mut template = tlv::object(0x4F, &[0x00, 0x00, 0x10, 0x00, 0x01, 0x00]);
    tlv::write(&mut template, 0x79, &tlv::object(0x4F, &AID[..5]));
    tlv::write(&mut template, 0x50, b"GoSE virtual PIV");
    tlv::write(&mut template, 0xAC, &ALGORITHMS);
    tlv::object(0x61, &template)
}

#[cfg(test)]
mod tests {
    use gose_proto::hex;

    use super::*;

    #[test]
    fn answer_to_select() {
        let expected = format!(
            "61344F0600001000010079074F05A0000003085010{}AC0F800107800111800114800105060100",
            hex::encode(b"GoSE virtual PIV")
        );
        assert_eq!(hex::encode(&application_property_template()), expected);
    }
}
