//! Generations that the hypervisor tells the grids: the identity token of a clone counts there no more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gose_client::{
    Connection,
    admin::{self, Action, Answer, Refusal, VmGeneration},
    identity::AwsLc,
    tls::ADMIN,
};
use gose_proto::identity::{Certificate, KeyHash};
use rustls::pki_types::CertificateDer;

use crate::{
    grids::{call, config, identity_chain, own_key},
    world::{Played, World, logged},
};

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// Stops the machine and starts it again, as after its image was put back: one generation more.
fn start_again(world: &World, generation: u64) -> Played {
    let middleware = world.hypervisor().roles().middleware.clone().unwrap();
    // The first time there is none.
    let _ = middleware.destroy(UUID.parse().unwrap());
    assert_eq!(world.start(UUID, "SE-A"), generation);
    world.play()
}

/// A session with the second grid, under this token and with the key in the machine's element.
fn session(
    world: &World,
    chain: &[CertificateDer<'static>],
    played: &Played,
) -> Option<Connection> {
    let key = Arc::new(own_key(played, "SE-A"));
    let config = config(world, chain.to_vec(), key);
    call(world.second_grid.as_ref().unwrap(), config)
}

/// How long the other end keeps a session open.
fn cut_after(mut session: Connection) -> Duration {
    let begun = Instant::now();
    while session.list().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it stays open");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

/// Waits until the second grid's file has this generation of the machine.
fn told(world: &World, generation: u64) {
    let begun = Instant::now();
    let entry = format!("\"{UUID}\": {generation}");
    let path = world.path("told-to-grid-2.json");
    while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&entry)) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not told");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the second grid answers to whoever tells a generation of the machine.
fn tell(world: &World, user: &str, hypervisor: &[u8], generation: u64) -> Answer {
    let hypervisor = Certificate::parse(hypervisor).unwrap();
    let action = Action::Generations {
        hypervisor: KeyHash::of(hypervisor.public_key(), &AwsLc).to_string(),
        generations: vec![VmGeneration {
            uuid: UUID.to_owned(),
            generation,
        }],
    };
    let grid = world.second_grid.as_ref().unwrap();
    let mut link = world.link(grid, &world.site.user(user), ADMIN);
    admin::ask(&mut link, &action).unwrap()
}

fn is_unauthorised(answer: &Answer) -> bool {
    let unauthorised = Refusal::Unauthorised;
    matches!(answer, Answer::Refused { reason, .. } if *reason == unauthorised)
}

#[test]
fn an_older_generation_is_refused_and_cut_within_a_second() {
    let world = World::with_two_grids();
    let first = start_again(&world, 1);
    let old = identity_chain(&first);
    let open = session(&world, &old, &first).unwrap();
    let second = start_again(&world, 2);
    let after = cut_after(open);
    assert!(after < Duration::from_secs(1), "{after:?}");
    assert!(session(&world, &old, &second).is_none());
    logged(&[
        "refused: certificate",
        "VM-Auth-Token: generation 1 is older than 2: a clone or a roll-back",
    ]);
    // the machine's own token counts
    let new = identity_chain(&second);
    assert!(session(&world, &new, &second).is_some());
}

#[test]
fn a_hypervisor_tells_of_its_own_machines_alone() {
    let world = World::with_two_grids();
    let played = start_again(&world, 1);
    let chain = identity_chain(&played);
    let path = world.path("hv-8.pem");
    let others = gose_client::tls::certificates(&path).unwrap();
    for user in ["hv-8", "alice"] {
        assert!(is_unauthorised(&tell(&world, user, &world.hv_ca[0], 9)));
    }
    logged(&["hv-8", "may not tell generations of hypervisor"]);
    // its own machine of that UUID is another one
    let newer = Vec::new();
    let kept = tell(&world, "hv-8", &others[0], 9);
    assert_eq!(kept, Answer::Generations { newer });
    assert!(session(&world, &chain, &played).is_some());
    // the machine's own hypervisor may, and nothing goes down again
    told(&world, 1);
    tell(&world, "hv-7", &world.hv_ca[0], 9);
    let newer = vec![VmGeneration {
        uuid: UUID.to_owned(),
        generation: 9,
    }];
    let kept = tell(&world, "hv-7", &world.hv_ca[0], 2);
    assert_eq!(kept, Answer::Generations { newer });
    assert!(session(&world, &chain, &played).is_none());
}

#[test]
fn a_grid_keeps_them_and_gets_what_it_missed() {
    let mut world = World::with_two_grids();
    let first = start_again(&world, 1);
    let of_first = identity_chain(&first);
    let second = start_again(&world, 2);
    let of_second = identity_chain(&second);
    told(&world, 2);
    world.restart_second_grid();
    assert!(session(&world, &of_first, &second).is_none());
    assert!(session(&world, &of_second, &second).is_some());
    // the hypervisor does not reach it, and starts guests as ever
    let third = start_again(&world, 3);
    assert!(session(&world, &of_second, &third).is_some());
    logged(&["the grid is not told the generations"]);
    let open = session(&world, &of_second, &third).unwrap();
    world.reach_second_grid();
    cut_after(open);
    told(&world, 3);
    assert!(session(&world, &of_second, &third).is_none());
}

#[test]
fn a_machine_of_which_nobody_told() {
    let world = World::with_two_grids();
    world.lines[1].lead_to(None);
    let played = start_again(&world, 1);
    let chain = identity_chain(&played);
    let open = session(&world, &chain, &played).unwrap();
    let text = world.second_grid_text();
    let strict = text.replace("[generations]", "[generations]\nunknown = \"refuse\"");
    world.reload_second_grid(&strict);
    cut_after(open);
    assert!(session(&world, &chain, &played).is_none());
    logged(&["refused: certificate", "its generation is unknown here"]);
    world.reach_second_grid();
    told(&world, 1);
    assert!(session(&world, &chain, &played).is_some());
}
