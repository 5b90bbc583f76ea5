//! `matmul`: what the machine's matrix products reach alone, in f32 and in the shapes of the encoder's layers.
//!
//! Through candle's product, which is the limit that embedding is held against, and through the layer that the models use.

use std::path::Path;

use candle_core::{Device, Tensor};
use ragtune::error::Result;
use ragtune::models::nn;

use crate::Common;
use crate::inputs::{self, Products};
use crate::measure::Line;

/// The products: x (rows, In), W (Out, In), and how often.
pub struct Operands {
    all: Vec<(Tensor, Tensor, usize)>,
    giga: f64,
}

impl Operands {
    /// Random numbers in the shapes of `matmul.json`.
    pub fn read(folder: &Path) -> Result<Self> {
        let inputs: Products = inputs::read(folder, "matmul.json")?;
        let mut all = Vec::new();
        for &(input, output, count) in &inputs.shapes {
            let x = Tensor::randn(0f32, 1f32, (inputs.rows, input), &Device::Cpu)?;
            let weight = Tensor::randn(0f32, 1f32, (output, input), &Device::Cpu)?;
            all.push((x, weight, count));
        }
        let flops: usize =
            inputs.shapes.iter().map(|(input, output, count)| 2 * inputs.rows * input * output * count).sum();
        Ok(Self { all, giga: flops as f64 * 1e-9 })
    }

    /// 10⁹ floating-point operations of all products together.
    pub fn giga(&self) -> f64 {
        self.giga
    }

    /// All products through candle.
    pub fn through_candle(&self) -> Result<()> {
        self.each(|x, weight| Ok(x.matmul(&weight.t()?)?))
    }

    fn each(&self, product: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<()> {
        for (x, weight, count) in &self.all {
            for _ in 0..*count {
                std::hint::black_box(product(x, weight)?);
            }
        }
        Ok(())
    }
}

/// Measures it.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("matmul", "GFLOP");
    let operands = Operands::read(&common.inputs)?;
    let through_candle = common.repeats.run(|_| operands.through_candle())?;
    let through_linear = common.repeats.run(|_| operands.each(|x, weight| nn::linear(x, weight, None)))?;
    let giga = operands.giga();
    Ok(line.times(&through_candle, giga).found("linear_gflops_per_second", giga / through_linear.median()))
}
