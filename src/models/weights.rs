//! Safetensors on disk to f32 tensors in memory and back, with every defect named.
//!
//! Reads `model.safetensors` or the shards of `model.safetensors.index.json`; f16, bf16 and f64 become f32. Tensors of
//! other types are buffers (such as `position_ids`), not weights: they are left out and listed by [`Weights::buffers`], and
//! where one was to be a weight, [`Weights::take`] names its type. `store` writes, `survey` looks without reading values.

mod store;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Context, Error, Result};

pub use store::{Storage, convert, write, write_as};
pub use survey::{Surveyed, survey};

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
            return Err(no_weights(dir));
        }
        let mut all = Self { tensors: BTreeMap::new(), buffers: BTreeMap::new(), origin: dir.to_path_buf() };
        let map = read_index(&index)?;
        let shards: BTreeSet<PathBuf> = map.values().map(|shard| dir.join(shard)).collect();
        // Before the first is read, which may take a while.
        if let Some(lost) = shards.iter().find(|shard| !shard.is_file()) {
            return Err(not_there(lost));
        }
        for shard in &shards {
            let part = Self::read_file(shard, device)?;
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
        let map = map(path)?;
        let parsed = parse(path, &map)?;
        let mut weights = Self { tensors: BTreeMap::new(), buffers: BTreeMap::new(), origin: path.to_path_buf() };
        for (name, view) in parsed.tensors() {
            match float_type(view.dtype()) {
                Some(dtype) => {
                    let tensor = upcast(&view, dtype, device)
                        .context(|| format!("cannot read tensor `{name}` of `{}`", path.display()))?;
                    weights.tensors.insert(name, tensor);
                }
                None => {
                    weights.buffers.insert(name, format!("{:?} {:?}", view.dtype(), view.shape()));
                }
            }
        }
        Ok(weights)
    }

    /// Takes out the tensor of this name; an error says when it is missing, has another shape or holds NaN or infinity.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            if let Some(found) = self.buffers.get(name) {
                return Err(Error::new(format!(
                    "tensor `{name}` of `{}` is stored as `{found}`, expected f32, f16, bf16 or f64 {shape:?}",
                    self.origin.display()
                ))
                .hint("quantised checkpoints cannot be fine-tuned here: use the full-precision one"));
            }
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

    /// Tensors that are no floating-point numbers and were left out: name, and type with shape.
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
        let strip = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
        self.buffers = std::mem::take(&mut self.buffers).into_iter().map(|(name, kind)| (strip(name), kind)).collect();
        Ok(())
    }
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

/// The shards that an index of shards names: files of its own folder. That all of them are there is checked, and a missing
/// one is named, by [`Weights::read_folder`].
pub fn shards(index: &Path) -> Result<BTreeSet<String>> {
    Ok(read_index(index)?.into_values().collect())
}

/// Which shard holds which tensor.
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

/// Maps a file of weights into memory.
fn map(path: &Path) -> Result<memmap2::Mmap> {
    let file = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => not_there(path),
        _ => Error::new(format!("cannot open the weights `{}`", path.display())).because(source),
    })?;
    let length = file.metadata().context(|| format!("cannot read `{}`", path.display()))?.len();
    if length == 0 {
        return Err(damaged(path, "the file is empty"));
    }
    // SAFETY: the map is private and read once, by the caller; another process truncating the file meanwhile would end this
    // one with SIGBUS, as for every program that maps weights. Files this program writes are replaced, never cut.
    unsafe { memmap2::Mmap::map(&file) }.context(|| format!("cannot map `{}`", path.display()))
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes)
        .map_err(|source| damaged(path, "it is not a whole safetensors file").because(source))
}

/// The error of a folder without weights that can be read.
fn no_weights(dir: &Path) -> Error {
    for pickle in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if dir.join(pickle).is_file() {
            return pickled(dir, pickle, SINGLE);
        }
    }
    Error::new(format!("`{}` holds neither `{SINGLE}` nor `{INDEX}`", dir.display()))
        .hint("give the folder of a Hugging Face model saved with safe serialisation")
}

/// The error of a file of weights that is not there: a shard, an adapter, or any.
fn not_there(path: &Path) -> Error {
    let dir = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let of_shard: Vec<String> = read_index(&dir.join(INDEX))
        .map(|map| map.into_iter().filter(|(_, shard)| *shard == name).map(|(tensor, _)| tensor).collect())
        .unwrap_or_default();
    if let Some(first) = of_shard.first() {
        return Error::new(format!(
            "the shard `{name}` of `{}` is missing: `{INDEX}` promises {} tensors in it, the first is `{first}`",
            dir.display(),
            of_shard.len()
        ))
        .hint("copy or download that file again, into the same folder");
    }
    let pickle = name.replace(".safetensors", ".bin");
    if pickle != name && dir.join(&pickle).is_file() {
        return pickled(dir, &pickle, &name);
    }
    Error::new(format!("there are no weights `{}`", path.display())).hint("copy the whole model folder again")
}

/// The error of weights in PyTorch's own format: a program of its own, which is not run here.
fn pickled(dir: &Path, found: &str, expected: &str) -> Error {
    let error = Error::new(format!(
        "`{}` has its weights only as `{found}`, in PyTorch's own format, expected `{expected}`",
        dir.display()
    ));
    if found.ends_with(".json") {
        return error.hint(format!(
            "convert it once, where transformers is installed: python3 -c 'import sys; from transformers import AutoModel; \
             AutoModel.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])' {}",
            dir.display()
        ));
    }
    error.hint(format!(
        "convert it once, where PyTorch is installed: python3 -c 'import sys, torch, safetensors.torch as st; \
         st.save_file({{name: value.clone().contiguous() for name, value in torch.load(sys.argv[1], map_location=\"cpu\", \
         weights_only=True).items()}}, sys.argv[2], {{\"format\": \"pt\"}})' {} {}",
        dir.join(found).display(),
        dir.join(expected).display()
    ))
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

fn upcast(view: &TensorView<'_>, dtype: DType, device: &Device) -> Result<Tensor> {
    let raw = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)?;
    Ok(raw.to_dtype(DType::F32)?)
}
