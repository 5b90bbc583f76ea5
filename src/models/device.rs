//! Where tensors are: the CPU, or an accelerator that this program was built for.
//!
//! The device of a model decides where whatever meets it is computed. Layers are fused loops on the CPU and candle's kernels
//! elsewhere (see [`super::nn`]); whatever rounds matrices in a way of its own is for the CPU alone and refused by name.

use candle_core::Device;

use super::Precision;
use super::nn::{Bf16Matrix, Int8Matrix};
use crate::error::{Error, Result};

/// A device by its name in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `cpu`.
    Cpu,
    /// `cuda`, which is `cuda:0`, or `cuda:N`.
    Cuda(usize),
    /// `metal`.
    Metal,
}

impl Choice {
    /// Understands a name; one that this program was not built for is refused with what to build.
    pub fn parse(name: &str) -> Result<Self> {
        let choice = match name.split_once(':') {
            None if name == "cpu" => Self::Cpu,
            None if name == "cuda" => Self::Cuda(0),
            None if name == "metal" => Self::Metal,
            Some(("cuda", number)) => match number.parse() {
                Ok(number) => Self::Cuda(number),
                Err(_) => return Err(unknown(name)),
            },
            _ => return Err(unknown(name)),
        };
        match choice {
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(not_built(name, "cuda", "the CUDA toolkit")),
            Self::Metal if !cfg!(feature = "metal") => Err(not_built(name, "metal", "macOS")),
            _ => Ok(choice),
        }
    }

    /// Makes the device ready. Open it once: two devices of one number do not share tensors.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Device::new_cuda(number).map_err(|source| {
                Error::new(format!("the CUDA device `{number}` cannot be used")).because(source).hint(
                    "`nvidia-smi` lists the devices that its driver sees; choose one with `--device cuda:N`, or `--device cpu`",
                )
            }),
            Self::Metal => Device::new_metal(0).map_err(|source| {
                Error::new("the Metal device cannot be used").because(source).hint("use `--device cpu`")
            }),
        }
    }
}

/// [`Choice::parse`] and [`Choice::open`].
pub fn open(name: &str) -> Result<Device> {
    Choice::parse(name)?.open()
}

/// Refuses matrices rounded for the CPU on another device.
pub fn check_precision(device: &str, precision: Precision) -> Result<()> {
    if device == "cpu" || precision == Precision::F32 {
        return Ok(());
    }
    Err(Error::new(format!("`--precision {}` is for `--device cpu`, and the device is `{device}`", precision.name()))
        .hint("leave `--precision` out for f32, or use `--device cpu`"))
}

/// What to say of a precision that this processor has no kernel for, where it is slower than f32; `asked` says who asks for it.
pub fn slow_precision(asked: &str, precision: Precision) -> Option<String> {
    let quick = match precision {
        Precision::F32 => true,
        Precision::Bf16 => Bf16Matrix::is_quick(),
        Precision::Int8 => Int8Matrix::is_quick(),
    };
    let name = precision.name();
    (!quick).then(|| {
        format!(
            "this processor has no instructions for {name}, which {asked} asks for: f32 is several times as fast here"
        )
    })
}

/// Lets CUDA round the inputs of f32 products to TF32 from now on: several times faster, with three digits instead of seven. Off
/// unless it is asked for; refused where this program was built without CUDA.
pub fn allow_tf32() -> Result<()> {
    #[cfg(feature = "cuda")]
    {
        candle_core::cuda_backend::set_gemm_reduced_precision_f32(true);
        Ok(())
    }
    #[cfg(not(feature = "cuda"))]
    Err(not_built("TF32", "cuda", "the CUDA toolkit"))
}

/// Bytes of memory that can still be had on a device that has its own; `None` where that is not known.
pub fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let (free, _total) = cuda.cuda_stream().context().mem_get_info().ok()?;
            Some(free as u64)
        }
        _ => None,
    }
}

fn unknown(name: &str) -> Error {
    Error::new(format!("unknown device `{name}`, expected one of: cpu, cuda, cuda:N, metal"))
        .hint("leave `--device` out for the CPU")
}

fn not_built(name: &str, feature: &str, needs: &str) -> Error {
    Error::new(format!("device `{name}` needs the feature `{feature}`, which this program was built without")).hint(format!(
        "build it anew where {needs} is: cargo build --release --features {feature}; or leave `--device` out for the CPU"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_and_others_refused_with_what_to_do() {
        assert!(open("cpu").unwrap().is_cpu());
        for name in ["tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "metal:1", ""] {
            let error = Choice::parse(name).unwrap_err();
            assert!(error.to_string().contains(&format!("`{name}`")) && error.find_hint().is_some(), "{error}");
        }
        for (name, feature, built, choice) in [
            ("cuda", "cuda", cfg!(feature = "cuda"), Choice::Cuda(0)),
            ("cuda:3", "cuda", cfg!(feature = "cuda"), Choice::Cuda(3)),
            ("metal", "metal", cfg!(feature = "metal"), Choice::Metal),
        ] {
            match Choice::parse(name) {
                Ok(found) => assert!(built && found == choice, "{name}"),
                Err(error) => {
                    assert!(!built && error.to_string().contains(&format!("`{name}`")), "{error}");
                    assert!(error.find_hint().unwrap().contains(&format!("--features {feature}")), "{error:?}");
                }
            }
        }
    }

    #[test]
    fn rounding_for_the_cpu_is_for_the_cpu() {
        for precision in Precision::ALL {
            check_precision("cpu", precision).unwrap();
            let refused = check_precision("cuda:1", precision).err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), precision != Precision::F32);
            assert!(refused.is_none_or(|error| error.contains(precision.name()) && error.contains("`cuda:1`")));
        }
        assert_eq!(free_bytes(&Device::Cpu), None);
    }

    #[test]
    fn a_precision_without_instructions_is_said_and_named() {
        #[cfg(target_arch = "x86_64")]
        let (words, floats) = (std::arch::is_x86_feature_detected!("avx2"), std::arch::is_x86_feature_detected!("fma"));
        #[cfg(not(target_arch = "x86_64"))]
        let (words, floats) = (false, false);
        for (precision, quick) in [(Precision::F32, true), (Precision::Bf16, words && floats), (Precision::Int8, words)]
        {
            let said = slow_precision("--generator-dtype", precision);
            assert_eq!(said.is_none(), quick, "{said:?}");
            assert!(said.is_none_or(|said| said.contains(&format!("`--generator-dtype {}`", precision.name()))));
        }
    }
}
