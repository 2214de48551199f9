//! The join record in Xen's store: a node a field, readable by its domain alone.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use gose_proto::hex;
use zeroize::Zeroizing;

use super::{GuestError, JoinRecord, RecordError};
use crate::xenstore::{Xenstore, XenstoreError};

/// Where the record is, below a domain's own node.
const PLACE: &str = "vm-data/gose";

/// Certificates of one field.
const CERTIFICATES: usize = 8;

impl JoinRecord {
    /// Writes the record for a domain, from dom0; what was there before is gone. Nobody but the domain reads it, and the
    /// domain does not write it.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn to_xenstore<S: Read + Write>(
        &self,
        store: &mut Xenstore<S>,
        domain: u32,
    ) -> Result<(), XenstoreError> {
        let place = format!("/local/domain/{domain}/{PLACE}");
        match store.remove(&place) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
        store.make(&place)?;
        // Nodes that are made below have the same rights.
        store.permit(&place, &["n0", &format!("r{domain}")])?;
        for (name, value) in self.fields() {
            store.write(&format!("{place}/{name}"), value.as_bytes())?;
        }
        Ok(())
    }

    /// Takes the secret away that a domain was given: it has been used.
    ///
    /// # Errors
    /// [`XenstoreError`].
    pub fn used_in_xenstore<S: Read + Write>(
        store: &mut Xenstore<S>,
        domain: u32,
    ) -> Result<(), XenstoreError> {
        match store.remove(&format!("/local/domain/{domain}/{PLACE}/secret")) {
            Err(error) if error.is_missing() => Ok(()),
            other => other,
        }
    }

    /// Reads the record of this domain. Nothing where there is none, or its secret was used.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn from_xenstore<S: Read + Write>(
        store: &mut Xenstore<S>,
    ) -> Result<Option<Self>, GuestError> {
        if read(store, "secret")?.is_none() {
            return Ok(None);
        }
        let secret = bytes(store, "secret")?;
        let vm = text(store, "vm")?;
        let address = text(store, "address")?;
        let host = text(store, "host")?;
        let host = host.parse().map_err(|_| RecordError::Field("host"))?;
        let certificates = [chain(store, "anchors")?, chain(store, "token")?];
        let mut record = Self::of_parts(vm, address, Some(host), certificates, &secret);
        for seid in names(store, "pins")? {
            let pin = bytes(store, &format!("pins/{seid}"))?;
            record.set_pin(&seid, &pin);
        }
        Ok(Some(record))
    }

    /// Names and values of the nodes.
    fn fields(&self) -> Vec<(String, Zeroizing<String>)> {
        let value = |bytes: &[u8]| Zeroizing::new(STANDARD.encode(bytes));
        let mut fields = vec![
            ("vm".to_owned(), value(self.vm.as_bytes())),
            ("address".to_owned(), value(self.address.as_bytes())),
        ];
        if let Some(host) = self.host {
            fields.push(("host".to_owned(), value(host.to_string().as_bytes())));
        }
        for (name, ders) in [("anchors", &self.anchors), ("token", &self.token)] {
            for (number, der) in ders.iter().take(CERTIFICATES).enumerate() {
                let der = hex::decode(der).unwrap_or_default();
                fields.push((format!("{name}/{number}"), value(&der)));
            }
        }
        for (seid, pin) in self.pins() {
            fields.push((format!("pins/{seid}"), value(pin.as_bytes())));
        }
        // Last: where it is, the rest is.
        if let Ok(secret) = self.secret() {
            fields.push(("secret".to_owned(), value(secret.as_bytes())));
        }
        fields
    }
}

fn read<S: Read + Write>(
    store: &mut Xenstore<S>,
    name: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, XenstoreError> {
    match store.read(&format!("{PLACE}/{name}")) {
        Ok(value) => Ok(Some(Zeroizing::new(value))),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn bytes<S: Read + Write>(
    store: &mut Xenstore<S>,
    name: &str,
) -> Result<Zeroizing<Vec<u8>>, GuestError> {
    let value = read(store, name)?.ok_or(RecordError::Field("in xenstore"))?;
    let value = STANDARD.decode(value.as_slice()).map(Zeroizing::new);
    Ok(value.map_err(|_| RecordError::Field("in xenstore"))?)
}

fn text<S: Read + Write>(
    store: &mut Xenstore<S>,
    name: &'static str,
) -> Result<String, GuestError> {
    let value = bytes(store, name)?;
    let text = std::str::from_utf8(&value).map_err(|_| RecordError::Field(name))?;
    Ok(text.to_owned())
}

fn chain<S: Read + Write>(store: &mut Xenstore<S>, name: &str) -> Result<Vec<String>, GuestError> {
    let present = names(store, name)?.len().min(CERTIFICATES);
    let numbers = (0..present).map(|number| format!("{name}/{number}"));
    numbers
        .map(|name| Ok(hex::encode(&bytes(store, &name)?)))
        .collect()
}

fn names<S: Read + Write>(
    store: &mut Xenstore<S>,
    name: &str,
) -> Result<Vec<String>, XenstoreError> {
    match store.list(&format!("{PLACE}/{name}")) {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        other => other,
    }
}

/// Puts the record that this domain of Xen was given where `path` says, if there is one that was not used. Gives whether
/// there was.
///
/// # Errors
/// [`GuestError`].
pub(super) fn pick_up_from_xen(path: &Path) -> Result<bool, GuestError> {
    if !Xenstore::is_there() {
        return Ok(false);
    }
    let Some(record) = JoinRecord::from_xenstore(&mut Xenstore::of_guest()?)? else {
        return Ok(false);
    };
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let json = Zeroizing::new(serde_json::to_vec(&record).map_err(RecordError::Json)?);
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(&json)?;
    std::fs::rename(&new, path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        os::unix::net::UnixStream,
        sync::{Arc, Mutex},
    };

    use gose_proto::identity::{VmId, attach::JoinSecret};

    use super::*;

    type Nodes = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    /// A store that keeps what it is told: one connection of dom0's, or of a domain's.
    fn store(nodes: &Nodes, home: &'static str) -> Xenstore<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let nodes = nodes.clone();
        std::thread::spawn(move || while answer(&theirs, &nodes, home).is_some() {});
        Xenstore::new(ours)
    }

    fn answer(mut stream: &UnixStream, nodes: &Nodes, home: &str) -> Option<()> {
        let mut header = [[0; 4]; 4];
        stream.read_exact(header.as_flattened_mut()).ok()?;
        let [kind, request, _, length] = header.map(u32::from_ne_bytes);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).ok()?;
        let end = payload.iter().position(|byte| *byte == 0)?;
        let path = String::from_utf8(payload[..end].to_vec()).ok()?;
        let path = if path.starts_with('/') {
            path
        } else {
            format!("{home}/{path}")
        };
        let mut nodes = nodes.lock().unwrap();
        let (kind, value) = match kind {
            2 => match nodes.get(&path) {
                Some(value) => (2, value.clone()),
                None => (16, b"ENOENT\0".to_vec()),
            },
            1 => {
                let below = format!("{path}/");
                let names = nodes.keys().filter_map(|key| key.strip_prefix(&below));
                let names = names.flat_map(|name| [name.as_bytes(), b"\0"].concat());
                (1, names.collect())
            }
            11 => {
                nodes.insert(path, payload[end + 1..].to_vec());
                (11, b"OK\0".to_vec())
            }
            13 => {
                nodes.retain(|key, _| !key.starts_with(&path));
                (13, b"OK\0".to_vec())
            }
            kind => {
                nodes.insert(format!("{kind} {path}"), payload[end + 1..].to_vec());
                (kind, b"OK\0".to_vec())
            }
        };
        let length = u32::try_from(value.len()).unwrap();
        let words = [kind, request, 0, length].map(u32::to_ne_bytes);
        let message = [words.as_flattened(), &value].concat();
        stream.write_all(&message).ok()
    }

    #[test]
    fn a_record_for_one_domain() {
        let nodes = Nodes::default();
        let mut host = store(&nodes, "/local/domain/0");
        let mut guest = store(&nodes, "/local/domain/7");
        assert!(JoinRecord::from_xenstore(&mut guest).unwrap().is_none());
        let secret = JoinSecret::new([9; 32]);
        let token = [vec![0x30; 2500], vec![3]];
        let mut record = JoinRecord::new(VmId([7; 16]), "hv-7", &[vec![1, 2]], &token, &secret);
        record.host = Some("169.254.1.1".parse().unwrap());
        record.set_pin("SE-A", b"12345678");
        record.to_xenstore(&mut host, 7).unwrap();
        let rights = nodes.lock().unwrap()["14 /local/domain/7/vm-data/gose"].clone();
        assert_eq!(rights, b"n0\0r7\0");
        let read = JoinRecord::from_xenstore(&mut guest).unwrap().unwrap();
        let json = |record: &JoinRecord| serde_json::to_string(record).unwrap();
        assert_eq!(json(&read), json(&record));
        JoinRecord::used_in_xenstore(&mut host, 7).unwrap();
        assert!(JoinRecord::from_xenstore(&mut guest).unwrap().is_none());
    }
}
