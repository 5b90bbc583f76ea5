//! Tensors to one safetensors file, in the type that was asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, View};

use super::{Weights, visit_bytes};
use crate::error::{Error, Result};
use crate::models::folder;

/// The type that weights are stored in; in memory they are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// 32 bits: what was trained, to the bit.
    #[default]
    F32,
    /// 16 bits with 11 of precision, up to 65504.
    F16,
    /// 16 bits with 8 of precision, and the range of f32.
    Bf16,
}

impl Storage {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The name in a `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|storage| storage.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::new(format!("unknown type of weights `{name}`, expected one of: {known}"))
                .hint("use `--dtype bf16` for half the size")
        })
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// Writes tensors as f32 to one safetensors file; durable on return, and a crash leaves the old file or the new one.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    write_as(path, tensors, Storage::F32)
}

/// [`write()`] in a type of choice, rounded to the nearest, ties to even. A finite number that the type cannot hold is an error
/// naming its tensor.
pub fn write_as(path: &Path, tensors: &BTreeMap<String, Tensor>, storage: Storage) -> Result<()> {
    let views: Vec<(&str, Stored)> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), Stored::of(name, tensor, storage)?)))
        .collect::<Result<_>>()?;
    // transformers refuses a file without this note.
    let note = Some([("format".to_owned(), "pt".to_owned())].into());
    folder::replace_file(path, |temporary| {
        safetensors::serialize_to_file(views, note, temporary)
            .map_err(|source| Error::new(format!("cannot write the weights `{}`", path.display())).because(source))
    })
}

/// Writes the weights of a safetensors file again in another type; buffers are left out. A NaN or infinity is an error
/// naming its tensor. Durable on return; a crash leaves the old file or the new one.
pub fn convert(path: &Path, storage: Storage) -> Result<()> {
    let mut found = Weights::read_file(path, &Device::Cpu)?;
    let names: Vec<String> = found.names().map(str::to_owned).collect();
    let mut tensors = BTreeMap::new();
    for name in names {
        if let Some(tensor) = found.take_any(&name)? {
            tensors.insert(name, tensor);
        }
    }
    write_as(path, &tensors, storage)
}

/// One f32 tensor on the CPU as safetensors wants to see it: bytes are made when it is written, one tensor at a time.
struct Stored {
    tensor: Tensor,
    storage: Storage,
}

impl Stored {
    fn of(name: &str, tensor: &Tensor, storage: Storage) -> Result<Self> {
        let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
        // Read once here, where an error can be told, so that `data` below cannot fail.
        let largest = crate::models::nn::with_values(&tensor, |values| {
            values.iter().filter(|value| value.is_finite()).fold(0f32, |largest, value| largest.max(value.abs()))
        })?;
        // The largest number of the type, and half a step above it, which still rounds down to it.
        let limit = match storage {
            Storage::F32 => f32::INFINITY,
            Storage::F16 => 65520.0,
            Storage::Bf16 => f32::from_bits(0x7f7f_8000),
        };
        if largest >= limit {
            return Err(Error::new(format!(
                "tensor `{name}` holds a number of size `{largest}`, which {} cannot",
                storage.name()
            ))
            .hint("store it as bf16 or f32"));
        }
        Ok(Self { tensor, storage })
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        if self.storage != Storage::F32 {
            let rounded = self.tensor.to_dtype(self.storage.dtype())?;
            return Ok(View::data(&rounded).into_owned());
        }
        let mut bytes = Vec::with_capacity(self.data_len());
        visit_bytes(&self.tensor, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match self.storage {
            Storage::F32 => Dtype::F32,
            Storage::F16 => Dtype::F16,
            Storage::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The trait leaves no room for an error; `of` has read these values before.
        Cow::Owned(self.bytes().unwrap_or_default())
    }

    fn data_len(&self) -> usize {
        self.storage.dtype().size_in_bytes() * self.tensor.elem_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(values: &[f32]) -> BTreeMap<String, Tensor> {
        BTreeMap::from([("a".to_owned(), Tensor::new(values, &Device::Cpu).unwrap())])
    }

    fn read(path: &Path) -> Vec<f32> {
        Weights::read_file(path, &Device::Cpu).unwrap().take_any("a").unwrap().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_precision_reads_back_rounded_to_its_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        // 1 + 2^-8 lies half-way between two bf16, 1 + 2^-11 between two f16: ties go to the even one.
        let (of_bf16, of_f16) = (1.0 + 1.0 / 256.0, 1.0 + 1.0 / 2048.0);
        let values = [1.0f32, -2.5, 0.0, of_bf16, of_f16, 65504.0, 1e-30];
        let stored = |storage| {
            write_as(&path, &tensors(&values), storage).unwrap();
            let bytes = std::fs::metadata(&path).unwrap().len();
            (read(&path), bytes)
        };
        let (f32s, large) = stored(Storage::F32);
        assert_eq!(f32s, values);
        let (f16s, small) = stored(Storage::F16);
        assert_eq!(f16s, [1.0, -2.5, 0.0, of_bf16, 1.0, 65504.0, 0.0]);
        assert_eq!(large - small, 14);
        let (bf16s, _) = stored(Storage::Bf16);
        assert_eq!(bf16s[..5], [1.0, -2.5, 0.0, 1.0, 1.0]);
        assert_eq!(bf16s[5], 65536.0);
        assert!((bf16s[6] / 1e-30 - 1.0).abs() < 0.01);

        write(&path, &tensors(&values)).unwrap();
        convert(&path, Storage::F16).unwrap();
        assert_eq!(read(&path), f16s);
        // What is rounded once stays as it is.
        convert(&path, Storage::F32).unwrap();
        assert_eq!(read(&path), f16s);
    }

    #[test]
    fn a_number_beyond_the_type_is_named_and_the_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        write(&path, &tensors(&[70_000.0])).unwrap();
        let error = convert(&path, Storage::F16).unwrap_err();
        assert!(error.to_string().contains("`a`") && error.to_string().contains("70000"), "{error}");
        assert_eq!(read(&path), [70_000.0]);
        convert(&path, Storage::Bf16).unwrap();
        assert!(write_as(&path, &tensors(&[f32::MAX]), Storage::Bf16).is_err());
        assert!(Storage::parse("f64").unwrap_err().to_string().contains("f32, f16, bf16"));
    }
}
