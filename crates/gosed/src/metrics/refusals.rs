//! Why TLS handshakes are refused, as labels.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use rustls::{CertificateError, Error};

use super::Metrics;

/// A cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRefusal {
    /// The client showed no certificate.
    NoCertificate,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is on a revocation list.
    Revoked,
    /// A revocation list has expired.
    StaleList,
    /// Its certificate leads to no anchor.
    UnknownIssuer,
    /// Something else is wrong with its certificate.
    Certificate,
    /// The certificate is good and gives no right to come in.
    Admission,
    /// No version, suite, group or protocol in common.
    NothingInCommon,
    /// The client sent an alert.
    Alert,
    /// Not TLS, or wrong TLS.
    Malformed,
    /// The client closed the connection.
    Closed,
    /// It took too long.
    Slow,
    /// The node stops.
    Stopping,
}

const CAUSES: [(TlsRefusal, &str); 14] = [
    (TlsRefusal::NoCertificate, "no-certificate"),
    (TlsRefusal::Expired, "expired"),
    (TlsRefusal::NotYetValid, "not-yet-valid"),
    (TlsRefusal::Revoked, "revoked"),
    (TlsRefusal::StaleList, "stale-revocation-list"),
    (TlsRefusal::UnknownIssuer, "unknown-issuer"),
    (TlsRefusal::Certificate, "certificate"),
    (TlsRefusal::Admission, "admission"),
    (TlsRefusal::NothingInCommon, "nothing-in-common"),
    (TlsRefusal::Alert, "alert"),
    (TlsRefusal::Malformed, "malformed"),
    (TlsRefusal::Closed, "closed"),
    (TlsRefusal::Slow, "slow"),
    (TlsRefusal::Stopping, "stopping"),
];

impl TlsRefusal {
    /// The cause of a failed handshake.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(error) => Self::of_tls(error),
            None => Self::Closed,
        }
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::Revoked => Self::Revoked,
                CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. } => Self::StaleList,
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                _ => Self::Certificate,
            },
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::NothingInCommon,
            Error::AlertReceived(_) => Self::Alert,
            _ => Self::Malformed,
        }
    }
}

/// Counters by cause.
#[derive(Debug, Default)]
pub struct TlsRefusals([AtomicU64; CAUSES.len()]);

impl TlsRefusals {
    pub(crate) fn add(&self, cause: TlsRefusal) {
        let at = CAUSES.iter().position(|(of, _)| *of == cause);
        if let Some(counter) = at.and_then(|at| self.0.get(at)) {
            Metrics::add(counter);
        }
    }

    /// Each cause and its count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = CAUSES.iter().map(|(_, label)| *label);
        labels.zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes() {
        let check = |error: Error, expected| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(TlsRefusal::of(&error), expected);
        };
        check(Error::NoCertificatesPresented, TlsRefusal::NoCertificate);
        check(CertificateError::Revoked.into(), TlsRefusal::Revoked);
        check(
            CertificateError::BadEncoding.into(),
            TlsRefusal::Certificate,
        );
        check(Error::DecryptError, TlsRefusal::Malformed);
        let closed = io::ErrorKind::UnexpectedEof.into();
        assert_eq!(TlsRefusal::of(&closed), TlsRefusal::Closed);
    }
}
