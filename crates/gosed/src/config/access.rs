//! `[[user]]` and `[[aid]]`: who may use which element and which application on it
//! (draft-urien-core-racs-05, 5.3).

use std::{fmt, str::FromStr};

use gose_element::Seid;
use gose_proto::hex;
use serde::{Deserialize, Serialize};

use super::Text;

/// Someone who may use elements.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(try_from = "WrittenUser", into = "WrittenUser")]
pub struct User {
    /// The name in the certificate.
    pub name: Name,
    /// The elements, or `*` for all.
    pub seid: Vec<Seids>,
    /// What they may do there.
    pub role: Role,
}

/// The name of a user: what policy matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// The SPIFFE identifier in the certificate.
    Uri(Box<str>),
    /// The common name, which counts only in certificates that the users' authority issued directly.
    CommonName(Box<str>),
}

impl Name {
    /// The name without its kind.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Uri(name) | Self::CommonName(name) => name,
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("spiffe://") {
            return Ok(Self::Uri(text.into()));
        }
        match text.chars().count() {
            1..=64 if !text.chars().any(char::is_control) => Ok(Self::CommonName(text.into())),
            _ => Err("a name is a spiffe:// URI or a common name of 1 to 64 characters".into()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One entry of a user's `seid` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seids {
    /// `*`: every element of the node.
    All,
    /// This element.
    One(Seid),
}

impl Seids {
    pub(super) fn named(&self) -> Option<&Seid> {
        match self {
            Self::All => None,
            Self::One(seid) => Some(seid),
        }
    }
}

impl FromStr for Seids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::All),
            seid => seid
                .parse()
                .map(Self::One)
                .map_err(|error| format!("\"{seid}\": {error}, or *")),
        }
    }
}

impl fmt::Display for Seids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::One(seid) => seid.fmt(f),
        }
    }
}

/// What a user may do on an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The user plane: applications, without loading, deleting or personalising them.
    #[default]
    User,
    /// The management plane too.
    Admin,
}

/// A user as it stands in the file.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenUser {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cn: Option<String>,
    seid: Vec<Text<Seids>>,
    #[serde(default)]
    role: Role,
}

impl TryFrom<WrittenUser> for User {
    type Error = String;

    fn try_from(written: WrittenUser) -> Result<Self, String> {
        let name: Name = match (&written.id, &written.cn) {
            (Some(id), None) => id.parse()?,
            (None, Some(cn)) => cn.parse()?,
            _ => return Err("a user has either id = \"spiffe://…\" or cn = \"…\"".into()),
        };
        if matches!(name, Name::Uri(_)) != written.id.is_some() {
            return Err("id is a spiffe:// URI; a common name stands under cn".into());
        }
        Ok(Self {
            name,
            seid: written.seid.into_iter().map(|Text(seid)| seid).collect(),
            role: written.role,
        })
    }
}

impl From<User> for WrittenUser {
    fn from(user: User) -> Self {
        let (id, cn) = match user.name {
            Name::Uri(uri) => (Some(uri.into()), None),
            Name::CommonName(cn) => (None, Some(cn.into())),
        };
        Self {
            id,
            cn,
            seid: user.seid.into_iter().map(Text).collect(),
            role: user.role,
        }
    }
}

/// What happens to an application that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ByDefault {
    /// Nobody of role `user` selects it.
    #[default]
    Deny,
    /// Everybody who may use the element selects it, except security domains.
    Allow,
}

/// Who may select an application, and which APDUs stay forbidden then.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AidRule {
    /// The full application identifier.
    pub aid: Text<Aid>,
    /// Who may select it; nobody else.
    pub allow: Vec<Text<Caller>>,
    /// APDUs that are refused while it is selected.
    #[serde(default, rename = "filter", skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterRule>,
}

/// APDUs that one user may not send.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FilterRule {
    /// The user, or `*`.
    pub user: Text<Caller>,
    /// What is refused.
    pub deny: Vec<Text<Filter>>,
}

/// Somebody in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// `*`: everybody who may use the element.
    Anybody,
    /// This user.
    Named(Name),
}

impl FromStr for Caller {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Anybody),
            name => name.parse().map(Self::Named),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("*"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// An application identifier: 5 to 16 bytes (ISO/IEC 7816-4:2020, 12.2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aid(Box<[u8]>);

impl Aid {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Aid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match hex::decode(text) {
            Ok(bytes) if (5..=16).contains(&bytes.len()) => Ok(Self(bytes.into())),
            Ok(bytes) => Err(format!(
                "an AID has 5 to 16 bytes, \"{text}\" has {}",
                bytes.len()
            )),
            Err(error) => Err(format!("AID \"{text}\": {error}")),
        }
    }
}

impl fmt::Display for Aid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// A forbidden APDU: refused when CLA INS P1 P2 under the mask equal the prefix. Written `prefix/mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    prefix: u32,
    mask: u32,
}

impl Filter {
    /// Whether it forbids a command with this header.
    #[must_use]
    pub fn forbids(self, header: [u8; 4]) -> bool {
        u32::from_be_bytes(header) & self.mask == self.prefix
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = |text: &str| {
            let bytes: [u8; 4] = hex::decode(text).ok()?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let parsed = text
            .split_once('/')
            .and_then(|(prefix, mask)| Some((word(prefix)?, word(mask)?)));
        match parsed {
            Some((prefix, mask)) if prefix & !mask == 0 => Ok(Self { prefix, mask }),
            Some(_) => Err(format!(
                "\"{text}\" forbids nothing: the prefix has bits outside of the mask"
            )),
            None => Err(format!(
                "\"{text}\" is not prefix/mask of four bytes each, as 00DB0000/00FF0000"
            )),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}/{:08X}", self.prefix, self.mask)
    }
}
