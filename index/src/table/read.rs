//! Reading passages and vectors back.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Float32Type, UInt32Type};
use futures::{StreamExt, TryStreamExt};

use super::{EMBEDDING, GENERATION, Table};
use crate::error::{Error, Result};
use crate::passage::{Fragment, Passage};
use crate::table::runtime::wait;

const TEXT_COLUMNS: [&str; 3] = ["id", "title", "text"];
const BATCH_ROWS: usize = 4096;
/// What a scan may hold of a file before it is decoded; Lance's own default is 2 GiB.
const SCAN_BYTES: u64 = 64 << 20;

impl Table {
    /// The passages at these ordinals, in the order asked; they may repeat, must exist and must not be deleted.
    pub(crate) fn passages(&self, ordinals: &[u32]) -> Result<Vec<Passage>> {
        let mut wanted = ordinals.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let projection = self.dataset.schema().project(&TEXT_COLUMNS).map_err(Error::storage("reading passages"))?;
        // Without stable row ids, which this crate never asks for, a row's id is its address.
        let addresses = self.addresses(&wanted)?;
        let batch =
            wait(self.dataset.take_rows(&addresses, projection))?.map_err(Error::storage("reading passages"))?;
        let found = self.to_passages(&batch)?;
        if found.len() != wanted.len() {
            let what = format!("{} passages were read where {} were asked for", found.len(), wanted.len());
            return Err(Error::corrupt(&self.path, what));
        }
        let at = |ordinal: &u32| wanted.binary_search(ordinal).ok();
        let passages = ordinals.iter().map(|ordinal| {
            let passage = at(ordinal).and_then(|at| found.get(at));
            passage.cloned().ok_or_else(|| self.foreign(&format!("passage {ordinal} cannot be read")))
        });
        passages.collect()
    }

    /// Consecutive passages of one fragment, deleted ones included; `range` counts within it and must lie in it.
    pub(crate) fn read(&self, fragment: &Fragment, range: Range<u32>) -> Result<Vec<Passage>> {
        let missing = || self.foreign(&format!("it has no fragment {}", fragment.id));
        let id = usize::try_from(fragment.id).map_err(|_| missing())?;
        let file = self.dataset.get_fragment(id).ok_or_else(missing)?;
        let doing = || Error::storage("reading passages");
        let projection = self.dataset.schema().project(&TEXT_COLUMNS).map_err(doing())?;
        let rows = u64::from(range.start)..u64::from(range.end);
        let batches: Vec<RecordBatch> = wait(async {
            let stream = file.read_physical_slice(rows, &projection, BATCH_ROWS as u32).await?;
            stream.buffered(2).try_collect().await
        })?
        .map_err(doing())?;
        let mut passages = Vec::with_capacity(range.len());
        for batch in &batches {
            passages.extend(self.to_passages(batch)?);
        }
        Ok(passages)
    }

    /// The passage at an ordinal, deleted or not.
    pub(crate) fn row(&self, ordinal: u32) -> Result<Passage> {
        let fragments = self.fragments()?;
        let holds = |fragment: &&Fragment| fragment.first <= ordinal && ordinal - fragment.first < fragment.rows;
        let gone = || Error::NotThere { what: format!("there is no passage `{ordinal}`") };
        let fragment = fragments.iter().find(holds).ok_or_else(gone)?;
        let row = ordinal - fragment.first;
        self.read(fragment, row..row + 1)?.pop().ok_or_else(gone)
    }

    /// The ids of all passages that are not deleted, in the order of ordinals.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        self.scan("id", |batch| {
            ids.extend(self.strings(batch, "id")?.iter().flatten().map(str::to_string));
            Ok(())
        })?;
        Ok(ids)
    }

    /// All vectors, row-major (N, D), in the order of ordinals, those of deleted passages included. Every fragment must have
    /// some.
    pub(crate) fn vectors(&self, len: usize, dim: usize) -> Result<Vec<f32>> {
        let mut vectors = Vec::new();
        vectors.try_reserve_exact(len * dim).map_err(Error::storage("making room for the vectors"))?;
        self.scan_all(EMBEDDING, |batch| {
            let column = batch.column_by_name(EMBEDDING).and_then(|column| column.as_fixed_size_list_opt());
            let column = column.ok_or_else(|| self.foreign("the vectors have an unexpected type"))?;
            if column.null_count() > 0 {
                return Err(Error::corrupt(&self.path, "some passages have no vector"));
            }
            // `values` spans the whole buffer; a sliced batch must not bring its neighbours along.
            let values = column.values().as_primitive_opt::<Float32Type>();
            let values = values.ok_or_else(|| self.foreign("the vectors have an unexpected type"))?.values();
            let start = column.value_offset(0) as usize;
            let rows = values.get(start..start + column.len() * dim);
            vectors.extend_from_slice(rows.ok_or_else(|| Error::corrupt(&self.path, "a batch of vectors is short"))?);
            Ok(())
        })?;
        if vectors.len() != len * dim {
            let what = format!("{} values of vectors were found, {} expected", vectors.len(), len * dim);
            return Err(Error::corrupt(&self.path, what));
        }
        Ok(vectors)
    }

    /// The generation that the vectors of this version belong to; an error when they are a mixture. Those of deleted
    /// rows count too, so that it can be told where the list of those rows is damaged.
    pub(crate) fn generation_number(&self) -> Result<u32> {
        let mut number: Option<u32> = None;
        self.scan_all(GENERATION, |batch| {
            let column = batch.column_by_name(GENERATION).and_then(|column| column.as_primitive_opt::<UInt32Type>());
            let column = column.ok_or_else(|| self.foreign("the generation has an unexpected type"))?;
            for value in column.iter() {
                let value = value.ok_or_else(|| Error::corrupt(&self.path, "some passages have no generation"))?;
                if *number.get_or_insert(value) != value {
                    return Err(Error::corrupt(&self.path, "its vectors are of several generations"));
                }
            }
            Ok(())
        })?;
        number.ok_or_else(|| Error::corrupt(&self.path, "it holds no generation"))
    }

    /// Reads one column batch by batch in the order of ordinals, deleted rows included.
    fn scan_all(&self, column: &str, mut each: impl FnMut(&RecordBatch) -> Result<()> + Send) -> Result<()> {
        if self.deletion_files().iter().all(Option::is_none) {
            return self.scan(column, each);
        }
        let failed = || Error::storage(format!("reading the column `{column}`"));
        let projection = self.dataset.schema().project(&[column]).map_err(failed())?;
        let fragments = self.fragments()?;
        wait(async {
            for (fragment, file) in fragments.iter().zip(self.dataset.get_fragments()) {
                let rows = 0..u64::from(fragment.rows);
                let batches = file.read_physical_slice(rows, &projection, BATCH_ROWS as u32).await;
                let mut batches = batches.map_err(failed())?.buffered(2);
                while let Some(batch) = batches.try_next().await.map_err(failed())? {
                    if batch.num_rows() > 0 {
                        each(&batch)?;
                    }
                }
            }
            Ok(())
        })?
    }

    /// Reads one column batch by batch in the order of ordinals, without deleted rows.
    fn scan(&self, column: &str, mut each: impl FnMut(&RecordBatch) -> Result<()> + Send) -> Result<()> {
        let failed = || Error::storage(format!("reading the column `{column}`"));
        wait(async {
            let mut scanner = self.dataset.scan();
            scanner.project(&[column]).map_err(failed())?;
            scanner.scan_in_order(true).batch_size(BATCH_ROWS).batch_readahead(2).io_buffer_size(SCAN_BYTES);
            let mut stream = scanner.try_into_stream().await.map_err(failed())?;
            while let Some(batch) = stream.try_next().await.map_err(failed())? {
                if batch.num_rows() > 0 {
                    each(&batch)?;
                }
            }
            Ok(())
        })?
    }

    fn to_passages(&self, batch: &RecordBatch) -> Result<Vec<Passage>> {
        let [ids, titles, texts] = TEXT_COLUMNS.map(|column| self.strings(batch, column));
        let (ids, titles, texts) = (ids?, titles?, texts?);
        let passages = (0..batch.num_rows()).map(|row| Passage {
            id: ids.value(row).to_string(),
            title: titles.value(row).to_string(),
            text: texts.value(row).to_string(),
        });
        Ok(passages.collect())
    }

    fn strings<'a>(&self, batch: &'a RecordBatch, column: &str) -> Result<&'a StringArray> {
        let found = batch.column_by_name(column).and_then(|found| found.as_string_opt::<i32>());
        found.ok_or_else(|| self.foreign(&format!("its column `{column}` is not text")))
    }
}
