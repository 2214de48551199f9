//! Which certificates revocation lists name (RFC 5280, 5).

use std::collections::{HashMap, HashSet};

use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// Serial numbers by issuer. Signatures are not checked here: who decides about access by a list does that.
#[derive(Debug, Clone, Default)]
pub struct RevokedCertificates(HashMap<Vec<u8>, HashSet<Vec<u8>>>);

impl RevokedCertificates {
    /// Adds what a list (DER) names; false if it is none.
    pub fn add(&mut self, crl: &[u8]) -> bool {
        let Ok((_, list)) = CertificateRevocationList::from_der(crl) else {
            return false;
        };
        let serials = self.0.entry(list.issuer().as_raw().to_vec()).or_default();
        let revoked = list.iter_revoked_certificates();
        serials.extend(revoked.map(|entry| entry.raw_serial().to_vec()));
        true
    }

    /// Whether a certificate is among them: its issuer's name in DER, content octets of its serial number.
    #[must_use]
    pub fn contains(&self, issuer: &[u8], serial: &[u8]) -> bool {
        let serials = self.0.get(issuer);
        serials.is_some_and(|serials| serials.contains(serial))
    }
}
