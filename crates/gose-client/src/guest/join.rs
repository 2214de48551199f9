//! What a hypervisor tells a guest at its start.

use std::{collections::BTreeMap, net::IpAddr};

use gose_proto::{
    hex,
    identity::{VmId, attach::JoinSecret},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The join record, as JSON; certificates and the secret in hexadecimal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRecord {
    /// The domain's UUID.
    pub vm: String,
    /// The name in the hypervisor's TLS certificate.
    pub address: String,
    /// The hypervisor's address on the guest's own link, where the guest has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// Trust anchors for that certificate, DER.
    pub anchors: Vec<String>,
    /// The first token and its chain, DER.
    pub token: Vec<String>,
    /// The one-time secret of the next join.
    secret: SecretText,
    /// PINs of elements that were made for this guest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pins: BTreeMap<String, SecretText>,
}

/// Wiped when dropped.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct SecretText(String);

/// Why a join record is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the JSON of a join record.
    #[error("malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// Longer than 64 KiB.
    #[error("{0} bytes; at most 65536")]
    Length(usize),
    /// A field has another form.
    #[error("the field {0} is malformed")]
    Field(&'static str),
}

impl JoinRecord {
    /// A record of these parts.
    #[must_use]
    pub fn new(
        vm: VmId,
        address: &str,
        anchors: &[Vec<u8>],
        token: &[Vec<u8>],
        secret: &JoinSecret,
    ) -> Self {
        let text = |ders: &[Vec<u8>]| ders.iter().map(|der| hex::encode(der)).collect();
        Self {
            vm: vm.to_string(),
            address: address.to_owned(),
            host: None,
            anchors: text(anchors),
            token: text(token),
            secret: SecretText(hex::encode(secret.as_bytes())),
            pins: BTreeMap::new(),
        }
    }

    /// A record of what stands in another form: certificates as hexadecimal digits.
    pub(super) fn of_parts(
        vm: String,
        address: String,
        host: Option<IpAddr>,
        [anchors, token]: [Vec<String>; 2],
        secret: &[u8],
    ) -> Self {
        Self {
            vm,
            address,
            host,
            anchors,
            token,
            secret: SecretText(hex::encode(secret)),
            pins: BTreeMap::new(),
        }
    }

    /// The PINs that it tells.
    pub(super) fn pins(&self) -> impl Iterator<Item = (&str, &str)> {
        let pins = self.pins.iter();
        pins.map(|(seid, pin)| (seid.as_str(), pin.0.as_str()))
    }

    /// Tells the PIN of an element, as digits.
    pub fn set_pin(&mut self, seid: &str, pin: &[u8]) {
        let pin = pin.iter().map(|digit| char::from(*digit)).collect();
        self.pins.insert(seid.to_owned(), SecretText(pin));
    }

    /// The PIN of an element that was made for this guest.
    #[must_use]
    pub fn pin(&self, seid: &str) -> Option<Zeroizing<String>> {
        let pin = self.pins.get(seid)?;
        Some(Zeroizing::new(pin.0.clone()))
    }

    /// The trust anchors, DER.
    ///
    /// # Errors
    /// [`RecordError::Field`].
    pub fn anchors(&self) -> Result<Vec<Vec<u8>>, RecordError> {
        let ders: Result<Vec<_>, _> = self.anchors.iter().map(hex::decode).collect();
        ders.map_err(|_| RecordError::Field("anchors"))
    }

    /// The domain's UUID.
    ///
    /// # Errors
    /// [`RecordError::Field`].
    pub fn vm(&self) -> Result<VmId, RecordError> {
        self.vm.parse().map_err(|_| RecordError::Field("vm"))
    }

    /// Takes the secret of the next join.
    pub fn set_secret(&mut self, secret: &JoinSecret) {
        self.secret = SecretText(hex::encode(secret.as_bytes()));
    }

    /// The secret of the next join.
    ///
    /// # Errors
    /// [`RecordError::Field`].
    pub fn secret(&self) -> Result<JoinSecret, RecordError> {
        let bytes = hex::decode(&self.secret.0).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| RecordError::Field("secret"))?;
        let bytes = <[u8; 32]>::try_from(bytes.as_slice());
        bytes
            .map(JoinSecret::new)
            .map_err(|_| RecordError::Field("secret"))
    }
}
