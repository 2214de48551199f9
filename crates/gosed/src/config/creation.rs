//! Who may create virtual machines, of what, how large, when; and the elements that they are given.

use std::{fmt, path::PathBuf, str::FromStr};

use gose_element::Seid;
use gose_proto::hex;
use serde::{Deserialize, Serialize};

use super::{Hypervisor, Name, Seids, Text};

/// A name for several users.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Group {
    /// What `[[hypervisor.creator]]` calls them.
    pub name: String,
    /// Who they are.
    pub users: Vec<Text<Name>>,
}

/// Elements that virtual machines are given one of; whose keys and PIN are made anew for each.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pool {
    /// What `vm create` calls it.
    pub name: String,
    /// The elements: slots of this node, remote ones among them.
    pub seid: Vec<Text<Seid>>,
    /// Where their secrets are: `<SEID>.secrets`, as `gose element init` wrote them.
    pub secrets_folder: PathBuf,
}

/// Somebody who may create virtual machines.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Creator {
    /// A SPIFFE identifier, or a common name of the users' authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Text<Name>>,
    /// Or the users of a group, each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The hypervisors on which the rule counts, by the last part of their name; every one unless given.
    #[serde(default)]
    pub hypervisor: Vec<String>,
    /// How many of theirs there may be at a time, those that are stopped included.
    pub quota: u32,
    /// What they may run: names of images, SHA-256 of kernels, or `*` for every image of the configuration.
    #[serde(default)]
    pub image: Vec<String>,
    /// The elements that they may bind to a virtual machine, or `*`.
    #[serde(default)]
    pub seid: Vec<Text<Seids>>,
    /// The pools that they may have elements of.
    #[serde(default)]
    pub pool: Vec<String>,
    /// Memory of one virtual machine, MiB.
    #[serde(default = "Creator::default_memory")]
    pub memory_mib: u32,
    /// Processors of one virtual machine.
    #[serde(default = "Creator::default_vcpus")]
    pub vcpus: u32,
    /// When they may create, UTC; always unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Text<Hours>>,
}

impl Creator {
    fn default_memory() -> u32 {
        1024
    }

    fn default_vcpus() -> u32 {
        1
    }

    /// What contradicts itself.
    pub(super) fn fault(&self, role: &Hypervisor) -> Option<String> {
        let fault = match (&self.user, &self.group) {
            (Some(_), None) => None,
            (None, Some(group)) if role.groups.iter().any(|known| known.name == *group) => None,
            (None, Some(group)) => Some(format!(
                "group = \"{group}\": no [[hypervisor.group]] has this name"
            )),
            _ => Some("has either user or group".to_owned()),
        };
        let pool = |name: &&String| !role.pools.iter().any(|pool| pool.name == **name);
        let pool = || {
            let missing = self.pool.iter().find(pool)?;
            Some(format!(
                "pool = \"{missing}\": no [[hypervisor.pool]] has this name"
            ))
        };
        fault.or_else(pool)
    }
}

/// A SHA-256, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl FromStr for Sha256 {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = hex::decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a SHA-256 has 64 hexadecimal digits")
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0).to_lowercase())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A part of the day, `HH:MM-HH:MM`: from the first minute to before the last one; over midnight where the last one
/// is the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    until: u16,
}

impl Hours {
    /// Whether a moment lies in it; `now` in seconds since 1970.
    #[must_use]
    pub fn contains(self, now: i64) -> bool {
        let minute = now.rem_euclid(86_400) / 60;
        let (from, until) = (i64::from(self.from), i64::from(self.until));
        if from < until {
            (from..until).contains(&minute)
        } else {
            minute >= from || minute < until
        }
    }
}

impl FromStr for Hours {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "hours are HH:MM-HH:MM, UTC, as 08:00-18:00";
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let digits =
                |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let (hour, minute) = (
                digits(hour).then_some(hour)?,
                digits(minute).then_some(minute)?,
            );
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let (from, until) = text.split_once('-').ok_or(wrong)?;
        match (minute(from), minute(until)) {
            (Some(from), Some(until)) if from != until => Ok(Self { from, until }),
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            until / 60,
            until % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_day() {
        let at = |hour: i64, minute: i64| 86_400 * 20_000 + hour * 3600 + minute * 60 + 59;
        let check = |text: &str, hour, minute, expected| {
            let hours: Hours = text.parse().unwrap();
            assert_eq!(hours.to_string(), text);
            assert_eq!(
                hours.contains(at(hour, minute)),
                expected,
                "{text} {hour}:{minute}"
            );
        };
        check("08:00-18:00", 8, 0, true);
        check("08:00-18:00", 17, 59, true);
        check("08:00-18:00", 18, 0, false);
        check("08:00-18:00", 7, 59, false);
        check("22:00-06:00", 23, 0, true);
        check("22:00-06:00", 5, 59, true);
        check("22:00-06:00", 6, 0, false);
        for wrong in [
            "8-18",
            "08:00",
            "24:00-01:00",
            "08:00-08:00",
            "08:60-09:00",
            "+8:00-09:00",
        ] {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }
}
