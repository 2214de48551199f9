//! The program of a guest: it passes its control socket to the test, which then plays the guest, and lives until
//! the test closes.

use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use gose_client::{
    RemoteElement,
    guest::{Guest, authenticate},
};
use gose_element::{
    SecureElement,
    drive::eap_tls::{EapTls, Opening},
};
use gose_testkit::world::PIN;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::phases::now;

/// What the hypervisor starts: this test binary, with [`hand_over`] as its only test.
pub(crate) fn command(socket: &Path) -> Vec<String> {
    program("guest::hand_over", socket)
}

/// A guest that does its work itself, in its own process: [`authenticate_by_itself`].
pub(crate) fn working(socket: &Path) -> Vec<String> {
    program("guest::authenticate_by_itself", socket)
}

/// This test binary with one test; the last argument is a filter that fits no test and says where to go.
fn program(test: &str, socket: &Path) -> Vec<String> {
    let own = std::env::current_exe().unwrap();
    let place = format!("{PLACE}{}", socket.display());
    [
        own.to_str().unwrap(),
        "--ignored",
        "--exact",
        "--nocapture",
        test,
        &place,
    ]
    .map(str::to_owned)
    .to_vec()
}

const PLACE: &str = "to=";

/// Where the arguments say to go; nothing in an ordinary run of ignored tests.
fn place() -> Option<PathBuf> {
    std::env::args().find_map(|text| Some(PathBuf::from(text.strip_prefix(PLACE)?)))
}

/// Takes the control socket that a guest passes. The guest ends when the second socket is closed.
pub(crate) fn take(mut from: UnixStream) -> (UnixStream, UnixStream) {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut byte)];
    recvmsg(
        &mut from,
        &mut data,
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    (UnixStream::from(passed.unwrap()), from)
}

#[test]
#[ignore = "the program of a guest, started by the hypervisor under test"]
fn hand_over() {
    let Some(place) = place() else { return };
    let mut test = UnixStream::connect(place).unwrap();
    let control: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sockets = [control.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&sockets)));
    sendmsg(
        &test,
        &[IoSlice::new(b"x")],
        &mut ancillary,
        SendFlags::empty(),
    )
    .unwrap();
    let _ = test.read(&mut [0]);
}

/// Attaches, authenticates with its element, tells its process number and keeps everything as it is until the test
/// closes.
#[test]
#[ignore = "the program of a guest, started by the hypervisor under test"]
fn authenticate_by_itself() {
    let Some(place) = place() else { return };
    let mut test = UnixStream::connect(place).unwrap();
    let guest = Guest::from_stdin().unwrap();
    let mut element = RemoteElement::new(guest.open_racs().unwrap(), "SE-A".parse().unwrap());
    element.power_on().unwrap();
    let mut eap = EapTls::open(&mut element, &Opening::new(PIN, "peer")).unwrap();
    let mut channel = guest.open_eap().unwrap();
    authenticate(&mut channel, &mut eap, now).unwrap();
    let keys = eap.keys().unwrap();
    test.write_all(&std::process::id().to_be_bytes()).unwrap();
    let _ = test.read(&mut [0]);
    drop((keys, channel));
}
