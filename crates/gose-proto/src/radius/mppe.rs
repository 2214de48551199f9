//! MS-MPPE-Send-Key and MS-MPPE-Recv-Key (RFC 2548, 2.4.2 and 2.4.3): the master session key for the NAS.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::{
    attribute::{Type, Vendor},
    authenticator::{RequestAuthenticator, Secret},
    packet::Packet,
};

/// MS-MPPE-Send-Key.
pub const SEND_KEY: u8 = 16;
/// MS-MPPE-Recv-Key.
pub const RECV_KEY: u8 = 17;

/// Distinguishes the two keys of a packet; its top bit is set when it is used (RFC 2548, 2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(
    /// Two random bytes.
    pub [u8; 2],
);

impl Salt {
    fn bytes(self) -> [u8; 2] {
        [self.0[0] | 0x80, self.0[1]]
    }

    /// Another salt, for the second key of the packet.
    #[must_use]
    pub fn other(self) -> Self {
        Self([self.0[0], self.0[1] ^ 1])
    }
}

/// Hides a key: the value of the vendor attribute (salt, then ciphertext). `None` over 239 bytes.
#[must_use]
pub fn hide(
    key: &[u8],
    salt: Salt,
    request: &RequestAuthenticator,
    secret: &Secret,
) -> Option<Vec<u8>> {
    let length = u8::try_from(key.len())
        .ok()
        .filter(|length| *length <= 239)?;
    let mut plain = Zeroizing::new(vec![0; (key.len() + 1).next_multiple_of(16)]);
    plain[0] = length;
    plain[1..=key.len()].copy_from_slice(key);
    let salt = salt.bytes();
    let mut out = salt.to_vec();
    for block in plain.as_chunks::<16>().0 {
        let pad = pad(&out, salt, request, secret);
        out.extend(block.iter().zip(pad.iter()).map(|(p, b)| p ^ b));
    }
    Some(out)
}

/// Brings a hidden key back; `None` if the value is malformed, which a wrong secret makes likely, not certain:
/// what was checked before is the packet.
#[must_use]
pub fn reveal(
    value: &[u8],
    request: &RequestAuthenticator,
    secret: &Secret,
) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, hidden) = value.split_first_chunk::<2>()?;
    let (blocks, rest) = hidden.as_chunks::<16>();
    if blocks.is_empty() || !rest.is_empty() || salt[0] & 0x80 == 0 {
        return None;
    }
    let mut plain = Zeroizing::new(Vec::with_capacity(hidden.len()));
    for (index, block) in blocks.iter().enumerate() {
        let pad = pad(&value[..2 + 16 * index], *salt, request, secret);
        plain.extend(block.iter().zip(pad.iter()).map(|(c, b)| c ^ b));
    }
    let length = usize::from(plain[0]);
    plain
        .get(1..=length)
        .map(|key| Zeroizing::new(key.to_vec()))
}

/// b(1) = MD5(secret + request authenticator + salt), b(i) = MD5(secret + c(i-1)); `so_far` is the salt and the
/// ciphertext before this block.
fn pad(
    so_far: &[u8],
    salt: [u8; 2],
    request: &RequestAuthenticator,
    secret: &Secret,
) -> Zeroizing<[u8; 16]> {
    let mut md5 = Md5::new();
    md5.update(secret.bytes());
    match so_far[2..].last_chunk::<16>() {
        Some(previous) => md5.update(previous),
        None => {
            md5.update(request.0);
            md5.update(salt);
        }
    }
    Zeroizing::new(md5.finalize().into())
}

/// The two halves of the first 64 bytes of an MSK: MS-MPPE-Recv-Key, then MS-MPPE-Send-Key (RFC 5216, 2.3), as
/// values of Vendor-Specific attributes.
#[must_use]
pub fn keys(
    msk: &[u8; 64],
    salt: Salt,
    request: &RequestAuthenticator,
    secret: &Secret,
) -> Option<[Vec<u8>; 2]> {
    let attribute = |kind, key, salt| {
        let value = hide(key, salt, request, secret)?;
        Vendor {
            id: Vendor::MICROSOFT,
            kind,
            value: &value,
        }
        .encode()
    };
    let (recv, send) = msk.split_at(32);
    Some([
        attribute(RECV_KEY, recv, salt)?,
        attribute(SEND_KEY, send, salt.other())?,
    ])
}

/// The MSK out of an Access-Accept that was verified: Recv-Key, then Send-Key; `None` unless both have 32 bytes.
#[must_use]
pub fn msk(
    accept: &Packet<'_>,
    request: &RequestAuthenticator,
    secret: &Secret,
) -> Option<Zeroizing<[u8; 64]>> {
    let find = |kind| {
        let vendor = accept
            .all(Type::VENDOR_SPECIFIC)
            .flat_map(|attribute| attribute.vendor())
            .find(|vendor| (vendor.id, vendor.kind) == (Vendor::MICROSOFT, kind))?;
        reveal(vendor.value, request, secret).filter(|key| key.len() == 32)
    };
    let (recv, send) = (find(RECV_KEY)?, find(SEND_KEY)?);
    let mut msk = Zeroizing::new([0; 64]);
    msk[..32].copy_from_slice(&recv);
    msk[32..].copy_from_slice(&send);
    Some(msk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn secret() -> Secret {
        Secret::new(b"testing123".to_vec()).unwrap()
    }

    /// Computed with Python's hashlib from the text of RFC 2548.
    #[test]
    fn a_key_computed_elsewhere() {
        let request = RequestAuthenticator(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let key: Vec<u8> = (0x40..0x60).collect();
        let hidden = hide(&key, Salt([0x12, 0x34]), &request, &secret()).unwrap();
        assert_eq!(
            hex::encode(&hidden),
            "923440ED8FABF7CB5DC86478DE43E060F4C65762E1B2FA15CD5B1AEEA10EA718DE607F90FFA1E612649F280311996968360B"
        );
        assert_eq!(
            reveal(&hidden, &request, &secret()).unwrap().as_slice(),
            key
        );
    }

    proptest! {
        #[test]
        fn keys_come_back(key in proptest::collection::vec(any::<u8>(), 0..240), salt: [u8; 2], request: [u8; 16]) {
            let request = RequestAuthenticator(request);
            let hidden = hide(&key, Salt(salt), &request, &secret()).unwrap();
            let revealed = reveal(&hidden, &request, &secret()).unwrap();
            prop_assert_eq!(revealed.as_slice(), &key);
        }

        #[test]
        fn any_bytes_do_not_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = reveal(&value, &RequestAuthenticator([7; 16]), &secret());
        }
    }

    #[test]
    fn what_is_not_a_key() {
        let request = RequestAuthenticator([0; 16]);
        assert!(hide(&[0; 240], Salt([0, 0]), &request, &secret()).is_none());
        for length in [0, 1, 2, 3, 17, 19] {
            assert!(
                reveal(&vec![0x80; length], &request, &secret()).is_none(),
                "{length} bytes"
            );
        }
        let mut hidden = hide(&[1; 32], Salt([0, 0]), &request, &secret()).unwrap();
        hidden[0] &= 0x7F;
        assert!(
            reveal(&hidden, &request, &secret()).is_none(),
            "salt without its top bit"
        );
    }
}
