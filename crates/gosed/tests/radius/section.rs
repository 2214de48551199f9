//! The section of the configuration taken up: clients by network, UDP on IPv6, RadSec, accounting.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use gose_client::{
    Link,
    radius::{Client, Station, authenticate},
    tls,
};
use gose_element::{
    Algorithm,
    drive::eap_tls::{EapTls, Opening},
};
use gose_proto::radius::{Code, Type};
use gose_testkit::{
    pki::{Authority, Leaf},
    world::PIN,
};
use gosed::{config, radius::Server};

use crate::world::{FAST, Peer, World, secret, server};

const SECTION: &str = r#"
listen = ["127.0.0.1:0", "[::1]:0"]
accounting = ["127.0.0.1:0"]
[[client]]
name = "four"
network = "127.0.0.0/8"
secret = "file:@DIR@/secret"
[[client]]
name = "six"
network = "::1"
secret = "file:@DIR@/secret"
[radsec]
listen = "127.0.0.1:0"
anchor-files = ["@DIR@/radsec.pem"]
clients = ["proxy"]
"#;

const TLS: &str = r#"
certificate-file = "@DIR@/node.chain.pem"
key = { file = "@DIR@/node.key.pem" }
"#;

struct Section {
    server: Server,
    _world: World,
    authority: Authority,
    clients: Authority,
    dir: tempfile::TempDir,
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

async fn section() -> Section {
    let (authority, clients) = (Authority::new("root"), Authority::new("radsec root"));
    let dir = tempfile::tempdir().unwrap();
    let node = authority.server(&["localhost"]);
    write(&dir.path().join("secret"), b"testing123\n");
    write(&dir.path().join("radsec.pem"), clients.pem().as_bytes());
    write(
        &dir.path().join("node.chain.pem"),
        node.chain_pem().as_bytes(),
    );
    write(&dir.path().join("node.key.pem"), node.key_pem().as_bytes());
    write(&dir.path().join("ca.pem"), authority.pem().as_bytes());
    let place = |text: &str| text.replace("@DIR@", &dir.path().to_string_lossy());
    let section: config::Radius = toml::from_str(&place(SECTION)).unwrap();
    let tls: config::Tls = toml::from_str(&place(TLS)).unwrap();
    let world = World::new(vec![(
        "srv",
        server(&authority, Algorithm::P256, |_, _| {}),
    )])
    .await;
    let server = Server::start(&section, Some(&tls), &world.grid, world.pool.clone()).unwrap();
    Section {
        server,
        _world: world,
        authority,
        clients,
        dir,
    }
}

impl Section {
    /// A RadSec client with this certificate; an error if the server does not want it.
    fn radsec(&self, leaf: &Leaf) -> Result<Client, gose_client::Error> {
        let path = |name: &str| self.dir.path().join(name);
        write(&path("client.pem"), leaf.chain_pem().as_bytes());
        write(&path("client.key"), leaf.key_pem().as_bytes());
        let identity = tls::Identity::load(&path("client.pem"), &path("client.key"))?;
        let mut config =
            tls::client_config(&identity, tls::load_anchors(&path("ca.pem"))?, tls::RACS)?;
        std::sync::Arc::make_mut(&mut config).alpn_protocols.clear();
        let tcp = TcpStream::connect(self.server.addresses()[3]).unwrap();
        let patience = Duration::from_secs(5);
        let link = Link::tls(tcp, tls::server_name("localhost")?, config, patience)?;
        Ok(Client::radsec(link, patience).unwrap())
    }
}

fn now() -> u32 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u32::try_from(now.as_secs()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv4_ipv6_and_accounting() {
    let section = section().await;
    let [four, six, accounting, _] = *section.server.addresses() else {
        panic!("four addresses")
    };
    for address in [four, six] {
        let peer = Peer::new(&section.authority, Algorithm::P256, |_, _| {});
        assert!(
            World::authenticate(address, peer).await.1.unwrap().accepted,
            "{address}"
        );
    }
    let account = move |to: SocketAddr| {
        let mut client = Client::udp(
            to,
            secret(),
            gose_proto::radius::client::Timers {
                patience: Duration::from_millis(400),
                ..FAST
            },
        )
        .unwrap();
        client.account(&[
            (Type::ACCT_STATUS_TYPE, &[0, 0, 0, 1]),
            (Type::ACCT_SESSION_ID, b"1"),
        ])
    };
    let answered = tokio::task::spawn_blocking(move || account(accounting))
        .await
        .unwrap();
    assert_eq!(answered.unwrap().code, Code::AccountingResponse);
    let refused = tokio::task::spawn_blocking(move || account(four))
        .await
        .unwrap();
    assert!(refused.is_err(), "accounting has a port of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn radius_over_tls() {
    let section = section().await;
    let mut peer = Peer::new(&section.authority, Algorithm::P256, |_, _| {});
    tokio::task::block_in_place(|| {
        let mut client = section.radsec(&section.clients.user("proxy")).unwrap();
        assert_eq!(client.status().unwrap().code, Code::AccessAccept);
        for _ in 0..2 {
            let mut eap = EapTls::open(&mut peer.0, &Opening::new(PIN, "peer")).unwrap();
            let report = authenticate(&mut client, &mut eap, &Station::default(), now()).unwrap();
            assert!(report.accepted && report.keys_match == Some(true));
        }
        let account = client
            .account(&[(Type::ACCT_STATUS_TYPE, &[0, 0, 0, 2])])
            .unwrap();
        assert_eq!(
            account.code,
            Code::AccountingResponse,
            "one port for everything"
        );

        let refused = |leaf: &Leaf| {
            section
                .radsec(leaf)
                .map_or(true, |mut client| client.status().is_err())
        };
        assert!(
            refused(&section.clients.user("somebody")),
            "not among the clients"
        );
        assert!(
            refused(&section.authority.user("proxy")),
            "another authority"
        );
        assert!(refused(&section.clients.expired("proxy")), "expired");
        assert_eq!(
            client.status().unwrap().code,
            Code::AccessAccept,
            "others go on"
        );
    });
}

#[test]
fn what_is_no_section() {
    let check = |from: &str, to: &str| {
        let text = SECTION.replace(from, to);
        assert!(toml::from_str::<config::Radius>(&text).is_err(), "{to}");
    };
    check("127.0.0.0/8", "127.0.0.1/8");
    check("file:@DIR@/secret", "testing123");
    check("[[client]]", "colour = 1\n[[client]]");
    check("listen = [", "overload = \"maybe\"\nlisten = [");
    check("[radsec]", "[radsec]\nidle-s = 0");
}
