//! The management key 9B (part 2, A.1): who has it may make keys and write objects.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use gose_proto::apdu::{Response, StatusWord, tlv};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Next, PivApplet, Security};
use crate::card::Env;

const NAME: &str = "piv/management";

/// The host has proven that it knows the management key; made by [`PivApplet`]'s comparison only.
#[derive(Debug)]
pub(super) struct Authenticated(());

/// What the host sent of an authentication.
pub(super) enum Step<'a> {
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
pub(super) enum Exchange {
    /// The response that proves the key.
    Response(Zeroizing<[u8; 16]>),
    /// The witness in plain.
    Witness(Zeroizing<[u8; 16]>),
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

impl Security {
    /// Whether the host may make keys and write objects now.
    pub(super) fn may_manage(&self, env: &Env<'_>) -> Result<(), StatusWord> {
        if env.nvm.get(NAME).is_none() {
            return Err(StatusWord::CONDITIONS_NOT_SATISFIED);
        }
        match &self.management {
            Some(Authenticated(())) => Ok(()),
            None => Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED),
        }
    }
}

impl PivApplet {
    pub(super) fn authenticate_management(
        &mut self,
        step: Step<'_>,
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        let key = Key::read(env)?;
        let exchange = self.state.exchange.take();
        env.cost.cipher_bytes += 16;
        match (step, exchange) {
            (Step::AskChallenge, _) => {
                let challenge = self.draw()?;
                let expected = key.encrypt(challenge)?;
                self.state.exchange = Some(Exchange::Response(expected));
                Ok(template(0x81, &challenge))
            }
            (Step::AskWitness, _) => {
                let witness = self.draw()?;
                self.state.exchange = Some(Exchange::Witness(Zeroizing::new(witness)));
                Ok(template(0x80, &*key.encrypt(witness)?))
            }
            (Step::Respond(response), Some(Exchange::Response(expected))) => {
                self.state.management = Some(compare(&expected, response)?);
                Ok(StatusWord::NORMAL.into())
            }
            (Step::Mutual { witness, challenge }, Some(Exchange::Witness(expected))) => {
                let challenge = challenge
                    .try_into()
                    .map_err(|_| StatusWord::INCORRECT_DATA)?;
                self.state.management = Some(compare(&expected, witness)?);
                Ok(template(0x82, &*key.encrypt(challenge)?))
            }
            _ => Err(StatusWord::CONDITIONS_NOT_SATISFIED),
        }
    }

    /// The first key of a card may be set by whoever initialises it; later ones by who has the old one.
    pub(super) fn set_management_key(
        &mut self,
        key: &[u8; 32],
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        if env.nvm.get(NAME).is_some() {
            self.state.may_manage(env)?;
        }
        env.nvm.put(NAME, *key);
        Ok(StatusWord::NORMAL.into())
    }

    fn draw(&self) -> Result<[u8; 16], StatusWord> {
        self.random
            .bytes()
            .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)
    }
}

struct Key(EncryptingKey);

impl Key {
    fn read(env: &Env<'_>) -> Result<Self, StatusWord> {
        let bytes = env
            .nvm
            .get(NAME)
            .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
        UnboundCipherKey::new(&AES_256, bytes)
            .and_then(EncryptingKey::ecb)
            .map(Self)
            .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)
    }

    fn encrypt(&self, block: [u8; 16]) -> Result<Zeroizing<[u8; 16]>, StatusWord> {
        let mut block = Zeroizing::new(block);
        self.0
            .encrypt(&mut *block)
            .map_err(|_| StatusWord::NO_PRECISE_DIAGNOSIS)?;
        Ok(block)
    }
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
