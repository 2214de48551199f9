//! Keys in a TPM 2.0.
