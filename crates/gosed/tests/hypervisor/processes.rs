//! The three nodes as processes of their own, with private keys that the test knows.

use std::{
    fs::File,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gose_client::{
    Endpoint,
    admin::{self, Action, Answer, VmCreate},
};
use gose_element::{
    Algorithm,
    drive::eap_tls::{AID, Key, personalisation::Operator},
};
use gose_proto::eap::Role;
use gose_testkit::{
    pki::{Authority, Leaf, Request, pem},
    world::{OPERATOR_PIN, personalise, take_over},
};

use crate::world::{common, hv_ca, provision, site_names, slots};

/// A node that runs. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) log: PathBuf,
    port: String,
}

impl Process {
    fn start(folder: &Path, name: &str, text: &str) -> Self {
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, text).unwrap();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_gosed"))
            .args(["run", "--config"])
            .arg(&config)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let port = String::new();
        let mut node = Self { child, log, port };
        node.port = node.listening();
        node
    }

    /// Waits for the port that it listens on.
    fn listening(&self) -> String {
        let begun = Instant::now();
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(line) = log.lines().find(|line| line.contains("listening address=")) {
                let port = line.rsplit(':').next().unwrap();
                return port.chars().take_while(char::is_ascii_digit).collect();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three processes that serve guests, each a process too.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) grid: Process,
    pub(crate) server: Process,
    pub(crate) hypervisor: Process,
    /// Where guests report.
    pub(crate) guests: UnixListener,
    /// The key of the guest's identity, in its element alone.
    pub(crate) guest_key: Leaf,
    /// The key of the authentication server's identity, in its element alone.
    pub(crate) server_key: Leaf,
    /// The key of the hypervisor's TLS, in a file.
    pub(crate) hypervisor_key: Leaf,
}

impl Site {
    pub(crate) fn new() -> Self {
        // Elements are made in this process, before the nodes have them.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let site = Authority::new("Site");
        let _ = site.write(path, "site");
        let mut nodes = ["grid", "server", "hv-7"].map(|name| node_key(&site, path, name));
        secrets(path);
        let guests = UnixListener::bind(path.join("guests.sock")).unwrap();
        let (guest_key, server_key) = (site.user("peer"), site.user("localhost"));
        let grid = grid_node(path, &site, &guest_key);
        let server = server_node(path, &site, &server_key);
        let hypervisor = hypervisor_node(path, &site, &grid, &server);
        let [_, _, hypervisor_key] = &mut nodes;
        let hypervisor_key = std::mem::replace(hypervisor_key, site.user("nobody"));
        Self {
            grid,
            server,
            hypervisor,
            guests,
            guest_key,
            server_key,
            hypervisor_key,
            dir,
        }
    }

    /// The socket of a node's operator.
    pub(crate) fn admin(&self, name: &str) -> Endpoint {
        Endpoint::Unix(self.dir.path().join(format!("{name}.sock")))
    }

    /// Asks the hypervisor as its operator.
    pub(crate) fn ask(&self, action: &Action) -> Answer {
        let mut link = self.admin("hv-7").link().unwrap();
        admin::ask(&mut link, action).unwrap()
    }

    /// Has the hypervisor start the guest that works by itself.
    pub(crate) fn create(&self) -> Answer {
        self.ask(&Action::VmCreate(VmCreate {
            image: "working".to_owned(),
            seid: vec!["SE-A".to_owned()],
            ..VmCreate::default()
        }))
    }
}

fn node_key(site: &Authority, path: &Path, name: &str) -> Leaf {
    let mut request = Request::new(Some(name));
    request.params.subject_alt_names = site_names(&["localhost", "127.0.0.1"]);
    let leaf = site.issue(request);
    let _ = leaf.write(path, name);
    leaf
}

fn secrets(path: &Path) {
    for (name, value) in [
        ("master.key", &[7; 32][..]),
        ("pin", b"0000"),
        ("piv-pin", b"123456"),
    ] {
        std::fs::write(path.join(name), value).unwrap();
        std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn base(path: &Path, name: &str) -> String {
    let admin = path.join(format!("{name}.sock"));
    common(path, name) + &format!("[admin]\nsocket = {admin:?}\n")
}

/// The configuration with an element whose identity is a key from outside.
fn with_key(text: &str, seid: &str, site: &Authority, role: Role, leaf: &Leaf) {
    provision(text, seid, |element| {
        take_over(element);
        personalise(element, site, role, Algorithm::P256, |_, identity| {
            identity.key = Key::Pkcs8(leaf.key().secret_der().to_vec().into());
            identity.chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
        });
    });
}

fn grid_node(path: &Path, site: &Authority, key: &Leaf) -> Process {
    let users = "[[user]]\ncn = \"hv-7\"\nseid = [\"SE-A\"]\n";
    let text = base(path, "grid") + &slots(&["SE-A"]) + users;
    with_key(&text, "SE-A", site, Role::Peer, key);
    Process::start(path, "grid", &text)
}

fn server_node(path: &Path, site: &Authority, key: &Leaf) -> Process {
    let role = "[authentication-server]\nelements = [\"AS1\"]\nidentity = \"authenticator\"\n\
                pin = \"file:pin\"\ncallers = [\"hv-7\"]\nallow = [\"peer\"]\nservice = \"none\"\n";
    let text = base(path, "server") + role + &slots(&["AS1"]);
    let text = text.replace("file:pin", &format!("file:{}/pin", path.display()));
    with_key(&text, "AS1", site, Role::Authenticator, key);
    Process::start(path, "server", &text)
}

fn hypervisor_node(path: &Path, site: &Authority, grid: &Process, server: &Process) -> Process {
    let base = base(path, "hv-7") + &slots(&["HV"]);
    let public = provision(&base, "HV", |element| {
        take_over(element);
        let mut operator = Operator::open(element, &AID, OPERATOR_PIN).unwrap();
        operator.generate(0x9C, Algorithm::P256).unwrap()
    });
    let chain: String = hv_ca(site, &public)
        .iter()
        .map(|der| pem("CERTIFICATE", der))
        .collect();
    std::fs::write(path.join("hv-ca.pem"), chain).unwrap();
    let role = format!(
        r#"
[[slot]]
seid = "SE-A"
kind = "remote"
node = "localhost:{grid}"
default = "allow"
[hypervisor]
ca-certificate-file = "{path}/hv-ca.pem"
ca-key = {{ seid = "HV", slot = "9C", pin = "file:{path}/piv-pin" }}
name = "localhost"
guest-anchor-files = ["{path}/site.pem"]
generation-file = "{path}/generations.json"
authentication-server = {{ node = "localhost:{server}", name = "localhost" }}
[[hypervisor.image]]
name = "working"
command = {command:?}
"#,
        path = path.display(),
        grid = grid.port,
        server = server.port,
        command = super::guest::working(&path.join("guests.sock")),
    );
    Process::start(path, "hv-7", &(base + &role))
}
