//! Tokens that are renewed while nobody asks, on a clock that the test winds.

use gose_proto::identity::{
    Certificate,
    attach::{AttachError, Chain, ToEndpoint, ToGuest, message_len},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time,
};

use super::*;
use crate::hypervisor::{
    attach::{self, IdentityTokens},
    domain::tests::domain_with,
};

/// The shortest life of a token.
const LIFETIME: Duration = Duration::from_secs(60);

struct NoElement;

impl IdentityTokens for NoElement {
    fn identity(&self, _: &Domain) -> Result<Chain, AttachError> {
        Err(AttachError::NoElement)
    }
}

/// The type of the next message, and the message.
async fn next(channel: &mut DuplexStream) -> (u8, ToGuest) {
    let mut field = [0; 2];
    channel.read_exact(&mut field).await.unwrap();
    let mut message = vec![0; message_len(field).unwrap()];
    channel.read_exact(&mut message).await.unwrap();
    (message[0], ToGuest::parse(&message).unwrap())
}

fn serial(chain: &Chain) -> Vec<u8> {
    let certificate = Certificate::parse(&chain.certificates()[0]).unwrap();
    certificate.serial().to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_at_half_of_its_life_and_the_guest_is_told() {
    let domain = domain_with(LIFETIME);
    let secret = domain.join_secret().unwrap();
    let (ours, mut guest) = tokio::io::duplex(65_536);
    let mut tasks = JoinSet::new();
    let begun = time::Instant::now();
    tasks.spawn(renew(domain.clone()));
    let served = attach::serve(ours, domain.clone(), Arc::new(NoElement));
    tasks.spawn(async move { served.await.unwrap() });
    let join = ToEndpoint::Join(secret).encode();
    guest.write_all(&join).await.unwrap();
    let (0x81, ToGuest::Joined { chain, .. }) = next(&mut guest).await else {
        panic!("no answer to the join");
    };
    let mut seen = vec![serial(&chain)];
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // From here on the guest only listens.
    for half in 1..=4 {
        let (0x84, ToGuest::Renewed(chain)) = next(&mut guest).await else {
            panic!("another message than a renewed token");
        };
        let passed = begun.elapsed().as_millis();
        let due = (LIFETIME / 2 * half).as_millis();
        assert!((due..due + 50).contains(&passed), "{passed} ms, due {due}");
        let renewed = serial(&chain);
        assert!(!seen.contains(&renewed));
        assert_eq!(renewed, domain.token().serial.as_bytes());
        // It begins now, by the clock on the wall, and lives as long as the first one.
        let leaf = Certificate::parse(&chain.certificates()[0]).unwrap();
        let (from, until) = leaf.validity();
        assert_eq!(until - from, 120);
        assert!((Clock::seconds() + 50..=Clock::seconds() + 60).contains(&until));
        seen.push(renewed);
    }
    tasks.shutdown().await;
}
