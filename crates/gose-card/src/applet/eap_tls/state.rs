//! The states that Get-State tells (draft-urien-eap-smartcard-25, 5.6).

/// One byte of Get-State.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// EAP packets are silently discarded.
    IdentityNotSet = 1,
    /// An authentication runs.
    Authenticating = 2,
    /// The last one succeeded: keys are readable.
    Authenticated = 3,
    /// None runs, or the last one failed.
    NotAuthenticated = 4,
}
