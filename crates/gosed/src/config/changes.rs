//! What a reload cannot change.

use toml::{Table, Value};

use super::Config;

/// Settings that count at the start alone: addresses, key slots, files that are held open. A section stands for
/// its presence.
const AT_START: &[&str] = &[
    "listen",
    "listen.address",
    "admin",
    "admin.socket",
    "tls",
    "store.master-key-file",
    "store.sealed-by",
    "limits.connections",
    "generations",
    "generations.file",
    "hypervisor",
    "hypervisor.ca-certificate-file",
    "hypervisor.ca-key",
    "hypervisor.generation-file",
    "hypervisor.machine-folder",
    "hypervisor.ticket-lifetime-s",
    "hypervisor.token-lifetime-s",
    "hypervisor.driver",
    "hypervisor.join-folder",
    "hypervisor.unauthorised-domains",
    "hypervisor.libvirt",
    "hypervisor.authenticator",
    "authentication-server",
    "authentication-server.elements",
    "authentication-server.identity",
    "authentication-server.pin",
    "authentication-server.revoked-file",
    "authentication-server.radius",
    "authentication-server.radius.listen",
    "authentication-server.radius.accounting",
    "authentication-server.radius.overload",
    "authentication-server.radius.conversations",
    "authentication-server.radius.conversations-a-client",
    "authentication-server.radius.answer-kept-s",
    "authentication-server.radius.silence-s",
    "authentication-server.radius.radsec",
];

/// What of a company counts at the start alone.
const COMPANY_AT_START: &[&str] = &["name", "realms", "elements", "identity", "pin"];

impl Config {
    /// The settings in which `self`, read again, differs from the configuration that the node started with, and
    /// which a reload does not change: one sentence each, without values.
    #[must_use]
    pub fn needs_restart(&self, started: &Self) -> Vec<String> {
        let (Ok(new), Ok(old)) = (Table::try_from(self), Table::try_from(started)) else {
            return vec!["the whole configuration".to_owned()];
        };
        let differs = |path: &&&str| {
            // A section that came or went is told once.
            if let Some((section, _)) = path.rsplit_once('.')
                && AT_START.contains(&section)
                && find(&new, section).is_some() != find(&old, section).is_some()
            {
                return false;
            }
            match (find(&new, path), find(&old, path)) {
                // The parts of a section are looked at by themselves.
                (Some(Value::Table(_)), Some(Value::Table(_))) if is_section(path) => false,
                (new, old) => new != old,
            }
        };
        let mut changed: Vec<String> = AT_START
            .iter()
            .filter(differs)
            .map(|path| match path.rsplit_once('.') {
                Some((section, key)) if !is_section(path) => format!("[{section}] {key}"),
                _ => format!("[{path}]"),
            })
            .collect();
        if companies(&new) != companies(&old) {
            changed.push("[[authentication-server.company]]".to_owned());
        }
        changed
    }
}

/// Whether the path names a section whose presence alone counts, and whose settings stand in the list too.
fn is_section(path: &str) -> bool {
    let within = |other: &&str| {
        other
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    path == "tls" || AT_START.iter().any(within)
}

fn find<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        Some((section, rest)) => find(table.get(section)?.as_table()?, rest),
        None => table.get(path),
    }
}

fn companies(table: &Table) -> Vec<Vec<Option<&Value>>> {
    let list = find(table, "authentication-server.company").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|company| {
            COMPANY_AT_START
                .iter()
                .map(|key| company.get(key))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: &str = r#"
version = 1
[listen]
address = "127.0.0.1:7777"
[admin]
[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
client-anchor-files = ["ca.pem"]
[store]
master-key-file = "master.key"
[[slot]]
seid = "AS1"
kind = "software"
[authentication-server]
elements = ["AS1"]
identity = "server"
pin = "env:PIN"
allow = ["*"]
"#;

    fn check(part: &str, by: &str, expected: &[&str]) {
        assert!(STARTED.contains(part), "{part}");
        let started = Config::parse(STARTED).unwrap();
        let new = Config::parse(&STARTED.replacen(part, by, 1)).unwrap();
        assert_eq!(new.needs_restart(&started), expected, "{by}");
    }

    #[test]
    fn what_needs_a_restart_and_what_does_not() {
        check("7777", "7777", &[]);
        check("7777", "7778", &["[listen] address"]);
        check("[admin]", "[admin]\nsocket = \"s\"", &["[admin] socket"]);
        check("[admin]\n", "", &["[admin]"]);
        check("node.pem", "new.pem", &[]);
        check(
            "allow = [\"*\"]",
            "allow = [\"alice\"]\nservice = \"echo\"",
            &[],
        );
        let identity = ["[authentication-server] identity"];
        check("identity = \"server\"", "identity = \"other\"", &identity);
        let limits = "[limits]\nidle-timeout-s = 5\nconnections = 7\n[store]";
        check("[store]", limits, &["[limits] connections"]);
        let radius = "allow = []\n[[authentication-server.radius.client]]\nname = \"ap\"\n\
                      network = \"10.0.0.0/8\"\nsecret = \"env:S\"";
        let section = ["[authentication-server.radius]"];
        check("allow = [\"*\"]", radius, &section);
        let company = "allow = []\n[[authentication-server.company]]\nname = \"c\"\nrealms = [\"c\"]\n\
                       elements = [\"AS2\"]\nidentity = \"c\"\npin = \"env:PIN\"\nallow = []\n\
                       [[slot]]\nseid = \"AS2\"\nkind = \"software\"";
        check(
            "allow = [\"*\"]",
            company,
            &["[[authentication-server.company]]"],
        );
    }
}
