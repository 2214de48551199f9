//! The gate: no domain is built without a ticket that the hypervisor's element signed for it, and each counts once.

use std::{sync::Arc, time::Duration};

use gose_client::identity::AwsLc;
use gose_proto::{
    hex,
    identity::{CreationTicket, Crypto, TicketError, VmId},
};
use rustls_pki_types::alg_id;

use super::{
    journal::{Journal, JournalError, Record},
    key::{NoSignature, certificate_scheme},
    token::TokenIssuer,
};
use gose_element::Scheme;

/// Signs tickets, and uses them up.
pub struct Gate {
    issuer: Arc<TokenIssuer>,
    journal: Arc<Journal>,
    lifetime: i64,
}

/// Why a domain is not built.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The ticket does not count.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The element signs none.
    #[error("no creation ticket: {0}")]
    Signature(#[from] NoSignature),
    /// The system gives no randomness.
    #[error("no creation ticket: the system gives no randomness")]
    Randomness,
    /// What is known of the domain cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no record of the domain: nobody authorised it.
    #[error("nobody authorised this virtual machine")]
    Unknown,
}

impl Gate {
    /// Tickets of this issuer's element, for the machines of this journal.
    #[must_use]
    pub fn new(issuer: Arc<TokenIssuer>, journal: Arc<Journal>, lifetime: Duration) -> Self {
        Self {
            issuer,
            journal,
            lifetime: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// Signs a ticket for a machine that is recorded; an earlier one of the machine counts no more. Blocks while the
    /// element signs. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`GateError`].
    pub fn issue(&self, record: &Record, now: i64) -> Result<Vec<u8>, GateError> {
        let vm = record.uuid.0;
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| GateError::Randomness)?;
        let hash = |of: &Option<crate::config::Text<crate::config::Sha256>>| {
            of.as_ref().map_or([0; 32], |of| of.0.0)
        };
        let ticket = CreationTicket {
            hypervisor: self.issuer.key_hash(),
            vm,
            serial,
            not_before: now,
            not_after: now.saturating_add(self.lifetime),
            kernel: hash(&record.kernel),
            ramdisk: hash(&record.ramdisk),
            configuration: configuration(record),
        };
        let key = self.issuer.key();
        let scheme = certificate_scheme(key.algorithm())
            .ok_or_else(|| NoSignature("hv-ca signs nothing but handshakes".into()))?;
        let signature = key.sign(scheme, &ticket.content())?;
        let kept = self
            .journal
            .change(vm, |record| record.ticket = Some(hex::encode(&serial)))?;
        kept.ok_or(GateError::Unknown)?;
        tracing::info!(%vm, serial = hex::encode(&serial), "creation ticket signed");
        Ok(ticket.signed(&signature))
    }

    /// Uses a ticket up: checks signature, hypervisor, domain, time, that it is the one that is out, and that what it
    /// was signed for is what is recorded. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`GateError`]: the domain must not be built.
    pub fn admit(&self, vm: VmId, ticket: &[u8], now: i64) -> Result<(), GateError> {
        let admitted = self.check(vm, ticket, now).and_then(|serial| {
            // One look and one write under the journal's lock: of two who show the same ticket one is late.
            let used = self.journal.change(vm, |record| {
                let is_out = record.ticket.as_deref() == Some(serial.as_str());
                if is_out {
                    record.ticket = None;
                }
                is_out
            })?;
            match used {
                Some(true) => Ok(()),
                Some(false) => Err(TicketError::Used.into()),
                None => Err(GateError::Unknown),
            }
        });
        match &admitted {
            Ok(()) => tracing::info!(%vm, "gate: admitted"),
            Err(reason) => tracing::warn!(%vm, %reason, "gate: refused"),
        }
        admitted
    }

    /// Whether the ticket of a machine's last start has been used up.
    #[must_use]
    pub fn is_used(&self, vm: VmId) -> bool {
        let record = self.journal.get(vm);
        record.is_some_and(|record| record.ticket.is_none())
    }

    /// Checks a ticket; gives its serial number.
    fn check(&self, vm: VmId, ticket: &[u8], now: i64) -> Result<String, GateError> {
        let (ticket, signature) = CreationTicket::parse(ticket)?;
        ticket.check(self.issuer.key_hash(), vm, now)?;
        let key = self.issuer.key();
        let algorithm = match certificate_scheme(key.algorithm()) {
            Some(Scheme::EcdsaP256Sha256) => alg_id::ECDSA_SHA256,
            Some(Scheme::EcdsaP384Sha384) => alg_id::ECDSA_SHA384,
            _ => alg_id::RSA_PKCS1_SHA256,
        };
        let content = ticket.content();
        if !AwsLc.verifies(key.public_key(), algorithm.as_ref(), &content, signature) {
            return Err(TicketError::Signature.into());
        }
        let record = self.journal.get(vm).ok_or(GateError::Unknown)?;
        if ticket.configuration != configuration(&record) {
            return Err(TicketError::Used.into());
        }
        Ok(hex::encode(&ticket.serial))
    }
}

/// The hash of what does not change while a machine is built.
fn configuration(record: &Record) -> [u8; 32] {
    let Record {
        uuid,
        name,
        creator,
        image,
        command,
        seids,
        pool,
        memory_mib,
        vcpus,
        keep,
        kernel,
        ramdisk,
        state: _,
        generation,
        ticket: _,
    } = record;
    let seids: Vec<String> = seids.iter().map(|seid| seid.to_string()).collect();
    let creator = creator.as_ref().map(|creator| creator.to_string());
    let json = serde_json::json!([
        uuid.to_string(),
        name,
        creator,
        image,
        command,
        seids,
        pool,
        memory_mib,
        vcpus,
        keep,
        kernel.as_ref().map(|hash| hash.to_string()),
        ramdisk.as_ref().map(|hash| hash.to_string()),
        generation,
    ]);
    AwsLc.sha256(json.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::{domain::tests::issuer, journal::tests::record};

    const NOW: i64 = 1_800_000_000;

    struct Built {
        gate: Gate,
        journal: Arc<Journal>,
        _dir: tempfile::TempDir,
    }

    fn gate() -> Built {
        let dir = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(dir.path()).unwrap());
        for last in [1, 2] {
            journal.put(record(last)).unwrap();
        }
        let gate = Gate::new(issuer(), journal.clone(), Duration::from_secs(60));
        Built {
            gate,
            journal,
            _dir: dir,
        }
    }

    fn refused(gate: &Gate, vm: VmId, ticket: &[u8], now: i64) -> String {
        gate.admit(vm, ticket, now).unwrap_err().to_string()
    }

    #[test]
    fn a_ticket_counts_once_for_its_domain_in_its_time() {
        let Built {
            gate,
            journal,
            _dir,
        } = gate();
        let (one, two) = (record(1), record(2));
        let (vm, other) = (one.uuid.0, two.uuid.0);
        let ticket = gate.issue(&one, NOW).unwrap();
        assert!(refused(&gate, other, &ticket, NOW).contains("another virtual machine"));
        assert!(refused(&gate, vm, &ticket, NOW - 7200).contains("not count yet"));
        assert!(refused(&gate, vm, &ticket, NOW + 61).contains("expired"));
        let mut changed = ticket.clone();
        changed[60] ^= 1;
        assert!(gate.admit(vm, &changed, NOW).is_err());
        // The time is signed: it cannot be made longer.
        let mut longer = ticket.clone();
        longer[24 + 32 + 16 + 16 + 8] ^= 0x40;
        assert!(refused(&gate, vm, &longer, NOW).contains("signature"));
        assert!(refused(&gate, vm, b"GoSE", NOW).contains("not a creation ticket"));
        // Nothing of that has used it up.
        gate.admit(vm, &ticket, NOW + 60).unwrap();
        assert!(refused(&gate, vm, &ticket, NOW).contains("was used"));
        assert_eq!(journal.get(vm).unwrap().ticket, None);
    }

    #[test]
    fn a_newer_ticket_and_another_specification() {
        let Built {
            gate,
            journal,
            _dir,
        } = gate();
        let one = record(1);
        let vm = one.uuid.0;
        let old = gate.issue(&one, NOW).unwrap();
        let new = gate.issue(&one, NOW).unwrap();
        assert!(refused(&gate, vm, &old, NOW).contains("newer"));
        journal
            .change(vm, |record| record.memory_mib = 4096)
            .unwrap();
        assert!(gate.admit(vm, &new, NOW).is_err());
        journal
            .change(vm, |record| record.memory_mib = one.memory_mib)
            .unwrap();
        journal.remove(vm).unwrap();
        assert!(refused(&gate, vm, &new, NOW).contains("nobody authorised"));
        assert!(matches!(gate.issue(&one, NOW), Err(GateError::Unknown)));
    }

    #[test]
    fn a_ticket_of_another_hypervisor() {
        let (ours, theirs) = (gate(), gate());
        let ticket = theirs.gate.issue(&record(1), NOW).unwrap();
        assert!(refused(&ours.gate, record(1).uuid.0, &ticket, NOW).contains("another hypervisor"));
    }
}
