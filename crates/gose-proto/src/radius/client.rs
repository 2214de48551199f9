//! The client's machine: one request, its retransmissions (RFC 5080, 2.2.1), its answer checked.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{
    attribute::Type,
    authenticator::{RequestAuthenticator, Secret},
    mppe,
    packet::{BuildError, Builder, Code, Packet, PacketError},
};

/// An Access-Request that carries an EAP response.
#[derive(Debug, Clone, Default)]
pub struct Access<'a> {
    /// User-Name: the peer's EAP identity (RFC 3579, 2.1).
    pub user_name: &'a [u8],
    /// NAS-Identifier.
    pub nas_identifier: &'a str,
    /// Calling-Station-Id.
    pub calling_station: &'a str,
    /// Framed-MTU, in bytes.
    pub framed_mtu: u32,
    /// State of the last Access-Challenge.
    pub state: Option<&'a [u8]>,
    /// The EAP packet.
    pub eap: &'a [u8],
}

impl Access<'_> {
    /// The packet; `authenticator` is random and used once.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn encode(
        &self,
        identifier: u8,
        authenticator: &RequestAuthenticator,
        secret: &Secret,
    ) -> Result<Vec<u8>, BuildError> {
        let mut builder = Builder::new(Code::AccessRequest, identifier)
            .attribute(Type::USER_NAME, self.user_name)
            .attribute(Type::NAS_IDENTIFIER, self.nas_identifier.as_bytes())
            .attribute(Type::CALLING_STATION_ID, self.calling_station.as_bytes())
            .integer(Type::FRAMED_MTU, self.framed_mtu)
            // A request for the name of the key (RFC 7268, 2.2).
            .attribute(Type::EAP_KEY_NAME, &[0])
            .eap(self.eap);
        if let Some(state) = self.state {
            builder = builder.attribute(Type::STATE, state);
        }
        builder.request(authenticator, secret)
    }
}

/// When to send again (RFC 5080, 2.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timers {
    /// Until the first retransmission.
    pub initial: Duration,
    /// The longest interval.
    pub longest: Duration,
    /// Transmissions in all.
    pub count: u32,
    /// Until the client gives up.
    pub patience: Duration,
}

impl Timers {
    /// 2 s, 16 s, 5 times, 30 s: the RFC's values.
    pub const DEFAULT: Self = Self {
        initial: Duration::from_secs(2),
        longest: Duration::from_secs(16),
        count: 5,
        patience: Duration::from_secs(30),
    };
}

/// What an exchange wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Send these bytes, then ask again.
    Send(&'a [u8]),
    /// Wait for a packet until then.
    Wait(Duration),
    /// No answer came.
    GiveUp,
}

/// Why a packet is not the answer; it is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTheAnswer {
    /// It is no RADIUS packet.
    #[error(transparent)]
    Malformed(#[from] PacketError),
    /// Another Identifier, or a code that does not answer the request.
    #[error("it answers another request")]
    Other,
    /// The Response Authenticator is wrong.
    #[error("wrong Response Authenticator; compare the secrets of both ends")]
    WrongAuthenticator,
    /// The Message-Authenticator is wrong, or it is missing in an answer to Access-Request.
    #[error("no right Message-Authenticator; the server must send one (BlastRADIUS)")]
    MessageAuthenticator,
}

/// A checked answer.
pub struct Answer {
    /// What it is.
    pub code: Code,
    /// The EAP packet, joined.
    pub eap: Option<Vec<u8>>,
    /// State, for the next request.
    pub state: Option<Vec<u8>>,
    /// MS-MPPE-Recv-Key and MS-MPPE-Send-Key.
    pub msk: Option<Zeroizing<[u8; 64]>>,
    /// All attributes in their order.
    pub attributes: Vec<(Type, Vec<u8>)>,
}

impl Answer {
    /// The first value of a type.
    #[must_use]
    pub fn first(&self, kind: Type) -> Option<&[u8]> {
        self.attributes
            .iter()
            .find(|(of, _)| *of == kind)
            .map(|(_, value)| value.as_slice())
    }
}

/// One request on its way.
pub struct Exchange {
    request: Vec<u8>,
    identifier: u8,
    code: Code,
    authenticator: RequestAuthenticator,
    secret: Secret,
    timers: Timers,
    begun: Duration,
    sent: u32,
    interval: Duration,
    next: Duration,
}

impl Exchange {
    /// A request, built with [`Builder`], to be sent at `now`.
    ///
    /// # Errors
    /// [`PacketError`] if the bytes are no packet.
    pub fn new(
        request: Vec<u8>,
        secret: Secret,
        timers: Timers,
        now: Duration,
    ) -> Result<Self, PacketError> {
        let packet = Packet::parse(&request)?;
        let (identifier, code) = (packet.identifier, packet.code);
        let authenticator = packet.request_authenticator();
        let interval = timers.initial;
        Ok(Self {
            request,
            identifier,
            code,
            authenticator,
            secret,
            timers,
            begun: now,
            sent: 0,
            interval,
            next: now,
        })
    }

    /// What to do at `now`; `random` varies the interval by a tenth either way.
    pub fn poll(&mut self, now: Duration, random: u8) -> Step<'_> {
        let end = self.begun + self.timers.patience;
        if now >= end || (self.sent >= self.timers.count && now >= self.next) {
            return Step::GiveUp;
        }
        if now < self.next {
            return Step::Wait(self.next.min(end));
        }
        self.sent += 1;
        let tenth = self.interval / 10;
        self.next = now + self.interval - tenth + tenth * u32::from(random) * 2 / 255;
        self.interval = (self.interval * 2).min(self.timers.longest);
        Step::Send(&self.request)
    }

    /// How often the request was sent.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Takes a packet that came from the server.
    ///
    /// # Errors
    /// [`NotTheAnswer`]: go on waiting.
    pub fn receive(&self, bytes: &[u8]) -> Result<Answer, NotTheAnswer> {
        let packet = Packet::parse(bytes)?;
        if packet.identifier != self.identifier || !answers(self.code, packet.code) {
            return Err(NotTheAnswer::Other);
        }
        if !packet.answers(&self.authenticator, &self.secret) {
            return Err(NotTheAnswer::WrongAuthenticator);
        }
        match packet.verify_answer(&self.authenticator, &self.secret) {
            Some(true) => {}
            None if self.code != Code::AccessRequest => {}
            _ => return Err(NotTheAnswer::MessageAuthenticator),
        }
        Ok(Answer {
            code: packet.code,
            eap: packet.eap(),
            state: packet.first(Type::STATE).map(|state| state.value.to_vec()),
            msk: mppe::msk(&packet, &self.authenticator, &self.secret),
            attributes: packet
                .attributes()
                .map(|attribute| (attribute.kind, attribute.value.to_vec()))
                .collect(),
        })
    }
}

/// Whether a packet with the second code can answer one with the first.
fn answers(request: Code, answer: Code) -> bool {
    match request {
        Code::AccessRequest => matches!(
            answer,
            Code::AccessAccept | Code::AccessReject | Code::AccessChallenge
        ),
        Code::AccountingRequest => answer == Code::AccountingResponse,
        Code::StatusServer => matches!(answer, Code::AccessAccept | Code::AccountingResponse),
        Code::DisconnectRequest => matches!(answer, Code::DisconnectAck | Code::DisconnectNak),
        Code::CoaRequest => matches!(answer, Code::CoaAck | Code::CoaNak),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"testing123";
    const AT: RequestAuthenticator = RequestAuthenticator([5; 16]);

    fn secret() -> Secret {
        Secret::new(SECRET.to_vec()).unwrap()
    }

    fn exchange() -> Exchange {
        let access = Access {
            user_name: b"@gose.test",
            eap: &[2, 0, 0, 5, 1],
            ..Access::default()
        };
        let request = access.encode(9, &AT, &secret()).unwrap();
        Exchange::new(request, secret(), Timers::DEFAULT, Duration::ZERO).unwrap()
    }

    fn check(answer: &[u8], expected: Result<Code, NotTheAnswer>) {
        assert_eq!(
            exchange().receive(answer).map(|answer| answer.code),
            expected
        );
    }

    #[test]
    fn only_the_right_answer_counts() {
        let reject = |identifier| Builder::new(Code::AccessReject, identifier).eap(&[4, 0, 0, 4]);
        check(
            &reject(9).answer(&AT, &secret()).unwrap(),
            Ok(Code::AccessReject),
        );
        check(
            &reject(8).answer(&AT, &secret()).unwrap(),
            Err(NotTheAnswer::Other),
        );
        let other = RequestAuthenticator([6; 16]);
        check(
            &reject(9).answer(&other, &secret()).unwrap(),
            Err(NotTheAnswer::WrongAuthenticator),
        );
        let wrong = Secret::new(b"x".to_vec()).unwrap();
        check(
            &reject(9).answer(&AT, &wrong).unwrap(),
            Err(NotTheAnswer::WrongAuthenticator),
        );
        let accounting = Builder::new(Code::AccountingResponse, 9);
        check(
            &accounting.answer(&AT, &secret()).unwrap(),
            Err(NotTheAnswer::Other),
        );
        let bare = Builder::without_message_authenticator(Code::AccessAccept, 9);
        check(
            &bare.answer(&AT, &secret()).unwrap(),
            Err(NotTheAnswer::MessageAuthenticator),
        );
    }

    #[test]
    fn keys_come_out_of_an_accept() {
        let msk: [u8; 64] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let [recv, send] = mppe::keys(&msk, mppe::Salt([1, 2]), &AT, &secret()).unwrap();
        let accept = Builder::new(Code::AccessAccept, 9)
            .eap(&[3, 0, 0, 4])
            .attribute(Type::VENDOR_SPECIFIC, &send)
            .attribute(Type::VENDOR_SPECIFIC, &recv)
            .answer(&AT, &secret())
            .unwrap();
        let answer = exchange().receive(&accept).unwrap();
        assert_eq!(answer.msk.as_deref(), Some(&msk));
        assert_eq!(answer.eap.as_deref(), Some(&[3, 0, 0, 4][..]));
    }

    #[test]
    fn retransmissions_slow_down_and_end() {
        let mut exchange = exchange();
        let mut now = Duration::ZERO;
        let mut sent = Vec::new();
        loop {
            match exchange.poll(now, 255) {
                Step::Send(_) => sent.push(now.as_secs_f32().round()),
                Step::Wait(until) => {
                    assert!(until > now);
                    now = until;
                }
                Step::GiveUp => break,
            }
        }
        assert_eq!(sent, [0.0, 2.0, 7.0, 15.0]);
        assert_eq!(now, Duration::from_secs(30));
        assert_eq!(exchange.sent(), 4);
    }
}
