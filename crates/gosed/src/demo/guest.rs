//! A guest of the demo: a process that the hypervisor node started, without a private key, told what to do.

use std::{
    io::{Read, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use gose_client::{
    Link, RemoteElement,
    guest::{EapChannel, Guest, authenticate},
    record::{ContentType, HEADER, Opened, Opener, Sealer, Side, host_layer},
};
use gose_element::{
    Seid,
    drive::eap_tls::{EapTls, Opening, SessionKeys},
};
use gose_proto::hex;
use zeroize::Zeroizing;

use super::{
    attack,
    control::{Figures, Line, Order, Reply},
    counted::Counted,
    site,
};

/// Bytes in flight between a write and the read of their echo: less than the sockets on the way hold.
const WINDOW: usize = 128 * 1024;

/// What a guest is told at its start.
pub(super) struct Settings<'a> {
    /// The demo's folder.
    pub(super) folder: &'a Path,
    /// The guest's name.
    pub(super) name: &'a str,
}

/// What a guest has at a time.
struct State<'a> {
    settings: &'a Settings<'a>,
    guest: Arc<Guest>,
    element: Option<Counted<RemoteElement>>,
    /// Which element that is.
    seid: Seid,
    /// After phase 2: the channel, whose ends hold the elements' session.
    session: Option<Link>,
    /// The record layer, when it was moved to the host.
    host: Option<(Sealer, Opener)>,
}

/// The life of a guest.
pub(super) fn run(settings: &Settings<'_>) -> Result<(), String> {
    let guest = Arc::new(Guest::from_stdin().map_err(|e| e.to_string())?);
    let spec = site::GUESTS
        .iter()
        .find(|spec| spec.name == settings.name)
        .ok_or("no guest of that name")?;
    let seid = spec.seids[0].parse().map_err(|_| "SEID")?;
    let mut line = Line::connect(&settings.folder.join(site::CONTROL), settings.name)?;
    let mut state = State {
        settings,
        guest,
        element: None,
        seid,
        session: None,
        host: None,
    };
    while let Some(order) = line.receive()? {
        if matches!(order, Order::Quit) {
            break;
        }
        let reply = state
            .obey(&order)
            .unwrap_or_else(|why| Reply::Failed { why });
        line.send(&reply)?;
    }
    Ok(())
}

impl State<'_> {
    fn obey(&mut self, order: &Order) -> Result<Reply, String> {
        match order {
            Order::Token => {
                let chain = self.guest.token().map_err(|e| e.to_string())?;
                let chain = chain
                    .certificates()
                    .iter()
                    .map(|der| hex::encode(der))
                    .collect();
                Ok(Reply::Token { chain })
            }
            Order::Attach => self.attach().map(Reply::Done),
            Order::Authenticate {
                seid,
                identity,
                export,
            } => {
                self.turn_to(seid.parse().map_err(|_| "SEID")?);
                self.authenticate(identity, *export).map(Reply::Done)
            }
            Order::HostTransfer { mib } => self.host_transfer(*mib).map(Reply::Done),
            Order::ElementTransfer { bytes } => self.element_transfer(*bytes).map(Reply::Done),
            Order::Hang => {
                self.hang();
                Ok(Reply::Done(Figures::default()))
            }
            Order::Attack(attack) => {
                self.hang();
                self.element = None;
                attack::run(attack, &self.guest, self.seid)
            }
            Order::Quit => Ok(Reply::Done(Figures::default())),
        }
    }

    /// The session of another element ends: each has a session of its own.
    fn turn_to(&mut self, seid: Seid) {
        if seid != self.seid {
            self.hang();
            self.element = None;
            self.seid = seid;
        }
    }

    /// The bearer's PIN of the element in use.
    fn pin(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let path = self.settings.folder.join(format!("grid/{}.pin", self.seid));
        std::fs::read(&path)
            .map(Zeroizing::new)
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Phase 1: TLS with the middleware, signed for by the hypervisor's element.
    fn attach(&mut self) -> Result<Figures, String> {
        self.element = None;
        let start = Instant::now();
        let connection = self.guest.open_racs().map_err(|e| e.to_string())?;
        let ms = milliseconds(start.elapsed());
        self.element = Some(Counted::new(RemoteElement::new(connection, self.seid)));
        Ok(Figures {
            ms,
            ..Figures::default()
        })
    }

    /// Phase 2: the guest's element and a server element authenticate each other.
    fn authenticate(&mut self, identity: &str, export: bool) -> Result<Figures, String> {
        self.hang();
        if self.element.is_none() {
            self.attach()?;
        }
        let pin = self.pin()?;
        let element = self.element.as_mut().ok_or("no element")?;
        element.reset_counters();
        let trips = element.inner().round_trips();
        let start = Instant::now();
        let stream = self
            .guest
            .open_eap()
            .map_err(|e| e.to_string())?
            .into_stream();
        let mut channel = EapChannel::new(Metered { stream, bytes: 0 });
        // The paper's T2 begins with the PIN.
        let opened = Instant::now();
        let opening = Opening::new(&pin, identity);
        let mut application = EapTls::open(element, &opening).map_err(|e| e.to_string())?;
        authenticate(&mut channel, &mut application, now).map_err(|e| e.to_string())?;
        let t2 = opened.elapsed();
        let element_ms = milliseconds(element.waited());
        let mut application = EapTls::on(element);
        let resumed = application.is_resumed().map_err(|e| e.to_string())?;
        let (keys, (version, suite)) = if export {
            let keys = application.keys().map_err(|e| e.to_string())?.1;
            let parameters = (keys.version, keys.suite);
            (Some(keys), parameters)
        } else {
            (
                None,
                suite(&application.exported(0x80).map_err(|e| e.to_string())?),
            )
        };
        let metered = channel.into_stream();
        let figures = Figures {
            ms: milliseconds(start.elapsed()),
            t2_ms: milliseconds(t2),
            element_ms,
            sealed_ms: 0.0,
            bytes: metered.bytes,
            apdu_bytes: element.bytes(),
            apdus: element.apdus(),
            round_trips: element.inner().round_trips() - trips,
            resumed,
            version,
            suite,
        };
        self.host = keys.map(|keys| layer(&keys)).transpose()?;
        self.session = Some(metered.stream);
        Ok(figures)
    }

    /// Phase 3 on the host: the server answers what it gets.
    fn host_transfer(&mut self, mib: usize) -> Result<Figures, String> {
        let stream = self
            .session
            .as_mut()
            .ok_or("no session; authenticate first")?;
        let (sealer, opener) = self
            .host
            .as_mut()
            .ok_or("the record layer is in the element")?;
        let window = vec![0x5A; WINDOW];
        let start = Instant::now();
        let (mut wire, mut record) = (Vec::with_capacity(2 * WINDOW), Vec::new());
        for _ in 0..mib * (1 << 20) / WINDOW {
            wire.clear();
            sealer
                .seal(ContentType::ApplicationData, &window, &mut wire)
                .map_err(|e| e.to_string())?;
            stream
                .write_all(&wire)
                .and_then(|()| stream.flush())
                .map_err(|e| e.to_string())?;
            let mut back = 0;
            while back < WINDOW {
                read_record(stream, &mut record)?;
                match opener.open(&mut record).map_err(|e| e.to_string())? {
                    Opened::Data(plain) if window.starts_with(plain) => back += plain.len(),
                    Opened::PostHandshake => {}
                    other => return Err(format!("the server's answer is {other:?}")),
                }
            }
        }
        let ms = milliseconds(start.elapsed());
        Ok(Figures {
            ms,
            bytes: (mib << 20) as u64,
            ..Figures::default()
        })
    }

    /// Phase 3 in the element: it seals what goes and opens what comes.
    fn element_transfer(&mut self, bytes: usize) -> Result<Figures, String> {
        let stream = self
            .session
            .as_mut()
            .ok_or("no session; authenticate first")?;
        if self.host.is_some() {
            return Err("the record layer was moved to the host".into());
        }
        let element = self.element.as_mut().ok_or("no element")?;
        element.reset_counters();
        let trips = element.inner().round_trips();
        let start = Instant::now();
        let payload = vec![0xA5; bytes.min(PIECE * 4)];
        let mut record = Vec::new();
        let mut left = bytes;
        let mut sealing = Duration::ZERO;
        while left > 0 {
            let window = &payload[..left.min(payload.len())];
            let pieces: Vec<&[u8]> = window.chunks(PIECE).collect();
            let waited = element.waited();
            let sealed = EapTls::on(element)
                .encrypt(&pieces)
                .map_err(|e| e.to_string())?;
            sealing += element.waited() - waited;
            for sealed in &sealed {
                stream.write_all(sealed).map_err(|e| e.to_string())?;
            }
            stream.flush().map_err(|e| e.to_string())?;
            let mut records = Vec::new();
            while records.len() < pieces.len() {
                read_record(stream, &mut record)?;
                records.push(record.clone());
            }
            let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let opened = EapTls::on(element)
                .decrypt(&records)
                .map_err(|e| e.to_string())?;
            if opened.concat() != window {
                return Err("the server's answer differs".into());
            }
            left -= window.len();
        }
        Ok(Figures {
            ms: milliseconds(start.elapsed()),
            element_ms: milliseconds(element.waited()),
            sealed_ms: milliseconds(sealing),
            bytes: bytes as u64,
            apdu_bytes: element.bytes(),
            apdus: element.apdus(),
            round_trips: element.inner().round_trips() - trips,
            ..Figures::default()
        })
    }

    /// Ends what phase 2 opened. The element stays powered: it keeps its sessions for resumption.
    fn hang(&mut self) {
        if let (Some(mut stream), Some((mut sealer, _))) = (self.session.take(), self.host.take()) {
            let mut close = Vec::new();
            if sealer.close(&mut close).is_ok() {
                // The server may be gone already; then there is nobody to tell.
                let _ = stream.write_all(&close).and_then(|()| stream.flush());
            }
        }
    }
}

/// Bytes that the element seals as one record.
const PIECE: usize = 16 * 1024;

/// A stream that counts.
struct Metered {
    stream: Link,
    bytes: u64,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

impl Write for Metered {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.stream.write(buffer)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Reads one whole TLS record.
fn read_record(stream: &mut Link, record: &mut Vec<u8>) -> Result<(), String> {
    record.resize(HEADER, 0);
    stream.read_exact(record).map_err(|e| e.to_string())?;
    let length = Opener::record_length(record)
        .map_err(|e| e.to_string())?
        .unwrap_or(HEADER);
    record.resize(length, 0);
    stream
        .read_exact(&mut record[HEADER..])
        .map_err(|e| e.to_string())
}

fn layer(keys: &SessionKeys) -> Result<(Sealer, Opener), String> {
    let exported = gose_client::record::Exported {
        version: keys.version,
        suite: keys.suite,
        key_block: &keys.key_block,
        client_seq: keys.client_sequence,
        server_seq: keys.server_sequence,
    };
    host_layer(Side::Client, &exported).map_err(|e| e.to_string())
}

fn suite(bytes: &[u8]) -> (u16, u16) {
    match *bytes {
        [a, b, c, d] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => (0, 0),
    }
}

fn now() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
