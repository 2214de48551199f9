//! Generations of virtual machines as their hypervisors told this node: an identity token of an older one is a
//! clone's or a roll-back's.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use gose_client::{
    admin::{Answer, Refusal, VmGeneration},
    identity::AwsLc,
};
use gose_proto::identity::{Certificate, CertificateError, Generations, KeyHash, VmBinding, VmId};
use tokio::sync::watch;

use crate::{
    admin::{Denied, denied},
    config::{self, Name},
    grid::Names,
    listen::tls::{TlsError, certificates},
    store::durable,
};

/// Virtual machines of one hypervisor that are remembered.
const MACHINES: usize = 16_384;

/// What hypervisors told: a small file, replaced as a whole.
pub struct Told {
    path: PathBuf,
    publishers: ArcSwap<Vec<(Name, KeyHash)>>,
    known: Mutex<Known>,
    changed: watch::Sender<()>,
}

/// Key hash of `hv-ca`, UUID, newest generation: the file's JSON.
type Known = BTreeMap<String, BTreeMap<String, u64>>;

/// Why `[generations]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ToldError {
    /// The file cannot be read.
    #[error("[generations] file {path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// It holds something else.
    #[error(
        "[generations] file {path} is damaged: {cause}; restore it, or delete it: the hypervisors tell again what they know"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it cannot be read.
        cause: serde_json::Error,
    },
    /// A certificate of `hv-ca`.
    #[error("[[generations.hypervisor]] {0}")]
    Tls(#[from] TlsError),
    /// A certificate of `hv-ca` cannot be read.
    #[error("[[generations.hypervisor]] {path}: {cause}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: CertificateError,
    },
}

impl Told {
    /// What the section names; a file that is not there is empty.
    ///
    /// # Errors
    /// [`ToldError`].
    pub fn open(section: &config::Generations) -> Result<Self, ToldError> {
        let path = section.file.clone();
        let known = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(known) => known,
                Err(cause) => return Err(ToldError::Damaged { path, cause }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::new(),
            Err(cause) => return Err(ToldError::Io { path, cause }),
        };
        Ok(Self {
            path,
            publishers: ArcSwap::from_pointee(publishers(section)?),
            known: Mutex::new(known),
            changed: watch::Sender::new(()),
        })
    }

    /// Takes the hypervisors of another configuration.
    ///
    /// # Errors
    /// [`ToldError`]. What is returned makes the change, which cannot fail.
    pub fn reload(&self, section: &config::Generations) -> Result<impl FnOnce() + '_, ToldError> {
        let publishers = Arc::new(publishers(section)?);
        Ok(move || self.publishers.store(publishers))
    }

    /// Tells of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Takes what a hypervisor tells of its own virtual machines; durable before the answer. Generations
    /// never go down: the answer names those that are newer here.
    pub(crate) fn take(
        &self,
        names: &Names,
        hypervisor: &str,
        told: &[VmGeneration],
    ) -> Result<Answer, Denied> {
        let Ok(key) = hypervisor.parse::<KeyHash>() else {
            return denied(Refusal::Malformed, "the hypervisor is no key hash");
        };
        let publishers = self.publishers.load();
        if !publishers
            .iter()
            .any(|(name, own)| names.is(name) && *own == key)
        {
            let cause = format!("may not tell generations of hypervisor {key}");
            return denied(Refusal::Unauthorised, cause);
        }
        let mut read = Vec::new();
        for VmGeneration { uuid, generation } in told {
            match uuid.parse::<VmId>() {
                Ok(vm) if *generation <= VmBinding::MAX_GENERATION => read.push((vm, *generation)),
                _ => return denied(Refusal::Malformed, "no UUID, or a generation over 2^63"),
            }
        }
        self.raise(key, &read)
    }

    fn raise(&self, key: KeyHash, told: &[(VmId, u64)]) -> Result<Answer, Denied> {
        let mut known = self.known();
        let mut next = known.clone();
        let machines = next.entry(key.to_string()).or_default();
        let mut newer = Vec::new();
        let mut raised = false;
        for (vm, generation) in told {
            let uuid = vm.to_string();
            let is_full = machines.len() >= MACHINES;
            match machines.get_mut(&uuid) {
                Some(kept) if *kept > *generation => newer.push(VmGeneration {
                    uuid,
                    generation: *kept,
                }),
                Some(kept) => {
                    raised |= *kept < *generation;
                    *kept = *generation;
                }
                None if is_full => {
                    return denied(Refusal::Quota, format!("more than {MACHINES} machines"));
                }
                None => {
                    machines.insert(uuid, *generation);
                    raised = true;
                }
            }
        }
        if raised {
            let written = serde_json::to_vec_pretty(&next)
                .map_err(io::Error::other)
                .and_then(|json| crate::long_step(|| durable::replace(&self.path, &json)));
            if let Err(error) = written {
                let cause = format!("{}: {error}", self.path.display());
                return denied(Refusal::Failed, cause);
            }
            *known = next;
            drop(known);
            self.changed.send_replace(());
        }
        for VmGeneration { uuid, generation } in &newer {
            tracing::warn!(hypervisor = %key, vm = uuid, generation, "a hypervisor tells an older generation than before: its generation file was rolled back");
        }
        Ok(Answer::Generations { newer })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations for Told {
    fn newest(&self, hypervisor: KeyHash, vm: VmId) -> Option<u64> {
        let known = self.known();
        known
            .get(&hypervisor.to_string())?
            .get(&vm.to_string())
            .copied()
    }

    fn is_revoked(&self, _hypervisor: KeyHash, _serial: &[u8]) -> bool {
        false
    }
}

fn publishers(section: &config::Generations) -> Result<Vec<(Name, KeyHash)>, ToldError> {
    let read = |publisher: &config::Publisher| {
        let path: &Path = &publisher.ca_certificate_file;
        let chain = certificates(path)?;
        let der = chain.first().map_or(&[][..], |der| der);
        let certificate = Certificate::parse(der).map_err(|cause| ToldError::Certificate {
            path: path.to_owned(),
            cause,
        })?;
        let key = KeyHash::of(certificate.public_key(), &AwsLc);
        Ok((publisher.user.0.clone(), key))
    };
    section.hypervisors.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyHash = KeyHash([2; 32]);
    const VM: VmId = VmId([1; 16]);

    fn told(path: &Path) -> Told {
        let section = config::Generations {
            file: path.to_owned(),
            unknown: config::Unknown::Allow,
            hypervisors: Vec::new(),
        };
        let told = Told::open(&section).unwrap();
        let name = "hv-7".parse().unwrap();
        told.publishers.store(Arc::new(vec![(name, KEY)]));
        told
    }

    fn tell(told: &Told, caller: &str, key: KeyHash, generation: u64) -> Result<Answer, Refusal> {
        let names = Names::Certified([caller.parse().unwrap()].into());
        let one = VmGeneration {
            uuid: VM.to_string(),
            generation,
        };
        told.take(&names, &key.to_string(), &[one])
            .map_err(|denied| denied.reason)
    }

    fn newer(generations: &[u64]) -> Result<Answer, Refusal> {
        let newer = generations.iter().map(|generation| VmGeneration {
            uuid: VM.to_string(),
            generation: *generation,
        });
        Ok(Answer::Generations {
            newer: newer.collect(),
        })
    }

    #[test]
    fn generations_never_go_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("told.json");
        let known = told(&path);
        let mut changes = known.changes();
        assert_eq!(known.newest(KEY, VM), None);
        assert_eq!(tell(&known, "hv-7", KEY, 2), newer(&[]));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(tell(&known, "hv-7", KEY, 1), newer(&[2]));
        assert_eq!(tell(&known, "hv-7", KEY, 2), newer(&[]));
        assert!(!changes.has_changed().unwrap());
        assert_eq!(known.newest(KEY, VM), Some(2));
        // another hypervisor's machine of the same UUID is another one
        assert_eq!(known.newest(KeyHash([3; 32]), VM), None);
        assert_eq!(told(&path).newest(KEY, VM), Some(2));
    }

    #[test]
    fn only_ones_own_and_only_whoever_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let known = told(&dir.path().join("told.json"));
        let unauthorised = Err(Refusal::Unauthorised);
        assert_eq!(tell(&known, "hv-8", KEY, 9), unauthorised);
        assert_eq!(tell(&known, "hv-7", KeyHash([3; 32]), 9), unauthorised);
        let operator = known.take(&Names::Operator, &KEY.to_string(), &[]);
        assert!(operator.is_err());
        let malformed = Err(Refusal::Malformed);
        assert_eq!(tell(&known, "hv-7", KEY, u64::MAX), malformed);
        assert_eq!(known.newest(KEY, VM), None);
    }

    #[test]
    fn the_table_is_bounded_and_what_is_not_durable_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let known = told(&dir.path().join("told.json"));
        let machine = |n: usize| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            (VmId(bytes), 1)
        };
        let all: Vec<_> = (0..MACHINES).map(machine).collect();
        assert!(known.raise(KEY, &all).is_ok());
        let one_more = known.raise(KEY, &[machine(MACHINES)]).err();
        assert_eq!(one_more.map(|denied| denied.reason), Some(Refusal::Quota));
        // what is there can still be raised
        assert!(known.raise(KEY, &[(machine(0).0, 2)]).is_ok());
        assert_eq!(known.newest(KEY, machine(0).0), Some(2));

        let nowhere = told(&dir.path().join("gone/told.json"));
        assert_eq!(tell(&nowhere, "hv-7", KEY, 1), Err(Refusal::Failed));
        assert_eq!(nowhere.newest(KEY, VM), None);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("told.json");
        std::fs::write(&path, "{").unwrap();
        let section = config::Generations {
            file: path,
            unknown: config::Unknown::Allow,
            hypervisors: Vec::new(),
        };
        let refused = Told::open(&section).err().unwrap().to_string();
        assert!(refused.contains("tell again"), "{refused}");
    }
}
