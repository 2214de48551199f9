//! libpcsclite by dlopen: the calls of PC/SC part 5 that the backend needs, with Rust's types.
//!
//! The only file of the backend with unsafe code.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_long, c_ulong, c_void},
    ptr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use libloading::Library;

/// The library's name: the runtime file, not the link of the development package.
const NAME: &str = "libpcsclite.so.1";

/// Bytes of the longest extended response and of the longest extended command (MAX_BUFFER_SIZE_EXTENDED).
pub(super) const MAX_APDU: usize = 4 + 3 + 65_536 + 3 + 2;

/// The reader name that stands for readers coming and going.
pub(super) const PLUG_AND_PLAY: &CStr = c"\\\\?PnP?\\Notification";

/// What a call came to, if not success: an SCARD_* code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure(pub(super) u32);

#[rustfmt::skip]
impl Failure {
    pub(super) const CANCELLED: Self = Self(0x8010_0002);
    pub(super) const INVALID_HANDLE: Self = Self(0x8010_0003);
    pub(super) const INVALID_PARAMETER: Self = Self(0x8010_0004);
    pub(super) const UNKNOWN_READER: Self = Self(0x8010_0009);
    pub(super) const TIMEOUT: Self = Self(0x8010_000A);
    pub(super) const SHARING_VIOLATION: Self = Self(0x8010_000B);
    pub(super) const NO_SMARTCARD: Self = Self(0x8010_000C);
    pub(super) const PROTO_MISMATCH: Self = Self(0x8010_000F);
    pub(super) const COMM_ERROR: Self = Self(0x8010_0013);
    pub(super) const NOT_TRANSACTED: Self = Self(0x8010_0016);
    pub(super) const READER_UNAVAILABLE: Self = Self(0x8010_0017);
    pub(super) const NO_SERVICE: Self = Self(0x8010_001D);
    pub(super) const SERVICE_STOPPED: Self = Self(0x8010_001E);
    pub(super) const NO_READERS: Self = Self(0x8010_002E);
    pub(super) const UNSUPPORTED_CARD: Self = Self(0x8010_0065);
    pub(super) const UNRESPONSIVE_CARD: Self = Self(0x8010_0066);
    pub(super) const UNPOWERED_CARD: Self = Self(0x8010_0067);
    pub(super) const RESET_CARD: Self = Self(0x8010_0068);
    pub(super) const REMOVED_CARD: Self = Self(0x8010_0069);
}

/// The transmission protocol of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    T0,
    T1,
}

/// What happens to the card at reconnecting and disconnecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    Leave,
    Reset,
    Unpower,
}

/// What a reader's slot is known to hold, for [`Context::status_change`].
#[derive(Debug, Clone)]
pub(super) struct ReaderState {
    pub(super) name: CString,
    /// SCARD_STATE_* as last seen, with the event counter in the upper half.
    pub(super) state: u32,
    pub(super) atr: Vec<u8>,
}

impl ReaderState {
    pub(super) const PRESENT: u32 = 0x20;
    pub(super) const MUTE: u32 = 0x200;
    const CHANGED: u32 = 0x02;

    pub(super) fn unknown(name: CString) -> Self {
        Self {
            name,
            state: 0,
            atr: Vec::new(),
        }
    }

    pub(super) fn present(&self) -> bool {
        self.state & Self::PRESENT != 0
    }
}

type Long = c_long;
type Dword = c_ulong;

/// SCARD_READERSTATE of pcsclite (not packed on Linux).
#[repr(C)]
struct RawState {
    reader: *const c_char,
    user_data: *mut c_void,
    current: Dword,
    event: Dword,
    atr_len: Dword,
    atr: [u8; 33],
}

/// SCARD_IO_REQUEST of pcsclite.
#[repr(C)]
struct IoRequest {
    protocol: Dword,
    length: Dword,
}

type Establish = unsafe extern "C" fn(Dword, *const c_void, *const c_void, *mut Long) -> Long;
type OnContext = unsafe extern "C" fn(Long) -> Long;
type ListReaders = unsafe extern "C" fn(Long, *const c_char, *mut c_char, *mut Dword) -> Long;
type Connect =
    unsafe extern "C" fn(Long, *const c_char, Dword, Dword, *mut Long, *mut Dword) -> Long;
type Reconnect = unsafe extern "C" fn(Long, Dword, Dword, Dword, *mut Dword) -> Long;
type Disconnect = unsafe extern "C" fn(Long, Dword) -> Long;
type Status = unsafe extern "C" fn(
    Long,
    *mut c_char,
    *mut Dword,
    *mut Dword,
    *mut Dword,
    *mut u8,
    *mut Dword,
) -> Long;
type StatusChange = unsafe extern "C" fn(Long, Dword, *mut RawState, Dword) -> Long;
type Transmit = unsafe extern "C" fn(
    Long,
    *const IoRequest,
    *const u8,
    Dword,
    *mut IoRequest,
    *mut u8,
    *mut Dword,
) -> Long;
type GetAttribute = unsafe extern "C" fn(Long, Dword, *mut u8, *mut Dword) -> Long;

/// The entry points; they stay valid because the library is never closed.
struct Calls {
    establish: Establish,
    release: OnContext,
    cancel: OnContext,
    list_readers: ListReaders,
    connect: Connect,
    reconnect: Reconnect,
    disconnect: Disconnect,
    status: Status,
    status_change: StatusChange,
    transmit: Transmit,
    get_attribute: GetAttribute,
    _library: Library,
}

fn calls() -> Result<&'static Calls, String> {
    static CALLS: OnceLock<Result<Calls, String>> = OnceLock::new();
    CALLS.get_or_init(load).as_ref().map_err(String::clone)
}

fn load() -> Result<Calls, String> {
    let missing = |error: libloading::Error| format!("{error}; install the package libpcsclite1");
    // SAFETY: libpcsclite runs no initialiser that depends on our state.
    let library = unsafe { Library::new(NAME) }.map_err(missing)?;
    macro_rules! symbol {
        ($name:literal, $kind:ty) => {
            // SAFETY: the type is that of winscard.h of pcsclite on Linux for this name.
            *unsafe { library.get::<$kind>($name) }.map_err(missing)?
        };
    }
    Ok(Calls {
        establish: symbol!(b"SCardEstablishContext\0", Establish),
        release: symbol!(b"SCardReleaseContext\0", OnContext),
        cancel: symbol!(b"SCardCancel\0", OnContext),
        list_readers: symbol!(b"SCardListReaders\0", ListReaders),
        connect: symbol!(b"SCardConnect\0", Connect),
        reconnect: symbol!(b"SCardReconnect\0", Reconnect),
        disconnect: symbol!(b"SCardDisconnect\0", Disconnect),
        status: symbol!(b"SCardStatus\0", Status),
        status_change: symbol!(b"SCardGetStatusChange\0", StatusChange),
        transmit: symbol!(b"SCardTransmit\0", Transmit),
        get_attribute: symbol!(b"SCardGetAttrib\0", GetAttribute),
        _library: library,
    })
}

/// Success, or the code. Codes are 32 bits wide; `long` may be wider.
fn check(code: Long) -> Result<(), Failure> {
    match u32::try_from(code & 0xFFFF_FFFF).unwrap_or(u32::MAX) {
        0 => Ok(()),
        code => Err(Failure(code)),
    }
}

fn dword(len: usize) -> Dword {
    Dword::try_from(len).unwrap_or(Dword::MAX)
}

fn length(dword: Dword) -> usize {
    usize::try_from(dword).unwrap_or(usize::MAX)
}

/// A connection to pcscd; released when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Context(Arc<Owned>);

struct Owned {
    calls: &'static Calls,
    handle: Long,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle came from SCardEstablishContext and is released once.
        unsafe { (self.calls.release)(self.handle) };
    }
}

impl Context {
    /// Connects to pcscd. The outer error says that the library is not there.
    pub(super) fn establish() -> Result<Result<Self, Failure>, String> {
        let calls = calls()?;
        let mut handle: Long = 0;
        // SAFETY: SCARD_SCOPE_SYSTEM, two reserved null pointers, a place for the handle.
        let code = unsafe { (calls.establish)(2, ptr::null(), ptr::null(), &raw mut handle) };
        Ok(check(code).map(|()| Self(Arc::new(Owned { calls, handle }))))
    }

    /// Ends a [`Context::status_change`] that another thread waits in.
    pub(super) fn cancel(&self) {
        // SAFETY: SCardCancel is the one call that may run beside another one on the same context.
        unsafe { (self.0.calls.cancel)(self.0.handle) };
    }

    /// The readers' names.
    pub(super) fn readers(&self) -> Result<Vec<CString>, Failure> {
        // A reader may appear between asking for the length and for the names.
        let mut names = vec![0_u8; 16_384];
        let mut len = dword(names.len());
        // SAFETY: no groups; the buffer has the length that is announced.
        let code = unsafe {
            (self.0.calls.list_readers)(
                self.0.handle,
                ptr::null(),
                names.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        match check(code) {
            Err(Failure::NO_READERS) => return Ok(Vec::new()),
            other => other?,
        }
        names.truncate(length(len));
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names.filter_map(|name| CString::new(name).ok()).collect())
    }

    /// Waits until one of the readers differs from its `state`, and updates all.
    pub(super) fn status_change(
        &self,
        states: &mut [ReaderState],
        limit: Duration,
    ) -> Result<(), Failure> {
        let mut raw: Vec<RawState> = states
            .iter()
            .map(|state| RawState {
                reader: state.name.as_ptr(),
                user_data: ptr::null_mut(),
                current: Dword::from(state.state),
                event: 0,
                atr_len: 0,
                atr: [0; 33],
            })
            .collect();
        let millis = Dword::try_from(limit.as_millis()).unwrap_or(1000);
        // SAFETY: as many states as announced; their names live in `states` during the call.
        let code = unsafe {
            (self.0.calls.status_change)(self.0.handle, millis, raw.as_mut_ptr(), dword(raw.len()))
        };
        check(code)?;
        for (state, raw) in states.iter_mut().zip(&raw) {
            state.state =
                u32::try_from(raw.event & 0xFFFF_FFFF).unwrap_or(0) & !ReaderState::CHANGED;
            let atr = raw.atr.get(..length(raw.atr_len)).unwrap_or_default();
            state.atr = if state.present() {
                atr.to_vec()
            } else {
                Vec::new()
            };
        }
        Ok(())
    }

    /// Connects to the card in a reader, for this process alone, by T=0 or T=1.
    pub(super) fn connect(&self, reader: &CStr) -> Result<Link, Failure> {
        self.connect_as(reader, Share::Exclusive)
    }

    /// Connects to a reader whatever it holds, to ask the reader itself.
    pub(super) fn connect_reader(&self, reader: &CStr) -> Result<Link, Failure> {
        self.connect_as(reader, Share::Direct)
    }

    fn connect_as(&self, reader: &CStr, share: Share) -> Result<Link, Failure> {
        let (mut handle, mut protocol): (Long, Dword) = (0, 0);
        let (mode, protocols) = match share {
            Share::Exclusive => (1, EITHER),
            Share::Direct => (3, 0),
        };
        // SAFETY: the name ends with 0; places for handle and protocol.
        check(unsafe {
            (self.0.calls.connect)(
                self.0.handle,
                reader.as_ptr(),
                mode,
                protocols,
                &raw mut handle,
                &raw mut protocol,
            )
        })?;
        let at_drop = if share == Share::Direct {
            Disposition::Leave
        } else {
            Disposition::Unpower
        };
        Ok(Link {
            context: self.clone(),
            handle,
            protocol: read_protocol(protocol),
            at_drop,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Exclusive,
    Direct,
}

/// SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1.
const EITHER: Dword = 3;

fn read_protocol(protocol: Dword) -> Protocol {
    if protocol == 1 {
        Protocol::T0
    } else {
        Protocol::T1
    }
}

/// A connection to a card; disconnected when dropped.
pub(super) struct Link {
    context: Context,
    handle: Long,
    protocol: Protocol,
    at_drop: Disposition,
}

impl Drop for Link {
    fn drop(&mut self) {
        // SAFETY: the handle came from SCardConnect and is disconnected once.
        unsafe { (self.context.0.calls.disconnect)(self.handle, self.at_drop.code()) };
    }
}

impl Link {
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Takes the card back after a reset, or resets it.
    pub(super) fn reconnect(&mut self, with: Disposition) -> Result<(), Failure> {
        let mut protocol: Dword = 0;
        // SAFETY: a valid handle, exclusive use, a place for the protocol.
        check(unsafe {
            (self.context.0.calls.reconnect)(self.handle, 1, EITHER, with.code(), &raw mut protocol)
        })?;
        self.protocol = read_protocol(protocol);
        Ok(())
    }

    /// The card's answer to reset.
    pub(super) fn atr(&self) -> Result<Vec<u8>, Failure> {
        let mut atr = [0_u8; 33];
        let (mut len, mut state, mut protocol): (Dword, Dword, Dword) = (33, 0, 0);
        let mut name = [0; 256];
        let mut name_len: Dword = 256;
        // SAFETY: every buffer has the length that is announced.
        check(unsafe {
            (self.context.0.calls.status)(
                self.handle,
                name.as_mut_ptr(),
                &raw mut name_len,
                &raw mut state,
                &raw mut protocol,
                atr.as_mut_ptr(),
                &raw mut len,
            )
        })?;
        Ok(atr.get(..length(len)).unwrap_or_default().to_vec())
    }

    /// Sends a command; the answer stands at the beginning of `answer`, of which the length is given.
    pub(super) fn transmit(&self, command: &[u8], answer: &mut [u8]) -> Result<usize, Failure> {
        let protocol = if self.protocol == Protocol::T0 { 1 } else { 2 };
        let send = IoRequest {
            protocol,
            length: dword(size_of::<IoRequest>()),
        };
        let mut len = dword(answer.len());
        // SAFETY: both buffers have the lengths that are announced; no request is asked back.
        check(unsafe {
            (self.context.0.calls.transmit)(
                self.handle,
                &raw const send,
                command.as_ptr(),
                dword(command.len()),
                ptr::null_mut(),
                answer.as_mut_ptr(),
                &raw mut len,
            )
        })?;
        Ok(length(len).min(answer.len()))
    }

    /// The reader's serial number (SCARD_ATTR_VENDOR_IFD_SERIAL_NO), where its driver tells one.
    pub(super) fn serial(&self) -> Option<String> {
        let mut value = [0_u8; 264];
        let mut len: Dword = 264;
        // SAFETY: the buffer has the length that is announced.
        check(unsafe {
            (self.context.0.calls.get_attribute)(
                self.handle,
                0x0001_0103,
                value.as_mut_ptr(),
                &raw mut len,
            )
        })
        .ok()?;
        let text = String::from_utf8_lossy(value.get(..length(len))?).into_owned();
        Some(text.trim_end_matches('\0').to_owned())
    }
}

impl Disposition {
    const fn code(self) -> Dword {
        match self {
            Self::Leave => 0,
            Self::Reset => 1,
            Self::Unpower => 2,
        }
    }
}
