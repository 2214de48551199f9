//! Keys and randomness (PKCS#11 v3.0, 5.18 and 5.20).

use cryptoki_sys::*;
use gose_element::{Algorithm, drive::piv::Slot};

use super::{
    Attribute, boolean, number,
    objects::{manage, name, names_fit, read, writable},
    value,
};
use crate::{
    mechanism::Mechanism,
    module,
    object::{self, Handle, Kind},
    public::Curve,
    rv::{Result, Rv},
};

/// C_GenerateKeyPair: the key pair is made on the element. Gives the handles of public and private key.
///
/// It comes into the slot that CKA_LABEL or CKA_ID of the private key names (`9C`), else into the first
/// empty one; a key is never overwritten.
pub(crate) fn generate(
    session: CK_SESSION_HANDLE,
    mechanism: &Mechanism,
    public: &[Attribute],
    private: &[Attribute],
) -> Result<(Handle, Handle)> {
    let algorithm = algorithm(mechanism, public)?;
    if boolean(private, CKA_TOKEN)? != Some(true) {
        // A key pair of a session would have no element to lie in.
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    if boolean(private, CKA_SENSITIVE)? == Some(false)
        || boolean(private, CKA_EXTRACTABLE)? == Some(true)
    {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    names_fit(private)?;
    writable(session)?;
    read(session)?;
    let (slot, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        let objects = module.slot(id)?.objects.clone();
        let objects = objects.iter().flat_map(|contents| &contents.objects);
        let used: Vec<Slot> = objects
            .filter_map(|object| match &object.kind {
                Kind::Private(key) => Some(key.slot),
                _ => None,
            })
            .collect();
        (place(private, &used)?, id)
    };
    manage(session, |piv, contents| {
        piv.generate(slot, algorithm)?;
        name(piv, contents, slot, private)
    })?;
    let handle = |class| object::handle(id, class, slot);
    Ok((handle(CKO_PUBLIC_KEY), handle(CKO_PRIVATE_KEY)))
}

fn algorithm(mechanism: &Mechanism, public: &[Attribute]) -> Result<Algorithm> {
    match mechanism {
        Mechanism::RsaKeyPair => {
            if value(public, CKA_PUBLIC_EXPONENT)
                .is_some_and(|e| crate::public::unsigned(e) != [1, 0, 1])
            {
                return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
            }
            match number(public, CKA_MODULUS_BITS)? {
                Some(2048) => Ok(Algorithm::Rsa2048),
                Some(3072) => Ok(Algorithm::Rsa3072),
                Some(4096) => Ok(Algorithm::Rsa4096),
                Some(_) => Err(Rv(CKR_KEY_SIZE_RANGE)),
                None => Err(Rv(CKR_TEMPLATE_INCOMPLETE)),
            }
        }
        Mechanism::EcKeyPair => {
            let parameters = value(public, CKA_EC_PARAMS).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
            match Curve::of_parameters(parameters) {
                Some(Curve::P256) => Ok(Algorithm::P256),
                Some(Curve::P384) => Ok(Algorithm::P384),
                _ => Err(Rv(CKR_CURVE_NOT_SUPPORTED)),
            }
        }
        _ => Err(Rv(CKR_MECHANISM_INVALID)),
    }
}

/// Where a new key comes: 9C and 9E have PIN rules of their own and are taken only when asked for.
fn place(template: &[Attribute], used: &[Slot]) -> Result<Slot> {
    let label = value(template, CKA_LABEL).and_then(|label| std::str::from_utf8(label).ok());
    let id = value(template, CKA_ID).filter(|id| id.len() == 1);
    let named = label
        .and_then(|label| label.parse().ok())
        .or_else(|| Slot::try_from(id?[0]).ok());
    let own = [Slot::SIGNATURE, Slot::CARD_AUTHENTICATION];
    let free = |slot: &Slot| !used.contains(slot);
    match named {
        Some(slot) if free(&slot) => Ok(slot),
        Some(_) => Err(Rv(CKR_DEVICE_MEMORY)),
        None => Slot::ALL
            .into_iter()
            .find(|slot| free(slot) && !own.contains(slot))
            .ok_or(Rv(CKR_DEVICE_MEMORY)),
    }
}

/// C_GenerateRandom: the system's; PIV cards give none.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Rv(CKR_FUNCTION_FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_new_keys() {
        let label = |text: &str| vec![(CKA_LABEL, text.as_bytes().to_vec())];
        let slot = |id| Slot::try_from(id).unwrap();
        assert_eq!(place(&[], &[]), Ok(Slot::AUTHENTICATION));
        assert_eq!(place(&label("web"), &[slot(0x9A)]), Ok(slot(0x9D)));
        assert_eq!(place(&label("9c"), &[]), Ok(Slot::SIGNATURE));
        assert_eq!(
            place(&label("9A"), &[slot(0x9A)]),
            Err(Rv(CKR_DEVICE_MEMORY))
        );
        assert_eq!(place(&[(CKA_ID, vec![0x82])], &[]), Ok(slot(0x82)));
        assert_eq!(
            place(&[(CKA_ID, vec![1])], &[slot(0x9A), slot(0x9D)]),
            Ok(slot(0x82))
        );
        assert_eq!(place(&[], &Slot::ALL), Err(Rv(CKR_DEVICE_MEMORY)));
    }
}
