//! PKCS#11 URIs (RFC 7512): names of tokens and of what lies on them.

use zeroize::Zeroizing;

/// A parsed `pkcs11:` URI: what a token or object must match, and how to reach it. An absent attribute
/// matches everything.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Uri {
    /// CK_TOKEN_INFO.label.
    pub token: Option<String>,
    /// CK_TOKEN_INFO.serialNumber.
    pub serial: Option<String>,
    /// CK_TOKEN_INFO.manufacturerID.
    pub manufacturer: Option<String>,
    /// CK_TOKEN_INFO.model.
    pub model: Option<String>,
    /// The slot's number; it may change with every start of a module.
    pub slot_id: Option<u64>,
    /// CKA_LABEL.
    pub object: Option<String>,
    /// CKA_ID.
    pub id: Option<Vec<u8>>,
    /// `private`, `public`, `cert`, `secret-key` or `data`.
    pub kind: Option<String>,
    /// `module-path`: the module's file.
    pub module_path: Option<String>,
    /// `pin-source`: where the PIN is, e.g. `file:/run/credentials/hsm-pin`.
    pub pin_source: Option<String>,
    /// `pin-value`: the PIN itself, which the RFC allows and advises against.
    pub pin_value: Option<Zeroizing<String>>,
}

/// Why text is not a `pkcs11:` URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme.
    #[error("a PKCS#11 URI begins with `pkcs11:`")]
    Scheme,
    /// An attribute without `=`, twice, or with a value that it cannot have.
    #[error("attribute {0:?} of a PKCS#11 URI is not of the form name=value, or stands twice")]
    Attribute(String),
    /// `%` without two hexadecimal digits, or bytes that are not text.
    #[error("attribute {0:?} of a PKCS#11 URI has a wrong percent-encoding")]
    Encoding(String),
}

impl std::str::FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            uri.path_attribute(attribute)?;
        }
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            uri.query_attribute(attribute)?;
        }
        Ok(uri)
    }
}

impl Uri {
    fn path_attribute(&mut self, attribute: &str) -> Result<(), UriError> {
        let (name, value) = split(attribute)?;
        match name {
            "token" => set(&mut self.token, name, string(name, value)?),
            "serial" => set(&mut self.serial, name, string(name, value)?),
            "manufacturer" => set(&mut self.manufacturer, name, string(name, value)?),
            "model" => set(&mut self.model, name, string(name, value)?),
            "object" => set(&mut self.object, name, string(name, value)?),
            "type" => set(&mut self.kind, name, string(name, value)?),
            "id" => set(&mut self.id, name, decode(name, value)?),
            "slot-id" => {
                let number = value
                    .parse()
                    .map_err(|_| UriError::Attribute(name.into()))?;
                set(&mut self.slot_id, name, number)
            }
            // Attributes of libraries and vendors narrow nothing that GoSE chooses by.
            _ => decode(name, value).map(drop),
        }
    }

    fn query_attribute(&mut self, attribute: &str) -> Result<(), UriError> {
        let (name, value) = split(attribute)?;
        match name {
            "module-path" => set(&mut self.module_path, name, string(name, value)?),
            "pin-source" => set(&mut self.pin_source, name, string(name, value)?),
            "pin-value" => set(
                &mut self.pin_value,
                name,
                Zeroizing::new(string(name, value)?),
            ),
            _ => decode(name, value).map(drop),
        }
    }
}

impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "pkcs11:token={:?};serial={:?};id={:?}",
            self.token, self.serial, self.id
        )
    }
}

fn split(attribute: &str) -> Result<(&str, &str), UriError> {
    attribute
        .split_once('=')
        .ok_or_else(|| UriError::Attribute(attribute.into()))
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Attribute(name.into())),
    }
}

fn string(name: &str, value: &str) -> Result<String, UriError> {
    String::from_utf8(decode(name, value)?).map_err(|_| UriError::Encoding(name.into()))
}

fn decode(name: &str, value: &str) -> Result<Vec<u8>, UriError> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, tail) = rest
            .split_at_checked(2)
            .ok_or_else(|| UriError::Encoding(name.into()))?;
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        out.extend(crate::hex::decode(digits).map_err(|_| UriError::Encoding(name.into()))?);
        rest = tail;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        let uri: Uri = "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.\
                        ;model=1.0;object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=\
                        ?pin-source=file:/etc/token_pin&module-path=/mnt/libmypkcs11.so.1"
            .parse()
            .unwrap();
        assert_eq!(uri.token.as_deref(), Some("The Software PKCS#11 Softtoken"));
        assert_eq!(uri.manufacturer.as_deref(), Some("Snake Oil, Inc."));
        assert_eq!(
            uri.id.as_deref(),
            Some(&[0x69, 0x95, 0x3E, 0x5C, 0xF4, 0xBD, 0xEC, 0x91][..])
        );
        assert_eq!(uri.pin_source.as_deref(), Some("file:/etc/token_pin"));
        assert_eq!(uri.module_path.as_deref(), Some("/mnt/libmypkcs11.so.1"));
        assert_eq!("pkcs11:".parse(), Ok(Uri::default()));
        let slot: Uri = "pkcs11:slot-id=327;x-vendor=a%20b?pin-value=the-pin"
            .parse()
            .unwrap();
        assert_eq!(
            (slot.slot_id, slot.pin_value.unwrap().as_str()),
            (Some(327), "the-pin")
        );
    }

    #[test]
    fn what_is_not_one() {
        let check =
            |text: &str, error: UriError| assert_eq!(text.parse::<Uri>(), Err(error), "{text}");
        check("pkcs12:", UriError::Scheme);
        check("pkcs11:token", UriError::Attribute("token".into()));
        check(
            "pkcs11:token=a;token=b",
            UriError::Attribute("token".into()),
        );
        check("pkcs11:slot-id=x", UriError::Attribute("slot-id".into()));
        check("pkcs11:id=%6", UriError::Encoding("id".into()));
        check("pkcs11:id=%6G", UriError::Encoding("id".into()));
        check("pkcs11:object=%FF", UriError::Encoding("object".into()));
    }

    proptest! {
        #[test]
        fn any_text_does_not_panic(text in "(pkcs11:)?[ -~é]{0,60}") {
            let _ = text.parse::<Uri>();
        }
    }
}
