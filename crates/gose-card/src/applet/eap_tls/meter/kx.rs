//! Key agreement: ephemeral key generations and agreements counted.

use rustls::{
    Error, NamedGroup,
    crypto::{
        ActiveKeyExchange, SharedSecret, SupportedKxGroup,
        aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519},
    },
    ffdhe_groups::FfdheGroup,
};

use super::{count, leak};

/// x25519, P-256, P-384: a server takes certificates only on curves that the client lists (RFC 8422, 5.1.1).
pub(super) fn groups() -> Vec<&'static dyn SupportedKxGroup> {
    vec![
        leak(Group(X25519)),
        leak(Group(SECP256R1)),
        leak(Group(SECP384R1)),
    ]
}

#[derive(Debug)]
struct Group(&'static dyn SupportedKxGroup);

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        count(|cost| {
            cost.ec_agree += 1;
            cost.of_these.ephemeral += 1;
        });
        self.0
            .start()
            .map(|inner| Box::new(Active(inner)) as Box<dyn ActiveKeyExchange>)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        self.0.name()
    }
}

struct Active(Box<dyn ActiveKeyExchange>);

impl ActiveKeyExchange for Active {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        let wide = self.0.group() == NamedGroup::secp384r1;
        count(|cost| {
            cost.ec_agree += 1;
            cost.of_these.agree_p384 += u64::from(wide);
        });
        self.0.complete(peer_pub_key)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        self.0.pub_key()
    }

    fn group(&self) -> NamedGroup {
        self.0.group()
    }
}
