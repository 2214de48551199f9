//! Phase 3: records on the host against rustls's own.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use gose_client::record::{
    ContentType, Exported, HEADER, MAX_PLAINTEXT, Opener, Sealer, Side, host_layer,
};
use rustls::{ClientConnection, ServerConnection};

/// MiB a second through sealing and opening, one thread.
pub(crate) struct Throughput {
    pub(crate) host: f64,
    pub(crate) rustls: f64,
}

/// Seals and opens records of 16 KiB under TLS_AES_128_GCM_SHA256 for `time` each, in turns.
pub(crate) fn measure(
    mut client: ClientConnection,
    mut server: ServerConnection,
    time: Duration,
) -> Throughput {
    let key_block = [7; 64];
    let exported = Exported {
        version: 0x0304,
        suite: 0x1301,
        key_block: &key_block,
        client_seq: 0,
        server_seq: 0,
    };
    let (Ok((mut sealer, _)), Ok((_, mut opener))) = (
        host_layer(Side::Client, &exported),
        host_layer(Side::Server, &exported),
    ) else {
        return Throughput {
            host: f64::NAN,
            rustls: f64::NAN,
        };
    };
    // In turns, so that both see the same machine.
    let turns = 4;
    let (mut host, mut own) = (0.0, 0.0);
    for _ in 0..turns {
        host += rate(time / turns, |bytes| {
            host_round(&mut sealer, &mut opener, bytes)
        });
        own += rate(time / turns, |bytes| {
            rustls_round(&mut client, &mut server, bytes)
        });
    }
    Throughput {
        host: host / f64::from(turns),
        rustls: own / f64::from(turns),
    }
}

/// MiB a second of a function that moves the bytes it is given and says whether all arrived.
fn rate(time: Duration, mut round: impl FnMut(&[u8]) -> bool) -> f64 {
    let payload = vec![0x5A; MAX_PLAINTEXT * 4];
    let start = Instant::now();
    let mut moved = 0;
    while start.elapsed() < time {
        if !round(&payload) {
            return f64::NAN;
        }
        moved += payload.len();
    }
    moved as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
}

fn host_round(sealer: &mut Sealer, opener: &mut Opener, payload: &[u8]) -> bool {
    let mut wire = Vec::with_capacity(payload.len() + 256);
    if sealer
        .seal(ContentType::ApplicationData, payload, &mut wire)
        .is_err()
    {
        return false;
    }
    let mut rest = wire.as_mut_slice();
    let mut got = 0;
    while rest.len() > HEADER {
        let Ok(Some(length)) = Opener::record_length(rest) else {
            return false;
        };
        let (record, after) = rest.split_at_mut(length);
        match opener.open(record) {
            Ok(gose_client::record::Opened::Data(plain)) => got += plain.len(),
            _ => return false,
        }
        rest = after;
    }
    got == payload.len()
}

fn rustls_round(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
    payload: &[u8],
) -> bool {
    let mut plain = vec![0; MAX_PLAINTEXT];
    let mut got = 0;
    for piece in payload.chunks(MAX_PLAINTEXT) {
        if client.writer().write_all(piece).is_err() {
            return false;
        }
        let mut wire = Vec::with_capacity(MAX_PLAINTEXT + 256);
        while client.wants_write() {
            if client.write_tls(&mut wire).is_err() {
                return false;
            }
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            if server.read_tls(&mut wire).is_err() || server.process_new_packets().is_err() {
                return false;
            }
            while let Ok(n) = server.reader().read(&mut plain) {
                if n == 0 {
                    break;
                }
                got += n;
            }
        }
    }
    got == payload.len()
}

/// A finished TLS 1.3 handshake in memory.
pub(crate) fn handshake(
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
    name: rustls_pki_types::ServerName<'static>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client
                .write_tls(&mut wire)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server
                .read_tls(&mut bytes)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server
                .write_tls(&mut wire)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client
                .read_tls(&mut bytes)
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}
