//! Signatures, decryption, and what the host computes (PKCS#11 v3.0, 5.8 to 5.13).

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::{Sink, fits, objects::object, stored};
use crate::{
    hash::Hash,
    mechanism::Mechanism,
    module,
    object::{Handle, Kind, Private},
    operation::{self, Command, Gather, Use},
    public::Public,
    rv::{Result, Rv},
    session::{Check, Session},
    stored::Work,
};

type Handles = CK_SESSION_HANDLE;

/// What a private key is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Sign,
    Decrypt,
}

/// What a public key is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    Verify,
    Encrypt,
}

impl From<Purpose> for Work {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Sign => Self::Sign,
            Purpose::Decrypt => Self::Decrypt,
        }
    }
}

impl From<Opening> for Work {
    fn from(opening: Opening) -> Self {
        match opening {
            Opening::Verify => Self::Verify,
            Opening::Encrypt => Self::Encrypt,
        }
    }
}

fn begun(session: &mut Session, purpose: Purpose) -> &mut Option<Use> {
    match purpose {
        Purpose::Sign => &mut session.sign,
        Purpose::Decrypt => &mut session.decrypt,
    }
}

fn opened(session: &mut Session, opening: Opening) -> &mut Option<Check> {
    match opening {
        Opening::Verify => &mut session.verify,
        Opening::Encrypt => &mut session.encrypt,
    }
}

/// C_SignInit, C_DecryptInit: nothing is asked of the element that is known already.
pub(crate) fn private_init(
    session: Handles,
    purpose: Purpose,
    mechanism: Mechanism,
    key: Handle,
) -> Result<()> {
    if module::lock()?.session(session)?.is_active(purpose.into()) {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    if mechanism.is_secret() {
        return stored::init(session, purpose.into(), mechanism, key);
    }
    let (key, always) = private_key(session, key)?;
    let hash = match purpose {
        Purpose::Sign => {
            operation::can_sign(&mechanism, &key.public)?;
            mechanism.hash()
        }
        Purpose::Decrypt => {
            operation::can_crypt(&mechanism, &key.public)?;
            None
        }
    };
    let mut module = module::lock()?;
    let id = module.session(session)?.slot;
    module.authorise(id, &key)?;
    *begun(module.session(session)?, purpose) = Some(Use {
        key,
        mechanism,
        gather: Gather::new(hash),
        unauthenticated: always,
        result: None,
    });
    Ok(())
}

/// A private key, and whether it wants the PIN each time.
///
/// # Errors
/// CKR_KEY_HANDLE_INVALID, CKR_KEY_FUNCTION_NOT_PERMITTED
pub(crate) fn private_key(session: Handles, handle: Handle) -> Result<(Private, bool)> {
    let found = object(session, handle).map_err(|error| match error {
        Rv(CKR_OBJECT_HANDLE_INVALID) => Rv(CKR_KEY_HANDLE_INVALID),
        error => error,
    })?;
    let always = found.is(CKA_ALWAYS_AUTHENTICATE);
    match found.kind {
        Kind::Private(key) => Ok((key, always)),
        Kind::Public(_) | Kind::Secret | Kind::Stored { .. } => Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
        _ => Err(Rv(CKR_KEY_HANDLE_INVALID)),
    }
}

/// C_SignUpdate, C_DecryptUpdate
pub(crate) fn private_add(session: Handles, purpose: Purpose, part: &[u8]) -> Result<()> {
    if stored::is_begun(session, purpose.into())? {
        return stored::add(session, purpose.into(), part);
    }
    let mut module = module::lock()?;
    let begun = begun(module.session(session)?, purpose);
    let using = begun.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    using.gather.add(part).inspect_err(|_| *begun = None)
}

/// C_Sign and C_SignFinal, C_Decrypt and C_DecryptFinal: one request, after everything that can be judged
/// without the element was.
pub(crate) fn private_finish(
    session: Handles,
    purpose: Purpose,
    last: Option<&[u8]>,
    out: &mut dyn Sink,
) -> Result<()> {
    if stored::is_begun(session, purpose.into())? {
        return stored::finish(session, purpose.into(), last, out);
    }
    let (mut using, mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        let begun = begun(module.session(session)?, purpose);
        let using = begun.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
        if let Some(result) = &using.result {
            if fits(out, result.len())? {
                out.give(result);
                *begun = None;
            }
            return Ok(());
        }
        let public = &using.key.public;
        match purpose {
            Purpose::Sign if !fits(out, public.signature_len())? => return Ok(()),
            Purpose::Decrypt if out.capacity().is_none() => {
                out.tell(operation::plaintext_len(&using.mechanism, public));
                return Ok(());
            }
            _ => {}
        }
        if using.unauthenticated {
            *begun = None;
            return Err(Rv(CKR_USER_NOT_LOGGED_IN));
        }
        let Some(using) = begun.take() else {
            return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
        };
        // Somebody may have logged out since.
        module.authorise(id, &using.key)?;
        let keep = using.key.needs_login() && !module.slot(id)?.policy.shared;
        (using, module.access(id, keep)?, id)
    };
    let mut gather = std::mem::replace(&mut using.gather, Gather::new(None));
    if let Some(last) = last {
        gather.add(last)?;
    }
    let data = gather.finish();
    let (mechanism, key) = (&using.mechanism, &using.key);
    let command = match purpose {
        Purpose::Sign => operation::signature(mechanism, &key.public, &data)?,
        Purpose::Decrypt => operation::ciphertext(mechanism, &key.public, &data)?,
    };
    let outcome = access.run(|piv| command.run(key, piv));
    let result = outcome.map_err(|error| disowned(id, &error))?;
    match purpose {
        Purpose::Sign => {
            out.give(&operation::signature_form(&key.public, &result)?);
            Ok(())
        }
        Purpose::Decrypt => give_plaintext(session, using, &result, out),
    }
}

fn disowned(id: CK_SLOT_ID, error: &crate::failure::Failure) -> Rv {
    match module::lock() {
        Ok(mut module) => module.disowned(id, error),
        Err(code) => code,
    }
}

/// A message that does not fit is kept for the next call: the element need not decrypt it again.
fn give_plaintext(
    session: Handles,
    mut using: Use,
    block: &[u8],
    out: &mut dyn Sink,
) -> Result<()> {
    let message = operation::plaintext(&using.mechanism, block)?;
    let fitted = fits(out, message.len());
    if fitted == Ok(true) {
        out.give(&message);
        return Ok(());
    }
    using.result = Some(message);
    let mut module = module::lock()?;
    *begun(module.session(session)?, Purpose::Decrypt) = Some(using);
    fitted.map(drop)
}

/// C_VerifyInit, C_EncryptInit
pub(crate) fn public_init(
    session: Handles,
    opening: Opening,
    mechanism: Mechanism,
    key: Handle,
) -> Result<()> {
    if module::lock()?.session(session)?.is_active(opening.into()) {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    if mechanism.is_secret() {
        return stored::init(session, opening.into(), mechanism, key);
    }
    let public = public_key(session, key)?;
    let hash = match opening {
        Opening::Verify => {
            operation::can_sign(&mechanism, &public)?;
            mechanism.hash()
        }
        Opening::Encrypt => {
            operation::can_crypt(&mechanism, &public)?;
            None
        }
    };
    *opened(module::lock()?.session(session)?, opening) = Some(Check {
        public,
        mechanism,
        gather: Gather::new(hash),
    });
    Ok(())
}

fn public_key(session: Handles, handle: Handle) -> Result<Public> {
    match object(session, handle).map(|object| object.kind) {
        Ok(Kind::Public(public)) => Ok(public),
        Ok(Kind::Private(_) | Kind::Secret | Kind::Stored { .. }) => {
            Err(Rv(CKR_KEY_TYPE_INCONSISTENT))
        }
        Ok(_) | Err(Rv(CKR_OBJECT_HANDLE_INVALID)) => Err(Rv(CKR_KEY_HANDLE_INVALID)),
        Err(error) => Err(error),
    }
}

/// C_VerifyUpdate, C_EncryptUpdate
pub(crate) fn public_add(session: Handles, opening: Opening, part: &[u8]) -> Result<()> {
    if stored::is_begun(session, opening.into())? {
        return stored::add(session, opening.into(), part);
    }
    let mut module = module::lock()?;
    let opened = opened(module.session(session)?, opening);
    let check = opened.as_mut().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
    check.gather.add(part).inspect_err(|_| *opened = None)
}

/// C_Verify, C_VerifyFinal
pub(crate) fn verify(session: Handles, last: Option<&[u8]>, signature: &[u8]) -> Result<()> {
    if stored::is_begun(session, Work::Verify)? {
        return stored::verify(session, last, signature);
    }
    let mut check = take(session, Opening::Verify)?;
    if let Some(last) = last {
        check.gather.add(last)?;
    }
    let data = check.gather.finish();
    operation::verify(&check.mechanism, &check.public, &data, signature)
}

fn take(session: Handles, opening: Opening) -> Result<Check> {
    opened(module::lock()?.session(session)?, opening)
        .take()
        .ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))
}

/// C_Encrypt, C_EncryptFinal
pub(crate) fn encrypt(session: Handles, last: Option<&[u8]>, out: &mut dyn Sink) -> Result<()> {
    if stored::is_begun(session, Work::Encrypt)? {
        return stored::finish(session, Work::Encrypt, last, out);
    }
    {
        let mut module = module::lock()?;
        let opened = opened(module.session(session)?, Opening::Encrypt);
        let check = opened.as_ref().ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?;
        if !fits(out, check.public.signature_len())? {
            return Ok(());
        }
    }
    let mut check = take(session, Opening::Encrypt)?;
    if let Some(last) = last {
        check.gather.add(last)?;
    }
    let data = check.gather.finish();
    out.give(&operation::encrypt(&check.mechanism, &check.public, &data)?);
    Ok(())
}

/// C_DigestInit
pub(crate) fn digest_init(session: Handles, mechanism: &Mechanism) -> Result<()> {
    let mut module = module::lock()?;
    let session = module.session(session)?;
    if session.digest.is_some() {
        return Err(Rv(CKR_OPERATION_ACTIVE));
    }
    let Mechanism::Digest(hash) = mechanism else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    session.digest = Some(Gather::new(Some(*hash)));
    Ok(())
}

/// C_DigestUpdate
pub(crate) fn digest_add(session: Handles, part: &[u8]) -> Result<()> {
    let mut module = module::lock()?;
    let digest = &mut module.session(session)?.digest;
    digest
        .as_mut()
        .ok_or(Rv(CKR_OPERATION_NOT_INITIALIZED))?
        .add(part)
}

/// C_Digest, C_DigestFinal
pub(crate) fn digest(session: Handles, last: Option<&[u8]>, out: &mut dyn Sink) -> Result<()> {
    let mut module = module::lock()?;
    let session = module.session(session)?;
    let len = match &session.digest {
        Some(Gather::Digest(context)) => context.algorithm().output_len(),
        _ => return Err(Rv(CKR_OPERATION_NOT_INITIALIZED)),
    };
    if !fits(out, len)? {
        return Ok(());
    }
    if let Some(mut gather) = session.digest.take() {
        drop(module);
        if let Some(last) = last {
            gather.add(last)?;
        }
        out.give(&gather.finish());
    }
    Ok(())
}

/// C_DeriveKey: ECDH (SEC 1, 6.1), by the element.
pub(crate) fn derive(
    session: Handles,
    mechanism: &Mechanism,
    key: Handle,
    template: &[super::Attribute],
) -> Result<Handle> {
    let Mechanism::Ecdh { kdf, shared, point } = mechanism else {
        return Err(Rv(CKR_MECHANISM_INVALID));
    };
    let (key, _) = private_key(session, key)?;
    let Public::Ec(curve, _) = &key.public else {
        return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
    };
    let own = 2 * curve.len() + 1;
    // A point as it is, or in DER as CKA_EC_POINT has it.
    let point = match gose_proto::apdu::tlv::find(point, 0x04) {
        Some(inner) if inner.len() == own && point.len() > own => inner,
        _ => point,
    };
    if point.len() != own || point.first() != Some(&4) {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    }
    let len = secret_len(template, *kdf, curve.len())?;
    let (mut access, id) = {
        let mut module = module::lock()?;
        let id = module.session(session)?.slot;
        module.authorise(id, &key)?;
        let keep = key.needs_login() && !module.slot(id)?.policy.shared;
        (module.access(id, keep)?, id)
    };
    let command = Command::Agree(point.to_vec());
    let outcome = access.run(|piv| command.run(&key, piv));
    let agreed = outcome.map_err(|error| match disowned(id, &error) {
        Rv(CKR_DATA_INVALID) => Rv(CKR_MECHANISM_PARAM_INVALID),
        code => code,
    })?;
    let secret = match kdf {
        Some(hash) => crate::mechanism::x963(*hash, &agreed, shared, len),
        // The leading bytes go (PKCS#11 current mechanisms, 2.3.17).
        None => Zeroizing::new(agreed[agreed.len() - len..].to_vec()),
    };
    super::objects::secret(session, template, secret, false)
}

fn secret_len(template: &[super::Attribute], kdf: Option<Hash>, field: usize) -> Result<usize> {
    let kind = super::number(template, CKA_KEY_TYPE)?;
    let asked = super::number(template, CKA_VALUE_LEN)?;
    if super::number(template, CKA_CLASS)?.is_some_and(|class| class != CKO_SECRET_KEY) {
        return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
    }
    let len = match (asked, kind) {
        (Some(len), _) => usize::try_from(len).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))?,
        (None, Some(CKK_AES)) => 32,
        (None, _) => field,
    };
    let most = if kdf.is_some() { 1024 } else { field };
    if len == 0 || len > most {
        return Err(Rv(CKR_KEY_SIZE_RANGE));
    }
    Ok(len)
}
