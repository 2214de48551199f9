//! The control socket of a guest that is a process: the join record, then further sockets on request.
//!
//! The hypervisor begins with length (4) ‖ join record. Then the guest asks with one byte, and the
//! hypervisor answers with the same byte and a socket (SCM_RIGHTS), or with FF and none.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zeroize::Zeroizing;

use super::{GuestError, JoinRecord, RecordError};

/// Bytes that a join record may have.
const MAX_RECORD: usize = 65_536;

/// The answer without a socket.
const NONE: u8 = 0xFF;

/// What a guest asks its hypervisor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A socket to the attach endpoint.
    Attach,
    /// A socket for one TLS session.
    Session,
}

impl Request {
    const fn byte(self) -> u8 {
        match self {
            Self::Attach => 0x01,
            Self::Session => 0x02,
        }
    }

    /// The request of a byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Attach),
            0x02 => Some(Self::Session),
            _ => None,
        }
    }
}

/// The guest's end of the control socket.
pub struct Control {
    socket: UnixStream,
}

impl Control {
    /// Takes the socket; its time limits hold for every request.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Reads the join record, which comes first.
    ///
    /// # Errors
    /// [`GuestError::Io`], [`GuestError::Record`].
    pub fn record(&mut self) -> Result<JoinRecord, GuestError> {
        let mut field = [0; 4];
        self.socket.read_exact(&mut field)?;
        let length = usize::try_from(u32::from_be_bytes(field)).unwrap_or(usize::MAX);
        if length > MAX_RECORD {
            return Err(RecordError::Length(length).into());
        }
        let mut json = Zeroizing::new(vec![0; length]);
        self.socket.read_exact(&mut json)?;
        Ok(serde_json::from_slice(&json).map_err(RecordError::Json)?)
    }

    /// Asks for a socket.
    ///
    /// # Errors
    /// [`GuestError::NoChannel`] if the hypervisor gives none.
    pub fn open(&mut self, request: Request) -> Result<UnixStream, GuestError> {
        self.socket.write_all(&[request.byte()])?;
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(io::Error::from)?;
        if received.bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut sockets = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        match sockets.next().and_then(|mut sockets| sockets.next()) {
            Some(socket) if byte == [request.byte()] => Ok(UnixStream::from(socket)),
            _ if byte == [NONE] => Err(GuestError::NoChannel),
            _ => Err(GuestError::Unexpected),
        }
    }
}

/// The hypervisor's end: the join record as it goes over the socket.
///
/// # Errors
/// [`RecordError::Length`] for certificates that are too many or too long.
pub fn send_record(record: &JoinRecord) -> Result<Zeroizing<Vec<u8>>, RecordError> {
    let json = Zeroizing::new(serde_json::to_vec(record)?);
    if json.len() > MAX_RECORD {
        return Err(RecordError::Length(json.len()));
    }
    let length = u32::try_from(json.len()).map_err(|_| RecordError::Length(json.len()))?;
    let mut out = Zeroizing::new(Vec::with_capacity(json.len() + 4));
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&json);
    Ok(out)
}

/// The hypervisor's end: answers a request with a socket, or without one. Does not block on a
/// non-blocking socket.
///
/// # Errors
/// What the system says; `WouldBlock` to try again.
pub fn serve_request(
    socket: impl AsFd,
    request: Request,
    answer: Option<&OwnedFd>,
) -> io::Result<()> {
    let byte = [answer.map_or(NONE, |_| request.byte())];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<_> = answer.iter().map(AsFd::as_fd).collect();
    if !sockets.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::from(io::ErrorKind::OutOfMemory));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&byte)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use gose_proto::identity::{VmId, attach::JoinSecret};

    use super::*;

    #[test]
    fn the_record_then_sockets() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let record = JoinRecord::new(
            VmId([7; 16]),
            "hv-7",
            &[vec![1, 2]],
            &[vec![3]],
            &JoinSecret::new([9; 32]),
        );
        (&ours).write_all(&send_record(&record).unwrap()).unwrap();
        let mut control = Control::new(theirs);
        let read = control.record().unwrap();
        assert_eq!(read.vm().unwrap(), VmId([7; 16]));
        assert_eq!(read.anchors().unwrap(), [vec![1, 2]]);
        assert_eq!(read.secret().unwrap(), JoinSecret::new([9; 32]));

        let (end, mut kept) = UnixStream::pair().unwrap();
        serve_request(&ours, Request::Session, Some(&end.into())).unwrap();
        let mut opened = control.open(Request::Session).unwrap();
        kept.write_all(b"x").unwrap();
        let mut byte = [0];
        opened.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        let mut asked = [0];
        (&ours).read_exact(&mut asked).unwrap();
        assert_eq!(Request::from_byte(asked[0]), Some(Request::Session));

        serve_request(&ours, Request::Attach, None).unwrap();
        let refused = control.open(Request::Attach);
        assert!(matches!(refused, Err(GuestError::NoChannel)));
    }

    #[test]
    fn an_answer_of_another_kind() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut control = Control::new(theirs);
        let (end, _kept) = UnixStream::pair().unwrap();
        serve_request(&ours, Request::Attach, Some(&end.into())).unwrap();
        let opened = control.open(Request::Session);
        assert!(matches!(opened, Err(GuestError::Unexpected)));
        drop(ours);
        assert!(matches!(
            control.open(Request::Session),
            Err(GuestError::Io(_))
        ));
    }

    #[test]
    fn a_record_that_is_too_long() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(&[0, 1, 0, 1]).unwrap();
        let record = Control::new(theirs).record();
        let Err(GuestError::Record(RecordError::Length(65_537))) = record else {
            panic!("a record of 65537 bytes was taken");
        };
    }
}
