//! RACS 0.2, Remote APDU Call Secure (draft-urien-core-racs).

pub mod script;
