//! A node on loopback, its authorities, and clients that speak RACS by hand.

use std::{fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use gose_testkit::pki::{Authority, Leaf};
use gosed::{
    config::Config,
    node::{Node, Running},
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longer than anything in these tests takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// SELECT of the PIV application, by its first nine bytes.
pub(crate) const SELECT: &str = "00A4040009A00000030800001000";

pub(crate) struct World {
    pub dir: tempfile::TempDir,
    /// Whose common names count.
    pub users: Authority,
    /// Whose common names do not.
    pub machines: Authority,
    pub node: Running,
}

/// What a test changes in the configuration.
#[derive(Default)]
pub(crate) struct Settings {
    pub elements: usize,
    /// Added to `[tls]`.
    pub tls: String,
    /// Added to `[limits]`.
    pub limits: String,
    /// Added at the end.
    pub more: String,
}

impl World {
    /// Elements SE1 … with PIV for `alice` (SE1, SE2 …: all) and `bob` (SE2), `root` administers.
    pub(crate) async fn new(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (users, machines) = (Authority::new("users"), Authority::new("machines"));
        let _ = users.write(dir.path(), "users");
        let _ = machines.write(dir.path(), "machines");
        let _ = machines
            .server(&["localhost", "127.0.0.1"])
            .write(dir.path(), "node");
        write_master_key(&dir.path().join("master.key"));
        let config = Config::parse(&text(dir.path().to_str().unwrap(), &settings)).unwrap();
        let node = Node::new(config).unwrap().start().await.unwrap();
        Self {
            dir,
            users,
            machines,
            node,
        }
    }

    /// Stops the node and starts another one in its place.
    pub(crate) async fn restart(self, settings: &Settings) -> Self {
        self.restart_after(settings, |_| {}).await
    }

    /// The same, with something done to the directory while no node runs.
    pub(crate) async fn restart_after(
        self,
        settings: &Settings,
        between: impl FnOnce(&std::path::Path),
    ) -> Self {
        self.node.stop().await;
        between(self.dir.path());
        let config = Config::parse(&text(self.dir.path().to_str().unwrap(), settings)).unwrap();
        let node = Node::new(config).unwrap().start().await.unwrap();
        Self { node, ..self }
    }

    pub(crate) async fn small() -> Self {
        Self::new(Settings {
            elements: 2,
            ..Settings::default()
        })
        .await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Reloads a configuration with other settings.
    pub(crate) fn reload(&self, settings: &Settings) {
        let text = text(self.dir.path().to_str().unwrap(), settings);
        self.node.reload(&Config::parse(&text).unwrap()).unwrap();
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.node.address().unwrap())
            .await
            .unwrap()
    }

    /// A connection with this certificate. With TLS 1.3 a refusal shows at the first read.
    pub(crate) async fn connect(&self, leaf: &Leaf) -> Client<TlsStream<TcpStream>> {
        self.connect_with(self.client_config(Some(leaf), &[]))
            .await
            .unwrap()
    }

    pub(crate) async fn alice(&self) -> Client<TlsStream<TcpStream>> {
        self.connect(&self.users.user("alice")).await
    }

    pub(crate) async fn bob(&self) -> Client<TlsStream<TcpStream>> {
        self.connect(&self.users.user("bob")).await
    }

    pub(crate) async fn root(&self) -> Client<TlsStream<TcpStream>> {
        self.connect(&self.users.user("root")).await
    }

    pub(crate) fn client_config(&self, leaf: Option<&Leaf>, alpn: &[&str]) -> ClientConfig {
        self.client_config_with(leaf, alpn, rustls::ALL_VERSIONS)
    }

    pub(crate) fn client_config_with(
        &self,
        leaf: Option<&Leaf>,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.machines.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match leaf {
            Some(leaf) => builder
                .with_client_auth_cert(leaf.chain.clone(), leaf.key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    pub(crate) async fn connect_with(
        &self,
        config: ClientConfig,
    ) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, self.tcp().await).await?;
        Ok(Client { stream })
    }

    pub(crate) async fn admin(&self) -> Client<UnixStream> {
        Client {
            stream: UnixStream::connect(self.path("admin.sock")).await.unwrap(),
        }
    }
}

pub(crate) fn write_master_key(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(
        path,
        "00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF\n",
    )
    .unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn text(dir: &str, settings: &Settings) -> String {
    let Settings {
        elements,
        tls,
        limits,
        more,
    } = settings;
    let key = match tls.contains("key = ") {
        true => String::new(),
        false => format!("key = {{ file = \"{dir}/node.key\" }}"),
    };
    let mut text = format!(
        r#"
version = 1
[listen]
address = "127.0.0.1:0"
[admin]
socket = "{dir}/admin.sock"
[tls]
certificate-file = "{dir}/node.pem"
{key}
client-anchor-files = ["{dir}/machines.pem"]
user-anchor-files = ["{dir}/users.pem"]
trust-domain = "example.org"
{tls}
[store]
directory = "{dir}"
master-key-file = "{dir}/master.key"
[limits]
{limits}
[[aid]]
aid = "A000000308000010000100"
allow = ["*"]
[[user]]
cn = "alice"
seid = ["*"]
[[user]]
cn = "root"
seid = ["*"]
role = "admin"
"#
    );
    for number in 1..=*elements {
        writeln!(text, "[[slot]]\nseid = \"SE{number}\"\nkind = \"software\"").unwrap();
    }
    if *elements >= 2 {
        text += "[[user]]\ncn = \"bob\"\nseid = [\"SE2\"]\n";
    }
    text + more
}

/// A client that writes and reads text.
pub(crate) struct Client<S> {
    pub stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// One response, up to its END.
    pub(crate) async fn response(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\nEND\r\n") {
            let byte = timeout(PATIENCE, self.stream.read_u8())
                .await
                .expect("a response in time");
            match byte {
                Ok(byte) => text.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&text)),
            }
        }
        String::from_utf8(text).unwrap()
    }

    /// Everything up to the end of the connection, and whether it ended as it should.
    pub(crate) async fn rest(&mut self) -> (String, std::io::Result<()>) {
        let mut bytes = Vec::new();
        let ended = timeout(PATIENCE, self.stream.read_to_end(&mut bytes))
            .await
            .expect("an end in time");
        (String::from_utf8(bytes).unwrap(), ended.map(drop))
    }

    /// Sends lines between BEGIN and END, returns the status lines joined by `|`.
    pub(crate) async fn ask(&mut self, lines: &[&str]) -> String {
        let mut request = String::from("BEGIN\r\n");
        for line in lines {
            request += line;
            request += "\r\n";
        }
        self.send(&(request + "END\r\n")).await;
        let response = self.response().await;
        let status = response
            .strip_prefix("BEGIN\r\n")
            .unwrap()
            .strip_suffix("\r\nEND\r\n")
            .unwrap();
        status.replace("\r\n", "|")
    }

    /// Compares status lines; `…` stands for the rest of a line.
    pub(crate) async fn check(&mut self, lines: &[&str], expected: &str) {
        let got = self.ask(lines).await;
        let (got_lines, lines_expected): (Vec<_>, Vec<_>) =
            (got.split('|').collect(), expected.split('|').collect());
        let same = got_lines.len() == lines_expected.len()
            && got_lines
                .iter()
                .zip(&lines_expected)
                .all(|(got, expected)| match expected.strip_suffix('…') {
                    Some(beginning) => got.starts_with(beginning),
                    None => got == expected,
                });
        assert!(same, "{lines:?}: {got:?}, expected {expected:?}");
    }
}
