//! How a host drives the applications on an element.

pub mod piv;
