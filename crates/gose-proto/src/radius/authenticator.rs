//! The authenticator fields (RFC 2865, 3) and the Message-Authenticator (RFC 3579, 3.2).

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::packet::{AUTHENTICATOR, HEADER};

/// The secret that a client shares with the server. It is wiped on drop and has no `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The fixed secret of RADIUS over TLS, where TLS is what protects (RFC 6614, 2.3).
    pub const RADSEC: &'static [u8] = b"radsec";

    /// A secret; `None` if it is empty (RFC 2865, 3: it must not be).
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        let bytes = Zeroizing::new(bytes);
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// The secret's bytes, for MD5 constructions of the standards alone.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The authenticator field of a request: random in Access-Request and Status-Server, a digest in
/// Accounting-Request, Disconnect-Request and CoA-Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestAuthenticator(
    /// The field.
    pub [u8; 16],
);

/// The authenticator field of an answer: a digest that binds it to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseAuthenticator(
    /// The field.
    pub [u8; 16],
);

/// MD5(Code + ID + Length + authenticator + Attributes + Secret) of a whole packet, with `authenticator` in place of
/// the packet's own: the request's in answers, zeros in accounting and dynamic authorisation requests.
pub(super) fn digest(packet: &[u8], authenticator: &[u8; 16], secret: &Secret) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(packet.get(..AUTHENTICATOR.start).unwrap_or_default());
    md5.update(authenticator);
    md5.update(packet.get(HEADER..).unwrap_or_default());
    md5.update(secret.bytes());
    md5.finalize().into()
}

/// HMAC-MD5 over a whole packet with `authenticator` in place of its own and zeros in place of the
/// Message-Authenticator's value, which begins at `at`.
fn keyed(packet: &[u8], at: usize, authenticator: &[u8; 16], secret: &Secret) -> Option<Hmac<Md5>> {
    let (before, after) = (packet.get(HEADER..at)?, packet.get(at + 16..)?);
    let mut hmac = Hmac::<Md5>::new_from_slice(secret.bytes()).ok()?;
    hmac.update(&packet[..AUTHENTICATOR.start]);
    hmac.update(authenticator);
    hmac.update(before);
    hmac.update(&[0; 16]);
    hmac.update(after);
    Some(hmac)
}

/// The Message-Authenticator whose value begins at byte `at` of the packet; `None` if it does not lie in it.
pub(super) fn message_authenticator(
    packet: &[u8],
    at: usize,
    authenticator: &[u8; 16],
    secret: &Secret,
) -> Option<[u8; 16]> {
    Some(
        keyed(packet, at, authenticator, secret)?
            .finalize()
            .into_bytes()
            .into(),
    )
}

/// Whether the Message-Authenticator at `at` is right; in constant time.
pub(super) fn message_authenticator_is_right(
    packet: &[u8],
    at: usize,
    authenticator: &[u8; 16],
    secret: &Secret,
) -> bool {
    let found = packet.get(at..at + 16);
    let hmac = keyed(packet, at, authenticator, secret);
    hmac.zip(found)
        .is_some_and(|(hmac, found)| hmac.verify_slice(found).is_ok())
}

/// Whether two authenticators are equal; in constant time.
#[must_use]
pub fn equal(left: &[u8; 16], right: &[u8; 16]) -> bool {
    left.ct_eq(right).into()
}
