//! The attach channel of a guest: the hypervisor's element signs the guest's TLS handshakes.
//!
//! Each message is length (2, big endian) ‖ type (1) ‖ content; docs/protocol.md has the table. The channel
//! belongs to one domain, which the endpoint knows from the hypervisor and not from any message.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that a message may have, without its length field.
pub const MAX_MESSAGE: usize = 16_384;

/// Certificates that a token chain may have.
pub const MAX_CHAIN: usize = 4;

/// A one-time secret: 32 random bytes that show that the guest was started by this hypervisor, once.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret(Zeroizing<[u8; 32]>);

impl JoinSecret {
    /// Takes in 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Compare them in constant time.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// The hash of a TLS 1.3 handshake up to the client's Certificate (RFC 8446, 4.4.1): 32 bytes for suites
/// on SHA-256, 48 on SHA-384.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TranscriptHash {
    bytes: [u8; 48],
    len: usize,
}

/// What stands before the hash in what a client signs (RFC 8446, 4.4.3).
const CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify\0";
const PADDING: [u8; 64] = [0x20; 64];

impl TranscriptHash {
    /// Takes 32 or 48 bytes.
    #[must_use]
    pub fn new(hash: &[u8]) -> Option<Self> {
        if !matches!(hash.len(), 32 | 48) {
            return None;
        }
        let mut bytes = [0; 48];
        bytes[..hash.len()].copy_from_slice(hash);
        let len = hash.len();
        Some(Self { bytes, len })
    }

    /// The hash in the content that a TLS 1.3 client signs; nothing for any other content.
    #[must_use]
    pub fn from_content(content: &[u8]) -> Option<Self> {
        let hash = content.strip_prefix(&PADDING)?.strip_prefix(CONTEXT)?;
        Self::new(hash)
    }

    /// The content that a TLS 1.3 client signs (RFC 8446, 4.4.3): 64 times 20, the context string, 00, the
    /// hash.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        [&PADDING, CONTEXT, self.as_bytes()].concat()
    }

    /// The hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for TranscriptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(self.as_bytes()))
    }
}

/// A serial number of a certificate: 1 to 20 content octets (RFC 5280, 4.1.2.2).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Takes content octets as they stand in the certificate.
    #[must_use]
    pub fn new(octets: &[u8]) -> Option<Self> {
        (1..=20)
            .contains(&octets.len())
            .then(|| Self(octets.to_vec()))
    }

    /// The content octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// DER certificates, the token first: 1 to [`MAX_CHAIN`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(Vec<Vec<u8>>);

impl Chain {
    /// Takes 1 to [`MAX_CHAIN`] certificates that fit one message together.
    #[must_use]
    pub fn new(certificates: Vec<Vec<u8>>) -> Option<Self> {
        let size: usize = certificates.iter().map(|der| der.len() + 2).sum();
        let fits = (1..=MAX_CHAIN).contains(&certificates.len())
            && certificates.iter().all(|der| !der.is_empty())
            && size + 64 <= MAX_MESSAGE;
        fits.then_some(Self(certificates))
    }

    /// The certificates, the token first.
    #[must_use]
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// What a guest sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToEndpoint {
    /// First message: shows the one-time secret.
    Join(JoinSecret),
    /// Asks for the signature on a handshake of the guest.
    Sign(SignRequest),
    /// Asks for the token in form `identity`, for the key in the guest's own element.
    Identity,
}

/// A handshake to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignRequest {
    /// The token that the handshake presents.
    pub serial: Serial,
    /// TLS signature scheme (RFC 8446, 4.2.3), e.g. 0403.
    pub scheme: u16,
    /// The handshake so far.
    pub hash: TranscriptHash,
}

/// What the endpoint sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Answer to a join: the current token, and the secret of the next join.
    Joined {
        /// The guest keeps it, readable by itself only.
        next: JoinSecret,
        /// The token in form `attachment` and what leads to the anchor.
        chain: Chain,
    },
    /// Answer to a sign request.
    Signature(Vec<u8>),
    /// Pushed: the token from now on. The one before is signed for 60 s more.
    Renewed(Chain),
    /// Answer to an identity request: the token in form `identity`.
    Identity(Chain),
    /// Answer to any request.
    Refused(AttachError),
}

/// Why the endpoint refuses. The guest learns no more than this; the cause stands in the hypervisor's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// 01
    #[error("the message is malformed")]
    Malformed,
    /// 02
    #[error("join first")]
    NotJoined,
    /// 03
    #[error("the join secret is wrong or used up; the domain must be started again")]
    Secret,
    /// 04
    #[error("the serial number is not this domain's current token")]
    NotCurrent,
    /// 05
    #[error("the hypervisor's key does not sign by this scheme")]
    Scheme,
    /// 06
    #[error("too many requests; wait a second")]
    RateLimited,
    /// 07
    #[error("the hypervisor's element gives no answer")]
    Element,
    /// 08
    #[error("no element is bound to this domain")]
    NoElement,
}

const ERRORS: [AttachError; 8] = [
    AttachError::Malformed,
    AttachError::NotJoined,
    AttachError::Secret,
    AttachError::NotCurrent,
    AttachError::Scheme,
    AttachError::RateLimited,
    AttachError::Element,
    AttachError::NoElement,
];

impl AttachError {
    /// The byte that stands for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The error of a byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        let index = usize::from(code).checked_sub(1)?;
        ERRORS.get(index).copied()
    }
}

/// Why bytes are not a message of the attach channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A length field of 0 or over [`MAX_MESSAGE`].
    #[error("a message has 1 to 16384 bytes, this one {0}")]
    Length(usize),
    /// A type that this side does not take.
    #[error("unknown message type {0:02X}")]
    Type(u8),
    /// The content does not have the form of its type.
    #[error("malformed content of message type {0:02X}")]
    Content(u8),
}

/// The length of the message that follows its length field.
///
/// # Errors
/// [`MessageError::Length`]: the channel is to be closed.
pub fn message_len(field: [u8; 2]) -> Result<usize, MessageError> {
    let len = usize::from(u16::from_be_bytes(field));
    if (1..=MAX_MESSAGE).contains(&len) {
        Ok(len)
    } else {
        Err(MessageError::Length(len))
    }
}

const JOIN: u8 = 0x01;
const SIGN: u8 = 0x02;
const IDENTITY: u8 = 0x03;
const JOINED: u8 = 0x81;
const SIGNATURE: u8 = 0x82;
const IDENTITY_CHAIN: u8 = 0x83;
const RENEWED: u8 = 0x84;
const REFUSED: u8 = 0xFF;

impl ToEndpoint {
    /// The message with its length field.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Join(secret) => framed(JOIN, &[secret.as_bytes()]),
            Self::Sign(request) => {
                let serial = request.serial.as_bytes();
                let length = u8::try_from(serial.len()).unwrap_or(u8::MAX);
                let scheme = request.scheme.to_be_bytes();
                framed(SIGN, &[&[length], serial, &scheme, request.hash.as_bytes()])
            }
            Self::Identity => framed(IDENTITY, &[]),
        }
    }

    /// Reads a message without its length field.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(message: &[u8]) -> Result<Self, MessageError> {
        let (kind, content) = split(message)?;
        let parsed = match kind {
            JOIN => content.try_into().ok().map(JoinSecret::new).map(Self::Join),
            SIGN => sign_request(content).map(Self::Sign),
            IDENTITY => content.is_empty().then_some(Self::Identity),
            other => return Err(MessageError::Type(other)),
        };
        parsed.ok_or(MessageError::Content(kind))
    }
}

impl ToGuest {
    /// The message with its length field.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Joined { next, chain } => framed(JOINED, &[next.as_bytes(), &chain_bytes(chain)]),
            Self::Signature(signature) => framed(SIGNATURE, &[signature]),
            Self::Renewed(chain) => framed(RENEWED, &[&chain_bytes(chain)]),
            Self::Identity(chain) => framed(IDENTITY_CHAIN, &[&chain_bytes(chain)]),
            Self::Refused(error) => framed(REFUSED, &[&[error.code()]]),
        }
    }

    /// Reads a message without its length field.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(message: &[u8]) -> Result<Self, MessageError> {
        let (kind, content) = split(message)?;
        let parsed = match kind {
            JOINED => content.split_first_chunk().and_then(|(secret, rest)| {
                let next = JoinSecret::new(*secret);
                chain(rest).map(|chain| Self::Joined { next, chain })
            }),
            SIGNATURE => (!content.is_empty()).then(|| Self::Signature(content.to_vec())),
            RENEWED => chain(content).map(Self::Renewed),
            IDENTITY_CHAIN => chain(content).map(Self::Identity),
            REFUSED => match content {
                [code] => AttachError::from_code(*code).map(Self::Refused),
                _ => None,
            },
            other => return Err(MessageError::Type(other)),
        };
        parsed.ok_or(MessageError::Content(kind))
    }
}

fn framed(kind: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    // Every part is bounded by its type, so the length fits; a signature is the only open one.
    let field = u16::try_from(len.min(MAX_MESSAGE)).unwrap_or_default();
    let mut out = Zeroizing::new(Vec::with_capacity(len + 2));
    out.extend_from_slice(&field.to_be_bytes());
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.truncate(MAX_MESSAGE + 2);
    out
}

fn split(message: &[u8]) -> Result<(u8, &[u8]), MessageError> {
    match message {
        [kind, content @ ..] if message.len() <= MAX_MESSAGE => Ok((*kind, content)),
        _ => Err(MessageError::Length(message.len())),
    }
}

fn sign_request(content: &[u8]) -> Option<SignRequest> {
    let (length, rest) = content.split_first()?;
    let (serial, rest) = rest.split_at_checked(usize::from(*length))?;
    let (scheme, hash) = rest.split_first_chunk()?;
    Some(SignRequest {
        serial: Serial::new(serial)?,
        scheme: u16::from_be_bytes(*scheme),
        hash: TranscriptHash::new(hash)?,
    })
}

fn chain_bytes(chain: &Chain) -> Vec<u8> {
    let mut out = Vec::new();
    for der in &chain.0 {
        let length = u16::try_from(der.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(der);
    }
    out
}

fn chain(mut content: &[u8]) -> Option<Chain> {
    let mut certificates = Vec::new();
    while !content.is_empty() {
        let (length, rest) = content.split_first_chunk()?;
        let (der, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        certificates.push(der.to_vec());
        content = rest;
    }
    Chain::new(certificates)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn hash(len: usize) -> TranscriptHash {
        TranscriptHash::new(&vec![0xAB; len]).unwrap()
    }

    #[test]
    fn what_a_client_signs() {
        let content = hash(32).content();
        assert_eq!(&content[..64], &[0x20; 64]);
        assert_eq!(&content[64..98], b"TLS 1.3, client CertificateVerify\0");
        assert_eq!(&content[98..], &[0xAB; 32]);
        assert_eq!(TranscriptHash::from_content(&content), Some(hash(32)));
        assert_eq!(hash(48).content().len(), 64 + 34 + 48);
        let mut server = content;
        server[73..79].copy_from_slice(b"server");
        assert_eq!(TranscriptHash::from_content(&server), None);
        for length in [0, 31, 33, 47, 49, 64] {
            assert_eq!(TranscriptHash::new(&vec![0; length]), None);
        }
    }

    fn check_guest(message: &ToEndpoint, expected: &str) {
        let bytes = message.encode();
        assert_eq!(hex::encode(&bytes), expected);
        assert_eq!(ToEndpoint::parse(&bytes[2..]).as_ref(), Ok(message));
    }

    fn check_endpoint(message: &ToGuest, expected: &str) {
        let bytes = message.encode();
        assert_eq!(hex::encode(&bytes), expected);
        assert_eq!(ToGuest::parse(&bytes[2..]).as_ref(), Ok(message));
    }

    #[test]
    fn known_bytes() {
        let secret = JoinSecret::new([7; 32]);
        let sevens = "07".repeat(32);
        let chain = Chain::new(vec![vec![1, 2, 3], vec![4]]).unwrap();
        check_guest(
            &ToEndpoint::Join(secret.clone()),
            &format!("002101{sevens}"),
        );
        let request = SignRequest {
            serial: Serial::new(&[1, 2]).unwrap(),
            scheme: 0x0403,
            hash: hash(32),
        };
        let ab = "AB".repeat(32);
        check_guest(&ToEndpoint::Sign(request), &format!("0026020201020403{ab}"));
        check_guest(&ToEndpoint::Identity, "000103");
        let joined = ToGuest::Joined {
            next: secret,
            chain: chain.clone(),
        };
        check_endpoint(&joined, &format!("002981{sevens}0003010203000104"));
        check_endpoint(&ToGuest::Signature(vec![0x30]), "00028230");
        check_endpoint(&ToGuest::Identity(chain.clone()), "0009830003010203000104");
        check_endpoint(&ToGuest::Renewed(chain), "0009840003010203000104");
        check_endpoint(&ToGuest::Refused(AttachError::NotCurrent), "0002FF04");
    }

    #[test]
    fn every_error_has_its_byte() {
        for (index, error) in ERRORS.into_iter().enumerate() {
            assert_eq!(usize::from(error.code()), index + 1);
            assert_eq!(AttachError::from_code(error.code()), Some(error));
        }
        assert_eq!(AttachError::from_code(0), None);
        assert_eq!(AttachError::from_code(9), None);
    }

    #[test]
    fn malformed_messages() {
        let check = |text: &str, expected| {
            let message = hex::decode(text).unwrap();
            assert_eq!(ToEndpoint::parse(&message), Err(expected), "{text}");
        };
        check("", MessageError::Length(0));
        check("81", MessageError::Type(0x81));
        check("0300", MessageError::Content(IDENTITY));
        check("01FF", MessageError::Content(JOIN));
        check(
            &format!("02000403{}", "00".repeat(32)),
            MessageError::Content(SIGN),
        );
        check(
            &format!("0215{}0403{}", "00".repeat(21), "00".repeat(32)),
            MessageError::Content(SIGN),
        );
        check(
            &format!("0201010403{}", "00".repeat(33)),
            MessageError::Content(SIGN),
        );
        check("02FF01", MessageError::Content(SIGN));
        for text in [
            "84",
            "840000",
            "8400020A",
            "84000101000101000101000101000101",
            "FF",
            "FF00",
            "FF09",
            "82",
        ] {
            let message = hex::decode(text).unwrap();
            assert_eq!(
                ToGuest::parse(&message),
                Err(MessageError::Content(message[0])),
                "{text}"
            );
        }
        assert_eq!(message_len([0, 0]), Err(MessageError::Length(0)));
        assert_eq!(message_len([0x40, 0]), Ok(MAX_MESSAGE));
        assert_eq!(
            message_len([0x40, 1]),
            Err(MessageError::Length(MAX_MESSAGE + 1))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_reading(message in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..9) {
            let mut message = message;
            if let (Some(first), Some(known)) = (message.first_mut(), [1, 2, 3, 0x81, 0x82, 0x83, 0x84, 0xFF].get(kind)) {
                *first = *known;
            }
            if let Ok(parsed) = ToEndpoint::parse(&message) {
                prop_assert_eq!(&parsed.encode()[2..], &message);
            }
            if let Ok(parsed) = ToGuest::parse(&message) {
                prop_assert_eq!(&parsed.encode()[2..], &message);
            }
        }
    }
}
