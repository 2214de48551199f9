//! docs/defaults.md has a row for each setting, and each row is true.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::document;
use crate::config::Config;

/// Every section, and in it nothing but what has no default.
const NEEDED: &str = r#"
version = 1
[node]
[listen]
[admin]
[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
[store]
master-key-file = "master.key"
[metrics]
[limits]
[[aid]]
aid = "A000000308000010000100"
allow = ["*"]
[[aid.filter]]
user = "alice"
deny = ["00DB0000/00FF0000"]
[[slot]]
seid = "SE1"
kind = "software"
[[slot]]
seid = "SE2"
kind = "remote"
node = "grid.example.org:7777"
[[slot]]
seid = "SE3"
kind = "pcsc"
reader = "^Virtual PCD 00 00"
[[key-store]]
name = "tpm"
kind = "tpm"
[[key-store]]
name = "hsm"
kind = "pkcs11"
uri = "pkcs11:token=gose?module-path=/usr/lib/softhsm/libsofthsm2.so"
[[user]]
cn = "alice"
seid = ["SE1"]
[generations]
[[generations.hypervisor]]
user = "hv-1"
ca-certificate-file = "hv-ca.pem"
[hypervisor]
ca-certificate-file = "hv-ca.pem"
ca-key = { seid = "SE1", slot = "9C" }
name = "hv-1.example.org"
guest-anchor-files = ["nodes.pem"]
[hypervisor.libvirt]
[hypervisor.authentication-server]
node = "auth.example.org:7777"
name = "auth.example.org"
[[hypervisor.image]]
name = "web"
command = ["/usr/bin/web"]
[[hypervisor.group]]
name = "night"
users = ["carol"]
[[hypervisor.pool]]
name = "cards"
seid = ["SE2"]
secrets-folder = "cards"
[[hypervisor.creator]]
user = "alice"
quota = 2
[[hypervisor.guest]]
uuid = "00112233-4455-6677-8899-aabbccddeeff"
image = "web"
[authentication-server]
elements = ["SE1"]
identity = "server"
pin = "file:pool.pin"
allow = ["*"]
[authentication-server.reply]
[[authentication-server.company]]
name = "one"
realms = ["one.example"]
elements = ["SE2"]
identity = "one"
pin = "file:one.pin"
allow = ["*"]
[authentication-server.radius]
[[authentication-server.radius.client]]
name = "switches"
network = "192.0.2.0/24"
secret = "file:radius.secret"
[authentication-server.radius.radsec]
anchor-files = ["proxies.pem"]
clients = ["*"]
"#;

/// In place of `[hypervisor.authentication-server]`.
const AUTHENTICATOR: &str = r#"[hypervisor.authenticator]
port = "hook"
hook = "/usr/local/sbin/guest-port"
[hypervisor.authenticator.radsec]
"#;

/// Tables that are the value of one setting.
const VALUES: [&str; 3] = ["key", "ca-key", "storage"];

/// A step into a table, or into one of an array of tables.
type Place = Vec<(String, Option<usize>)>;

#[test]
fn the_table_of_defaults_is_true() {
    let text = document("docs/defaults.md");
    let mut rows = rows(&text);
    compare(NEEDED, &mut rows);
    let other = NEEDED.replace("[hypervisor.authentication-server]\n", AUTHENTICATOR);
    assert_ne!(other, NEEDED);
    compare(&other, &mut rows);
    let idle: Vec<_> = rows.iter().filter(|(_, (_, met))| !met).collect();
    assert!(idle.is_empty(), "no such settings: {idle:?}");
}

fn compare(text: &str, rows: &mut BTreeMap<String, (String, bool)>) {
    let needed: Table = text.parse().unwrap();
    let effective: Table = Config::parse(text).unwrap().effective().parse().unwrap();
    for place in places(&needed) {
        let heading = heading(&place);
        let own = at(&needed, &place);
        let subsections: BTreeSet<&String> = own
            .iter()
            .filter(|(key, value)| is_section(key, value))
            .map(|(key, _)| key)
            .collect();
        for key in settings(&needed, &place) {
            if subsections.contains(&key) || place.is_empty() && key == "version" {
                continue;
            }
            let name = format!("{heading} {key}");
            let row = rows.get_mut(&name).unwrap_or_else(|| {
                panic!("docs/defaults.md has no row | `{name}` | default | why |")
            });
            let written = at(&effective, &place).get(&key);
            // A setting of one kind of slot says nothing about the others; it counts somewhere, or its row is idle.
            if row.0.starts_with('`') && written.is_none() && own.contains_key("kind") {
                continue;
            }
            row.1 = true;
            let without = without(&needed, &place, &key);
            match row.0.as_str() {
                "required" => {
                    assert!(own.contains_key(&key), "{name} is not required");
                    assert!(without.is_none(), "{name} is not required");
                }
                "none" => {
                    let left = without.as_ref().and_then(|left| at(left, &place).get(&key));
                    assert_eq!(left, None, "{name} has a default");
                }
                "its place" => {
                    let left = without.as_ref().and_then(|left| at(left, &place).get(&key));
                    let (list, number) = place.last().unwrap();
                    let told = format!("{list}#{}", number.unwrap());
                    // Where no other section asks for it by its name.
                    if left.is_some() {
                        assert_eq!(left.and_then(Value::as_str), Some(told.as_str()), "{name}");
                    }
                }
                cell if cell.starts_with('`') => {
                    let told: Table = format!("it = {}", cell.trim_matches('`')).parse().unwrap();
                    assert!(!own.contains_key(&key), "{name} is given in the test");
                    assert_eq!(written, told.get("it"), "{name}");
                }
                // Another setting's value.
                cell => {
                    let other = cell
                        .strip_prefix("as `")
                        .and_then(|it| it.strip_suffix('`'));
                    let other = other.unwrap_or_else(|| panic!("{name}: {cell}"));
                    // Only where the setting counts.
                    if written.is_some() {
                        assert_eq!(written, own.get(other), "{name}");
                    }
                }
            }
        }
    }
}

/// Default by setting; whether it was met.
fn rows(text: &str) -> BTreeMap<String, (String, bool)> {
    // The module's settings stand in a file of its own.
    let (daemon, _) = text.split_once("\n## The PKCS#11 module\n").unwrap();
    let rows = daemon.lines().filter(|line| line.starts_with("| `["));
    rows.map(|row| {
        let cells: Vec<_> = row.split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        let name = cells[0].trim_start_matches("| ").trim_matches('`');
        (name.to_owned(), (cells[1].to_owned(), false))
    })
    .collect()
}

/// Every section of a configuration, itself first.
fn places(root: &Table) -> Vec<Place> {
    let mut places = vec![Place::new()];
    let mut next = 0;
    while let Some(place) = places.get(next).cloned() {
        next += 1;
        for (key, value) in at(root, &place) {
            let mut below = |index| {
                let mut inner = place.clone();
                inner.push((key.clone(), index));
                places.push(inner);
            };
            match value {
                Value::Array(tables) if is_section(key, value) => {
                    (0..tables.len()).for_each(|index| below(Some(index)));
                }
                _ if is_section(key, value) => below(None),
                _ => {}
            }
        }
    }
    places
}

fn is_section(key: &str, value: &Value) -> bool {
    let tables = value
        .as_array()
        .is_some_and(|array| array.iter().all(Value::is_table) && !array.is_empty());
    tables || value.is_table() && !VALUES.contains(&key)
}

/// `[a.b]`, or `[[a.b]]` where there may be several.
fn heading(place: &Place) -> String {
    let names: Vec<_> = place.iter().map(|(name, _)| name.as_str()).collect();
    let several = place.last().is_some_and(|(_, index)| index.is_some());
    let (open, close) = if several { ("[[", "]]") } else { ("[", "]") };
    format!("{open}{}{close}", names.join("."))
}

fn at<'a>(root: &'a Table, place: &Place) -> &'a Table {
    place.iter().fold(root, |table, (name, index)| {
        let value = &table[name];
        let value = index.map_or(value, |index| &value[index]);
        value.as_table().unwrap()
    })
}

fn at_mut<'a>(root: &'a mut Table, place: &Place) -> &'a mut Table {
    place.iter().fold(root, |table, (name, index)| {
        let value = &mut table[name];
        let value = match index {
            Some(index) => &mut value[*index],
            None => value,
        };
        value.as_table_mut().unwrap()
    })
}

/// The keys that a section may have, as the parser names them when it meets another one.
fn settings(needed: &Table, place: &Place) -> Vec<String> {
    let mut with = needed.clone();
    at_mut(&mut with, place).insert("unheard-of".into(), Value::Boolean(true));
    let error = Config::parse(&with.to_string()).unwrap_err().to_string();
    let (_, names) = error
        .split_once("unknown field `unheard-of`, expected ")
        .unwrap_or_else(|| panic!("{error}"));
    let line = names.lines().next().unwrap_or_default();
    let named = line.split('`').skip(1).step_by(2).map(str::to_owned);
    // The tag of a kind is not named.
    let mut settings: BTreeSet<String> = named.collect();
    settings.extend(at(needed, place).keys().cloned());
    settings.into_iter().collect()
}

/// What is effective without this setting, if that is a configuration at all.
fn without(needed: &Table, place: &Place, key: &str) -> Option<Table> {
    let mut without = needed.clone();
    at_mut(&mut without, place).remove(key);
    let config = Config::parse(&without.to_string()).ok()?;
    Some(config.effective().parse().unwrap())
}
