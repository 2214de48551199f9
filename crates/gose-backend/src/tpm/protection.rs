//! The TPM's dictionary-attack protection (part 1, 19.8): one counter for all keys of the machine that have
//! authorisation values.

use gose_card::keystore::KeyError;
use tpm2_protocol::{
    basic::TpmUint32,
    data::{TpmCap, TpmPt, TpmuCapabilities},
    frame::{TpmGetCapabilityCommand, TpmGetCapabilityResponse},
};

use super::{
    TpmError,
    client::Code,
    key::{Blob, Session},
};

/// What the TPM tells of its protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Protection {
    /// Wrong values that it counts now.
    failures: u32,
    /// How many lock it.
    limit: u32,
    /// Seconds until it forgets one; 0 = at its next restart.
    interval: u32,
}

impl Protection {
    fn tries(self) -> u8 {
        u8::try_from(self.limit.saturating_sub(self.failures)).unwrap_or(u8::MAX)
    }

    fn recovery(self) -> String {
        let wait = match self.interval {
            0 => "restart the machine".to_owned(),
            seconds => format!("wait {seconds} s for one more try"),
        };
        format!(
            "{} wrong authorisation values; {wait}, or lift it by `tpm2_dictionarylockout --clear-lockout`",
            self.failures
        )
    }
}

impl Session<'_> {
    /// Runs `operation` on a key unless the TPM has refused its authorisation value before: the same wrong value,
    /// shown again and again, would lock every such key of the machine.
    pub(super) fn guarded<T>(
        &mut self,
        blob: &Blob,
        operation: impl FnOnce(&mut Self) -> Result<T, TpmError>,
    ) -> Result<T, KeyError> {
        let name = blob.name()?;
        if self.state.refused.contains(&name) {
            return Err(self.denied());
        }
        operation(self).map_err(|error| match error {
            TpmError::Refused(code) if Code(code) == Code::LOCKOUT => {
                KeyError::Locked(self.protection().map_or_else(
                    |_| "too many wrong authorisation values".to_owned(),
                    Protection::recovery,
                ))
            }
            TpmError::Refused(code) if Code(code).is_wrong_auth() => {
                self.state.refuse(name);
                self.denied()
            }
            other => other.into(),
        })
    }

    fn denied(&mut self) -> KeyError {
        match self.protection() {
            Ok(protection) => KeyError::Denied {
                tries: protection.tries(),
            },
            Err(error) => error.into(),
        }
    }

    fn protection(&mut self) -> Result<Protection, TpmError> {
        let command = TpmGetCapabilityCommand {
            handles: [],
            cap: TpmCap::TpmProperties,
            property: TpmUint32::new(TpmPt::LockoutCounter.value()),
            property_count: TpmUint32::new(3),
        };
        let told: TpmGetCapabilityResponse = self.state.client.ask(&command)?;
        let TpmuCapabilities::TpmProperties(properties) = told.capability_data.data else {
            return Err(TpmError::Malformed);
        };
        let value = |wanted: TpmPt| {
            let found = properties.iter().find(|told| told.property == wanted);
            found
                .map(|told| told.value.value())
                .ok_or(TpmError::Malformed)
        };
        Ok(Protection {
            failures: value(TpmPt::LockoutCounter)?,
            limit: value(TpmPt::MaxAuthFail)?,
            interval: value(TpmPt::LockoutInterval)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_and_what_helps() {
        let protection = |failures, interval| Protection {
            failures,
            limit: 3,
            interval,
        };
        assert_eq!(protection(1, 0).tries(), 2);
        assert_eq!(protection(4, 0).tries(), 0);
        assert!(protection(3, 0).recovery().contains("restart"));
        assert!(protection(3, 1000).recovery().contains("wait 1000 s"));
    }
}
