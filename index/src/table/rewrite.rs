//! New fragments, texts and vectors in files of their own: staged, then appended or put in the place of all others by one
//! manifest.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream;
use lance::dataset::fragment::FileFragment;
use lance::dataset::transaction::{DataReplacementGroup, Operation, TransactionBuilder};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::table::format::{DataFile, Fragment as LanceFragment};

use super::{EMBEDDING, GENERATION, Table, create, replace};
use crate::durable::{sync_dir, sync_file};
use crate::error::{Error, Result};
use crate::passage::{Fragment, Passage};
use crate::table::runtime::{store, wait};

/// A fragment to be: all its files are on disk, and durable but for their names.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    fragment: LanceFragment,
    /// Its text file in `data`.
    pub(crate) text_file: String,
    /// Number of its rows.
    pub(crate) rows: usize,
}

impl Table {
    /// Writes passages and their vectors, row-major (rows, `dim`), into two new files that nothing refers to yet. There must
    /// be a passage, and the columns for the vectors.
    pub(crate) fn stage_new(&self, passages: &[Passage], number: u32, dim: usize, vectors: &[f32]) -> Result<Piece> {
        const DOING: &str = "writing new passages";
        let parameters = WriteParams {
            mode: WriteMode::Append,
            max_rows_per_file: passages.len(),
            store_params: Some(store()),
            ..Default::default()
        };
        let batches = create::batches(passages).map_err(Error::storage(DOING))?;
        let insert = InsertBuilder::new(Arc::clone(&self.dataset)).with_params(&parameters);
        let written = wait(insert.execute_uncommitted(batches))?.map_err(Error::storage(DOING))?;
        let Operation::Append { mut fragments } = written.operation else {
            return Err(self.foreign("new passages were written in an unexpected way"));
        };
        let fragment = fragments.pop().filter(|_| fragments.is_empty());
        let fragment = fragment.ok_or_else(|| self.foreign("new passages were not written as one fragment"))?;
        for file in &fragment.files {
            sync_file(&self.data_dir().join(&file.path))?;
        }
        self.with_vectors(fragment, number, dim, vectors)
    }

    /// The texts of a fragment of this version, which must have no deleted rows, with other vectors in a new file that nothing
    /// refers to yet.
    pub(crate) fn stage_again(&self, fragment: &Fragment, number: u32, dim: usize, vectors: &[f32]) -> Result<Piece> {
        let mut texts = self.whole(fragment)?;
        let embedding = self.dataset.schema().field(EMBEDDING).map(|field| field.id);
        texts.files.retain(|file| embedding.is_none_or(|embedding| !file.fields.contains(&embedding)));
        texts.id = 0;
        self.with_vectors(texts, number, dim, vectors)
    }

    /// A fragment of this version as it is; it must have no deleted rows.
    pub(crate) fn keep(&self, fragment: &Fragment) -> Result<Piece> {
        let mut whole = self.whole(fragment)?;
        whole.id = 0;
        self.piece(whole)
    }

    /// Adds staged passages behind all others. An error leaves the dataset as it was.
    pub(crate) fn append(&self, pieces: Vec<Piece>) -> Result<Self> {
        sync_dir(&self.data_dir())?;
        self.commit(Operation::Append { fragments: fragments(pieces) }, "append", None)
    }

    /// Makes these fragments the only ones, in this order. An error leaves the dataset as it was.
    pub(crate) fn overwrite(&self, pieces: Vec<Piece>, doing: &str, number: Option<u32>) -> Result<Self> {
        sync_dir(&self.data_dir())?;
        let operation = Operation::Overwrite {
            fragments: fragments(pieces),
            schema: self.dataset.schema().clone(),
            config_upsert_values: None,
            initial_bases: None,
        };
        self.commit(operation, doing, number)
    }

    /// One manifest, written durably: the commit point of everything. Notes what was done, and the generation where the commit
    /// brings a new one.
    pub(super) fn commit(&self, operation: Operation, doing: &str, number: Option<u32>) -> Result<Self> {
        let mut properties = HashMap::from([(OPERATION.to_string(), doing.to_string())]);
        properties.extend(number.map(|number| ("ragtune.generation".to_string(), number.to_string())));
        let transaction = TransactionBuilder::new(self.version(), operation)
            .transaction_properties(Some(Arc::new(properties)))
            .build();
        let dataset = wait(CommitBuilder::new(Arc::clone(&self.dataset)).execute(transaction))?
            .map_err(Error::storage(format!("committing the {doing}")))?;
        Ok(self.with(dataset))
    }

    fn with_vectors(&self, texts: LanceFragment, number: u32, dim: usize, vectors: &[f32]) -> Result<Piece> {
        let failed = || Error::storage("writing the vectors of a new fragment");
        let schema = self.dataset.schema().project(&[EMBEDDING, GENERATION]).map_err(failed())?;
        let batch = replace::batch(number, dim, vectors)?;
        let target = FileFragment::new(Arc::clone(&self.dataset), texts.clone());
        let DataReplacementGroup(_, written) =
            wait(target.write_columns(stream::iter([Ok(batch)]), &schema))?.map_err(failed())?;
        sync_file(&self.data_dir().join(&written.path))?;
        let mut fragment = texts;
        fragment.files.push(written);
        self.piece(fragment)
    }

    fn whole(&self, fragment: &Fragment) -> Result<LanceFragment> {
        let found = self.dataset.fragments().iter().find(|found| found.id == fragment.id);
        let found = found.ok_or_else(|| self.foreign(&format!("it has no fragment {}", fragment.id)))?;
        match found.deletion_file {
            None => Ok(found.clone()),
            // Lance refuses it too: the name of a deletion file holds the number of its fragment.
            Some(_) => Err(self.foreign(&format!("fragment {} has deleted rows", fragment.id))),
        }
    }

    fn piece(&self, fragment: LanceFragment) -> Result<Piece> {
        let texts = self.dataset.schema().field("text").map(|field| field.id);
        let holds = |file: &&DataFile| texts.is_some_and(|texts| file.fields.contains(&texts));
        let text_file = fragment.files.iter().find(holds).map(|file| file.path.clone());
        let text_file = text_file.ok_or_else(|| self.foreign("a fragment has no texts"))?;
        let rows =
            fragment.physical_rows.ok_or_else(|| self.foreign("a fragment does not say how many rows it has"))?;
        Ok(Piece { fragment, text_file, rows })
    }
}

/// Property of a transaction that says what it did.
pub(super) const OPERATION: &str = "ragtune.operation";

fn fragments(pieces: Vec<Piece>) -> Vec<LanceFragment> {
    pieces.into_iter().map(|piece| piece.fragment).collect()
}
