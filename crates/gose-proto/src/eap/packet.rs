//! EAP packets (RFC 3748, 4).

/// Matches a response with its request; a retransmission keeps it (RFC 3748, 4.1).
pub type Identifier = u8;

/// What a packet is (RFC 3748, 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// 1
    Request,
    /// 2
    Response,
    /// 3
    Success,
    /// 4
    Failure,
}

/// The method or the notice that a request or a response carries (RFC 3748, 5). Unknown values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type(
    /// The type's number.
    pub u8,
);

impl Type {
    /// 1 (RFC 3748, 5.1)
    pub const IDENTITY: Self = Self(1);
    /// 2 (RFC 3748, 5.2)
    pub const NOTIFICATION: Self = Self(2);
    /// 3, in responses only (RFC 3748, 5.3.1)
    pub const NAK: Self = Self(3);
    /// 4 (RFC 3748, 5.4)
    pub const MD5_CHALLENGE: Self = Self(4);
    /// 13 (RFC 5216)
    pub const TLS: Self = Self(13);
    /// 254 (RFC 3748, 5.7)
    pub const EXPANDED: Self = Self(254);
}

/// An EAP packet, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Code.
    pub code: Code,
    /// Identifier.
    pub identifier: Identifier,
    /// Type; there is none in Success and Failure.
    pub kind: Option<Type>,
    /// Type-Data, up to 65,530 bytes.
    pub data: &'a [u8],
}

/// Why bytes are not an EAP packet. A packet like this is silently discarded (RFC 3748, 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Under four bytes.
    #[error("an EAP packet has at least 4 bytes, this one has {0}")]
    TooShort(usize),
    /// A code that is none of 1 to 4.
    #[error("code {0} is none of Request, Response, Success, Failure")]
    UnknownCode(u8),
    /// The Length field announces more bytes than there are.
    #[error("Length says {length}, {found} bytes are there")]
    Truncated {
        /// The Length field.
        length: usize,
        /// Bytes there.
        found: usize,
    },
    /// The Length field is too small for the code, or not 4 in Success and Failure.
    #[error("Length {0} is impossible for this code")]
    Length(usize),
}

impl<'a> Packet<'a> {
    /// Reads a packet; what stands behind its Length comes back apart: padding of the lower layer, or data
    /// for a smart card (draft-urien-eap-smartcard-25, 9.11).
    ///
    /// # Errors
    /// [`PacketError`] for what RFC 3748 has silently discarded.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), PacketError> {
        let [code, identifier, high, low, ..] = *bytes else {
            return Err(PacketError::TooShort(bytes.len()));
        };
        let code = Code::from_byte(code).ok_or(PacketError::UnknownCode(code))?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let found = bytes.len();
        let (packet, padding) = bytes
            .split_at_checked(length)
            .ok_or(PacketError::Truncated { length, found })?;
        let (kind, data) = match (code, packet.get(4..)) {
            (Code::Success | Code::Failure, Some([])) => (None, &[][..]),
            (Code::Request | Code::Response, Some([kind, data @ ..])) => (Some(Type(*kind)), data),
            _ => return Err(PacketError::Length(length)),
        };
        let packet = Self {
            code,
            identifier,
            kind,
            data,
        };
        Ok((packet, padding))
    }

    /// A request.
    #[must_use]
    pub fn request(identifier: Identifier, kind: Type, data: &'a [u8]) -> Self {
        Self {
            code: Code::Request,
            identifier,
            kind: Some(kind),
            data,
        }
    }

    /// A response.
    #[must_use]
    pub fn response(identifier: Identifier, kind: Type, data: &'a [u8]) -> Self {
        Self {
            code: Code::Response,
            ..Self::request(identifier, kind, data)
        }
    }

    /// EAP-Success.
    #[must_use]
    pub fn success(identifier: Identifier) -> Self {
        Self {
            code: Code::Success,
            identifier,
            kind: None,
            data: &[],
        }
    }

    /// EAP-Failure.
    #[must_use]
    pub fn failure(identifier: Identifier) -> Self {
        Self {
            code: Code::Failure,
            ..Self::success(identifier)
        }
    }

    /// The bytes on the line. Type-Data over 65,530 bytes is cut there: no packet carries more.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let data = &self.data[..self.data.len().min(65_530)];
        let length = 4 + usize::from(self.kind.is_some()) + data.len();
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&[self.code.byte(), self.identifier]);
        out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        if let Some(Type(kind)) = self.kind {
            out.push(kind);
            out.extend_from_slice(data);
        }
        out
    }
}

impl Code {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Success),
            4 => Some(Self::Failure),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Success => 3,
            Self::Failure => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn check(bytes: &str, expected: Result<(Packet<'_>, &str), PacketError>) {
        let bytes = hex::decode(bytes).unwrap();
        let found = Packet::parse(&bytes).map(|(packet, padding)| (packet, hex::encode(padding)));
        assert_eq!(found, expected.map(|(p, padding)| (p, padding.to_owned())));
    }

    #[test]
    fn packets_and_padding() {
        check(
            "0114000501",
            Ok((Packet::request(0x14, Type::IDENTITY, &[]), "")),
        );
        check(
            "011400060D205F5E1000",
            Ok((Packet::request(0x14, Type::TLS, &[0x20]), "5F5E1000")),
        );
        check("03070004", Ok((Packet::success(7), "")));
        check("0407000400", Ok((Packet::failure(7), "00")));
    }

    #[test]
    fn what_is_silently_discarded() {
        check("010000", Err(PacketError::TooShort(3)));
        check("05010004", Err(PacketError::UnknownCode(5)));
        check("01010004", Err(PacketError::Length(4)));
        check("0301000501", Err(PacketError::Length(5)));
        check("0101000301", Err(PacketError::Length(3)));
        let error = PacketError::Truncated {
            length: 7,
            found: 6,
        };
        check("010100070D00", Err(error));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn round_trip(identifier: u8, kind: u8, request: bool,
                      data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut packet = Packet::request(identifier, Type(kind), &data);
            if !request {
                packet.code = Code::Response;
            }
            let bytes = packet.encode();
            prop_assert_eq!(Packet::parse(&bytes), Ok((packet, &[][..])));
        }
    }
}
