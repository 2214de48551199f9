//! A key of an element as SSH names it, and its signatures (RFC 4253, 6.6; RFC 5656, 3.1; RFC 8332, 3).

use aws_lc_rs::digest;
use gose_element::{
    Algorithm, Scheme,
    drive::piv::{Piv, PivError, PublicKey, Slot},
};
use ssh_key::{
    Mpint,
    public::{EcdsaPublicKey, KeyData, RsaPublicKey},
};
use x509_parser::{
    prelude::{FromDer, SubjectPublicKeyInfo},
    public_key,
};

/// The program wants SHA-512 with an RSA key (draft-ietf-sshm-ssh-agent, 3.6.1).
const RSA_SHA2_512: u32 = 4;

/// The program wants SHA-256 with an RSA key.
const RSA_SHA2_256: u32 = 2;

/// DigestInfo of SHA-512 up to the digest (RFC 8017, 9.2, note 1).
const SHA512_INFO: [u8; 19] = [
    0x30, 0x51, 0x30, 0x0D, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40,
];

/// A key.
pub(super) struct Key {
    slot: Slot,
    public: PublicKey,
    ssh: ssh_key::PublicKey,
    blob: Vec<u8>,
}

impl Key {
    /// A key of a slot; `None` for one that SSH has no name for.
    pub(super) fn new(slot: Slot, public: PublicKey, name: String) -> Option<Self> {
        let ssh = ssh_key::PublicKey::new(data(&public.info)?, name);
        let blob = ssh.to_bytes().ok()?;
        Some(Self {
            slot,
            public,
            ssh,
            blob,
        })
    }

    /// The public key as it goes over the line.
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    pub(super) fn name(&self) -> &str {
        self.ssh.comment()
    }

    /// The line for authorized_keys.
    pub(super) fn line(&self) -> String {
        self.ssh.to_openssh().unwrap_or_default()
    }

    /// Name of the algorithm ‖ signature, each a string.
    pub(super) fn sign(
        &self,
        piv: &mut Piv<'_>,
        data: &[u8],
        flags: u32,
    ) -> Result<Vec<u8>, PivError> {
        piv.know(self.slot, self.public.clone());
        let (name, signature) = match self.public.algorithm {
            Algorithm::P256 => {
                let der = piv.sign(self.slot, Scheme::EcdsaP256Sha256, data)?;
                ("ecdsa-sha2-nistp256", two_numbers(&der)?)
            }
            Algorithm::P384 => {
                let der = piv.sign(self.slot, Scheme::EcdsaP384Sha384, data)?;
                ("ecdsa-sha2-nistp384", two_numbers(&der)?)
            }
            algorithm if algorithm.is_rsa() && flags & RSA_SHA2_512 != 0 => {
                let block = block(data, self.ssh.key_data())?;
                let signature = piv.rsa_raw(self.slot, &block)?;
                ("rsa-sha2-512", signature.to_vec())
            }
            algorithm if algorithm.is_rsa() && flags & RSA_SHA2_256 != 0 => {
                let signature = piv.sign(self.slot, Scheme::RsaPkcs1Sha256, data)?;
                ("rsa-sha2-256", signature)
            }
            // `ssh-rsa` is SHA-1.
            _ => return Err(PivError::Algorithm(self.slot)),
        };
        let mut out = Vec::new();
        for part in [name.as_bytes(), &signature] {
            let length = u32::try_from(part.len()).map_err(|_| PivError::Host)?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(part);
        }
        Ok(out)
    }
}

fn data(info: &[u8]) -> Option<KeyData> {
    let (_, info) = SubjectPublicKeyInfo::from_der(info).ok()?;
    match info.parsed().ok()? {
        public_key::PublicKey::RSA(key) => Some(KeyData::Rsa(RsaPublicKey {
            e: Mpint::from_positive_bytes(key.exponent).ok()?,
            n: Mpint::from_positive_bytes(key.modulus).ok()?,
        })),
        public_key::PublicKey::EC(point) => {
            let key = EcdsaPublicKey::from_sec1_bytes(point.data()).ok()?;
            Some(KeyData::Ecdsa(key))
        }
        _ => None,
    }
}

/// The block that an RSA key signs: EMSA-PKCS1-v1_5 with SHA-512 (RFC 8017, 9.2).
fn block(data: &[u8], key: &KeyData) -> Result<Vec<u8>, PivError> {
    let modulus = key.rsa().and_then(|key| key.n.as_positive_bytes());
    let length = modulus.ok_or(PivError::Host)?.len();
    let digest = digest::digest(&digest::SHA512, data);
    let ones = length
        .checked_sub(3 + SHA512_INFO.len() + digest.as_ref().len())
        .ok_or(PivError::Host)?;
    let mut block = vec![0, 1];
    block.resize(2 + ones, 0xFF);
    block.push(0);
    block.extend_from_slice(&SHA512_INFO);
    block.extend_from_slice(digest.as_ref());
    Ok(block)
}

/// r and s of an ECDSA-Sig-Value (RFC 3279, 2.2.3), each an mpint of SSH: both are numbers of the same form, behind
/// another length.
fn two_numbers(der: &[u8]) -> Result<Vec<u8>, PivError> {
    let wrong = PivError::Malformed("a signature that is no ECDSA-Sig-Value");
    let mut rest = gose_proto::apdu::tlv::find(der, 0x30).ok_or_else(|| wrong.clone())?;
    let mut out = Vec::new();
    for _ in 0..2 {
        let Some((&[2, size], value)) = rest.split_first_chunk() else {
            return Err(wrong);
        };
        let (number, after) = value
            .split_at_checked(size.into())
            .ok_or_else(|| wrong.clone())?;
        rest = after;
        out.extend_from_slice(&u32::from(size).to_be_bytes());
        out.extend_from_slice(number);
    }
    if rest.is_empty() { Ok(out) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_curves() {
        let der = [0x30, 7, 2, 2, 0, 0x81, 2, 1, 5];
        let expected = [0, 0, 0, 2, 0, 0x81, 0, 0, 0, 1, 5];
        assert_eq!(two_numbers(&der).unwrap(), expected);
        for end in 0..der.len() {
            assert!(two_numbers(&der[..end]).is_err(), "{end}");
        }
        assert!(two_numbers(&[0x30, 4, 2, 0xFF, 1, 2]).is_err());
    }

    #[test]
    fn the_block_of_pkcs1() {
        let key = KeyData::Rsa(RsaPublicKey {
            e: Mpint::from_positive_bytes(&[1, 0, 1]).unwrap(),
            n: Mpint::from_positive_bytes(&[0xC5; 256]).unwrap(),
        });
        let block = block(b"message", &key).unwrap();
        assert_eq!((block.len(), &block[..3]), (256, &[0, 1, 0xFF][..]));
        let small = KeyData::Rsa(RsaPublicKey {
            e: Mpint::from_positive_bytes(&[3]).unwrap(),
            n: Mpint::from_positive_bytes(&[0xC5; 64]).unwrap(),
        });
        assert!(super::block(b"message", &small).is_err());
    }
}
