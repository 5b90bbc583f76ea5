//! Functions of single numbers, alone and as gates.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{
    self, check, each_piece, each_piece_of_two, exp_of_negative, floats, gradient, sigmoid, simd, unwritten,
};
use super::portable;
use crate::error::{Error, Result};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x) with Φ the normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415), exact: error below
    /// 2·10⁻⁷ · max(1, |x|), rounding included.
    Gelu,
    /// The approximation x · σ(2·√(2/π)·(x + 0.044715·x³)) of the same paper.
    GeluTanh,
    /// x · σ(x).
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// By the name that `config.json` gives it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::GeluTanh),
            "silu" | "swish" => Some(Self::Silu),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Silu => "silu",
            Self::Relu => "relu",
        }
    }

    /// The function of each number, written over it.
    pub(super) fn in_place(self, values: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Gelu && kernel::has_avx512() {
            // SAFETY: the processor has what it asks for.
            return unsafe { super::gelu::in_place(values) };
        }
        (self.kernels().in_place)(values);
    }

    fn kernels(self) -> &'static Kernels {
        match self {
            Self::Gelu => &gelu::KERNELS,
            Self::GeluTanh => &gelu_tanh::KERNELS,
            Self::Silu => &silu::KERNELS,
            Self::Relu => &relu::KERNELS,
        }
    }
}

/// Numbers that stay in the first-level cache between two loops over them.
const NEAR: usize = 2048;

/// The function of each number; any shape.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    check("activation", &[x])?;
    if portable::is_portable(x) {
        return Ok(portable::activate(x, activation)?);
    }
    Ok(x.contiguous()?.apply_op1(activation)?)
}

/// activation(gate) · up: the gated units of Shazeer, arXiv 2002.05202, without their matrices (SwiGLU with Silu, GeGLU with
/// Gelu). Two tensors of one shape; the result has that shape.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    check("gated activation", &[gate, up])?;
    if gate.dims() != up.dims() {
        return Err(Error::new(format!(
            "a gated activation got a gate of shape {:?} and values of shape {:?}, expected one shape",
            gate.dims(),
            up.dims()
        )));
    }
    if portable::is_portable(gate) {
        return Ok(portable::gated(gate, up, activation)?);
    }
    Ok(gate.contiguous()?.apply_op2(&up.contiguous()?, activation)?)
}

/// Φ(x) and e^(-x²/2).
///
/// Φ(x) = (1 + erf(x/√2)) / 2 with erf(z) = z·P(z²) below 0.9 and 1 − e^(−z²)·t·Q(t), t = 1 / (1 + 0.45 z), above; the
/// coefficients are fitted by fixtures/golden/nn_erf.py. With AVX-512 `super::gelu` takes the forward pass from a table instead.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let u = z * z;
    let e = exp_of_negative(-u);
    let mut p = -0.000_593_838_34;
    // The last is what the fit gives, to the last bit but one.
    for term in [0.004_977_8, -0.026_750_918, 0.112_811_34, -0.376_123_76, std::f32::consts::FRAC_2_SQRT_PI] {
        p = u.mul_add(p, term);
    }
    let t = 1.0 / z.mul_add(0.45, 1.0);
    let mut q = 0.057_647_806;
    for term in [-0.356_911_87, 0.633_054_8, -0.181_001_81, 0.365_178_35, 0.225_640_54, 0.256_337_46] {
        q = t.mul_add(q, term);
    }
    // The upper tail 1 − Φ(|x|): taken as such, so that Φ of large negative numbers keeps its digits.
    let tail = if z < 0.9 { 0.5 - 0.5 * (z * p) } else { 0.5 * e * (t * q) };
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

/// Gate, values and incoming gradient; the gradients of gate and values.
type GatedBackward = fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]);

/// The loops of one function.
struct Kernels {
    in_place: fn(&mut [f32]),
    backward: fn(&[f32], &[f32], &mut [f32]),
    gated: fn(&[f32], &[f32], &mut [f32]),
    gated_backward: GatedBackward,
}

/// Makes the four loops of a function from its value, and its value and slope.
macro_rules! curve {
    ($name:ident, $value:expr, $slope:expr) => {
        mod $name {
            use super::*;

            pub(super) static KERNELS: Kernels = Kernels { in_place, backward, gated, gated_backward };

            simd! {
                fn in_place(y: &mut [f32]) {
                    for y in y {
                        *y = $value(*y);
                    }
                }
            }

            simd! {
                fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
                    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                        *dx = dy * $slope(x).1;
                    }
                }
            }

            simd! {
                fn gated(gate: &[f32], up: &[f32], y: &mut [f32]) {
                    for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                        *y = $value(gate) * up;
                    }
                }
            }

            simd! {
                fn gated_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
                    for ((((dgate, dup), &gate), &up), &dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
                        let (value, slope) = $slope(gate);
                        *dgate = dy * up * slope;
                        *dup = dy * value;
                    }
                }
            }
        }
    };
}

const DENSITY: f32 = 0.398_942_3; // 1 / √(2π)
const TWICE_ROOT: f32 = 1.595_769_2; // 2 · √(2/π)
const CUBE: f32 = 0.044_715;

curve!(gelu, |x: f32| x * normal(x).0, |x: f32| {
    let (below, e) = normal(x);
    (x * below, below + x * (DENSITY * e))
});
curve!(gelu_tanh, |x: f32| x * sigmoid(TWICE_ROOT * (x + CUBE * x * x * x)), |x: f32| {
    let s = sigmoid(TWICE_ROOT * (x + CUBE * x * x * x));
    (x * s, s + x * (s * (1.0 - s)) * (TWICE_ROOT * (1.0 + 3.0 * CUBE * x * x)))
});
curve!(silu, |x: f32| x * sigmoid(x), |x: f32| {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
});
// Not `max`, which would turn NaN into 0.
curve!(relu, |x: f32| if x < 0.0 { 0.0 } else { x }, |x: f32| if x > 0.0 { (x, 1.0) } else { (x * 0.0, 0.0) });

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats("activation", storage, layout)?;
        let mut y = unwritten(x.len());
        each_piece(&mut y, 1, |first, y| {
            for (y, x) in y.chunks_mut(NEAR).zip(x[first..].chunks(NEAR)) {
                y.copy_from_slice(&x[..y.len()]);
                self.in_place(y);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let backward = self.kernels().backward;
        let mut dx = unwritten(x.elem_count());
        kernel::read_floats(x, |x| {
            kernel::read_floats(&dy.contiguous()?, |dy| {
                each_piece(&mut dx, 1, |first, dx| {
                    let range = first..first + dx.len();
                    backward(&x[range.clone()], &dy[range], dx);
                });
            })
        })??;
        gradient(dx, x.shape())
    }
}

impl CustomOp2 for Activation {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let gate = floats("gated activation", gate, gate_layout)?;
        let up = floats("gated activation", up, up_layout)?;
        let forward = self.kernels().gated;
        let mut y = unwritten(gate.len());
        each_piece(&mut y, 1, |first, y| {
            let range = first..first + y.len();
            forward(&gate[range.clone()], &up[range], y);
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
        let backward = self.kernels().gated_backward;
        let mut dgate = unwritten(gate.elem_count());
        let mut dup = unwritten(gate.elem_count());
        kernel::read_floats(gate, |g| {
            kernel::read_floats(up, |u| {
                kernel::read_floats(&dy.contiguous()?, |dy| {
                    each_piece_of_two((&mut dgate, 1), (&mut dup, 1), |first, dgate, dup| {
                        let range = first..first + dgate.len();
                        backward(&g[range.clone()], &u[range.clone()], &dy[range], dgate, dup);
                    });
                })
            })
        })???;
        let dgate = if gate.track_op() { gradient(dgate, gate.shape())? } else { None };
        let dup = if up.track_op() { gradient(dup, up.shape())? } else { None };
        Ok((dgate, dup))
    }
}
