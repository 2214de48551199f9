//! Disconnect-Request (RFC 5176): which session a NAS is to end.

use std::net::IpAddr;

use super::{
    attribute::Type,
    authenticator::Secret,
    packet::{BuildError, Builder, Code},
};

/// What is known of a session; what is empty is not sent. All that is sent must match (RFC 5176, 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disconnect<'a> {
    /// User-Name.
    pub user: &'a str,
    /// Calling-Station-Id.
    pub calling: &'a str,
    /// Acct-Session-Id.
    pub session: &'a str,
    /// NAS-Identifier.
    pub nas: &'a str,
    /// NAS-IP-Address or NAS-IPv6-Address.
    pub nas_address: Option<IpAddr>,
    /// Event-Timestamp, in seconds since 1970: against replays (RFC 5176, 6.3).
    pub now: u32,
}

impl Disconnect<'_> {
    /// The packet, with a Message-Authenticator.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn encode(&self, identifier: u8, secret: &Secret) -> Result<Vec<u8>, BuildError> {
        let mut builder = Builder::new(Code::DisconnectRequest, identifier);
        builder = match self.nas_address {
            Some(IpAddr::V4(address)) => builder.attribute(Type::NAS_IP_ADDRESS, &address.octets()),
            Some(IpAddr::V6(address)) => {
                builder.attribute(Type::NAS_IPV6_ADDRESS, &address.octets())
            }
            None => builder,
        };
        for (kind, value) in [
            (Type::NAS_IDENTIFIER, self.nas),
            (Type::USER_NAME, self.user),
            (Type::CALLING_STATION_ID, self.calling),
            (Type::ACCT_SESSION_ID, self.session),
        ] {
            if !value.is_empty() {
                builder = builder.attribute(kind, value.as_bytes());
            }
        }
        builder
            .integer(Type::EVENT_TIMESTAMP, self.now)
            .digest_request(secret)
    }
}

/// What an Error-Cause says (RFC 5176, 3.5).
#[must_use]
pub fn error_cause(value: u32) -> &'static str {
    match value {
        201 => "residual session context removed",
        401 => "unsupported attribute",
        402 => "missing attribute",
        403 => "the NAS is another one",
        404 => "invalid request",
        405 => "unsupported service",
        406 => "unsupported extension",
        407 => "invalid attribute value",
        501 => "administratively prohibited; allow this server at the NAS",
        502 => "request not routable",
        503 => "no such session",
        504 => "the session cannot be removed",
        506 => "resources unavailable",
        508 => "several sessions match",
        _ => "another cause",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radius::packet::Packet;

    #[test]
    fn signed_twice_and_only_what_is_known() {
        let secret = Secret::new(b"testing123".to_vec()).unwrap();
        let disconnect = Disconnect {
            user: "@gose.test",
            calling: "02-00-00-00-00-01",
            nas_address: Some([192, 0, 2, 7].into()),
            now: 1_767_225_600,
            ..Disconnect::default()
        };
        let bytes = disconnect.encode(9, &secret).unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.code, Code::DisconnectRequest);
        assert!(packet.request_digest_is_right(&secret));
        assert_eq!(packet.verify_request(&secret), Some(true));
        let kinds: Vec<u8> = packet.attributes().map(|one| one.kind.0).collect();
        assert_eq!(kinds, [80, 4, 1, 31, 55]);
        let other = Secret::new(b"other".to_vec()).unwrap();
        assert!(!packet.request_digest_is_right(&other));
        assert_eq!(packet.verify_request(&other), Some(false));
    }
}
