//! The relay rule: one upstream session for each guest session and remote node, and none that two guests share.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use gose_client::Connection;
use gose_element::Step;
use gose_proto::racs::{Class, Request};
use gosed::node::Running;

use crate::{
    grids::{SELECT, refusal, seid, select},
    world::{Played, World, logged, on},
};

/// Sessions that a grid has begun, and those that are open.
fn sessions(grid: &Running) -> (u64, usize) {
    let begun = grid.metrics().sessions.load(Ordering::Relaxed);
    (begun, grid.sessions().count())
}

/// Waits until the hypervisor has told the grids of these guests: nothing but their elements brings it there now.
fn settle(world: &World, guests: &[&Played]) -> (u64, u64) {
    let begun = Instant::now();
    let grids = ["grid", "grid-2"].iter().take(world.lines.len());
    for (grid, guest) in grids.flat_map(|grid| guests.iter().map(move |guest| (grid, guest))) {
        let path = world.path(&format!("told-to-{grid}.json"));
        let vm = guest.guest.record().vm.to_string();
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&vm)) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is not told");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let begun = |grid: &Running| {
        closed(grid);
        sessions(grid).0
    };
    (
        begun(&world.grid),
        world.second_grid.as_ref().map_or(0, begun),
    )
}

/// Waits until a grid has no session open.
fn closed(grid: &Running) {
    let begun = Instant::now();
    while grid.sessions().count() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "a session stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ask(session: &mut Connection, id: &str, elements: &[&str]) -> Option<Class> {
    let response = session.ask(select(id, elements)).unwrap();
    refusal(&response).map(|failure| failure.class())
}

#[test]
fn one_session_for_all_elements_of_a_node() {
    let world = World::with_two_grids();
    let _entered = world.runtime.enter();
    let second = world.second_grid.as_ref().unwrap();
    let played = world.create_with(&["SE-A", "SE-B", "SE-C"]);
    let mut session = played.guest.open_racs().unwrap();
    let (one, two) = settle(&world, &[&played]);
    assert_eq!(ask(&mut session, "Crecy", &["SE-A", "SE-B"]), None);
    assert_eq!(sessions(&world.grid), (one + 1, 1));
    assert_eq!(ask(&mut session, "Azincourt", &["SE-B", "SE-A"]), None);
    // the other node has its own
    assert_eq!(sessions(second), (two, 0));
    assert_eq!(ask(&mut session, "Patay", &["SE-A", "SE-C"]), None);
    assert_eq!(sessions(&world.grid), (one + 1, 1));
    assert_eq!(sessions(second), (two + 1, 1));
    for (element, request) in [("SE-A", "Crecy"), ("SE-B", "Crecy"), ("SE-C", "Patay")] {
        let element = format!("seid={element}");
        logged(&["element leased", "peer=hv-7", &element, request]);
    }
    // one element less: the session goes on with the other
    let mut request = Request::new();
    request.shutdown(&seid("SE-A")).unwrap();
    assert_eq!(refusal(&session.ask(request).unwrap()), None);
    on(world.grid.grid(), "SE-A", |_| {});
    assert_eq!(ask(&mut session, "Formigny", &["SE-B"]), None);
    assert_eq!(sessions(&world.grid), (one + 1, 1));
    // the end of the guest's session frees all of them, and ends the sessions upstream
    drop(session);
    on(world.grid.grid(), "SE-B", |_| {});
    on(second.grid(), "SE-C", |_| {});
    closed(&world.grid);
    closed(second);
    assert_eq!(sessions(&world.grid).0, one + 1);
    assert_eq!(sessions(second).0, two + 1);
}

#[test]
fn two_guests_share_none() {
    let world = World::new("none");
    let (a, b) = (world.create("SE-A"), world.create("SE-B"));
    let (mut of_a, mut of_b) = (a.guest.open_racs().unwrap(), b.guest.open_racs().unwrap());
    let (begun, _) = settle(&world, &[&a, &b]);
    assert_eq!(ask(&mut of_a, "Fleurus", &["SE-A"]), None);
    assert_eq!(ask(&mut of_b, "Rocroi", &["SE-B"]), None);
    assert_eq!(sessions(&world.grid), (begun + 2, 2));
    // nor do two sessions of one guest
    let mut again = a.guest.open_racs().unwrap();
    assert_eq!(ask(&mut again, "Lens", &["SE-A"]), Some(Class::InUse));
    drop(of_a);
    assert_eq!(ask(&mut again, "Denain", &["SE-A"]), None);
    assert_eq!(sessions(&world.grid).0, begun + 3);
    assert_eq!(ask(&mut of_b, "Fontenoy", &["SE-B"]), None);
}

#[test]
fn a_broken_session_fails_its_own_elements_alone() {
    let world = World::with_two_grids();
    let played = world.create_with(&["SE-A", "SE-B", "SE-C"]);
    let mut session = played.guest.open_racs().unwrap();
    let all = ["SE-A", "SE-B", "SE-C"];
    let (one, two) = settle(&world, &[&played]);
    assert_eq!(ask(&mut session, "Jemappes", &all), None);
    world.lines[0].cut();
    closed(&world.grid);
    // each of them is told once: what was selected in it is gone
    for element in ["SE-A", "SE-B"] {
        let apdu = |id: &str, apdu: &[u8]| {
            let mut request = Request::with_id(id).unwrap();
            request.apdu(&seid(element), &Step::new(apdu)).unwrap();
            request
        };
        let read = [0x00, 0xCB, 0x3F, 0xFF, 0x03, 0x5C, 0x01, 0x7E];
        let response = session.ask(apdu("Arcole", &read)).unwrap();
        let class = refusal(&response).map(|failure| failure.class());
        assert_eq!(class, Some(Class::Hardware), "{element}");
        // then nothing is selected, until it is anew
        let response = session.ask(apdu("Rivoli", &read)).unwrap();
        let class = refusal(&response).map(|failure| failure.class());
        assert_eq!(class, Some(Class::Unauthorised), "{element}");
        let response = session.ask(apdu("Marengo", SELECT)).unwrap();
        assert_eq!(refusal(&response), None, "{element}");
    }
    // the second grid's session did not break
    let second = world.second_grid.as_ref().unwrap();
    assert_eq!(ask(&mut session, "Hohenlinden", &all), None);
    assert_eq!(sessions(&world.grid), (one + 2, 1));
    assert_eq!(sessions(second), (two + 1, 1));
}
