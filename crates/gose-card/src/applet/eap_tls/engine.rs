//! TLS as an engine of bytes: records in, records out, nothing else.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use gose_proto::eap::Role;
use rustls::{
    ClientConfig, ClientConnection, Connection, ConnectionTrafficSecrets, ContentType,
    ExtractedSecrets, HandshakeKind, KeyLog, ProtocolVersion, ServerConfig, ServerConnection,
    SupportedCipherSuite, SupportedProtocolVersion,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage},
    server::{NoServerSessionStorage, StoresServerSessions, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use zeroize::Zeroizing;

use super::{
    clock::Clock,
    identity::{Identity, server_name},
    sessions::Asked,
};

/// Clear text that one flight may bring.
const MAX_CLEAR: usize = 65_536;

/// A TLS connection in the card.
pub(super) struct Engine {
    connection: Connection,
    secrets: Arc<TrafficSecrets>,
    asked: Arc<Asked>,
    sent: Hello,
    received: Hello,
    clear: Zeroizing<Vec<u8>>,
}

/// TLS failed; the engine is of no further use.
pub(super) struct Failed {
    /// Records to send: a fatal alert, or nothing where the other end sent one.
    pub(super) alert: Vec<u8>,
}

/// Why there is no engine: the identity's policy leaves no version or suite.
#[derive(Debug)]
pub(super) struct Unusable;

impl Engine {
    /// An engine in the identity's role. A client has its ClientHello ready: see [`Engine::take_output`].
    pub(super) fn new(identity: &Identity, clock: &Arc<Clock>) -> Result<Self, Unusable> {
        let secrets = Arc::new(TrafficSecrets::default());
        let asked = Arc::new(Asked::new(identity.server_sessions.clone()));
        let connection = match identity.role {
            Role::Peer => client(identity, clock, secrets.clone()),
            Role::Authenticator => server(identity, clock, secrets.clone(), asked.clone()),
        };
        Ok(Self {
            connection: connection.map_err(|_| Unusable)?,
            secrets,
            asked,
            sent: Hello::default(),
            received: Hello::default(),
            clear: Zeroizing::default(),
        })
    }

    /// Takes records of the other end; gives the records to answer.
    pub(super) fn receive(&mut self, records: &[u8]) -> Result<Vec<u8>, Failed> {
        self.receive_records(records)?;
        Ok(self.take_output())
    }

    /// Takes records of the other end; an answer, if there is one, goes out with the next records sent.
    pub(super) fn receive_records(&mut self, records: &[u8]) -> Result<(), Failed> {
        self.received.note(records);
        let mut rest = records;
        while !rest.is_empty() {
            let taken = self.connection.read_tls(&mut rest).unwrap_or(0);
            let processed = self.connection.process_new_packets();
            let waiting = processed.map(|state| state.plaintext_bytes_to_read());
            let read = waiting.map_err(drop).and_then(|n| self.read_clear(n));
            if read.is_err() || taken == 0 {
                return Err(Failed {
                    alert: self.take_output(),
                });
            }
        }
        Ok(())
    }

    /// Seals application data; gives the records.
    pub(super) fn send(&mut self, clear: &[u8]) -> Result<Vec<u8>, Failed> {
        let written = self.connection.writer().write_all(clear);
        let records = self.take_output();
        written
            .map(|()| records)
            .map_err(|_| Failed { alert: Vec::new() })
    }

    /// Seals close_notify; gives the record.
    pub(super) fn close(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        self.take_output()
    }

    /// Seals a fatal alert of the host's choice; the connection is gone then. rustls sends alerts of its own
    /// choice only, so the record is made with the suite and the keys that it leaves behind.
    pub(super) fn into_alert(self, alert: [u8; 2]) -> Option<Vec<u8>> {
        let suite = self.connection.negotiated_cipher_suite()?;
        let (extracted, _) = self.into_secrets()?;
        let (sequence, secrets) = extracted.tx;
        let mut encrypter = encrypter(suite, secrets)?;
        let message = OutboundPlainMessage {
            typ: ContentType::Alert,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(&alert),
        };
        let sealed = encrypter.encrypt(message, sequence).ok()?;
        Some(sealed.encode())
    }

    /// Records that wait to be sent.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a Vec does not fail.
        while self.connection.wants_write() && self.connection.write_tls(&mut out).is_ok() {}
        self.sent.note(&out);
        out
    }

    /// Application data that came since the last call.
    pub(super) fn take_clear(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.clear)
    }

    fn read_clear(&mut self, waiting: usize) -> Result<(), ()> {
        let start = self.clear.len();
        if start + waiting > MAX_CLEAR {
            return Err(());
        }
        if waiting == 0 {
            return Ok(());
        }
        // A vector that grows leaves its old bytes behind, so a new one is made and the old one wiped.
        let mut clear = Zeroizing::new(Vec::with_capacity(start + waiting));
        clear.extend_from_slice(&self.clear);
        clear.resize(start + waiting, 0);
        let read = self.connection.reader().read_exact(&mut clear[start..]);
        self.clear = clear;
        read.map_err(drop)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(super) fn is_tls13(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The sessions of this handshake, to forget them.
    pub(super) fn asked(&self) -> Arc<Asked> {
        self.asked.clone()
    }

    /// The other end's chain, leaf first; of a resumed session the one that it once showed.
    pub(super) fn peer_chain(&self) -> &[rustls::pki_types::CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// Protocol version and cipher suite as on the line.
    pub(super) fn version_and_suite(&self) -> Option<(u16, u16)> {
        let version = self.connection.protocol_version()?;
        let suite = self.connection.negotiated_cipher_suite()?;
        Some((version.into(), suite.suite().into()))
    }

    /// Exporter of RFC 5705 and RFC 8446, 7.5.
    pub(super) fn export<const N: usize>(
        &self,
        label: &[u8],
        context: Option<&[u8]>,
    ) -> Option<Zeroizing<[u8; N]>> {
        let out = Zeroizing::new([0; N]);
        let out = self.connection.export_keying_material(out, label, context);
        out.ok()
    }

    /// Random values of ClientHello and ServerHello: TLS 1.2's Session-Id (RFC 5216, 2.3).
    pub(super) fn randoms(&self, role: Role) -> Option<[u8; 64]> {
        let (client, server) = match role {
            Role::Peer => (&self.sent, &self.received),
            Role::Authenticator => (&self.received, &self.sent),
        };
        let mut randoms = [0; 64];
        randoms[..32].copy_from_slice(client.random()?);
        randoms[32..].copy_from_slice(server.random()?);
        Some(randoms)
    }

    /// The session's secrets; the connection is gone then.
    pub(super) fn into_secrets(self) -> Option<(ExtractedSecrets, Arc<TrafficSecrets>)> {
        let extracted = self.connection.dangerous_extract_secrets().ok()?;
        Some((extracted, self.secrets))
    }
}

/// A direction's record protection. TLS 1.2's AES-GCM has a salt of four bytes and an explicit part of eight
/// (RFC 5288, 3); rustls keeps both together.
fn encrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Option<Box<dyn MessageEncrypter>> {
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        return None;
    };
    Some(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            let (salt, explicit) = iv.as_ref().split_at_checked(fixed)?;
            suite.aead_alg.encrypter(key, salt, explicit)
        }
    })
}

fn client(
    identity: &Identity,
    clock: &Arc<Clock>,
    secrets: Arc<TrafficSecrets>,
) -> Result<Connection, rustls::Error> {
    let verifier: Arc<dyn ServerCertVerifier> = identity.verifier.clone();
    let mut config = ClientConfig::builder_with_details(identity.provider.clone(), clock.clone())
        .with_protocol_versions(versions(identity))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity.credential.clone());
    config.resumption = match &identity.client_sessions {
        Some(sessions) => Resumption::store(sessions.clone()),
        None => Resumption::disabled(),
    };
    config.enable_sni = false;
    config.require_ems = true;
    config.enable_secret_extraction = true;
    config.key_log = secrets;
    ClientConnection::new(Arc::new(config), server_name()).map(Connection::from)
}

fn server(
    identity: &Identity,
    clock: &Arc<Clock>,
    secrets: Arc<TrafficSecrets>,
    asked: Arc<Asked>,
) -> Result<Connection, rustls::Error> {
    let verifier: Arc<dyn ClientCertVerifier> = identity.verifier.clone();
    let sessions: Arc<dyn StoresServerSessions> = if identity.policy.resumption {
        asked
    } else {
        Arc::new(NoServerSessionStorage {})
    };
    let mut config = ServerConfig::builder_with_details(identity.provider.clone(), clock.clone())
        .with_protocol_versions(versions(identity))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.credential.clone());
    config.session_storage = sessions;
    config.send_tls13_tickets = 1;
    config.require_ems = true;
    config.enable_secret_extraction = true;
    config.key_log = secrets;
    ServerConnection::new(Arc::new(config)).map(Connection::from)
}

fn versions(identity: &Identity) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match (identity.policy.min_version, identity.policy.max_version) {
        (0x0304, _) => &BOTH[..1],
        (_, 0x0303) => &BOTH[1..],
        _ => &BOTH,
    }
}

/// The first record of a direction, up to the random value of its hello.
#[derive(Default)]
struct Hello(Vec<u8>);

impl Hello {
    /// Record header, handshake header, version, random.
    const LENGTH: usize = 5 + 4 + 2 + 32;

    fn note(&mut self, records: &[u8]) {
        let missing = Self::LENGTH.saturating_sub(self.0.len());
        self.0.extend(records.iter().take(missing));
    }

    fn random(&self) -> Option<&[u8]> {
        self.0.get(Self::LENGTH - 32..Self::LENGTH)
    }
}

/// Application traffic secrets of TLS 1.3 as they were first: no other way leads to them.
#[derive(Default)]
pub(super) struct TrafficSecrets {
    client: Mutex<Zeroizing<Vec<u8>>>,
    server: Mutex<Zeroizing<Vec<u8>>>,
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl TrafficSecrets {
    pub(super) fn client(&self) -> Zeroizing<Vec<u8>> {
        self.client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn server(&self) -> Zeroizing<Vec<u8>> {
        self.server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl std::fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrafficSecrets")
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let place = match label {
            CLIENT => &self.client,
            SERVER => &self.server,
            _ => return,
        };
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Zeroizing::new(secret.to_vec());
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}
