//! Who may create what, how large, when. Whatever no rule allows is refused.

use gose_element::Seid;

use crate::{
    config::{Creator, Hypervisor, Name, Seids, Sha256},
    grid::Names,
};

/// What somebody wants to have made.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The last part of this hypervisor's name.
    pub hypervisor: &'a str,
    /// The image, by its name.
    pub image: &'a str,
    /// What it boots.
    pub kernel: Option<Sha256>,
    /// Elements that are to be bound.
    pub seids: &'a [Seid],
    /// The pool that an element is wanted of.
    pub pool: Option<&'a str>,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Seconds since 1970.
    pub now: i64,
}

/// A wish that a rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Whose the machine will be.
    pub creator: Name,
    /// How many of theirs there may be, this one included.
    pub quota: u32,
}

/// The name by which a caller is among those who may create.
#[must_use]
pub fn creator(role: &Hypervisor, names: &Names) -> Option<Name> {
    role.creators
        .iter()
        .find_map(|rule| named(role, rule, names))
}

/// Looks for a rule that allows a wish.
///
/// # Errors
/// For the log: what the last rule that names the caller does not allow.
pub fn decide(role: &Hypervisor, names: &Names, wish: &Wish<'_>) -> Result<Allowed, String> {
    let mut cause = "not among [[hypervisor.creator]]".to_owned();
    for rule in &role.creators {
        let Some(creator) = named(role, rule, names) else {
            continue;
        };
        match refuses(rule, wish) {
            None => {
                let quota = rule.quota;
                return Ok(Allowed { creator, quota });
            }
            Some(reason) => cause = reason,
        }
    }
    Err(cause)
}

fn named(role: &Hypervisor, rule: &Creator, names: &Names) -> Option<Name> {
    if let Some(user) = &rule.user {
        return names.is(user).then(|| user.0.clone());
    }
    let group = role
        .groups
        .iter()
        .find(|group| rule.group.as_ref() == Some(&group.name))?;
    let user = group.users.iter().find(|user| names.is(user))?;
    Some(user.0.clone())
}

/// What of a wish a rule does not allow.
fn refuses(rule: &Creator, wish: &Wish<'_>) -> Option<String> {
    let Wish {
        hypervisor,
        image,
        kernel,
        seids,
        pool,
        memory_mib,
        vcpus,
        now,
    } = *wish;
    if !rule.hypervisor.is_empty() && !rule.hypervisor.iter().any(|name| name == hypervisor) {
        return Some(format!("may not create on hypervisor {hypervisor}"));
    }
    let of_image = |allowed: &String| {
        let by_hash = || kernel.is_some_and(|hash| allowed.eq_ignore_ascii_case(&hash.to_string()));
        allowed == "*" || allowed == image || by_hash()
    };
    if !rule.image.iter().any(of_image) {
        return Some(match kernel {
            Some(hash) => format!("may not run image \"{image}\", {hash}"),
            None => format!("may not run image \"{image}\""),
        });
    }
    let may = |seid: &Seid| {
        rule.seid.iter().any(|granted| match &granted.0 {
            Seids::All => true,
            Seids::One(granted) => granted == seid,
        })
    };
    if let Some(seid) = seids.iter().find(|seid| !may(seid)) {
        return Some(format!("may not bind element {seid}"));
    }
    if let Some(pool) = pool.filter(|pool| !rule.pool.iter().any(|granted| granted == pool)) {
        return Some(format!("may not have an element of pool \"{pool}\""));
    }
    if memory_mib > rule.memory_mib {
        return Some(format!("{memory_mib} MiB; may have {}", rule.memory_mib));
    }
    if vcpus > rule.vcpus {
        return Some(format!("{vcpus} processors; may have {}", rule.vcpus));
    }
    let hours = rule.hours.as_ref().filter(|hours| !hours.contains(now))?;
    Some(format!("may create at {} UTC alone", **hours))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static ROLE: LazyLock<Hypervisor> = LazyLock::new(|| {
        let text = r#"
ca-certificate-file = "hv-ca.pem"
ca-key = { seid = "SE1", slot = "9C" }
name = "hv-1.example.org"
guest-anchor-files = ["nodes.pem"]
[[image]]
name = "web"
command = ["/usr/bin/web"]
[[group]]
name = "night"
users = ["carol", "alice"]
[[pool]]
name = "cards"
seid = ["SE2"]
secrets-folder = "cards"
[[creator]]
user = "alice"
quota = 2
image = ["web"]
seid = ["SE1"]
memory-mib = 512
vcpus = 2
hypervisor = ["hv-1"]
hours = "08:00-18:00"
[[creator]]
group = "night"
quota = 1
image = ["0404040404040404040404040404040404040404040404040404040404040404"]
pool = ["cards"]
hours = "20:00-04:00"
[[creator]]
user = "dave"
quota = 1
"#;
        toml::from_str(text).unwrap()
    });

    fn wish() -> Wish<'static> {
        Wish {
            hypervisor: "hv-1",
            image: "web",
            kernel: None,
            seids: &[],
            pool: None,
            memory_mib: 512,
            vcpus: 1,
            now: 12 * 3600,
        }
    }

    fn check(user: &str, wish: Wish<'_>, expected: Result<u32, &str>) {
        let name: Name = user.parse().unwrap();
        let names = Names::Certified([name.clone()].into());
        match (decide(&ROLE, &names, &wish), expected) {
            (Ok(allowed), Ok(quota)) => {
                assert_eq!(
                    allowed,
                    Allowed {
                        creator: name,
                        quota
                    }
                );
            }
            (Err(cause), Err(part)) => assert!(cause.contains(part), "{cause}"),
            (decided, _) => panic!("{user}: {decided:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn whatever_no_rule_allows_is_refused() {
        let (se1, se2): ([Seid; 1], [Seid; 1]) =
            (["SE1".parse().unwrap()], ["SE2".parse().unwrap()]);
        check("alice", wish(), Ok(2));
        check(
            "alice",
            Wish {
                seids: &se1,
                ..wish()
            },
            Ok(2),
        );
        check("mallory", wish(), Err("not among"));
        // No image is allowed where none is named.
        check("dave", wish(), Err("may not run image \"web\""));
        let night = 23 * 3600;
        let kernel = Some(Sha256([4; 32]));
        // Alice has two rules; the last one tells why not.
        check(
            "alice",
            Wish {
                now: night,
                ..wish()
            },
            Err("may not run image"),
        );
        check(
            "alice",
            Wish {
                now: night,
                kernel,
                ..wish()
            },
            Ok(1),
        );
        check("carol", wish(), Err("may not run image"));
        check("carol", Wish { kernel, ..wish() }, Err("20:00-04:00"));
        let carol = Wish {
            now: night,
            kernel,
            ..wish()
        };
        check("carol", carol, Ok(1));
        check(
            "carol",
            Wish {
                pool: Some("cards"),
                ..carol
            },
            Ok(1),
        );
        check(
            "carol",
            Wish {
                seids: &se2,
                ..carol
            },
            Err("may not bind element SE2"),
        );
        check(
            "carol",
            Wish {
                memory_mib: 1025,
                ..carol
            },
            Err("1025 MiB; may have 1024"),
        );
        check(
            "carol",
            Wish { vcpus: 2, ..carol },
            Err("2 processors; may have 1"),
        );
        check(
            "carol",
            Wish {
                kernel: Some(Sha256([5; 32])),
                ..carol
            },
            Err("0505"),
        );
        check(
            "carol",
            Wish {
                hypervisor: "hv-2",
                ..carol
            },
            Ok(1),
        );
    }

    #[test]
    fn each_part_of_a_rule_counts() {
        let only = |wish: Wish<'_>| refuses(&ROLE.creators[0], &wish);
        assert_eq!(only(wish()), None);
        assert!(
            only(Wish {
                hypervisor: "hv-2",
                ..wish()
            })
            .unwrap()
            .contains("hv-2")
        );
        assert!(
            only(Wish {
                pool: Some("cards"),
                ..wish()
            })
            .unwrap()
            .contains("pool")
        );
        assert!(
            only(Wish {
                memory_mib: 513,
                ..wish()
            })
            .unwrap()
            .contains("513")
        );
        assert!(
            only(Wish { vcpus: 3, ..wish() })
                .unwrap()
                .contains("3 processors")
        );
        assert!(
            only(Wish {
                now: 19 * 3600,
                ..wish()
            })
            .unwrap()
            .contains("08:00-18:00")
        );
    }

    #[test]
    fn the_name_of_a_creator() {
        let names = |name: &str| Names::Certified([name.parse().unwrap()].into());
        assert_eq!(creator(&ROLE, &names("carol")), "carol".parse().ok());
        assert_eq!(creator(&ROLE, &names("mallory")), None);
        assert_eq!(creator(&ROLE, &Names::Operator), None);
    }
}
