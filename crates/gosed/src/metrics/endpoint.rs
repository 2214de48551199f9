//! `GET /metrics`: what the node counts, as Prometheus reads it. No secrets, and no label that a peer chooses.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gose_proto::{identity::Certificate, radius::request::Discard};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{Exposition, Metrics};
use crate::{
    auth::Pool,
    grid::{CLASSES, Grid, Measured, Runs},
    hypervisor::Middleware,
    listen::{Sessions, tls},
    radius::{Disconnector, Front},
};

/// Bytes of a request's head.
const HEAD: usize = 8192;

/// Scrapes at a time.
const AT_ONCE: usize = 8;

/// Time for a request, and for a client to take the answer.
const STEP: Duration = Duration::from_secs(5);

/// Where the figures come from.
pub struct Figures {
    /// The elements, and what the node counts.
    pub grid: Arc<Grid>,
    /// Sessions over TLS.
    pub sessions: Arc<Sessions>,
    /// The authentication server.
    pub pool: Option<Arc<Pool>>,
    /// RADIUS.
    pub radius: Option<(Arc<Front>, Arc<Disconnector>)>,
    /// The hypervisor.
    pub middleware: Option<Arc<Middleware>>,
    /// Files of the node's own certificates, by what they are for.
    pub certificates: Vec<(String, PathBuf)>,
}

/// The endpoint, bound and not served yet.
pub struct Endpoint {
    listener: TcpListener,
    sources: Figures,
}

impl Endpoint {
    /// Listens.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr, sources: Figures) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, sources })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn serve(self) {
        let (sources, permits) = (Arc::new(self.sources), Arc::new(Semaphore::new(AT_ONCE)));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let sources = sources.clone();
                    tokio::spawn(async move {
                        let _ = timeout(STEP, answer(stream, &sources)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "metrics: a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer(mut stream: TcpStream, sources: &Figures) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let path = line.strip_prefix(b"GET ").map(|rest| {
        let end = rest.iter().position(|byte| b" ?".contains(byte));
        &rest[..end.unwrap_or(rest.len())]
    });
    let (status, text) = match path {
        Some(b"/metrics") => ("200 OK", crate::long_step(|| sources.text())),
        Some(_) => ("404 Not Found", "see /metrics\n".into()),
        None => ("405 Method Not Allowed", "GET /metrics\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Figures {
    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Exposition::default();
        self.node(&mut out);
        self.elements(&mut out);
        self.eap(&mut out);
        self.radius(&mut out);
        self.certificates(&mut out);
        out.finish()
    }

    fn node(&self, out: &mut Exposition) {
        let metrics: &Metrics = self.grid.metrics();
        for (name, help, counter) in [
            (
                "gose_connections_total",
                "TCP connections accepted.",
                &metrics.connections,
            ),
            ("gose_sessions_total", "Sessions begun.", &metrics.sessions),
            (
                "gose_scripts_total",
                "Scripts of APDUs run on elements.",
                &metrics.scripts,
            ),
            (
                "gose_policy_denied_total",
                "Elements refused by the policy.",
                &metrics.policy_denied,
            ),
            (
                "gose_in_use_total",
                "Elements refused because another session holds them.",
                &metrics.in_use,
            ),
            (
                "gose_firewall_denied_total",
                "APDUs refused by the firewall.",
                &metrics.firewall_denied,
            ),
            (
                "gose_reloads_total",
                "Configurations taken.",
                &metrics.reloads,
            ),
        ] {
            out.single(name, "counter", help, load(counter));
        }
        out.single(
            "gose_sessions",
            "gauge",
            "Sessions over TLS that are open.",
            self.sessions.count(),
        );
        out.by_label(
            "gose_racs_operations_total",
            "RACS operations by status class.",
            "class",
            metrics.racs.counts(),
        );
        out.by_label(
            "gose_tls_refused_total",
            "TLS handshakes refused, by cause.",
            "cause",
            metrics.tls_refused.counts(),
        );
        if let Some(middleware) = &self.middleware {
            let [signed, refused] = middleware.attach_counts();
            out.by_label(
                "gose_attach_signatures_total",
                "Handshake signatures asked for by guests.",
                "outcome",
                [("signed", signed), ("refused", refused)],
            );
            self.guests(out, middleware);
        }
    }

    /// What guests did at the hypervisor's authenticator.
    fn guests(&self, out: &mut Exposition, middleware: &Middleware) {
        let Some(authenticator) = middleware.authenticator() else {
            return;
        };
        let [accepted, rejected, broken] = authenticator.verdicts();
        out.by_label(
            "gose_guest_authentications_total",
            "EAP conversations of guests with RADIUS servers, by verdict.",
            "verdict",
            [
                ("accept", accepted),
                ("reject", rejected),
                ("broken", broken),
            ],
        );
        let ([opened, closed], open) = authenticator.port_counts();
        out.by_label(
            "gose_guest_port_changes_total",
            "Ports of guests opened and closed.",
            "change",
            [("opened", opened), ("closed", closed)],
        );
        out.single(
            "gose_guest_ports_open",
            "gauge",
            "Ports of guests that are open.",
            open,
        );
    }

    fn elements(&self, out: &mut Exposition) {
        let measured = self.grid.measured();
        let each = |out: &mut Exposition, name: &str, value: fn(&Measured) -> u64| {
            for element in &measured {
                out.sample(name, &[("seid", &element.seid.to_string())], value(element));
            }
        };
        let name = "gose_element_held";
        out.family(name, "gauge", "Whether a session holds the element.");
        each(out, name, |element| u64::from(element.held));
        let name = "gose_element_apdus_total";
        out.family(name, "counter", "APDUs that the element answered.");
        each(out, name, |element| element.apdus);
        let name = "gose_element_errors_total";
        out.family(name, "counter", "Scripts without an answer of the element.");
        each(out, name, |element| element.errors);
        // By where elements run, not by element: there may be a thousand.
        let name = "gose_element_script_seconds";
        out.family(name, "histogram", "How long scripts of APDUs took.");
        for (place, runs) in [
            ("inline", Runs::Inline),
            ("thread", Runs::Thread),
            ("remote", Runs::ThreadEachLease),
        ] {
            let of = || measured.iter().filter(move |element| element.runs == runs);
            let mut sum = 0;
            for at in 0..=CLASSES.len() {
                sum += of().map(|element| element.classes[at]).sum::<u64>();
                let bound = CLASSES
                    .get(at)
                    .map_or_else(|| "+Inf".to_owned(), ToString::to_string);
                out.sample(
                    &format!("{name}_bucket"),
                    &[("place", place), ("le", &bound)],
                    sum,
                );
            }
            let time: Duration = of().map(|element| element.time).sum();
            out.sample(
                &format!("{name}_sum"),
                &[("place", place)],
                time.as_secs_f64(),
            );
            out.sample(&format!("{name}_count"), &[("place", place)], sum);
        }
    }

    fn eap(&self, out: &mut Exposition) {
        let Some(pool) = &self.pool else { return };
        out.by_label(
            "gose_eap_conversations_total",
            "EAP conversations that ended, by verdict.",
            "verdict",
            pool.verdicts().counts(),
        );
        let state = pool.state();
        let name = "gose_eap_element_state";
        out.family(
            name,
            "gauge",
            "Server elements by state: free, busy, resting.",
        );
        for (identity, element) in &state {
            let word = match (element.busy, element.resting) {
                (true, _) => "busy",
                (_, true) => "resting",
                _ => "free",
            };
            let labels = [
                ("identity", identity.as_str()),
                ("seid", &element.seid.to_string()),
                ("state", word),
            ];
            out.sample(name, &labels, 1);
        }
        let name = "gose_eap_element_conversation_seconds";
        out.family(
            name,
            "gauge",
            "What a conversation takes of the element's time, smoothed.",
        );
        for (identity, element) in &state {
            let labels = [
                ("identity", identity.as_str()),
                ("seid", &element.seid.to_string()),
            ];
            out.sample(name, &labels, element.cost.as_secs_f64());
        }
        let name = "gose_eap_host_signing";
        out.family(
            name,
            "gauge",
            "Handshakes of TLS on the host that are at their key.",
        );
        for (identity, on_host) in pool.on_host() {
            out.sample(name, &[("identity", identity)], on_host.signing());
        }
    }

    fn radius(&self, out: &mut Exposition) {
        let Some((front, disconnector)) = &self.radius else {
            return;
        };
        let counters = front.counters();
        out.by_label(
            "gose_radius_packets_total",
            "RADIUS packets of clients, by what they were.",
            "kind",
            [
                ("request", load(&counters.requests)),
                ("duplicate", load(&counters.duplicates)),
                ("discarded", load(&counters.discarded)),
            ],
        );
        out.by_label(
            "gose_radius_discarded_total",
            "RADIUS packets dropped, by cause.",
            "cause",
            Discard::ALL
                .iter()
                .zip(&counters.causes)
                .map(|(cause, count)| (cause.label(), load(count)))
                .chain([("no-client", load(&counters.strangers))]),
        );
        out.single(
            "gose_radius_overloaded_total",
            "counter",
            "Times that no element was free for a conversation.",
            load(&counters.overloaded),
        );
        out.single(
            "gose_radius_conversations",
            "gauge",
            "Conversations that are not over.",
            front.conversations(),
        );
        out.single(
            "gose_radius_sessions",
            "gauge",
            "Sessions that were accepted and may be ended.",
            front.sessions().len(),
        );
        let ended = disconnector.counters();
        out.by_label(
            "gose_radius_disconnects_total",
            "Disconnect-Requests, by what came of them.",
            "outcome",
            [
                ("acknowledged", load(&ended.acknowledged)),
                ("refused", load(&ended.refused)),
                ("failed", load(&ended.failed)),
            ],
        );
    }

    fn certificates(&self, out: &mut Exposition) {
        let name = "gose_certificate_expiry_timestamp_seconds";
        out.family(
            name,
            "gauge",
            "When the node's own certificates expire, in seconds since 1970.",
        );
        for (purpose, file) in &self.certificates {
            let Ok(chain) = tls::certificates(file) else {
                continue;
            };
            let ends = chain.iter().filter_map(|der| {
                let certificate = Certificate::parse(der).ok()?;
                Some(certificate.validity().1)
            });
            // A chain is as good as the certificate that expires first.
            if let Some(end) = ends.min() {
                out.sample(name, &[("purpose", purpose)], end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, grid::Policy};

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_and_refuses() {
        let config = Config::parse("version = 1\n[admin]\n").unwrap();
        let grid = Grid::new(Vec::new(), Policy::new(&config), Duration::from_secs(1));
        grid.metrics().racs.add(gose_proto::racs::Class::InUse);
        let sources = Figures {
            grid,
            sessions: Arc::default(),
            pool: None,
            radius: None,
            middleware: None,
            certificates: vec![("tls".into(), "/nowhere".into())],
        };
        let endpoint = Endpoint::bind(([127, 0, 0, 1], 0).into(), sources);
        let endpoint = endpoint.await.unwrap();
        let address = endpoint.address().unwrap();
        let task = tokio::spawn(endpoint.serve());
        let text = get(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("\ngose_racs_operations_total{class=\"-7\"} 1\n"));
        assert!(text.contains("\ngose_racs_operations_total{class=\"+0\"} 0\n"));
        assert!(
            text.contains("gose_element_script_seconds_bucket{place=\"inline\",le=\"+Inf\"} 0\n")
        );
        let text = get(address, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
        let text = get(address, "POST /metrics HTTP/1.0\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        // A head without an end is not kept in memory.
        let text = get(address, &"x".repeat(HEAD)).await;
        assert_eq!(text, "");
        task.abort();
    }
}
