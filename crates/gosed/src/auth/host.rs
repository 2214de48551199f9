//! TLS on the host, the private key alone in an element: for those who want speed more than the session in the card.
//!
//! EAP and TLS are the card's own code (`gose_card::applet::eap_tls::host`), so that a peer sees no difference.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use gose_card::{
    applet::eap_tls::host::{Authenticator, Dialogue, Material, Reply as Answer, Unusable},
    keystore::PrivateKey,
};
use gose_element::drive::eap_tls::{Reply, SessionKeys};
use gose_proto::{
    eap::{Fragment, Packet, Type as EapType, records::Policy},
    radius::Type,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    Identity, Terms, Tuning,
    element::now,
    tls::{Broken, Ended},
};

/// Handshakes that wait for the key at a time: each holds a thread while it does.
const SIGNERS: usize = 32;

/// Fragments that a flight of the server may have.
const MAX_FRAGMENTS: usize = 700;

/// What TLS on the host needs beside the key.
pub struct Certificates {
    /// The server's certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Authorities of peers.
    pub anchors: Vec<CertificateDer<'static>>,
    /// Revocation lists.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Versions, suites, fragments, resumption.
    pub policy: Policy,
    /// Sessions to be resumed, kept at most.
    pub sessions: usize,
}

impl Certificates {
    fn material(&self, key: Arc<dyn PrivateKey>) -> Material<'_> {
        Material {
            chain: self.chain.clone(),
            key,
            anchors: self.anchors.iter().map(|der| &**der).collect(),
            crls: self.crls.iter().map(|der| &**der).collect(),
            policy: self.policy.clone(),
            sessions: self.sessions,
        }
    }
}

/// An identity whose TLS runs on the host.
pub struct OnHost {
    authenticator: ArcSwap<Authenticator>,
    key: Arc<dyn PrivateKey>,
    /// The element with the key, for the record.
    place: String,
    signers: Arc<Semaphore>,
    conversations: AtomicU64,
}

impl OnHost {
    /// TLS with this key; `place` is what the record calls the element that holds it.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn new(
        key: Arc<dyn PrivateKey>,
        place: &str,
        certificates: &Certificates,
    ) -> Result<Self, Unusable> {
        let authenticator = Authenticator::new(certificates.material(key.clone()))?;
        Ok(Self {
            authenticator: ArcSwap::from_pointee(authenticator),
            key,
            place: place.into(),
            signers: Arc::new(Semaphore::new(SIGNERS)),
            conversations: AtomicU64::new(0),
        })
    }

    /// Takes other certificates and revocation lists; sessions stay, since each resumption is judged anew.
    ///
    /// # Errors
    /// [`Unusable`]; everything stays as it was.
    pub fn renew(&self, certificates: &Certificates) -> Result<(), Unusable> {
        self.renewed(certificates).map(|renew| renew())
    }

    /// The same in two steps: what is given back takes them.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn renewed(
        &self,
        certificates: &Certificates,
    ) -> Result<impl FnOnce() + use<'_>, Unusable> {
        let material = certificates.material(self.key.clone());
        let renewed = self.authenticator.load().renewed(material)?;
        Ok(move || self.authenticator.store(Arc::new(renewed)))
    }

    /// The element with the key.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Conversations that reached TLS.
    #[must_use]
    pub fn conversations(&self) -> u64 {
        self.conversations.load(Ordering::Relaxed)
    }

    /// Handshakes that are at the key or wait for it.
    #[must_use]
    pub fn signing(&self) -> usize {
        SIGNERS - self.signers.available_permits()
    }
}

/// An identity of the pool, on the host.
pub(super) struct Host {
    pub(super) identity: Identity,
    pub(super) on_host: Arc<OnHost>,
    pub(super) terms: ArcSwap<Terms>,
    pub(super) tuning: ArcSwap<Tuning>,
}

/// A conversation's end on the host.
pub(super) struct HostTls {
    host: Arc<Host>,
    dialogue: Option<Dialogue>,
    permit: Option<OwnedSemaphorePermit>,
}

impl HostTls {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            dialogue: None,
            permit: None,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.host.identity
    }

    pub(super) fn admits(&self, name: &str) -> bool {
        let terms = self.host.terms.load();
        terms.admits(name) && !self.host.identity.revoked.contains(name)
    }

    pub(super) fn reply(&self) -> Vec<(Type, Vec<u8>)> {
        self.host.terms.load().reply.attributes()
    }

    pub(super) fn place(&self) -> String {
        match self.dialogue {
            Some(_) => self.host.on_host.place.clone(),
            None => String::new(),
        }
    }

    /// The key is used in the server's first flight alone.
    pub(super) async fn is_ready(&mut self) -> bool {
        if self.dialogue.is_some() {
            return true;
        }
        let permit = self.host.on_host.signers.clone().acquire_owned();
        match timeout(self.host.tuning.load().patience, permit).await {
            Ok(Ok(permit)) => {
                self.permit = Some(permit);
                true
            }
            _ => false,
        }
    }

    pub(super) fn deliver(&mut self, packets: &[Vec<u8>], begins: bool) -> Result<Reply, Broken> {
        if begins {
            let OnHost {
                authenticator,
                conversations,
                ..
            } = &*self.host.on_host;
            conversations.fetch_add(1, Ordering::Relaxed);
            self.dialogue = Some(authenticator.load().converse());
        }
        let mut last = Reply::Discarded;
        for packet in packets {
            last = self.give(packet)?;
        }
        self.permit = None;
        Ok(last)
    }

    fn give(&mut self, packet: &[u8]) -> Result<Reply, Broken> {
        let Some(dialogue) = &mut self.dialogue else {
            return Err(Broken("no TLS".into()));
        };
        let now = u32::try_from(now()).unwrap_or(u32::MAX);
        match dialogue.receive(packet, now) {
            Answer::Packet(packet) => Ok(Reply::Packet(packet)),
            Answer::Discarded => Ok(Reply::Discarded),
            Answer::Unable => Err(Broken(
                "the policy leaves no TLS version or cipher suite".into(),
            )),
        }
    }

    pub(super) fn rest_of(&mut self, first: &[u8]) -> Result<Vec<Vec<u8>>, Broken> {
        let malformed = || Broken("fragments of the server are missing".into());
        let mut fragments: Vec<Vec<u8>> = Vec::new();
        loop {
            let last = fragments.last().map_or(first, Vec::as_slice);
            let (packet, _) = Packet::parse(last).map_err(|_| malformed())?;
            let fragment = Fragment::parse(packet.data).map_err(|_| malformed())?;
            if !fragment.more {
                return Ok(fragments);
            }
            let asking = Fragment::ACKNOWLEDGEMENT.encode();
            let asking = Packet::response(packet.identifier, EapType::TLS, &asking);
            match self.give(&asking.encode())? {
                Reply::Packet(next) if fragments.len() < MAX_FRAGMENTS => fragments.push(next),
                _ => return Err(malformed()),
            }
        }
    }

    pub(super) fn ended(&mut self) -> Result<Ended, Broken> {
        let ended = self.dialogue.as_mut().and_then(Dialogue::authenticated);
        let ended = ended.ok_or_else(|| Broken("no keys".into()))?;
        Ok(Ended {
            msk: ended.msk,
            session_id: ended.session_id,
            certificate: Zeroizing::new(ended.certificate),
        })
    }

    pub(super) fn session_keys(&mut self) -> Result<SessionKeys, Broken> {
        let keys = self.dialogue.as_mut().and_then(Dialogue::take_keys);
        let keys = keys.ok_or_else(|| Broken("the session has no keys any more".into()))?;
        let [v1, v2, s1, s2] = keys.suite;
        let (client, server) = keys.sequence.split_at(8);
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        Ok(SessionKeys {
            version: u16::from_be_bytes([v1, v2]),
            suite: u16::from_be_bytes([s1, s2]),
            key_block: keys.key_block,
            client_sequence: number(client),
            server_sequence: number(server),
        })
    }

    pub(super) fn let_go(&mut self) {
        self.dialogue = None;
        self.permit = None;
    }
}
