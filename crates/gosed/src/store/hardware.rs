//! Readers, TPMs and HSMs of a configuration, each where its feature is built in.

use std::sync::Arc;

use gose_card::keystore;
use gose_element::SecureElement;

use super::attest::Answer;
use crate::config::{Config, KeyStore, Reader};
#[cfg(feature = "pcsc")]
use crate::config::{Slot, SlotKind};

/// What a feature that is not built in comes to.
#[cfg(not(all(feature = "pcsc", feature = "tpm", feature = "pkcs11")))]
fn absent<T>(feature: &str) -> Result<T, String> {
    Err(format!(
        "this gosed was built without the feature {feature}"
    ))
}

/// Makes elements of one reader's card.
pub(super) type Reach = Arc<dyn Fn() -> Box<dyn SecureElement> + Send + Sync>;

/// The card in a reader; nothing is opened yet.
#[cfg(feature = "pcsc")]
pub(super) fn reader(reader: &Reader) -> Result<Reach, String> {
    use gose_backend::pcsc::{PcscElement, Selector};
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let selector = match reader {
        Reader::Name(pattern) => Selector::name(pattern).map_err(|error| text(&error)),
        Reader::Serial(serial) => Ok(Selector::Serial(serial.clone())),
        Reader::Atr(pattern) => Selector::atr(pattern).map_err(|error| text(&error)),
        Reader::Card(serial) => {
            let serial = serial.parse().map_err(|error| text(&error))?;
            Ok(Selector::card(serial))
        }
    }?;
    Ok(Arc::new(move || {
        Box::new(PcscElement::new(selector.clone()))
    }))
}

#[cfg(not(feature = "pcsc"))]
pub(super) fn reader(_: &Reader) -> Result<Reach, String> {
    absent("pcsc")
}

/// Tells the log what comes and goes in readers, until it is dropped.
pub struct Readers {
    #[cfg(feature = "pcsc")]
    _watcher: gose_backend::pcsc::Watcher,
}

/// Watches the readers where a slot of the configuration is in one.
#[cfg(feature = "pcsc")]
pub fn watch_readers(config: &Config) -> Option<Readers> {
    let wanted = |slot: &Slot| matches!(slot.kind, SlotKind::Pcsc { .. });
    config.slots.iter().find(|slot| wanted(slot))?;
    let (tell, told) = std::sync::mpsc::channel();
    let watcher = gose_backend::pcsc::Watcher::start(tell);
    let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "readers are not watched"));
    let log = move || told.iter().for_each(|event| log(&event));
    if let Err(error) = std::thread::Builder::new()
        .name("readers-log".into())
        .spawn(log)
    {
        tracing::warn!(%error, "readers are not watched");
    }
    Some(Readers {
        _watcher: watcher.ok()?,
    })
}

/// Without the feature no slot is in a reader.
#[cfg(not(feature = "pcsc"))]
pub fn watch_readers(_: &Config) -> Option<Readers> {
    None
}

#[cfg(feature = "pcsc")]
fn log(event: &gose_backend::pcsc::Event) {
    use gose_backend::pcsc::Event;
    match event {
        Event::ReaderAdded(reader) => tracing::info!(reader, "reader added"),
        Event::ReaderRemoved(reader) => tracing::warn!(reader, "reader removed"),
        Event::CardInserted(reader, atr) => tracing::info!(reader, %atr, "card inserted"),
        Event::CardMute(reader) => tracing::warn!(reader, "card without answer to reset"),
        Event::CardRemoved(reader) => tracing::info!(reader, "card removed"),
        Event::ServiceLost => tracing::warn!("pcscd is gone; it is sought again every second"),
    }
}

/// A TPM or an HSM; nothing is opened yet.
pub(super) fn key_store(store: &KeyStore) -> Result<Arc<dyn keystore::KeyStore>, String> {
    match store {
        KeyStore::Tpm { .. } => tpm(store),
        KeyStore::Pkcs11 { .. } => pkcs11(store),
    }
}

#[cfg(feature = "tpm")]
fn tpm(store: &KeyStore) -> Result<Arc<dyn keystore::KeyStore>, String> {
    let settings = tpm_settings(store)?;
    Ok(Arc::new(gose_backend::tpm::TpmKeyStore::new(settings)))
}

#[cfg(feature = "tpm")]
fn tpm_settings(store: &KeyStore) -> Result<gose_backend::tpm::Settings, String> {
    use gose_backend::tpm::{Address, Settings};
    let KeyStore::Tpm {
        device,
        swtpm,
        parent,
        auth_file,
        ..
    } = store
    else {
        return Err("not a TPM".into());
    };
    let address = match (swtpm, device) {
        (Some(swtpm), _) => Address::Swtpm(swtpm.clone()),
        (None, Some(device)) => Address::Device(device.clone()),
        (None, None) => Address::Device("/dev/tpmrm0".into()),
    };
    let mut settings = Settings::new(address);
    settings.parent = *parent;
    if let Some(file) = auth_file {
        settings.auth = secret(file)?;
        // TPM2B_AUTH is no longer than the digest that names the key.
        if settings.auth.len() > 32 {
            return Err(format!(
                "{}: an authorisation value has at most 32 bytes",
                file.display()
            ));
        }
    }
    Ok(settings)
}

/// Opens what [`seal`] made, by the TPM of this store.
#[cfg(feature = "tpm")]
pub(super) fn unseal(
    store: &KeyStore,
    sealed: &[u8],
) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    tpm_settings(store).and_then(|settings| {
        let tpm = gose_backend::tpm::TpmKeyStore::new(settings);
        tpm.unseal(sealed).map_err(|error| error.to_string())
    })
}

#[cfg(not(feature = "tpm"))]
pub(super) fn unseal(_: &KeyStore, _: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    absent("tpm")
}

/// Seals up to 128 bytes by the TPM of this store: no other opens them.
#[cfg(feature = "tpm")]
pub(super) fn seal(store: &KeyStore, secret: &[u8]) -> Result<Vec<u8>, String> {
    tpm_settings(store).and_then(|settings| {
        let tpm = gose_backend::tpm::TpmKeyStore::new(settings);
        tpm.seal(secret).map_err(|error| error.to_string())
    })
}

#[cfg(not(feature = "tpm"))]
pub(super) fn seal(_: &KeyStore, _: &[u8]) -> Result<Vec<u8>, String> {
    absent("tpm")
}

/// What the machine of this TPM booted, by its registers.
#[cfg(feature = "tpm")]
pub(super) fn quote(store: &KeyStore, pcrs: &[u8], nonce: &[u8]) -> Result<Answer, String> {
    let tpm = gose_backend::tpm::TpmKeyStore::new(tpm_settings(store)?);
    let said = tpm.quote(pcrs, nonce);
    said.map(answer).map_err(|error| error.to_string())
}

/// That the key of this blob is in this TPM.
#[cfg(feature = "tpm")]
pub(super) fn certify(store: &KeyStore, blob: &[u8], nonce: &[u8]) -> Result<Answer, String> {
    let tpm = gose_backend::tpm::TpmKeyStore::new(tpm_settings(store)?);
    let said = tpm.certify(blob, nonce);
    said.map(answer).map_err(|error| error.to_string())
}

#[cfg(feature = "tpm")]
fn answer(said: gose_backend::tpm::Attested) -> Answer {
    Answer {
        statement: said.statement,
        signature: said.signature,
        attestation_key: said.attestation_key,
    }
}

#[cfg(not(feature = "tpm"))]
pub(super) fn quote(_: &KeyStore, _: &[u8], _: &[u8]) -> Result<Answer, String> {
    absent("tpm")
}

#[cfg(not(feature = "tpm"))]
pub(super) fn certify(_: &KeyStore, _: &[u8], _: &[u8]) -> Result<Answer, String> {
    absent("tpm")
}

#[cfg(not(feature = "tpm"))]
fn tpm(_: &KeyStore) -> Result<Arc<dyn keystore::KeyStore>, String> {
    absent("tpm")
}

#[cfg(feature = "pkcs11")]
fn pkcs11(store: &KeyStore) -> Result<Arc<dyn keystore::KeyStore>, String> {
    use gose_backend::pkcs11::{Pkcs11KeyStore, Settings};
    let KeyStore::Pkcs11 {
        uri,
        pin_file,
        sessions,
        danger_spend_last_try,
        ..
    } = store
    else {
        return Err("not an HSM".into());
    };
    let uri: gose_proto::pkcs11::Uri = uri.parse().map_err(|error| format!("{error}"))?;
    let module = uri
        .module_path
        .clone()
        .ok_or("the URI has no module-path")?;
    if uri.pin_value.is_some() {
        return Err(
            "a PIN does not belong into the configuration; use pin-file, or pin-source in the URI"
                .into(),
        );
    }
    // RFC 7512, 2.4: a file by its path or as a `file:` URI.
    let source = uri.pin_source.as_ref().map(|source| {
        let path = source.strip_prefix("file:").unwrap_or(source);
        std::path::PathBuf::from(path.strip_prefix("//").unwrap_or(path))
    });
    let pin = match pin_file.as_ref().or(source.as_ref()) {
        Some(file) => {
            let bytes = secret(file)?;
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| format!("{}: the PIN is not text", file.display()))?;
            Some(zeroize::Zeroizing::new(text.to_owned()))
        }
        None => None,
    };
    let settings = Settings {
        sessions: *sessions,
        danger_spend_last_try: *danger_spend_last_try,
        ..Settings::new(module.into(), uri, pin)
    };
    Ok(Arc::new(Pkcs11KeyStore::new(settings)))
}

#[cfg(not(feature = "pkcs11"))]
fn pkcs11(_: &KeyStore) -> Result<Arc<dyn keystore::KeyStore>, String> {
    absent("pkcs11")
}

/// A file's content without the line's end, if the file is its owner's alone.
#[cfg(any(feature = "tpm", feature = "pkcs11"))]
fn secret(path: &std::path::Path) -> Result<zeroize::Zeroizing<Vec<u8>>, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    super::private_file(path).map_err(wrong)?;
    let mut bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(wrong)?);
    while bytes
        .last()
        .is_some_and(|byte| matches!(byte, b'\r' | b'\n'))
    {
        bytes.pop();
    }
    Ok(bytes)
}

#[cfg(all(test, feature = "pkcs11"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn where_an_hsm_pin_may_stand() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pin");
        std::fs::write(&file, "1234\n").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        let check = |query: &str| {
            let store = KeyStore::Pkcs11 {
                name: "hsm".into(),
                uri: format!("pkcs11:token=t?module-path=/no/module&{query}"),
                pin_file: None,
                sessions: 1,
                danger_spend_last_try: false,
            };
            pkcs11(&store).map(drop)
        };
        let path = file.display();
        for good in [
            format!("pin-source={path}"),
            format!("pin-source=file:{path}"),
        ] {
            check(&good).unwrap();
        }
        check(&format!("pin-source=file://{path}")).unwrap();
        assert!(
            check("pin-source=/no/file")
                .unwrap_err()
                .contains("/no/file")
        );
        assert!(check("pin-value=1234").unwrap_err().contains("pin-file"));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(
            check(&format!("pin-source={path}"))
                .unwrap_err()
                .contains("chmod")
        );
    }
}
