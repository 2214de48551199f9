//! RACS 0.2, Remote APDU Call Secure (draft-urien-core-racs).
//!
//! [`Session`] is the server's machine, [`Client`] the client's. Both take bytes and give bytes; who
//! runs an [`Operation`] on an element, and who waits, is the shell's business.

pub mod client;
mod code;
mod failure;
mod input;
pub mod line;
mod reply;
mod request;
pub mod script;
mod seid;
pub mod session;

pub use client::{Client, ProtocolError, Refusal, Response, Status};
pub use code::{Class, Code, Verb};
pub use failure::Failure;
pub use line::{Command, Line, LineError};
pub use request::{Request, RequestError};
pub use seid::{Seid, SeidError};
pub use session::{Close, Completion, Mode, Operation, Output, Session};

/// The version that GET-VERSION tells and SET-VERSION accepts (draft-urien-core-racs-02, 4.2).
pub const VERSION: &str = "0.2";

/// Bytes of a line, without its end.
pub const MAX_LINE: usize = 140_000;

/// Command lines of a request.
pub const MAX_COMMANDS: u16 = 999;

/// Characters of a request identifier.
pub const MAX_ID: usize = 64;

/// Bytes of all status lines of one response.
pub const MAX_KEPT: usize = 1 << 20;
