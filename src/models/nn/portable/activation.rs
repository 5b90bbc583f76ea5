//! Functions of single numbers, and gates.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use candle_core::{Result as CandleResult, Tensor};

use super::graft;
use super::norm::when;
use crate::models::nn::Activation;

pub fn activate(x: &Tensor, activation: Activation) -> CandleResult<Tensor> {
    let input = x.detach();
    let y = value(&input, activation)?;
    graft(&[x], y, move |dy| Ok(vec![Some(dy.mul(&slope(&input, activation)?)?)]))
}

pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> CandleResult<Tensor> {
    let needed = [gate, up].map(Tensor::track_op);
    let (by, of) = (gate.detach(), up.detach());
    let y = value(&by, activation)?.mul(&of)?;
    graft(&[gate, up], y, move |dy| {
        let dgate = when(needed[0], || dy.mul(&of)?.mul(&slope(&by, activation)?))?;
        Ok(vec![dgate, when(needed[1], || dy.mul(&value(&by, activation)?))?])
    })
}

fn value(x: &Tensor, activation: Activation) -> CandleResult<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Silu => x.silu(),
        Activation::Relu => x.relu(),
    }
}

/// The derivative at each number.
fn slope(x: &Tensor, activation: Activation) -> CandleResult<Tensor> {
    match activation {
        // Φ(x) + x · φ(x).
        Activation::Gelu => {
            let below = (x * FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)?;
            let density = (x.sqr()? * -0.5)?.exp()?.affine((2.0 * PI).sqrt().recip(), 0.0)?;
            below.add(&x.mul(&density)?)
        }
        // s + x · s · (1 − s) · u'(x) with s = σ(u), u = 2·√(2/π)·(x + 0.044715·x³).
        Activation::GeluTanh => {
            let (twice, cube) = (2.0 * (2.0 / PI).sqrt(), 0.044_715);
            let square = x.sqr()?;
            let s = sigmoid(&(x * square.affine(twice * cube, twice)?)?)?;
            let inner = square.affine(3.0 * twice * cube, twice)?;
            s.add(&x.mul(&s)?.mul(&s.affine(-1.0, 1.0)?)?.mul(&inner)?)
        }
        // s · (1 + x · (1 − s)).
        Activation::Silu => {
            let s = sigmoid(x)?;
            let rest = s.affine(-1.0, 1.0)?;
            s.mul(&x.mul(&rest)?.affine(1.0, 1.0)?)
        }
        Activation::Relu => x.gt(0.0)?.to_dtype(x.dtype()),
    }
}

/// 1 / (1 + e⁻ˣ) = (1 + tanh(x/2)) / 2, without overflow on either side.
fn sigmoid(x: &Tensor) -> CandleResult<Tensor> {
    (x * 0.5)?.tanh()?.affine(0.5, 0.5)
}
