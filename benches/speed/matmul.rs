//! `matmul`: what the machine's matrix products reach alone, in f32 and in the shapes of the encoder's layers.
//!
//! Through candle's product, which is the limit that embedding is held against, and through the layer that the models use.

use candle_core::{Device, Tensor};
use ragtune::error::Result;
use ragtune::models::nn;

use crate::Common;
use crate::inputs::{self, Products};
use crate::measure::Line;

/// Measures it.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("matmul", "GFLOP");
    let inputs: Products = inputs::read(&common.inputs, "matmul.json")?;
    let mut operands = Vec::new();
    for &(input, output, count) in &inputs.shapes {
        let x = Tensor::randn(0f32, 1f32, (inputs.rows, input), &Device::Cpu)?;
        let weight = Tensor::randn(0f32, 1f32, (output, input), &Device::Cpu)?;
        operands.push((x, weight, count));
    }
    let products = |product: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| -> Result<()> {
        for (x, weight, count) in &operands {
            for _ in 0..*count {
                std::hint::black_box(product(x, weight)?);
            }
        }
        Ok(())
    };
    let through_candle = common.repeats.run(|_| products(&|x, weight| Ok(x.matmul(&weight.t()?)?)))?;
    let through_linear = common.repeats.run(|_| products(&|x, weight| nn::linear(x, weight, None)))?;
    let flops: usize =
        inputs.shapes.iter().map(|(input, output, count)| 2 * inputs.rows * input * output * count).sum();
    let giga = flops as f64 * 1e-9;
    Ok(line.times(&through_candle, giga).found("linear_gflops_per_second", giga / through_linear.median()))
}
