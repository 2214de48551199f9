//! `libgose_pkcs11.so`: keys in secure elements of a grid by PKCS#11 v2.40 and v3.0.
#![deny(unsafe_code)]
