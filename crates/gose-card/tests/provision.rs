//! Initialisation of a card by its host.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{
    Algorithm, SecureElement,
    drive::{
        eap_tls::{EapTls, Error, Opening, personalisation::Operator, scripts::AID},
        piv::{CHUID, Piv, PivError, Slot},
        provision::{Initialised, ProvisionError, Secrets, initialise},
    },
};

fn element(nvm: Nvm) -> Hosted<Memory> {
    let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
    let mut element = Hosted::new(card, Memory::default());
    element.power_on().unwrap();
    element
}

#[test]
fn published_values_give_way() {
    let mut element = element(Nvm::replay([factory::birth([0; 16])]));
    let secrets = Secrets::random().unwrap();
    let done = initialise(&mut element, &secrets).unwrap();
    assert_eq!(done, Initialised { eap_tls: true });

    let mut piv = Piv::open(&mut element);
    assert!(matches!(
        piv.verify(b"123456"),
        Err(PivError::WrongPin { .. })
    ));
    piv.verify(secrets.piv_pin.as_slice()).unwrap();
    piv.unblock_pin(&secrets.piv_puk, b"123123").unwrap();
    piv.authenticate_management(&secrets.management_key)
        .unwrap();
    piv.generate(Slot::AUTHENTICATION, Algorithm::P256).unwrap();
    assert!(
        !piv.object(CHUID)
            .unwrap()
            .windows(16)
            .any(|guid| guid == [0; 16])
    );

    let published = Operator::open(&mut element, &AID, b"00000000");
    assert!(matches!(published, Err(Error::Pin(_))));
    let mut operator = Operator::open(&mut element, &AID, secrets.operator_pin.as_slice()).unwrap();
    operator.generate(0x9D, Algorithm::P256).unwrap();
    let bearer = EapTls::open(&mut element, &Opening::new(b"0000", "nobody"));
    assert!(matches!(bearer, Err(Error::Pin(_))));
}

#[test]
fn other_secrets_change_nothing() {
    let mut element = element(Nvm::replay([factory::birth([0; 16])]));
    initialise(&mut element, &Secrets::random().unwrap()).unwrap();
    let writes = element.host().log.len();
    let again = initialise(&mut element, &Secrets::random().unwrap());
    assert!(matches!(again, Err(ProvisionError::Initialised)));
    assert_eq!(element.host().log.len(), writes);
}

#[test]
fn cut_at_any_write_it_goes_on_with_the_same_secrets() {
    let birth = factory::birth([0; 16]);
    let secrets = Secrets::random().unwrap();
    let mut whole = element(Nvm::replay([birth.clone()]));
    initialise(&mut whole, &secrets).unwrap();
    let log = &whole.host().log;
    assert!(log.len() > 5);
    for cut in 0..=log.len() {
        let nvm = Nvm::replay(
            [birth.clone()]
                .into_iter()
                .chain(log[..cut].iter().cloned()),
        );
        let mut element = element(nvm);
        initialise(&mut element, &secrets).unwrap();
        let mut piv = Piv::open(&mut element);
        piv.verify(secrets.piv_pin.as_slice()).unwrap();
        piv.authenticate_management(&secrets.management_key)
            .unwrap();
        Operator::open(&mut element, &AID, secrets.operator_pin.as_slice()).unwrap();
    }
}
