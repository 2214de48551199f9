//! The demo's installation: authorities, elements, certificates, configurations, three nodes.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use gose_client::{
    Endpoint,
    pki::{Authority, Kind, to_pem},
};
use gose_element::{
    Algorithm, Seid,
    drive::{
        eap_tls::{Key, Personalisation, Policy},
        piv::Slot,
    },
};
use gose_proto::eap::Role;

use super::{
    Failure,
    element::{Chain, Element},
    process::Node,
};

/// The trust domain of the demo.
const DOMAIN: &str = "demo.gose.test";
/// The name in every node's certificate.
pub(super) const HOST: &str = "localhost";
/// Days that the authorities' own certificates are valid: longer than what they issue.
const ROOT_DAYS: u32 = 30;
/// Server elements of the authentication server.
const SERVERS: usize = 4;

/// The socket on which guests are told what to do.
pub(super) const CONTROL: &str = "control.sock";

/// A guest of the demo.
pub(super) struct GuestSpec {
    pub(super) name: &'static str,
    /// Its element, and for the first guest the slow one too.
    pub(super) seids: &'static [&'static str],
}

/// The two guests.
pub(super) const GUESTS: [GuestSpec; 2] = [
    GuestSpec {
        name: "guest-a",
        seids: &["SE-A", "SE-SLOW"],
    },
    GuestSpec {
        name: "guest-b",
        seids: &["SE-B"],
    },
];

/// Everything that was made.
pub(super) struct Site {
    pub(super) folder: PathBuf,
    pub(super) grid: Node,
    pub(super) hypervisor: Node,
    pub(super) authentication: Node,
    /// The user who may create guests, and one who may not.
    pub(super) users: [User; 2],
    pub(super) hv_ca: Chain,
    pub(super) ports: Ports,
}

/// A user with an own element.
pub(super) struct User {
    pub(super) element: Element,
    pub(super) chain: Chain,
}

/// Ports of the three nodes on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    grid: u16,
    pub(super) hypervisor: u16,
    authentication: u16,
}

struct Authorities {
    nodes: Authority,
    users: Authority,
}

impl Site {
    /// Makes it all; `step` is told what is being done.
    pub(super) fn build(folder: &Path, step: &mut dyn FnMut(&str)) -> Result<Self, Failure> {
        step("certification authorities, their keys in elements");
        let authorities = Authorities::new(folder)?;
        step("users with an own element each");
        let users = [user("alice", &authorities)?, user("mallory", &authorities)?];
        for node in ["grid", "hypervisor", "authentication"] {
            directory(&folder.join(node))?;
        }
        let ports = Ports::free()?;
        step("grid node: elements of the guests, keys made inside");
        grid_elements(folder, &authorities)?;
        step("hypervisor node: its element with hv-ca and hv-tls");
        let hv_ca = hypervisor_element(folder, &authorities)?;
        step("authentication server: elements in the role of the server");
        server_elements(folder, &authorities)?;
        fs::write(folder.join("grid/gosed.toml"), grid_configuration(ports))?;
        fs::write(
            folder.join("hypervisor/gosed.toml"),
            hypervisor_configuration(folder, ports)?,
        )?;
        fs::write(
            folder.join("authentication/gosed.toml"),
            authentication_configuration(ports, None),
        )?;
        step("three nodes start");
        let grid = Node::start("grid node", &folder.join("grid"))?;
        let authentication = Node::start("authentication server", &folder.join("authentication"))?;
        let hypervisor = Node::start("hypervisor node", &folder.join("hypervisor"))?;
        Ok(Self {
            folder: folder.to_owned(),
            grid,
            hypervisor,
            authentication,
            users,
            hv_ca,
            ports,
        })
    }

    /// Starts the authentication server again with elements that take their time.
    pub(super) fn slow_authentication(mut self) -> Result<Self, Failure> {
        self.authentication.stop()?;
        let folder = self.folder.join("authentication");
        fs::write(
            folder.join("gosed.toml"),
            authentication_configuration(self.ports, Some("paper-2014")),
        )?;
        self.authentication = Node::start("authentication server", &folder)?;
        Ok(self)
    }

    /// Ends the nodes.
    pub(super) fn stop(self) -> Result<(), Failure> {
        self.hypervisor.stop()?;
        self.authentication.stop()?;
        Ok(self.grid.stop()?)
    }

    /// Leaves the nodes running.
    pub(super) fn leave(self) {
        self.hypervisor.leave();
        self.authentication.leave();
        self.grid.leave();
    }

    /// Where users reach the hypervisor.
    pub(super) fn anchors(&self) -> PathBuf {
        self.folder.join("nodes.pem")
    }
}

impl Authorities {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let authority = |name: &str, common_name: &str| -> Result<Authority, Failure> {
            let element = Element::here()?;
            let key = element.generate(Slot::SIGNATURE, Algorithm::P256)?;
            let authority = Authority::init(
                &folder.join(name),
                common_name,
                key,
                super::unix_time(),
                ROOT_DAYS,
            )?;
            fs::write(
                folder.join(format!("{name}.pem")),
                to_pem("CERTIFICATE", authority.root()),
            )?;
            Ok(authority)
        };
        Ok(Self {
            nodes: authority("nodes", "GoSE demo CA")?,
            users: authority("users", "GoSE demo users' CA")?,
        })
    }
}

fn user(name: &str, authorities: &Authorities) -> Result<User, Failure> {
    let element = Element::here()?;
    let kind = Kind::Client { name: name.into() };
    let chain = element.certify(
        Slot::AUTHENTICATION,
        Algorithm::P256,
        &authorities.users,
        &kind,
    )?;
    Ok(User { element, chain })
}

/// Runs `make` against a node that has elements and an admin socket, but no certificate yet.
fn provision(
    folder: &Path,
    slots: &str,
    make: impl FnOnce(&Endpoint) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| "the system gives no randomness")?;
    private(&folder.join("master.key"), &key)?;
    fs::write(folder.join("gosed.toml"), format!("{}{slots}", head()))?;
    let node = Node::start("node being provisioned", folder)?;
    make(&Endpoint::Unix(folder.join("admin.sock")))?;
    Ok(node.stop()?)
}

fn head() -> String {
    "version = 1\n\n[admin]\nsocket = \"admin.sock\"\n\n\
     [store]\ndirectory = \"elements\"\nmaster-key-file = \"master.key\"\n"
        .into()
}

fn software(seid: &str, timing: Option<&str>) -> String {
    let timing = timing
        .map(|name| format!("timing = \"{name}\"\n"))
        .unwrap_or_default();
    format!("\n[[slot]]\nseid = \"{seid}\"\nkind = \"software\"\n{timing}")
}

fn grid_elements(folder: &Path, authorities: &Authorities) -> Result<(), Failure> {
    let folder = folder.join("grid");
    let slots: String = ["NODE", "SE-A", "SE-B", "SE-SLOW"]
        .iter()
        .map(|seid| software(seid, None))
        .collect();
    provision(&folder, &slots, |admin| {
        node_identity(admin, &folder, authorities)?;
        for spec in &GUESTS {
            for name in spec.seids {
                let seid: Seid = name.parse()?;
                let element = Element::of(admin, seid)?;
                guest_identities(&element, spec.name, name.ends_with("SLOW"), authorities)?;
                let path = folder.join(format!("{name}.pin"));
                private(&path, element.secrets.bearer_pin.as_slice())?;
                element.power_off();
            }
        }
        Ok(())
    })
}

/// A guest's identities over the key of slot 9A: one a TLS version, with and without resumption, P-256; RSA for
/// the paper's figures.
fn guest_identities(
    element: &Element,
    name: &str,
    paper: bool,
    authorities: &Authorities,
) -> Result<(), Failure> {
    let kind = Kind::EapClient { name: name.into() };
    let (algorithm, versions): (_, &[(&str, u16)]) = if paper {
        (Algorithm::Rsa2048, &[("tls12", 0x0303)])
    } else {
        (
            Algorithm::P256,
            &[
                ("tls13", 0x0304),
                ("tls12", 0x0303),
                ("tls13-full", 0x0304),
                ("tls12-full", 0x0303),
            ],
        )
    };
    let chain = element.certify(Slot::AUTHENTICATION, algorithm, &authorities.nodes, &kind)?;
    for (label, version) in versions {
        element.add_identity(&Personalisation {
            label: (*label).into(),
            eap_id: format!("anonymous@{DOMAIN}"),
            role: Role::Peer,
            key: Key::Slot(Slot::AUTHENTICATION.id()),
            chain: chain.clone(),
            anchors: vec![authorities.nodes.root().to_vec()],
            policy: Policy {
                min_version: *version,
                max_version: *version,
                resumption: !label.ends_with("-full"),
                ..Policy::default()
            },
            expected_names: vec![format!("radius.{DOMAIN}")],
            crls: Vec::new(),
        })?;
    }
    Ok(())
}

fn hypervisor_element(folder: &Path, authorities: &Authorities) -> Result<Chain, Failure> {
    let folder = folder.join("hypervisor");
    let mut hv_ca = Chain::new();
    provision(&folder, &software("HV", None), |admin| {
        let id = format!("spiffe://{DOMAIN}/hv/hv-1").parse()?;
        let names = vec![HOST.to_string(), "127.0.0.1".into()];
        let element = Element::of(admin, "HV".parse()?)?;
        let tls = Kind::Hypervisor { id, names };
        let chain = element.certify(
            Slot::AUTHENTICATION,
            Algorithm::P256,
            &authorities.nodes,
            &tls,
        )?;
        fs::write(folder.join("node.pem"), pem(&chain))?;
        let ca = Kind::HypervisorCa {
            id: format!("spiffe://{DOMAIN}/hv/hv-1").parse()?,
        };
        hv_ca = element.certify(Slot::SIGNATURE, Algorithm::P256, &authorities.nodes, &ca)?;
        fs::write(folder.join("hv-ca.pem"), pem(&hv_ca))?;
        private(&folder.join("hv.pin"), element.secrets.piv_pin.as_slice())?;
        element.power_off();
        Ok(())
    })?;
    Ok(hv_ca)
}

fn server_elements(folder: &Path, authorities: &Authorities) -> Result<(), Failure> {
    let folder = folder.join("authentication");
    let slots: String = (0..SERVERS)
        .map(|n| software(&format!("AUTH-{n}"), None))
        .chain([software("NODE", None)])
        .collect();
    provision(&folder, &slots, |admin| {
        node_identity(admin, &folder, authorities)?;
        let kind = Kind::EapServer {
            names: vec![format!("radius.{DOMAIN}")],
        };
        // One bearer's PIN serves the pool: an operator's choice, made here once.
        let mut pool_pin = None;
        for n in 0..SERVERS {
            let element = Element::of(admin, format!("AUTH-{n}").parse()?)?;
            let pin = *pool_pin.get_or_insert(*element.secrets.bearer_pin);
            element.set_bearer_pin(&pin)?;
            for (label, slot, algorithm) in [
                ("server", Slot::AUTHENTICATION, Algorithm::P256),
                ("server-rsa", Slot::KEY_MANAGEMENT, Algorithm::Rsa2048),
            ] {
                let chain = element.certify(slot, algorithm, &authorities.nodes, &kind)?;
                element.add_identity(&Personalisation {
                    label: label.into(),
                    eap_id: String::new(),
                    role: Role::Authenticator,
                    key: Key::Slot(slot.id()),
                    chain,
                    anchors: vec![authorities.nodes.root().to_vec()],
                    policy: Policy::default(),
                    expected_names: Vec::new(),
                    crls: Vec::new(),
                })?;
            }
            element.power_off();
        }
        private(
            &folder.join("pool.pin"),
            &pool_pin.ok_or("no server element")?,
        )?;
        Ok(())
    })
}

/// The TLS identity of a node, in an element of its own.
fn node_identity(
    admin: &Endpoint,
    folder: &Path,
    authorities: &Authorities,
) -> Result<(), Failure> {
    let element = Element::of(admin, "NODE".parse()?)?;
    let kind = Kind::Server {
        names: vec![HOST.into(), "127.0.0.1".into()],
    };
    let chain = element.certify(
        Slot::AUTHENTICATION,
        Algorithm::P256,
        &authorities.nodes,
        &kind,
    )?;
    fs::write(folder.join("node.pem"), pem(&chain))?;
    private(&folder.join("node.pin"), element.secrets.piv_pin.as_slice())?;
    element.power_off();
    Ok(())
}

/// What all nodes have: where they listen, their certificate, whom they trust, applications for everybody whom
/// policy lets at an element.
fn common(port: u16, seid: &str, pin: &str) -> String {
    format!(
        "{}\n[listen]\naddress = \"127.0.0.1:{port}\"\n\n\
         [tls]\ncertificate-file = \"node.pem\"\nkey = {{ seid = \"{seid}\", slot = \"9A\", pin = \"file:{pin}\" }}\n\
         trust-domain = \"{DOMAIN}\"\nclient-anchor-files = [\"../nodes.pem\"]\nuser-anchor-files = [\"../users.pem\"]\n\
         node-anchor-files = [\"../nodes.pem\"]\n\n\
         [[aid]]\naid = \"A000000308000010000100\"\nallow = [\"*\"]\n\n\
         [[aid]]\naid = \"F0474F534545415001\"\nallow = [\"*\"]\n",
        head()
    )
}

fn grid_configuration(ports: Ports) -> String {
    let mut text = common(ports.grid, "NODE", "node.pin");
    text.push_str(&software("NODE", None));
    for name in GUESTS.iter().flat_map(|guest| guest.seids) {
        text.push_str(&software(
            name,
            name.ends_with("SLOW").then_some("paper-2014"),
        ));
    }
    let _ = write!(
        text,
        "\n[[user]]\nid = \"spiffe://{DOMAIN}/hv/hv-1\"\nseid = [\"SE-A\", \"SE-B\", \"SE-SLOW\"]\n\n\
         [generations]\nfile = \"generations.json\"\nunknown = \"refuse\"\n\n\
         [[generations.hypervisor]]\nuser = \"spiffe://{DOMAIN}/hv/hv-1\"\n\
         ca-certificate-file = \"../hypervisor/hv-ca.pem\"\n"
    );
    text
}

fn authentication_configuration(ports: Ports, timing: Option<&str>) -> String {
    let mut text = common(ports.authentication, "NODE", "node.pin");
    text.push_str(&software("NODE", None));
    let names: Vec<String> = (0..SERVERS).map(|n| format!("AUTH-{n}")).collect();
    for name in &names {
        text.push_str(&software(name, timing));
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let identity = if timing.is_some() {
        "server-rsa"
    } else {
        "server"
    };
    let _ = write!(
        text,
        "\n[authentication-server]\nelements = [{}]\nidentity = \"{identity}\"\npin = \"file:pool.pin\"\n\
         callers = [\"spiffe://{DOMAIN}/hv/hv-1\"]\nallow = [\"guest-a\", \"guest-b\"]\nservice = \"echo\"\n",
        quoted.join(", ")
    );
    text
}

fn hypervisor_configuration(folder: &Path, ports: Ports) -> Result<String, Failure> {
    let mut text = common(ports.hypervisor, "HV", "hv.pin");
    text.push_str(&software("HV", None));
    for name in GUESTS.iter().flat_map(|guest| guest.seids) {
        let _ = write!(
            text,
            "\n[[slot]]\nseid = \"{name}\"\nkind = \"remote\"\nnode = \"{HOST}:{}\"\n",
            ports.grid
        );
    }
    let program = std::env::current_exe()?;
    let _ = write!(
        text,
        "\n[hypervisor]\nca-certificate-file = \"hv-ca.pem\"\n\
         ca-key = {{ seid = \"HV\", slot = \"9C\", pin = \"file:hv.pin\" }}\nname = \"{HOST}\"\n\
         guest-anchor-files = [\"../nodes.pem\"]\ngeneration-file = \"generations.json\"\n\
         authentication-server = {{ node = \"{HOST}:{}\", name = \"{HOST}\" }}\n\n\
         [[hypervisor.image]]\nname = \"demo\"\ncommand = [\"{}\", \"demo-guest\", \"--folder\", \"{}\"]\ntakes-arguments = true\n\n\
         [[hypervisor.creator]]\nuser = \"alice\"\nquota = 4\nimage = [\"demo\"]\nseid = [\"SE-A\", \"SE-B\", \"SE-SLOW\"]\n",
        ports.authentication,
        program.display(),
        folder.display()
    );
    Ok(text)
}

impl Ports {
    /// Three free ports, as the system gives them.
    fn free() -> Result<Self, Failure> {
        let listeners = [(); 3].map(|()| {
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| Ok((l.local_addr()?.port(), l)))
        });
        let [grid, hypervisor, authentication] = listeners;
        Ok(Self {
            grid: grid?.0,
            hypervisor: hypervisor?.0,
            authentication: authentication?.0,
        })
    }
}

fn pem(chain: &Chain) -> String {
    chain.iter().map(|der| to_pem("CERTIFICATE", der)).collect()
}

/// A new directory that only its owner reads; neither one that is there, nor the one above it.
pub(super) fn directory(path: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    Ok(made.map_err(|e| format!("{}: {e} (TMPDIR says where it is made)", path.display()))?)
}

/// A file that only its owner reads.
fn private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(bytes)?)
}
