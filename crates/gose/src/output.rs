//! What is printed: text for people, one JSON value for machines.

use std::io::Write;

use serde::Serialize;

use crate::Failure;

/// Where results go.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints a result: `value` as JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// [`Failure::Local`] when standard output is closed.
    pub(crate) fn result<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let mut line = if self.json {
            serde_json::to_string(value).map_err(|error| Failure::local(error.to_string()))?
        } else {
            text(value)
        };
        if !line.is_empty() && !line.ends_with('\n') {
            line.push('\n');
        }
        std::io::stdout()
            .write_all(line.as_bytes())
            .map_err(|error| Failure::local(format!("standard output: {error}")))
    }

    /// Prints why the command failed, on standard error.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let value = serde_json::json!({
                "error": failure.to_string(),
                "exit": failure.exit_code(),
            });
            eprintln!("{value}");
        } else {
            eprintln!("gose: {failure}");
        }
    }
}

/// Writes what was made to a file, in place of the one there.
///
/// # Errors
/// [`Failure::Local`] with the path.
pub(crate) fn write_file(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::local(format!("{}: {error}", path.display())))
}
