//! A small RACS node on threads: elements that mirror, and a line that can be cut.
//!
//! Elements `SE1` and `SE2` answer by INS: 01 the data field and P1-P2 as status word; 02 sixty thousand
//! bytes; 03 nothing and 9F04, which C0 and 12 then fetch; 04 no answer at all. `busy` is in use by others.

use std::{
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use gose_element::{Atr, ElementError, SecureElement, Seid};
use gose_proto::{
    apdu::{Response, StatusWord},
    racs::{Completion, Failure, Mode, Operation, Output, Session},
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier,
};

use crate::pki::{Authority, Leaf};

/// What the node does besides serving.
#[derive(Default)]
pub struct Behaviour {
    /// APDUs run so far, on every connection.
    pub apdus: AtomicU32,
    /// POWERONs so far.
    pub power_ons: AtomicU32,
    /// Connections accepted so far.
    pub connections: AtomicU32,
    /// Cuts the line after this many APDUs, before their answer: each number once.
    pub cut_after: Mutex<Vec<u32>>,
    /// Closes the connection after its first response, as an idle time limit would.
    pub close_after_response: std::sync::atomic::AtomicBool,
}

impl Behaviour {
    /// APDUs run so far.
    pub fn executed(&self) -> u32 {
        self.apdus.load(Ordering::SeqCst)
    }
}

/// Starts a node that wants client certificates of `clients`; gives its address. It runs until the
/// process ends.
pub fn start_tls(server: &Leaf, clients: &Authority, behaviour: Arc<Behaviour>) -> String {
    let config = Arc::new(server_config(server, clients));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let _ = socket.set_nodelay(true);
            let tls = ServerConnection::new(config.clone()).unwrap();
            let behaviour = behaviour.clone();
            thread::spawn(move || {
                let mut stream = StreamOwned::new(tls, socket);
                let _ = serve(&mut stream, &behaviour);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    address
}

/// Starts a node on a Unix socket.
pub fn start_unix(path: &Path, behaviour: Arc<Behaviour>) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let behaviour = behaviour.clone();
            thread::spawn(move || serve(&mut socket, &behaviour));
        }
    });
}

fn server_config(server: &Leaf, clients: &Authority) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut anchors = RootCertStore::empty();
    anchors.add(clients.der()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider.clone())
        .build()
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.chain.clone(), server.key())
        .unwrap();
    config.alpn_protocols = vec![b"racs/0.2".to_vec()];
    config
}

fn serve(stream: &mut (impl Read + Write), behaviour: &Behaviour) -> io::Result<()> {
    behaviour.connections.fetch_add(1, Ordering::SeqCst);
    let mut session = Session::new(Mode::Direct);
    let mut buffer = vec![0; 16_384];
    loop {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Ok(());
        }
        session.receive(&buffer[..size]);
        while let Some(output) = session.poll() {
            match output {
                Output::Run(operation) => {
                    let completion = run(operation, behaviour);
                    if behaviour.must_cut() {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    session.complete(completion);
                }
                Output::Send(bytes) => {
                    stream.write_all(bytes)?;
                    stream.flush()?;
                    if behaviour.close_after_response.load(Ordering::SeqCst) {
                        return Ok(());
                    }
                }
                Output::Close(_) => return Ok(()),
            }
        }
    }
}

impl Behaviour {
    fn must_cut(&self) -> bool {
        let mut cuts = self.cut_after.lock().unwrap();
        let executed = self.executed();
        let before = cuts.len();
        cuts.retain(|&cut| cut > executed);
        cuts.len() < before
    }
}

fn run(operation: Operation, behaviour: &Behaviour) -> Completion {
    let atr = Some(vec![0x3B, 0x8B, 0x01]);
    match operation {
        Operation::List => {
            let seids = ["SE1", "SE2", "busy"].map(|seid| seid.parse().unwrap());
            Completion::Seids(seids.to_vec())
        }
        Operation::PowerOn { seid } => allowed(seid).unwrap_or_else(|| {
            behaviour.power_ons.fetch_add(1, Ordering::SeqCst);
            Completion::PoweredOn {
                atr,
                already: false,
            }
        }),
        Operation::Reset { seid, .. } => allowed(seid).unwrap_or(Completion::Reset { atr }),
        Operation::Apdus { seid, script } => {
            allowed(seid).unwrap_or_else(|| Mirror(behaviour).run(&script).into())
        }
        Operation::Shutdown { seid } => allowed(seid).unwrap_or(Completion::Shutdown),
    }
}

fn allowed(seid: Seid) -> Option<Completion> {
    match seid.as_str() {
        "SE1" | "SE2" => None,
        "busy" => Some(Completion::Failed(Failure::InUse)),
        _ => Some(Completion::Failed(Failure::Unauthorised)),
    }
}

struct Mirror<'a>(&'a Behaviour);

impl SecureElement for Mirror<'_> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        Err(ElementError::Mute)
    }

    fn power_off(&mut self) {}

    fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
        Err(ElementError::Mute)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.0.apdus.fetch_add(1, Ordering::SeqCst);
        let answer = |data: &[u8], sw: [u8; 2]| {
            Ok(Response {
                data: data.to_vec(),
                sw: StatusWord::from(sw),
            })
        };
        match apdu[1] {
            0x01 => answer(apdu.get(5..).unwrap_or_default(), [apdu[2], apdu[3]]),
            0x02 => answer(&vec![0x55; 60_000], [0x90, 0]),
            0x03 => answer(&[], [0x9F, 4]),
            0xC0 | 0x12 => answer(&[1, 2, 3, 4], [0x90, 0]),
            0x04 => Err(ElementError::Mute),
            _ => answer(&[], [0x6D, 0]),
        }
    }
}
