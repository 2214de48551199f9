//! Users and their elements; default deny (draft-urien-core-racs-04, 5.3).

use std::{collections::HashMap, sync::Arc};

use gose_element::Seid;

use super::{Names, firewall::Access};
use crate::config::{AidRule, ByDefault, Config, Name, Role, Seids, User};

/// The trusted computing that an element offers, or the life cycle of what is on it
/// (draft-urien-core-racs, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    /// Applications are used.
    User,
    /// Applications and keys are loaded, deleted, personalised.
    Management,
}

/// Who may use what.
#[derive(Default)]
pub struct Policy {
    users: HashMap<Name, Grants>,
    applications: HashMap<Seid, Applications>,
    everywhere: Arc<[AidRule]>,
}

#[derive(Default)]
struct Grants {
    all: Option<Plane>,
    seids: HashMap<Seid, Plane>,
}

struct Applications {
    rules: Arc<[AidRule]>,
    default: ByDefault,
}

impl Policy {
    /// The policy of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let everywhere: Arc<[AidRule]> = config.aids.clone().into();
        let mut policy = Self {
            everywhere: everywhere.clone(),
            ..Self::default()
        };
        for user in &config.users {
            policy.grant(user);
        }
        for slot in &config.slots {
            let rules = match slot.aids.as_slice() {
                [] => everywhere.clone(),
                own => own.iter().chain(&config.aids).cloned().collect(),
            };
            let default = slot.default;
            policy
                .applications
                .insert(slot.seid.0, Applications { rules, default });
        }
        policy
    }

    /// Adds what a user may use. What several entries of one name give adds up.
    pub fn grant(&mut self, user: &User) {
        let plane = match user.role {
            Role::User => Plane::User,
            Role::Admin => Plane::Management,
        };
        let grants = self.users.entry(user.name.clone()).or_default();
        for seids in &user.seid {
            match seids {
                Seids::All => grants.all = grants.all.max(Some(plane)),
                Seids::One(seid) => {
                    let granted = grants.seids.entry(*seid).or_insert(plane);
                    *granted = plane.max(*granted);
                }
            }
        }
    }

    /// The greatest plane on an element for whoever bears these names.
    #[must_use]
    pub fn plane(&self, names: &Names, seid: Seid) -> Option<Plane> {
        match names {
            Names::Operator => Some(Plane::Management),
            Names::Guest(bound) => bound.seids.contains(&seid).then_some(Plane::User),
            Names::Certified(names) => names
                .iter()
                .filter_map(|name| self.users.get(name))
                .filter_map(|grants| grants.all.max(grants.seids.get(&seid).copied()))
                .max(),
        }
    }

    /// What the firewall lets through to an element.
    pub(super) fn access(&self, names: &Names, seid: Seid, plane: Plane) -> Access {
        let (rules, default) = match self.applications.get(&seid) {
            Some(applications) => (applications.rules.clone(), applications.default),
            None => (self.everywhere.clone(), ByDefault::Deny),
        };
        Access::new(plane, names.clone(), rules, default)
    }
}
