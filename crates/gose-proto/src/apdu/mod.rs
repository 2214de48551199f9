//! ISO/IEC 7816-3 and 7816-4: commands, responses, status words, BER-TLV, command chaining.

pub mod chaining;
mod command;
mod response;
mod status;
pub mod tlv;

pub use command::{Command, CommandError, CommandRef};
pub use response::{Response, ResponseError};
pub use status::StatusWord;
