//! A peer of the load: EAP-TLS by rustls over RADIUS, as light as it can be, the same against every server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gose_client::radius::Client;
use gose_proto::{
    eap::{Fragment, Fragmenter, Packet, Reassembled, Reassembler, Type},
    radius::{
        Code, Secret,
        client::{Access, Answer, Timers},
    },
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
};

use super::credentials::Credentials;
use crate::child::Outcome;

/// TLS data bytes of a fragment.
const FRAGMENT: usize = 1398;

/// What one authentication came to.
pub(crate) struct Done {
    pub(crate) resumed: bool,
}

/// A peer behind a port of its own.
pub(crate) struct Peer {
    client: Client,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    calling: String,
}

/// The EAP end of one conversation.
struct Conversation {
    tls: ClientConnection,
    arriving: Reassembler,
    leaving: Fragmenter,
}

impl Peer {
    pub(crate) fn new(
        server: SocketAddr,
        credentials: &Credentials,
        version: &'static SupportedProtocolVersion,
        resumes: bool,
        number: usize,
    ) -> Outcome<Self> {
        let provider = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        };
        let (chain, key) = credentials.peer()?;
        let mut tls = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])?
            .with_root_certificates(credentials.roots()?)
            .with_client_auth_cert(chain, key)?;
        tls.enable_sni = false;
        tls.resumption = if resumes {
            Resumption::in_memory_sessions(8)
        } else {
            Resumption::disabled()
        };
        let timers = Timers {
            initial: Duration::from_secs(2),
            patience: Duration::from_secs(60),
            count: 20,
            ..Timers::DEFAULT
        };
        let secret = Secret::new(super::SECRET.to_vec()).ok_or("no secret")?;
        Ok(Self {
            client: Client::udp(server, secret, timers)?,
            tls: Arc::new(tls),
            name: ServerName::try_from(super::SERVER_NAME)?,
            calling: format!("02-00-00-00-{:02X}-{:02X}", number >> 8, number & 0xFF),
        })
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.client.sent()
    }

    /// One authentication; both ends must have the same keys.
    pub(crate) fn authenticate(&mut self) -> Outcome<Done> {
        let mut conversation = self.begin()?;
        let mut answer = self.identify()?;
        loop {
            if answer.code != Code::AccessChallenge {
                return conversation.end(&answer);
            }
            let response = conversation.answer(answer.eap.as_deref().unwrap_or_default())?;
            answer = self.send(answer.state.as_deref(), &response)?;
        }
    }

    /// Goes on up to the server's first flight, or to EAP-TLS Start alone, and falls silent.
    pub(crate) fn half_open(&mut self, hello: bool) -> Outcome<()> {
        let mut conversation = self.begin()?;
        let answer = self.identify()?;
        if hello {
            let response = conversation.answer(answer.eap.as_deref().unwrap_or_default())?;
            let answer = self.send(answer.state.as_deref(), &response)?;
            if answer.code != Code::AccessChallenge {
                return Err("no challenge".into());
            }
        }
        Ok(())
    }

    fn begin(&self) -> Outcome<Conversation> {
        Ok(Conversation {
            tls: ClientConnection::new(self.tls.clone(), self.name.clone())?,
            arriving: Reassembler::default(),
            leaving: Fragmenter::new(Vec::new(), FRAGMENT),
        })
    }

    fn identify(&mut self) -> Outcome<Answer> {
        let identity = Packet::response(0, Type::IDENTITY, super::IDENTITY).encode();
        self.send(None, &identity)
    }

    fn send(&mut self, state: Option<&[u8]>, eap: &[u8]) -> Outcome<Answer> {
        Ok(self.client.access(&Access {
            user_name: super::IDENTITY,
            nas_identifier: "gose-bench",
            calling_station: &self.calling,
            framed_mtu: 1400,
            state,
            eap,
        })?)
    }
}

impl Conversation {
    fn answer(&mut self, request: &[u8]) -> Outcome<Vec<u8>> {
        let (packet, _) = Packet::parse(request)?;
        if packet.kind != Some(Type::TLS) {
            return Err("another method than EAP-TLS".into());
        }
        let fragment = Fragment::parse(packet.data)?;
        let data = self.flight(&fragment)?;
        Ok(Packet::response(packet.identifier, Type::TLS, &data).encode())
    }

    fn flight(&mut self, fragment: &Fragment<'_>) -> Outcome<Vec<u8>> {
        let acknowledgement = Fragment::ACKNOWLEDGEMENT.encode();
        if !self.leaving.is_done() {
            return Ok(self.leaving.next_fragment().unwrap_or(acknowledgement));
        }
        if !fragment.start {
            let records = match self.arriving.receive(fragment)? {
                Reassembled::More => return Ok(acknowledgement),
                Reassembled::Whole(records) => records,
            };
            let mut rest = records.as_slice();
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest)?;
                self.tls.process_new_packets()?;
            }
        }
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out)?;
        }
        self.leaving = Fragmenter::new(out, FRAGMENT);
        Ok(self.leaving.next_fragment().unwrap_or(acknowledgement))
    }

    fn end(&self, answer: &Answer) -> Outcome<Done> {
        if answer.code != Code::AccessAccept {
            return Err("rejected".into());
        }
        let tls13 = self.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let (label, context): (&[u8], _) = if tls13 {
            (b"EXPORTER_EAP_TLS_Key_Material", Some(&[Type::TLS.0][..]))
        } else {
            (b"client EAP encryption", None)
        };
        let own = self.tls.export_keying_material([0; 128], label, context)?;
        if answer.msk.as_deref().map(<[u8; 64]>::as_slice) != Some(&own[..64]) {
            return Err("the server has other keys".into());
        }
        Ok(Done {
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}
