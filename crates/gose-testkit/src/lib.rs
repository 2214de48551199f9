//! World, test PKI, script runners; for tests only.
