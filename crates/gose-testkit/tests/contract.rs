//! The element contract on a software card in this process.

use gose_element::Algorithm;
use gose_testkit::contract::{self, Keys, Removal, Second, Terms};

#[test]
fn software_card_in_process() {
    let mut element = gose_card::Hosted::new(
        gose_card::factory::new_card(
            gose_card::nvm::Nvm::replay([gose_card::factory::birth([2; 16])]),
            std::sync::Arc::new(gose_card::keystore::SoftwareKeyStore),
        ),
        gose_card::Memory::default(),
    );
    let terms = Terms {
        name: "software, in process",
        keys: Keys::Made(&[
            Algorithm::P256,
            Algorithm::P384,
            Algorithm::Rsa2048,
            Algorithm::Rsa3072,
            Algorithm::Rsa4096,
        ]),
        // In the long form more than 16 bits count: a session must not notice.
        operations: if std::env::var_os("GOSE_TEST_LONG").is_some() {
            66_000
        } else {
            2_000
        },
        removal: Removal::None("its memory is this process's"),
        second: Second::None("in one process it has one owner"),
    };
    println!("{}", contract::run(&mut element, terms));
}
