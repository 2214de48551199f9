//! Which elements were born here: one whose image is gone must not come back blank.

use std::{
    io,
    path::{Path, PathBuf},
};

use gose_element::Seid;

use super::durable;

/// The record of one element's birth: a small file in the store's directory, beside the images.
#[derive(Debug, Clone)]
pub(super) struct Birth {
    path: PathBuf,
}

impl Birth {
    /// The record of an element, in the store's directory.
    pub(super) fn of(seid: Seid, directory: &Path) -> Self {
        Self {
            path: directory.join(format!("{seid}.born")),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the element was born here.
    pub(super) fn is_recorded(&self) -> io::Result<bool> {
        self.path.try_exists()
    }

    /// Records the birth, durably, unless it is recorded.
    pub(super) fn record(&self, image: &Path) -> io::Result<()> {
        if self.is_recorded()? {
            return Ok(());
        }
        let text = format!(
            "The element of this name was born here; its image is {}.\n\
             While this file is there, no blank element takes its place when the image is missing.\n",
            image.display()
        );
        durable::replace(&self.path, text.as_bytes())
    }
}
