//! Deleting rows: a deletion file per fragment concerned, then one manifest.

use std::sync::Arc;

use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::Operation;
use lance::table::format::Fragment as LanceFragment;

use super::Table;
use crate::durable::{sync_dir, sync_file};
use crate::error::{Error, Result};
use crate::table::runtime::wait;

/// Deletion files that are on disk and not yet part of the dataset.
pub(crate) struct StagedDeletion {
    fragments: Vec<LanceFragment>,
    /// Their names in the dataset's `_deletions` directory.
    pub(crate) files: Vec<String>,
}

impl Table {
    /// Writes down, in files that nothing refers to yet, that these rows are deleted besides those that are already:
    /// `ordinals` ascending. On return the files are durable.
    ///
    /// A fragment all of whose rows are deleted stays: Lance would remove it, and the ordinals behind it would move.
    pub(crate) fn stage_deletion(&self, ordinals: &[u32]) -> Result<StagedDeletion> {
        let mut staged = StagedDeletion { fragments: Vec::new(), files: Vec::new() };
        let mut rest = ordinals;
        for (fragment, present) in self.fragments()?.iter().zip(self.dataset.fragments().iter()) {
            let here = rest.partition_point(|ordinal| ordinal - fragment.first < fragment.rows);
            let (these, others) = rest.split_at(here);
            rest = others;
            if these.is_empty() {
                continue;
            }
            // One row more than there are: so that a fragment is kept whose every row is deleted.
            let mut roomy = present.clone();
            roomy.physical_rows = roomy.physical_rows.map(|rows| rows + 1);
            let failed = || Error::storage(format!("writing which rows of fragment {} are deleted", fragment.id));
            let rows: Vec<u32> = these.iter().map(|ordinal| ordinal - fragment.first).collect();
            let written = wait(FileFragment::new(Arc::clone(&self.dataset), roomy).extend_deletions(rows))?;
            let written = written.map_err(failed())?.ok_or_else(|| self.foreign("a fragment vanished"))?;
            let mut updated = present.clone();
            updated.deletion_file = written.metadata().deletion_file.clone();
            staged.fragments.push(updated);
        }
        for fragment in &staged.fragments {
            if let Some(file) = &fragment.deletion_file {
                staged.files.push(super::rows::deletion_name(fragment.id, file));
            }
        }
        for file in &staged.files {
            sync_file(&self.deletions_dir().join(file))?;
        }
        sync_dir(&self.deletions_dir())?;
        // The first deletion makes the directory.
        sync_dir(&self.path)?;
        Ok(staged)
    }

    /// Makes staged deletions count: one manifest, written durably, is the commit.
    pub(crate) fn delete(&self, staged: StagedDeletion) -> Result<Self> {
        let operation = Operation::Delete {
            updated_fragments: staged.fragments,
            deleted_fragment_ids: Vec::new(),
            predicate: "id in a list".into(),
        };
        self.commit(operation, "delete", None)
    }
}
