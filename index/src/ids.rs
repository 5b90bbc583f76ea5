//! The ids of all passages, in memory: by ordinal, and the other way round.

use crate::error::{Error, Result};
use crate::table::Table;

/// The ids of one version's passages.
#[derive(Debug)]
pub(crate) struct Ids {
    /// By ordinal; that of a deleted passage is empty, which no other is.
    pub(crate) of: Vec<String>,
    /// Ordinals of the passages that are not deleted, in the order of their ids.
    sorted: Vec<u32>,
}

impl Ids {
    /// Reads the ids of a version with so many ordinals, of which these (ascending) are deleted.
    pub(crate) fn load(table: &Table, len: usize, deleted: &[u32]) -> Result<Self> {
        let live = table.ids()?;
        if live.len() + deleted.len() != len {
            let what = format!("{} ids were found for {} passages", live.len(), len - deleted.len().min(len));
            return Err(Error::corrupt(table.data_dir(), what));
        }
        let mut of = Vec::with_capacity(len);
        let (mut live, mut gone) = (live.into_iter(), deleted.iter().peekable());
        for ordinal in 0..len as u32 {
            let id = match gone.next_if_eq(&&ordinal) {
                Some(_) => None,
                None => live.next(),
            };
            of.push(id.unwrap_or_default());
        }
        let mut sorted: Vec<u32> = (0..len as u32).filter(|ordinal| !of[*ordinal as usize].is_empty()).collect();
        sorted.sort_by(|a, b| of[*a as usize].cmp(&of[*b as usize]));
        Ok(Self { of, sorted })
    }

    /// The ordinal of the passage with this id, if there is one.
    pub(crate) fn ordinal(&self, id: &str) -> Option<u32> {
        let found = self.sorted.binary_search_by(|ordinal| self.of[*ordinal as usize].as_str().cmp(id));
        found.ok().map(|at| self.sorted[at])
    }

    /// The ids of the passages that are not deleted.
    pub(crate) fn live(&self) -> impl Iterator<Item = &str> {
        self.of.iter().map(String::as_str).filter(|id| !id.is_empty())
    }
}
