//! Three nodes in this process, on loopback; guests are processes.

use std::{
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use gose_client::{
    Link,
    admin::{self, Action, Answer, VmCreate},
    guest::Guest,
    tls::{ADMIN, Identity, anchors, client_config, server_name},
};
use gose_element::{
    Algorithm, SecureElement, Seid,
    drive::eap_tls::{AID, personalisation::Operator},
};
use gose_proto::eap::Role;
use gose_testkit::{
    pki::{Authority, Leaf, Request, pem},
    world::{OPERATOR_PIN, personalise, take_over},
};
use gosed::{
    config::Config,
    grid::{Grid, Names, Peer, Plane},
    hypervisor::middleware::Start,
    leased::Leased,
    node::{Node, Running},
};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateDer;

use crate::line::Line;

pub(crate) struct World {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) site: Authority,
    pub(crate) hv_ca: Vec<Vec<u8>>,
    pub(crate) grid: Running,
    /// Holds element `SE-C`, in a world that has it.
    pub(crate) second_grid: Option<Running>,
    pub(crate) server: Running,
    /// The configurations of the authentication server and of the hypervisor.
    pub(crate) server_text: String,
    pub(crate) hypervisor_text: String,
    /// Between the hypervisor and the grids.
    pub(crate) lines: Vec<Line>,
    hypervisor: Option<Running>,
    guests: UnixListener,
}

/// The hypervisor stops gently: no guest is left.
impl Drop for World {
    fn drop(&mut self) {
        // Taken once, here.
        let hypervisor = self.hypervisor.take();
        if let Some(hypervisor) = hypervisor {
            let middleware = hypervisor.roles().middleware.clone().unwrap();
            self.runtime.block_on(hypervisor.stop());
            assert!(middleware.list().is_empty());
        }
    }
}

/// A guest that the test plays.
pub(crate) struct Played {
    pub(crate) guest: Guest,
    /// Closing it ends the process.
    _process: UnixStream,
}

/// Everything that was logged, by all tests of this process.
static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Logger;

impl std::io::Write for Logger {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Waits until one line of the log holds all of these.
pub(crate) fn logged(parts: &[&str]) {
    let begun = Instant::now();
    loop {
        let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
        if log
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
        {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no line with {parts:?} in\n{log}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl World {
    pub(crate) fn new(service: &str) -> Self {
        Self::with_grids(service, false)
    }

    /// A world with a second grid node behind the hypervisor.
    pub(crate) fn with_two_grids() -> Self {
        Self::with_grids("none", true)
    }

    fn with_grids(service: &str, second: bool) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Logger)
            .try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let site = Authority::new("Site");
        let path = dir.path();
        let _ = site.write(path, "site");
        for name in ["grid", "grid-2", "server", "hv-7", "hv-8"] {
            let mut request = Request::new(Some(name));
            let names = ["localhost", "127.0.0.1"];
            request.params.subject_alt_names = site_names(&names);
            let _ = site.issue(request).write(path, name);
        }
        std::fs::write(path.join("master.key"), [7; 32]).unwrap();
        std::fs::write(path.join("pin"), "0000").unwrap();
        std::fs::write(path.join("piv-pin"), "123456").unwrap();
        for name in ["master.key", "pin", "piv-pin"] {
            std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let guests = UnixListener::bind(path.join("guests.sock")).unwrap();
        let entered = runtime.enter();
        let hv_ca = authority_of_the_hypervisor(path, &site);
        let grid = grid_node(&runtime, path, &site, "grid", &FIRST);
        let second_grid = second.then(|| grid_node(&runtime, path, &site, "grid-2", &SECOND));
        let (server, server_text) = server_node(&runtime, path, &site, service);
        let grids = std::iter::once(&grid).chain(&second_grid);
        let lines: Vec<_> = grids
            .map(|grid| Line::to(grid.address().unwrap()))
            .collect();
        let remote: Vec<_> = lines.iter().zip([&FIRST[..], &SECOND[..]]).collect();
        let (hypervisor, hypervisor_text) = hypervisor_node(&runtime, path, &remote, &server);
        drop(entered);
        Self {
            dir,
            site,
            hv_ca,
            grid,
            second_grid,
            server,
            server_text,
            hypervisor_text,
            lines,
            hypervisor: Some(hypervisor),
            guests,
            runtime,
        }
    }

    /// Asks the hypervisor's management plane as a user.
    pub(crate) fn ask(&self, user: &str, action: &Action) -> Answer {
        let leaf = self.site.user(user);
        let mut link = self.link(self.hypervisor(), &leaf, ADMIN);
        admin::ask(&mut link, action).unwrap()
    }

    pub(crate) fn link(&self, node: &Running, leaf: &Leaf, protocol: &[u8]) -> Link {
        let identity = Identity::from_der(leaf.chain.clone(), leaf.key()).unwrap();
        let config = client_config(&identity, anchors([self.site.der()]).unwrap(), protocol);
        let socket = std::net::TcpStream::connect(node.address().unwrap()).unwrap();
        let name = server_name("localhost").unwrap();
        Link::tls(socket, name, config.unwrap(), Duration::from_secs(10)).unwrap()
    }

    /// Creates a guest with this element and plays it.
    pub(crate) fn create(&self, seid: &str) -> Played {
        self.create_with(&[seid])
    }

    /// Creates a guest with these elements and plays it.
    pub(crate) fn create_with(&self, seids: &[&str]) -> Played {
        let create = VmCreate {
            image: "played".to_owned(),
            seid: seids.iter().map(ToString::to_string).collect(),
            ..VmCreate::default()
        };
        match self.ask("alice", &Action::VmCreate(create)) {
            Answer::Created(_) => self.play(),
            other => panic!("{other:?}"),
        }
    }

    /// Plays the guest that was created last.
    pub(crate) fn play(&self) -> Played {
        let (control, process) = self.control();
        Played {
            guest: Guest::join(control).unwrap(),
            _process: process,
        }
    }

    /// The control socket of the guest that was created last.
    pub(crate) fn control(&self) -> (UnixStream, UnixStream) {
        let (stream, _) = self.guests.accept().unwrap();
        super::guest::take(stream)
    }
}

pub(crate) fn site_names(names: &[&str]) -> Vec<SanType> {
    let name = |name: &&str| match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    };
    names.iter().map(name).collect()
}

/// What every node has.
pub(crate) fn common(path: &Path, name: &str) -> String {
    let path = path.display();
    format!(
        r#"
version = 1
[listen]
address = "127.0.0.1:0"
[tls]
certificate-file = "{path}/{name}.pem"
key = {{ file = "{path}/{name}.key" }}
user-anchor-files = ["{path}/site.pem"]
node-anchor-files = ["{path}/site.pem"]
trust-domain = "example.org"
[store]
directory = "{path}"
master-key-file = "{path}/master.key"
"#
    )
}

fn start(runtime: &tokio::runtime::Runtime, text: &str) -> Running {
    let config = Config::parse(text).unwrap();
    let started = runtime.block_on(async {
        tokio::spawn(Node::new(config).unwrap().start())
            .await
            .unwrap()
    });
    started.unwrap_or_else(|error| {
        let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
        panic!("{error}\n{log}")
    })
}

/// Has an element of a node that does not listen, as its operator.
pub(crate) fn provision<T>(text: &str, seid: &str, work: impl FnOnce(&mut Leased) -> T) -> T {
    let node = Node::new(Config::parse(text).unwrap()).unwrap();
    on(node.grid(), seid, work)
}

pub(crate) fn on<T>(grid: &Arc<Grid>, seid: &str, work: impl FnOnce(&mut Leased) -> T) -> T {
    let peer = Peer::new(grid.new_sid(), Names::Operator);
    let seid: Seid = seid.parse().unwrap();
    let patience = Duration::from_secs(5);
    let mut element = Leased::wait_for(grid, &peer, seid, Plane::Management, patience).unwrap();
    element.power_on().unwrap();
    work(&mut element)
}

pub(crate) fn slots(seids: &[&str]) -> String {
    let slot = |seid: &&str| {
        format!("[[slot]]\nseid = \"{seid}\"\nkind = \"software\"\ndefault = \"allow\"\n")
    };
    seids.iter().map(slot).collect()
}

/// The elements of the two grid nodes.
const FIRST: [&str; 2] = ["SE-A", "SE-B"];
const SECOND: [&str; 1] = ["SE-C"];

/// The hypervisor may use every element of the node.
fn grid_text(path: &Path, name: &str, seids: &[&str]) -> String {
    let user = format!("[[user]]\ncn = \"hv-7\"\nseid = {seids:?}\n");
    // The other hypervisor's authority is any certificate: its key is what counts.
    let told = format!(
        r#"
[generations]
file = "{path}/told-to-{name}.json"
[[generations.hypervisor]]
user = "hv-7"
ca-certificate-file = "{path}/hv-ca.pem"
[[generations.hypervisor]]
user = "hv-8"
ca-certificate-file = "{path}/hv-8.pem"
"#,
        path = path.display()
    );
    common(path, name) + &slots(seids) + &user + &told
}

fn grid_node(
    runtime: &tokio::runtime::Runtime,
    path: &Path,
    site: &Authority,
    name: &str,
    seids: &[&str],
) -> Running {
    let text = grid_text(path, name, seids);
    for seid in seids {
        provision(&text, seid, |element| {
            take_over(element);
            personalise(element, site, Role::Peer, Algorithm::P256, |_, _| {});
        });
    }
    start(runtime, &text)
}

fn server_node(
    runtime: &tokio::runtime::Runtime,
    path: &Path,
    site: &Authority,
    service: &str,
) -> (Running, String) {
    let role = format!(
        r#"
[authentication-server]
elements = ["AS1"]
identity = "authenticator"
pin = "file:{}/pin"
callers = ["hv-7"]
allow = ["peer"]
service = "{service}"
"#,
        path.display()
    );
    let text = common(path, "server") + &role + &slots(&["AS1"]);
    provision(&text, "AS1", |element| {
        take_over(element);
        personalise(
            element,
            site,
            Role::Authenticator,
            Algorithm::P256,
            |_, _| {},
        );
    });
    (start(runtime, &text), text)
}

/// Makes `hv-ca` in the hypervisor's element; gives its chain.
fn authority_of_the_hypervisor(path: &Path, site: &Authority) -> Vec<Vec<u8>> {
    let base = hypervisor_text(path);
    let public = provision(&base, "HV", |element| {
        take_over(element);
        let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
        operator.generate(0x9C, Algorithm::P256).unwrap()
    });
    let hv_ca = hv_ca(site, &public);
    let chain: String = hv_ca.iter().map(|der| pem("CERTIFICATE", der)).collect();
    std::fs::write(path.join("hv-ca.pem"), chain).unwrap();
    hv_ca
}

fn hypervisor_text(path: &Path) -> String {
    common(path, "hv-7") + &slots(&["HV"])
}

fn hypervisor_node(
    runtime: &tokio::runtime::Runtime,
    path: &Path,
    remote: &[(&Line, &[&str])],
    server: &Running,
) -> (Running, String) {
    let base = hypervisor_text(path);
    let seids: Vec<_> = remote.iter().flat_map(|(_, seids)| *seids).collect();
    let slots: String = remote
        .iter()
        .map(|(line, seids)| remote_slots(line, seids))
        .collect();
    let command = super::guest::command(&path.join("guests.sock"));
    let role = format!(
        r#"
[hypervisor]
ca-certificate-file = "{path}/hv-ca.pem"
ca-key = {{ seid = "HV", slot = "9C", pin = "file:{path}/piv-pin" }}
name = "localhost"
guest-anchor-files = ["{path}/site.pem"]
generation-file = "{path}/generations.json"
authentication-server = {{ node = "localhost:{port}", name = "localhost" }}
[[hypervisor.image]]
name = "played"
command = {command:?}
[[hypervisor.creator]]
user = "alice"
quota = 2
image = ["played"]
seid = {seids:?}
[[hypervisor.creator]]
user = "bob"
quota = 1
image = ["*"]
"#,
        path = path.display(),
        port = server.address().unwrap().port(),
    );
    let text = base + &slots + &role;
    (start(runtime, &text), text)
}

/// Elements of a grid node as slots of the hypervisor.
fn remote_slots(line: &Line, seids: &[&str]) -> String {
    let port = line.port();
    let slot = |seid: &&str| {
        format!(
            "[[slot]]\nseid = \"{seid}\"\nkind = \"remote\"\nnode = \"localhost:{port}\"\ndefault = \"allow\"\n"
        )
    };
    seids.iter().map(slot).collect()
}

pub(crate) fn hv_ca(site: &Authority, public: &[u8]) -> Vec<Vec<u8>> {
    let mut request = Request::new(Some("hv-7 authority"));
    request.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    request.params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    request.params.extended_key_usages = Vec::new();
    let name = "spiffe://example.org/hv/hv-7".try_into().unwrap();
    request.params.subject_alt_names = vec![SanType::URI(name)];
    site.certify(request, &SubjectPublicKeyInfo::from_der(public).unwrap())
}

impl World {
    pub(crate) fn hypervisor(&self) -> &Running {
        self.hypervisor.as_ref().unwrap()
    }

    /// The path of a file of the world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// From now on the second grid gives its element to this peer too.
    pub(crate) fn allow_on_second_grid(&self, id: &str) {
        let user = format!("[[user]]\nid = \"{id}\"\nseid = {SECOND:?}\n");
        self.reload_second_grid(&(self.second_grid_text() + &user));
    }

    pub(crate) fn second_grid_text(&self) -> String {
        grid_text(self.dir.path(), "grid-2", &SECOND)
    }

    pub(crate) fn reload_second_grid(&self, text: &str) {
        let grid = self.second_grid.as_ref().unwrap();
        grid.reload(&Config::parse(text).unwrap()).unwrap();
    }

    /// Stops the second grid and starts it again; the hypervisor does not reach it.
    pub(crate) fn restart_second_grid(&mut self) {
        self.lines[1].lead_to(None);
        let stopped = self.second_grid.take().unwrap();
        self.runtime.block_on(stopped.stop());
        self.second_grid = Some(start(&self.runtime, &self.second_grid_text()));
    }

    /// The node reads a configuration again.
    pub(crate) fn reload(&self, node: &Running, text: &str) {
        let _entered = self.runtime.enter();
        node.reload(&Config::parse(text).unwrap()).unwrap();
    }

    /// The hypervisor reaches the second grid again.
    pub(crate) fn reach_second_grid(&self) {
        let grid = self.second_grid.as_ref().unwrap();
        self.lines[1].lead_to(grid.address());
    }

    /// Starts a virtual machine of this UUID, as the operator; gives its generation.
    pub(crate) fn start(&self, uuid: &str, seid: &str) -> u64 {
        let middleware = self.hypervisor().roles().middleware.clone().unwrap();
        let command = super::guest::command(&self.path("guests.sock"));
        let start = Start {
            seids: vec![seid.parse().unwrap()],
            ..Start::of(uuid.parse().unwrap(), "played", command)
        };
        self.runtime.block_on(async move {
            let created = async move { tokio::task::block_in_place(|| middleware.create(start)) };
            let created = tokio::spawn(created).await.unwrap();
            created.unwrap().generation
        })
    }

    pub(crate) fn anchor(&self) -> CertificateDer<'static> {
        self.site.der()
    }
}
