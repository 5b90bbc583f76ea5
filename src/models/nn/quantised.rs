//! y = x · Wᵀ + b with W kept in 4, 8 or 16 bits: the frozen base under an adapter (QLoRA, Dettmers et al., arXiv 2305.14314).
//!
//! The formats are those of candle and ggml. Numbers are unpacked for one product at a time and thrown away after it, in the
//! forward pass and again in the backward pass, so that no more than one unpacked matrix exists. bf16 is multiplied as it is,
//! which rounds the inputs too, and is kept twice (once for each direction): four bytes a number, for speed and not for room.

use std::fmt;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result as CandleResult, Shape, Tensor};

use super::bf16::Bf16Matrix;
use super::dense::{self, After};
use super::kernel::{check, floats, gradient, read_floats, unwritten, wrong_shape};
use super::matmul::{Target, View, multiply_on_all_cores};
use super::portable::{self, Frozen};
use crate::error::{Error, Result};

/// How a frozen weight is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// IEEE half precision.
    F16,
    /// The upper half of f32.
    Bf16,
    /// Blocks of 32 numbers of 8 bits with a scale: 8.5 bits a number.
    Q8,
    /// Blocks of 32 numbers of 4 bits with a scale: 4.5 bits a number.
    Q4,
    /// Super-blocks of 256 numbers of 4 bits with scales and offsets of their own: 4.5 bits a number.
    Q4K,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 5] = [Format::F16, Format::Bf16, Format::Q8, Format::Q4, Format::Q4K];

    /// Its name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Q8 => "q8_0",
            Format::Q4 => "q4_0",
            Format::Q4K => "q4_k",
        }
    }

    /// The format of that name; `f32` is none of them.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    fn dtype(self) -> GgmlDType {
        match self {
            Format::F16 => GgmlDType::F16,
            Format::Bf16 => GgmlDType::BF16,
            Format::Q8 => GgmlDType::Q8_0,
            Format::Q4 => GgmlDType::Q4_0,
            Format::Q4K => GgmlDType::Q4K,
        }
    }

    /// Inputs of a matrix must be a multiple of this.
    pub fn block(self) -> usize {
        self.dtype().block_size()
    }
}

/// A frozen weight (Out, In) in one of the formats; copies share it.
#[derive(Clone)]
pub struct Quantised {
    weight: Store,
    format: Format,
    dims: (usize, usize),
}

#[derive(Clone)]
enum Store {
    /// Unpacked for each product.
    Blocks(Arc<QTensor>),
    /// Multiplied as it is.
    Bf16(Bf16Matrix),
    /// Not on the CPU.
    Portable(Frozen),
}

impl fmt::Debug for Quantised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.format.name(), self.dims)
    }
}

impl Quantised {
    /// Rounds a matrix; an In that is no multiple of the format's block is an error.
    pub fn new(weight: &Tensor, format: Format) -> Result<Self> {
        check("quantisation", &[weight])?;
        let dims = match weight.dims() {
            &[out, input] if out > 0 && input > 0 => (out, input),
            got => return Err(wrong_shape("quantisation", "a weight", got, "(out, in)")),
        };
        if !dims.1.is_multiple_of(format.block()) {
            return Err(Error::new(format!(
                "a weight with `{}` inputs cannot be kept as {}, whose blocks have {} numbers",
                dims.1,
                format.name(),
                format.block()
            ))
            .hint("use q8_0 or q4_0 (blocks of 32), f16 or bf16 (any width)"));
        }
        let weight = weight.detach().contiguous()?;
        let weight = match format {
            _ if portable::is_portable(&weight) => Store::Portable(Frozen::new(&weight, format.dtype())?),
            Format::Bf16 => Store::Bf16(Bf16Matrix::new(&weight, true)?),
            _ => Store::Blocks(Arc::new(QTensor::quantize(&weight, format.dtype())?)),
        };
        Ok(Self { weight, format, dims })
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// (Out, In).
    pub fn dims(&self) -> (usize, usize) {
        self.dims
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Store::Blocks(weight) => weight.storage_size_in_bytes(),
            Store::Bf16(weight) => weight.bytes(),
            Store::Portable(weight) => weight.bytes(),
        }
    }

    /// The numbers it stands for, (Out, In) f32.
    pub fn dequantise(&self) -> Result<Tensor> {
        match &self.weight {
            Store::Blocks(weight) => Ok(weight.dequantize(&Device::Cpu)?),
            Store::Bf16(weight) => weight.widened(),
            Store::Portable(weight) => Ok(weight.widened()?),
        }
    }

    /// Hands the packed bytes to `visit`.
    pub fn visit_bytes(&self, visit: impl FnOnce(&[u8])) -> Result<()> {
        match &self.weight {
            Store::Blocks(weight) => visit(&weight.data()?),
            Store::Bf16(weight) => weight.visit_bytes(visit),
            Store::Portable(weight) => weight.visit_bytes(visit)?,
        }
        Ok(())
    }

    /// x (..., In) to (..., Out), plus `bias` (Out). Gradient to x and the bias.
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        check("quantised product", &[x])?;
        if x.dims().last() != Some(&self.dims.1) || x.elem_count() == 0 {
            return Err(wrong_shape("quantised product", "input", x.dims(), &format!("(..., {})", self.dims.1)));
        }
        let y = match &self.weight {
            Store::Blocks(weight) => x.contiguous()?.apply_op1(Product { weight: Arc::clone(weight) })?,
            Store::Bf16(weight) => return weight.forward(x, bias),
            Store::Portable(weight) => portable::frozen_linear(x, weight, self.dims)?,
        };
        match bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

impl Quantised {
    /// Where it is not on the CPU: what candle multiplies by.
    pub(super) fn portable(&self) -> Option<&Frozen> {
        match &self.weight {
            Store::Portable(weight) => Some(weight),
            Store::Blocks(_) | Store::Bf16(_) => None,
        }
    }

    /// x (rows, In) to (rows, Out).
    pub(super) fn multiply(&self, x: &[f32]) -> CandleResult<Vec<f32>> {
        match &self.weight {
            Store::Blocks(weight) => multiply(weight, x, false),
            Store::Bf16(weight) => Ok(weight.multiply(x)),
            Store::Portable(_) => candle_core::bail!("{self:?}: expected a weight on the CPU"),
        }
    }

    /// dy (rows, Out) to (rows, In).
    pub(super) fn multiply_transposed(&self, dy: &[f32]) -> CandleResult<Vec<f32>> {
        match &self.weight {
            Store::Blocks(weight) => multiply(weight, dy, true),
            Store::Bf16(weight) => weight.multiply_transposed(dy),
            Store::Portable(_) => candle_core::bail!("{self:?}: expected a weight on the CPU"),
        }
    }
}

struct Product {
    weight: Arc<QTensor>,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "quantised product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let y = multiply(&self.weight, floats(self.name(), x, layout)?, false)?;
        let mut shape = layout.shape().dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.weight.shape().dims2()?.0;
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        gradient(read_floats(&dy.contiguous()?, |dy| multiply(&self.weight, dy, true))??, x.shape())
    }
}

/// x · Wᵀ, or x · W for the way back.
fn multiply(weight: &QTensor, x: &[f32], transposed: bool) -> CandleResult<Vec<f32>> {
    let (out, input) = weight.shape().dims2()?;
    let weight = weight.dequantize(&Device::Cpu)?;
    read_floats(&weight, |weight| {
        if !transposed {
            return dense::multiply(x, weight.into(), (out, input), After::default());
        }
        let mut y = unwritten(x.len() / out * input);
        let (x, weight) = (View::new(x, 0, x.len() / out, out, out), View::new(weight, 0, out, input, input));
        multiply_on_all_cores(Target::dense(&mut y, input), x, weight, 1.0, false);
        y
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::nn::linear;
    use crate::models::nn::testing::{noise, norm};
    use candle_core::Var;

    /// Exactly the layer over the rounded numbers, and those close to the originals.
    #[test]
    fn is_the_dense_layer_over_the_rounded_weight() {
        let (x, weight, r) = (noise(1, &[2, 5, 256]), noise(2, &[24, 256]), noise(3, &[2, 5, 24]));
        for (format, most) in
            [(Format::F16, 1e-3), (Format::Bf16, 5e-3), (Format::Q8, 0.01), (Format::Q4, 0.12), (Format::Q4K, 0.12)]
        {
            let packed = Quantised::new(&weight, format).unwrap();
            let rounded = packed.dequantise().unwrap();
            let error = norm(&(&rounded - &weight).unwrap()) / norm(&weight);
            assert!(error > 0.0 && error < most, "{}: {error}", format.name());
            assert_eq!(Format::parse(format.name()), Some(format));
            let bias = Var::from_tensor(&noise(4, &[24])).unwrap();
            let x = Var::from_tensor(&x).unwrap();
            let dense = linear(&x, &rounded, Some(&bias)).unwrap();
            let got = packed.forward(&x, Some(&bias)).unwrap();
            let tolerance = if format == Format::Bf16 { 5e-3 } else { 1e-5 };
            assert!(norm(&(&got - &dense).unwrap()) < tolerance * norm(&dense), "{}", format.name());
            if format == Format::Bf16 {
                // Its inputs are rounded too: see its own tests.
                continue;
            }
            let grads = |y: Tensor| (y * &r).unwrap().sum_all().unwrap().backward().unwrap();
            let (got, dense) = (grads(got), grads(dense));
            for var in [&x, &bias] {
                let (got, dense) = (got.get(var).unwrap(), dense.get(var).unwrap());
                assert!(norm(&(got - dense).unwrap()) < 1e-5 * norm(dense), "{}", format.name());
            }
        }
    }

    #[test]
    fn a_width_that_is_no_multiple_of_a_block_is_refused() {
        let error = Quantised::new(&noise(1, &[4, 48]), Format::Q4).unwrap_err();
        assert!(error.to_string().contains("`48` inputs") && error.find_hint().is_some(), "{error}");
        assert!(Quantised::new(&noise(1, &[4, 64]), Format::Q4K).is_err());
        assert_eq!(Quantised::new(&noise(1, &[4, 64]), Format::Q4).unwrap().bytes(), 4 * 64 / 32 * 18);
    }
}
