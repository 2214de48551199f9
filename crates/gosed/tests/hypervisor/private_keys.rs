//! Private keys are where they belong and nowhere else: looked for in the memory of every process, in every file,
//! logs among them, and in everything that an operator can make an element say.

use std::{io::Read, time::Duration};

use gose_client::{
    Endpoint, RemoteElement,
    admin::{Action, Answer},
};
use gose_element::{SecureElement, drive::eap_tls};
use gose_proto::racs::Request;
use gose_testkit::{
    pki::Leaf,
    world::{OPERATOR_PIN, PIN},
};

use crate::{
    memory::{self, Secret},
    processes::Site,
};

/// PIV's application (SP 800-73-4, part 1, 2.2).
const PIV: [u8; 9] = [0xA0, 0, 0, 3, 8, 0, 0, 0x10, 0];

#[test]
fn a_private_key_is_in_the_process_of_its_element_alone() {
    let site = Site::new();
    let secrets = [
        key("the guest's", &site.guest_key),
        key("the authentication server's", &site.server_key),
        key("the hypervisor's", &site.hypervisor_key),
        Secret::bytes("the guests' place", b"/guests.sock"),
    ];
    let Answer::Created(vm) = site.create() else {
        panic!("no guest");
    };
    let (mut guest, _) = site.guests.accept().unwrap();
    guest
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut pid = [0; 4];
    guest
        .read_exact(&mut pid)
        .expect("the guest authenticates; see the logs of the nodes");
    assert!(log(&site, "server").contains("verdict=\"success\""));

    // Which of the secrets each process must hold; the others it must not. The last one shows that the memory of a
    // guest, which holds no key at all, was read.
    for (process, pid, holds) in [
        ("grid node", site.grid.pid(), [true, false, false, false]),
        (
            "authentication server",
            site.server.pid(),
            [false, true, false, false],
        ),
        (
            "hypervisor node",
            site.hypervisor.pid(),
            [false, false, true, true],
        ),
        (
            "guest",
            u32::from_be_bytes(pid),
            [false, false, false, true],
        ),
    ] {
        let found = memory::of_process(pid, &secrets);
        println!("{process}: {} bytes, {:?}", found.read, found.counts);
        assert!(found.read > 1 << 20, "{process}: {} bytes", found.read);
        for ((secret, count), holds) in secrets.iter().zip(&found.counts).zip(holds) {
            let name = secret.name;
            assert_eq!(*count > 0, holds, "{process}: {name} key, {count} times");
        }
    }
    drop(guest);
    let destroyed = site.ask(&Action::VmDestroy { uuid: vm.uuid });
    assert!(matches!(
        destroyed,
        Answer::Destroyed | Answer::Refused { .. }
    ));
    nothing_tells(&site, &secrets[..2]);
}

fn key(name: &'static str, leaf: &Leaf) -> Secret {
    Secret::p256(name, leaf.key().secret_der())
}

fn log(site: &Site, name: &str) -> String {
    std::fs::read_to_string(site.dir.path().join(format!("{name}.log"))).unwrap()
}

/// Neither files, logs among them, nor answers hold a key that was put into an element.
fn nothing_tells(site: &Site, secrets: &[Secret]) {
    let none = vec![0; secrets.len()];
    for (node, seid) in [("grid", "SE-A"), ("server", "AS1")] {
        let answers = answers(site.admin(node), seid);
        // Certificates at least.
        assert!(answers.len() > 1000, "{} bytes of answers", answers.len());
        assert_eq!(memory::count(&answers, secrets), none, "answers of {seid}");
    }
    let listed = serde_json::to_vec(&site.ask(&Action::VmList)).unwrap();
    assert_eq!(memory::count(&listed, secrets), none);
    let files = memory::files(site.dir.path());
    for name in [
        "grid.log",
        "SE-A.image",
        "server.log",
        "AS1.image",
        "hv-7.log",
    ] {
        let file = files.iter().find(|(path, _)| path.ends_with(name));
        assert!(file.is_some_and(|(_, bytes)| !bytes.is_empty()), "{name}");
    }
    for (path, bytes) in files {
        assert_eq!(memory::count(&bytes, secrets), none, "{}", path.display());
    }
}

/// Everything that an element answers an operator who knows its PINs: data objects, then every instruction.
fn answers(node: Endpoint, seid: &str) -> Vec<u8> {
    let seid = seid.parse().unwrap();
    // An operator takes an element from whoever has it.
    let mut operator = node.connect().unwrap();
    let mut shutdown = Request::new();
    shutdown.shutdown(&seid).unwrap();
    operator.ask(shutdown).unwrap();
    drop(operator);
    let mut element = RemoteElement::at(node, seid);
    let mut said = element.power_on().unwrap().as_bytes().to_vec();
    for (application, class) in [(&eap_tls::AID[..], 0xA0), (&PIV[..], 0)] {
        let select = |element: &mut RemoteElement| {
            let mut apdu = vec![0, 0xA4, 4, 0, 9];
            apdu.extend_from_slice(application);
            let mut said = say(element, &apdu);
            for (which, pin) in [(0, PIN), (1, OPERATOR_PIN), (0x80, &b"123456\xFF\xFF"[..])] {
                let mut verify = vec![class, 0x20, 0, which, u8::try_from(pin.len()).unwrap()];
                verify.extend_from_slice(pin);
                said.extend(say(element, &verify));
            }
            said
        };
        said.extend(select(&mut element));
        for tag in 0..=0x22 {
            let get = [0, 0xCB, 0x3F, 0xFF, 5, 0x5C, 3, 0x5F, 0xC1, tag, 0];
            said.extend(say(&mut element, &get));
        }
        for instruction in 0..=0xFF {
            for p2 in [0, 1, 0x9A, 0x9C, 0x80, 0x81, 0x82] {
                said.extend(say(&mut element, &[class, instruction, 0, p2, 0]));
            }
            // It may have selected something else, or made the element forget the PINs.
            if instruction == 0xA4 || instruction % 64 == 0 {
                said.extend(select(&mut element));
            }
        }
    }
    said
}

/// One command and the rest of its answer.
fn say(element: &mut RemoteElement, apdu: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    let mut next = apdu.to_vec();
    // An answer is bounded; what is not would never end.
    for _ in 0..300 {
        let Ok(response) = element.transmit(&next) else {
            break;
        };
        said.extend_from_slice(&response.data);
        match response.sw.bytes() {
            [0x61 | 0x9F, more] => next = vec![apdu[0], 0xC0, 0, 0, more],
            _ => break,
        }
    }
    said
}
