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
    /// Fragments that have no row left, which Lance drops.
    emptied: Vec<u64>,
    /// Their names in the dataset's `_deletions` directory.
    pub(crate) files: Vec<String>,
}

impl Table {
    /// Writes down, in files that nothing refers to yet, that these rows are deleted besides those that are already:
    /// `ordinals` ascending. On return the files are durable. A fragment of which no row is left goes as a whole, and the
    /// ordinals behind it move.
    pub(crate) fn stage_deletion(&self, ordinals: &[u32]) -> Result<StagedDeletion> {
        let mut staged = StagedDeletion { fragments: Vec::new(), emptied: Vec::new(), files: Vec::new() };
        let mut rest = ordinals;
        for (fragment, present) in self.fragments()?.iter().zip(self.dataset.fragments().iter()) {
            let here = rest.partition_point(|ordinal| ordinal - fragment.first < fragment.rows);
            let (these, others) = rest.split_at(here);
            rest = others;
            if these.is_empty() {
                continue;
            }
            let failed = || Error::storage(format!("writing which rows of fragment {} are deleted", fragment.id));
            let rows: Vec<u32> = these.iter().map(|ordinal| ordinal - fragment.first).collect();
            let target = FileFragment::new(Arc::clone(&self.dataset), present.clone());
            match wait(target.extend_deletions(rows))?.map_err(failed())? {
                Some(updated) => staged.fragments.push(updated.metadata().clone()),
                None => staged.emptied.push(fragment.id),
            }
        }
        for fragment in &staged.fragments {
            if let Some(file) = &fragment.deletion_file {
                staged.files.push(super::rows::deletion_name(fragment.id, file));
            }
        }
        for file in &staged.files {
            sync_file(&self.deletions_dir().join(file))?;
        }
        if !staged.files.is_empty() {
            sync_dir(&self.deletions_dir())?;
            // The first deletion makes the directory.
            sync_dir(&self.path)?;
        }
        Ok(staged)
    }

    /// Makes staged deletions count: one manifest, written durably, is the commit.
    pub(crate) fn delete(&self, staged: StagedDeletion) -> Result<Self> {
        let operation = Operation::Delete {
            updated_fragments: staged.fragments,
            deleted_fragment_ids: staged.emptied,
            predicate: "id in a list".into(),
        };
        self.commit(operation, "delete", None)
    }
}
