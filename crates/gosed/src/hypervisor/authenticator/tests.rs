//! A guest, a RADIUS server that says what a test wants, and a hook for a port.

use std::{fs, os::unix::fs::PermissionsExt};

use gose_proto::radius::{Packet as Radius, Secret, disconnect::Disconnect};
use tokio::{io::duplex, net::UdpSocket};

use super::*;
use crate::{clock::Clock, hypervisor::domain::tests::domain_with};

const IDENTITY: [u8; 8] = [2, 1, 0, 8, 1, b'v', b'm', b'1'];
const SUCCESS: [u8; 4] = [3, 2, 0, 4];
const FAILURE: [u8; 4] = [4, 2, 0, 4];
const START: [u8; 6] = [1, 2, 0, 6, 13, 0x20];
const NAK: [u8; 6] = [2, 2, 0, 6, 3, 25];

fn secret() -> Secret {
    Secret::new(b"testing123".to_vec()).unwrap()
}

struct World {
    folder: tempfile::TempDir,
    authenticator: Authenticator,
    domain: Arc<Domain>,
    disconnect: SocketAddr,
}

impl World {
    /// With a server that answers a request, given its number, with what `answer` builds.
    async fn new(answer: fn(usize, &Radius<'_>) -> Option<Builder>) -> Self {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            for number in 0.. {
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                let packet = Radius::parse(&buffer[..length]).unwrap();
                assert_eq!(packet.verify_request(&secret()), Some(true));
                if let Some(builder) = answer(number, &packet) {
                    let bytes = builder.answer(&packet.request_authenticator(), &secret());
                    server.send_to(&bytes.unwrap(), from).await.unwrap();
                }
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let hook = path.join("hook");
        fs::write(path.join("secret"), "testing123").unwrap();
        fs::set_permissions(path.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "#!/bin/sh\necho $1 $GOSE_REASON >>{}/told\n",
            path.display()
        );
        fs::write(&hook, text).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).unwrap();
        let probe = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let disconnect = probe.local_addr().unwrap();
        drop(probe);
        let section = format!(
            "servers = [\"{address}\"]\nsecret = \"file:{}/secret\"\nport = \"hook\"\nhook = \"{}\"\ndisconnect = \"{disconnect}\"\n",
            path.display(),
            hook.display()
        );
        let section: config::Authenticator = toml::from_str(&section).unwrap();
        let secret = servers::secret(&section).unwrap().unwrap();
        let ports = Ports::new(
            Gate::new(section.port, section.hook.as_ref()),
            Driver::Process,
        );
        let ports = Arc::new(ports.unwrap());
        let mut disconnects = JoinSet::new();
        let port = DisconnectPort::bind(disconnect, secret.clone(), &section, "hv-1").unwrap();
        disconnects.spawn(port.serve(ports.clone()));
        let servers = Servers::Udp {
            addresses: section.servers,
            secret,
            good: Default::default(),
        };
        Self {
            authenticator: Authenticator {
                servers,
                nas: "hv-1".into(),
                ports,
                verdicts: Default::default(),
                _disconnects: disconnects,
            },
            domain: domain_with(Duration::from_secs(60)),
            disconnect,
            folder,
        }
    }

    /// One conversation, in which the guest sends these packets, or closes; what it heard.
    async fn converse(&self, says: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut guest, mut ours) = duplex(8192);
        let served = async {
            self.authenticator.converse(&self.domain, &mut ours).await;
            drop(ours);
        };
        let guest = async move {
            let mut heard = Vec::new();
            let mut says = says.iter();
            while let Ok(Some(packet)) = eap_relay::receive(&mut guest).await {
                heard.push(packet);
                match says.next() {
                    Some(packet) => eap_relay::send(&mut guest, packet).await.unwrap(),
                    None if heard.len() == 1 => eap_relay::close(&mut guest).await.unwrap(),
                    None => {}
                }
            }
            heard
        };
        tokio::join!(served, guest).1
    }

    fn is_open(&self) -> bool {
        self.authenticator.ports.open_now() == 1
    }

    fn told(&self) -> String {
        let told = fs::read_to_string(self.folder.path().join("told"));
        told.unwrap_or_default().replace('\n', ";")
    }

    /// Sends a Disconnect-Request; the code of the answer and its cause.
    async fn disconnect(&self, asked: &Disconnect<'_>) -> Option<(Code, Vec<u8>)> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let bytes = asked.encode(3, &secret()).unwrap();
        socket.send_to(&bytes, self.disconnect).await.unwrap();
        let mut buffer = [0; 4096];
        let heard = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
        let answer = Radius::parse(&buffer[..heard.ok()?.unwrap()]).unwrap();
        let cause = answer.first(Type::ERROR_CAUSE);
        Some((
            answer.code,
            cause.map(|it| it.value.to_vec()).unwrap_or_default(),
        ))
    }
}

fn accept(packet: &Radius<'_>) -> Builder {
    Builder::new(Code::AccessAccept, packet.identifier).eap(&SUCCESS)
}

#[tokio::test]
async fn the_port_opens_with_access_accept_and_closes_by_logoff() {
    let world = World::new(|number, packet| {
        let text = |kind| {
            packet
                .first(kind)
                .and_then(|one| one.text())
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            (text(Type::USER_NAME), text(Type::NAS_IDENTIFIER)),
            ("vm1".into(), "hv-1".into())
        );
        let eap = packet.eap().unwrap();
        Some(match number {
            0 => {
                assert_eq!((eap, packet.first(Type::STATE)), (IDENTITY.to_vec(), None));
                Builder::new(Code::AccessChallenge, packet.identifier)
                    .eap(&START)
                    .attribute(Type::STATE, b"s")
            }
            _ => {
                assert_eq!(eap, NAK);
                assert_eq!(packet.first(Type::STATE).unwrap().value, b"s");
                accept(packet)
            }
        })
    })
    .await;
    assert!(!world.is_open());
    let heard = world.converse(&[&IDENTITY, &NAK]).await;
    assert_eq!(heard[1..], [START.to_vec(), SUCCESS.to_vec()]);
    assert!(world.is_open());
    // Closing instead of an identity is a logoff.
    assert_eq!(world.converse(&[]).await.len(), 1);
    assert!(!world.is_open());
    assert_eq!(world.told(), "open;close logoff;");
    assert_eq!(world.authenticator.verdicts(), [1, 0, 0]);
}

#[tokio::test]
async fn a_reject_closes_it_and_a_conversation_that_breaks_leaves_it() {
    let world = World::new(|number, packet| {
        Some(match number {
            0 => accept(packet),
            // A verdict that contradicts itself is none.
            1 => Builder::new(Code::AccessAccept, packet.identifier).eap(&FAILURE),
            2 => Builder::new(Code::AccessAccept, packet.identifier),
            3 => Builder::new(Code::AccessChallenge, packet.identifier).eap(&SUCCESS),
            _ => Builder::new(Code::AccessReject, packet.identifier).eap(&FAILURE),
        })
    })
    .await;
    for (heard, open) in [
        (vec![SUCCESS.to_vec()], true),
        (vec![], true),
        (vec![], true),
        (vec![], true),
        (vec![FAILURE.to_vec()], false),
    ] {
        assert_eq!(world.converse(&[&IDENTITY]).await[1..], heard);
        assert_eq!(world.is_open(), open);
    }
    // What is no EAP response goes to no server.
    assert_eq!(world.converse(&[&START]).await.len(), 1);
    assert_eq!(world.authenticator.verdicts(), [1, 1, 4]);
    assert_eq!(world.told(), "open;close rejected;");
}

#[tokio::test]
async fn the_session_ends_in_time_and_terms_that_are_not_understood_open_nothing() {
    let world = World::new(|number, packet| {
        let accept = accept(packet);
        Some(match number {
            0 => accept.attribute(Type::FILTER_ID, &[0xFF]),
            1 => accept.attribute(Type::SESSION_TIMEOUT, &[1]),
            _ => accept
                .integer(Type::SESSION_TIMEOUT, 1)
                .attribute(Type::FILTER_ID, b"guests"),
        })
    })
    .await;
    for _ in 0..2 {
        assert_eq!(world.converse(&[&IDENTITY]).await.len(), 1);
        assert!(!world.is_open());
    }
    assert_eq!(world.converse(&[&IDENTITY]).await.len(), 2);
    assert!(world.is_open());
    let begun = std::time::Instant::now();
    while world.is_open() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(800));
    assert_eq!(world.told(), "open;close session-timeout;");
}

#[tokio::test]
async fn disconnect_requests_close_what_they_mean() {
    let world = World::new(|_, packet| Some(accept(packet))).await;
    world.converse(&[&IDENTITY]).await;
    let vm = world.domain.vm().to_string();
    let now = u32::try_from(Clock::seconds()).unwrap();
    let asked = |user, nas, now| Disconnect {
        user,
        calling: &vm,
        nas,
        now,
        ..Disconnect::default()
    };
    let nak = |cause: u32| Some((Code::DisconnectNak, cause.to_be_bytes().to_vec()));
    assert_eq!(world.disconnect(&asked("other", "", now)).await, nak(503));
    assert_eq!(world.disconnect(&asked("vm1", "hv-2", now)).await, nak(403));
    assert_eq!(world.disconnect(&asked("vm1", "", now - 301)).await, None);
    assert!(world.is_open());
    let ack = Some((Code::DisconnectAck, vec![]));
    assert_eq!(world.disconnect(&asked("vm1", "hv-1", now)).await, ack);
    assert!(!world.is_open());
    // The same packet again, to a session that began since, is answered and does nothing.
    world.converse(&[&IDENTITY]).await;
    assert_eq!(world.disconnect(&asked("vm1", "hv-1", now)).await, ack);
    assert!(world.is_open());
}

#[tokio::test]
async fn a_guest_that_ended_meanwhile_gets_no_port() {
    let world = World::new(|_, packet| Some(accept(packet))).await;
    world.domain.end();
    assert_eq!(world.converse(&[&IDENTITY]).await.len(), 1);
    assert!(!world.is_open());
    assert_eq!(world.authenticator.verdicts(), [0, 0, 1]);
}

#[test]
fn vlans_have_a_tag_or_none() {
    let answer = |value: &[u8]| Answer {
        code: Code::AccessAccept,
        eap: None,
        state: None,
        msk: None,
        attributes: vec![(Type::TUNNEL_PRIVATE_GROUP_ID, value.to_vec())],
    };
    let check = |value: &[u8], expected: Option<&str>| {
        let found = terms(&answer(value)).ok().and_then(|terms| terms.vlan);
        assert_eq!(found.as_deref(), expected);
    };
    check(b"\x0142", Some("42"));
    check(b"42", Some("42"));
    check(b"", None);
    check(b"\x01", None);
    check(b"4\n2", None);
}
