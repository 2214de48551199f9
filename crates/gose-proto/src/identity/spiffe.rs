//! SPIFFE identifiers: `spiffe://<trust-domain>/<path>` (SPIFFE-ID, section 2).

use std::{fmt, str::FromStr};

use super::{HypervisorId, VmId};

/// Bytes that an identifier may have (SPIFFE-ID, 2.3).
const MAX_LEN: usize = 2048;

/// A SPIFFE identifier, in the one spelling that the standard allows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins in `text`.
    path: usize,
}

/// Why text is not a SPIFFE identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The scheme is not `spiffe://`.
    #[error("a SPIFFE identifier begins with spiffe://")]
    Scheme,
    /// The trust domain is empty, longer than 255, or has other characters than `a-z 0-9 . - _`.
    #[error("the trust domain has 1 to 255 characters of a-z 0-9 . - _")]
    TrustDomain,
    /// A path segment is empty, `.`, `..`, or has other characters than `A-Z a-z 0-9 . - _`.
    #[error("a path segment has characters of A-Z a-z 0-9 . - _ and is neither empty nor dots")]
    Path,
    /// Longer than 2,048 bytes.
    #[error("a SPIFFE identifier has at most 2048 bytes")]
    TooLong,
}

/// The name of a virtual machine: `spiffe://<trust-domain>/hv/<hv-id>/vm/<uuid>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VmName {
    /// The trust domain of the hypervisor.
    pub trust_domain: String,
    /// The hypervisor.
    pub hypervisor: HypervisorId,
    /// The virtual machine.
    pub vm: VmId,
}

impl SpiffeId {
    /// The whole identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The authority part.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The path with its leading slash, or nothing.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// The hypervisor that it names, if it names one and nothing on it:
    /// `spiffe://<trust-domain>/hv/<hv-id>`.
    #[must_use]
    pub fn hypervisor(&self) -> Option<HypervisorId> {
        self.path().strip_prefix("/hv/")?.parse().ok()
    }

    /// The virtual machine that it names, if it names one.
    #[must_use]
    pub fn vm(&self) -> Option<VmName> {
        let mut segments = self.path().split('/').skip(1);
        let name = match [(); 4].map(|()| segments.next()) {
            [Some("hv"), Some(hypervisor), Some("vm"), Some(vm)] => VmName {
                trust_domain: self.trust_domain().to_owned(),
                hypervisor: hypervisor.parse().ok()?,
                vm: vm.parse().ok()?,
            },
            _ => return None,
        };
        segments.next().is_none().then_some(name)
    }
}

const SCHEME: &str = "spiffe://";

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_LEN {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let domain = rest.find('/').unwrap_or(rest.len());
        if !is_trust_domain(&rest[..domain]) {
            return Err(SpiffeError::TrustDomain);
        }
        if !rest[domain..].split('/').skip(1).all(is_segment) {
            return Err(SpiffeError::Path);
        }
        Ok(Self {
            text: text.to_owned(),
            path: SCHEME.len() + domain,
        })
    }
}

/// Whether text is a trust domain (SPIFFE-ID, 2.1).
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c))
}

fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c))
}

impl VmName {
    /// The identifier that carries this name. The trust domain must be one ([`is_trust_domain`]).
    ///
    /// # Errors
    /// [`SpiffeError::TrustDomain`] if it is none.
    pub fn to_spiffe(&self) -> Result<SpiffeId, SpiffeError> {
        self.to_string().parse()
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            hypervisor,
            vm,
        } = self;
        write!(f, "{SCHEME}{trust_domain}/hv/{hypervisor}/vm/{vm}")
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, &str), SpiffeError>) {
        let id = text.parse::<SpiffeId>();
        let got = id.as_ref().map(|id| (id.trust_domain(), id.path()));
        assert_eq!(got, expected.as_ref().map(|parts| *parts), "{text}");
    }

    #[test]
    fn forms() {
        check("spiffe://example.org", Ok(("example.org", "")));
        check("spiffe://a_b-1/user/Alice", Ok(("a_b-1", "/user/Alice")));
        check("SPIFFE://example.org/x", Err(SpiffeError::Scheme));
        check("https://example.org/x", Err(SpiffeError::Scheme));
        check("spiffe:///x", Err(SpiffeError::TrustDomain));
        check("spiffe://Example.org/x", Err(SpiffeError::TrustDomain));
        check("spiffe://e.org:80/x", Err(SpiffeError::TrustDomain));
        check("spiffe://u@e.org/x", Err(SpiffeError::TrustDomain));
        check("spiffe://e.org/", Err(SpiffeError::Path));
        check("spiffe://e.org/a//b", Err(SpiffeError::Path));
        check("spiffe://e.org/a/../b", Err(SpiffeError::Path));
        check("spiffe://e.org/a%20b", Err(SpiffeError::Path));
        check("spiffe://e.org/a?b", Err(SpiffeError::Path));
        check(
            &format!("spiffe://e.org/{}", "a".repeat(MAX_LEN)),
            Err(SpiffeError::TooLong),
        );
    }

    #[test]
    fn names_of_virtual_machines() {
        let text = "spiffe://example.org/hv/hv-7/vm/00112233-4455-6677-8899-aabbccddeeff";
        let name = text.parse::<SpiffeId>().unwrap().vm().unwrap();
        assert_eq!(name.hypervisor.as_str(), "hv-7");
        assert_eq!(name.to_spiffe().unwrap().as_str(), text);
        let hypervisor: SpiffeId = "spiffe://example.org/hv/hv-7".parse().unwrap();
        assert_eq!(hypervisor.hypervisor(), Some(name.hypervisor));
        assert_eq!(text.parse::<SpiffeId>().unwrap().hypervisor(), None);
        for other in [
            "spiffe://example.org",
            "spiffe://example.org/hv/hv-7",
            "spiffe://example.org/hv/hv-7/vm/00112233-4455-6677-8899-AABBCCDDEEFF",
            "spiffe://example.org/hv/hv-7/vm/00112233-4455-6677-8899-aabbccddeeff/x",
            "spiffe://example.org/vm/hv-7/hv/00112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(other.parse::<SpiffeId>().unwrap().vm(), None, "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_one_reading(text in "(spiffe://)?[ -~]{0,60}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                proptest::prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }
    }
}
