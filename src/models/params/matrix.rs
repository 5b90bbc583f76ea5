//! The matrix of a layer, in whatever precision a pass has it.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::models::nn::{self, Bf16Matrix, DenseMatrix, Int8Matrix, Quantised, Then};

/// A matrix of a layer as one pass uses it, with its bias.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// In f32: weight (Out, In), and bias (Out).
    Dense(Tensor, Option<Tensor>),
    /// In f32 and packed, without gradients; the bias is inside.
    Packed(Arc<DenseMatrix>),
    /// Frozen, in fewer bits.
    Quantised(Quantised, Option<Tensor>),
    /// In bf16, with bias.
    Bf16(Bf16Matrix, Option<Tensor>),
    /// On 8-bit integers, without gradients; the bias is inside.
    Int8(Arc<Int8Matrix>),
}

impl Matrix {
    /// x (..., In) to (..., Out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Matrix::Dense(weight, bias) => nn::linear(x, weight, bias.as_ref()),
            Matrix::Packed(matrix) => matrix.forward(x, None),
            Matrix::Quantised(weight, bias) => weight.forward(x, bias.as_ref()),
            Matrix::Bf16(matrix, bias) => matrix.forward(x, bias.as_ref()),
            Matrix::Int8(matrix) => matrix.forward(x),
        }
    }

    /// The same and what follows it, in one pass where that is possible.
    pub fn forward_then(&self, x: &Tensor, then: Then<'_>) -> Result<Tensor> {
        match self {
            Matrix::Dense(weight, bias) => nn::linear_then(x, weight, bias.as_ref(), then),
            Matrix::Packed(matrix) => matrix.forward(x, Some(then)),
            Matrix::Quantised(..) | Matrix::Bf16(..) | Matrix::Int8(_) => then.apply(&self.forward(x)?),
        }
    }
}
