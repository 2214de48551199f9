//! The authenticator without a card around it, for a host that leaves nothing but its private key in an element.
//!
//! EAP and TLS are the card's own code, so that both answer a peer with the same packets. What differs is trust: the
//! session's secrets, and what a session is resumed by, are in the host's memory.

use std::sync::Arc;

use gose_proto::eap::records::Policy;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    clock::Clock,
    conversation::{Conversation, Output},
    identity::{Identity, Parts},
    sessions::Sessions,
};
use crate::keystore::PrivateKey;

/// What an authenticator is made of; certificates and lists are DER.
pub struct Material<'a> {
    /// Its certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf, wherever it lives. It signs on the thread that calls [`Dialogue::receive`].
    pub key: Arc<dyn PrivateKey>,
    /// Authorities of peers.
    pub anchors: Vec<&'a [u8]>,
    /// Certificate revocation lists.
    pub crls: Vec<&'a [u8]>,
    /// Versions, suites, fragments, resumption.
    pub policy: Policy,
    /// Sessions to be resumed, kept at most; a session costs some 2 kB.
    pub sessions: usize,
}

/// Why there is no authenticator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no authenticator: the certificate is for another key, or an anchor or a revocation list cannot be read"
)]
pub struct Unusable;

/// An EAP-TLS authenticator; its conversations run side by side and share their sessions.
#[derive(Clone)]
pub struct Authenticator {
    identity: Arc<Identity>,
    clock: Arc<Clock>,
}

/// What an EAP packet came to.
pub enum Reply {
    /// Send this packet.
    Packet(
        /// An EAP packet.
        Vec<u8>,
    ),
    /// Silently discarded (RFC 3748, 4.1).
    Discarded,
    /// The policy leaves no version or suite.
    Unable,
}

/// What a conversation came to.
pub struct Authenticated {
    /// The master session key.
    pub msk: Zeroizing<[u8; 64]>,
    /// Session-Id (RFC 5216, 2.3; RFC 9190, 2.3).
    pub session_id: Vec<u8>,
    /// The peer's certificate, which was accepted: DER.
    pub certificate: Vec<u8>,
}

/// Keys of the TLS session.
pub struct Keys {
    /// Version and suite as on the line.
    pub suite: [u8; 4],
    /// As parameter 81 of the card has it.
    pub key_block: Zeroizing<Vec<u8>>,
    /// Numbers of the next records: the client's, the server's (8 bytes each, big endian).
    pub sequence: [u8; 16],
}

/// One conversation.
pub struct Dialogue {
    conversation: Conversation,
    clock: Arc<Clock>,
}

impl Authenticator {
    /// An authenticator without sessions.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn new(material: Material<'_>) -> Result<Self, Unusable> {
        let clock = Arc::new(Clock::default());
        let sessions = Arc::new(Sessions::new(material.sessions, clock.clone()));
        Self::with(material, clock, sessions)
    }

    /// Another one that takes over the sessions of this one: a resumed session's peer is judged anew each time.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn renewed(&self, material: Material<'_>) -> Result<Self, Unusable> {
        let sessions = self.identity.server_sessions.clone();
        Self::with(material, self.clock.clone(), sessions)
    }

    fn with(
        material: Material<'_>,
        clock: Arc<Clock>,
        sessions: Arc<Sessions>,
    ) -> Result<Self, Unusable> {
        let parts = Parts {
            chain: material.chain,
            key: material.key,
            anchors: material.anchors,
            crls: material.crls,
            policy: material.policy,
            sessions,
        };
        let identity = Arc::new(Identity::of_parts(parts, &clock).ok_or(Unusable)?);
        Ok(Self { identity, clock })
    }

    /// A conversation, which begins with the peer's EAP-Response/Identity.
    #[must_use]
    pub fn converse(&self) -> Dialogue {
        let mut conversation = Conversation::new(self.identity.clone(), self.clock.clone());
        conversation.reset();
        Dialogue {
            conversation,
            clock: self.clock.clone(),
        }
    }
}

impl Dialogue {
    /// Takes an EAP response at `now`, in seconds since 1970. Signs where it is the server's turn to.
    pub fn receive(&mut self, response: &[u8], now: u32) -> Reply {
        self.clock.set(now);
        match self.conversation.process(response) {
            Ok(Output::Packet(packet)) => Reply::Packet(packet),
            Ok(Output::Taken | Output::Discarded | Output::Failed) => Reply::Discarded,
            Err(_) => Reply::Unable,
        }
    }

    /// Keys and peer, after EAP-Success.
    pub fn authenticated(&mut self) -> Option<Authenticated> {
        let session = self.conversation.session()?;
        let mut msk = Zeroizing::new([0; 64]);
        let own = Zeroizing::new(session.msk(false));
        msk.copy_from_slice(&own);
        Some(Authenticated {
            msk,
            session_id: session.session_id(),
            certificate: session.peer_certificate()?.to_vec(),
        })
    }

    /// The keys of the session, after EAP-Success, once.
    pub fn take_keys(&mut self) -> Option<Keys> {
        let session = self.conversation.session()?;
        let suite = session.cipher_suite().try_into().ok()?;
        let key_block = session.export_key_block().ok()?;
        Some(Keys {
            suite,
            key_block,
            sequence: session.sequence()?,
        })
    }
}
