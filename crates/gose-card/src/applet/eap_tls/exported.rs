//! Get-Exported-Parameter and Get-Profile-Data: what may leave the card.

use gose_proto::{
    apdu::{StatusWord, tlv},
    eap::{Role, Type},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{VERSION, amsk, conversation::Conversation, identity::Identity};

/// Index of the engine's version, which needs no identity.
pub(super) const ENGINE_VERSION: u8 = 0x7F;

/// Index of AMSK 0; the others follow.
const AMSK: u8 = 0x90;

/// A parameter of a finished authentication (draft-urien-eap-smartcard-25, 9.16; from 80 on GoSE's).
///
/// # Errors
/// `6985` before success, `6A88` for what is not available or may not leave.
pub(super) fn parameter(conversation: &mut Conversation, index: u8) -> Result<Vec<u8>, StatusWord> {
    const ABSENT: StatusWord = StatusWord::REFERENCED_DATA_NOT_FOUND;
    let identity = conversation.identity.clone();
    let session = conversation
        .session()
        .ok_or(StatusWord::CONDITIONS_NOT_SATISFIED)?;
    let other = session.peer_certificate().map(name);
    let own = name(&identity.credential.leaf());
    let (peer, server) = match identity.role {
        Role::Peer => (Some(own), other),
        Role::Authenticator => (other, Some(own)),
    };
    match index {
        0x01 => peer.ok_or(ABSENT),
        0x02 => server.ok_or(ABSENT),
        0x03 => Ok(session.method_id().to_vec()),
        0x04 => Ok(session.session_id()),
        0x80 => Ok(session.cipher_suite()),
        0x81 if identity.policy.export_key_block => session.export_key_block().map(|b| b.to_vec()),
        0x82 => session.sequence().map(Vec::from).ok_or(ABSENT),
        0x84 => session.peer_certificate().map(<[u8]>::to_vec).ok_or(ABSENT),
        0x85 => Ok(vec![u8::from(session.is_resumed())]),
        AMSK.. if identity.policy.export_amsk => {
            amsk::derive(session.emsk(), index - AMSK).map_err(|_| ABSENT)
        }
        // EAP-TLS has no key lifetime (5) and no channel bindings (6); the master secret (83) stays.
        _ => Err(ABSENT),
    }
}

/// Peer-Id and Server-Id: the first subjectAltName as text, else the subject in DER (RFC 5216, 5.2).
fn name(certificate: &[u8]) -> Vec<u8> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let text = alternative.and_then(|extension| {
        extension
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::DNSName(text)
                | GeneralName::URI(text)
                | GeneralName::RFC822Name(text) => Some(text.as_bytes().to_vec()),
                _ => None,
            })
    });
    text.unwrap_or_else(|| certificate.subject().as_raw().to_vec())
}

/// EAP-ID, type, version, own chain, anchors (draft-urien-eap-smartcard-25, annex 4).
pub(super) fn profile(identity: &Identity) -> Vec<u8> {
    let mut credentials = Vec::new();
    let chain: Vec<u8> = identity
        .credential
        .shown()
        .cert
        .iter()
        .flat_map(|c| c.to_vec())
        .collect();
    tlv::write(&mut credentials, 0xA1, &chain);
    tlv::write(&mut credentials, 0xA2, &identity.anchors.concat());
    let mut fields = Vec::new();
    tlv::write(&mut fields, 0x04, &identity.eap_id);
    tlv::write(&mut fields, 0x02, &[Type::TLS.0]);
    tlv::write(&mut fields, 0x02, &VERSION[..1]);
    tlv::write(&mut fields, 0x30, &credentials);
    tlv::object(0x30, &fields)
}
