//! The library stays mapped when a program unloads it: destructors of threads, which the crypto library
//! registers, may run long after.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
