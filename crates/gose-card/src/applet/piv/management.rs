//! The management key 9B (part 2, A.1): who has it may make keys and write objects. The storage application
//! has the same administrator.

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, EncryptingKey, UnboundCipherKey};
use gose_proto::apdu::{Response, StatusWord, tlv};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{applet::Next, card::Env, nvm::Nvm, random::Random};

/// The key itself, 16, 24 or 32 bytes.
pub(super) const NAME: &str = "piv/management";

/// The host has proven that it knows the management key; made by a comparison only.
#[derive(Debug)]
struct Authenticated(());

/// What the host sent of an authentication.
pub(in crate::applet) enum Step<'a> {
    /// Single authentication: the host wants a challenge.
    AskChallenge,
    /// Single authentication: the host's response.
    Respond(&'a [u8]),
    /// Mutual authentication: the host wants a witness.
    AskWitness,
    /// Mutual authentication: the host decrypted the witness and challenges the card.
    Mutual {
        witness: &'a [u8],
        challenge: &'a [u8],
    },
}

/// What the card waits for. An answer is compared once.
enum Exchange {
    /// The response that proves the key.
    Response(Zeroizing<[u8; 16]>),
    /// The witness in plain.
    Witness(Zeroizing<[u8; 16]>),
}

/// What the host has proven of the management key since the application was selected.
#[derive(Default)]
pub(in crate::applet) struct Management {
    authenticated: Option<Authenticated>,
    exchange: Option<Exchange>,
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Management({:?})", self.authenticated)
    }
}

impl Management {
    /// Whether the host may make keys and write objects now.
    pub(in crate::applet) fn allows(&self, nvm: &Nvm) -> Result<(), StatusWord> {
        if nvm.get(NAME).is_none() {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        match &self.authenticated {
            Some(Authenticated(())) => Ok(()),
            None => Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED),
        }
    }

    /// GENERAL AUTHENTICATE with key 9B. Algorithm 00 is the key's own: no information given (ISO/IEC 7816-4,
    /// GENERAL AUTHENTICATE, P1).
    pub(in crate::applet) fn authenticate(
        &mut self,
        algorithm: u8,
        step: Step<'_>,
        random: &Random,
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        let key = Key::read(env.nvm)?;
        if algorithm != 0x00 && algorithm != key.algorithm {
            return Err(StatusWord::INCORRECT_P1_P2);
        }
        let exchange = self.exchange.take();
        env.cost.count_cipher(16);
        match (step, exchange) {
            (Step::AskChallenge, _) => {
                let challenge = draw(random)?;
                self.exchange = Some(Exchange::Response(key.encrypt(challenge)?));
                Ok(template(0x81, &challenge))
            }
            (Step::AskWitness, _) => {
                let witness = draw(random)?;
                self.exchange = Some(Exchange::Witness(Zeroizing::new(witness)));
                Ok(template(0x80, &*key.encrypt(witness)?))
            }
            (Step::Respond(response), Some(Exchange::Response(expected))) => {
                self.authenticated = Some(compare(&expected, response)?);
                Ok(StatusWord::NORMAL.into())
            }
            (Step::Mutual { witness, challenge }, Some(Exchange::Witness(expected))) => {
                let challenge = challenge
                    .try_into()
                    .map_err(|_| StatusWord::INCORRECT_DATA)?;
                self.authenticated = Some(compare(&expected, witness)?);
                Ok(template(0x82, &*key.encrypt(challenge)?))
            }
            _ => Err(StatusWord::CONDITIONS_NOT_SATISFIED),
        }
    }

    /// The first key of a card may be set by whoever initialises it; later ones by who has the old one.
    pub(super) fn set_key(&self, key: &[u8], env: &mut Env<'_>) -> Result<Next, StatusWord> {
        if env.nvm.get(NAME).is_some() {
            self.allows(env.nvm)?;
        }
        env.nvm.put(NAME, key);
        Ok(StatusWord::NORMAL.into())
    }
}

/// PIV's identifier of AES in ECB with a key of so many bytes (SP 800-78-4, table 6-2).
pub(super) fn algorithm(key_len: usize) -> Option<u8> {
    match key_len {
        16 => Some(0x08),
        24 => Some(0x0A),
        32 => Some(0x0C),
        _ => None,
    }
}

struct Key {
    algorithm: u8,
    cipher: EncryptingKey,
}

impl Key {
    fn read(nvm: &Nvm) -> Result<Self, StatusWord> {
        let bytes = nvm.get(NAME).ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        let algorithm = algorithm(bytes.len()).ok_or(StatusWord::NO_PRECISE_DIAGNOSIS)?;
        let kind = match algorithm {
            0x08 => &AES_128,
            0x0A => &AES_192,
            _ => &AES_256,
        };
        let cipher = UnboundCipherKey::new(kind, bytes).and_then(EncryptingKey::ecb);
        let cipher = cipher.map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
        Ok(Self { algorithm, cipher })
    }

    fn encrypt(&self, block: [u8; 16]) -> Result<Zeroizing<[u8; 16]>, StatusWord> {
        let mut block = Zeroizing::new(block);
        self.cipher
            .encrypt(&mut *block)
            .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
        Ok(block)
    }
}

fn draw(random: &Random) -> Result<[u8; 16], StatusWord> {
    random.bytes().map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)
}

fn compare(expected: &[u8; 16], given: &[u8]) -> Result<Authenticated, StatusWord> {
    if bool::from(expected.as_slice().ct_eq(given)) {
        Ok(Authenticated(()))
    } else {
        Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED)
    }
}

fn template(tag: u32, value: &[u8]) -> Next {
    Response::ok(tlv::object(0x7C, &tlv::object(tag, value))).into()
}
