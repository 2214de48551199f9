//! An EAP-TLS peer that is no element: an ordinary TLS client under plain EAP, against an authenticator's
//! element.

use std::{io::Read, sync::Arc};

use gose_element::drive::eap_tls::{EapTls, Opening};
use gose_proto::eap::{Code, Fragment, Fragmenter, Packet, Reassembled, Reassembler, Role, Type};
use gose_testkit::{
    pki::{Authority, Leaf},
    world::{NOW, Options, PIN, World, label},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName, version};

fn client(authority: &Authority, version: u16, leaf: Option<&Leaf>) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let versions = match version {
        0x0303 => &version::TLS12,
        _ => &version::TLS13,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[versions])
        .unwrap()
        .with_root_certificates(roots);
    let config = match leaf {
        Some(leaf) => config
            .with_client_auth_cert(leaf.chain.clone(), leaf.key())
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    let name = ServerName::try_from("authenticator.test").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// What the client came to, the authenticator's last packet, and both MSKs where there are any.
struct Outcome {
    end: Code,
    client_msk: Option<Vec<u8>>,
    authenticator_msk: Option<Vec<u8>>,
    protected: bool,
}

fn authenticate(world: &mut World, mut client: ClientConnection, fragments: usize) -> Outcome {
    let opening = Opening::new(PIN, label(Role::Authenticator));
    let mut end = EapTls::open(&mut world.authenticator, &opening).unwrap();
    let mut response = Packet::response(1, Type::IDENTITY, b"@foreign").encode();
    let mut arriving = Reassembler::default();
    let mut leaving = Fragmenter::new(Vec::new(), 1);
    let mut protected = false;
    let code = loop {
        let reply = end.process(&response, Some(NOW)).unwrap();
        let (request, _) = Packet::parse(reply.packet().unwrap()).unwrap();
        if request.code != Code::Request {
            break request.code;
        }
        let fragment = Fragment::parse(request.data).unwrap();
        if leaving.is_done()
            && !fragment.start
            && let Reassembled::Whole(records) = arriving.receive(&fragment).unwrap()
        {
            let mut rest = records.as_slice();
            while !rest.is_empty() && client.read_tls(&mut rest).unwrap() > 0 {
                let _ = client.process_new_packets();
            }
            let mut clear = [1; 2];
            protected |= matches!(client.reader().read(&mut clear), Ok(1)) && clear[0] == 0;
        }
        if leaving.is_done() && !fragment.more {
            let mut out = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut out).unwrap();
            }
            leaving = Fragmenter::new(out, fragments);
        }
        let next = leaving.next_fragment();
        let data = next.unwrap_or_else(|| Fragment::ACKNOWLEDGEMENT.encode());
        response = Packet::response(request.identifier, Type::TLS, &data).encode();
    };
    let exported = match client.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => {
            client.export_keying_material([0; 128], b"EXPORTER_EAP_TLS_Key_Material", Some(&[13]))
        }
        _ => client.export_keying_material([0; 128], b"client EAP encryption", None),
    };
    Outcome {
        end: code,
        client_msk: exported.ok().map(|material| material[..64].to_vec()),
        authenticator_msk: end.msk().ok().map(|msk| msk.to_vec()),
        protected,
    }
}

fn world() -> World {
    World::with(
        &Options::default().fragments(300),
        |_, _| {},
        |request, _| {
            let name = "authenticator.test".try_into().unwrap();
            request.params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        },
    )
}

#[test]
fn an_ordinary_peer_succeeds() {
    for version in [0x0303, 0x0304] {
        for fragments in [150, 5000] {
            let mut world = world();
            let leaf = world.authority.user("foreign");
            let client = client(&world.authority, version, Some(&leaf));
            let outcome = authenticate(&mut world, client, fragments);
            assert_eq!(
                (outcome.end, outcome.protected),
                (Code::Success, version == 0x0304)
            );
            assert!(outcome.client_msk.is_some());
            assert_eq!(outcome.client_msk, outcome.authenticator_msk);
        }
    }
}

#[test]
fn without_a_certificate_there_is_no_success() {
    for version in [0x0303, 0x0304] {
        let mut world = world();
        let client = client(&world.authority, version, None);
        let outcome = authenticate(&mut world, client, 1000);
        assert_eq!(
            (outcome.end, outcome.authenticator_msk),
            (Code::Failure, None)
        );
        assert!(!outcome.protected);
    }
}

#[test]
fn a_peer_that_does_not_trust_the_authenticator_ends_it() {
    for version in [0x0303, 0x0304] {
        let mut world = world();
        let leaf = world.authority.user("foreign");
        let client = client(&Authority::new("other"), version, Some(&leaf));
        let outcome = authenticate(&mut world, client, 1000);
        assert_eq!(
            (outcome.end, outcome.authenticator_msk),
            (Code::Failure, None)
        );
    }
}
