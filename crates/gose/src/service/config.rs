//! The guest service's configuration file, parsed once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use gose_client::{endpoint::SERVICE, middleware::Grid};
use gose_element::Seid;
use serde::Deserialize;

use super::upstream::Way;
use crate::Failure;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    version: u32,
    join_file: Option<PathBuf>,
    grid: Option<Grid>,
    #[serde(default)]
    listen: Listen,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    user: Vec<User>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Listen {
    socket: PathBuf,
    group: Option<String>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            socket: SERVICE.into(),
            group: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Limits {
    clients: usize,
    queue: usize,
    wait_ms: u64,
    hold_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 256,
            queue: 64,
            wait_ms: 10_000,
            hold_ms: 30_000,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct User {
    user: String,
    seid: Vec<String>,
}

/// What the file says.
pub(super) struct Config {
    folder: PathBuf,
    reach: Reach,
    pub(super) socket: PathBuf,
    /// Whose programs may connect beside the service's own user's.
    pub(super) group: Option<u32>,
    pub(super) clients: usize,
    pub(super) queue: usize,
    pub(super) wait: Duration,
    pub(super) hold: Duration,
    /// Elements of each user.
    pub(super) users: BTreeMap<u32, Allowed>,
}

enum Reach {
    Join(PathBuf),
    Grid(Box<Grid>),
}

/// Elements that a user's programs may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allowed {
    All,
    These(Vec<Seid>),
}

impl Allowed {
    pub(super) fn has(&self, seid: &Seid) -> bool {
        match self {
            Self::All => true,
            Self::These(seids) => seids.contains(seid),
        }
    }
}

impl Config {
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let wrong = |cause: &str| Failure::local(format!("{}: {cause}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| {
            wrong(&format!(
                "{error}; write it (docs/guide/guest-service.md), or name another file by --config"
            ))
        })?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let own = rustix::process::geteuid().as_raw();
        Self::parse(&text, folder, own).map_err(|cause| wrong(&cause))
    }

    fn parse(text: &str, folder: &Path, own: u32) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.version != 1 {
            return Err("`version` is not 1".into());
        }
        let reach = match (file.join_file, file.grid) {
            (Some(path), None) => Reach::Join(folder.join(path)),
            (None, Some(grid)) => Reach::Grid(Box::new(grid)),
            _ => return Err("say either `join-file` or [grid]".into()),
        };
        let mut users = BTreeMap::new();
        for user in file.user {
            let uid = number(&user.user, "/etc/passwd")?;
            if users.insert(uid, allowed(&user.seid)?).is_some() {
                return Err(format!("two tables for the user {}", user.user));
            }
        }
        if users.is_empty() {
            users.insert(own, Allowed::All);
        }
        let group = file
            .listen
            .group
            .map(|name| number(&name, "/etc/group"))
            .transpose()?;
        let limits = file.limits;
        let within = |name: &str, value: u64, most: u64| match value {
            0 => Err(format!("`{name}` is 0")),
            value if value > most => Err(format!("`{name}` is over {most}")),
            value => Ok(Duration::from_millis(value)),
        };
        if limits.clients == 0 || limits.clients > 4096 || limits.queue > 4096 {
            return Err("`clients` is 1 to 4096, `queue` at most 4096".into());
        }
        Ok(Self {
            folder: folder.to_owned(),
            reach,
            socket: folder.join(file.listen.socket),
            group,
            clients: limits.clients,
            queue: limits.queue,
            wait: within("wait-ms", limits.wait_ms, 60_000)?,
            hold: within("hold-ms", limits.hold_ms, 600_000)?,
            users,
        })
    }

    /// How the middleware or the grid is reached.
    pub(super) fn way(&self) -> Result<Way, Failure> {
        Ok(match &self.reach {
            Reach::Join(path) => Way::Join(path.clone()),
            Reach::Grid(grid) => Way::Grid(grid.endpoint(&self.folder)?),
        })
    }
}

fn allowed(seids: &[String]) -> Result<Allowed, String> {
    if seids.iter().any(|seid| seid == "*") {
        return Ok(Allowed::All);
    }
    let parsed: Result<_, _> = seids
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error| format!("SEID {text:?}: {error}"))
        })
        .collect();
    Ok(Allowed::These(parsed?))
}

/// A user's or a group's number, by its name in a table of the system (passwd(5), group(5)).
fn number(name: &str, table: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string(table).map_err(|error| format!("{table}: {error}"))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| format!("{name:?} does not stand in {table}; give its number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOIN: &str = "version = 1\njoin-file = \"join.json\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/gose"), 1000)
    }

    #[test]
    fn users_and_their_elements() {
        let config = parse(&format!(
            "{JOIN}[[user]]\nuser = \"root\"\nseid = [\"*\"]\n[[user]]\nuser = \"33\"\nseid = [\"web\"]\n"
        ))
        .unwrap();
        let seid = |text: &str| text.parse::<Seid>().unwrap();
        assert_eq!(config.users[&0], Allowed::All);
        assert!(config.users[&33].has(&seid("web")) && !config.users[&33].has(&seid("mail")));
        assert!(!config.users.contains_key(&1000));
        let own = parse(JOIN).unwrap();
        assert_eq!(own.users.keys().collect::<Vec<_>>(), [&1000]);
        assert_eq!(own.socket, Path::new(SERVICE));
    }

    #[test]
    fn the_guide_tells_the_defaults() {
        let guide = include_str!("../../../../docs/guide/guest-service.md");
        let limits = Limits::default();
        for (name, value) in [
            ("[listen] socket", format!("\"{SERVICE}\"")),
            ("[limits] clients", limits.clients.to_string()),
            ("[limits] queue", limits.queue.to_string()),
            ("[limits] wait-ms", limits.wait_ms.to_string()),
            ("[limits] hold-ms", limits.hold_ms.to_string()),
        ] {
            assert!(
                guide.contains(&format!("| `{name}` | `{value}` |")),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).err().unwrap();
            assert!(error.contains(expected), "{error}");
        };
        check("version = 2\njoin-file = \"x\"", "not 1");
        check("version = 1", "either");
        check(&format!("{JOIN}[grid]\nsocket = \"s\"\n"), "either");
        check(&format!("{JOIN}[limits]\nwait-ms = 0\n"), "wait-ms");
        check(&format!("{JOIN}[limits]\nclients = 0\n"), "clients");
        check(&format!("{JOIN}colour = 1\n"), "colour");
        check(
            &format!("{JOIN}[[user]]\nuser = \"nobody-there\"\nseid = []\n"),
            "/etc/passwd",
        );
        check(
            &format!("{JOIN}[[user]]\nuser = \"1\"\nseid = [\"a b\"]\n"),
            "SEID",
        );
        check(
            &format!("{JOIN}[listen]\ngroup = \"no-such-group\"\n"),
            "/etc/group",
        );
    }
}
