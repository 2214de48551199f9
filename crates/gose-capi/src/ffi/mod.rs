//! The C functions: pointers become values and slices, panics become a status. Nothing else happens here.

mod buffer;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use gose_client::middleware::{Middleware, MiddlewareError, Protocol};
use gose_proto::eap::Code;
use zeroize::Zeroizing;

use self::buffer::{Output, input, text};
use crate::status::Status;

/// `gose_handle`
pub(crate) struct Handle {
    inner: Mutex<Inner>,
}

struct Inner {
    middleware: Option<Middleware>,
    error: CString,
    /// An answer that did not fit its buffer, with what it answers.
    kept: Option<Kept>,
}

struct Kept {
    function: &'static str,
    index: usize,
    question: Zeroizing<Vec<u8>>,
    answer: Answer,
}

/// What a function writes besides its status.
#[derive(Clone)]
struct Answer {
    bytes: Zeroizing<Vec<u8>>,
    numbers: [u64; 2],
}

/// `gose_message`
#[repr(C)]
pub(crate) struct Message {
    code: u8,
    identifier: u8,
    kind: u8,
    more: u8,
    records: usize,
}

/// `gose_send`
type Send = Option<unsafe extern "C" fn(*mut c_void, *const u8, usize) -> c_int>;

/// Why a function did not do what it was asked.
enum Failure {
    Status(Status),
    Middleware(MiddlewareError),
}

impl From<MiddlewareError> for Failure {
    fn from(error: MiddlewareError) -> Self {
        Self::Middleware(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

type Outcome = Result<(), Failure>;

impl Handle {
    fn new(middleware: Option<Middleware>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                middleware,
                error: CString::default(),
                kept: None,
            }),
        }
    }

    /// Runs a function while no other thread uses the handle, and keeps its error's text.
    fn run(&self, function: impl FnOnce(&mut Inner) -> Outcome) -> Status {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = catch_unwind(AssertUnwindSafe(|| function(&mut inner)));
        let (status, words) = match outcome {
            Ok(Ok(())) => return Status::Ok,
            Ok(Err(Failure::Middleware(error))) => (Status::from(&error), error.to_string()),
            Ok(Err(Failure::Status(status))) => (status, words(status).into()),
            Err(_) => (Status::Internal, words(Status::Internal).into()),
        };
        inner.error = CString::new(words.replace('\0', " ")).unwrap_or_default();
        status
    }
}

fn words(status: Status) -> &'static str {
    match status {
        Status::InvalidArgument => "an argument is NULL, or not what the function takes",
        Status::BufferTooSmall => "the buffer is too small; the length needed is told",
        Status::Configuration => "the configuration cannot be used",
        _ => "a fault of the library; please report it",
    }
}

impl Inner {
    fn middleware(&mut self) -> Result<&mut Middleware, Failure> {
        self.middleware
            .as_mut()
            .ok_or(Failure::Status(Status::Configuration))
    }

    /// Asks an element, unless the answer to the same question is still here; gives it where it fits.
    fn answer(
        &mut self,
        function: &'static str,
        index: usize,
        question: &[u8],
        out: &mut Output,
        ask: impl FnOnce(&mut Middleware) -> Result<Answer, MiddlewareError>,
    ) -> Result<[u64; 2], Failure> {
        let same = |kept: &Kept| {
            kept.function == function && kept.index == index && *kept.question == question
        };
        let answer = match self.kept.take().filter(same) {
            Some(kept) => kept.answer,
            None => ask(self.middleware()?)?,
        };
        if out.give(&answer.bytes) {
            return Ok(answer.numbers);
        }
        self.kept = Some(Kept {
            function,
            index,
            question: Zeroizing::new(question.to_vec()),
            answer,
        });
        Err(Status::BufferTooSmall.into())
    }
}

/// The code as on the line (RFC 3748, 4).
fn code(code: Code) -> u8 {
    match code {
        Code::Request => 1,
        Code::Response => 2,
        Code::Success => 3,
        Code::Failure => 4,
    }
}

fn packet(bytes: Vec<u8>) -> Answer {
    Answer {
        bytes: Zeroizing::new(bytes),
        numbers: [0; 2],
    }
}

/// Functions on a handle, exported under their names.
macro_rules! on_handle {
    ($(fn $name:ident($inner:ident $(, $argument:ident: $type:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments, unused_unsafe, reason = "gose.h says so")]
        pub(crate) unsafe extern "C" fn $name(handle: *mut Handle $(, $argument: $type)*) -> Status {
            // SAFETY: the handle is NULL or one of gose_open that is not closed (gose.h).
            let Some(handle) = (unsafe { handle.as_ref() }) else {
                return Status::InvalidArgument;
            };
            // SAFETY: pointers are NULL or valid for the lengths beside them until the function returns, and
            // nobody else writes the output meanwhile (gose.h).
            handle.run(|$inner| unsafe { $body })
        }
    )*};
}

on_handle! {
    fn SCard_list_remote_reader(inner, names: *mut c_char, len: *mut usize, count: *mut usize) {
        let mut out = Output::new(names.cast(), len)?;
        let seids = inner.middleware()?.list()?;
        let mut list: Vec<u8> = Vec::new();
        for seid in &seids {
            list.extend_from_slice(seid.as_str().as_bytes());
            list.push(0);
        }
        list.push(0);
        if let Some(count) = count.as_mut() {
            *count = seids.len();
        }
        if out.give(&list) { Ok(()) } else { Err(Status::BufferTooSmall.into()) }
    }

    fn SCard_init_remote_reader(
        inner,
        index: usize,
        aid: *const u8,
        aid_len: usize,
        identity: *const c_char,
        pin: *const c_char,
        protocol: c_uint,
        readers: *mut usize,
    ) {
        let (aid, identity) = (input(aid, aid_len)?, text(identity)?);
        let pin = Zeroizing::new(text(pin)?);
        let protocol = match protocol {
            0 => Protocol::Any,
            1 => Protocol::T0,
            2 => Protocol::T1,
            _ => return Err(Status::InvalidArgument.into()),
        };
        let found = inner.middleware()?.init(index, &aid, &identity, pin.as_bytes(), protocol)?;
        if let Some(readers) = readers.as_mut() {
            *readers = found;
        }
        Ok(())
    }

    fn SCard_connect_remote_reader(inner, index: usize) {
        inner.middleware()?.connect(index)?;
        Ok(())
    }

    fn SCard_disconnect_remote_reader(inner, index: usize) {
        Ok(inner.middleware()?.disconnect(index)?)
    }

    fn SCard_start_remote_eap(
        inner,
        index: usize,
        eap: *const u8,
        eap_len: usize,
        out: *mut u8,
        out_len: *mut usize,
    ) {
        let (eap, mut out) = (input(eap, eap_len)?, Output::new(out, out_len)?);
        inner.answer("start", index, &eap, &mut out, |middleware| {
            middleware.start_eap(index, &eap).map(packet)
        })?;
        Ok(())
    }

    fn SCard_send_remote_apdu_cmd(
        inner,
        index: usize,
        apdu: *const u8,
        len: usize,
        out: *mut u8,
        out_len: *mut usize,
        sw: *mut u16,
    ) {
        let (apdu, mut out) = (Zeroizing::new(input(apdu, len)?), Output::new(out, out_len)?);
        let sw = sw.as_mut().ok_or(Status::InvalidArgument)?;
        let [word, _] = inner.answer("apdu", index, &apdu, &mut out, |middleware| {
            let (bytes, word) = middleware.send_apdu(index, &apdu)?;
            Ok(Answer { bytes, numbers: [word.value().into(), 0] })
        })?;
        *sw = u16::try_from(word).unwrap_or_default();
        Ok(())
    }

    fn SCard_process_eap_tls_packet(
        inner,
        index: usize,
        tls: *const u8,
        len: usize,
        out: *mut u8,
        out_len: *mut usize,
    ) {
        let (tls, mut out) = (input(tls, len)?, Output::new(out, out_len)?);
        inner.answer("process", index, &tls, &mut out, |middleware| {
            middleware.process_eap_tls(index, &tls).map(packet)
        })?;
        Ok(())
    }

    fn SCard_parse_rw_message(
        inner,
        index: usize,
        msg: *const u8,
        len: usize,
        out: *mut Message,
        send: Send,
        arg: *mut c_void,
    ) {
        let msg = input(msg, len)?;
        let out = out.as_mut().ok_or(Status::InvalidArgument)?;
        let parsed = inner.middleware()?.parse(index, &msg)?;
        *out = Message {
            code: code(parsed.code),
            identifier: parsed.identifier,
            kind: parsed.kind.unwrap_or(0),
            more: parsed.more.into(),
            records: parsed.records.len(),
        };
        if let (Some(send), false) = (send, parsed.records.is_empty())
            && send(arg, parsed.records.as_ptr(), parsed.records.len()) != 0
        {
            return Err(Status::InvalidArgument.into());
        }
        Ok(())
    }

    fn SCard_get_remote_cipher_suite(inner, index: usize, version: *mut u16, suite: *mut u16) {
        let (Some(version), Some(suite)) = (version.as_mut(), suite.as_mut()) else {
            return Err(Status::InvalidArgument.into());
        };
        (*version, *suite) = inner.middleware()?.cipher_suite(index)?;
        Ok(())
    }

    fn SCard_get_remote_key_block(
        inner,
        index: usize,
        out: *mut u8,
        out_len: *mut usize,
        client_seq: *mut u64,
        server_seq: *mut u64,
    ) {
        let mut out = Output::new(out, out_len)?;
        let (Some(client), Some(server)) = (client_seq.as_mut(), server_seq.as_mut()) else {
            return Err(Status::InvalidArgument.into());
        };
        let numbers = inner.answer("keys", index, &[], &mut out, |middleware| {
            let block = middleware.key_block(index)?;
            Ok(Answer {
                bytes: block.bytes,
                numbers: [block.client_sequence, block.server_sequence],
            })
        })?;
        [*client, *server] = numbers;
        Ok(())
    }
}

/// Functions without a handle, or that end it.
macro_rules! exported {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: handles are NULL or of gose_open and not closed, pointers NULL or valid (gose.h).
            unsafe { $body }
        }
    )*};
}

exported! {
    fn gose_open(config: *const c_char, out: *mut *mut Handle) -> Status {
        if config.is_null() || out.is_null() {
            return Status::InvalidArgument;
        }
        let path = PathBuf::from(CStr::from_ptr(config).to_string_lossy().into_owned());
        let handle = Handle::new(None);
        let status = handle.run(|inner| {
            inner.middleware = Some(Middleware::open(&path)?);
            Ok(())
        });
        *out = Box::into_raw(Box::new(handle));
        status
    }

    fn gose_close(handle: *mut Handle) {
        if !handle.is_null() {
            drop(Box::from_raw(handle));
        }
    }

    fn gose_error_text(handle: *mut Handle) -> *const c_char {
        match handle.as_ref() {
            None => c"no handle".as_ptr(),
            Some(handle) => {
                let inner = handle.inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.error.as_ptr()
            }
        }
    }
}
