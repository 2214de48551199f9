//! RACS over mutual TLS, blocking, on std and rustls.
