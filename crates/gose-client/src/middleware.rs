//! What a guest's programs use: elements of a grid, reached as a configuration file says.

mod configuration;
mod secret;

pub use configuration::{Grid, Key};
pub use secret::Source;
