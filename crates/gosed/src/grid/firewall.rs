//! Which APDUs reach an element (draft-urien-core-racs-05, 5.3.3): applications by AID, commands by
//! header. APDUs are judged, never changed.

use std::sync::Arc;

use gose_element::{Outcome, Step};
use gose_proto::apdu::{CommandRef, tlv};

use super::{Names, Plane};
use crate::config::{Aid, AidRule, ByDefault, Caller, Filter};

/// Security domains, which load and delete applications: GlobalPlatform's issuer security domain, the
/// older ones of Visa Open Platform and of a manufacturer. Whatever begins like these.
const SECURITY_DOMAINS: [&[u8]; 3] = [
    &[0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00],
    &[0xA0, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00],
    &[0xA0, 0x00, 0x00, 0x00, 0x18, 0x43, 0x4D],
];

/// What policy allows a peer on an element.
pub(super) struct Access {
    plane: Plane,
    names: Names,
    /// The first rule of an AID counts.
    rules: Arc<[AidRule]>,
    default: ByDefault,
}

/// The firewall of one lease.
pub(super) struct Firewall {
    access: Access,
    current: Option<Current>,
}

/// The application that is selected, as far as it is known.
struct Current {
    selection: Selection,
    filters: Vec<Filter>,
}

/// A SELECT by name: the AID or its first bytes.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    aid: Vec<u8>,
    /// Whether it can only be meant for an application that the peer may select.
    certain: bool,
}

impl Selection {
    /// Whether what follows a success can be judged before the card's answer is known.
    pub(super) fn is_certain(&self) -> bool {
        self.certain
    }
}

/// An APDU that may go to the card.
#[derive(Debug)]
pub(super) enum Verdict {
    Pass,
    /// It selects an application: tell [`Firewall::selected`] what the card answered.
    Select(Selection),
}

/// The class byte without logical channel, chaining and secure messaging (ISO/IEC 7816-4:2020, 5.4.1).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Class {
    base: u8,
    secured: bool,
    chained: bool,
}

impl Access {
    pub(super) fn new(
        plane: Plane,
        names: Names,
        rules: Arc<[AidRule]>,
        default: ByDefault,
    ) -> Self {
        Self {
            plane,
            names,
            rules,
            default,
        }
    }

    fn is(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Anybody => self.plane == Plane::User,
            Caller::Named(name) => self.names.is(name),
        }
    }

    /// The rules of the applications that a SELECT with these bytes may find.
    fn candidates<'a>(&'a self, aid: &'a [u8]) -> impl Iterator<Item = &'a AidRule> {
        let begins = |rule: &Aid| rule.as_bytes().starts_with(aid);
        self.rules.iter().enumerate().filter_map(move |(at, rule)| {
            let shadowed = self.rules[..at]
                .iter()
                .any(|earlier| earlier.aid == rule.aid);
            (begins(&rule.aid) && !shadowed).then_some(rule)
        })
    }

    /// Whether the peer may send a SELECT with these bytes.
    fn selects(&self, aid: &[u8]) -> Result<(), &'static str> {
        if self.plane == Plane::Management {
            return Ok(());
        }
        if aid.len() < 5 {
            return Err("an AID to select has at least five bytes");
        }
        if SECURITY_DOMAINS
            .iter()
            .any(|domain| domain.starts_with(aid) || aid.starts_with(domain))
        {
            return Err("security domains are selected on the management plane only");
        }
        if self.names == Names::Operator {
            return Ok(());
        }
        let mut known = false;
        for rule in self.candidates(aid) {
            known = true;
            if !rule.allow.iter().any(|caller| self.is(caller)) {
                return Err("an application that these bytes select is not allowed to this peer");
            }
        }
        match self.default {
            ByDefault::Deny if !known => Err("no rule allows this application"),
            _ => Ok(()),
        }
    }

    /// What is forbidden while one of these applications is selected.
    fn filters(&self, aid: &[u8]) -> Vec<Filter> {
        self.candidates(aid)
            .flat_map(|rule| &rule.filters)
            .filter(|filter| self.is(&filter.user))
            .flat_map(|filter| filter.deny.iter().map(|deny| deny.0))
            .collect()
    }
}

impl Firewall {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            current: None,
        }
    }

    /// The element was reset: nothing is selected.
    pub(super) fn forget(&mut self) {
        self.current = None;
    }

    /// The policy changed. What is selected stays so if it still may be.
    pub(super) fn replace(&mut self, access: Access) {
        self.access = access;
        if let Some(Current { selection, .. }) = self.current.take()
            && self.access.selects(&selection.aid).is_ok()
        {
            self.set(selection);
        }
    }

    /// Judges a step: its APDU, and the command that would fetch its answer.
    ///
    /// # Errors
    /// The reason, for the log.
    pub(super) fn check(&self, step: &Step) -> Result<Verdict, &'static str> {
        let verdict = self.judge(&step.apdu)?;
        if step.more.is_some() {
            let fetched = match &verdict {
                Verdict::Pass => None,
                // It fetches the answer of the application that is selected by then.
                Verdict::Select(selection) => Some(self.access.filters(&selection.aid)),
            };
            self.judge_fetch(step.fetch, fetched.as_deref())?;
        }
        Ok(verdict)
    }

    /// A SELECT came back. `None`: its answer was not told, but the script went on after it.
    pub(super) fn selected(&mut self, selection: &Selection, outcome: Option<&Outcome>) {
        let Some(outcome) = outcome else {
            return self.set(selection.clone());
        };
        // The card keeps its old application otherwise.
        if !matches!(outcome.sw.sw1(), 0x61 | 0x62 | 0x90)
            || outcome.sw.sw2() != 0 && outcome.sw.sw1() == 0x90
        {
            return;
        }
        let aid = self.told(selection, &outcome.body);
        match self.access.selects(&aid) {
            Ok(()) => self.set(Selection { aid, certain: true }),
            Err(_) => self.current = None,
        }
    }

    fn set(&mut self, selection: Selection) {
        let filters = self.access.filters(&selection.aid);
        self.current = Some(Current { selection, filters });
    }

    /// The AID that the card says it selected, or what was asked for.
    fn told(&self, selection: &Selection, body: &[u8]) -> Vec<u8> {
        let template = [0x6F, 0x61].iter().find_map(|tag| tlv::find(body, *tag));
        let named = template
            .and_then(|template| tlv::find(template, 0x84).or_else(|| tlv::find(template, 0x4F)));
        match named {
            Some(name) if name.starts_with(&selection.aid) => name.to_vec(),
            // PIV names itself by what follows the RID (NIST SP 800-73-4 part 2, 3.1.1).
            Some(pix) => self
                .access
                .candidates(&selection.aid)
                .find(|rule| rule.aid.as_bytes().get(5..) == Some(pix))
                .map_or_else(
                    || selection.aid.clone(),
                    |rule| rule.aid.as_bytes().to_vec(),
                ),
            None => selection.aid.clone(),
        }
    }

    fn judge(&self, apdu: &[u8]) -> Result<Verdict, &'static str> {
        let &[cla, ins, p1, p2, ..] = apdu else {
            return Err("an APDU has at least four bytes");
        };
        let class = Class::of(cla)?;
        if ins == 0x70 {
            return Err("MANAGE CHANNEL");
        }
        if ins == 0xA4 && p1 == 0x04 {
            return self.judge_select(class, apdu).map(Verdict::Select);
        }
        let current = self.current.as_ref().ok_or("no application is selected")?;
        self.judge_header(class, [cla, ins, p1, p2], &current.filters)?;
        Ok(Verdict::Pass)
    }

    /// The header of a command that the caller chose and that is sent as often as the card asks for it.
    fn judge_fetch(&self, header: [u8; 4], filters: Option<&[Filter]>) -> Result<(), &'static str> {
        let [cla, ins, p1, _] = header;
        let class = Class::of(cla)?;
        if ins == 0x70 || (ins == 0xA4 && p1 == 0x04) {
            return Err("SELECT or MANAGE CHANNEL as a fetch command");
        }
        let current = || {
            self.current
                .as_ref()
                .map(|current| current.filters.as_slice())
        };
        self.judge_header(class, header, filters.or_else(current).unwrap_or_default())
    }

    fn judge_header(
        &self,
        class: Class,
        header: [u8; 4],
        filters: &[Filter],
    ) -> Result<(), &'static str> {
        let [_, ins, p1, p2] = header;
        if self.access.plane == Plane::User && is_management(class.base, ins, p2) {
            return Err("a command of the management plane");
        }
        let plain = [class.base, ins, p1, p2];
        let forbids = |filter: &Filter| filter.forbids(header) || filter.forbids(plain);
        if filters.iter().any(forbids) {
            return Err("a filter of the application");
        }
        Ok(())
    }

    fn judge_select(&self, class: Class, apdu: &[u8]) -> Result<Selection, &'static str> {
        if class.base != 0 || class.secured || class.chained {
            return Err("SELECT by name outside of the plain interindustry class");
        }
        let command = CommandRef::parse(apdu).map_err(|_| "SELECT with lengths that lie")?;
        self.access.selects(command.data)?;
        let access = &self.access;
        let certain = access.plane == Plane::Management
            || access
                .rules
                .iter()
                .any(|rule| rule.aid.as_bytes() == command.data);
        Ok(Selection {
            aid: command.data.to_vec(),
            certain,
        })
    }
}

impl Class {
    fn of(cla: u8) -> Result<Self, &'static str> {
        const CHANNEL: &str = "a logical channel other than 0";
        match cla {
            // First interindustry class, and the proprietary ones of the same form.
            0x00..=0x1F | 0x80..=0xBF if cla & 0x03 != 0 => Err(CHANNEL),
            0x00..=0x1F => Ok(Self {
                base: 0,
                secured: cla & 0x0C != 0,
                chained: cla & 0x10 != 0,
            }),
            0x80..=0xBF => Ok(Self {
                base: cla & 0xE0,
                secured: cla & 0x0C != 0,
                chained: cla & 0x10 != 0,
            }),
            0x20..=0x3F => Err("a class reserved by ISO/IEC 7816-4"),
            0x40..=0x7F | 0xC0..=0xFE => Err(CHANNEL),
            0xFF => Err("class FF is none"),
        }
    }
}

/// Commands that load, delete or personalise: GlobalPlatform's, the operator's of the EAP-TLS application,
/// PIV's and the storage application's, and the vendors'.
fn is_management(class: u8, ins: u8, p2: u8) -> bool {
    match (class, ins) {
        (_, 0xF9..=0xFF) => true,
        (0x80, 0xE2 | 0xE4 | 0xE6 | 0xE8 | 0xF0 | 0xD8) => true,
        (0xA0, 0x46 | 0xB0 | 0xD0) => true,
        (0xA0, 0x17) => matches!(p2, 0x81 | 0x82),
        // VERIFY has two instruction bytes; UNBLOCK takes the operator's PIN.
        (0xA0, 0x20 | 0x24 | 0x2A) => p2 == 0x01,
        (0xA0, 0x2C) => true,
        (0x00, 0xDB | 0x47 | 0xE4) => true,
        (0x00, 0x87) => p2 == 0x9B,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
