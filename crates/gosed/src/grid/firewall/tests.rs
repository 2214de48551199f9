use gose_element::{Outcome, Step};
use gose_proto::{apdu::StatusWord, hex};

use super::*;

const PIV: &str = "A000000308000010000100";
const EAP: &str = "A0000000300002FFFFFFFF8931323800";
/// Two applications with the same beginning; the peer may select the first alone.
const MINE: &str = "F000000001AA";
const THEIRS: &str = "F000000001BB";

fn firewall(plane: Plane, default: ByDefault) -> Firewall {
    let rule = |aid: &str, allow: &str, deny: &[&str]| AidRule {
        aid: crate::config::Text(aid.parse().unwrap()),
        allow: vec![crate::config::Text(allow.parse().unwrap())],
        filters: vec![crate::config::FilterRule {
            user: crate::config::Text("vm-42".parse().unwrap()),
            deny: deny
                .iter()
                .map(|deny| crate::config::Text(deny.parse().unwrap()))
                .collect(),
        }],
    };
    let rules = [
        rule(PIV, "*", &["00CB0000/00FF0000"]),
        rule(EAP, "vm-42", &["A0200000/FFFF0000"]),
        rule(MINE, "vm-42", &[]),
        rule(THEIRS, "vm-43", &[]),
    ];
    let names = Names::Certified(["vm-42".parse().unwrap()].into());
    Firewall::new(Access::new(plane, names, rules.into(), default))
}

fn step(apdu: &str) -> Step {
    Step::new(hex::decode(apdu).unwrap())
}

fn select(aid: &str) -> String {
    format!("00A40400{:02X}{aid}", aid.len() / 2)
}

fn answer(firewall: &mut Firewall, apdu: &str, answer: &str) {
    let Verdict::Select(selection) = firewall.check(&step(apdu)).unwrap() else {
        panic!("{apdu} is a SELECT");
    };
    let bytes = hex::decode(answer).unwrap();
    let (body, sw) = bytes.split_at(bytes.len() - 2);
    let outcome = Outcome {
        body: body.to_vec(),
        sw: StatusWord::from([sw[0], sw[1]]),
        expected: true,
    };
    firewall.selected(&selection, Some(&outcome));
}

/// Each line an APDU, and `ok` or what the log says.
fn check(firewall: &Firewall, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (apdu, expected) = line.split_once(' ').unwrap();
        let got = firewall
            .check(&step(apdu))
            .map_or_else(|reason| reason, |_| "ok");
        assert!(got.contains(expected), "{line}: {got}");
    }
}

fn with_piv() -> Firewall {
    let mut firewall = firewall(Plane::User, ByDefault::Deny);
    answer(
        &mut firewall,
        &select(PIV),
        "61114F0600001000010079074F05A0000003089000",
    );
    firewall
}

#[test]
fn nothing_before_a_select() {
    let mut firewall = firewall(Plane::User, ByDefault::Deny);
    check(
        &firewall,
        "0020008008313233343536FFFF no application is selected",
    );
    // A SELECT that fails changes nothing.
    answer(&mut firewall, &select(PIV), "6A82");
    check(
        &firewall,
        "0020008008313233343536FFFF no application is selected",
    );
    answer(&mut firewall, &select(PIV), "6110");
    check(&firewall, "0020008008313233343536FFFF ok");
    answer(&mut firewall, &select(EAP), "6A82");
    check(&firewall, "0020008008313233343536FFFF ok");
    firewall.forget();
    check(
        &firewall,
        "0020008008313233343536FFFF no application is selected",
    );
}

#[test]
fn ways_around_select() {
    check(
        &with_piv(),
        "
        00A4040005A000000151 security domains
        00A4040007A0000001510000 security domains
        00A4040008A000000003000000 security domains
        00A4040000 at least five bytes
        00A404000400000000 at least five bytes
        00A4040205F000000001 not allowed
        00A4040C05F000000001 not allowed
        00A4040006F000000001BB not allowed
        00A4040006F000000001AA ok
        00A4040C06F000000001AA ok
        00A4040005D276000124 no rule
        00A404000512345678 lengths that lie
        0CA4040006F000000001BB plain interindustry
        10A4040006F000000001BB plain interindustry
        80A4040006F000000001BB plain interindustry
        A0A4040006F000000001BB plain interindustry
        01A4040006F000000001AA logical channel
        41A4040006F000000001AA logical channel
        60A4040006F000000001AA logical channel
        C0A4040006F000000001AA logical channel
        20A4040006F000000001AA reserved
        FF00000000 class FF
        81CA9F7F00 logical channel
        0070000001 MANAGE CHANNEL
        0070800100 MANAGE CHANNEL
        ",
    );
}

#[test]
fn management_commands_and_filters() {
    let firewall = with_piv();
    check(
        &firewall,
        "
        00DB3FFF035C015A management
        10DB3FFF035C015A management
        0CDB3FFF035C015A management
        00470000 management
        00E40001 management
        10E40001 management
        0087039B management
        0087119A ok
        80E20000 management
        84E20000 management
        80F00000 management
        80D80000 management
        00F90000 management
        00FFFFFF management
        A0460002 management
        A0200001083030303030303030 management
        A02A0001083030303030303030 management
        A02400011030303030303030303030303030303030 management
        A02C00001030303030303030303030303030303030 management
        A0170081 management
        00CB3FFF055C035FC105 filter
        0CCB3FFF055C035FC105 filter
        00CA3FFF ok
        0022C1B803830101 ok
        002A86800161 ok
        002A83B8 ok
        00E00000 ok
        00CA0101 ok
        00DA01010161 ok
        00EE0101 ok
        ",
    );
    // The command that fetches an answer is an APDU like any other.
    let fetch = |header| step("0087119A").collect(header);
    assert!(firewall.check(&fetch([0, 0xDB, 0x3F, 0xFF])).is_err());
    assert!(firewall.check(&fetch([0, 0xA4, 0x04, 0x00])).is_err());
    assert!(firewall.check(&fetch([0, 0xC0, 0, 0])).is_ok());
    // Before anything is selected SELECT may be fetched from, with the same care.
    let mut firewall = firewall;
    firewall.forget();
    let fetch = |header| step(&select(PIV)).collect(header);
    assert!(firewall.check(&fetch([0, 0xC0, 0, 0])).is_ok());
    assert!(firewall.check(&fetch([0, 0xCB, 0x3F, 0xFF])).is_err());
    assert!(firewall.check(&fetch([0, 0xDB, 0x3F, 0xFF])).is_err());
}

#[test]
fn the_card_says_what_it_selected() {
    let mut firewall = firewall(Plane::User, ByDefault::Deny);
    // PIV by its first nine bytes, as OpenSC does.
    answer(
        &mut firewall,
        &select("A00000030800001000"),
        "61084F060000100001009000",
    );
    check(
        &firewall,
        "00CB3FFF055C035FC105 filter\n0020008008313233343536FFFF ok",
    );
    // Its answer names an application that no rule allows: nothing is selected.
    answer(&mut firewall, &select(MINE), "6F098407F000000001AA009000");
    check(&firewall, "0020008008313233343536FFFF no application");
}

#[test]
fn administrators() {
    let mut firewall = firewall(Plane::Management, ByDefault::Deny);
    answer(&mut firewall, "00A4040000", "9000");
    check(
        &firewall,
        "
        80E20000 ok
        00A4040008A000000003000000 ok
        0070000001 MANAGE CHANNEL
        81E20000 logical channel
        ",
    );
    // A filter that names the administrator holds for the administrator.
    answer(&mut firewall, &select(EAP), "9000");
    check(&firewall, "A02000000430303030 filter");
}

#[test]
fn allowed_by_default() {
    let mut firewall = firewall(Plane::User, ByDefault::Allow);
    check(
        &firewall,
        "00A4040005D276000124 ok\n00A4040007A0000001510000 security domains",
    );
    check(
        &firewall,
        "00A4040006F000000001BB not allowed\n00A4040005F000000001 not allowed",
    );
    answer(&mut firewall, &select("D276000124"), "9000");
    check(&firewall, "00CB3FFF055C035FC105 ok");
}

proptest::proptest! {
    #[test]
    fn any_bytes_do_not_panic(apdu: Vec<u8>, fetch: [u8; 4], answer: Vec<u8>) {
        let mut firewall = with_piv();
        let step = Step::new(apdu).collect(fetch);
        if let Ok(Verdict::Select(selection)) = firewall.check(&step) {
            let outcome = Outcome { body: answer, sw: StatusWord::NORMAL, expected: true };
            firewall.selected(&selection, Some(&outcome));
        }
    }
}
