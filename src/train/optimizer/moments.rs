//! The means of a weight's gradient and of its square, where the weight is.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::models::nn::with_values;

/// The moments of one weight, f32 in its shape.
#[derive(Debug)]
pub(super) enum Moments {
    /// On the CPU.
    Host { shape: Vec<usize>, mean: Vec<f32>, square: Vec<f32> },
    /// Beside a weight that is elsewhere.
    Device { mean: Tensor, square: Tensor },
}

impl Moments {
    /// Those of a weight that has not moved.
    pub fn zeros(shape: &[usize]) -> Self {
        let count = shape.iter().product();
        Self::Host { shape: shape.to_vec(), mean: vec![0.0; count], square: vec![0.0; count] }
    }

    /// The shape of the weight.
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::Host { shape, .. } => shape,
            Self::Device { mean, .. } => mean.dims(),
        }
    }

    /// Mean and square as tensors on `device`.
    pub fn tensors(&self, device: &Device) -> Result<[Tensor; 2]> {
        Ok(match self {
            Self::Host { shape, mean, square } => [
                Tensor::from_slice(mean, shape.as_slice(), device)?,
                Tensor::from_slice(square, shape.as_slice(), device)?,
            ],
            Self::Device { mean, square } => [mean.to_device(device)?, square.to_device(device)?],
        })
    }

    /// Mean and square on the CPU, to be changed there.
    pub fn on_host(&mut self) -> Result<(&mut Vec<f32>, &mut Vec<f32>)> {
        if let Self::Device { mean, square } = self {
            let values = |tensor: &Tensor| with_values(tensor, <[f32]>::to_vec);
            *self = Self::Host { shape: mean.dims().to_vec(), mean: values(mean)?, square: values(square)? };
        }
        match self {
            Self::Host { mean, square, .. } => Ok((mean, square)),
            Self::Device { .. } => Err(crate::error::Error::new("moments were asked for on the CPU and are elsewhere")),
        }
    }
}
