//! Packets (RFC 2865, 3): a total parser, and a builder that computes the authenticators.

use std::ops::Range;

use super::{
    attribute::{Attribute, MAX_VALUE, Type, Walk},
    authenticator::{self, RequestAuthenticator, ResponseAuthenticator, Secret},
};

/// Bytes before the attributes.
pub(super) const HEADER: usize = 20;
/// Where the authenticator stands.
pub(super) const AUTHENTICATOR: Range<usize> = 4..20;
/// The greatest packet (RFC 2865, 3).
pub const MAX_PACKET: usize = 4096;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// 1
    AccessRequest,
    /// 2
    AccessAccept,
    /// 3
    AccessReject,
    /// 4
    AccountingRequest,
    /// 5
    AccountingResponse,
    /// 11
    AccessChallenge,
    /// 12 (RFC 5997)
    StatusServer,
    /// 40 (RFC 5176)
    DisconnectRequest,
    /// 41 (RFC 5176)
    DisconnectAck,
    /// 42 (RFC 5176)
    DisconnectNak,
    /// 43 (RFC 5176)
    CoaRequest,
    /// 44 (RFC 5176)
    CoaAck,
    /// 45 (RFC 5176)
    CoaNak,
}

const CODES: [(u8, Code); 13] = [
    (1, Code::AccessRequest),
    (2, Code::AccessAccept),
    (3, Code::AccessReject),
    (4, Code::AccountingRequest),
    (5, Code::AccountingResponse),
    (11, Code::AccessChallenge),
    (12, Code::StatusServer),
    (40, Code::DisconnectRequest),
    (41, Code::DisconnectAck),
    (42, Code::DisconnectNak),
    (43, Code::CoaRequest),
    (44, Code::CoaAck),
    (45, Code::CoaNak),
];

impl Code {
    /// The code with this number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        CODES
            .iter()
            .find(|(number, _)| *number == byte)
            .map(|(_, code)| *code)
    }

    /// Its number.
    #[must_use]
    pub fn byte(self) -> u8 {
        CODES
            .iter()
            .find(|(_, code)| *code == self)
            .map_or(0, |(number, _)| *number)
    }
}

/// Why bytes are not a RADIUS packet. A packet like this is silently discarded (RFC 2865, 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Under 20 bytes.
    #[error("a packet has at least 20 bytes, this one has {0}")]
    TooShort(usize),
    /// A code that no machine of this crate knows.
    #[error("code {0} is unknown")]
    UnknownCode(u8),
    /// The Length field is under 20 or over 4096.
    #[error("Length {0} is not in 20 to 4096")]
    Length(usize),
    /// The Length field announces more bytes than there are.
    #[error("Length says {length}, {found} bytes are there")]
    Truncated {
        /// The Length field.
        length: usize,
        /// Bytes there.
        found: usize,
    },
    /// An attribute's length is under 2 or passes the packet.
    #[error("the attribute at byte {0} has an impossible length")]
    Attribute(usize),
    /// More than one Message-Authenticator (RFC 3579, 3.3), or one that has not 16 bytes.
    #[error("the Message-Authenticator is not one of 16 bytes")]
    MessageAuthenticator,
}

/// A packet whose attributes are all there, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is.
    pub code: Code,
    /// Matches an answer with its request.
    pub identifier: u8,
    bytes: &'a [u8],
    message_authenticator: Option<usize>,
}

impl<'a> Packet<'a> {
    /// Reads a packet. Bytes beyond its Length are padding (RFC 2865, 3).
    ///
    /// # Errors
    /// [`PacketError`] for what is silently discarded.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let found = bytes.len();
        let [code, identifier, high, low, ..] = *bytes else {
            return Err(PacketError::TooShort(found));
        };
        if found < HEADER {
            return Err(PacketError::TooShort(found));
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(HEADER..=MAX_PACKET).contains(&length) {
            return Err(PacketError::Length(length));
        }
        let bytes = bytes
            .get(..length)
            .ok_or(PacketError::Truncated { length, found })?;
        let code = Code::from_byte(code).ok_or(PacketError::UnknownCode(code))?;
        let message_authenticator = check_attributes(bytes)?;
        Ok(Self {
            code,
            identifier,
            bytes,
            message_authenticator,
        })
    }

    /// The whole packet without padding.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The authenticator field of a request.
    #[must_use]
    pub fn request_authenticator(&self) -> RequestAuthenticator {
        RequestAuthenticator(self.authenticator())
    }

    fn authenticator(&self) -> [u8; 16] {
        self.bytes[AUTHENTICATOR].try_into().unwrap_or_default()
    }

    /// The attributes in their order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        Walk {
            rest: &self.bytes[HEADER..],
        }
        .map(|(kind, value)| Attribute {
            kind: Type(kind),
            value,
        })
    }

    /// The attributes of one type, in their order.
    pub fn all(&self, kind: Type) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        self.attributes()
            .filter(move |attribute| attribute.kind == kind)
    }

    /// The first attribute of a type.
    #[must_use]
    pub fn first(&self, kind: Type) -> Option<Attribute<'a>> {
        self.all(kind).next()
    }

    /// The EAP packet in the EAP-Message attributes, joined; `None` without any (RFC 3579, 3.1).
    #[must_use]
    pub fn eap(&self) -> Option<Vec<u8>> {
        self.first(Type::EAP_MESSAGE)?;
        Some(
            self.all(Type::EAP_MESSAGE)
                .flat_map(|part| part.value)
                .copied()
                .collect(),
        )
    }

    /// The value of the Message-Authenticator.
    #[must_use]
    pub fn message_authenticator(&self) -> Option<[u8; 16]> {
        let at = self.message_authenticator?;
        self.bytes.get(at..at + 16)?.try_into().ok()
    }

    /// Checks the Message-Authenticator of a request; `None` if there is none.
    #[must_use]
    pub fn verify_request(&self, secret: &Secret) -> Option<bool> {
        // A digest as authenticator is computed last: in those requests zeros stand in its place (RFC 5176, 2.3).
        let authenticator = match self.code {
            Code::AccountingRequest | Code::DisconnectRequest | Code::CoaRequest => [0; 16],
            _ => self.authenticator(),
        };
        self.verify(&authenticator, secret)
    }

    /// Checks the Message-Authenticator of an answer to a request; `None` if there is none.
    #[must_use]
    pub fn verify_answer(&self, request: &RequestAuthenticator, secret: &Secret) -> Option<bool> {
        self.verify(&request.0, secret)
    }

    fn verify(&self, authenticator: &[u8; 16], secret: &Secret) -> Option<bool> {
        let at = self.message_authenticator?;
        Some(authenticator::message_authenticator_is_right(
            self.bytes,
            at,
            authenticator,
            secret,
        ))
    }

    /// Whether the authenticator of an Accounting-, Disconnect- or CoA-Request is the digest of the packet (RFC 2866, 3).
    #[must_use]
    pub fn request_digest_is_right(&self, secret: &Secret) -> bool {
        authenticator::equal(
            &self.authenticator(),
            &authenticator::digest(self.bytes, &[0; 16], secret),
        )
    }

    /// Whether the [`ResponseAuthenticator`] binds this answer to the request (RFC 2865, 3).
    #[must_use]
    pub fn answers(&self, request: &RequestAuthenticator, secret: &Secret) -> bool {
        let expected = ResponseAuthenticator(authenticator::digest(self.bytes, &request.0, secret));
        authenticator::equal(&self.authenticator(), &expected.0)
    }
}

/// Every attribute is whole; where the value of the only Message-Authenticator begins.
fn check_attributes(bytes: &[u8]) -> Result<Option<usize>, PacketError> {
    let mut walk = Walk {
        rest: &bytes[HEADER..],
    };
    let mut message_authenticator = None;
    while !walk.rest.is_empty() {
        let at = bytes.len() - walk.rest.len();
        let (kind, value) = walk.next().ok_or(PacketError::Attribute(at))?;
        if Type(kind) == Type::MESSAGE_AUTHENTICATOR {
            if value.len() != 16 || message_authenticator.is_some() {
                return Err(PacketError::MessageAuthenticator);
            }
            message_authenticator = Some(at + 2);
        }
    }
    Ok(message_authenticator)
}

/// Why a packet cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A value over 253 bytes.
    #[error("attribute {0} has {1} bytes, 253 fit")]
    AttributeTooLong(u8, usize),
    /// The packet would pass 4096 bytes.
    #[error(
        "the packet would have {0} bytes, 4096 is the bound; send fewer attributes or smaller EAP fragments"
    )]
    PacketTooLong(usize),
}

/// Builds a packet attribute by attribute; the first error comes out at the end.
pub struct Builder {
    bytes: Vec<u8>,
    message_authenticator: bool,
    error: Option<BuildError>,
}

impl Builder {
    /// A packet that begins with a Message-Authenticator.
    #[must_use]
    pub fn new(code: Code, identifier: u8) -> Self {
        let mut builder = Self::without_message_authenticator(code, identifier);
        builder.message_authenticator = true;
        builder.attribute(Type::MESSAGE_AUTHENTICATOR, &[0; 16])
    }

    /// A packet without one: Accounting-Response, which may not have it (RFC 2866, 5.13), and what tests need.
    #[must_use]
    pub fn without_message_authenticator(code: Code, identifier: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[code.byte(), identifier, 0, 0]);
        bytes.extend_from_slice(&[0; 16]);
        Self {
            bytes,
            message_authenticator: false,
            error: None,
        }
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: Type, value: &[u8]) -> Self {
        match u8::try_from(value.len() + 2) {
            Ok(length) if value.len() <= MAX_VALUE => {
                self.bytes.extend_from_slice(&[kind.0, length]);
                self.bytes.extend_from_slice(value);
            }
            _ => {
                self.error = self
                    .error
                    .or(Some(BuildError::AttributeTooLong(kind.0, value.len())))
            }
        }
        self
    }

    /// Appends an integer.
    #[must_use]
    pub fn integer(self, kind: Type, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends attributes in their order.
    #[must_use]
    pub fn attributes<'v>(self, attributes: impl IntoIterator<Item = (Type, &'v [u8])>) -> Self {
        attributes.into_iter().fold(self, |builder, (kind, value)| {
            builder.attribute(kind, value)
        })
    }

    /// Appends an EAP packet in consecutive EAP-Message attributes (RFC 3579, 3.1); an empty one is EAP-Start.
    #[must_use]
    pub fn eap(self, packet: &[u8]) -> Self {
        if packet.is_empty() {
            return self.attribute(Type::EAP_MESSAGE, &[]);
        }
        packet.chunks(MAX_VALUE).fold(self, |builder, part| {
            builder.attribute(Type::EAP_MESSAGE, part)
        })
    }

    /// A request whose authenticator is random: Access-Request, Status-Server.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn request(
        self,
        authenticator: &RequestAuthenticator,
        secret: &Secret,
    ) -> Result<Vec<u8>, BuildError> {
        let signed = self.message_authenticator;
        let mut bytes = self.close()?;
        bytes[AUTHENTICATOR].copy_from_slice(&authenticator.0);
        if signed {
            sign(&mut bytes, &authenticator.0, secret);
        }
        Ok(bytes)
    }

    /// A request whose authenticator is a digest: Accounting-Request, Disconnect-Request, CoA-Request.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn digest_request(self, secret: &Secret) -> Result<Vec<u8>, BuildError> {
        self.answer(&RequestAuthenticator([0; 16]), secret)
    }

    /// An answer to a request.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn answer(
        self,
        request: &RequestAuthenticator,
        secret: &Secret,
    ) -> Result<Vec<u8>, BuildError> {
        let signed = self.message_authenticator;
        let mut bytes = self.close()?;
        if signed {
            sign(&mut bytes, &request.0, secret);
        }
        let digest = ResponseAuthenticator(authenticator::digest(&bytes, &request.0, secret));
        bytes[AUTHENTICATOR].copy_from_slice(&digest.0);
        Ok(bytes)
    }

    fn close(mut self) -> Result<Vec<u8>, BuildError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let length = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        if self.bytes.len() > MAX_PACKET {
            return Err(BuildError::PacketTooLong(self.bytes.len()));
        }
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        Ok(self.bytes)
    }
}

/// Fills in the Message-Authenticator, which is the first attribute.
fn sign(bytes: &mut [u8], authenticator: &[u8; 16], secret: &Secret) {
    let at = HEADER + 2;
    if let Some(value) = authenticator::message_authenticator(bytes, at, authenticator, secret) {
        bytes[at..at + 16].copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests;
