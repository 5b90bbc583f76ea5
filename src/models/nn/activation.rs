//! Functions of single numbers: `gelu` and `silu_mul`.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{self, check, each_piece, each_piece_of_two, exp_of_negative, floats, gradient, sigmoid, simd};
use crate::error::{Error, Result};

/// x · Φ(x) with Φ the normal distribution function: the exact ("erf") GELU, Hendrycks and Gimpel, arXiv 1606.08415.
///
/// Any shape, f32; error below 2·10⁻⁷ · max(1, |x|), rounding included. Derivative: Φ(x) + x · φ(x).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    check("gelu", &[x])?;
    Ok(x.contiguous()?.apply_op1(Gelu)?)
}

/// gate · σ(gate) · up, the gated unit of Llama (SwiGLU, Shazeer, arXiv 2002.05202, without its matrices).
///
/// Two tensors of one shape, f32; the result has that shape.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    check("silu_mul", &[gate, up])?;
    if gate.dims() != up.dims() {
        return Err(Error::new(format!(
            "silu_mul got a gate of shape {:?} and values of shape {:?}, expected one shape",
            gate.dims(),
            up.dims()
        )));
    }
    Ok(gate.contiguous()?.apply_op2(&up.contiguous()?, SiluMul)?)
}

/// Φ(x) and e^(-x²/2).
///
/// Φ(x) = (1 + erf(x/√2)) / 2 with erf(z) = z·P(z²) below 0.9 and 1 − e^(−z²)·t·Q(t), t = 1 / (1 + 0.45 z), above; the
/// coefficients are fitted by fixtures/golden/nn_erf.py.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let u = z * z;
    let e = exp_of_negative(-u);
    let mut p = -0.000_593_838_34;
    p = p * u + 0.004_977_8;
    p = p * u - 0.026_750_918;
    p = p * u + 0.112_811_34;
    p = p * u - 0.376_123_76;
    p = p * u + std::f32::consts::FRAC_2_SQRT_PI; // what the fit gives, to the last bit but one
    let t = 1.0 / (1.0 + 0.45 * z);
    let mut q = 0.057_647_806;
    q = q * t - 0.356_911_87;
    q = q * t + 0.633_054_8;
    q = q * t - 0.181_001_81;
    q = q * t + 0.365_178_35;
    q = q * t + 0.225_640_54;
    q = q * t + 0.256_337_46;
    // The upper tail 1 − Φ(|x|): taken as such, so that Φ of large negative numbers keeps its digits.
    let tail = if z < 0.9 { 0.5 - 0.5 * (z * p) } else { 0.5 * e * (t * q) };
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

simd! {
    fn gelu_forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal(x).0;
        }
    }
}

simd! {
    fn gelu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        const DENSITY: f32 = 0.398_942_3; // 1 / √(2π)
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let (below, e) = normal(x);
            *dx = dy * (below + x * (DENSITY * e));
        }
    }
}

simd! {
    fn silu_mul_forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(gate) * up;
        }
    }
}

simd! {
    fn silu_mul_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dgate, dup), &gate), &up), &dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
            let s = sigmoid(gate);
            *dgate = dy * up * (s * (1.0 + gate * (1.0 - s)));
            *dup = dy * (gate * s);
        }
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), storage, layout)?;
        let mut y = vec![0f32; x.len()];
        each_piece(&mut y, 1, |first, y| gelu_forward(&x[first..first + y.len()], y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let mut dx = vec![0f32; x.elem_count()];
        kernel::read_floats(x, |x| {
            kernel::read_floats(&dy.contiguous()?, |dy| {
                each_piece(&mut dx, 1, |first, dx| {
                    let range = first..first + dx.len();
                    gelu_backward(&x[range.clone()], &dy[range], dx);
                });
            })
        })??;
        gradient(dx, x.shape())
    }
}

struct SiluMul;

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let gate = floats(self.name(), gate, gate_layout)?;
        let up = floats(self.name(), up, up_layout)?;
        let mut y = vec![0f32; gate.len()];
        each_piece(&mut y, 1, |first, y| {
            let range = first..first + y.len();
            silu_mul_forward(&gate[range.clone()], &up[range], y);
        });
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let mut dgate = vec![0f32; gate.elem_count()];
        let mut dup = vec![0f32; gate.elem_count()];
        kernel::read_floats(gate, |g| {
            kernel::read_floats(up, |u| {
                kernel::read_floats(&dy.contiguous()?, |dy| {
                    each_piece_of_two((&mut dgate, 1), (&mut dup, 1), |first, dgate, dup| {
                        let range = first..first + dgate.len();
                        silu_mul_backward(&g[range.clone()], &u[range.clone()], &dy[range], dgate, dup);
                    });
                })
            })
        })???;
        let dgate = if gate.track_op() { gradient(dgate, gate.shape())? } else { None };
        let dup = if up.track_op() { gradient(dup, up.shape())? } else { None };
        Ok((dgate, dup))
    }
}
