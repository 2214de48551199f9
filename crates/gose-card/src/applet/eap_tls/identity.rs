//! An identity, ready for conversations: its record read, its key opened, its anchors parsed.

use std::sync::Arc;

use gose_proto::{
    apdu::StatusWord,
    eap::{
        Role, Type,
        records::{Item, Policy, Record, kind, parse},
    },
};
use rustls::{
    client::{ClientSessionMemoryCache, ClientSessionStore},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName},
};

use super::{
    clock::Clock,
    credential::Credential,
    memory, meter,
    sessions::{self, Sessions},
    verifier::{OtherEnd, Trust, Verifier},
};
use crate::{card::Env, keystore::PrivateKey};

/// Sessions that the client role keeps an identity, in memory.
const CLIENT_SESSIONS: usize = 8;

/// One identity of the record memory.
pub(super) struct Identity {
    pub(super) label: Vec<u8>,
    pub(super) eap_id: Vec<u8>,
    pub(super) role: Role,
    pub(super) policy: Policy,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) credential: Arc<Credential>,
    /// Outlives conversations and power, not the card.
    pub(super) client_sessions: Option<Arc<ClientSessionMemoryCache>>,
    /// As the client's.
    pub(super) server_sessions: Arc<Sessions>,
    pub(super) anchors: Vec<Vec<u8>>,
    slot: u8,
}

/// What an authenticator's identity is made of where no card's memory has it.
pub(super) struct Parts<'a> {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Arc<dyn PrivateKey>,
    pub(super) anchors: Vec<&'a [u8]>,
    pub(super) crls: Vec<&'a [u8]>,
    pub(super) policy: Policy,
    pub(super) sessions: Arc<Sessions>,
}

impl Identity {
    /// Reads the identity with this label.
    ///
    /// # Errors
    /// `6985` where there is none, or it lacks a key, a chain or an anchor, or they do not fit together.
    pub(super) fn load(
        env: &mut Env<'_>,
        label: &[u8],
        clock: &Arc<Clock>,
    ) -> Result<Self, StatusWord> {
        sessions::sweep(env.nvm);
        let memory = memory::load(env.nvm);
        let (records, _) = parse(&memory).map_err(unusable)?;
        let record = records
            .iter()
            .find(|r| r.label == label && r.method == Type::TLS)
            .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let role = match one(record, kind::ROLE) {
            None | Some([0]) => Role::Peer,
            Some([1]) => Role::Authenticator,
            Some(_) => return Err(StatusWord::CONDITIONS_NOT_SATISFIED),
        };
        let mut policy =
            Policy::parse(one(record, kind::POLICY).unwrap_or_default()).map_err(unusable)?;
        policy.resumption &= memory::Flags::of(&memory).allow_resumption;
        let provider = meter::provider(&policy.cipher_suites);
        let trust = Trust {
            anchors: all(record, kind::ANCHOR).collect(),
            crls: all(record, kind::CRL).collect(),
            names: all(record, kind::EXPECTED_NAME)
                .map(|name| String::from_utf8(name.to_vec()).map_err(unusable))
                .collect::<Result<_, _>>()?,
            other_end: match role {
                Role::Peer => OtherEnd::Server,
                Role::Authenticator => OtherEnd::Client,
            },
            allow_no_clock: policy.allow_no_clock,
        };
        let verifier = Verifier::new(
            trust,
            provider.signature_verification_algorithms,
            clock.clone(),
        )
        .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let slot = key_slot(record).ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let chain = all(record, kind::CERTIFICATE).map(|der| CertificateDer::from(der.to_vec()));
        let credential = Credential::new(chain.collect(), open_key(env, slot)?);
        if !credential.is_consistent() {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        Ok(Self {
            label: label.to_vec(),
            eap_id: record.eap_id.to_vec(),
            role,
            client_sessions: policy
                .resumption
                .then(|| Arc::new(ClientSessionMemoryCache::new(CLIENT_SESSIONS))),
            server_sessions: Arc::new(Sessions::new(sessions::IN_CARD, clock.clone())),
            policy,
            provider: Arc::new(provider),
            verifier: Arc::new(verifier),
            credential: Arc::new(credential),
            anchors: all(record, kind::ANCHOR).map(<[u8]>::to_vec).collect(),
            slot,
        })
    }

    /// An authenticator's identity; `None` where the parts do not fit together.
    pub(super) fn of_parts(parts: Parts<'_>, clock: &Arc<Clock>) -> Option<Self> {
        let provider = meter::provider(&parts.policy.cipher_suites);
        let anchors = parts.anchors.iter().map(|der| der.to_vec()).collect();
        let trust = Trust {
            anchors: parts.anchors,
            crls: parts.crls,
            names: Vec::new(),
            other_end: OtherEnd::Client,
            allow_no_clock: parts.policy.allow_no_clock,
        };
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Verifier::new(trust, algorithms, clock.clone())?;
        let credential = Credential::new(parts.chain, parts.key);
        credential.is_consistent().then(|| Self {
            label: Vec::new(),
            eap_id: Vec::new(),
            role: Role::Authenticator,
            client_sessions: None,
            server_sessions: parts.sessions,
            policy: parts.policy,
            provider: Arc::new(provider),
            verifier: Arc::new(verifier),
            credential: Arc::new(credential),
            anchors,
            slot: 0,
        })
    }

    /// The server of a resumed session is no longer accepted: the next handshake is a full one.
    pub(super) fn forget_client_sessions(&self) {
        if let Some(sessions) = &self.client_sessions {
            sessions.remove_tls12_session(&server_name());
            while sessions.take_tls13_ticket(&server_name()).is_some() {}
        }
    }

    /// The slot may hold another key by now (PIV shares it).
    ///
    /// # Errors
    /// `6985` where the slot's key is not the one that the chain is for.
    pub(super) fn refresh(&self, env: &mut Env<'_>) -> Result<(), StatusWord> {
        let key = open_key(env, self.slot)?;
        if self.credential.refresh(key) {
            Ok(())
        } else {
            Err(StatusWord::CONDITIONS_NOT_SATISFIED)
        }
    }
}

/// The card's name for every server: EAP peers do not know one, the verifier checks the expected names.
/// An address is never sent as SNI.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

fn unusable<E>(_: E) -> StatusWord {
    StatusWord::CONDITIONS_NOT_SATISFIED
}

fn open_key(env: &mut Env<'_>, slot: u8) -> Result<Arc<dyn PrivateKey>, StatusWord> {
    let key = env.keys.get(env.nvm, slot).map_err(unusable)?;
    key.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)
}

fn all<'r>(record: &'r Record<'_>, kind: u8) -> impl Iterator<Item = &'r [u8]> {
    let of_kind = move |item: &&Item<'_>| item.kind == kind;
    record.items.iter().filter(of_kind).map(|item| item.value)
}

fn one<'r>(record: &'r Record<'_>, kind: u8) -> Option<&'r [u8]> {
    all(record, kind).next()
}

/// A PIV slot (type 27), a key made for the identity (26), or one that came in its record (21).
fn key_slot(record: &Record<'_>) -> Option<u8> {
    match (one(record, kind::SLOT), one(record, kind::GENERATED)) {
        (Some([slot]), _) | (None, Some([_, slot])) => Some(*slot),
        (None, None) => one(record, kind::PRIVATE_KEY).and_then(memory::own_slot),
        _ => None,
    }
}
