//! Foreign programs as judges: each a folder of interop/ with run.sh and, where a case cannot pass, skips.toml.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::stage::{cargo, need, output, root, succeed};

type Proof = Result<String, String>;

/// The stages of `cargo xtask interop`.
pub(crate) const NAMES: &[&str] = &[
    "vpcd",
    "readers",
    "opensc",
    "pyscard",
    "swtpm",
    "softhsm",
    "kinds",
    "eapol",
    "pool",
    "freeradius",
    "hostapd",
    "radsec",
    "tls",
    "clock",
    "namespaces",
    "libvirt",
    "ports",
    "pkcs11",
    "guests",
    "openssh",
    "nginx",
    "curl",
    "capi",
    "wpa",
];

/// What a row of the element contract's table begins with.
const ROW: &str = "contract: ";

pub(crate) fn vpcd() -> Proof {
    vpcd_needs()?;
    build_test("pcsc,vpcd", "pcsc")?;
    judge("pcscd")
}

/// A daemon whose readers fail, one after the other, under load.
pub(crate) fn readers() -> Proof {
    vpcd_needs()?;
    let mut build = cargo();
    build.args(["test", "--quiet", "--no-run", "--package", "gosed"]);
    succeed(build.args(["--features", "__judges", "--test", "readers"]))?;
    judge("readers")
}

/// The same for minutes, by the figures of a quiet machine.
pub(crate) fn readers_long() -> Proof {
    long(readers)
}

/// HSM: more signatures than 16 bits count in one session, and so many operations everywhere.
pub(crate) fn contract_long() -> Proof {
    long(contract)
}

/// The module starts 1,024 times, 64 at a time.
pub(crate) fn pkcs11_long() -> Proof {
    long(pkcs11)
}

/// Runs a stage with what tells the judges to take their time.
fn long(stage: fn() -> Proof) -> Proof {
    LONG.store(true, Ordering::SeqCst);
    let proof = stage();
    LONG.store(false, Ordering::SeqCst);
    proof
}

static LONG: AtomicBool = AtomicBool::new(false);

/// A judge's script.
fn script(folder: &str) -> Command {
    let mut script = Command::new(root().join("interop").join(folder).join("run.sh"));
    script.current_dir(root()).stdin(Stdio::null());
    if LONG.load(Ordering::SeqCst) {
        script.env("GOSE_TEST_LONG", "1");
    }
    script
}

/// One node with elements of every kind.
pub(crate) fn kinds() -> Proof {
    vpcd_needs()?;
    swtpm_needs()?;
    need("tpm2_print", "tpm2-tools")?;
    need("softhsm2-util", "softhsm2")?;
    need("opensc-tool", "opensc")?;
    need("openssl", "openssl")?;
    build_programs()?;
    judge("kinds")
}

fn build_programs() -> Result<(), String> {
    let mut build = cargo();
    build.args(["build", "--quiet"]);
    succeed(build.args(["--package", "gosed", "--package", "gose"]))
}

/// What the judges of EAP need beside themselves.
fn eap_needs() -> Result<(), String> {
    need("ip", "iproute2")?;
    need("ss", "iproute2")?;
    need("openssl", "openssl")?;
    need("python3", "python3")?;
    build_programs()
}

/// wpa_supplicant's EAP peer against server elements.
pub(crate) fn eapol() -> Proof {
    need("eapol_test", "eapoltest")?;
    need("radclient", "freeradius-utils")?;
    need("faketime", "faketime")?;
    eap_needs()?;
    judge("eapol_test")
}

/// eapol_test against a pool of server elements of every kind.
pub(crate) fn pool() -> Proof {
    vpcd_needs()?;
    swtpm_needs()?;
    need("softhsm2-util", "softhsm2")?;
    need("opensc-tool", "opensc")?;
    need("eapol_test", "eapoltest")?;
    eap_needs()?;
    judge("pool")
}

/// radsecproxy before server elements, tshark on the line.
pub(crate) fn radsec() -> Proof {
    need("radsecproxy", "radsecproxy")?;
    need("tshark", "tshark")?;
    need("eapol_test", "eapoltest")?;
    eap_needs()?;
    judge("radsec")
}

/// Guests in network namespaces: the kernel's network and openssl judge.
pub(crate) fn namespaces() -> Proof {
    need("ip", "iproute2")?;
    need("openssl", "openssl")?;
    build_programs()?;
    judge("namespaces")
}

/// Guests of libvirt and QEMU: libvirt's daemon, the kernel's network and openssl judge.
pub(crate) fn libvirt() -> Proof {
    need("libvirtd", "libvirt-daemon-system")?;
    need("virsh", "libvirt-clients")?;
    need("qemu-system-x86_64", "qemu-system-x86")?;
    need("busybox", "busybox-static")?;
    need("cpio", "cpio")?;
    need("modprobe", "kmod")?;
    need("strip", "binutils")?;
    need("curl", "curl")?;
    need("ip", "iproute2")?;
    need("openssl", "openssl")?;
    build_programs()?;
    judge("libvirt")
}

/// Guests behind ports: packets pass once FreeRADIUS or GoSE has let them in.
pub(crate) fn ports() -> Proof {
    need("freeradius", "freeradius")?;
    need("radclient", "freeradius-utils")?;
    need("nft", "nftables")?;
    need("ping", "iputils-ping")?;
    eap_needs()?;
    judge("ports")
}

/// A real Xen under QEMU, built out of Debian's packages.
pub(crate) fn xen() -> Proof {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mmdebstrap", "mmdebstrap"),
        ("cpio", "cpio"),
        ("modprobe", "kmod"),
        ("python3", "python3"),
        ("strip", "binutils"),
        ("openssl", "openssl"),
        ("ip", "iproute2"),
    ] {
        need(program, package)?;
    }
    build_programs()?;
    judge("xen")
}

/// wpa_supplicant and hostapd at both ends of a cable, RADIUS behind: a port opens and closes.
pub(crate) fn wpa() -> Proof {
    need("wpa_supplicant", "wpasupplicant")?;
    need("hostapd_cli", "hostapd")?;
    need("nft", "nftables")?;
    need("ping", "iputils-ping")?;
    need("promtool", "prometheus")?;
    need("radclient", "freeradius-utils")?;
    need(
        "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so",
        "libengine-pkcs11-openssl",
    )?;
    eap_needs()?;
    let mut build = cargo();
    succeed(build.args(["build", "--quiet", "--package", "gose-pkcs11"]))?;
    judge("wpa")
}

/// Client elements against FreeRADIUS.
pub(crate) fn freeradius() -> Proof {
    need("freeradius", "freeradius")?;
    eap_needs()?;
    judge("freeradius")
}

/// Client elements against hostapd's EAP server.
pub(crate) fn hostapd() -> Proof {
    need("hostapd", "hostapd")?;
    eap_needs()?;
    judge("hostapd")
}

/// gose tls connect against openssl's server.
pub(crate) fn tls() -> Proof {
    eap_needs()?;
    need("rev", "bsdextrautils")?;
    judge("tls")
}

/// libfaketime gives a node a clock of its own.
pub(crate) fn clock() -> Proof {
    eap_needs()?;
    need("faketime", "faketime")?;
    judge("clock")
}

/// libgose_pkcs11.so under everybody's applications.
pub(crate) fn pkcs11() -> Proof {
    for (program, package) in [
        ("pkcs11-tool", "opensc"),
        ("p11tool", "gnutls-bin"),
        ("modutil", "libnss3-tools"),
        ("keytool", "default-jre-headless"),
        ("valgrind", "valgrind"),
        ("openssl", "openssl"),
        ("softhsm2-util", "softhsm2"),
        ("nginx", "nginx"),
        ("curl", "curl"),
        ("ssh", "openssh-client"),
        ("/usr/sbin/sshd", "openssh-server"),
        ("ip", "iproute2"),
        (ENGINE, "libengine-pkcs11-openssl"),
    ] {
        need(program, package)?;
    }
    if !root_has("/usr/include/p11-kit-1/p11-kit/pkcs11.h") {
        need("p11-kit headers", "libp11-kit-dev")?;
    }
    python("python-pkcs11")?;
    python("cryptography")?;
    build_programs()?;
    let mut build = cargo();
    succeed(build.args(["build", "--quiet", "--package", "gose-pkcs11"]))?;
    let mut guide = Command::new(root().join("interop/pkcs11/guide.sh"));
    guide.current_dir(root()).stdin(Stdio::null());
    let mut beside = Command::new(root().join("interop/pkcs11/softhsm.sh"));
    beside.current_dir(root()).stdin(Stdio::null());
    let (cases, recipes) = (judge("pkcs11")?, closing(&mut guide)?);
    let beside = closing(&mut beside)?;
    Ok(format!(
        "{cases}; docs/guide/pkcs11.md: {recipes}; what SoftHSM2 passes: {beside}"
    ))
}

/// The guest service under programs of several users.
pub(crate) fn guests() -> Proof {
    for (program, package) in [
        ("pkcs11-tool", "opensc"),
        ("openssl", "openssl"),
        ("setpriv", "util-linux"),
        ("python3", "python3"),
        ("gcc", "gcc"),
    ] {
        need(program, package)?;
    }
    if !root_has("/usr/include/p11-kit-1/p11-kit/pkcs11.h") {
        need("p11-kit headers", "libp11-kit-dev")?;
    }
    vpcd_needs()?;
    build_programs()?;
    let mut build = cargo();
    succeed(build.args(["build", "--quiet", "--package", "gose-pkcs11"]))?;
    judge("guests")
}

/// ssh, sshd and git with keys of elements.
pub(crate) fn openssh() -> Proof {
    for (program, package) in [
        ("ssh", "openssh-client"),
        ("/usr/sbin/sshd", "openssh-server"),
        ("git", "git"),
    ] {
        need(program, package)?;
    }
    recipe("openssh")
}

/// Web servers with keys of elements.
pub(crate) fn nginx() -> Proof {
    for (program, package) in [
        ("nginx", "nginx"),
        ("apache2", "apache2-bin"),
        ("stunnel", "stunnel4"),
        ("curl", "curl"),
        ("python3", "python3"),
        (ENGINE, "libengine-pkcs11-openssl"),
    ] {
        need(program, package)?;
    }
    recipe("nginx")
}

/// Clients with keys of elements.
pub(crate) fn curl() -> Proof {
    for (program, package) in [
        ("curl", "curl"),
        ("keytool", "default-jre-headless"),
        ("ss", "iproute2"),
        (ENGINE, "libengine-pkcs11-openssl"),
    ] {
        need(program, package)?;
    }
    python("python-pkcs11")?;
    recipe("curl")
}

/// OpenSSL's way to PKCS#11.
const ENGINE: &str = "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so";

/// A judge that begins with a page of docs/guide.
fn recipe(folder: &str) -> Proof {
    need("openssl", "openssl")?;
    need("pkcs11-tool", "opensc")?;
    need("ip", "iproute2")?;
    build_programs()?;
    let mut build = cargo();
    succeed(build.args(["build", "--quiet", "--package", "gose-pkcs11"]))?;
    judge(folder)
}

/// libgose.so under a program of C.
pub(crate) fn capi() -> Proof {
    need("gcc", "gcc")?;
    need("g++", "g++")?;
    need("pkg-config", "pkg-config")?;
    need("valgrind", "valgrind")?;
    need("openssl", "openssl")?;
    need("ip", "iproute2")?;
    build_programs()?;
    let mut build = cargo();
    succeed(build.args(["build", "--quiet", "--package", "gose-capi"]))?;
    judge("capi")
}

fn root_has(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

/// An environment of Python's with a package of PyPI, which run.sh finds under target.
fn python(package: &str) -> Result<(), String> {
    let folder = root().join("target/python");
    if folder.join(package).exists() {
        return Ok(());
    }
    need("python3", "python3")?;
    if !root_has("/usr/share/doc/python3-venv") {
        need("python3-venv", "python3-venv")?;
    }
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let mut install = Command::new(folder.join("bin/pip"));
    succeed(install.args(["--quiet", "install", package]))?;
    std::fs::write(folder.join(package), "").map_err(|error| error.to_string())
}

fn swtpm_needs() -> Result<(), String> {
    need("swtpm", "swtpm")?;
    need("swtpm_setup", "swtpm-tools")
}

pub(crate) fn swtpm() -> Proof {
    swtpm_needs()?;
    need("tpm2_print", "tpm2-tools")?;
    need("ss", "iproute2")?;
    // Of tpm2-tools' ways to a TPM, swtpm's comes in a package of its own.
    let tcti = "/usr/lib/x86_64-linux-gnu/libtss2-tcti-swtpm.so.0";
    need(tcti, "libtss2-tcti-swtpm0")?;
    build_test("tpm", "tpm")?;
    judge("swtpm")
}

pub(crate) fn softhsm() -> Proof {
    need("softhsm2-util", "softhsm2")?;
    need("pkcs11-tool", "opensc")?;
    build_test("pkcs11", "pkcs11")?;
    judge("softhsm")
}

pub(crate) fn opensc() -> Proof {
    vpcd_needs()?;
    need("opensc-tool", "opensc")?;
    need("yubico-piv-tool", "yubico-piv-tool")?;
    need("openssl", "openssl")?;
    succeed(cargo().args([
        "build",
        "--quiet",
        "--package",
        "gosed",
        "--package",
        "gose",
    ]))?;
    judge("opensc")
}

/// pyscard, and Yubico's library over it: Debian's Python has both.
pub(crate) fn pyscard() -> Proof {
    vpcd_needs()?;
    need("opensc-tool", "opensc")?;
    need("openssl", "openssl")?;
    // It needs python3-pyscard.
    if !root_has("/usr/lib/python3/dist-packages/yubikit/piv.py") {
        need("yubikit", "python3-ykman")?;
    }
    build_programs()?;
    judge("pyscard")
}

fn vpcd_needs() -> Result<(), String> {
    need("pcscd", "pcscd")?;
    need("ip", "iproute2")?;
    need(
        "/usr/lib/pcsc/drivers/serial/libifdvpcd.so",
        "vsmartcard-vpcd",
    )
}

/// Builds a test of gose-backend; it runs where there is no network.
fn build_test(features: &str, test: &str) -> Result<(), String> {
    let mut build = cargo();
    build.args(["test", "--quiet", "--no-run", "--package", "gose-backend"]);
    let features = format!("{features},__judges");
    succeed(build.args(["--features", &features, "--test", test]))
}

/// Runs a judge; gives its closing line.
fn judge(folder: &str) -> Proof {
    closing(&mut script(folder))
}

fn closing(script: &mut Command) -> Proof {
    let shown = output(script)?;
    for line in shown.lines() {
        println!("    {line}");
    }
    Ok(shown.lines().last().unwrap_or_default().to_owned())
}

/// The element contract on everything that an element can be made of: a table of elements and tests.
pub(crate) fn contract() -> Proof {
    let mut software = tested("gose-testkit");
    let mut shown = output(software.args(["--test", "contract", "--", "--nocapture"]))?;
    let mut nodes = tested("gosed");
    shown += &output(nodes.args(["--test", "daemon", "--", "contract::", "--nocapture"]))?;
    vpcd_needs()?;
    swtpm_needs()?;
    need("softhsm2-util", "softhsm2")?;
    need("opensc-tool", "opensc")?;
    build_programs()?;
    let mut build = tested("gosed");
    succeed(build.args(["--no-run", "--features", "__judges", "--test", "kinds"]))?;
    for (features, test, folder) in [
        ("pcsc,vpcd", "pcsc", "pcscd"),
        ("tpm", "tpm", "swtpm"),
        ("pkcs11", "pkcs11", "softhsm"),
    ] {
        build_test(features, test)?;
        shown += &output(&mut script(folder))?;
    }
    shown += &output(&mut script("contract"))?;
    let rows: Vec<_> = shown
        .lines()
        .filter_map(|line| line.split_once(ROW))
        .map(|(_, row)| row.split(" | ").collect::<Vec<_>>())
        .filter(|row| row.len() > 1)
        .collect();
    table(&rows);
    Ok(format!("{} elements keep the contract", rows.len()))
}

/// Milliseconds, or the number of a reason; the reasons stand below.
fn table(rows: &[Vec<&str>]) {
    let mut reasons: Vec<&str> = Vec::new();
    let tests = rows.first().into_iter().flat_map(|row| row.iter().skip(1));
    let names = tests.filter_map(|cell| cell.split(' ').next());
    let head: String = names.map(|name| format!("{name:>10}")).collect();
    println!("    {:34}{head}   (ms)", "element");
    for row in rows {
        let mut line = format!("    {:34}", row.first().unwrap_or(&""));
        for cell in row.iter().skip(1) {
            let (_, came_to) = cell.split_once(' ').unwrap_or_default();
            let cell = match came_to.strip_prefix("- ") {
                None => came_to.trim_end_matches(" ms").to_owned(),
                Some(reason) => {
                    let known = reasons.iter().position(|known| *known == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("({})", number + 1)
                }
            };
            line += &format!("{cell:>10}");
        }
        println!("{line}");
    }
    for (number, reason) in reasons.iter().enumerate() {
        println!("    ({}) not applicable: {reason}", number + 1);
    }
}

/// `cargo test` of a package, in the long form where that is asked for.
fn tested(package: &str) -> Command {
    let mut test = cargo();
    test.args(["test", "--quiet", "--package", package]);
    if LONG.load(Ordering::SeqCst) {
        test.env("GOSE_TEST_LONG", "1");
    }
    test
}
