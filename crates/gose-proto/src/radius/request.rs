//! Requests to a server, checked: what passes here has the right secret behind it.

use std::net::IpAddr;

use super::{
    attribute::Type,
    authenticator::{RequestAuthenticator, Secret},
    packet::{Code, Packet, PacketError},
};

/// Why a packet is silently discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Discard {
    /// It is no RADIUS packet.
    #[error("malformed packet")]
    Malformed,
    /// An answer, or a request of another protocol, came to a server.
    #[error("a packet with this code is not for a server")]
    UnexpectedCode,
    /// No Message-Authenticator where one is required: a proxy or a NAS that BlastRADIUS can attack.
    #[error("no Message-Authenticator; update the client")]
    NoMessageAuthenticator,
    /// The Message-Authenticator is wrong: another secret, or a forged packet.
    #[error("wrong Message-Authenticator; compare the secrets of both ends")]
    WrongMessageAuthenticator,
    /// The Request Authenticator of an accounting request is wrong.
    #[error("wrong Request Authenticator; compare the secrets of both ends")]
    WrongAuthenticator,
    /// A State that was answered already, or is being worked on, in another packet: a replay.
    #[error("a State that was used already")]
    ReplayedState,
    /// A State that another client was given.
    #[error("the State of another client's conversation")]
    ForeignState,
    /// A duplicate of a request that is being worked on: its answer comes.
    #[error("a duplicate of a request that is being worked on")]
    InProgress,
    /// No room, and the policy says drop.
    #[error("too much to do; add elements, or raise the limits")]
    Overload,
}

impl Discard {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::UnexpectedCode,
        Self::NoMessageAuthenticator,
        Self::WrongMessageAuthenticator,
        Self::WrongAuthenticator,
        Self::ReplayedState,
        Self::ForeignState,
        Self::InProgress,
        Self::Overload,
    ];

    /// The cause as a label of a metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnexpectedCode => "unexpected-code",
            Self::NoMessageAuthenticator => "no-message-authenticator",
            Self::WrongMessageAuthenticator => "wrong-message-authenticator",
            Self::WrongAuthenticator => "wrong-authenticator",
            Self::ReplayedState => "replayed-state",
            Self::ForeignState => "foreign-state",
            Self::InProgress => "in-progress",
            Self::Overload => "overload",
        }
    }
}

impl From<PacketError> for Discard {
    fn from(_: PacketError) -> Self {
        Self::Malformed
    }
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Access-Request.
    Access,
    /// Accounting-Request.
    Accounting,
    /// Status-Server.
    Status,
}

/// A request whose sender knows the secret. Only [`Verified::parse`] makes it.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a> {
    kind: Kind,
    packet: Packet<'a>,
}

impl<'a> Verified<'a> {
    /// Parses and checks a request: Access-Request and Status-Server need a right Message-Authenticator, with EAP in
    /// them or not; Accounting-Request needs a right Request Authenticator, and its Message-Authenticator must be
    /// right if there is one.
    ///
    /// # Errors
    /// [`Discard`]: nothing is answered.
    pub fn parse(bytes: &'a [u8], secret: &Secret) -> Result<Self, Discard> {
        let packet = Packet::parse(bytes)?;
        let kind = match packet.code {
            Code::AccessRequest => Kind::Access,
            Code::AccountingRequest => Kind::Accounting,
            Code::StatusServer => Kind::Status,
            _ => return Err(Discard::UnexpectedCode),
        };
        if kind == Kind::Accounting && !packet.request_digest_is_right(secret) {
            return Err(Discard::WrongAuthenticator);
        }
        match (kind, packet.verify_request(secret)) {
            (_, Some(true)) | (Kind::Accounting, None) => Ok(Self { kind, packet }),
            (_, Some(false)) => Err(Discard::WrongMessageAuthenticator),
            (_, None) => Err(Discard::NoMessageAuthenticator),
        }
    }

    /// What is asked for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The packet.
    #[must_use]
    pub fn packet(&self) -> &Packet<'a> {
        &self.packet
    }

    /// What two transmissions of one request have in common and two requests have not.
    #[must_use]
    pub fn fingerprint(&self) -> (RequestAuthenticator, Option<[u8; 16]>) {
        (
            self.packet.request_authenticator(),
            self.packet.message_authenticator(),
        )
    }

    /// What the client says of the port and the station; the peer's identity is not in it.
    #[must_use]
    pub fn station(&self) -> Station {
        let text = |kind| {
            let value = self
                .packet
                .first(kind)
                .map(|attribute| attribute.value)
                .unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        Station {
            calling: text(Type::CALLING_STATION_ID),
            called: text(Type::CALLED_STATION_ID),
            nas: text(Type::NAS_IDENTIFIER),
            nas_address: self.nas_address(),
            user: text(Type::USER_NAME),
            framed_mtu: self
                .packet
                .first(Type::FRAMED_MTU)
                .and_then(|attribute| attribute.integer()),
        }
    }
}

impl Verified<'_> {
    fn nas_address(&self) -> Option<IpAddr> {
        let packet = self.packet();
        let four = packet.first(Type::NAS_IP_ADDRESS);
        let four = four.and_then(|attribute| <[u8; 4]>::try_from(attribute.value).ok());
        let six = packet.first(Type::NAS_IPV6_ADDRESS);
        let six = six.and_then(|attribute| <[u8; 16]>::try_from(attribute.value).ok());
        four.map(IpAddr::from).or_else(|| six.map(IpAddr::from))
    }
}

/// Where the peer is, as its NAS says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Station {
    /// Calling-Station-Id.
    pub calling: String,
    /// Called-Station-Id.
    pub called: String,
    /// NAS-Identifier.
    pub nas: String,
    /// NAS-IP-Address or NAS-IPv6-Address.
    pub nas_address: Option<IpAddr>,
    /// User-Name: what the peer says it is called.
    pub user: String,
    /// Framed-MTU: the greatest EAP packet the link carries, in bytes (RFC 3579, 2.4).
    pub framed_mtu: Option<u32>,
}

/// An Accounting-Request's facts (RFC 2866).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounting {
    /// 1 start, 2 stop, 3 interim update, 7 on, 8 off.
    pub status: Option<u32>,
    /// Acct-Session-Id.
    pub session: String,
    /// User-Name.
    pub user: String,
    /// Class of the Access-Accept that began the session.
    pub class: Vec<u8>,
    /// Where.
    pub station: Station,
    /// Bytes from the peer, gigawords included.
    pub input_bytes: u64,
    /// Bytes to the peer, gigawords included.
    pub output_bytes: u64,
    /// Seconds.
    pub seconds: Option<u32>,
    /// Acct-Terminate-Cause.
    pub cause: Option<u32>,
}

impl Accounting {
    /// Reads the facts out of an Accounting-Request.
    #[must_use]
    pub fn of(request: &Verified<'_>) -> Self {
        let packet = request.packet();
        let integer = |kind| packet.first(kind).and_then(|attribute| attribute.integer());
        let text = |kind| {
            let value = packet
                .first(kind)
                .map(|attribute| attribute.value)
                .unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let wide = |low, high| {
            u64::from(integer(low).unwrap_or_default())
                | u64::from(integer(high).unwrap_or_default()) << 32
        };
        Self {
            status: integer(Type::ACCT_STATUS_TYPE),
            session: text(Type::ACCT_SESSION_ID),
            user: text(Type::USER_NAME),
            class: packet
                .first(Type::CLASS)
                .map(|attribute| attribute.value.to_vec())
                .unwrap_or_default(),
            station: request.station(),
            input_bytes: wide(Type::ACCT_INPUT_OCTETS, Type::ACCT_INPUT_GIGAWORDS),
            output_bytes: wide(Type::ACCT_OUTPUT_OCTETS, Type::ACCT_OUTPUT_GIGAWORDS),
            seconds: integer(Type::ACCT_SESSION_TIME),
            cause: integer(Type::ACCT_TERMINATE_CAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radius::packet::Builder;

    fn secret() -> Secret {
        Secret::new(b"testing123".to_vec()).unwrap()
    }

    fn check(bytes: &[u8], expected: Result<Kind, Discard>) {
        assert_eq!(
            Verified::parse(bytes, &secret()).map(|request| request.kind()),
            expected
        );
    }

    #[test]
    fn what_passes_and_what_does_not() {
        let at = RequestAuthenticator([1; 16]);
        let (good, wrong) = (secret(), Secret::new(b"other".to_vec()).unwrap());
        let access = || Builder::new(Code::AccessRequest, 1).eap(&[]);
        check(&access().request(&at, &good).unwrap(), Ok(Kind::Access));
        check(
            &access().request(&at, &wrong).unwrap(),
            Err(Discard::WrongMessageAuthenticator),
        );
        let bare = |code| Builder::without_message_authenticator(code, 1);
        check(
            &bare(Code::AccessRequest)
                .eap(&[])
                .request(&at, &good)
                .unwrap(),
            Err(Discard::NoMessageAuthenticator),
        );
        check(
            &bare(Code::AccessRequest).request(&at, &good).unwrap(),
            Err(Discard::NoMessageAuthenticator),
        );
        check(
            &bare(Code::StatusServer).request(&at, &good).unwrap(),
            Err(Discard::NoMessageAuthenticator),
        );
        check(
            &Builder::new(Code::StatusServer, 1)
                .request(&at, &good)
                .unwrap(),
            Ok(Kind::Status),
        );
        check(
            &bare(Code::AccountingRequest).digest_request(&good).unwrap(),
            Ok(Kind::Accounting),
        );
        check(
            &bare(Code::AccountingRequest)
                .digest_request(&wrong)
                .unwrap(),
            Err(Discard::WrongAuthenticator),
        );
        check(
            &Builder::new(Code::AccountingRequest, 1)
                .digest_request(&good)
                .unwrap(),
            Ok(Kind::Accounting),
        );
        check(
            &Builder::new(Code::AccessAccept, 1)
                .answer(&at, &good)
                .unwrap(),
            Err(Discard::UnexpectedCode),
        );
        check(&[1, 2, 3], Err(Discard::Malformed));
    }

    #[test]
    fn accounting_facts() {
        let bytes = Builder::new(Code::AccountingRequest, 1)
            .integer(Type::ACCT_STATUS_TYPE, 2)
            .attribute(Type::ACCT_SESSION_ID, b"A1")
            .attribute(Type::USER_NAME, b"vm1")
            .integer(Type::ACCT_INPUT_OCTETS, 5)
            .integer(Type::ACCT_INPUT_GIGAWORDS, 1)
            .integer(Type::ACCT_SESSION_TIME, 60)
            .digest_request(&secret())
            .unwrap();
        let facts = Accounting::of(&Verified::parse(&bytes, &secret()).unwrap());
        assert_eq!(
            (facts.status, facts.session.as_str(), facts.user.as_str()),
            (Some(2), "A1", "vm1")
        );
        assert_eq!(
            (facts.input_bytes, facts.output_bytes, facts.seconds),
            ((1 << 32) + 5, 0, Some(60))
        );
    }
}
