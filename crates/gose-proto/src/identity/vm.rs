//! Names of virtual machines and of hypervisors: ID_VM and ID_HV of the paper.

use std::{fmt, str::FromStr};

/// A virtual machine: the UUID that its hypervisor gives the domain. Text form: RFC 9562, section 4,
/// lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmId(pub [u8; 16]);

/// Why text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a VM is named by a UUID in lower case: 8-4-4-4-12 hexadecimal digits")]
pub struct VmIdError;

impl VmId {
    /// The common name of the VM's certificates: `vm-<uuid>`.
    #[must_use]
    pub fn common_name(&self) -> String {
        format!("vm-{self}")
    }
}

impl FromStr for VmId {
    type Err = VmIdError;

    fn from_str(text: &str) -> Result<Self, VmIdError> {
        let digits: String = text.split('-').collect();
        let bytes = crate::hex::decode(&digits).map_err(|_| VmIdError)?;
        let id = Self(bytes.try_into().map_err(|_| VmIdError)?);
        // One spelling: what is compared as text elsewhere must not have two.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(VmIdError)
        }
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A hypervisor's name within its trust domain: 1 to 63 characters of `[a-z0-9.-]`, neither dots alone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HypervisorId(String);

/// Why text is not a hypervisor's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hypervisor's id has 1 to 63 characters of a-z 0-9 . -")]
pub struct HypervisorIdError;

impl HypervisorId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HypervisorId {
    type Err = HypervisorIdError;

    fn from_str(text: &str) -> Result<Self, HypervisorIdError> {
        let fits = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c))
            && text.bytes().any(|c| c != b'.');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(HypervisorIdError)
        }
    }
}

impl fmt::Display for HypervisorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HypervisorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_a_uuid() {
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        let id: VmId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.common_name(), format!("vm-{text}"));
        for bad in [
            "",
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "00112233445566778899aabbccddeeff",
            "0011-2233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeef",
        ] {
            assert_eq!(bad.parse::<VmId>(), Err(VmIdError), "{bad}");
        }
    }

    #[test]
    fn form_of_a_hypervisor() {
        for good in ["hv-7", "node1.example", "a"] {
            assert_eq!(good.parse::<HypervisorId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "HV", "a/b", "a b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<HypervisorId>(), Err(HypervisorIdError), "{bad}");
        }
    }
}
