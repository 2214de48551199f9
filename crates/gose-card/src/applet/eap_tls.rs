//! The EAP-TLS application: an EAP peer or authenticator that does TLS itself
//! (draft-urien-eap-smartcard-25; RFC 3748, 5216, 9190).
//!
//! A command is parsed (`command`), authorised and executed here; EAP is in `conversation`, TLS in `engine`.

mod amsk;
mod clock;
mod command;
mod conversation;
mod credential;
mod engine;
mod exported;
pub mod host;
mod identity;
mod memory;
mod meter;
mod pins;
mod segmentation;
mod session;
mod sessions;
mod state;
mod traffic;
mod verifier;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use gose_element::{Algorithm, drive::eap_tls::AID};
use gose_proto::apdu::{Command, Response, StatusWord};

use self::{
    clock::Clock,
    command::{EapTlsCommand, Holder, Place, Target},
    conversation::{Conversation, Output},
    identity::Identity,
    pins::Compared,
    segmentation::Pieces,
    state::State,
};
use crate::{
    applet::{Applet, Next},
    card::Env,
    pin::{Attempt, PinVerified},
};

/// Engine and method version, as Get-Current-Version and exported parameter 7F tell them.
const VERSION: [u8; 2] = [0x01, 0x00];

/// Slots in which GENERATE makes keys: PIV's (NIST SP 800-73-4, part 1, table 4b).
fn is_slot(slot: u8) -> bool {
    matches!(slot, 0x9A | 0x9C | 0x9D | 0x9E | 0x82..=0x95)
}

/// The application.
#[derive(Default)]
pub struct EapTlsApplet {
    bearer: Option<PinVerified>,
    operator: Option<PinVerified>,
    /// By handle; 00 is the current identity.
    conversations: BTreeMap<u8, Conversation>,
    pieces: Pieces,
    /// Where Get-Next-Identity stands.
    next: usize,
    /// The label that Add-Identity appended last since the selection.
    added: Option<Vec<u8>>,
    clock: Arc<Clock>,
    /// Identities that were set before, with their sessions: these outlive power and RESET.
    identities: HashMap<Vec<u8>, Arc<Identity>>,
}

impl EapTlsApplet {
    /// The application of a card.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn forget(&mut self) {
        self.bearer = None;
        self.operator = None;
        self.conversations.clear();
        self.pieces.clear();
        self.next = 0;
        self.added = None;
    }

    fn execute(&mut self, command: EapTlsCommand, env: &mut Env<'_>) -> Result<Next, StatusWord> {
        use EapTlsCommand as C;
        Ok(match command {
            C::PinStatus(holder) => self.pin_status(holder, env).into(),
            C::Verify(..)
            | C::ChangePin { .. }
            | C::EnablePin(_)
            | C::DisablePin(_)
            | C::UnblockPin { .. } => Next::ComparePin(pins::attempt(command, env.nvm)?),
            C::SetIdentity(label) => self.set_identity(0, &label, env)?.into(),
            C::SetMultipleIdentity(label) => self.set_multiple_identity(&label, env)?.into(),
            C::NextIdentity => self.next_identity(env)?.into(),
            C::PreferredIdentity => preferred_identity(env)?.into(),
            C::AddIdentity(label) => {
                self.authorise_operator(env)?;
                memory::add(env.nvm, &label)?;
                self.added = Some(label);
                StatusWord::NORMAL.into()
            }
            C::DeleteIdentity(label) => self.delete_identity(&label, env)?.into(),
            C::CurrentIdentity { handle } => {
                Response::ok(self.conversation(handle)?.identity.label.clone()).into()
            }
            C::MethodVersion => Response::ok(VERSION).into(),
            C::State { handle } => Response::ok([self.state(handle) as u8]).into(),
            C::ResetState { handle } => {
                if let Some(conversation) = self.conversations.get_mut(&handle) {
                    conversation.reset();
                }
                StatusWord::NORMAL.into()
            }
            C::ProfileData { handle } => {
                self.authorise_bearer(env)?;
                Response::ok(exported::profile(&self.conversation(handle)?.identity)).into()
            }
            C::Process { more, target, data } => self.process_eap(more, target, &data, env)?.into(),
            C::ExportedParameter { index, .. } if index == exported::ENGINE_VERSION => {
                self.authorise_bearer(env)?;
                Response::ok(VERSION).into()
            }
            C::ExportedParameter { handle, index } => {
                self.authorise_bearer(env)?;
                Response::ok(exported::parameter(self.conversation(handle)?, index)?).into()
            }
            C::SessionKey { handle } => {
                self.authorise_bearer(env)?;
                Response::ok(session_key(self.conversation(handle)?)?).into()
            }
            C::Random(length) => {
                authorise_method_function(env)?;
                random(length)?.into()
            }
            C::Certificate { handle } => {
                authorise_method_function(env)?;
                self.authorise_bearer(env)?;
                Response::ok(self.conversation(handle)?.identity.credential.leaf()).into()
            }
            C::Generate { algorithm, place } => self.generate(algorithm, place, env)?.into(),
            C::Read { offset, length } => {
                self.authorise_reading(env)?;
                Response::ok(memory::read(env.nvm, offset, length)).into()
            }
            C::Write { offset, data } => {
                self.authorise_operator(env)?;
                self.forget_identities();
                memory::write(env.nvm, env.keys, offset, &data);
                StatusWord::NORMAL.into()
            }
        })
    }

    fn authorise_bearer(&self, env: &Env<'_>) -> Result<(), StatusWord> {
        if self.bearer.is_some() || pins::is_disabled(env.nvm) {
            Ok(())
        } else {
            Err(pins::needed(env.nvm, Holder::Bearer))
        }
    }

    fn authorise_reading(&self, env: &Env<'_>) -> Result<(), StatusWord> {
        match self.operator {
            Some(_) => Ok(()),
            None => Err(pins::needed(env.nvm, Holder::Operator)),
        }
    }

    /// Nothing is written while everybody knows the operator PIN.
    fn authorise_operator(&self, env: &Env<'_>) -> Result<(), StatusWord> {
        self.authorise_reading(env)?;
        if pins::operator_is_published(env.nvm) {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        Ok(())
    }

    fn pin_status(&self, holder: Holder, env: &Env<'_>) -> StatusWord {
        let verified = match holder {
            Holder::Bearer => self.authorise_bearer(env),
            Holder::Operator => self.authorise_reading(env),
        };
        verified.err().unwrap_or(StatusWord::NORMAL)
    }

    fn conversation(&mut self, handle: u8) -> Result<&mut Conversation, StatusWord> {
        let conversation = self.conversations.get_mut(&handle);
        conversation.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)
    }

    fn is_legacy_9f(&self, handle: u8) -> bool {
        let conversation = self.conversations.get(&handle);
        conversation.is_some_and(|c| c.identity.policy.legacy_9f)
    }

    fn state(&self, handle: u8) -> State {
        let conversation = self.conversations.get(&handle);
        conversation.map_or(State::IdentityNotSet, Conversation::state)
    }

    fn set_identity(
        &mut self,
        handle: u8,
        label: &[u8],
        env: &mut Env<'_>,
    ) -> Result<StatusWord, StatusWord> {
        self.authorise_bearer(env)?;
        let identity = self.identity(label, env)?;
        let conversation = Conversation::new(identity, self.clock.clone());
        self.conversations.insert(handle, conversation);
        Ok(StatusWord::NORMAL)
    }

    /// SW2 of the answer is the handle.
    fn set_multiple_identity(
        &mut self,
        label: &[u8],
        env: &mut Env<'_>,
    ) -> Result<StatusWord, StatusWord> {
        let free = (1..=command::LAST_HANDLE).find(|h| !self.conversations.contains_key(h));
        let handle = free.ok_or(StatusWord::NOT_ENOUGH_MEMORY)?;
        self.set_identity(handle, label, env)?;
        Ok(StatusWord::new(0x9000 | u16::from(handle)))
    }

    /// The identity with this label; read and checked once, until its record or its key changes.
    fn identity(&mut self, label: &[u8], env: &mut Env<'_>) -> Result<Arc<Identity>, StatusWord> {
        if let Some(identity) = self.identities.get(label)
            && identity.refresh(env).is_ok()
        {
            return Ok(identity.clone());
        }
        self.identities.remove(label);
        let identity = Arc::new(Identity::load(env, label, &self.clock)?);
        self.identities.insert(label.to_vec(), identity.clone());
        Ok(identity)
    }

    fn next_identity(&mut self, env: &Env<'_>) -> Result<Response, StatusWord> {
        let labels = memory::labels(env.nvm);
        let index = if self.next < labels.len() {
            self.next
        } else {
            0
        };
        self.next = index + 1;
        let label = labels
            .get(index)
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
        Ok(Response::ok(label.clone()))
    }

    fn delete_identity(
        &mut self,
        label: &[u8],
        env: &mut Env<'_>,
    ) -> Result<StatusWord, StatusWord> {
        self.authorise_operator(env)?;
        memory::delete(env.nvm, env.keys, label)?;
        self.forget_identities();
        Ok(StatusWord::NORMAL)
    }

    /// Records change: conversations that stand on the old ones end.
    fn forget_identities(&mut self) {
        self.identities.clear();
        self.conversations.clear();
        self.next = 0;
    }

    fn process_eap(
        &mut self,
        more: bool,
        target: Target,
        data: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Response, StatusWord> {
        self.authorise_bearer(env)?;
        let Some(payload) = self.pieces.take(more, target, data)? else {
            return Ok(StatusWord::NORMAL.into());
        };
        match (target, payload.first()) {
            (Target::Encrypt { content_type }, _) => {
                let conversation = self.conversation(0)?;
                let identity = conversation.identity.clone();
                let session = conversation.session();
                let session = session.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
                let sealed = session.encrypt(content_type, &payload)?;
                if session.engine().is_none() {
                    // A fatal alert: the session is not resumed either (RFC 8446, 6.2).
                    session.forget(&identity);
                }
                Ok(Response::ok(sealed))
            }
            // TLS content types; an EAP packet begins with 01 to 04.
            (Target::Packet { handle: 0 }, Some(20..=24)) => {
                let session = self.conversation(0)?.session();
                let session = session.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
                session
                    .decrypt(&payload)
                    .map(|clear| Response::ok(clear.to_vec()))
            }
            (Target::Packet { handle } | Target::Implicit { handle }, _) => {
                self.process_packet(handle, &payload)
            }
        }
    }

    fn process_packet(&mut self, handle: u8, packet: &[u8]) -> Result<Response, StatusWord> {
        let Some(conversation) = self.conversations.get_mut(&handle) else {
            return Ok(StatusWord::EAP_PACKET_DISCARDED.into());
        };
        let output = conversation.process(packet)?;
        Ok(match output {
            Output::Packet(answer) => Response::ok(answer),
            Output::Taken => StatusWord::NORMAL.into(),
            Output::Discarded => StatusWord::EAP_PACKET_DISCARDED.into(),
            Output::Failed => StatusWord::EAP_AUTHENTICATION_FAILURE.into(),
        })
    }

    fn generate(
        &mut self,
        algorithm: u8,
        place: Place,
        env: &mut Env<'_>,
    ) -> Result<Response, StatusWord> {
        self.authorise_operator(env)?;
        let algorithm = Algorithm::from_id(algorithm).ok_or(StatusWord::INCORRECT_DATA)?;
        let key = match place {
            Place::Slot(slot) if is_slot(slot) => env
                .keys
                .generate(env.nvm, slot, algorithm)
                .map_err(|_| StatusWord::FUNCTION_NOT_SUPPORTED)?,
            Place::Slot(_) => return Err(StatusWord::INCORRECT_DATA),
            Place::Label(label) => memory::generate(env.nvm, env.keys, &label, algorithm)?,
            Place::Handle(handle) => {
                let label = self.owner(handle)?;
                memory::generate(env.nvm, env.keys, &label, algorithm)?
            }
        };
        env.cost.count_generation(algorithm);
        self.forget_identities();
        Ok(Response::ok(key.public_key_info()))
    }

    /// Whose own key GENERATE makes: the identity that Add-Identity appended last, or the one of the handle.
    fn owner(&mut self, handle: u8) -> Result<Vec<u8>, StatusWord> {
        match &self.added {
            Some(label) if handle == 0 => Ok(label.clone()),
            _ => Ok(self.conversation(handle)?.identity.label.clone()),
        }
    }

    /// What a PIN comparison came to.
    fn compared(&mut self, attempt: &Attempt, env: &mut Env<'_>) -> StatusWord {
        let (holder, verified, sw) = match pins::complete(attempt, env.nvm) {
            Compared::Verified(holder, verified) => (holder, Some(verified), StatusWord::NORMAL),
            Compared::Wrong(holder, sw) => (holder, None, sw),
            Compared::Done => return StatusWord::NORMAL,
        };
        match holder {
            Holder::Bearer => self.bearer = verified,
            Holder::Operator => self.operator = verified,
        }
        sw
    }
}

/// The identity that comes first is the preferred one.
fn preferred_identity(env: &Env<'_>) -> Result<Response, StatusWord> {
    let first = memory::labels(env.nvm).into_iter().next();
    first
        .map(Response::ok)
        .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)
}

/// The MSK, in state 03. The EMSK stays: RFC 3748, 7.10.
fn session_key(conversation: &mut Conversation) -> Result<Vec<u8>, StatusWord> {
    let legacy = conversation.identity.policy.legacy_msk_order;
    let session = conversation
        .session()
        .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
    Ok(session.msk(legacy))
}

/// The memory's flag 1000 forbids Method-FCT.
fn authorise_method_function(env: &Env<'_>) -> Result<(), StatusWord> {
    if memory::Flags::of(&memory::load(env.nvm)).forbid_method_function {
        return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
    }
    Ok(())
}

fn random(length: u32) -> Result<Response, StatusWord> {
    let mut bytes = vec![0; length.min(256) as usize];
    crate::random::fill(&mut bytes).map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
    Ok(Response::ok(bytes))
}

impl Applet for EapTlsApplet {
    fn aid(&self) -> &[u8] {
        &AID
    }

    fn select(&mut self, env: &mut Env<'_>) -> Response {
        self.forget();
        memory::sweep(env.nvm, env.keys);
        StatusWord::NORMAL.into()
    }

    fn deselect(&mut self) {
        self.forget();
        self.clock.clear();
    }

    fn process(&mut self, command: &Command, env: &mut Env<'_>) -> Next {
        let command = match EapTlsCommand::parse(command) {
            Ok(command) => command,
            Err(sw) => return sw.into(),
        };
        if !matches!(command, EapTlsCommand::Process { .. }) {
            self.pieces.clear();
        }
        let handle = command.handle();
        let mut cost = crate::timing::Cost::ZERO;
        let next = meter::measure(&mut cost, || self.execute(command, env));
        *env.cost += cost;
        match next.unwrap_or_else(Next::from) {
            Next::Answer(response) if self.is_legacy_9f(handle) => Next::LegacyAnswer(response),
            next => next,
        }
    }

    fn resume(&mut self, attempt: Attempt, env: &mut Env<'_>) -> Next {
        self.compared(&attempt, env).into()
    }

    fn rolled_back(&mut self, _env: &mut Env<'_>) {
        self.forget();
        self.identities.clear();
    }

    fn answers_without_le(&self) -> bool {
        false
    }
}
