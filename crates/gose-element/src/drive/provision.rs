//! Initialisation of an element: its published PINs and keys give way to secrets of its own.

use gose_proto::apdu::StatusWord;
use zeroize::Zeroizing;

use super::{
    eap_tls::{self, personalisation::Operator, scripts::AID},
    piv::{self, Piv, PivError},
};
use crate::SecureElement;

/// The published PINs that an element is born with.
mod published {
    pub(super) const PIV_PIN: &[u8; 6] = b"123456";
    pub(super) const PIV_PUK: &[u8; 8] = b"12345678";
    pub(super) const OPERATOR: &[u8; 8] = b"00000000";
    pub(super) const BEARER: &[u8; 4] = b"0000";
}

/// P2 of the EAP-TLS application's PIN commands.
const BEARER: u8 = 0x00;
const OPERATOR: u8 = 0x01;

/// The secrets of one element.
pub struct Secrets {
    /// PIN of PIV: eight digits.
    pub piv_pin: Zeroizing<[u8; 8]>,
    /// PUK of PIV: eight digits.
    pub piv_puk: Zeroizing<[u8; 8]>,
    /// Management key of PIV: AES-256.
    pub management_key: Zeroizing<[u8; 32]>,
    /// Operator's PIN of the EAP-TLS application: eight digits.
    pub operator_pin: Zeroizing<[u8; 8]>,
    /// Bearer's PIN of the EAP-TLS application: eight digits.
    pub bearer_pin: Zeroizing<[u8; 8]>,
}

/// What an initialisation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialised {
    /// Whether the element has the EAP-TLS application.
    pub eap_tls: bool,
}

/// Why an element was not initialised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The element has a management key, and it is not the one of these secrets.
    #[error("the element is initialised already, with other secrets")]
    Initialised,
    /// PIV refused.
    #[error("PIV: {0}")]
    Piv(#[from] PivError),
    /// The EAP-TLS application refused.
    #[error("EAP-TLS: {0}")]
    EapTls(#[from] eap_tls::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
}

impl Secrets {
    /// New random secrets.
    ///
    /// # Errors
    /// [`ProvisionError::Randomness`].
    pub fn random() -> Result<Self, ProvisionError> {
        let mut management_key = Zeroizing::new([0; 32]);
        fill(management_key.as_mut_slice())?;
        Ok(Self {
            piv_pin: digits()?,
            piv_puk: digits()?,
            management_key,
            operator_pin: digits()?,
            bearer_pin: digits()?,
        })
    }
}

/// Gives an element its secrets and a CHUID with a random GUID.
///
/// What was done before with the same secrets is not done again: an initialisation that was cut goes on
/// where it stopped, so the secrets are to be kept before this is called.
///
/// # Errors
/// [`ProvisionError`].
pub fn initialise(
    element: &mut dyn SecureElement,
    secrets: &Secrets,
) -> Result<Initialised, ProvisionError> {
    let mut guid = [0; 16];
    fill(&mut guid)?;
    initialise_piv(element, secrets, guid)?;
    let eap_tls = initialise_eap_tls(element, secrets)?;
    Ok(Initialised { eap_tls })
}

fn initialise_piv(
    element: &mut dyn SecureElement,
    secrets: &Secrets,
    guid: [u8; 16],
) -> Result<(), ProvisionError> {
    let mut piv = Piv::open(element);
    match piv.set_management_key(&secrets.management_key) {
        // It has one: ours, or the next step says so.
        Ok(()) | Err(PivError::NotAuthenticated(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match piv.authenticate_management(&secrets.management_key) {
        Err(PivError::WrongManagementKey) => return Err(ProvisionError::Initialised),
        other => other?,
    }
    piv.put_object(piv::CHUID, &piv::cardholder_unique_identifier(guid))?;
    let pin = secrets.piv_pin.as_slice();
    match piv.change_pin(published::PIV_PIN, pin) {
        Err(PivError::WrongPin { .. }) => piv.change_pin(pin, pin)?,
        other => other?,
    }
    let puk = &secrets.piv_puk;
    match piv.change_puk(published::PIV_PUK, puk) {
        Err(PivError::WrongPin { .. }) => piv.change_puk(puk, puk)?,
        other => other?,
    }
    Ok(())
}

fn initialise_eap_tls(
    element: &mut dyn SecureElement,
    secrets: &Secrets,
) -> Result<bool, ProvisionError> {
    let new = secrets.operator_pin.as_slice();
    match Operator::open(element, &AID, published::OPERATOR) {
        Ok(mut operator) => operator.change_pin(OPERATOR, published::OPERATOR, new)?,
        Err(eap_tls::Error::Pin(_)) => {}
        Err(eap_tls::Error::Refused { sw, .. }) if sw == StatusWord::FILE_NOT_FOUND => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    let mut operator = Operator::open(element, &AID, new)?;
    let bearer = secrets.bearer_pin.as_slice();
    match operator.change_pin(BEARER, published::BEARER, bearer) {
        Err(eap_tls::Error::Pin(_)) => operator.change_pin(BEARER, bearer, bearer)?,
        other => other?,
    }
    Ok(true)
}

fn fill(bytes: &mut [u8]) -> Result<(), ProvisionError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| ProvisionError::Randomness)
}

/// Eight random digits.
fn digits() -> Result<Zeroizing<[u8; 8]>, ProvisionError> {
    let mut digits = Zeroizing::new([0; 8]);
    for digit in digits.iter_mut() {
        let mut byte = [0xFF];
        // 250 is the largest multiple of ten: no digit is likelier than another.
        while byte[0] >= 250 {
            fill(&mut byte)?;
        }
        *digit = b'0' + byte[0] % 10;
    }
    Ok(digits)
}
