//! What a malicious guest tries. Each attempt is made for real, over the guest's own channels.

use std::{
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use gose_client::{
    Connection, Link,
    guest::{Guest, RACS},
    tls,
};
use gose_element::{Seid, Step};
use gose_proto::{
    hex,
    identity::attach::{Serial, TranscriptHash},
    racs::Request,
};
use rustls::{
    ClientConfig, SignatureAlgorithm, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::aws_lc_rs::default_provider,
    sign::{CertifiedKey, Signer, SigningKey},
    version::TLS13,
};
use rustls_pki_types::CertificateDer;

use super::control::{Attack, Reply};

/// Time in which a lock must be free after its connection is gone.
const FREED: Duration = Duration::from_secs(5);

pub(super) fn run(attack: &Attack, guest: &Arc<Guest>, own: Seid) -> Result<Reply, String> {
    match attack {
        Attack::OthersElement { seid } => others_element(guest, seid.parse().map_err(|_| "SEID")?),
        Attack::OthersToken { chain } | Attack::OldToken { chain } => {
            show(guest, chain, Under::Nobody)
        }
        Attack::SignedUnderOwnSerial { chain } => show(guest, chain, Under::OwnSerial),
        Attack::SignForSerial { serial } => sign_for(guest, serial),
        Attack::LockOfLostConnection => lock_of_lost_connection(guest, own),
    }
}

/// SELECT on an element that belongs to another guest.
fn others_element(guest: &Guest, other: Seid) -> Result<Reply, String> {
    let mut connection = guest.open_racs().map_err(|e| e.to_string())?;
    let seen = ask(&mut connection, other)?;
    let unknown: Seid = "no-such-element".parse().map_err(|_| "SEID")?;
    let nowhere = ask(&mut connection, unknown)?;
    match (seen, nowhere) {
        (Err(saw), Err(nowhere)) if saw == nowhere => Ok(Reply::Refused {
            saw: format!("{saw} (as for an element that does not exist)"),
        }),
        (Err(saw), other) => Ok(Reply::WentThrough {
            got: format!("{saw}, and {other:?} for an element that does not exist"),
        }),
        (Ok(got), _) => Ok(Reply::WentThrough { got }),
    }
}

/// One SELECT; the refusal or the answer as text.
fn ask(connection: &mut Connection, seid: Seid) -> Result<Result<String, String>, String> {
    let mut request = Request::new();
    let select = hex::decode("00A404000BA000000308000010000100").map_err(|e| e.to_string())?;
    request
        .apdu(&seid, &Step::new(select))
        .map_err(|e| e.to_string())?;
    let response = connection.ask(request).map_err(|e| e.to_string())?;
    Ok(match response.decide() {
        Ok(status) => Ok(format!("{status:?}")),
        Err(refusal) => Err(refusal.to_string()),
    })
}

fn sign_for(guest: &Guest, serial: &str) -> Result<Reply, String> {
    let serial = hex::decode(serial)
        .ok()
        .and_then(|bytes| Serial::new(&bytes))
        .ok_or("serial")?;
    let hash = TranscriptHash::new(&[0x42; 32]).ok_or("hash")?;
    Ok(
        match guest.sign(&serial, SignatureScheme::ECDSA_NISTP256_SHA256.into(), hash) {
            Ok(signature) => Reply::WentThrough {
                got: format!("a signature of {} bytes", signature.len()),
            },
            Err(error) => Reply::Refused {
                saw: error.to_string(),
            },
        },
    )
}

/// Under whose serial the transcript is signed.
#[derive(Debug, Clone, Copy)]
enum Under {
    /// Nobody signs: bytes that are no signature stand in its place.
    Nobody,
    /// The attacker's own current serial.
    OwnSerial,
}

/// TLS with a token that is not the guest's own current one.
fn show(guest: &Arc<Guest>, chain: &[String], under: Under) -> Result<Reply, String> {
    let chain = chain
        .iter()
        .map(|der| hex::decode(der).map(CertificateDer::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let key = Arc::new(Stolen {
        guest: guest.clone(),
        under,
    });
    let shown = Shown(Arc::new(CertifiedKey::new(chain, key)));
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(guest.roots())
        .with_client_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![RACS.to_vec()];
    config.resumption = Resumption::disabled();
    let socket = guest.channel().map_err(|e| e.to_string())?;
    let name = tls::server_name(&guest.record().address).map_err(|e| e.to_string())?;
    let link = match Link::tls(socket, name, Arc::new(config), Duration::from_secs(10)) {
        Ok(link) => link,
        Err(error) => {
            return Ok(Reply::Refused {
                saw: error.to_string(),
            });
        }
    };
    // TLS 1.3: the client is done before the server has judged its certificate.
    Ok(match Connection::new(link).list() {
        Ok(seids) => Reply::WentThrough {
            got: format!("a session that reaches {} elements", seids.len()),
        },
        Err(error) => Reply::Refused {
            saw: error.to_string(),
        },
    })
}

/// POWERON on a second connection while the first one, which hangs, holds the element; then the first one is cut.
fn lock_of_lost_connection(guest: &Guest, own: Seid) -> Result<Reply, String> {
    let mut lost = guest.open_racs().map_err(|e| e.to_string())?;
    power_on(&mut lost, own)?.map_err(|refusal| format!("the first POWERON: {refusal}"))?;
    let mut second = guest.open_racs().map_err(|e| e.to_string())?;
    let saw = match power_on(&mut second, own)? {
        Ok(()) => {
            return Ok(Reply::WentThrough {
                got: "two sessions hold the element".into(),
            });
        }
        Err(saw) => saw,
    };
    drop(lost);
    let start = Instant::now();
    loop {
        match power_on(&mut second, own)? {
            Ok(()) => {
                let ms = start.elapsed().as_secs_f64() * 1000.0;
                return Ok(Reply::Refused {
                    saw: format!("{saw}; free {ms:.1} ms after the connection was gone"),
                });
            }
            Err(saw) if start.elapsed() > FREED => {
                return Err(format!("the lock was not freed: {saw}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn power_on(connection: &mut Connection, seid: Seid) -> Result<Result<(), String>, String> {
    let mut request = Request::new();
    request.power_on(&seid).map_err(|e| e.to_string())?;
    let response = connection.ask(request).map_err(|e| e.to_string())?;
    Ok(response
        .decide()
        .map(drop)
        .map_err(|refusal| refusal.to_string()))
}

/// Presents a chain whatever the server asks for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A key that the attacker does not have.
#[derive(Clone)]
struct Stolen {
    guest: Arc<Guest>,
    under: Under,
}

impl fmt::Debug for Stolen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stolen({:?})", self.under)
    }
}

impl SigningKey for Stolen {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Stolen {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        match self.under {
            // The form of a signature, r = s = 1.
            Under::Nobody => Ok(vec![0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01]),
            Under::OwnSerial => {
                let refused = |what: String| rustls::Error::General(what);
                let serial = self.guest.serial();
                let hash = TranscriptHash::from_content(message)
                    .ok_or_else(|| refused("content".into()))?;
                self.guest
                    .sign(&serial, self.scheme().into(), hash)
                    .map_err(|e| refused(e.to_string()))
            }
        }
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
