//! An element opens TLS sessions with an ordinary TLS server; the record layer stays in the element, or moves
//! to the host.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use gose_element::{
    Algorithm,
    drive::eap_tls::{EapTls, Opening},
};
use gose_proto::eap::Role;
use gose_testkit::pki::Authority;
use gose_testkit::world::{Element, NOW, Options, PIN, World, label, state};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, server::WebPkiClientVerifier, version,
};

/// An ordinary server that wants a client certificate of the world's authority.
fn server(world: &World, version: u16) -> ServerConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(world.authority.der()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let versions = match version {
        0x0303 => &version::TLS12,
        _ => &version::TLS13,
    };
    let leaf = world.authority.server(&["server.test"]);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[versions])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(leaf.chain.clone(), leaf.key())
        .map(|mut config| {
            config.enable_secret_extraction = true;
            config
        })
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// The server takes bytes and gives what it has to send.
fn exchange(server: &mut ServerConnection, bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes;
    while !rest.is_empty() {
        server.read_tls(&mut rest).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut out = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut out).unwrap();
    }
    out
}

/// Handshake; gives what the server sent after it.
fn shake_hands(end: &mut EapTls<'_, Element>, server: &mut ServerConnection) -> Vec<u8> {
    let mut from_card = end.start_tls(Some(NOW)).unwrap();
    loop {
        let from_server = exchange(server, &from_card);
        if !server.is_handshaking() && state(end) == 3 {
            return from_server;
        }
        from_card = end.tls(&from_server).unwrap();
    }
}

/// Whole records of a stream.
fn records(stream: &[u8]) -> Vec<&[u8]> {
    let mut rest = stream;
    let mut records = Vec::new();
    while let [_, _, _, high, low, ..] = *rest {
        let (record, after) = rest.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
        records.push(record);
        rest = after;
    }
    assert!(rest.is_empty());
    records
}

fn open(world: &mut World) -> EapTls<'_, Element> {
    EapTls::open(&mut world.peer, &Opening::new(PIN, label(Role::Peer))).unwrap()
}

#[test]
fn an_ordinary_server_and_records_in_the_element() {
    for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
        let options = Options::default().fragments(200).algorithm(algorithm);
        let mut world = World::new(&options);
        for version in [0x0303, 0x0304] {
            let mut server = server(&world, version);
            let mut end = open(&mut world);
            let tickets = shake_hands(&mut end, &mut server);
            talk(&mut end, &mut server, &tickets);
        }
    }
}

fn talk(end: &mut EapTls<'_, Element>, server: &mut ServerConnection, tickets: &[u8]) {
    if !tickets.is_empty() {
        let clear = end.decrypt(&records(tickets)).unwrap().concat();
        assert!(clear.is_empty(), "tickets carry no application data");
    }
    let payloads: Vec<Vec<u8>> = (1..40u8).map(|n| vec![n; usize::from(n) * 40]).collect();
    let views: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let sealed = end.encrypt(&views).unwrap();
    let mut received = vec![0; payloads.concat().len()];
    let mut at = 0;
    for record in &sealed {
        assert_eq!((record[0], records(record).len()), (0x17, 1));
        exchange(server, record);
        at += server.reader().read(&mut received[at..]).unwrap();
    }
    assert_eq!((at, received), (payloads.concat().len(), payloads.concat()));
    server.writer().write_all(&payloads.concat()).unwrap();
    let answer = exchange(server, &[]);
    assert_eq!(
        end.decrypt(&records(&answer)).unwrap().concat(),
        payloads.concat()
    );
    server.send_close_notify();
    let close = exchange(server, &[]);
    assert_eq!(end.decrypt(&records(&close)).unwrap(), [b""]);
}

#[test]
fn a_record_that_does_not_open_ends_the_session() {
    let mut world = World::new(&Options::default());
    let mut server = server(&world, 0x0304);
    let mut end = open(&mut world);
    let tickets = shake_hands(&mut end, &mut server);
    let mut broken = records(&tickets)[0].to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert!(end.decrypt(&[&broken]).is_err());
    assert!(end.encrypt(&[b"x"]).is_err());
    assert!(end.session_keys().is_err());
}

#[test]
fn a_server_of_another_authority_gets_an_alert() {
    let mut world = World::new(&Options::default());
    let mut stranger = World::new(&Options::default());
    stranger.authority = Authority::new("stranger");
    let mut server = server(&stranger, 0x0304);
    let mut end = open(&mut world);
    let hello = end.start_tls(Some(NOW)).unwrap();
    let flight = exchange(&mut server, &hello);
    let alert = end.tls(&flight).unwrap();
    assert!(!alert.is_empty() && state(&mut end) == 4);
    let mut rest = alert.as_slice();
    server.read_tls(&mut rest).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert_eq!(
        error,
        rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)
    );
}

#[test]
fn the_session_moves_to_the_host_after_a_key_update() {
    let mut world = World::new(&Options::default());
    let mut server = server(&world, 0x0304);
    let mut end = open(&mut world);
    let tickets = shake_hands(&mut end, &mut server);
    end.decrypt(&records(&tickets)).unwrap();
    server.refresh_traffic_keys().unwrap();
    let update = exchange(&mut server, &[]);
    assert_eq!(end.decrypt(&records(&update)).unwrap(), [b""]);
    let keys = end.session_keys().unwrap();
    assert_eq!(keys.version, 0x0304);
    // Numbers begin anew with each key; both ends' numbers and keys are what the server has.
    assert_eq!(keys.server_sequence, 0);
    let secrets = server.dangerous_extract_secrets().unwrap();
    assert_eq!(secrets.tx.0, keys.server_sequence);
    assert_eq!(secrets.rx.0, keys.client_sequence);
}

/// Alerts that the host chooses, in every form of record protection, read by an ordinary server.
#[test]
fn alerts_of_the_hosts_choice() {
    for suite in [0x1301, 0x1302, 0x1303, 0xC02B, 0xCCA9] {
        let mut options = Options::default();
        options.peer.cipher_suites = vec![suite];
        let mut world = World::new(&options);
        let version = if suite >> 8 == 0x13 { 0x0304 } else { 0x0303 };

        let mut closed = server(&world, version);
        let mut end = open(&mut world);
        let tickets = shake_hands(&mut end, &mut closed);
        end.decrypt(&records(&tickets)).unwrap();
        let mut record = &end.alert(1, 0).unwrap()[..];
        closed.read_tls(&mut record).unwrap();
        assert!(closed.process_new_packets().unwrap().peer_has_closed());
        assert!(end.encrypt(&[b"x"]).is_err());
        closed.writer().write_all(b"bye").unwrap();
        let answer = exchange(&mut closed, &[]);
        assert_eq!(end.decrypt(&records(&answer)).unwrap(), [b"bye"]);

        let mut failed = server(&world, version);
        let mut end = open(&mut world);
        shake_hands(&mut end, &mut failed);
        let sealed = end.encrypt(&[b"first"]).unwrap().concat();
        exchange(&mut failed, &sealed);
        let mut record = &end.alert(2, 80).unwrap()[..];
        failed.read_tls(&mut record).unwrap();
        let error = failed.process_new_packets().unwrap_err();
        let internal = rustls::AlertDescription::InternalError;
        assert_eq!(error, rustls::Error::AlertReceived(internal), "{suite:04X}");
        assert!(end.session_keys().is_err());
    }
}
