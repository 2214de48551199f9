//! The host layer against live rustls connections that made the handshake.

use std::{io::Read, io::Write, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, crypto::aws_lc_rs as provider,
};

use super::*;

/// A finished handshake over `suite`, and what each end would export.
struct Session {
    client: ClientConnection,
    server: ServerConnection,
}

fn session(
    suite: rustls::SupportedCipherSuite,
    version: &'static SupportedProtocolVersion,
) -> Session {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["server.test".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let mut crypto = provider::default_provider();
    crypto.cipher_suites = vec![suite];
    let crypto = Arc::new(crypto);
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(crypto.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    client.enable_secret_extraction = true;
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    let mut client =
        ClientConnection::new(Arc::new(client), "server.test".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&mut server, &bytes);
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&mut client, &bytes);
    }
    Session { client, server }
}

fn feed<D>(to: &mut rustls::ConnectionCommon<D>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets().unwrap();
    }
}

/// The key block of TLS 1.2 from what rustls extracts (for GCM its IV holds salt ‖ explicit start).
fn key_block(secrets: &rustls::ExtractedSecrets) -> Vec<u8> {
    use rustls::ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
    let parts = |s: &rustls::ConnectionTrafficSecrets| match s {
        Aes128Gcm { key, iv } | Aes256Gcm { key, iv } => {
            (key.as_ref().to_vec(), iv.as_ref()[..4].to_vec())
        }
        Chacha20Poly1305 { key, iv } => (key.as_ref().to_vec(), iv.as_ref().to_vec()),
        _ => panic!("another suite"),
    };
    let ((ck, ci), (sk, si)) = (parts(&secrets.tx.1), parts(&secrets.rx.1));
    [ck, sk, ci, si].concat()
}

#[test]
fn tls12_talks_to_a_live_peer() {
    for (suite, number) in [
        (
            provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            0xC02B,
        ),
        (
            provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            0xC02C,
        ),
        (
            provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            0xCCA9,
        ),
    ] {
        let Session { client, mut server } = session(suite, &rustls::version::TLS12);
        let secrets = client.dangerous_extract_secrets().unwrap();
        let exported = Exported {
            version: 0x0303,
            suite: number,
            key_block: &key_block(&secrets),
            client_seq: secrets.tx.0,
            server_seq: secrets.rx.0,
        };
        let (mut sealer, mut opener) = host_layer(Side::Client, &exported).unwrap();
        let long = vec![0x5A; 40_000];
        let mut wire = Vec::new();
        sealer
            .seal(ContentType::ApplicationData, &long, &mut wire)
            .unwrap();
        let mut got = Vec::new();
        let mut rest = wire.as_slice();
        while let Some(length) = Opener::record_length(rest).unwrap() {
            let (record, after) = rest.split_at(length);
            feed(&mut server, record);
            let mut piece = vec![0; MAX_PLAINTEXT];
            let n = server.reader().read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..n]);
            rest = after;
        }
        assert_eq!(got, long);

        server.writer().write_all(b"pong").unwrap();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        assert_eq!(
            opener.open(&mut wire.clone()).unwrap(),
            Opened::Data(b"pong")
        );
        // The same record again is a replay.
        assert_eq!(opener.open(&mut wire), Err(RecordError::BadRecordMac));
    }
}

/// Both ends of the host layer, from secrets as an element would export them.
fn pair(suite: u16, secret_len: usize) -> [(Sealer, Opener); 2] {
    let key_block: Vec<u8> = (0..2 * secret_len)
        .map(|n| u8::try_from(n).unwrap())
        .collect();
    [Side::Client, Side::Server].map(|side| {
        let exported = Exported {
            version: 0x0304,
            suite,
            key_block: &key_block,
            client_seq: 0,
            server_seq: 2,
        };
        host_layer(side, &exported).unwrap()
    })
}

#[test]
fn tls13_both_ways_with_close_and_alert() {
    for (suite, secret) in [(0x1301, 32), (0x1302, 48), (0x1303, 32)] {
        let [(mut cs, mut co), (mut ss, mut so)] = pair(suite, secret);
        let mut wire = Vec::new();
        cs.seal(ContentType::ApplicationData, b"ping", &mut wire)
            .unwrap();
        assert_eq!(Opener::record_length(&wire), Ok(Some(wire.len())));
        assert_eq!(so.open(&mut wire).unwrap(), Opened::Data(b"ping"));
        wire.clear();
        ss.seal(ContentType::Alert, &[2, 40], &mut wire).unwrap();
        assert_eq!(co.open(&mut wire).unwrap(), Opened::Alert(40));
        wire.clear();
        ss.close(&mut wire).unwrap();
        assert_eq!(co.open(&mut wire).unwrap(), Opened::Close);
        wire.clear();
        cs.seal(ContentType::ApplicationData, b"changed", &mut wire)
            .unwrap();
        *wire.last_mut().unwrap() ^= 1;
        assert_eq!(so.open(&mut wire), Err(RecordError::BadRecordMac));
    }
}

/// rustls as the peer that made the handshake: secrets come from its key log, as a card exports them.
#[test]
fn tls13_talks_to_a_live_peer_and_follows_its_key_update() {
    let Session { client, mut server } = session(
        provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        &rustls::version::TLS13,
    );
    let secrets = client.dangerous_extract_secrets().unwrap();
    // The extracted form has key and IV, not the secret; a direction is built from them by hand.
    let rustls::ConnectionTrafficSecrets::Aes128Gcm { key, iv } = &secrets.rx.1 else {
        panic!("another suite")
    };
    let suite = Suite::find(0x0304, 0x1301).unwrap();
    let mut opener = Opener(Direction {
        protection: Protection::Tls13 {
            key: suite.key(key.as_ref()).unwrap(),
            iv: Zeroizing::new(iv.as_ref().try_into().unwrap()),
            secret: Zeroizing::new(vec![0; 32]),
            suite,
        },
        seq: secrets.rx.0,
    });
    server.writer().write_all(b"pong").unwrap();
    let mut wire = Vec::new();
    server.write_tls(&mut wire).unwrap();
    assert_eq!(opener.open(&mut wire).unwrap(), Opened::Data(b"pong"));

    let [(mut cs, _), (_, mut so)] = pair(0x1301, 32);
    let mut wire = Vec::new();
    cs.seal(ContentType::Handshake, &[0x18, 0, 0, 1, 0], &mut wire)
        .unwrap();
    assert_eq!(so.open(&mut wire).unwrap(), Opened::PostHandshake);
    cs.0.update_key().unwrap();
    let mut wire = Vec::new();
    cs.seal(ContentType::ApplicationData, b"after", &mut wire)
        .unwrap();
    assert_eq!(so.open(&mut wire).unwrap(), Opened::Data(b"after"));
}

#[test]
fn lengths_that_lie_and_suites_that_are_not_there() {
    let block = [0; 64];
    let exported = |version, suite, len| Exported {
        version,
        suite,
        key_block: &block[..len],
        client_seq: 0,
        server_seq: 0,
    };
    let err = |version, suite, len| {
        host_layer(Side::Client, &exported(version, suite, len))
            .err()
            .unwrap()
    };
    assert_eq!(
        err(0x0303, 0x002F, 40),
        RecordError::Unsupported(0x0303, 0x002F)
    );
    assert_eq!(
        err(0x0304, 0x1301, 63),
        RecordError::KeyBlock {
            needed: 64,
            found: 63
        }
    );
    assert_eq!(
        err(0x0303, 0xC02F, 41),
        RecordError::KeyBlock {
            needed: 40,
            found: 41
        }
    );
    assert_eq!(
        Opener::record_length(&[0x17, 3, 3, 0xFF, 0xFF]),
        Err(RecordError::Malformed("over-long"))
    );
    assert_eq!(Opener::record_length(&[0x17, 3, 3, 0]), Ok(None));
    let [_, (_, mut so)] = pair(0x1301, 32);
    assert_eq!(
        so.open(&mut [0x17, 3, 3, 0, 9, 1]),
        Err(RecordError::Malformed("length"))
    );
    assert_eq!(
        so.open(&mut [0x17, 3]),
        Err(RecordError::Malformed("shorter than its header"))
    );
}

#[test]
fn a_worn_key_is_refused() {
    let block = [7; 64];
    let exported = Exported {
        version: 0x0304,
        suite: 0x1301,
        key_block: &block,
        client_seq: 1 << 24,
        server_seq: 0,
    };
    let (mut sealer, _) = host_layer(Side::Client, &exported).unwrap();
    assert_eq!(
        sealer.seal(ContentType::ApplicationData, b"x", &mut Vec::new()),
        Err(RecordError::KeyWorn)
    );
}
