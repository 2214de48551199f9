//! The phases, in order, and what came of them.

use std::{
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use gose_card::timing::Profile;
use gose_client::{
    Endpoint,
    admin::{self, Action, Answer, ElementUse, Vm, VmCreate},
    tls::{self, Identity},
};
use gose_element::drive::piv::Slot;
use gose_proto::{hex, identity::Certificate};
use rustls_pki_types::CertificateDer;

use super::{
    Failure,
    control::{Attack, Figures, Line, Order, Reply},
    report::{Attempt, Paper, Report, Row, median},
    site::{CONTROL, GUESTS, HOST, Site, User},
};
use crate::hypervisor::domain::{BURST, REFILL};

/// How long a guest may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// MiB of phase 3 on the host.
const HOST_MIB: usize = 64;
/// Bytes of phase 3 in the element.
const ELEMENT_BYTES: usize = 1_000_000;
/// Parts of the paper's figures that it does not explain (Java), seconds: full, resumed.
const REST: [f64; 2] = [0.68, 0.35];

/// A guest that runs.
struct Running {
    vm: Vm,
    line: Line,
}

/// The play.
pub(super) struct Play<'a> {
    site: Site,
    listener: UnixListener,
    report: Report,
    rounds: usize,
    /// Rounds so far in which a guest had attach sign.
    signed: u32,
    step: &'a mut dyn FnMut(&str),
}

impl<'a> Play<'a> {
    pub(super) fn new(
        site: Site,
        rounds: usize,
        step: &'a mut dyn FnMut(&str),
    ) -> Result<Self, Failure> {
        let listener = UnixListener::bind(site.folder.join(CONTROL))?;
        Ok(Self {
            site,
            listener,
            report: Report::default(),
            rounds,
            signed: 0,
            step,
        })
    }

    /// Everything; the site is handed back as it runs.
    pub(super) fn run(mut self, slow: bool) -> Result<(Report, Site), Failure> {
        (self.step)("phase 0: a user's element authorises two guests, another user is refused");
        let [mut a, mut b] = self.authorise()?;
        (self.step)("phase 1: the guests attach with their tokens");
        self.attach(&mut a, &mut b)?;
        (self.step)("phase 2: EAP-TLS between elements of two processes");
        self.authenticate(&mut a)?;
        (self.step)("phase 3: 64 MiB on the host, 1 MB in the element");
        self.transfer(&mut a, &mut b)?;
        (self.step)("isolation: what a guest must not get");
        let b = self.isolation(&mut a, b)?;
        if slow {
            (self.step)("profile paper-2014: cards that take their time");
            self.site = self.site.slow_authentication()?;
            self.paper(&mut a)?;
        }
        for mut guest in [a, b] {
            guest.line.send(&Order::Quit)?;
        }
        Ok((self.report, self.site))
    }

    /// Phase 0.
    fn authorise(&mut self) -> Result<[Running; 2], Failure> {
        let mut times = Vec::new();
        let mut guests = Vec::new();
        // The user's key for TLS, hv-tls for TLS, hv-ca for the guest's token.
        let before =
            self.site.users[0].element.private_operations() + self.hypervisor_operations()?;
        for spec in &GUESTS {
            let create = create(spec.name, spec.seids);
            let start = Instant::now();
            let answer = ask_as(&self.site, &self.site.users[0], &create)?;
            let Answer::Created(vm) = answer else {
                return Err(format!("alice may not create {}: {answer:?}", spec.name).into());
            };
            times.push(start.elapsed().as_secs_f64() * 1000.0);
            guests.push(self.meet(vm)?);
        }
        let after =
            self.site.users[0].element.private_operations() + self.hypervisor_operations()?;
        let keys = (after - before) / times.len() as u64;
        let mark = self.site.hypervisor.log().len();
        let answer = ask_as(
            &self.site,
            &self.site.users[1],
            &create("guest-a", &["SE-A"]),
        )?;
        self.note_attempt(
            "a user without the right (mallory) creates a guest",
            mark,
            match answer {
                Answer::Refused { reason, text } => Ok(format!("{reason:?}: {text}")),
                other => Err(format!("{other:?}")),
            },
        );
        self.report.phase0_ms = median(&mut times.clone());
        self.row(
            "0 authorise a guest (user's element, TLS)",
            times,
            Figures::default(),
            keys,
            "",
        );
        let mut guests = guests.into_iter();
        match (guests.next(), guests.next()) {
            (Some(a), Some(b)) => Ok([a, b]),
            _ => Err("two guests were to be created".into()),
        }
    }

    /// Waits for the guest that was created to come up.
    fn meet(&self, vm: Vm) -> Result<Running, Failure> {
        let (_, line) = Line::accept(&self.listener, PATIENCE)?;
        Ok(Running { vm, line })
    }

    /// Phase 1.
    fn attach(&mut self, a: &mut Running, b: &mut Running) -> Result<(), Failure> {
        let before = self.hypervisor_operations()?;
        let mut times = Vec::new();
        for _ in 0..self.rounds {
            self.pace();
            times.push(a.line.done(&Order::Attach)?.ms);
            times.push(b.line.done(&Order::Attach)?.ms);
        }
        // hv-ca for the guest, hv-tls for the middleware.
        let keys = (self.hypervisor_operations()? - before) / times.len() as u64;
        self.report.phase1_ms = median(&mut times.clone());
        self.row(
            "1 attach (TLS 1.3, token, hv-ca signs)",
            times,
            Figures::default(),
            keys,
            "",
        );
        Ok(())
    }

    /// Phase 2: each version, full and resumed, each often enough for a median.
    fn authenticate(&mut self, a: &mut Running) -> Result<(), Failure> {
        for (identity, version) in [("tls13", "TLS 1.3"), ("tls12", "TLS 1.2")] {
            let before = self.used("SE-A")?;
            let full = self.times(a, &format!("{identity}-full"), false)?;
            let full_keys = self.private_operations("SE-A", &before)? / self.rounds as u64;
            // The first one fills the element's session cache.
            let first = a.line.done(&authenticate("SE-A", identity, true))?;
            if first.resumed {
                return Err("the first session of an identity is a full one".into());
            }
            let before = self.used("SE-A")?;
            let resumed = self.times(a, identity, true)?;
            let resumed_keys = self.private_operations("SE-A", &before)? / self.rounds as u64;
            let (full_ms, resumed_ms) = (median(&mut times(&full)), median(&mut times(&resumed)));
            let (full_trips, last) = (full[0].round_trips, full[full.len() - 1]);
            if version == "TLS 1.3" {
                self.report.phase2_full_ms = full_ms;
                self.report.phase2_resumed_ms = resumed_ms;
            }
            self.report.racs_round_trips_full = self.report.racs_round_trips_full.max(full_trips);
            self.row(
                &format!("2 authenticate, {version} full"),
                times(&full),
                last,
                full_keys,
                "2.0 s",
            );
            let last = resumed[resumed.len() - 1];
            self.row(
                &format!("2 authenticate, {version} resumed"),
                times(&resumed),
                last,
                resumed_keys,
                "0.5 s",
            );
        }
        Ok(())
    }

    fn times(
        &mut self,
        guest: &mut Running,
        identity: &str,
        resumed: bool,
    ) -> Result<Vec<Figures>, Failure> {
        let mut figures = Vec::new();
        for _ in 0..self.rounds {
            self.pace();
            let one = guest.line.done(&authenticate("SE-A", identity, true))?;
            if one.resumed != resumed {
                return Err(format!(
                    "{identity}: resumed is {}, {resumed} was expected",
                    one.resumed
                )
                .into());
            }
            figures.push(one);
        }
        Ok(figures)
    }

    /// Many rounds are more signatures than a guest gets at once: then each waits until one is earned.
    fn pace(&mut self) {
        self.signed += 1;
        if self.signed > BURST / 2 {
            std::thread::sleep(REFILL);
        }
    }

    /// What an element of the grid was used for so far.
    fn used(&self, seid: &str) -> Result<ElementUse, Failure> {
        used(&self.site, "grid", seid)
    }

    /// Private-key operations of a guest's element since `before`.
    fn private_operations(&self, seid: &str, before: &ElementUse) -> Result<u64, Failure> {
        Ok(self.used(seid)?.private_operations() - before.private_operations())
    }

    /// Private-key operations of the hypervisor's element so far.
    fn hypervisor_operations(&self) -> Result<u64, Failure> {
        Ok(used(&self.site, "hypervisor", "HV")?.private_operations())
    }

    /// Phase 3.
    fn transfer(&mut self, a: &mut Running, b: &mut Running) -> Result<(), Failure> {
        a.line.done(&authenticate("SE-A", "tls13", true))?;
        let before = self.used("SE-A")?;
        let host = a.line.done(&Order::HostTransfer { mib: HOST_MIB })?;
        let keys = self.private_operations("SE-A", &before)?;
        self.report.phase3_host_mib_s = HOST_MIB as f64 / host.ms * 1000.0;
        self.row(
            "3 64 MiB there and back, records on the host",
            vec![host.ms],
            host,
            keys,
            "",
        );
        a.line.done(&Order::Hang)?;
        b.line.done(&authenticate("SE-B", "tls13", false))?;
        let before = self.used("SE-B")?;
        let element = b.line.done(&Order::ElementTransfer {
            bytes: ELEMENT_BYTES,
        })?;
        let keys = self.private_operations("SE-B", &before)?;
        self.report.phase3_element_mib_s =
            ELEMENT_BYTES as f64 / f64::from(1 << 20) / element.ms * 1000.0;
        self.row(
            "3 1 MB there and back, records in the element",
            vec![element.ms],
            element,
            keys,
            "686 ms for 1,000 bytes",
        );
        b.line.done(&Order::Hang)?;
        Ok(())
    }

    /// What guest A must not get. Guest B is destroyed and created again on the way: the old token is its first one.
    fn isolation(&mut self, a: &mut Running, mut b: Running) -> Result<Running, Failure> {
        let old = token(&mut b)?;
        b.line.send(&Order::Quit)?;
        drop(b.line);
        // As the operator, who alone may give a guest the identity that it had.
        let admin = Endpoint::Unix(self.site.folder.join("hypervisor/admin.sock"));
        ask(
            &admin,
            &Action::VmDestroy {
                uuid: b.vm.uuid.clone(),
            },
        )?;
        let Action::VmCreate(again) = create("guest-b", GUESTS[1].seids) else {
            return Err("no action".into());
        };
        let again = VmCreate {
            uuid: Some(b.vm.uuid.clone()),
            ..again
        };
        let Answer::Created(vm) = ask(&admin, &Action::VmCreate(again))? else {
            return Err("the operator may not create guest-b again".into());
        };
        let mut b = self.meet(vm)?;
        let others = token(&mut b)?;
        let serial_of = |der: &[u8]| {
            Certificate::parse(der)
                .map(|c| hex::encode(c.serial()))
                .map_err(|e| e.to_string())
        };
        let others_serial = serial_of(&hex::decode(&others[0])?)?;
        let ca_serial = serial_of(&self.site.hv_ca[0])?;
        for (what, attack) in [
            (
                "guest A asks for guest B's element",
                Attack::OthersElement {
                    seid: "SE-B".into(),
                },
            ),
            (
                "guest A uses guest B's token",
                Attack::OthersToken {
                    chain: others.clone(),
                },
            ),
            (
                "guest A has attach sign for guest B's token",
                Attack::SignForSerial {
                    serial: others_serial,
                },
            ),
            (
                "guest A has attach sign for the hv-ca certificate",
                Attack::SignForSerial { serial: ca_serial },
            ),
            (
                "guest A has attach sign, under its own serial, a transcript that shows guest B's token, and presents it",
                Attack::SignedUnderOwnSerial { chain: others },
            ),
            (
                "guest A asks for its own element while the lock of a lost connection still stands",
                Attack::LockOfLostConnection,
            ),
        ] {
            self.attempt(what, a, attack)?;
        }
        self.attempt(
            "guest B replays the token of its life before",
            &mut b,
            Attack::OldToken { chain: old },
        )?;
        Ok(b)
    }

    fn attempt(&mut self, what: &str, guest: &mut Running, attack: Attack) -> Result<(), Failure> {
        let mark = self.site.hypervisor.log().len();
        let outcome = match guest.line.order(&Order::Attack(attack))? {
            Reply::Refused { saw } => Ok(saw),
            Reply::WentThrough { got } => Err(got),
            other => return Err(format!("{what}: {other:?}").into()),
        };
        self.note_attempt(what, mark, outcome);
        Ok(())
    }

    /// Keeps an attempt with the first reason that stands in the hypervisor's log since `mark`. Without a reason
    /// there it does not count as refused.
    fn note_attempt(&mut self, what: &str, mark: usize, outcome: Result<String, String>) {
        // The log is written by another process.
        let until = Instant::now() + Duration::from_secs(2);
        let logged = loop {
            let log = self.site.hypervisor.log();
            let reason = log
                .get(mark..)
                .unwrap_or_default()
                .lines()
                .find(|line| line.contains("refused"))
                .map(plain);
            match reason {
                Some(reason) => break Some(reason),
                None if Instant::now() > until => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let refused = outcome.is_ok() && logged.is_some();
        self.report.isolation_attempts += 1;
        self.report.isolation_refused += usize::from(refused);
        self.report.attempts.push(Attempt {
            what: what.into(),
            refused,
            saw: outcome.unwrap_or_else(|got| got),
            logged: logged.unwrap_or_else(|| "no reason in the hypervisor's log".into()),
        });
    }

    /// Guest A's slow element, and slow server elements: full, resumed, 1,000 bytes in the element.
    fn paper(&mut self, a: &mut Running) -> Result<(), Failure> {
        let start = self.used("SE-SLOW")?;
        let full = a.line.done(&authenticate("SE-SLOW", "tls12", false))?;
        let between = self.used("SE-SLOW")?;
        let resumed = a.line.done(&authenticate("SE-SLOW", "tls12", false))?;
        let end = self.used("SE-SLOW")?;
        if full.resumed || !resumed.resumed {
            return Err("a full session and a resumed one were expected".into());
        }
        let bytes = a.line.done(&Order::ElementTransfer { bytes: 1000 })?;
        let report = &mut self.report;
        let first = paper(&full, &start, &between, REST[0], 2.0);
        let second = paper(&resumed, &between, &end, REST[1], 0.5);
        report.paper_profile_full_s = Some(first.sum_s);
        report.paper_profile_resumed_s = Some(second.sum_s);
        report.paper_profile_1000_bytes_s = Some(bytes.sealed_ms / 1000.0);
        report.paper_full = Some(first);
        report.paper_resumed = Some(second);
        a.line.done(&Order::Hang)?;
        Ok(())
    }

    fn row(
        &mut self,
        phase: &str,
        mut times: Vec<f64>,
        last: Figures,
        private_operations: u64,
        paper: &str,
    ) {
        let of = times.len();
        self.report.rows.push(Row {
            phase: phase.into(),
            ms: median(&mut times),
            of,
            bytes: last.bytes,
            apdus: last.apdus,
            round_trips: last.round_trips,
            private_operations,
            paper: paper.into(),
        });
    }
}

/// What the client element took, part by part as its price list says, and what both took.
fn paper(
    figures: &Figures,
    before: &ElementUse,
    after: &ElementUse,
    rest_s: f64,
    paper_s: f64,
) -> Paper {
    let price = |count: u64, each: Duration| each.as_secs_f64() * count as f64;
    let list = &Profile::PAPER_2014;
    let waited_s = figures.element_ms / 1000.0;
    Paper {
        hashing_s: price(after.hash_blocks - before.hash_blocks, list.hash_block),
        rsa_s: price(after.rsa_private - before.rsa_private, list.rsa_private)
            + price(after.rsa_public - before.rsa_public, list.rsa_public),
        cipher_s: price(after.cipher_bytes - before.cipher_bytes, list.cipher_byte),
        io_s: price(after.io_bytes - before.io_bytes, list.io_byte),
        rest_s,
        waited_s,
        sum_s: waited_s + rest_s,
        both_cards_s: figures.t2_ms / 1000.0,
        paper_s,
    }
}

fn used(site: &Site, node: &str, seid: &str) -> Result<ElementUse, Failure> {
    let admin = Endpoint::Unix(site.folder.join(node).join("admin.sock"));
    match ask(&admin, &Action::ElementUse { seid: seid.into() })? {
        Answer::Use(used) => Ok(used),
        other => Err(format!("the counters of {seid} were asked for: {other:?}").into()),
    }
}

fn create(name: &str, seids: &[&str]) -> Action {
    Action::VmCreate(VmCreate {
        image: "demo".into(),
        seid: seids.iter().map(|seid| (*seid).into()).collect(),
        arguments: vec!["--name".into(), name.into()],
        ..VmCreate::default()
    })
}

fn authenticate(seid: &str, identity: &str, export: bool) -> Order {
    Order::Authenticate {
        seid: seid.into(),
        identity: identity.into(),
        export,
    }
}

fn times(figures: &[Figures]) -> Vec<f64> {
    figures.iter().map(|figures| figures.ms).collect()
}

fn token(guest: &mut Running) -> Result<Vec<String>, Failure> {
    match guest.line.order(&Order::Token)? {
        Reply::Token { chain } => Ok(chain),
        other => Err(format!("a token was asked for: {other:?}").into()),
    }
}

/// One action over TLS, as a user whose key is in an own element.
fn ask_as(site: &Site, user: &User, action: &Action) -> Result<Answer, Failure> {
    let chain = user
        .chain
        .iter()
        .cloned()
        .map(CertificateDer::from)
        .collect();
    let key = user.element.key(Slot::AUTHENTICATION)?;
    let identity = Identity::new(chain, std::sync::Arc::new(key))?;
    let config = tls::client_config(&identity, tls::load_anchors(&site.anchors())?, tls::ADMIN)?;
    let node = Endpoint::Tls {
        address: format!("{HOST}:{}", site.ports.hypervisor),
        name: tls::server_name(HOST)?,
        config,
    };
    ask(&node, action)
}

fn ask(node: &Endpoint, action: &Action) -> Result<Answer, Failure> {
    Ok(admin::ask(&mut node.link()?, action)?)
}

/// A line of the log without colours and time.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut escape = false;
    for c in line.chars() {
        match (escape, c) {
            (false, '\u{1b}') => escape = true,
            (true, 'm') => escape = false,
            (false, c) => text.push(c),
            (true, _) => {}
        }
    }
    text.split_once(' ')
        .map_or_else(|| text.clone(), |(_, rest)| rest.trim().to_owned())
}
