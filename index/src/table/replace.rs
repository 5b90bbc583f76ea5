//! Replacing the vectors: announce, stage one file per fragment, commit all in one manifest.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::stream;
use lance::dataset::NewColumnTransform;
use lance::dataset::transaction::{DataReplacementGroup, Operation};

use super::{EMBEDDING, GENERATION, Table};
use crate::durable::{digest, sync_dir, sync_file};
use crate::error::{Error, Result};
use crate::passage::Fragment;
use crate::staged::Staged;
use crate::table::runtime::wait;

impl Table {
    /// Declares the columns for vectors of `dim` values. Existing columns of another length are dropped, which the caller
    /// allows only where no generation was ever committed.
    pub(crate) fn announce(&self, dim: usize) -> Result<Self> {
        let mut dataset = self.dataset.as_ref().clone();
        let present = self.dim()?;
        if present == Some(dim) {
            return Ok(self.clone());
        }
        let fields = columns(dim)?;
        let dataset = wait(async move {
            if present.is_some() {
                dataset.drop_columns(&[EMBEDDING, GENERATION]).await?;
            }
            dataset.add_columns(NewColumnTransform::AllNulls(fields), None, None).await.map(|()| dataset)
        })?
        .map_err(Error::storage("adding the columns for the vectors"))?;
        Ok(self.with(dataset))
    }

    /// Adds settings to the dataset (`None` removes one) in a commit of their own.
    pub(crate) fn configure(&self, values: Vec<(String, Option<String>)>) -> Result<Self> {
        let mut dataset = self.dataset.as_ref().clone();
        let dataset = wait(async move { dataset.update_config(values).await.map(|_| dataset) })?
            .map_err(Error::storage("writing the dataset's settings"))?;
        Ok(self.with(dataset))
    }

    /// Writes the vectors of one fragment, row-major, into a new file that nothing refers to yet. On return the file's
    /// content and name are durable.
    pub(crate) fn stage(&self, fragment: &Fragment, number: u32, dim: usize, vectors: &[f32]) -> Result<Staged> {
        let failed = || Error::storage(format!("writing the vectors of fragment {}", fragment.id));
        let missing = || self.foreign(&format!("it has no fragment {}", fragment.id));
        let id = usize::try_from(fragment.id).map_err(|_| missing())?;
        let target = self.dataset.get_fragment(id).ok_or_else(missing)?;
        let schema = self.dataset.schema().project(&[EMBEDDING, GENERATION]).map_err(failed())?;
        let batch = batch(number, dim, vectors)?;
        let group = wait(target.write_columns(stream::iter([Ok(batch)]), &schema))?.map_err(failed())?;
        let DataReplacementGroup(_, written) = group;
        let path = self.data_dir().join(&written.path);
        sync_file(&path)?;
        sync_dir(&self.data_dir())?;
        let (bytes, blake3) = digest(&path)?;
        let lance = serde_json::to_value(&written).map_err(Error::storage("describing a staged file"))?;
        Ok(Staged { fragment: *fragment, file: written.path, bytes, blake3, lance })
    }

    /// Makes staged files the vectors of their fragments: one manifest, written durably, is the commit. This version must be
    /// the one they were staged against. An error leaves the dataset as it was.
    pub(crate) fn replace(&self, staged: &[Staged], number: u32, doing: &str) -> Result<Self> {
        let mut replacements = Vec::with_capacity(staged.len());
        for staged in staged {
            let file = serde_json::from_value(staged.lance.clone())
                .map_err(Error::storage("reading the journal of staged files"))?;
            replacements.push(DataReplacementGroup(staged.fragment.id, file));
        }
        sync_dir(&self.data_dir())?;
        self.commit(Operation::DataReplacement { replacements }, doing, Some(number))
    }
}

fn columns(dim: usize) -> Result<SchemaRef> {
    let length = i32::try_from(dim).ok().filter(|length| *length > 0);
    let length = length.ok_or_else(|| Error::Setting {
        name: "the dimension of the vectors",
        value: dim.to_string(),
        expected: "a number from 1 to 2147483647",
    })?;
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    Ok(Arc::new(Schema::new(vec![
        Field::new(EMBEDDING, DataType::FixedSizeList(item, length), true),
        Field::new(GENERATION, DataType::UInt32, true),
    ])))
}

/// Vectors, row-major, with the number of their generation beside each.
pub(super) fn batch(number: u32, dim: usize, vectors: &[f32]) -> Result<RecordBatch> {
    let failed = || Error::storage("laying out the vectors");
    let schema = columns(dim)?;
    let rows = vectors.len() / dim;
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let values: ArrayRef = Arc::new(Float32Array::from(vectors.to_vec()));
    let embedding = FixedSizeListArray::try_new(item, dim as i32, values, None).map_err(failed())?;
    let generation = UInt32Array::from(vec![number; rows]);
    RecordBatch::try_new(schema, vec![Arc::new(embedding), Arc::new(generation)]).map_err(failed())
}
