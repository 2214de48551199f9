//! A finished TLS handshake: EAP keys, and the session while it is in the card.

use std::sync::Arc;

use gose_proto::{
    apdu::StatusWord,
    eap::{Role, Type},
};
use rustls::{ConnectionTrafficSecrets, pki_types::CertificateDer};
use zeroize::Zeroizing;

use super::{
    engine::{Engine, Failed},
    identity::Identity,
    sessions::Asked,
    traffic,
};

/// What a handshake came to. The other end's certificate was accepted.
pub(super) struct Session {
    role: Role,
    /// Gone once the key block has left, a record did not open, or a fatal alert was sealed.
    engine: Option<Engine>,
    /// close_notify was sealed: nothing more is.
    closed: bool,
    /// MSK and EMSK.
    material: Zeroizing<[u8; 128]>,
    method_id: Vec<u8>,
    asked: Arc<Asked>,
    version: u16,
    suite: u16,
    resumed: bool,
    peer_chain: Vec<CertificateDer<'static>>,
    /// Numbers of the next records, client's and server's, once the session has left.
    sequence: Option<[u8; 16]>,
}

/// Content types (RFC 8446, 5.1; RFC 6520, 3).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;

/// Alert levels, and the alert that ends a direction in order (RFC 8446, 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

/// Clear text of one record (RFC 8446, 5.1).
const MAX_RECORD: usize = 16_384;

impl Session {
    /// Derives the keys of a finished handshake. A resumed session's chain is checked again first.
    pub(super) fn new(engine: Engine, identity: &Identity) -> Result<Self, Failed> {
        let refused = || Failed { alert: Vec::new() };
        if engine.is_resumed() && identity.verifier.accept_again(engine.peer_chain()).is_err() {
            engine.asked().forget();
            identity.forget_client_sessions();
            return Err(refused());
        }
        let (version, suite) = engine.version_and_suite().ok_or_else(refused)?;
        let context = [Type::TLS.0];
        let (material, method_id) = if engine.is_tls13() {
            // RFC 9190, 2.3
            let method_id = engine.export::<64>(b"EXPORTER_EAP_TLS_Method-Id", Some(&context));
            let material = engine.export(b"EXPORTER_EAP_TLS_Key_Material", Some(&context));
            (material, method_id.map(|id| id.to_vec()))
        } else {
            // RFC 5216, 2.3
            let randoms = engine.randoms(identity.role).map(|r| r.to_vec());
            (engine.export(b"client EAP encryption", None), randoms)
        };
        Ok(Self {
            role: identity.role,
            material: material.ok_or_else(refused)?,
            method_id: method_id.ok_or_else(refused)?,
            asked: engine.asked(),
            version,
            suite,
            resumed: engine.is_resumed(),
            peer_chain: engine.peer_chain().to_vec(),
            engine: Some(engine),
            closed: false,
            sequence: None,
        })
    }

    /// The engine, for records that still belong to the handshake.
    pub(super) fn engine(&mut self) -> Option<&mut Engine> {
        self.engine.as_mut()
    }

    /// The session is not resumed.
    pub(super) fn forget(&self, identity: &Identity) {
        self.asked.forget();
        identity.forget_client_sessions();
    }

    pub(super) fn is_tls13(&self) -> bool {
        self.version == 0x0304
    }

    /// Whether the handshake resumed an earlier session.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The MSK; `legacy` swaps its halves, as the draft's own code does.
    pub(super) fn msk(&self, legacy: bool) -> Vec<u8> {
        let mut msk = self.material[..64].to_vec();
        if legacy {
            msk.rotate_left(32);
        }
        msk
    }

    /// The EMSK: it leaves the card in no form (RFC 3748, 7.10), keys derived from it may.
    pub(super) fn emsk(&self) -> &[u8] {
        &self.material[64..]
    }

    pub(super) fn method_id(&self) -> &[u8] {
        &self.method_id
    }

    /// Type ‖ Method-Id (RFC 5216, 2.3; RFC 9190, 2.3).
    pub(super) fn session_id(&self) -> Vec<u8> {
        let mut id = vec![Type::TLS.0];
        id.extend_from_slice(&self.method_id);
        id
    }

    /// Version ‖ suite.
    pub(super) fn cipher_suite(&self) -> Vec<u8> {
        [self.version.to_be_bytes(), self.suite.to_be_bytes()].concat()
    }

    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        self.peer_chain.first().map(|der| der.as_ref())
    }

    /// Numbers of the next records, known once the key block has left.
    pub(super) fn sequence(&self) -> Option<[u8; 16]> {
        self.sequence
    }

    /// Seals application data, or an alert, as records.
    ///
    /// # Errors
    /// `6985` for handshake messages (they are the engine's: no second handshake runs on these keys), for
    /// change_cipher_spec and heartbeat, and where the session is not here; `6B00` for what is no content
    /// type of TLS; `6700` over one record; `6A80` for an alert that cannot be sent.
    pub(super) fn encrypt(
        &mut self,
        content_type: u8,
        clear: &[u8],
    ) -> Result<Vec<u8>, StatusWord> {
        match content_type {
            ALERT => self.alert(clear),
            APPLICATION_DATA => self.application_data(clear),
            CHANGE_CIPHER_SPEC | HANDSHAKE | HEARTBEAT => Err(StatusWord::CONDITIONS_NOT_SATISFIED),
            _ => Err(StatusWord::WRONG_P1_P2),
        }
    }

    fn open_engine(&mut self) -> Result<&mut Engine, StatusWord> {
        let engine = self.engine.as_mut().filter(|_| !self.closed);
        engine.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)
    }

    fn application_data(&mut self, clear: &[u8]) -> Result<Vec<u8>, StatusWord> {
        if clear.is_empty() || clear.len() > MAX_RECORD {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let sent = self.open_engine()?.send(clear);
        sent.map_err(|_| StatusWord::CONDITIONS_NOT_SATISFIED)
    }

    /// close_notify ends sealing, not opening; a fatal alert ends the session in the card. Other warnings
    /// have no meaning after the handshake.
    fn alert(&mut self, clear: &[u8]) -> Result<Vec<u8>, StatusWord> {
        let [level, description] = *clear else {
            return Err(StatusWord::WRONG_LENGTH);
        };
        self.open_engine()?;
        let records = match (level, description) {
            (WARNING, CLOSE_NOTIFY) => {
                self.closed = true;
                self.engine.as_mut().map(Engine::close)
            }
            (FATAL, _) if description != CLOSE_NOTIFY => self
                .engine
                .take()
                .and_then(|engine| engine.into_alert([level, description])),
            _ => return Err(StatusWord::INCORRECT_DATA),
        };
        records.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)
    }

    /// Opens a record.
    ///
    /// # Errors
    /// `6985` where the session is not here, or the record does not open; then the session is over.
    pub(super) fn decrypt(&mut self, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, StatusWord> {
        let engine = self
            .engine
            .as_mut()
            .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        match engine.receive_records(record) {
            Ok(()) => Ok(engine.take_clear()),
            Err(_) => {
                self.engine = None;
                Err(StatusWord::CONDITIONS_NOT_SATISFIED)
            }
        }
    }

    /// Gives the key block and erases the card's own copy.
    ///
    /// # Errors
    /// `6A88` when it has left before.
    pub(super) fn export_key_block(&mut self) -> Result<Zeroizing<Vec<u8>>, StatusWord> {
        let engine = self
            .engine
            .take()
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
        let (extracted, first) = engine
            .into_secrets()
            .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let ((own_seq, own), (peer_seq, peer)) = (extracted.tx, extracted.rx);
        let ((client_seq, client), (server_seq, server)) = match self.role {
            Role::Peer => ((own_seq, own), (peer_seq, peer)),
            Role::Authenticator => ((peer_seq, peer), (own_seq, own)),
        };
        let block = if self.is_tls13() {
            let mut block = traffic::current(&first.client(), &client);
            if let (Some(block), Some(server)) =
                (&mut block, traffic::current(&first.server(), &server))
            {
                block.extend_from_slice(&server);
            }
            block
        } else {
            key_block(&client, &server)
        };
        let mut sequence = [0; 16];
        sequence[..8].copy_from_slice(&client_seq.to_be_bytes());
        sequence[8..].copy_from_slice(&server_seq.to_be_bytes());
        self.sequence = Some(sequence);
        block.ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)
    }
}

/// client key ‖ server key ‖ client IV ‖ server IV (RFC 5246, 6.3; no MAC keys with AEAD). GCM has a salt of
/// four bytes there (RFC 5288, 3), ChaCha20-Poly1305 twelve (RFC 7905, 2).
fn key_block(
    client: &ConnectionTrafficSecrets,
    server: &ConnectionTrafficSecrets,
) -> Option<Zeroizing<Vec<u8>>> {
    let (client_key, client_iv) = key_and_iv(client)?;
    let (server_key, server_iv) = key_and_iv(server)?;
    let mut block = Zeroizing::new(Vec::with_capacity(88));
    for part in [client_key, server_key, client_iv, server_iv] {
        block.extend_from_slice(part);
    }
    Some(block)
}

fn key_and_iv(secrets: &ConnectionTrafficSecrets) -> Option<(&[u8], &[u8])> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            Some((key.as_ref(), &iv.as_ref()[..4]))
        }
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Some((key.as_ref(), iv.as_ref())),
        _ => None,
    }
}
