//! Safetensors on disk to f32 tensors in memory and back, with every defect named.
//!
//! Reads `model.safetensors` or the shards of `model.safetensors.index.json`; f16, bf16 and f64 become f32. Integer and
//! boolean tensors are buffers (such as `position_ids`), not weights: they are left out and listed by
//! [`Weights::buffers`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

use super::folder;
use crate::error::{Context, Error, Result};

/// The file of an unsharded model.
pub const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// The weights of one model as read from disk: f32, finite, taken out one by one with the shape they must have.
#[derive(Debug)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    buffers: BTreeMap<String, String>,
    origin: PathBuf,
}

impl Weights {
    /// Reads the weights of a model folder, sharded or not.
    pub fn read_folder(dir: &Path, device: &Device) -> Result<Self> {
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.is_file() {
            return Self::read_file(&single, device);
        }
        if !index.is_file() {
            return Err(Error::new(format!("`{}` holds neither `{SINGLE}` nor `{INDEX}`", dir.display()))
                .hint("give the folder of a Hugging Face model saved with safe serialisation"));
        }
        let mut all = Self { tensors: BTreeMap::new(), buffers: BTreeMap::new(), origin: dir.to_path_buf() };
        let map = read_index(&index)?;
        for shard in map.values().collect::<BTreeSet<_>>() {
            let part = Self::read_file(&dir.join(shard), device)?;
            for (name, tensor) in part.tensors {
                if all.tensors.insert(name.clone(), tensor).is_some() {
                    return Err(Error::new(format!("tensor `{name}` is in two shards of `{}`", dir.display())));
                }
            }
            all.buffers.extend(part.buffers);
        }
        for (name, shard) in &map {
            if !all.tensors.contains_key(name) && !all.buffers.contains_key(name) {
                return Err(Error::new(format!("`{INDEX}` promises tensor `{name}` in `{shard}`, which lacks it"))
                    .hint(format!("copy the whole folder `{}` again", dir.display())));
            }
        }
        Ok(all)
    }

    /// Reads one safetensors file.
    pub fn read_file(path: &Path, device: &Device) -> Result<Self> {
        let file = File::open(path).context(|| format!("cannot open the weights `{}`", path.display()))?;
        let length = file.metadata().context(|| format!("cannot read `{}`", path.display()))?.len();
        if length == 0 {
            return Err(damaged(path, "the file is empty"));
        }
        // SAFETY: the map is private and read once, here; another process truncating the file meanwhile would end this
        // one with SIGBUS, as for every program that maps weights. Files this program writes are replaced, never cut.
        let map = unsafe { memmap2::Mmap::map(&file) }.context(|| format!("cannot map `{}`", path.display()))?;
        let parsed = SafeTensors::deserialize(&map)
            .map_err(|source| damaged(path, "it is not a whole safetensors file").because(source))?;
        let mut weights = Self { tensors: BTreeMap::new(), buffers: BTreeMap::new(), origin: path.to_path_buf() };
        for (name, view) in parsed.tensors() {
            match float_type(view.dtype()) {
                Some(dtype) => {
                    let tensor = upcast(&view, dtype, device)
                        .context(|| format!("cannot read tensor `{name}` of `{}`", path.display()))?;
                    weights.tensors.insert(name, tensor);
                }
                None if is_buffer(view.dtype()) => {
                    weights.buffers.insert(name, format!("{:?} {:?}", view.dtype(), view.shape()));
                }
                None => {
                    return Err(Error::new(format!(
                        "tensor `{name}` of `{}` has type `{:?}`, expected f32, f16, bf16 or f64",
                        path.display(),
                        view.dtype()
                    ))
                    .hint("quantised checkpoints cannot be fine-tuned here: use the full-precision one"));
                }
            }
        }
        Ok(weights)
    }

    /// Takes out the tensor of this name; an error says when it is missing, has another shape or holds NaN or infinity.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::new(format!(
                "tensor `{name}` is missing in `{}`, expected it with shape {shape:?}",
                self.origin.display()
            ))
            .hint("the weights do not belong to this `config.json`: copy the whole model folder again"));
        };
        if tensor.dims() != shape {
            return Err(Error::new(format!(
                "tensor `{name}` of `{}` has shape {:?}, expected {shape:?}",
                self.origin.display(),
                tensor.dims()
            ))
            .hint("the weights do not belong to this `config.json`: copy the whole model folder again"));
        }
        check_finite(name, &tensor, &self.origin)?;
        Ok(tensor)
    }

    /// Takes out the tensor of this name whatever its shape; `None` when there is none.
    pub fn take_any(&mut self, name: &str) -> Result<Option<Tensor>> {
        let Some(tensor) = self.tensors.remove(name) else { return Ok(None) };
        check_finite(name, &tensor, &self.origin)?;
        Ok(Some(tensor))
    }

    /// Whether a tensor of this name has not been taken yet.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor not taken yet.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::dims)
    }

    /// The names not taken yet, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Integer and boolean tensors that were left out: name, and type with shape.
    pub fn buffers(&self) -> &BTreeMap<String, String> {
        &self.buffers
    }

    /// Where the weights came from, for messages.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Renames every tensor whose name begins with `prefix`, dropping the prefix: some checkpoints wrap the same model
    /// under another name. A name that then exists twice is an error.
    pub fn strip_prefix(&mut self, prefix: &str) -> Result<()> {
        let prefixed: Vec<String> = self.tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        for name in prefixed {
            let Some(tensor) = self.tensors.remove(&name) else { continue };
            let short = name[prefix.len()..].to_owned();
            if self.tensors.insert(short.clone(), tensor).is_some() {
                return Err(Error::new(format!(
                    "`{}` holds both `{name}` and `{short}`, expected one of them",
                    self.origin.display()
                )));
            }
        }
        Ok(())
    }
}

/// Writes tensors as f32 to one safetensors file; durable on return, and a crash leaves the old file or the new one.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let views: Vec<(&str, Stored)> =
        tensors.iter().map(|(name, tensor)| Ok((name.as_str(), Stored::of(tensor)?))).collect::<Result<_>>()?;
    // transformers refuses a file without this note.
    let note = Some([("format".to_owned(), "pt".to_owned())].into());
    folder::replace_file(path, |temporary| {
        safetensors::serialize_to_file(views, note, temporary)
            .map_err(|source| Error::new(format!("cannot write the weights `{}`", path.display())).because(source))
    })
}

/// Hands the little-endian bytes of an f32 tensor, in row-major order, to `visit`, piece by piece.
pub fn visit_bytes(tensor: &Tensor, mut visit: impl FnMut(&[u8])) -> Result<()> {
    super::nn::with_values(tensor, |values| {
        let mut piece = Vec::with_capacity(4 * PIECE);
        for part in values.chunks(PIECE) {
            piece.clear();
            piece.extend(part.iter().flat_map(|value| value.to_le_bytes()));
            visit(&piece);
        }
    })
}

/// An error naming `name` and the first place where `tensor` is not finite.
pub fn check_finite(name: &str, tensor: &Tensor, origin: &Path) -> Result<()> {
    let bad = super::nn::with_values(tensor, |values| {
        values.iter().position(|value| !value.is_finite()).map(|at| (at, values[at]))
    })?;
    match bad {
        None => Ok(()),
        Some((at, value)) => Err(Error::new(format!(
            "tensor `{name}` of `{}` holds `{value}` at flat position {at}, expected finite numbers",
            origin.display()
        ))
        .hint("the training that wrote it diverged: go back to an earlier checkpoint or the original model")),
    }
}

const PIECE: usize = 1 << 14;

fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(path).context(|| format!("cannot read `{}`", path.display()))?;
    let index: Index = serde_json::from_str(&text)
        .context(|| format!("`{}` is not an index of shards: expected `weight_map`", path.display()))?;
    // A shard is a file of this folder: a name that walks elsewhere is refused.
    match index.weight_map.values().find(|shard| Path::new(shard).components().count() != 1 || *shard == "..") {
        Some(shard) => Err(Error::new(format!("`{}` names the shard `{shard}`, expected a file name", path.display()))),
        None => Ok(index.weight_map),
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::new(format!("the weights `{}` are damaged: {what}", path.display()))
        .hint("copy the file again, or go back to an earlier checkpoint")
}

fn float_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

fn is_buffer(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::BOOL | Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::U64 | Dtype::U32 | Dtype::U16)
}

fn upcast(view: &TensorView<'_>, dtype: DType, device: &Device) -> Result<Tensor> {
    let raw = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)?;
    Ok(raw.to_dtype(DType::F32)?)
}

/// One f32 tensor as safetensors wants to see it: bytes are made when it is written, one tensor at a time.
struct Stored {
    tensor: Tensor,
}

impl Stored {
    fn of(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        // Read once here, where an error can be told, so that `data` below cannot fail.
        super::nn::with_values(&tensor, |_| ())?;
        Ok(Self { tensor })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        // The trait leaves no room for an error; `of` has read these values before.
        let _ = visit_bytes(&self.tensor, |piece| bytes.extend_from_slice(piece));
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        4 * self.tensor.elem_count()
    }
}
