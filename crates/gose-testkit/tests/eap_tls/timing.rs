//! Time on real cards, simulated: what a handshake takes is what its primitives take, and nobody waits.

use std::time::{Duration, Instant};

use gose_card::timing::{Cost, Profile};
use gose_element::Algorithm;
use gose_testkit::world::{Options, World};

use crate::success::check;

fn ms(ms: f64) -> f64 {
    ms / 1000.0
}

/// The published figures of NXP's J3R180, by hand: what the price list must come to.
fn j3r180(cost: &Cost) -> f64 {
    let of = &cost.of_these;
    let counts = [
        // A block of SHA-256 is 64 of 22.8 µs; a message has 1.98 ms, less the padding's block.
        (cost.hash_blocks, 64.0 * 0.022_8),
        (cost.hash_messages, 1.98 - 64.0 * 0.022_8),
        (cost.rsa_private, 53.23),
        (cost.rsa_public, 3.99),
        (cost.ecdsa_sign, 31.96),
        (cost.ecdsa_verify, 30.22),
        (cost.ec_agree - of.ephemeral, 31.96),
        (of.ephemeral, 26.8),
        (cost.cipher_bytes, 0.001_3),
        (cost.cipher_messages, 1.55),
        (cost.cipher_keys, 6.09),
        (cost.io_bytes, 0.085_2),
    ];
    counts
        .iter()
        .map(|(count, each)| *count as f64 * ms(*each))
        .sum()
}

#[test]
fn a_handshake_takes_the_sum_of_its_primitives() {
    let profile = Profile::named("j3r180");
    for algorithm in [Algorithm::P256, Algorithm::Rsa2048] {
        for version in [0x0303, 0x0304] {
            let options = Options {
                profile,
                ..Options::default().algorithm(algorithm).version(version)
            };
            let mut world = World::new(&options);
            for resumed in [false, true] {
                for element in [&mut world.peer, &mut world.authenticator] {
                    let host = element.host_mut();
                    (host.cost, host.elapsed) = (Cost::ZERO, Duration::ZERO);
                }
                let begun = Instant::now();
                let ended = world.drive().unwrap();
                check(&ended);
                let real = begun.elapsed();
                assert_eq!(ended.peer.unwrap().resumed, resumed);
                for element in [&world.peer, &world.authenticator] {
                    let (cost, elapsed) = (element.host().cost, element.host().elapsed);
                    let sum = j3r180(&cost);
                    assert!(
                        (elapsed.as_secs_f64() - sum).abs() < 1e-6,
                        "{elapsed:?} {sum} {cost:?}"
                    );
                    // TLS keys were made, messages were hashed: all of it was counted.
                    assert!(cost.hash_messages > 10 && cost.cipher_keys >= 2, "{cost:?}");
                    assert!(
                        cost.cipher_messages >= 2 && cost.cipher_bytes >= 32,
                        "{cost:?}"
                    );
                    assert!(
                        resumed || elapsed > Duration::from_millis(300),
                        "{elapsed:?}"
                    );
                    assert_eq!(cost.key_generate, 0);
                }
                let simulated = world.peer.host().elapsed + world.authenticator.host().elapsed;
                assert!(real < simulated, "{real:?} of {simulated:?}");
            }
        }
    }
}
