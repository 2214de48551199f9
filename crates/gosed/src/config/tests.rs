use super::*;

mod defaults;

const GOOD: &str = r#"
version = 1
[listen]
address = "127.0.0.1:0"
[admin]
socket = "admin.sock"
[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
client-anchor-files = ["ca.pem"]
user-anchor-files = ["users.pem"]
[store]
master-key-file = "master.key"
[[aid]]
aid = "A000000308000010000100"
allow = ["*"]
[[slot]]
seid = "SE1"
kind = "software"
timing = "paper-2014"
[[slot.aid]]
aid = "A0000000300002FFFFFFFF8931323800"
allow = ["vm-42", "spiffe://example.org/hv/hv-7"]
[[slot.aid.filter]]
user = "vm-42"
deny = ["00DB0000/00FF0000"]
[[slot]]
seid = "SE2"
kind = "remote"
node = "grid.example.org:7777"
[[user]]
cn = "vm-42"
seid = ["SE1"]
[[user]]
id = "spiffe://example.org/hv/hv-7"
seid = ["*"]
role = "admin"
[[key-store]]
name = "tpm"
kind = "tpm"
auth-file = "tpm.auth"
[[key-store]]
name = "hsm"
kind = "pkcs11"
uri = "pkcs11:token=gose?module-path=/usr/lib/softhsm/libsofthsm2.so"
pin-file = "hsm.pin"
[[slot]]
seid = "TPM1"
kind = "software"
keys = "tpm"
[[slot]]
seid = "READER1"
kind = "pcsc"
reader = "^Virtual PCD 00 00"
"#;

#[test]
fn what_is_read_is_written_and_read_again() {
    let config = Config::parse(GOOD).unwrap();
    let effective = config.effective();
    let again = Config::parse(&effective).unwrap();
    assert_eq!(again.effective(), effective);
    assert!(effective.contains("idle-timeout-s = 600"), "{effective}");
    assert!(config.dangers().is_empty());
}

/// Replaces a part of the good file and compares the error, which must name the line.
fn check(part: &str, by: &str, line: Option<usize>, error: &str) {
    assert!(GOOD.contains(part), "{part}");
    let text = Config::parse(&GOOD.replacen(part, by, 1))
        .unwrap_err()
        .to_string();
    assert!(text.contains(error), "{text}");
    if let Some(line) = line {
        assert!(text.contains(&format!("line {line}")), "{text}");
    }
}

#[test]
fn errors_name_the_line_and_what_is_allowed() {
    check(
        "version = 1",
        "version = 2",
        Some(2),
        "this program reads version = 1",
    );
    check(
        "address =",
        "adress =",
        Some(4),
        "unknown field `adress`, expected `address`",
    );
    check(
        "\"127.0.0.1:0\"",
        "\"here\"",
        Some(4),
        "invalid socket address",
    );
    check(
        "kind = \"software\"",
        "kind = \"card\"",
        Some(19),
        "expected one of `software`, `pcsc`, `remote`",
    );
    check(
        "kind = \"remote\"\nnode =",
        "kind = \"remote\"\nimage =",
        None,
        "slot \"SE2\": image does not belong",
    );
    check(
        "paper-2014",
        "paper",
        Some(17),
        "one of paper-2014, j3r180,",
    );
    check(
        "A000000308000010000100",
        "A0000003",
        Some(15),
        "5 to 16 bytes",
    );
    check(
        "00DB0000/00FF0000",
        "00DB0000/000F0000",
        Some(26),
        "outside of the mask",
    );
    check("cn = \"vm-42\"\n", "", Some(31), "either id =");
    check(
        "seid = \"SE2\"",
        "seid = \"SE 2\"",
        Some(28),
        "a SEID has 1 to 64 characters",
    );
    check(
        "{ file = \"node.key\" }",
        "\"node.key\"",
        Some(9),
        "key is { file =",
    );
    check(
        "[store]\nmaster",
        "[store]\nunknown = 1\nmaster",
        None,
        "unknown field `unknown`",
    );
}

#[test]
fn contradictions_of_the_authenticator() {
    let role = "[hypervisor]\nca-certificate-file = \"c\"\nca-key = { seid = \"SE1\", slot = \"9C\" }\nname = \"h\"\nguest-anchor-files = []\n";
    let check = |driver: &str, section: &str, expected: &str| {
        let text = format!("{GOOD}{role}{driver}\n[hypervisor.authenticator]\n{section}\n");
        match Config::parse(&text) {
            Ok(_) => assert_eq!(expected, "", "{section}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !expected.is_empty() && error.contains(expected),
                    "{section}: {error}"
                );
            }
        }
    };
    const UDP: &str = "servers = [\"127.0.0.1:1812\"]\nsecret = \"env:S\"\n";
    const TLS: &str = "radsec = { node = \"a:1\", name = \"a\" }\n";
    const HOOK: &str = "port = \"hook\"\nhook = \"h\"\n";
    const NFTABLES: &str = "port = \"nftables\"\n";
    let namespace = "driver = \"namespace\"";
    check("", &[UDP, HOOK].concat(), "");
    check("", &[TLS, HOOK].concat(), "");
    check(namespace, &[UDP, NFTABLES].concat(), "");
    check("", HOOK, "either servers and secret, or radsec");
    check(
        "",
        &[UDP, TLS, HOOK].concat(),
        "either servers and secret, or radsec",
    );
    check(
        "",
        &["servers = [\"127.0.0.1:1812\"]\n", HOOK].concat(),
        "need secret",
    );
    check(
        "",
        &[TLS, "secret = \"env:S\"\n", HOOK].concat(),
        "no use for secret",
    );
    let disconnect = "disconnect = \"127.0.0.1:3799\"\nsecret = \"env:S\"\n";
    check(
        "",
        &[TLS, disconnect, HOOK].concat(),
        "disconnect-clients say",
    );
    let clients = "disconnect-clients = [\"192.0.2.1\"]\n";
    check("", &[TLS, disconnect, clients, HOOK].concat(), "");
    check("", &[UDP, clients, HOOK].concat(), "disconnect says where");
    check(
        "",
        &[UDP, NFTABLES].concat(),
        "needs driver = \"namespace\"",
    );
    check("", &[UDP, "port = \"hook\"\n"].concat(), "needs hook");
    check(
        namespace,
        &[UDP, NFTABLES, "hook = \"h\"\n"].concat(),
        "hook is for",
    );
    let both = "authentication-server = { node = \"a:1\", name = \"a\" }";
    check(both, &[UDP, HOOK].concat(), "one of them");
}

#[test]
fn contradictions() {
    check(
        "keys = \"tpm\"",
        "keys = \"hms\"",
        None,
        "no [[key-store]] has name = \"hms\"",
    );
    check(
        "keys = \"tpm\"",
        "adopt = { 9A = \"01\" }",
        None,
        "adopt needs keys",
    );
    check(
        "keys = \"tpm\"",
        "keys = \"tpm\"\nadopt = { 9B = \"01\" }",
        None,
        "adopt: \"9B\" is no key slot",
    );
    check(
        "master-key-file = \"master.key\"",
        "master-key-file = \"master.key\"\nsealed-by = \"hsm\"",
        None,
        "no [[key-store]] of kind = \"tpm\" has name = \"hsm\"",
    );
    check(
        "name = \"hsm\"",
        "name = \"tpm\"",
        None,
        "name = \"tpm\" stands twice",
    );
    check(
        "kind = \"tpm\"",
        "kind = \"tpm\"\ndevice = \"d\"\nswtpm = \"s\"",
        None,
        "not both",
    );
    check(
        "?module-path=/usr/lib/softhsm/libsofthsm2.so",
        "",
        None,
        "needs ?module-path=",
    );
    check(
        "softhsm2.so",
        "softhsm2.so&pin-value=1234",
        None,
        "no PIN in the URI",
    );
    check("pkcs11:token", "token", None, "begins with `pkcs11:`");
    check(
        "reader = ",
        "timing = ",
        None,
        "timing does not belong to kind = \"pcsc\"",
    );
    check(
        "reader = \"^Virtual PCD 00 00\"",
        "",
        None,
        "needs one of reader, reader-serial, atr, card",
    );
    check(
        "reader = \"^Virtual PCD 00 00\"",
        "reader = \"x\"\ncard = \"0011\"",
        None,
        "needs one of reader, reader-serial, atr, card",
    );
    check(
        "keys = \"tpm\"",
        "storage = { keys = 128 }",
        None,
        "storage: keys = 128: at most 127",
    );
    check(
        "keys = \"tpm\"",
        "storage = { key = 1 }",
        None,
        "unknown field `key`",
    );
    check("pin-file = ", "pin = ", None, "unknown field `pin`");
    check("seid = \"SE2\"", "seid = \"SE1\"", None, "stands twice");
    check(
        "seid = [\"SE1\"]",
        "seid = [\"SE3\"]",
        None,
        "no [[slot]] has seid = \"SE3\"",
    );
    check(
        "[store]\nmaster-key-file = \"master.key\"\n",
        "",
        None,
        "needs [store]",
    );
    let error = Config::parse("version = 1").unwrap_err().to_string();
    assert!(error.contains("nothing would be served"), "{error}");
    let error = Config::parse("version = 1\n[listen]")
        .unwrap_err()
        .to_string();
    assert!(error.contains("needs [tls]"), "{error}");
}

#[test]
fn a_setting_that_weakens_security_is_named() {
    let text = GOOD.replace("[store]", "danger-tls12 = true\n[store]");
    assert_eq!(Config::parse(&text).unwrap().dangers().len(), 1);
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gosed.toml");
    std::fs::write(&path, GOOD).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(
        config.tls.unwrap().certificate_file,
        dir.path().join("node.pem")
    );
    assert_eq!(config.store.unwrap().directory, Path::new("/var/lib/gose"));
}

/// A document of the repository.
fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_example_is_good() {
    let config = Config::parse(&document("gosed.example.toml")).unwrap();
    assert_eq!(config.slots.len(), 3);
    assert!(config.dangers().is_empty());
}

#[test]
fn a_slot_without_a_name_is_called_by_its_number() {
    let text = "version = 1\n[admin]\n[store]\nmaster-key-file = \"k\"\n\
                [[slot]]\nseid = \"SE1\"\nkind = \"software\"\n[[slot]]\nkind = \"software\"\n";
    let config = Config::parse(text).unwrap();
    let names: Vec<_> = config.slots.iter().map(|slot| slot.seid.as_str()).collect();
    assert_eq!(names, ["SE1", "slot#1"]);
    let twice = format!("{text}[[slot]]\nseid = \"slot#1\"\nkind = \"software\"\n");
    assert!(Config::parse(&twice).is_err());
}

#[test]
fn a_slot_may_be_called_by_its_cards_number() {
    let names = |slot: &str| {
        let text = format!("version = 1\n[admin]\n[[slot]]\nkind = \"pcsc\"\n{slot}\n");
        Config::parse(&text).map(|config| config.slots[0].seid.to_string())
    };
    let number = "00112233445566778899aabbccddeeff";
    let card = format!("card = \"{number}\"");
    assert_eq!(names(&card).unwrap(), number.to_uppercase());
    assert_eq!(
        names(&format!("seid = \"alice\"\n{card}")).unwrap(),
        "alice"
    );
    let read = Config::parse(&format!(
        "version = 1\n[admin]\n[[slot]]\nkind = \"pcsc\"\n{card}\n"
    ));
    let again = Config::parse(&read.unwrap().effective()).unwrap();
    assert_eq!(again.slots[0].seid.as_str(), number.to_uppercase());
    assert!(names("card = \"not a name of an element\"").is_err());
}

#[test]
fn the_examples_of_roles_are_good() {
    let check = |name: &str| {
        let config = Config::parse(&document(&format!("docs/examples/{name}.toml"))).unwrap();
        assert!(config.dangers().is_empty());
        config
    };
    let hypervisor = check("hypervisor").hypervisor.unwrap();
    assert_eq!(hypervisor.guests.len(), 1);
    let server = check("authentication-server")
        .authentication_server
        .unwrap();
    assert_eq!(server.companies.len(), 1);
    assert!(server.radius.unwrap().radsec.is_some());
}

#[test]
fn the_examples_of_hardware_are_good() {
    let text = document("docs/hardware.md");
    let examples = text.split("```toml\n").skip(1);
    let mut count = 0;
    for example in examples.map(|rest| rest.split("```").next().unwrap()) {
        let store = if example.contains("[store]") {
            ""
        } else {
            "[store]\nmaster-key-file = \"k\"\n"
        };
        let config = Config::parse(&format!("version = 1\n[admin]\n{store}{example}"));
        assert_eq!(config.unwrap().slots.len(), 1, "{example}");
        count += 1;
    }
    assert_eq!(count, 4);
}
