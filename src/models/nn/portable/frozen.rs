//! Frozen matrices in fewer bits on a device.
//!
//! bf16 is multiplied as it is, like on the CPU: inputs, incoming gradients and results are rounded to bf16 and sums run in f32.
//! f16 and the block formats are unpacked to f32 for one product at a time, forwards and backwards, so that their products
//! equal those of the CPU: the gradient of a loss may be too small for f16.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result as CandleResult, Tensor};

use crate::models::nn::Bf16Matrix;

/// A matrix (Out, In) that stays where it was made; copies share it.
#[derive(Clone)]
pub enum Frozen {
    /// f16 or bf16, (Out, In).
    Half(Tensor),
    /// ggml's blocks.
    Blocks(Arc<QTensor>),
}

impl Frozen {
    /// Rounds `weight`, f32 and contiguous.
    pub fn new(weight: &Tensor, dtype: GgmlDType) -> CandleResult<Self> {
        Ok(match dtype {
            GgmlDType::F16 => Self::Half(weight.to_dtype(DType::F16)?),
            GgmlDType::BF16 => Self::Half(weight.to_dtype(DType::BF16)?),
            _ => Self::Blocks(Arc::new(QTensor::quantize(weight, dtype)?)),
        })
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Half(weight) => 2 * weight.elem_count(),
            Self::Blocks(weight) => weight.storage_size_in_bytes(),
        }
    }

    /// The numbers it stands for, (Out, In) f32.
    pub fn widened(&self) -> CandleResult<Tensor> {
        match self {
            Self::Half(weight) => weight.to_dtype(DType::F32),
            Self::Blocks(weight) => weight.dequantize(&weight.device()),
        }
    }

    /// The same bytes that a matrix on the CPU hands out, so that a model has one digest on every device.
    pub fn visit_bytes(&self, visit: impl FnOnce(&[u8])) -> crate::error::Result<()> {
        match self {
            Self::Half(weight) if weight.dtype() == DType::BF16 => {
                let widened = self.widened()?.to_device(&Device::Cpu)?;
                Bf16Matrix::new(&widened, false)?.visit_bytes(visit);
            }
            Self::Half(_) => {
                let widened = self.widened()?.to_device(&Device::Cpu)?;
                visit(&QTensor::quantize(&widened, GgmlDType::F16)?.data()?);
            }
            Self::Blocks(weight) => visit(&weight.data()?),
        }
        Ok(())
    }

    /// x (rows, In) f32 to (rows, Out) f32.
    pub fn multiply(&self, x: &Tensor) -> CandleResult<Tensor> {
        self.product(x, |weight| weight.t())
    }

    /// dy (rows, Out) f32 to (rows, In) f32.
    pub fn multiply_transposed(&self, dy: &Tensor) -> CandleResult<Tensor> {
        self.product(dy, |weight| Ok(weight.clone()))
    }

    fn product(&self, x: &Tensor, turn: impl Fn(&Tensor) -> CandleResult<Tensor>) -> CandleResult<Tensor> {
        match self {
            Self::Half(weight) if weight.dtype() == DType::BF16 => {
                x.to_dtype(DType::BF16)?.matmul(&turn(weight)?)?.to_dtype(DType::F32)
            }
            _ => x.matmul(&turn(&self.widened()?)?),
        }
    }
}
