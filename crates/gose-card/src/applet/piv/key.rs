//! Keys: GENERATE ASYMMETRIC KEY PAIR, GENERAL AUTHENTICATE (part 2, 3.2.4 and 3.3.1).

use gose_element::{Algorithm, drive::piv::Slot};
use gose_proto::apdu::{Response, StatusWord, tlv};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use super::{Next, PivApplet, command::Operation};
use crate::{
    card::Env,
    keystore::{KeyError, PrivateKey},
};

impl PivApplet {
    pub(super) fn compute(
        &self,
        slot: Slot,
        algorithm: Algorithm,
        operation: Operation<'_>,
        pin_fresh: bool,
        env: &mut Env<'_>,
    ) -> Result<Next, StatusWord> {
        let allowed = match slot {
            Slot::CARD_AUTHENTICATION => true,
            Slot::SIGNATURE => self.state.pin.is_some() && pin_fresh,
            _ => self.state.pin.is_some(),
        };
        if !allowed {
            return Err(StatusWord::SECURITY_STATUS_NOT_SATISFIED);
        }
        let key = env
            .keys
            .get(env.nvm, slot.id())
            .map_err(status)?
            .ok_or(StatusWord::REFERENCED_DATA_NOT_FOUND)?;
        if key.algorithm() != algorithm {
            return Err(StatusWord::INCORRECT_P1_P2);
        }
        let result = match (operation, algorithm.is_rsa()) {
            (Operation::Sign(block), true) => {
                env.cost.count_private(algorithm);
                key.rsa_raw(block).map_err(status)?.to_vec()
            }
            (Operation::Sign(digest), false) => {
                env.cost.count_private(algorithm);
                key.sign_digest(digest).map_err(status)?
            }
            (Operation::Agree(point), _) => {
                env.cost.count_agreement(algorithm);
                key.agree(point).map_err(status)?.to_vec()
            }
        };
        Ok(Response::ok(tlv::object(0x7C, &tlv::object(0x82, &result))).into())
    }
}

pub(super) fn generate(
    slot: Slot,
    algorithm: Algorithm,
    env: &mut Env<'_>,
) -> Result<Next, StatusWord> {
    env.cost.count_generation(algorithm);
    let key = env
        .keys
        .generate(env.nvm, slot.id(), algorithm)
        .map_err(status)?;
    Ok(Response::ok(tlv::object(0x7F49, &template(&*key)?)).into())
}

/// The content of a public key template (part 2, table 11).
pub(super) fn template(key: &dyn PrivateKey) -> Result<Vec<u8>, StatusWord> {
    let info = SubjectPublicKeyInfo::from_der(key.public_key_info());
    let public = info
        .ok()
        .and_then(|(_, info)| {
            info.parsed().ok().map(|key| match key {
                PublicKey::RSA(key) => {
                    let mut out = tlv::object(0x81, unsigned(key.modulus));
                    tlv::write(&mut out, 0x82, unsigned(key.exponent));
                    Some(out)
                }
                PublicKey::EC(point) => Some(tlv::object(0x86, point.data())),
                _ => None,
            })
        })
        .flatten();
    public.ok_or(StatusWord::NO_PRECISE_DIAGNOSIS)
}

/// A DER INTEGER's content without the sign's zero.
fn unsigned(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

/// What a key store's error is on the card's line.
pub(in crate::applet) fn status(error: KeyError) -> StatusWord {
    match error {
        KeyError::Unsupported => StatusWord::FUNCTION_NOT_SUPPORTED,
        KeyError::Input | KeyError::Mismatch => StatusWord::INCORRECT_DATA,
        KeyError::Denied { tries } => StatusWord::tries_left(tries),
        KeyError::Locked(_) => StatusWord::AUTHENTICATION_METHOD_BLOCKED,
        KeyError::Store(_) => StatusWord::NO_PRECISE_DIAGNOSIS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_key_store_has_a_status_word() {
        for (error, sw) in [
            (KeyError::Unsupported, 0x6A81),
            (KeyError::Input, 0x6A80),
            (KeyError::Mismatch, 0x6A80),
            (KeyError::Denied { tries: 2 }, 0x63C2),
            (KeyError::Locked("for an hour".into()), 0x6983),
            (KeyError::Store("gone".into()), 0x6F00),
        ] {
            assert_eq!(status(error).value(), sw);
        }
    }
}
