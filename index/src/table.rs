//! The Lance dataset. Only this module and its parts name lance, arrow and the private async runtime.
//!
//! A [`Table`] is one version of the dataset: it never changes under its holder. Columns: `id`, `title`, `text` (Utf8) in one
//! data file per fragment, written once; `embedding` (fixed-size list of D float32) and `generation` (uint32) together in a
//! second data file per fragment, replaced as a whole by every new generation. Deleted rows stay in their files; which they
//! are says a small file per fragment. A passage's ordinal counts rows of files, deleted ones included.

mod create;
mod delete;
mod read;
mod replace;
mod rewrite;
mod rows;
mod runtime;
mod select;
mod versions;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::DataType;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::{Dataset, ReadParams};

use crate::durable::name;
use crate::error::{Error, Result};
use runtime::{store, wait};

pub(crate) use create::create;
pub(crate) use rewrite::Piece;
pub(crate) use rows::Rows;
pub(crate) use versions::MANIFEST_END;

/// Name of the dataset's directory in the index directory.
pub(crate) const DATASET: &str = "corpus.lance";

const EMBEDDING: &str = "embedding";
const GENERATION: &str = "generation";

/// The index cache holds nothing, since Lance's own indices are not used; the metadata cache holds file footers.
const INDEX_CACHE_BYTES: usize = 1 << 20;
const METADATA_CACHE_BYTES: usize = 32 << 20;

/// One version of the dataset.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    dataset: Arc<Dataset>,
    path: PathBuf,
}

impl Table {
    /// Opens the newest version of the dataset in an index directory (a canonical path).
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(DATASET);
        let uri = uri(&path)?;
        let parameters = ReadParams {
            index_cache_size_bytes: INDEX_CACHE_BYTES,
            metadata_cache_size_bytes: METADATA_CACHE_BYTES,
            store_options: Some(store()),
            ..Default::default()
        };
        let dataset = wait(DatasetBuilder::from_uri(uri).with_read_params(parameters).load())?
            .map_err(Error::storage(format!("opening the dataset `{}`", path.display())))?;
        Ok(Self { dataset: Arc::new(dataset), path })
    }

    /// The newest version now.
    pub(crate) fn latest(&self) -> Result<Self> {
        let mut dataset = self.dataset.as_ref().clone();
        let dataset = wait(async move { dataset.checkout_latest().await.map(|()| dataset) })?
            .map_err(Error::storage("looking for the newest version"))?;
        Ok(self.with(dataset))
    }

    /// An older version.
    pub(crate) fn at(&self, version: u64) -> Result<Self> {
        if version == self.version() {
            return Ok(self.clone());
        }
        let dataset = wait(self.dataset.checkout_version(version))?
            .map_err(Error::storage(format!("opening version {version} of the dataset")))?;
        Ok(self.with(dataset))
    }

    /// The number of this version.
    pub(crate) fn version(&self) -> u64 {
        self.dataset.version_id()
    }

    /// The settings kept with the dataset at this version.
    pub(crate) fn config(&self) -> &HashMap<String, String> {
        self.dataset.config()
    }

    /// Name of the file in the dataset's `data` directory that holds the texts of each fragment.
    pub(crate) fn text_files(&self) -> Result<Vec<String>> {
        let files = self.files_of("text")?;
        let found: Vec<String> = files.into_iter().flatten().collect();
        if found.len() != self.dataset.count_fragments() {
            return Err(self.foreign("a fragment has no texts"));
        }
        Ok(found)
    }

    /// Name of the file in `data` that holds the vectors of each fragment, in order; `None` before the first generation.
    ///
    /// File names are random and files never change, so equal lists mean equal vectors.
    pub(crate) fn vector_files(&self) -> Result<Option<Vec<String>>> {
        if self.dim()?.is_none() {
            return Ok(None);
        }
        let files = self.files_of(EMBEDDING)?;
        let fragments = files.len();
        let found: Vec<String> = files.into_iter().flatten().collect();
        match found.len() {
            0 => Ok(None),
            count if count == fragments => Ok(Some(found)),
            count => Err(Error::corrupt(&self.path, format!("{count} of {fragments} fragments have vectors"))),
        }
    }

    /// Length of the vectors; `None` before any were announced.
    pub(crate) fn dim(&self) -> Result<Option<usize>> {
        let Some(field) = self.dataset.schema().field(EMBEDDING) else { return Ok(None) };
        match field.data_type() {
            DataType::FixedSizeList(item, dim) if item.data_type() == &DataType::Float32 && dim > 0 => {
                Ok(Some(dim as usize))
            }
            other => Err(self.foreign(&format!("its column `{EMBEDDING}` has the type `{other}`"))),
        }
    }

    /// Where the dataset's data files lie.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where the files lie that say which rows are deleted.
    pub(crate) fn deletions_dir(&self) -> PathBuf {
        self.path.join("_deletions")
    }

    fn with(&self, dataset: Dataset) -> Self {
        Self { dataset: Arc::new(dataset), path: self.path.clone() }
    }

    fn files_of(&self, column: &str) -> Result<Vec<Option<String>>> {
        let field = self.dataset.schema().field(column).ok_or_else(|| self.foreign("a column is missing"))?;
        let files = self.dataset.fragments().iter().map(|fragment| {
            fragment.files.iter().find(|file| file.fields.contains(&field.id)).map(|file| file.path.clone())
        });
        Ok(files.collect())
    }

    fn foreign(&self, why: &str) -> Error {
        let dir = self.path.parent().unwrap_or(&self.path).to_path_buf();
        Error::NoIndex { dir, why: format!("its dataset `{}` was not written by ragtune: {why}", name(&self.path)) }
    }
}

fn uri(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::NoIndex {
        dir: path.to_path_buf(),
        why: "its path is not valid UTF-8, which the storage library needs".into(),
    })
}
