//! What the compiled-in modules want of Lance: names, and a type that has no value, so that what needs a dataset cannot be
//! called here.

use std::path::PathBuf;

use crate::error::Result;

pub(crate) const DATASET: &str = "corpus.lance";
pub(crate) const MANIFEST_END: &[u8] = b"LANC";

pub(crate) enum Table {}

#[allow(dead_code)]
impl Table {
    pub(crate) fn text_files(&self) -> Result<Vec<String>> {
        match *self {}
    }

    pub(crate) fn deletion_files(&self) -> Vec<Option<String>> {
        match *self {}
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        match *self {}
    }

    pub(crate) fn deletions_dir(&self) -> PathBuf {
        match *self {}
    }
}
