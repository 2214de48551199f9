//! The servers, each a process of its own: GoSE with TLS in elements and with TLS on the host, FreeRADIUS, hostapd.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read as _},
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gose_client::pki::to_pem;
use gose_element::{
    Algorithm, Seid,
    drive::eap_tls::{AID, Key, Personalisation, Policy, personalisation::Operator},
};
use gose_proto::eap::Role;
use gosed::{
    config::Config,
    grid::{Names, Peer, Plane},
    leased::Leased,
    node::Node,
};
use rcgen::SubjectPublicKeyInfo;

use super::credentials::{Credentials, Keys};
use crate::{
    child::{Outcome, runtime},
    pki::private,
};

/// PINs that every new card is born with, and the operator's in its place.
const PIN: &str = "0000";
const PIV_PIN: &str = "123456";
const OPERATOR_PIN: &[u8] = b"00000000";
const OWN_OPERATOR_PIN: &[u8] = b"81726354";

/// Server elements of the pool.
const ELEMENTS: usize = 8;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Elements,
    Host,
    FreeRadius,
    Hostapd,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Elements, Self::Host, Self::FreeRadius, Self::Hostapd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Elements => "GoSE, elements",
            Self::Host => "GoSE, TLS on the host",
            Self::FreeRadius => "FreeRADIUS",
            Self::Hostapd => "hostapd",
        }
    }

    /// Whether its program is here.
    pub(crate) fn is_here(self) -> bool {
        let program = match self {
            Self::Elements | Self::Host => return true,
            Self::FreeRadius => "freeradius",
            Self::Hostapd => "hostapd",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin".into(), "/sbin".into()];
        std::env::split_paths(&path)
            .chain(sbin)
            .any(|folder: std::path::PathBuf| folder.join(program).is_file())
    }
}

/// A server that runs.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Processor time of all threads since the start, from /proc.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// Resident memory, MiB.
    pub(crate) fn resident(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.ok_or("no VmRSS")?.parse::<f64>()? / 1024.0)
    }
}

/// Processor time of all threads of a process since its start.
pub(crate) fn cpu_of(process: &str) -> Outcome<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything: utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // USER_HZ is 100 on every architecture of Linux that GoSE builds for.
    Ok(Duration::from_millis(ticks * 10))
}

/// Servers of one kind of keys in a folder.
pub(crate) struct Site<'f> {
    folder: &'f Path,
}

impl<'f> Site<'f> {
    /// Makes elements, keys and certificates.
    pub(crate) fn new(folder: &'f Path, credentials: &Credentials, keys: Keys) -> Outcome<Self> {
        credentials.write(keys, folder)?;
        private(&folder.join("master.key"), &[0x47; 32])?;
        private(&folder.join("pin"), PIN.as_bytes())?;
        private(&folder.join("piv-pin"), PIV_PIN.as_bytes())?;
        private(&folder.join("secret"), super::SECRET)?;
        fs::create_dir(folder.join("elements"))?;
        let site = Self { folder };
        site.personalise(credentials, keys)?;
        Ok(site)
    }

    fn slots() -> String {
        let slot = |number| format!("[[slot]]\nseid = \"srv-{number}\"\nkind = \"software\"\n");
        (0..=ELEMENTS).map(slot).collect()
    }

    fn head(&self) -> String {
        let folder = self.folder.display();
        format!(
            "version = 1\n[admin]\nsocket = \"{folder}/admin.sock\"\n[store]\ndirectory = \"{folder}/elements\"\n\
             master-key-file = \"{folder}/master.key\"\n{}",
            Self::slots()
        )
    }

    /// Each element has two identities: one resumes sessions, one does not. Element 8 is for the host's key.
    fn personalise(&self, credentials: &Credentials, keys: Keys) -> Outcome<()> {
        let algorithm = match keys {
            Keys::P256 => Algorithm::P256,
            Keys::Rsa2048 => Algorithm::Rsa2048,
        };
        let runtime = runtime()?;
        runtime.block_on(async {
            let node = Node::new(Config::parse(&self.head())?)?;
            let peer = Peer::new(node.grid().new_sid(), Names::Operator);
            for number in 0..=ELEMENTS {
                let seid: Seid = format!("srv-{number}").parse()?;
                let mut element = Leased::wait_for(
                    node.grid(),
                    &peer,
                    seid,
                    Plane::Management,
                    Duration::from_secs(5),
                )?;
                let mut operator = Operator::open(&mut element, &AID, OPERATOR_PIN)?;
                operator.change_pin(1, OPERATOR_PIN, OWN_OPERATOR_PIN)?;
                let public = operator.generate(0x9A, algorithm)?;
                let public = SubjectPublicKeyInfo::from_der(&public)?;
                let chain = vec![credentials.server(&public)?];
                let file = self.folder.join(format!("srv-{number}.pem"));
                fs::write(file, to_pem("CERTIFICATE", &chain[0]))?;
                for (label, resumption) in [("full", false), ("resuming", true)] {
                    operator.add_identity(&Personalisation {
                        label: label.into(),
                        eap_id: "@bench.test".into(),
                        role: Role::Authenticator,
                        key: Key::Slot(0x9A),
                        chain: chain.clone(),
                        anchors: vec![credentials.authority()],
                        policy: Policy {
                            resumption,
                            ..Policy::default()
                        },
                        expected_names: Vec::new(),
                        crls: Vec::new(),
                    })?;
                }
            }
            Ok::<(), Box<dyn std::error::Error>>(())
        })
    }

    /// Starts a server and waits until it answers.
    pub(crate) fn start(&self, kind: Kind, resumes: bool) -> Outcome<Server> {
        match kind {
            Kind::Elements | Kind::Host => self.gose(kind, resumes),
            Kind::FreeRadius => self.freeradius(resumes),
            Kind::Hostapd => self.hostapd(resumes),
        }
    }

    fn log(&self, name: &str) -> Outcome<Stdio> {
        Ok(File::create(self.folder.join(name))?.into())
    }

    fn gose(&self, kind: Kind, resumes: bool) -> Outcome<Server> {
        let folder = self.folder.display();
        let place = if kind == Kind::Elements {
            let elements: Vec<_> = (0..ELEMENTS).map(|n| format!("\"srv-{n}\"")).collect();
            let label = if resumes { "resuming" } else { "full" };
            format!(
                "elements = [{}]\nidentity = \"{label}\"\npin = \"file:{folder}/pin\"\n",
                elements.join(", ")
            )
        } else {
            format!(
                "tls-on-host = {{ key = {{ seid = \"srv-{ELEMENTS}\", slot = \"9A\", pin = \"file:{folder}/piv-pin\" }}, \
                 certificate-file = \"{folder}/srv-{ELEMENTS}.pem\", anchor-files = [\"{folder}/ca.pem\"], \
                 sessions = {} }}\n",
                if resumes { 16_384 } else { 0 }
            )
        };
        let config = format!(
            "{}[authentication-server]\nallow = [\"*\"]\n{place}[authentication-server.radius]\n\
             listen = [\"127.0.0.1:0\"]\nconversations-a-client = 16384\n\
             [[authentication-server.radius.client]]\nname = \"bench\"\nnetwork = \"127.0.0.0/8\"\n\
             secret = \"file:{folder}/secret\"\n",
            self.head()
        );
        // Two of them never run on the same images at a time: each has a copy.
        let own = self.folder.join(format!("{kind:?}"));
        let _ = fs::remove_dir_all(&own);
        fs::create_dir(&own)?;
        for image in fs::read_dir(self.folder.join("elements"))? {
            let image = image?;
            fs::copy(image.path(), own.join(image.file_name()))?;
        }
        let config = config
            .replace(
                &format!("directory = \"{folder}/elements\""),
                &format!("directory = \"{}\"", own.display()),
            )
            .replace("admin.sock", &format!("{kind:?}.sock"));
        let file = self.folder.join(format!("{kind:?}.toml"));
        fs::write(&file, config)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("radius")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.log(&format!("{kind:?}.log"))?)
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        match line.trim().parse() {
            Ok(address) => Ok(Server { child, address }),
            Err(_) => Err(self.failed(child, &format!("{kind:?}.log"))),
        }
    }

    fn freeradius(&self, resumes: bool) -> Outcome<Server> {
        let address = free_port()?;
        let own = self.folder.join("raddb");
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(own.join("run"))?;
        fs::create_dir_all(own.join("sessions"))?;
        fs::write(
            own.join("dictionary"),
            "$INCLUDE /usr/share/freeradius/dictionary\n",
        )?;
        let path = |name: &str| self.folder.join(name).display().to_string();
        let config = include_str!("../../../../interop/freeradius/radiusd.conf")
            .replace("@DIR@", &own.display().to_string())
            .replace("@KEY@", &path("server.key"))
            .replace("@CERTIFICATE@", &path("server.pem"))
            .replace("@CA@", &path("ca.pem"))
            .replace("check_crl = yes", "check_crl = no")
            .replace("port = 1812", &format!("port = {}", address.port()))
            .replace(
                "secret = testing123",
                &format!("secret = {}", super::secret_text()),
            );
        let config = if resumes {
            config
        } else {
            config.replace("enable = yes", "enable = no")
        };
        fs::write(own.join("radiusd.conf"), config)?;
        let child = Command::new("/usr/sbin/freeradius")
            .arg("-f")
            .arg("-d")
            .arg(&own)
            .stdin(Stdio::null())
            .stdout(self.log("freeradius.log")?)
            .stderr(self.log("freeradius.err")?)
            .spawn()?;
        self.bound(child, address, "freeradius.log")
    }

    fn hostapd(&self, resumes: bool) -> Outcome<Server> {
        let address = free_port()?;
        let path = |name: &str| self.folder.join(name).display().to_string();
        fs::write(self.folder.join("users"), "* TLS\n")?;
        let client = format!("127.0.0.1/32 {}\n", super::secret_text());
        fs::write(self.folder.join("clients"), client)?;
        let config = include_str!("../../../../interop/hostapd/hostapd.conf")
            .replace("@DIR@", &self.folder.display().to_string())
            .replace("@KEY@", &path("server.key"))
            .replace("@CERTIFICATE@", &path("server.pem"))
            .replace("@CA@", &path("ca.pem"))
            .replace("check_crl=1", "check_crl=0")
            .replace("auth_port=1822", &format!("auth_port={}", address.port()));
        let config = if resumes {
            config
        } else {
            config.replace("tls_session_lifetime=3600", "tls_session_lifetime=0")
        };
        let file = self.folder.join("hostapd.conf");
        fs::write(&file, config)?;
        let child = Command::new("/usr/sbin/hostapd")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(self.log("hostapd.log")?)
            .stderr(self.log("hostapd.err")?)
            .spawn()?;
        self.bound(child, address, "hostapd.log")
    }

    /// Waits until the child has its port.
    fn bound(&self, mut child: Child, address: SocketAddr, log: &str) -> Outcome<Server> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if child.try_wait()?.is_some() {
                break;
            }
            if is_bound(address.port())? {
                return Ok(Server { child, address });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(self.failed(child, log))
    }

    fn failed(&self, mut child: Child, log: &str) -> Box<dyn std::error::Error> {
        let _ = child.kill();
        let _ = child.wait();
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.folder.join(log)) {
            let _ = file.read_to_string(&mut text);
        }
        format!("a server did not come up: {text}").into()
    }
}

fn free_port() -> Outcome<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

fn is_bound(port: u16) -> Outcome<bool> {
    let wanted = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/udp")?;
    let is_it = |line: &str| {
        let local = line.split_whitespace().nth(1).unwrap_or_default();
        local.ends_with(&wanted)
    };
    Ok(table.lines().any(is_it))
}

/// The body of `radius`: a node that serves RADIUS as the daemon does, its log included.
pub(crate) fn serve(config: &Path) -> Outcome<()> {
    gosed::log_to_stderr();
    let config = Config::read(config)?;
    runtime()?.block_on(async {
        let running = Node::new(config)?.start().await?;
        let radius = running.roles().radius.as_ref().ok_or("no RADIUS")?;
        println!("{}", radius.addresses().first().ok_or("no address")?);
        std::future::pending::<Outcome<()>>().await
    })
}
