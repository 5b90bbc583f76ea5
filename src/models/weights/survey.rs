//! Which tensors files of weights hold, without reading their values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{INDEX, SINGLE, map, no_weights, parse, shards};
use crate::error::Result;

/// What a look at the headers of a model's weights shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surveyed {
    /// The files, in the order of their names.
    pub files: Vec<PathBuf>,
    /// Tensors in all.
    pub tensors: usize,
    /// Numbers by the type they are stored in, such as `f32` or `bf16`; buffers included.
    pub stored: BTreeMap<String, u64>,
}

impl Surveyed {
    /// Adds what another look showed.
    pub fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        self.tensors += other.tensors;
        for (kind, numbers) in other.stored {
            *self.stored.entry(kind).or_insert(0) += numbers;
        }
    }
}

/// Looks at the weights of a folder: `model.safetensors`, or its shards, or `adapter` (a file name) where one is given.
pub fn survey(dir: &Path, adapter: Option<&str>) -> Result<Surveyed> {
    let index = dir.join(INDEX);
    let files = match adapter {
        Some(name) => vec![dir.join(name)],
        None if dir.join(SINGLE).is_file() => vec![dir.join(SINGLE)],
        None if index.is_file() => shards(&index)?.into_iter().map(|shard| dir.join(shard)).collect(),
        None => return Err(no_weights(dir)),
    };
    let mut found = Surveyed::default();
    for file in &files {
        let map = map(file)?;
        for (_, view) in parse(file, &map)?.tensors() {
            let kind = format!("{:?}", view.dtype()).to_lowercase();
            *found.stored.entry(kind).or_insert(0) += view.shape().iter().map(|extent| *extent as u64).product::<u64>();
            found.tensors += 1;
        }
    }
    found.files = files;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::weights::{Storage, write, write_as};
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn types_and_numbers_are_counted_over_all_shards() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = |name: &str, extent: usize| {
            BTreeMap::from([(name.to_owned(), Tensor::zeros((2, extent), DType::F32, &Device::Cpu).unwrap())])
        };
        write(&folder.path().join("one.safetensors"), &tensor("a", 3)).unwrap();
        write_as(&folder.path().join("two.safetensors"), &tensor("b", 5), Storage::Bf16).unwrap();
        assert!(survey(folder.path(), None).unwrap_err().to_string().contains("neither"));
        let text = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        std::fs::write(folder.path().join(INDEX), text).unwrap();
        let found = survey(folder.path(), None).unwrap();
        assert_eq!((found.tensors, found.files.len()), (2, 2));
        assert_eq!(found.stored, BTreeMap::from([("bf16".to_owned(), 10), ("f32".to_owned(), 6)]));
        std::fs::remove_file(folder.path().join("two.safetensors")).unwrap();
        let error = survey(folder.path(), None).unwrap_err();
        assert!(
            error.to_string().contains("the shard `two.safetensors`") && error.to_string().contains("`b`"),
            "{error}"
        );
        assert_eq!(survey(folder.path(), Some("one.safetensors")).unwrap().tensors, 1);
    }
}
