//! Normalisations of the last dimension: `layer_norm`, `rms_norm`, `l2_normalize`.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{
    check, column_sums, each_piece, floats, gradient, read_floats, rows_of, simd, sum_by, sum_by_two, unwritten,
    wrong_shape,
};
use super::portable;
use crate::error::Result;

/// (x − mean) / √(variance + eps) · weight + bias over the last dimension (Ba et al., arXiv 1607.06450); biased variance.
///
/// `x` (..., D), `weight` and `bias` (D), the bias 0 where there is none; result as `x`. Gradients to all three.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let bias = match bias {
        Some(bias) => bias.clone(),
        None => weight.detach().zeros_like()?,
    };
    let bias = &bias;
    check("layer_norm", &[x, weight, bias])?;
    let (_, width) = rows_of("layer_norm", x)?;
    for (what, tensor) in [("a weight", weight), ("a bias", bias)] {
        if tensor.dims() != [width] {
            return Err(wrong_shape("layer_norm", what, tensor.dims(), &format!("({width})")));
        }
    }
    if portable::is_portable(x) {
        return Ok(portable::layer_norm(x, weight, bias, eps)?);
    }
    let op = LayerNorm { eps: eps as f32 };
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

/// x / √(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich, arXiv 1910.07467).
///
/// `x` (..., D), `weight` (D); result as `x`. Gradients to both.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check("rms_norm", &[x, weight])?;
    let (_, width) = rows_of("rms_norm", x)?;
    if weight.dims() != [width] {
        return Err(wrong_shape("rms_norm", "a weight", weight.dims(), &format!("({width})")));
    }
    if portable::is_portable(x) {
        return Ok(portable::rms_norm(x, weight, eps)?);
    }
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })?)
}

/// x / max(‖x‖₂, eps) over the last dimension, as `torch.nn.functional.normalize`; sentence-transformers uses eps 10⁻¹².
///
/// `x` (..., D); result as `x`, rows of unit length.
pub fn l2_normalize(x: &Tensor, eps: f64) -> Result<Tensor> {
    check("l2_normalize", &[x])?;
    rows_of("l2_normalize", x)?;
    if portable::is_portable(x) {
        return Ok(portable::l2_normalize(x, eps)?);
    }
    Ok(x.contiguous()?.apply_op1(L2Normalize { eps: eps as f32 })?)
}

/// Mean and 1/√(variance + eps) of a row, the variance from the differences to the mean.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum_by(x, |x| x) / n;
    let variance = sum_by(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_by(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

simd! {
    fn layer_norm_forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x, eps);
            for (((y, &x), &weight), &bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * scale * weight + bias;
            }
        }
    }
}

simd! {
    /// dx = scale · (g − mean(g) − x̂ · mean(g · x̂)) with g = dy · weight.
    fn layer_norm_backward(x: &[f32], dy: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) {
        let width = weight.len();
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x, eps);
            for ((dx, &dy), &weight) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * weight;
            }
            let mean_g = sum_by(dx, |g| g) / width as f32;
            let mean_gx = sum_by_two(dx, x, |g, x| g * ((x - mean) * scale)) / width as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - mean_g - (x - mean) * scale * mean_gx);
            }
        }
    }
}

simd! {
    fn layer_norm_weights(x: &[f32], dy: &[f32], eps: f32, dweight: &mut [f32], dbias: &mut [f32]) {
        let width = dweight.len();
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            let (mean, scale) = moments(x, eps);
            for (((dweight, dbias), &x), &dy) in dweight.iter_mut().zip(dbias.iter_mut()).zip(x).zip(dy) {
                *dweight += dy * ((x - mean) * scale);
                *dbias += dy;
            }
        }
    }
}

simd! {
    fn rms_norm_forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = inverse_rms(x, eps);
            for ((y, &x), &weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * weight;
            }
        }
    }
}

simd! {
    /// dx = scale · (g − x̂ · mean(g · x̂)) with g = dy · weight.
    fn rms_norm_backward(x: &[f32], dy: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) {
        let width = weight.len();
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let scale = inverse_rms(x, eps);
            for ((dx, &dy), &weight) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * weight;
            }
            let mean_gx = sum_by_two(dx, x, |g, x| g * (x * scale)) / width as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - x * scale * mean_gx);
            }
        }
    }
}

simd! {
    fn rms_norm_weights(x: &[f32], dy: &[f32], eps: f32, dweight: &mut [f32]) {
        let width = dweight.len();
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            let scale = inverse_rms(x, eps);
            for ((dweight, &x), &dy) in dweight.iter_mut().zip(x).zip(dy) {
                *dweight += dy * (x * scale);
            }
        }
    }
}

simd! {
    fn l2_normalize_forward(x: &[f32], width: usize, eps: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let length = sum_by(x, |x| x * x).sqrt().max(eps);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x / length;
            }
        }
    }
}

simd! {
    /// dx = (dy − y · (dy · y)) / ‖x‖; where ‖x‖ is below eps the divisor is constant and dx = dy / eps.
    fn l2_normalize_backward(x: &[f32], dy: &[f32], width: usize, eps: f32, dx: &mut [f32]) {
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let norm = sum_by(x, |x| x * x).sqrt();
            let length = norm.max(eps);
            let along = if norm > eps { sum_by_two(x, dy, |x, dy| (x / length) * dy) } else { 0.0 };
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = (dy - (x / length) * along) / length;
            }
        }
    }
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, xl)?;
        let weight = floats(self.name(), weight, wl)?;
        let bias = floats(self.name(), bias, bl)?;
        let width = weight.len();
        let mut y = unwritten(x.len());
        each_piece(&mut y, width, |first, y| {
            let start = first * width;
            layer_norm_forward(&x[start..start + y.len()], weight, bias, self.eps, y);
        });
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let width = weight.elem_count();
        let dx = match x.track_op() {
            true => gradient(input_gradient(x, &dy, weight, self.eps, layer_norm_backward)?, x.shape())?,
            false => None,
        };
        if !weight.track_op() && !bias.track_op() {
            return Ok((dx, None, None));
        }
        let mut sums = read_floats(x, |x| {
            read_floats(&dy, |dy| {
                column_sums(x.len() / width, 2 * width, |first, rows, sums| {
                    let range = first * width..(first + rows) * width;
                    let (dweight, dbias) = sums.split_at_mut(width);
                    layer_norm_weights(&x[range.clone()], &dy[range], self.eps, dweight, dbias);
                })
            })
        })??;
        let dbias = if bias.track_op() { gradient(sums[width..].to_vec(), bias.shape())? } else { None };
        sums.truncate(width);
        let dweight = if weight.track_op() { gradient(sums, weight.shape())? } else { None };
        Ok((dx, dweight, dbias))
    }
}

type InputKernel = fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

fn input_gradient(x: &Tensor, dy: &Tensor, weight: &Tensor, eps: f32, kernel: InputKernel) -> CandleResult<Vec<f32>> {
    let width = weight.elem_count();
    let mut dx = unwritten(x.elem_count());
    read_floats(x, |x| {
        read_floats(dy, |dy| {
            read_floats(weight, |weight| {
                each_piece(&mut dx, width, |first, dx| {
                    let range = first * width..first * width + dx.len();
                    kernel(&x[range.clone()], &dy[range], weight, eps, dx);
                });
            })
        })
    })???;
    Ok(dx)
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, xl)?;
        let weight = floats(self.name(), weight, wl)?;
        let width = weight.len();
        let mut y = unwritten(x.len());
        each_piece(&mut y, width, |first, y| {
            let start = first * width;
            rms_norm_forward(&x[start..start + y.len()], weight, self.eps, y);
        });
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let width = weight.elem_count();
        let dx = match x.track_op() {
            true => gradient(input_gradient(x, &dy, weight, self.eps, rms_norm_backward)?, x.shape())?,
            false => None,
        };
        if !weight.track_op() {
            return Ok((dx, None));
        }
        let sums = read_floats(x, |x| {
            read_floats(&dy, |dy| {
                column_sums(x.len() / width, width, |first, rows, sums| {
                    let range = first * width..(first + rows) * width;
                    rms_norm_weights(&x[range.clone()], &dy[range], self.eps, sums);
                })
            })
        })??;
        Ok((dx, gradient(sums, weight.shape())?))
    }
}

struct L2Normalize {
    eps: f32,
}

impl CustomOp1 for L2Normalize {
    fn name(&self) -> &'static str {
        "l2_normalize"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, layout)?;
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let mut y = unwritten(x.len());
        each_piece(&mut y, width, |first, y| {
            let start = first * width;
            l2_normalize_forward(&x[start..start + y.len()], width, self.eps, y);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1);
        let mut dx = unwritten(x.elem_count());
        read_floats(x, |x| {
            read_floats(&dy.contiguous()?, |dy| {
                each_piece(&mut dx, width, |first, dx| {
                    let range = first * width..first * width + dx.len();
                    l2_normalize_backward(&x[range.clone()], &dy[range], width, self.eps, dx);
                });
            })
        })??;
        gradient(dx, x.shape())
    }
}
