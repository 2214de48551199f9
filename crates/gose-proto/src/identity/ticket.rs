//! The creation ticket: the hypervisor's element says once that one virtual machine may be built, and of what.

use super::{KeyHash, VmId};

/// What begins a ticket. Nothing else that `hv-ca` signs begins so: certificates begin with 30, handshakes with
/// 64 spaces.
const MAGIC: &[u8; 24] = b"GoSE creation ticket v1\0";

/// Bytes that are signed.
const CONTENT: usize = MAGIC.len() + 32 + 16 + 16 + 8 + 8 + 32 + 32 + 32;

/// Bytes of the longest signature: RSA-4096.
const SIGNATURE: usize = 512;

/// What one virtual machine may be built of, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreationTicket {
    /// ID_HV: whose element signed, and where it counts.
    pub hypervisor: KeyHash,
    /// ID_VM: the only domain that it counts for.
    pub vm: VmId,
    /// Random: no two tickets have the same.
    pub serial: [u8; 16],
    /// The first second in which it counts, since 1970.
    pub not_before: i64,
    /// The last one.
    pub not_after: i64,
    /// SHA-256 of the kernel, or of the program where the guest is one; zero where there is none.
    pub kernel: [u8; 32],
    /// SHA-256 of the RAM disk; zero where there is none.
    pub ramdisk: [u8; 32],
    /// SHA-256 of everything else that was authorised.
    pub configuration: [u8; 32],
}

/// Why a ticket does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not a ticket.
    #[error("not a creation ticket")]
    Malformed,
    /// Of another hypervisor.
    #[error("the ticket is another hypervisor's")]
    Hypervisor,
    /// Not signed by the hypervisor's element.
    #[error("the ticket's signature is not the hypervisor's")]
    Signature,
    /// For another domain.
    #[error("the ticket is for another virtual machine")]
    OtherVm,
    /// Its time has not come.
    #[error("the ticket does not count yet; is a clock wrong?")]
    NotYetValid,
    /// Its time is over.
    #[error("the ticket has expired")]
    Expired,
    /// It was used before, or a newer one was made for the domain.
    #[error("the ticket was used, or there is a newer one")]
    Used,
}

impl CreationTicket {
    /// The bytes that are signed.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CONTENT + SIGNATURE);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.hypervisor.0);
        out.extend_from_slice(&self.vm.0);
        out.extend_from_slice(&self.serial);
        out.extend_from_slice(&self.not_before.to_be_bytes());
        out.extend_from_slice(&self.not_after.to_be_bytes());
        out.extend_from_slice(&self.kernel);
        out.extend_from_slice(&self.ramdisk);
        out.extend_from_slice(&self.configuration);
        out
    }

    /// The ticket with its signature.
    #[must_use]
    pub fn signed(&self, signature: &[u8]) -> Vec<u8> {
        let mut out = self.content();
        out.extend_from_slice(signature);
        out
    }

    /// Reads a ticket; gives its signature too, which is not checked yet.
    ///
    /// # Errors
    /// [`TicketError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), TicketError> {
        let (content, signature) = bytes
            .split_at_checked(CONTENT)
            .ok_or(TicketError::Malformed)?;
        if signature.is_empty() || signature.len() > SIGNATURE {
            return Err(TicketError::Malformed);
        }
        let mut rest = content;
        if take::<24>(&mut rest)? != *MAGIC {
            return Err(TicketError::Malformed);
        }
        let ticket = Self {
            hypervisor: KeyHash(take(&mut rest)?),
            vm: VmId(take(&mut rest)?),
            serial: take(&mut rest)?,
            not_before: i64::from_be_bytes(take(&mut rest)?),
            not_after: i64::from_be_bytes(take(&mut rest)?),
            kernel: take(&mut rest)?,
            ramdisk: take(&mut rest)?,
            configuration: take(&mut rest)?,
        };
        Ok((ticket, signature))
    }

    /// Checks for whom and when it counts: hypervisor, domain, time; `now` in seconds since 1970. The signature and
    /// whether it was used are the caller's to check.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn check(&self, hypervisor: KeyHash, vm: VmId, now: i64) -> Result<(), TicketError> {
        if self.hypervisor != hypervisor {
            return Err(TicketError::Hypervisor);
        }
        if self.vm != vm {
            return Err(TicketError::OtherVm);
        }
        if now < self.not_before {
            return Err(TicketError::NotYetValid);
        }
        if now > self.not_after {
            return Err(TicketError::Expired);
        }
        Ok(())
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TicketError> {
    let (first, after) = rest.split_first_chunk().ok_or(TicketError::Malformed)?;
    *rest = after;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICKET: CreationTicket = CreationTicket {
        hypervisor: KeyHash([1; 32]),
        vm: VmId([2; 16]),
        serial: [3; 16],
        not_before: 100,
        not_after: 200,
        kernel: [4; 32],
        ramdisk: [5; 32],
        configuration: [6; 32],
    };

    #[test]
    fn for_whom_and_when() {
        let check = |hypervisor, vm, now, expected| {
            let checked = TICKET.check(KeyHash([hypervisor; 32]), VmId([vm; 16]), now);
            assert_eq!(checked, expected);
        };
        check(1, 2, 100, Ok(()));
        check(1, 2, 200, Ok(()));
        check(9, 2, 150, Err(TicketError::Hypervisor));
        check(1, 9, 150, Err(TicketError::OtherVm));
        check(1, 2, 99, Err(TicketError::NotYetValid));
        check(1, 2, 201, Err(TicketError::Expired));
    }

    #[test]
    fn other_lengths_and_beginnings() {
        let good = TICKET.signed(&[7; 70]);
        assert_eq!(CreationTicket::parse(&good), Ok((TICKET, &[7; 70][..])));
        let malformed = Err(TicketError::Malformed);
        assert_eq!(CreationTicket::parse(&TICKET.content()), malformed);
        assert_eq!(CreationTicket::parse(&good[..CONTENT - 1]), malformed);
        assert_eq!(CreationTicket::parse(&TICKET.signed(&[7; 513])), malformed);
        let mut other = good;
        other[22] = b'2';
        assert_eq!(CreationTicket::parse(&other), malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_reading(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            magic: bool,
        ) {
            if magic && bytes.len() >= MAGIC.len() {
                bytes[..MAGIC.len()].copy_from_slice(MAGIC);
            }
            if let Ok((ticket, signature)) = CreationTicket::parse(&bytes) {
                prop_assert_eq!(ticket.signed(signature), bytes);
            }
        }
    }
}
