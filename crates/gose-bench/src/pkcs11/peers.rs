//! The modules that are compared, and what stands behind them.

use std::{
    fmt::Write as _,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gose_client::{Endpoint, RemoteElement};
use gose_element::{
    Algorithm, SecureElement, Seid,
    drive::{
        piv::{Piv, Slot},
        provision::{self, Secrets},
    },
};

use crate::{
    child::{Outcome, Server},
    pki::{self, Pki},
};

/// A module with its tokens.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) module: PathBuf,
    /// One a client, used again where there are fewer.
    pub(super) tokens: Vec<Token>,
    pub(super) environment: Vec<(String, String)>,
}

#[derive(Clone)]
pub(super) struct Token {
    pub(super) label: String,
    pub(super) pin: String,
}

/// All peers and their servers, which end with this value.
pub(super) struct Setup {
    peers: Vec<Peer>,
    _node: Server,
    _servers: Vec<Running>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
const REMOTING: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const PIN: &str = "1234";

impl Setup {
    pub(super) fn new(folder: &Path, module: &Path, elements: usize) -> Outcome<Self> {
        Pki::new()?.write(folder)?;
        pki::private(&folder.join("master.key"), &[0x47; 32])?;
        let config = configuration(folder, elements)?;
        let node = Server::start(&["node", &config])?;
        let tokens = elements_of(folder, elements)?;
        client_configuration(folder, &node)?;
        let service = service(folder)?;
        let environment = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
        let own = |name, configuration: &str| Peer {
            name,
            module: module.to_owned(),
            tokens: tokens.clone(),
            environment: vec![environment("GOSE_PKCS11_CONF", &folder.join(configuration))],
        };
        let conf = softhsm(folder)?;
        let mut servers = tunnel(folder, &conf)?;
        servers.push(service);
        let soft = |name, module: &str, variable: &str, value: String| Peer {
            name,
            module: module.into(),
            tokens: vec![Token {
                label: "bench".into(),
                pin: PIN.into(),
            }],
            environment: vec![(variable.into(), value)],
        };
        let at = |name: &str| format!("unix:path={}", folder.join(name).display());
        Ok(Self {
            peers: vec![
                own("gose", "pkcs11.toml"),
                own("gose-service", "service.toml"),
                soft(
                    "softhsm",
                    SOFTHSM,
                    "SOFTHSM2_CONF",
                    conf.display().to_string(),
                ),
                soft(
                    "p11-kit",
                    REMOTING,
                    "P11_KIT_SERVER_ADDRESS",
                    at("p11.sock"),
                ),
                soft(
                    "p11-kit-tls",
                    REMOTING,
                    "P11_KIT_SERVER_ADDRESS",
                    at("tunnel.sock"),
                ),
            ],
            _node: node,
            _servers: servers,
        })
    }

    pub(super) fn peers(&self) -> &[Peer] {
        &self.peers
    }
}

/// A node with software elements, which the user may all use.
fn configuration(folder: &Path, elements: usize) -> Outcome<String> {
    let at = folder.display();
    fs::create_dir(folder.join("images"))?;
    let mut text = format!(
        "version = 1\n[listen]\naddress = \"127.0.0.1:0\"\n[admin]\nsocket = \"{at}/admin.sock\"\n\
         [tls]\ncertificate-file = \"{at}/node.pem\"\nkey = {{ file = \"{at}/node.key\" }}\n\
         user-anchor-files = [\"{at}/ca.pem\"]\n\
         [store]\ndirectory = \"{at}/images\"\nmaster-key-file = \"{at}/master.key\"\n\
         [[user]]\ncn = \"{user}\"\nseid = [\"*\"]\n\
         [[aid]]\naid = \"A000000308000010000100\"\nallow = [\"{user}\"]\n",
        user = pki::USER,
    );
    for number in 0..elements {
        write!(
            text,
            "[[slot]]\nseid = \"SE{number}\"\nkind = \"software\"\n"
        )?;
    }
    let path = folder.join("node.toml");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// Initialises the elements and makes both keys on each.
fn elements_of(folder: &Path, elements: usize) -> Outcome<Vec<Token>> {
    let mut tokens = Vec::new();
    for number in 0..elements {
        let label = format!("SE{number}");
        let seid: Seid = label.parse()?;
        let endpoint = Endpoint::Unix(folder.join("admin.sock"));
        let mut element = RemoteElement::at(endpoint, seid);
        element.power_on()?;
        let secrets = Secrets::random()?;
        provision::initialise(&mut element, &secrets)?;
        let mut piv = Piv::open(&mut element);
        piv.authenticate_management(&secrets.management_key)?;
        piv.generate(Slot::AUTHENTICATION, Algorithm::P256)?;
        piv.generate(Slot::KEY_MANAGEMENT, Algorithm::Rsa2048)?;
        let pin = String::from_utf8(secrets.piv_pin.to_vec())?;
        tokens.push(Token { label, pin });
    }
    Ok(tokens)
}

fn client_configuration(folder: &Path, node: &Server) -> Outcome<()> {
    let (at, port) = (folder.display(), node.address.port());
    let text = format!(
        "version = 1\n[grid]\naddress = \"{}:{port}\"\ncertificate-file = \"{at}/user.pem\"\n\
         key = {{ file = \"{at}/user.key\" }}\nanchor-files = [\"{at}/ca.pem\"]\n",
        pki::SERVER,
    );
    fs::write(folder.join("pkcs11.toml"), &text)?;
    // The guest service reaches the node as the module does, which then reaches the service.
    let service = text + &format!("[listen]\nsocket = \"{at}/guest.sock\"\n");
    fs::write(folder.join("guest.toml"), service)?;
    let text = format!("version = 1\n[grid]\nservice = \"{at}/guest.sock\"\n");
    Ok(fs::write(folder.join("service.toml"), text)?)
}

/// The guest service, by the `gose` that lies beside this program.
fn service(folder: &Path) -> Outcome<Running> {
    let gose = std::env::current_exe()?.with_file_name("gose");
    let child = Command::new(&gose)
        .args(["guest", "serve", "--config"])
        .arg(folder.join("guest.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let child = child.map_err(|error| {
        format!(
            "{}: {error}; build it: cargo build --release -p gose",
            gose.display()
        )
    })?;
    let running = Running(child);
    wait_for(&folder.join("guest.sock"))?;
    Ok(running)
}

/// A token of SoftHSM with both keys.
fn softhsm(folder: &Path) -> Outcome<PathBuf> {
    let conf = folder.join("softhsm2.conf");
    let tokens = folder.join("tokens");
    fs::create_dir(&tokens)?;
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(&conf, text)?;
    let run = |program: &str, arguments: &[&str]| -> Outcome<()> {
        let mut command = Command::new(program);
        command.args(arguments).env("SOFTHSM2_CONF", &conf);
        let output = command.stdin(Stdio::null()).output();
        match output.map_err(|error| format!("{program}: {error}; install it"))? {
            output if output.status.success() => Ok(()),
            output => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    };
    run(
        "softhsm2-util",
        &[
            "--init-token",
            "--free",
            "--label",
            "bench",
            "--pin",
            PIN,
            "--so-pin",
            "5678",
        ],
    )?;
    for (kind, id) in [("EC:prime256v1", "01"), ("rsa:2048", "02")] {
        run(
            "pkcs11-tool",
            &[
                "--module",
                SOFTHSM,
                "--login",
                "--pin",
                PIN,
                "--keypairgen",
                "--key-type",
                kind,
                "--id",
                id,
            ],
        )?;
    }
    Ok(conf)
}

/// p11-kit's server on a Unix socket, and two stunnels before it: the client's takes a Unix socket too.
fn tunnel(folder: &Path, conf: &Path) -> Outcome<Vec<Running>> {
    let at = folder.display();
    let start = |program: &str, arguments: &[&str]| -> Outcome<Running> {
        let mut command = Command::new(program);
        command.args(arguments).env("SOFTHSM2_CONF", conf);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn();
        Ok(Running(child.map_err(|error| {
            format!("{program}: {error}; install it")
        })?))
    };
    let socket = format!("{at}/p11.sock");
    let mut running = vec![start(
        "p11-kit",
        &[
            "server",
            "--foreground",
            "--provider",
            SOFTHSM,
            "-n",
            &socket,
            "pkcs11:token=bench",
        ],
    )?];
    wait_for(&folder.join("p11.sock"))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let common = "foreground = yes\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n";
    let server = format!(
        "{common}[p11]\naccept = 127.0.0.1:{port}\nconnect = {at}/p11.sock\ncert = {at}/node.pem\nkey = {at}/node.key\n\
         CAfile = {at}/ca.pem\nverifyChain = yes\n"
    );
    let client = format!(
        "{common}[p11]\nclient = yes\naccept = {at}/tunnel.sock\nconnect = 127.0.0.1:{port}\ncert = {at}/user.pem\n\
         key = {at}/user.key\nCAfile = {at}/ca.pem\nverifyChain = yes\n"
    );
    for (name, text) in [("server", server), ("client", client)] {
        let path = format!("{at}/stunnel-{name}.conf");
        fs::write(&path, text)?;
        running.push(start("stunnel", &[&path])?);
    }
    wait_for(&folder.join("tunnel.sock"))?;
    Ok(running)
}

fn wait_for(socket: &Path) -> Outcome<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(socket).is_err() {
        if Instant::now() > until {
            return Err(format!("nothing listens on {}", socket.display()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
