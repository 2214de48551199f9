//! Two EAP-TLS elements in memory, a peer and an authenticator, a virtual clock between them, and a line
//! that may lose and repeat packets. No sockets, no sleep.

use std::{collections::BTreeSet, sync::Arc};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm, timing::Profile};
use gose_element::{
    Algorithm, SecureElement,
    drive::eap_tls::{
        AID, EapTls, Error, Key, Opening, Personalisation, Policy, Reply, SessionKeys,
        personalisation::Operator,
    },
};
use gose_proto::eap::{Code, Packet, Role, Type};
use rcgen::SubjectPublicKeyInfo;

use crate::pki::{Authority, Request};

/// The bearer's PIN of both elements.
pub const PIN: &[u8] = b"0000";

/// The operator's PIN of both elements, in place of the published one.
pub const OPERATOR_PIN: &[u8] = b"81726354";

/// A time at which ordinary test certificates are valid: 2026-01-01.
pub const NOW: u32 = 1_767_225_600;

/// A software element with its host's memory.
pub type Element = Hosted<Memory>;

/// Both elements and what stands between them.
pub struct World {
    /// The authority of both ends' certificates.
    pub authority: Authority,
    /// The peer's element, identity `peer`.
    pub peer: Element,
    /// The authenticator's element, identity `authenticator`.
    pub authenticator: Element,
    /// The peer's identity as it was written.
    pub peer_identity: Personalisation,
    /// The authenticator's identity as it was written.
    pub authenticator_identity: Personalisation,
    /// Unix time.
    pub now: u32,
    /// What the line does to packets.
    pub line: Line,
}

/// How a world is made.
#[derive(Clone)]
pub struct Options {
    /// The peer's policy.
    pub peer: Policy,
    /// The authenticator's policy.
    pub authenticator: Policy,
    /// Algorithm of both ends' keys.
    pub algorithm: Algorithm,
    /// The card that both ends imitate, in virtual time.
    pub profile: Option<&'static Profile>,
}

/// Packets, counted from 0 in both directions together, that go wrong on the line.
#[derive(Default)]
pub struct Line {
    /// These are lost: the authenticator sends its request again.
    pub lost: BTreeSet<usize>,
    /// These arrive twice.
    pub repeated: BTreeSet<usize>,
    /// Packets sent so far.
    pub sent: usize,
}

/// What a conversation came to.
pub struct Ended {
    /// The authenticator's last packet.
    pub end: Code,
    /// Packets on the line.
    pub packets: usize,
    /// Get-State of peer and authenticator afterwards.
    pub states: [u8; 2],
    /// The peer's keys, after success.
    pub peer: Option<Keys>,
    /// The authenticator's keys, after success.
    pub authenticator: Option<Keys>,
}

/// What an element gives after success.
pub struct Keys {
    /// The MSK.
    pub msk: Vec<u8>,
    /// Session-Id.
    pub session_id: Vec<u8>,
    /// Whether the handshake resumed an earlier session.
    pub resumed: bool,
    /// Cipher suite, key block, sequence numbers.
    pub session: SessionKeys,
    /// The other end's certificate.
    pub peer_certificate: Vec<u8>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peer: Policy::default(),
            authenticator: Policy::default(),
            algorithm: Algorithm::P256,
            profile: None,
        }
    }
}

impl Options {
    /// Both ends speak this protocol version only (0303, 0304).
    #[must_use]
    pub fn version(mut self, version: u16) -> Self {
        for policy in [&mut self.peer, &mut self.authenticator] {
            (policy.min_version, policy.max_version) = (version, version);
        }
        self
    }

    /// Both ends cut their flights into fragments of this size.
    #[must_use]
    pub fn fragments(mut self, size: u16) -> Self {
        self.peer.fragment_size = size;
        self.authenticator.fragment_size = size;
        self
    }

    /// Both ends have keys of this algorithm.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }
}

/// A fresh element, powered up, with [`OPERATOR_PIN`] in place of the published one.
#[must_use]
pub fn element() -> Element {
    let nvm = Nvm::replay([factory::birth([1; 16])]);
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut element = Hosted::new(card, Memory::default());
    element.power_on().unwrap();
    take_over(&mut element);
    element
}

/// Replaces the published operator PIN of an element by [`OPERATOR_PIN`].
pub fn take_over<E: SecureElement + ?Sized>(element: &mut E) {
    let mut operator = Operator::open(element, &AID, b"00000000").unwrap();
    operator.change_pin(1, b"00000000", OPERATOR_PIN).unwrap();
}

/// An identity on a key that the element makes in slot 9A and an authority certifies. `change` has the last
/// word on certificate and record.
pub fn personalise<E: SecureElement + ?Sized>(
    element: &mut E,
    authority: &Authority,
    role: Role,
    algorithm: Algorithm,
    change: impl FnOnce(&mut Request, &mut Personalisation),
) -> Personalisation {
    let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
    let public = operator.generate(0x9A, algorithm).unwrap();
    personalise_with(element, authority, role, &public, change)
}

/// As [`personalise`], on the key that slot 9A has already.
pub fn personalise_with<E: SecureElement + ?Sized>(
    element: &mut E,
    authority: &Authority,
    role: Role,
    public: &[u8],
    change: impl FnOnce(&mut Request, &mut Personalisation),
) -> Personalisation {
    let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
    let label = label(role);
    let mut request = Request::new(Some(label));
    let mut identity = Personalisation {
        label: label.into(),
        eap_id: "@gose.test".into(),
        role,
        key: Key::Slot(0x9A),
        chain: Vec::new(),
        anchors: vec![authority.der().to_vec()],
        policy: Policy::default(),
        expected_names: Vec::new(),
        crls: Vec::new(),
    };
    change(&mut request, &mut identity);
    if identity.chain.is_empty() {
        let public = SubjectPublicKeyInfo::from_der(public).unwrap();
        identity.chain = authority.certify(request, &public);
    }
    operator.add_identity(&identity).unwrap();
    identity
}

/// The identity's label in its element.
#[must_use]
pub fn label(role: Role) -> &'static str {
    match role {
        Role::Peer => "peer",
        Role::Authenticator => "authenticator",
    }
}

impl World {
    /// Two elements that accept each other.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self::with(options, |_, _| {}, |_, _| {})
    }

    /// Two elements; the closures have the last word on the peer's and the authenticator's identity.
    #[must_use]
    pub fn with(
        options: &Options,
        peer: impl FnOnce(&mut Request, &mut Personalisation),
        authenticator: impl FnOnce(&mut Request, &mut Personalisation),
    ) -> Self {
        let authority = Authority::new("test root");
        let mut elements = [element(), element()];
        let [at_peer, at_authenticator] = &mut elements;
        let algorithm = options.algorithm;
        let peer_identity = personalise(at_peer, &authority, Role::Peer, algorithm, |r, p| {
            p.policy = options.peer.clone();
            peer(r, p);
        });
        let role = Role::Authenticator;
        let authenticator_identity =
            personalise(at_authenticator, &authority, role, algorithm, |r, p| {
                p.policy = options.authenticator.clone();
                authenticator(r, p);
            });
        for element in &mut elements {
            element.host_mut().profile = options.profile;
        }
        let [peer, authenticator] = elements;
        Self {
            authority,
            peer,
            authenticator,
            peer_identity,
            authenticator_identity,
            now: NOW,
            line: Line::default(),
        }
    }

    /// Writes both identities anew with the policies of `options`; keys stay.
    pub fn change_policies(&mut self, options: &Options) {
        self.peer_identity.policy = options.peer.clone();
        self.authenticator_identity.policy = options.authenticator.clone();
        let ends = [
            (&mut self.peer, &self.peer_identity),
            (&mut self.authenticator, &self.authenticator_identity),
        ];
        for (element, identity) in ends {
            let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
            operator.add_identity(identity).unwrap();
        }
    }

    /// A whole conversation, from EAP-Request/Identity to EAP-Success or EAP-Failure, then the keys.
    ///
    /// # Errors
    /// Of either element; a refusal of EAP is no error but an end.
    pub fn drive(&mut self) -> Result<Ended, Error> {
        let (mut ended, keys) = self.converse(|peer, authenticator| {
            if [state(peer), state(authenticator)] == [3, 3] {
                Ok::<_, Error>(Some((keys(peer)?, keys(authenticator)?)))
            } else {
                Ok(None)
            }
        })?;
        if let Some((peer, authenticator)) = keys? {
            (ended.peer, ended.authenticator) = (Some(peer), Some(authenticator));
        }
        Ok(ended)
    }

    /// A whole conversation; then `then` has both ends, still open.
    ///
    /// # Errors
    /// As [`World::drive`].
    pub fn converse<T>(
        &mut self,
        then: impl FnOnce(&mut EapTls<'_, Element>, &mut EapTls<'_, Element>) -> T,
    ) -> Result<(Ended, T), Error> {
        let mut peer = EapTls::open(&mut self.peer, &Opening::new(PIN, label(Role::Peer)))?;
        let opening = Opening::new(PIN, label(Role::Authenticator));
        let mut authenticator = EapTls::open(&mut self.authenticator, &opening)?;
        let before = self.line.sent;
        let now = Some(self.now);
        let mut request = Packet::request(0x01, Type::IDENTITY, &[]).encode();
        let end = loop {
            let response = pass(&mut self.line, &request, |p| peer.process(p, now))?;
            let code = Packet::parse(&request)?.0.code;
            if matches!(code, Code::Success | Code::Failure) {
                break code;
            }
            let Some(response) = response else { continue };
            let next = pass(&mut self.line, &response, |p| authenticator.process(p, now))?;
            // Without an answer the authenticator's host sends its request again.
            request = next.unwrap_or(request);
        };
        let ended = Ended {
            end,
            packets: self.line.sent - before,
            states: [state(&mut peer), state(&mut authenticator)],
            peer: None,
            authenticator: None,
        };
        Ok((ended, then(&mut peer, &mut authenticator)))
    }

    /// Power goes off and comes back at both elements.
    pub fn cycle_power(&mut self) {
        for element in [&mut self.peer, &mut self.authenticator] {
            element.power_off();
            element.power_on().unwrap();
        }
    }
}

/// Sends a packet over the line; gives the answer of the other end if it came.
fn pass(
    line: &mut Line,
    packet: &[u8],
    mut deliver: impl FnMut(&[u8]) -> Result<Reply, Error>,
) -> Result<Option<Vec<u8>>, Error> {
    let number = line.sent;
    line.sent += 1;
    assert!(number < 10_000, "the conversation does not end");
    if line.lost.remove(&number) {
        return Ok(None);
    }
    let reply = deliver(packet)?;
    if line.repeated.remove(&number) {
        let again = deliver(packet)?;
        assert!(again == reply || again == Reply::Discarded);
    }
    Ok(reply.packet().map(<[u8]>::to_vec))
}

/// Get-State.
pub fn state(end: &mut EapTls<'_, Element>) -> u8 {
    let outcomes = end.run(&gose_element::Step::new([0xA0, 0x19, 0x00, 0x00, 0x01]).into());
    outcomes.last().unwrap().body[0]
}

/// Everything that an element gives after success.
///
/// # Errors
/// Refusals of the element.
pub fn keys(end: &mut EapTls<'_, Element>) -> Result<Keys, Error> {
    Ok(Keys {
        msk: end.msk()?.to_vec(),
        session_id: end.exported(0x04)?,
        resumed: end.is_resumed()?,
        peer_certificate: end.peer_certificate()?,
        session: end.session_keys()?,
    })
}
