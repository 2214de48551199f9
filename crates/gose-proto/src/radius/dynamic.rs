//! Dynamic authorisation as a NAS takes it (RFC 5176): which sessions a Disconnect-Request means, and its answers.

use super::{
    attribute::Type,
    authenticator::Secret,
    packet::{BuildError, Builder, Code, Packet, PacketError},
};

/// Seconds by which an Event-Timestamp may differ from the NAS's clock (RFC 5176, 6.3).
pub const WINDOW: u32 = 300;

/// Why a packet is silently discarded (RFC 5176, 2.3 and 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// It is no RADIUS packet.
    #[error(transparent)]
    Malformed(#[from] PacketError),
    /// Neither Disconnect-Request nor CoA-Request.
    #[error("neither Disconnect-Request nor CoA-Request")]
    UnexpectedCode,
    /// The Request Authenticator is wrong.
    #[error("wrong Request Authenticator; compare the secrets of both ends")]
    WrongAuthenticator,
    /// The Message-Authenticator is wrong.
    #[error("wrong Message-Authenticator")]
    MessageAuthenticator,
    /// Event-Timestamp is too far from now: a replay, or clocks that differ.
    #[error("its Event-Timestamp is {0} s from now; compare the clocks of both ends")]
    Stale(u32),
}

/// Error-Cause of a NAK (RFC 5176, 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// 401: an attribute by which this NAS tells no sessions.
    UnsupportedAttribute,
    /// 402: no attribute that tells a session, or nothing that tells a replay.
    MissingAttribute,
    /// 403: another NAS is meant.
    NasMismatch,
    /// 406: CoA-Request, which this NAS does not serve.
    UnsupportedExtension,
    /// 503: no such session.
    NoSession,
    /// 504: the session could not be removed.
    NotRemovable,
}

impl Cause {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::UnsupportedAttribute => 401,
            Self::MissingAttribute => 402,
            Self::NasMismatch => 403,
            Self::UnsupportedExtension => 406,
            Self::NoSession => 503,
            Self::NotRemovable => 504,
        }
    }
}

/// The sessions that are meant: all that is there must match (RFC 5176, 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Which {
    /// User-Name.
    pub user: Option<Vec<u8>>,
    /// Calling-Station-Id.
    pub calling: Option<Vec<u8>>,
    /// NAS-Port-Id.
    pub port: Option<Vec<u8>>,
    /// Acct-Session-Id.
    pub session: Option<Vec<u8>>,
}

impl Which {
    /// Whether a session is meant.
    #[must_use]
    pub fn matches(&self, user: &[u8], calling: &[u8], port: &[u8], session: &[u8]) -> bool {
        let matches =
            |asked: &Option<Vec<u8>>, own: &[u8]| asked.as_deref().is_none_or(|one| one == own);
        matches(&self.user, user)
            && matches(&self.calling, calling)
            && matches(&self.port, port)
            && matches(&self.session, session)
    }
}

/// A request whose authenticators are right.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a>(Packet<'a>);

impl<'a> Request<'a> {
    /// Reads a packet; `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`Discard`]: the packet has no answer.
    pub fn parse(bytes: &'a [u8], secret: &Secret, now: u32) -> Result<Self, Discard> {
        let packet = Packet::parse(bytes)?;
        if !matches!(packet.code, Code::DisconnectRequest | Code::CoaRequest) {
            return Err(Discard::UnexpectedCode);
        }
        if !packet.request_digest_is_right(secret) {
            return Err(Discard::WrongAuthenticator);
        }
        if packet.verify_request(secret) == Some(false) {
            return Err(Discard::MessageAuthenticator);
        }
        let stamps = packet.all(Type::EVENT_TIMESTAMP);
        for stamp in stamps {
            let away = stamp.integer().map_or(u32::MAX, |at| at.abs_diff(now));
            if away > WINDOW {
                return Err(Discard::Stale(away));
            }
        }
        Ok(Self(packet))
    }

    /// The Request Authenticator, a digest of the whole packet: what tells it from others.
    #[must_use]
    pub fn authenticator(&self) -> [u8; 16] {
        self.0.request_authenticator().0
    }

    /// Which sessions of the NAS with this identifier are meant.
    ///
    /// # Errors
    /// [`Cause`] of the NAK.
    pub fn which(&self, nas: &str) -> Result<Which, Cause> {
        if self.0.code != Code::DisconnectRequest {
            return Err(Cause::UnsupportedExtension);
        }
        let mut which = Which::default();
        for attribute in self.0.attributes() {
            let value = attribute.value;
            match attribute.kind {
                Type::NAS_IDENTIFIER if value == nas.as_bytes() => {}
                // This NAS tells itself by its identifier alone, and gave no address.
                Type::NAS_IDENTIFIER | Type::NAS_IP_ADDRESS | Type::NAS_IPV6_ADDRESS => {
                    return Err(Cause::NasMismatch);
                }
                Type::USER_NAME => which.user = Some(value.to_vec()),
                Type::CALLING_STATION_ID => which.calling = Some(value.to_vec()),
                Type::NAS_PORT_ID => which.port = Some(value.to_vec()),
                Type::ACCT_SESSION_ID => which.session = Some(value.to_vec()),
                Type::EVENT_TIMESTAMP
                | Type::MESSAGE_AUTHENTICATOR
                | Type::PROXY_STATE
                | Type::ACCT_TERMINATE_CAUSE
                | Type::REPLY_MESSAGE => {}
                _ => return Err(Cause::UnsupportedAttribute),
            }
        }
        if which == Which::default() {
            return Err(Cause::MissingAttribute);
        }
        // A session's own number is never given again: a replay of it ends nothing. Everything else needs a time.
        if which.session.is_none() && self.0.first(Type::EVENT_TIMESTAMP).is_none() {
            return Err(Cause::MissingAttribute);
        }
        Ok(which)
    }

    /// The answer: ACK, or NAK with its cause.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn answer(&self, ended: Result<(), Cause>, secret: &Secret) -> Result<Vec<u8>, BuildError> {
        let code = match (self.0.code, &ended) {
            (Code::CoaRequest, _) => Code::CoaNak,
            (_, Ok(())) => Code::DisconnectAck,
            (_, Err(_)) => Code::DisconnectNak,
        };
        let mut builder = Builder::new(code, self.0.identifier);
        if let Err(cause) = ended {
            builder = builder.integer(Type::ERROR_CAUSE, cause.number());
        }
        let proxies = self.0.all(Type::PROXY_STATE);
        builder
            .attributes(proxies.map(|state| (Type::PROXY_STATE, state.value)))
            .answer(&self.0.request_authenticator(), secret)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::radius::{
        client::{Exchange, Timers},
        disconnect::Disconnect,
    };

    const NOW: u32 = 1_767_225_600;

    fn secret() -> Secret {
        Secret::new(b"testing123".to_vec()).unwrap()
    }

    fn check(builder: Builder, expected: Result<Result<Which, Cause>, Discard>) {
        let bytes = builder.digest_request(&secret()).unwrap();
        let request = Request::parse(&bytes, &secret(), NOW);
        assert_eq!(request.map(|request| request.which("hv-1")), expected);
    }

    fn disconnect() -> Builder {
        Builder::new(Code::DisconnectRequest, 7)
    }

    fn user(name: &[u8]) -> Which {
        Which {
            user: Some(name.to_vec()),
            ..Which::default()
        }
    }

    #[test]
    fn which_sessions_are_meant() {
        let asked = || disconnect().attribute(Type::USER_NAME, b"vm1");
        let timely = |at| asked().integer(Type::EVENT_TIMESTAMP, at);
        check(timely(NOW - WINDOW), Ok(Ok(user(b"vm1"))));
        check(timely(NOW - WINDOW - 1), Err(Discard::Stale(WINDOW + 1)));
        check(timely(NOW + WINDOW + 1), Err(Discard::Stale(WINDOW + 1)));
        check(asked(), Ok(Err(Cause::MissingAttribute)));
        check(
            asked().attribute(Type::EVENT_TIMESTAMP, &[1]),
            Err(Discard::Stale(u32::MAX)),
        );
        let numbered = asked().attribute(Type::ACCT_SESSION_ID, b"0A");
        let both = Which {
            session: Some(b"0A".to_vec()),
            ..user(b"vm1")
        };
        check(numbered, Ok(Ok(both)));
        check(
            timely(NOW).attribute(Type::NAS_IDENTIFIER, b"hv-1"),
            Ok(Ok(user(b"vm1"))),
        );
        let others = [
            (Type::NAS_IDENTIFIER, &b"hv-2"[..], Cause::NasMismatch),
            (Type::NAS_IP_ADDRESS, &[192, 0, 2, 1], Cause::NasMismatch),
            (Type::STATE, &[1], Cause::UnsupportedAttribute),
        ];
        for (kind, value, cause) in others {
            check(timely(NOW).attribute(kind, value), Ok(Err(cause)));
        }
        let nobody = disconnect().integer(Type::EVENT_TIMESTAMP, NOW);
        check(nobody, Ok(Err(Cause::MissingAttribute)));
        let change = Builder::new(Code::CoaRequest, 7).integer(Type::EVENT_TIMESTAMP, NOW);
        check(change, Ok(Err(Cause::UnsupportedExtension)));
        let access = Builder::new(Code::AccessRequest, 7);
        check(access, Err(Discard::UnexpectedCode));
    }

    #[test]
    fn all_that_is_there_must_match() {
        let which = Which {
            calling: Some(b"c".to_vec()),
            ..user(b"u")
        };
        assert!(which.matches(b"u", b"c", b"p", b"s"));
        assert!(!which.matches(b"u", b"x", b"p", b"s"));
        assert!(!which.matches(b"x", b"c", b"p", b"s"));
        assert!(Which::default().matches(b"u", b"c", b"p", b"s"));
    }

    #[test]
    fn both_ends_agree() {
        let asked = Disconnect {
            user: "vm1",
            calling: "c",
            nas: "hv-1",
            now: NOW,
            ..Disconnect::default()
        };
        let bytes = asked.encode(9, &secret()).unwrap();
        let request = Request::parse(&bytes, &secret(), NOW).unwrap();
        assert!(
            request
                .which("hv-1")
                .unwrap()
                .matches(b"vm1", b"c", b"", b"")
        );
        let exchange = Exchange::new(
            bytes.clone(),
            secret(),
            Timers::DEFAULT,
            core::time::Duration::ZERO,
        )
        .unwrap();
        let answer = |ended| {
            let bytes = request.answer(ended, &secret()).unwrap();
            let answer = exchange.receive(&bytes).unwrap();
            let cause = answer.first(Type::ERROR_CAUSE).map(<[u8]>::to_vec);
            (answer.code, cause)
        };
        assert_eq!(answer(Ok(())), (Code::DisconnectAck, None));
        let none = (Code::DisconnectNak, Some(503_u32.to_be_bytes().to_vec()));
        assert_eq!(answer(Err(Cause::NoSession)), none);
        let other = Secret::new(b"other".to_vec()).unwrap();
        let wrong = Request::parse(&bytes, &other, NOW);
        assert_eq!(wrong.err(), Some(Discard::WrongAuthenticator));
    }

    #[test]
    fn a_wrong_message_authenticator_is_discarded() {
        let bytes = Builder::without_message_authenticator(Code::DisconnectRequest, 1)
            .attribute(Type::MESSAGE_AUTHENTICATOR, &[9; 16])
            .digest_request(&secret())
            .unwrap();
        let request = Request::parse(&bytes, &secret(), NOW);
        assert_eq!(request.err(), Some(Discard::MessageAuthenticator));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_discarded(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Request::parse(&bytes, &secret(), NOW).is_err());
        }
    }
}
