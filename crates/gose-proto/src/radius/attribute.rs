//! Attributes (RFC 2865, 5) and vendor attributes in them (RFC 2865, 5.26).

/// An attribute's number. Unknown values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type(
    /// The number.
    pub u8,
);

impl Type {
    /// RFC 2865, 5.1
    pub const USER_NAME: Self = Self(1);
    /// RFC 2865, 5.4
    pub const NAS_IP_ADDRESS: Self = Self(4);
    /// RFC 2865, 5.5
    pub const NAS_PORT: Self = Self(5);
    /// RFC 2865, 5.11
    pub const FILTER_ID: Self = Self(11);
    /// RFC 2865, 5.12
    pub const FRAMED_MTU: Self = Self(12);
    /// RFC 2865, 5.18
    pub const REPLY_MESSAGE: Self = Self(18);
    /// RFC 2865, 5.24
    pub const STATE: Self = Self(24);
    /// RFC 2865, 5.25
    pub const CLASS: Self = Self(25);
    /// RFC 2865, 5.26
    pub const VENDOR_SPECIFIC: Self = Self(26);
    /// RFC 2865, 5.27; seconds
    pub const SESSION_TIMEOUT: Self = Self(27);
    /// RFC 2865, 5.28; seconds
    pub const IDLE_TIMEOUT: Self = Self(28);
    /// RFC 2865, 5.29
    pub const TERMINATION_ACTION: Self = Self(29);
    /// RFC 2865, 5.30
    pub const CALLED_STATION_ID: Self = Self(30);
    /// RFC 2865, 5.31
    pub const CALLING_STATION_ID: Self = Self(31);
    /// RFC 2865, 5.32
    pub const NAS_IDENTIFIER: Self = Self(32);
    /// RFC 2865, 5.33
    pub const PROXY_STATE: Self = Self(33);
    /// RFC 2866, 5.1
    pub const ACCT_STATUS_TYPE: Self = Self(40);
    /// RFC 2866, 5.3
    pub const ACCT_INPUT_OCTETS: Self = Self(42);
    /// RFC 2866, 5.4
    pub const ACCT_OUTPUT_OCTETS: Self = Self(43);
    /// RFC 2866, 5.5
    pub const ACCT_SESSION_ID: Self = Self(44);
    /// RFC 2866, 5.7; seconds
    pub const ACCT_SESSION_TIME: Self = Self(46);
    /// RFC 2866, 5.10
    pub const ACCT_TERMINATE_CAUSE: Self = Self(49);
    /// RFC 2869, 5.1
    pub const ACCT_INPUT_GIGAWORDS: Self = Self(52);
    /// RFC 2869, 5.2
    pub const ACCT_OUTPUT_GIGAWORDS: Self = Self(53);
    /// RFC 2869, 5.3; seconds since 1970
    pub const EVENT_TIMESTAMP: Self = Self(55);
    /// RFC 2865, 5.41
    pub const NAS_PORT_TYPE: Self = Self(61);
    /// RFC 2868, 3.1
    pub const TUNNEL_TYPE: Self = Self(64);
    /// RFC 2868, 3.2
    pub const TUNNEL_MEDIUM_TYPE: Self = Self(65);
    /// RFC 2869, 5.13
    pub const EAP_MESSAGE: Self = Self(79);
    /// RFC 2869, 5.14; RFC 3579, 3.2
    pub const MESSAGE_AUTHENTICATOR: Self = Self(80);
    /// RFC 2868, 3.6
    pub const TUNNEL_PRIVATE_GROUP_ID: Self = Self(81);
    /// RFC 2869, 5.17
    pub const NAS_PORT_ID: Self = Self(87);
    /// RFC 3162, 2.1
    pub const NAS_IPV6_ADDRESS: Self = Self(95);
    /// RFC 5176, 3.5
    pub const ERROR_CAUSE: Self = Self(101);
    /// RFC 7268, 2.2; the Session-Id of the EAP method
    pub const EAP_KEY_NAME: Self = Self(102);
}

/// The greatest number of bytes in an attribute's value.
pub const MAX_VALUE: usize = 253;

/// An attribute, borrowed from its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is.
    pub kind: Type,
    /// Its value, at most [`MAX_VALUE`] bytes.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The four bytes of an integer, a time or an IPv4 address.
    #[must_use]
    pub fn integer(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// The value as text, if it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value).ok()
    }

    /// The vendor attributes in a Vendor-Specific of the recommended form (vendor, then type, length, value).
    /// A sub-attribute that lies about its length ends the list.
    pub fn vendor(&self) -> impl Iterator<Item = Vendor<'a>> + use<'a> {
        let (id, rest) = match (self.kind, self.value.split_first_chunk::<4>()) {
            (Type::VENDOR_SPECIFIC, Some((id, rest))) => (u32::from_be_bytes(*id), rest),
            _ => (0, &[][..]),
        };
        Walk { rest }.map(move |(kind, value)| Vendor { id, kind, value })
    }
}

/// One attribute of a vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vendor<'a> {
    /// SMI network management private enterprise code.
    pub id: u32,
    /// The vendor's type.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

impl Vendor<'_> {
    /// Microsoft (RFC 2548).
    pub const MICROSOFT: u32 = 311;

    /// The value of a Vendor-Specific that carries this attribute alone; `None` if it is too long.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = u8::try_from(self.value.len() + 2)
            .ok()
            .filter(|length| usize::from(*length) + 4 <= MAX_VALUE)?;
        let mut out = self.id.to_be_bytes().to_vec();
        out.extend_from_slice(&[self.kind, length]);
        out.extend_from_slice(self.value);
        Some(out)
    }
}

/// Walks type-length-value triples whose length counts its own two bytes of header.
#[derive(Debug, Clone)]
pub(super) struct Walk<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Iterator for Walk<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [kind, length, ..] = *self.rest else {
            return None;
        };
        let whole = self.rest.get(..usize::from(length))?;
        let value = whole.get(2..)?;
        self.rest = &self.rest[whole.len()..];
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_attributes() {
        let one = Vendor {
            id: 311,
            kind: 17,
            value: &[1, 2, 3],
        };
        let value = one.encode().unwrap();
        assert_eq!(value, [0, 0, 1, 55, 17, 5, 1, 2, 3]);
        let attribute = Attribute {
            kind: Type::VENDOR_SPECIFIC,
            value: &value,
        };
        assert_eq!(attribute.vendor().collect::<Vec<_>>(), [one]);
        assert_eq!(
            Vendor {
                id: 1,
                kind: 1,
                value: &[0; 247]
            }
            .encode()
            .map(|v| v.len()),
            Some(253)
        );
        assert_eq!(
            Vendor {
                id: 1,
                kind: 1,
                value: &[0; 248]
            }
            .encode(),
            None
        );
    }

    #[test]
    fn vendor_attributes_that_lie() {
        let count = |value: &[u8]| {
            Attribute {
                kind: Type::VENDOR_SPECIFIC,
                value,
            }
            .vendor()
            .count()
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[0, 0, 1]), 0);
        assert_eq!(count(&[0, 0, 1, 55, 17]), 0);
        assert_eq!(count(&[0, 0, 1, 55, 17, 1]), 0);
        assert_eq!(count(&[0, 0, 1, 55, 17, 4, 0]), 0);
        assert_eq!(count(&[0, 0, 1, 55, 17, 2, 16, 2]), 2);
        assert_eq!(
            Attribute {
                kind: Type::STATE,
                value: &[0, 0, 1, 55, 17, 2]
            }
            .vendor()
            .count(),
            0
        );
    }
}
