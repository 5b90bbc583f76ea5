//! A linear layer of a decoder, with the adapter that may sit on it.

use candle_core::Tensor;

use crate::error::Result;
use crate::models::dropout::drop_from;
use crate::models::lora::{self, Lora};
use crate::models::nn::{self, Base, Dropout};
use crate::models::params::{Matrix, View};

/// x·Wᵀ + b in whatever precision the pass has W, plus scale·(drop(x)·Aᵀ)·Bᵀ where an adapter sits on it.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    matrix: Matrix,
    adapter: Option<Box<Adapter>>,
}

#[derive(Clone, Debug)]
struct Adapter {
    a: Tensor,
    b: Tensor,
    scale: f64,
    /// What a pass in training drops of the adapter's input.
    dropout: Option<Dropout>,
}

impl Projection {
    /// Resolves the weights at `path`.
    pub fn new(path: &str, view: View<'_>, lora: Option<&Lora>) -> Result<Self> {
        let adapter = match lora.filter(|lora| lora.covers(path)) {
            Some(lora) => Some(Box::new(Adapter {
                a: view.get(&lora::name_a(path))?,
                b: view.get(&lora::name_b(path))?,
                scale: lora.config().scale(),
                dropout: view.adapter_dropout(path, lora.config().dropout)?,
            })),
            None => None,
        };
        Ok(Self { matrix: view.matrix(path)?, adapter })
    }

    /// The same for some of the rows of a batch, which keep their masks.
    pub fn of_rows(&self, rows: &[u32]) -> Self {
        let mut chosen = self.clone();
        if let Some(dropout) = chosen.adapter.as_mut().and_then(|adapter| adapter.dropout.as_mut()) {
            *dropout = dropout.of_rows(rows);
        }
        chosen
    }

    /// x (..., In) to (..., Out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some(Adapter { a, b, scale, dropout }) = self.adapter.as_deref() else { return self.matrix.forward(x) };
        let (base, bias) = match &self.matrix {
            Matrix::Dense(weight, bias) if !weight.track_op() => (Base::Dense(weight.clone()), bias),
            Matrix::Quantised(weight, bias) => (Base::Quantised(weight.clone()), bias),
            // The matrix trains beside its adapter, or is rounded or packed for passes without gradients.
            Matrix::Dense(..) | Matrix::Packed(_) | Matrix::Bf16(..) | Matrix::Int8(_) => {
                let narrow = (nn::linear(&drop_from(x.clone(), dropout.as_ref())?, a, None)? * *scale)?;
                return Ok((self.matrix.forward(x)? + nn::linear(&narrow, b, None)?)?);
            }
        };
        nn::adapted_linear(x, &base, bias.as_ref(), a, b, *scale, dropout.as_ref())
    }
}
