//! Which rows a version has: fragments, their text files, and what is deleted of them.

use lance::table::format::DeletionFile;

use crate::digests::Digests;
use crate::error::{Error, Result};
use crate::passage::Fragment;
use crate::table::Table;
use crate::table::runtime::wait;

/// What distinguishes the passages of two versions. Files never change and their names are random, so versions with equal
/// rows have the same passages at the same ordinals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    /// The fragments in the order of their ids, which is the order of ordinals.
    pub(crate) fragments: Vec<Fragment>,
    /// The text file of each.
    pub(crate) texts: Vec<String>,
    /// The deletion file of each, where it has one.
    pub(crate) deletions: Vec<Option<String>>,
}

impl Rows {
    /// Number of ordinals: rows, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.fragments.iter().map(|fragment| fragment.rows as usize).sum()
    }
}

impl Table {
    /// What distinguishes the passages of this version from those of another.
    pub(crate) fn rows(&self) -> Result<Rows> {
        Ok(Rows { fragments: self.fragments()?, texts: self.text_files()?, deletions: self.deletion_files() })
    }

    /// The fragments in the order of their ids, which is the order of ordinals. Their rows include deleted ones.
    pub(crate) fn fragments(&self) -> Result<Vec<Fragment>> {
        let mut fragments = Vec::new();
        let mut first = 0u32;
        for fragment in self.dataset.fragments().iter() {
            let rows = fragment.physical_rows.and_then(|rows| u32::try_from(rows).ok());
            let Some(rows) = rows else {
                return Err(self.foreign("a fragment does not say how many rows it has"));
            };
            fragments.push(Fragment { id: fragment.id, first, rows });
            first = first.checked_add(rows).ok_or_else(|| self.foreign("it has more than 4294967295 rows"))?;
        }
        Ok(fragments)
    }

    /// Name of the file in the dataset's `_deletions` directory that says which rows of each fragment are deleted, in order;
    /// `None` where none is.
    pub(crate) fn deletion_files(&self) -> Vec<Option<String>> {
        let files = self
            .dataset
            .fragments()
            .iter()
            .map(|fragment| fragment.deletion_file.as_ref().map(|file| deletion_name(fragment.id, file)));
        files.collect()
    }

    /// Ordinals of the deleted rows, ascending. What is read must agree with the number that the version itself states.
    pub(crate) fn deleted(&self) -> Result<Vec<u32>> {
        if self.dataset.fragments().iter().all(|fragment| fragment.deletion_file.is_none()) {
            return Ok(Vec::new());
        }
        // Before they are read: their reader may take flipped bits for a length, and ask for more memory than there is.
        if let Some(dir) = self.path.parent() {
            Digests::of_deletions(dir).verify(&self.deletions_dir(), self.deletion_files().iter().flatten())?;
        }
        let mut found = Vec::new();
        for (fragment, file) in self.fragments()?.iter().zip(self.dataset.get_fragments()) {
            let Some(stated) = &file.metadata().deletion_file else { continue };
            let damaged = |what: String| Error::corrupt(self.deletions_dir(), what);
            let rows = wait(file.get_deletion_vector())?
                .map_err(Error::storage(format!("reading which rows of fragment {} are deleted", fragment.id)))?;
            let rows: Vec<u32> = rows.iter().flat_map(|rows| rows.to_sorted_iter()).collect();
            if let Some(row) = rows.iter().find(|row| **row >= fragment.rows) {
                let what =
                    format!("row {row} of fragment {} is deleted, which has {} rows", fragment.id, fragment.rows);
                return Err(damaged(what));
            }
            if stated.num_deleted_rows.is_some_and(|stated| stated != rows.len()) {
                let what = format!(
                    "{} deleted rows of fragment {} were found, it states another number",
                    rows.len(),
                    fragment.id
                );
                return Err(damaged(what));
            }
            found.extend(rows.iter().map(|row| fragment.first + row));
        }
        Ok(found)
    }

    /// How many rows are deleted, by what the version itself states; where it does not, by the files that say which.
    pub(crate) fn deleted_rows(&self) -> Result<usize> {
        let files = self.dataset.fragments().iter().filter_map(|fragment| fragment.deletion_file.as_ref());
        match files.map(|file| file.num_deleted_rows).sum::<Option<usize>>() {
            Some(rows) => Ok(rows),
            None => Ok(self.deleted()?.len()),
        }
    }

    /// Lance's addresses of rows: fragment and position in it.
    pub(super) fn addresses(&self, ordinals: &[u32]) -> Result<Vec<u64>> {
        let fragments = self.fragments()?;
        let addresses = ordinals.iter().map(|ordinal| {
            let after = fragments.partition_point(|fragment| fragment.first <= *ordinal);
            let fragment = after.checked_sub(1).and_then(|at| fragments.get(at));
            let fragment = fragment.filter(|fragment| ordinal - fragment.first < fragment.rows);
            let fragment =
                fragment.ok_or_else(|| Error::NotThere { what: format!("there is no passage `{ordinal}`") })?;
            Ok(fragment.id << 32 | u64::from(ordinal - fragment.first))
        });
        addresses.collect()
    }
}

/// How Lance names the file with the deleted rows of a fragment.
pub(super) fn deletion_name(fragment: u64, file: &DeletionFile) -> String {
    format!("{fragment}-{}-{}.{}", file.read_version, file.id, file.file_type.suffix())
}
