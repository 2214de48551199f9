//! Keys in an HSM.
