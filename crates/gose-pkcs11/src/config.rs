//! The module's configuration file, parsed once.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use gose_client::{
    Endpoint, Error,
    endpoint::SERVICE,
    middleware::{Grid, Source},
};
use gose_element::Seid;
use serde::Deserialize;

use crate::log::Log;

/// The file that is read where GOSE_PKCS11_CONF names none.
const SYSTEM: &str = "/etc/gose/pkcs11.toml";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default = "service")]
    grid: Grid,
    #[serde(default)]
    log: Log,
    #[serde(default = "sessions")]
    sessions: usize,
    #[serde(default = "wait_ms")]
    in_use_wait_ms: u64,
    #[serde(default)]
    element: Vec<Element>,
}

/// Table `[[element]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Element {
    seid: String,
    #[serde(default)]
    login: Login,
    pin: Option<Source>,
    management_key: Option<Source>,
    #[serde(default)]
    shared: bool,
}

/// Who shows the PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Login {
    /// The application, by C_Login.
    #[default]
    Application,
    /// The module, when the application calls C_Login without a PIN.
    ProtectedPath,
    /// The module; no application logs in.
    NotRequired,
}

/// What the file says.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) folder: PathBuf,
    pub(crate) grid: Grid,
    pub(crate) log: Log,
    /// Sessions that may be open at a time.
    pub(crate) sessions: usize,
    /// How long an element that is in use is waited for.
    pub(crate) patience: Duration,
    elements: Vec<Element>,
}

/// How an element is used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    pub(crate) login: Login,
    pub(crate) pin: Option<Source>,
    pub(crate) management_key: Option<Source>,
    /// Other processes use the element too: nothing is kept between two operations.
    pub(crate) shared: bool,
}

/// The guest service, where nothing else is said.
fn service() -> Grid {
    Grid {
        service: Some(SERVICE.into()),
        ..Grid::default()
    }
}

fn sessions() -> usize {
    1024
}

fn wait_ms() -> u64 {
    10_000
}

impl Config {
    /// Reads the file that GOSE_PKCS11_CONF names, else the user's, else the system's. Where there is none of them,
    /// a guest service that runs is used as it is.
    ///
    /// # Errors
    /// What is wrong and where, for the log.
    pub(crate) fn load() -> Result<Self, String> {
        let path = path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && path == Path::new(SYSTEM)
                    && Path::new(SERVICE).exists() =>
            {
                "version = 1".into()
            }
            Err(error) => {
                return Err(format!(
                    "{}: {error}; write it, or name another file in GOSE_PKCS11_CONF",
                    path.display()
                ));
            }
        };
        Self::parse(&text, path.parent().unwrap_or_else(|| Path::new(".")))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.version != 1 {
            return Err(format!("version {} is not 1", file.version));
        }
        for element in &file.element {
            if element.seid != "*" && element.seid.parse::<Seid>().is_err() {
                return Err(format!("{:?} is no SEID", element.seid));
            }
            if (element.login == Login::Application) != element.pin.is_none() {
                return Err(format!(
                    "element {}: a `pin` belongs to login = \"protected-path\" or \"not-required\"",
                    element.seid
                ));
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            grid: file.grid,
            log: file.log,
            sessions: file.sessions,
            patience: Duration::from_millis(file.in_use_wait_ms.min(60_000)),
            elements: file.element,
        })
    }

    /// Where the elements are. A service may give them to another program between two requests.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::File`]
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        self.grid.endpoint(&self.folder).map(Endpoint::yielding)
    }

    /// The elements that are named: they have a slot whether or not the grid answers.
    pub(crate) fn named(&self) -> impl Iterator<Item = Seid> {
        self.elements
            .iter()
            .filter(|element| element.seid != "*")
            .filter_map(|element| element.seid.parse().ok())
    }

    /// Whether an element that the grid lists has a slot.
    pub(crate) fn takes(&self, seid: Seid) -> bool {
        self.elements.is_empty() || self.element(seid).is_some()
    }

    /// How an element is used.
    pub(crate) fn policy(&self, seid: Seid) -> Policy {
        self.element(seid)
            .map(|element| Policy {
                login: element.login,
                pin: element.pin.clone(),
                management_key: element.management_key.clone(),
                shared: element.shared,
            })
            .unwrap_or_default()
    }

    /// The element's own table, else that of `*`.
    fn element(&self, seid: Seid) -> Option<&Element> {
        let called = |name: &str| self.elements.iter().find(|element| element.seid == name);
        called(seid.as_str()).or_else(|| called("*"))
    }
}

fn path() -> PathBuf {
    if let Some(path) = env::var_os("GOSE_PKCS11_CONF") {
        return path.into();
    }
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".config"));
    let user = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .map(|folder| folder.join("gose/pkcs11.toml"))
        .filter(|path| path.exists());
    user.unwrap_or_else(|| SYSTEM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(&format!("version = 1\n{text}"), Path::new("/"))
    }

    const GRID: &str = "[grid]\nsocket = \"s\"\n";

    #[test]
    fn elements_and_their_policies() {
        let config = parse(&format!(
            "{GRID}[[element]]\nseid = \"SE1\"\nlogin = \"not-required\"\npin = \"file:pin\"\n\
             [[element]]\nseid = \"*\"\nshared = true\n"
        ))
        .unwrap();
        let seid = |text: &str| text.parse::<Seid>().unwrap();
        assert_eq!(config.named().collect::<Vec<_>>(), [seid("SE1")]);
        assert!(config.takes(seid("SE2")) && config.policy(seid("SE2")).shared);
        assert_eq!(config.policy(seid("SE1")).login, Login::NotRequired);
        let all = parse(GRID).unwrap();
        assert!(all.takes(seid("SE1")) && all.named().next().is_none());
        let one = parse(&format!("{GRID}[[element]]\nseid = \"SE1\"\n")).unwrap();
        assert!(!one.takes(seid("SE2")));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        assert!(parse("").unwrap().grid.service.is_some());
        let two = parse(&format!("{GRID}service = \"t\"\n"))
            .unwrap()
            .endpoint();
        assert!(two.err().unwrap().to_string().contains("one of"));
        check(&format!("{GRID}colour = 1\n"), "colour");
        check(&format!("{GRID}[[element]]\nseid = \"a b\"\n"), "no SEID");
        check(
            &format!("{GRID}[[element]]\nseid = \"a\"\npin = \"file:p\"\n"),
            "protected-path",
        );
        check(
            &format!("{GRID}[[element]]\nseid = \"a\"\nlogin = \"protected-path\"\n"),
            "pin",
        );
        check(
            &format!("{GRID}[[element]]\nseid = \"a\"\npin = \"123456\"\n"),
            "file:PATH",
        );
        let version = Config::parse("version = 2\n[grid]\n", Path::new("/")).unwrap_err();
        assert!(version.contains("not 1"), "{version}");
    }
}
