//! Writing identities into the application's record memory.

use gose_proto::{
    apdu::{Command, StatusWord},
    eap::{
        Role, Type,
        records::{self, END, MEMORY, kind},
    },
};
use zeroize::Zeroizing;

pub use gose_proto::eap::records::Policy;

use super::{Error, scripts};
use crate::{Algorithm, Script, SecureElement, Step, announced};

/// An identity as it is written into the element.
pub struct Personalisation {
    /// The label that Set-Identity takes, at most 255 bytes.
    pub label: String,
    /// What is answered to EAP-Request/Identity: better anonymous (RFC 9190, 2.1.8), at most 255 bytes.
    pub eap_id: String,
    /// Which end of EAP it plays.
    pub role: Role,
    /// Its private key.
    pub key: Key,
    /// Certificates of the own chain, DER, leaf first, without the trust anchor.
    pub chain: Vec<Vec<u8>>,
    /// Trust anchors for the other end, DER.
    pub anchors: Vec<Vec<u8>>,
    /// How it does TLS.
    pub policy: Policy,
    /// Names of which the other end's certificate must show one; empty = any that chains to the anchors.
    pub expected_names: Vec<String>,
    /// CRLs, DER; none = certificates are short-lived.
    pub crls: Vec<Vec<u8>>,
}

/// Where an identity's private key comes from.
pub enum Key {
    /// The key in this slot (9A, 9C, 9D, 9E, 82 to 95), which PIV shares; see [`Operator::generate`].
    Slot(u8),
    /// The identity's own key, which the element made before and PIV does not see; see
    /// [`Operator::generate_own`].
    Own,
    /// A PKCS#8 key, DER: the element takes it into its key store and never gives it back.
    Pkcs8(Zeroizing<Vec<u8>>),
}

impl Personalisation {
    /// The record, without the FF that ends the records; without a key where that is [`Key::Own`].
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn record(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.record_with(None)
    }

    /// `own` is the value of the generated key's item in the element.
    fn record_with(&self, own: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, Error> {
        let role = [u8::from(self.role == Role::Authenticator)];
        let policy = self.policy.encode();
        let slot;
        let mut items: Vec<(u8, &[u8])> = vec![(kind::ROLE, &role), (kind::POLICY, &policy)];
        match &self.key {
            Key::Slot(number) => {
                slot = [*number];
                items.push((kind::SLOT, &slot));
            }
            Key::Own => items.extend(own.map(|own| (kind::GENERATED, own))),
            Key::Pkcs8(der) => items.push((kind::PRIVATE_KEY, der)),
        }
        items.extend(
            self.chain
                .iter()
                .map(|der| (kind::CERTIFICATE, der.as_slice())),
        );
        items.extend(
            self.anchors
                .iter()
                .map(|der| (kind::ANCHOR, der.as_slice())),
        );
        items.extend(
            self.expected_names
                .iter()
                .map(|name| (kind::EXPECTED_NAME, name.as_bytes())),
        );
        items.extend(self.crls.iter().map(|der| (kind::CRL, der.as_slice())));
        records::encode(
            self.label.as_bytes(),
            self.eap_id.as_bytes(),
            Type::TLS,
            &items,
        )
        .map(Zeroizing::new)
        .map_err(|_| Error::TooLong("identity"))
    }
}

/// The application, opened with the operator's PIN: writes identities, makes keys.
pub struct Operator<'e, E: SecureElement + ?Sized> {
    element: &'e mut E,
}

impl<'e, E: SecureElement + ?Sized> Operator<'e, E> {
    /// Selects the application and verifies the operator's PIN: one script. The element is powered up.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(element: &'e mut E, aid: &[u8], operator_pin: &[u8]) -> Result<Self, Error> {
        let script = Script::new(vec![select(aid), scripts::verify(0x01, operator_pin)]);
        scripts::complete(
            &announced::collect(element, &script),
            "opening as operator",
            2,
        )?;
        Ok(Self { element })
    }

    /// Replaces a PIN of a fresh element: bearer's (`which` = 00) or operator's (01).
    ///
    /// # Errors
    /// [`Error`].
    pub fn change_pin(&mut self, which: u8, old: &[u8], new: &[u8]) -> Result<(), Error> {
        let outcomes =
            announced::collect(self.element, &scripts::change_pin(which, old, new).into());
        scripts::last(&outcomes, "changing a PIN").map(drop)
    }

    /// Makes a key pair in a slot; gives the DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Error::Refused`] with `6985` while the published operator PIN stands, or [`Error`].
    pub fn generate(&mut self, slot: u8, algorithm: Algorithm) -> Result<Vec<u8>, Error> {
        let outcomes = announced::collect(self.element, &generate(slot, algorithm).into());
        scripts::last(&outcomes, "generating a key").map(|o| o.body.clone())
    }

    /// Makes a key pair that is one identity's alone, and the identity where there is none; gives the DER
    /// SubjectPublicKeyInfo. [`Operator::add_identity`] with [`Key::Own`] then writes its certificate.
    ///
    /// # Errors
    /// As [`Operator::generate`].
    pub fn generate_own(&mut self, label: &str, algorithm: Algorithm) -> Result<Vec<u8>, Error> {
        let add = label_command(0x81, label)?;
        let outcomes = announced::collect(self.element, &add.into());
        match outcomes.last().map(|outcome| outcome.sw) {
            // It is there already, or nothing may be written: then GENERATE is refused too.
            Some(StatusWord::NORMAL | StatusWord::CONDITIONS_NOT_SATISFIED) => {}
            _ => return Err(scripts::refusal(&outcomes, "adding an identity")),
        }
        let data = [&[algorithm.id(), 0x00], label.as_bytes()].concat();
        let command = Command::new(0xA0, 0x46, 0x00, 0x00).with_data(data);
        let step = Step::new(command.encode().map_err(|_| Error::TooLong("label"))?);
        let outcomes = announced::collect(
            self.element,
            &step.expect_normal().collect(scripts::FETCH).into(),
        );
        scripts::last(&outcomes, "generating a key").map(|o| o.body.clone())
    }

    /// Writes an identity, in place of the one with its label if there is one.
    ///
    /// # Errors
    /// [`Error::TooLong`] when the memory cannot hold it, [`Error::Malformed`] for [`Key::Own`] where the
    /// element has made none, or [`Error`].
    pub fn add_identity(&mut self, identity: &Personalisation) -> Result<(), Error> {
        const READ: Error = Error::Malformed("READ");
        if !matches!(identity.key, Key::Own) {
            self.remove_identity(&identity.label)?;
        }
        let memory = self.read_memory()?;
        let (records, end) = records::parse(&memory).map_err(|_| READ)?;
        let label = identity.label.as_bytes();
        let (at, mut written, behind) = match identity.key {
            Key::Own => {
                let mut there = records.iter().filter(|record| record.label == label);
                let record = there.next().ok_or(Error::NoOwnKey)?;
                let mut own = record.items.iter().filter(|i| i.kind == kind::GENERATED);
                let own = own.next().ok_or(Error::NoOwnKey)?.value;
                // The record is changed where it stands: with it the key would go.
                let behind = memory.get(record.span.end..end).ok_or(READ)?;
                let changed = identity.record_with(Some(own))?;
                (record.span.start, changed, behind)
            }
            _ => (end, identity.record()?, &[][..]),
        };
        written.extend_from_slice(behind);
        written.push(END);
        // The last two bytes of the memory are flags.
        if at + written.len() > MEMORY - 2 {
            return Err(Error::TooLong("identity"));
        }
        let script = write(at, &written);
        let steps = script.steps.len();
        scripts::complete(
            &announced::collect(self.element, &script),
            "writing an identity",
            steps,
        )
    }

    /// Removes the identity with this label, if there is one.
    ///
    /// # Errors
    /// [`Error`].
    pub fn remove_identity(&mut self, label: &str) -> Result<(), Error> {
        let outcomes = announced::collect(self.element, &label_command(0x82, label)?.into());
        match outcomes.last().map(|outcome| outcome.sw) {
            Some(StatusWord::NORMAL | StatusWord::REFERENCED_DATA_NOT_FOUND) => Ok(()),
            _ => Err(scripts::refusal(&outcomes, "removing an identity")),
        }
    }

    fn read_memory(&mut self) -> Result<Vec<u8>, Error> {
        let steps: Vec<Step> = (0..MEMORY)
            .step_by(256)
            .map(|offset| {
                let [high, low] = address(offset);
                Step::new([0xA0, 0xB0, high, low, 0x00])
                    .expect_normal()
                    .collect(scripts::FETCH)
                    .append()
            })
            .collect();
        let count = steps.len();
        let outcomes = announced::collect(self.element, &Script::new(steps));
        scripts::bodies(&outcomes, "READ", count).map(|pieces| pieces.concat())
    }
}

/// Add-Identity (81) or Delete-Identity (82).
fn label_command(p2: u8, label: &str) -> Result<Step, Error> {
    let command = Command::new(0xA0, 0x17, 0x00, p2).with_data(label.as_bytes());
    let apdu = command.encode().map_err(|_| Error::TooLong("label"))?;
    Ok(Step::new(apdu))
}

fn select(aid: &[u8]) -> Step {
    let command = Command::new(0x00, 0xA4, 0x04, 0x00).with_data(aid);
    Step::new(command.encode().unwrap_or_default()).expect_normal()
}

/// GENERATE of a key pair in a slot; answers the SubjectPublicKeyInfo.
#[must_use]
pub fn generate(slot: u8, algorithm: Algorithm) -> Step {
    Step::new([0xA0, 0x46, 0x00, 0x00, 0x02, algorithm.id(), slot])
        .expect_normal()
        .collect(scripts::FETCH)
}

/// WRITE of bytes from `offset` on, in pieces.
#[must_use]
pub fn write(offset: usize, bytes: &[u8]) -> Script {
    let steps = bytes.chunks(255).enumerate().map(|(index, piece)| {
        let [high, low] = address(offset + index * 255);
        let command = Command::new(0xA0, 0xD0, high, low).with_data(piece);
        let mut step = Step::new(Vec::new()).expect_normal();
        step.apdu = Zeroizing::new(command.encode().unwrap_or_default());
        step
    });
    Script::new(steps.collect())
}

fn address(offset: usize) -> [u8; 2] {
    u16::try_from(offset).unwrap_or(u16::MAX).to_be_bytes()
}
