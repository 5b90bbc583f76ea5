//! Every layer against PyTorch (fixtures/golden/nn.py), and what no golden number shows: frozen arguments, bits, refusals.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::error::Result;

/// Tensors of one golden case.
struct Case<'a> {
    all: &'a HashMap<String, Tensor>,
    name: &'a str,
}

impl Case<'_> {
    fn tensor(&self, key: &str) -> Tensor {
        self.all.get(&format!("{}/{key}", self.name)).unwrap_or_else(|| panic!("{}/{key}", self.name)).clone()
    }

    /// Runs `f` on variables made of the arguments and compares the result and every gradient.
    fn agrees(&self, arguments: &[&str], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let vars: Vec<Var> = arguments.iter().map(|key| Var::from_tensor(&self.tensor(key)).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let y = f(&tensors).unwrap();
        assert_close(&format!("{}/y", self.name), &y, &self.tensor("y"), 1e-6);
        let grads = (y * self.tensor("r")).unwrap().sum_all().unwrap().backward().unwrap();
        for (key, var) in arguments.iter().zip(&vars) {
            let found = grads.get(var).unwrap_or_else(|| panic!("{}: no gradient for {key}", self.name));
            assert_close(&format!("{}/d{key}", self.name), found, &self.tensor(&format!("d{key}")), 2e-6);
        }
        // Frozen arguments get no gradient, and those that remain get the same.
        for free in 0..arguments.len() {
            let tensors: Vec<Tensor> = vars
                .iter()
                .enumerate()
                .map(|(at, var)| if at == free { var.as_tensor().clone() } else { var.as_detached_tensor() })
                .collect();
            let y = f(&tensors).unwrap();
            let alone = (y * self.tensor("r")).unwrap().sum_all().unwrap().backward().unwrap();
            // Asked for by the tensor that went in: a gradient that was computed in vain would be found here.
            for (at, tensor) in tensors.iter().enumerate() {
                let (one, all) = (alone.get(tensor), grads.get(&vars[at]).unwrap());
                match at == free {
                    true => assert_eq!(bits(one.unwrap()), bits(all), "{}: {} alone", self.name, arguments[at]),
                    false => assert!(one.is_none(), "{}: frozen {} has a gradient", self.name, arguments[at]),
                }
            }
        }
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    with_values(tensor, |values| values.iter().map(|value| value.to_bits()).collect()).unwrap()
}

/// |got − want| ≤ tolerance · (largest |want| of the tensor, at least 1).
fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
    let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
    let scale = want.iter().fold(1f32, |top, value| top.max(value.abs()));
    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= tolerance * scale, "{what}[{at}]: {got}, PyTorch has {want} (error {error}, scale {scale})");
    }
}

fn golden() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/nn.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

#[test]
fn every_layer_and_its_gradients_equal_pytorch() {
    let all = golden();
    let case = |name| Case { all: &all, name };
    case("linear").agrees(&["x", "weight", "bias"], |a| linear(&a[0], &a[1], Some(&a[2])));
    case("linear_odd").agrees(&["x", "weight"], |a| linear(&a[0], &a[1], None));
    case("layer_norm").agrees(&["x", "weight", "bias"], |a| layer_norm(&a[0], &a[1], &a[2], 1e-12));
    case("layer_norm_flat").agrees(&["x", "weight", "bias"], |a| layer_norm(&a[0], &a[1], &a[2], 1e-5));
    case("rms_norm").agrees(&["x", "weight"], |a| rms_norm(&a[0], &a[1], 1e-5));
    case("l2_normalize").agrees(&["x"], |a| l2_normalize(&a[0], 1e-12));
    case("softmax").agrees(&["x"], |a| softmax(&a[0]));
    case("log_softmax").agrees(&["x"], |a| log_softmax(&a[0]));
    case("log_sum_exp").agrees(&["x"], |a| log_sum_exp(&a[0]));
    let targets = case("log_prob_of").tensor("targets");
    case("log_prob_of").agrees(&["logits"], |a| log_prob_of(&a[0], &targets));
    case("gelu").agrees(&["x"], |a| gelu(&a[0]));
    case("silu_mul").agrees(&["gate", "up"], |a| silu_mul(&a[0], &a[1]));
    let ids = case("embedding").tensor("ids");
    case("embedding").agrees(&["table"], |a| embedding(&a[0], &ids));
    case("bert_embedding").agrees(&["word", "position", "segment"], |a| bert_embedding(&a[0], &a[1], &a[2], &ids));
    case("mean_pool").agrees(&["x"], |a| mean_pool(&a[0], &[4, 1, 7]));
    case("max_pool").agrees(&["x"], |a| max_pool(&a[0], &[4, 1, 7]));
}

/// (B, H, T, Dh) to (B, T, H·Dh), as a linear layer would have made it.
fn pack(x: &Tensor) -> Tensor {
    x.transpose(1, 2).unwrap().flatten_from(2).unwrap().contiguous().unwrap()
}

fn unpack(x: &Tensor, heads: usize) -> Tensor {
    let (batch, tokens, packed) = x.dims3().unwrap();
    x.reshape((batch, tokens, heads, packed / heads)).unwrap().transpose(1, 2).unwrap()
}

#[test]
fn rotary_embedding_equals_pytorch_in_both_layouts() {
    let all = golden();
    for name in ["rope", "rope_each"] {
        let case = Case { all: &all, name };
        let (cos, sin) = (case.tensor("cos"), case.tensor("sin"));
        case.agrees(&["x"], |a| rope(&a[0], &cos, &sin));
        case.agrees(&["x"], |a| Ok(unpack(&rope_packed(&pack(&a[0]), 3, &cos, &sin)?, 3)));
    }
}

#[test]
fn attention_equals_pytorch_in_both_layouts() {
    let all = golden();
    let scale = 1.0 / 6f64.sqrt();
    let padding = |lengths: &[usize]| AttentionMask::Padding { lengths: lengths.to_vec() };
    let causal = |lengths: &[usize]| AttentionMask::Causal { lengths: lengths.to_vec() };
    for (name, heads, mask, scale) in [
        ("attention_padding", (3, 3), padding(&[7, 3]), scale),
        ("attention_causal", (4, 2), causal(&[7, 4]), scale),
        ("attention_cached", (2, 1), causal(&[7, 5]), scale),
        ("attention_nothing", (2, 2), padding(&[0, 5]), scale),
        ("attention_wide", (2, 1), causal(&[33, 65, 40]), 0.3),
    ] {
        let case = Case { all: &all, name };
        let arguments = ["q", "k", "v"];
        case.agrees(&arguments, |a| attention(&a[0], &a[1], &a[2], &mask, scale));
        case.agrees(&arguments, |a| {
            let y = attention_packed(&pack(&a[0]), &pack(&a[1]), &pack(&a[2]), heads, &mask, scale)?;
            Ok(unpack(&y, heads.0))
        });
        // Transposed views are read in place.
        let view = |x: &Tensor| x.transpose(1, 2)?.contiguous()?.transpose(1, 2);
        case.agrees(&arguments, |a| attention(&view(&a[0])?, &view(&a[1])?, &view(&a[2])?, &mask, scale));
    }
}

/// Pseudo-random numbers in [−1, 1), the same on every machine.
fn noise(seed: u64, shape: &[usize]) -> Tensor {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn sums_over_many_pieces_are_right_and_repeat_bit_for_bit() {
    // 5000 rows of 100: several pieces of every kind, with a ragged last one.
    let (rows, width) = (5000, 100);
    let x = noise(1, &[rows, width]);
    let r = noise(2, &[rows, width]);
    let weight = Var::from_tensor(&noise(3, &[width])).unwrap();
    let bias = Var::from_tensor(&noise(4, &[width])).unwrap();
    let run = || {
        let y = layer_norm(&x, &weight, &bias, 1e-5).unwrap();
        let grads = (y * &r).unwrap().sum_all().unwrap().backward().unwrap();
        (bits(grads.get(&weight).unwrap()), bits(grads.get(&bias).unwrap()))
    };
    let first = run();
    for _ in 0..5 {
        assert_eq!(first, run());
    }
    let r: Vec<Vec<f32>> = r.to_vec2().unwrap();
    for column in 0..width {
        let exact: f64 = r.iter().map(|row| f64::from(row[column])).sum();
        let got = f64::from(f32::from_bits(first.1[column]));
        assert!((got - exact).abs() < 1e-3, "column {column}: {got}, exactly {exact}");
    }
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(first, single.install(run), "pieces do not depend on the number of threads");
}

#[test]
fn infinite_logits_give_probability_nought_and_not_nan() {
    let x = Tensor::new(&[[f32::NEG_INFINITY, 0., 1.], [f32::NEG_INFINITY; 3]], &Device::Cpu).unwrap();
    let log = log_sum_exp(&x).unwrap().to_vec1::<f32>().unwrap();
    assert!((log[0] - 1.313_261_7).abs() < 1e-6 && log[1] == f32::NEG_INFINITY, "{log:?}");
    let p = softmax(&x.narrow(0, 0, 1).unwrap()).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(p[0][0], 0.0);
    assert!((p[0][2] - 0.731_058_6).abs() < 1e-6, "{p:?}");
    let nan = Tensor::new(&[[f32::NAN, 0., 1.]], &Device::Cpu).unwrap();
    assert!(log_sum_exp(&nan).unwrap().to_vec1::<f32>().unwrap()[0].is_nan(), "NaN must not be hidden");
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let device = Device::Cpu;
    let f32s = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).unwrap();
    let refused = |result: Result<Tensor>, part: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part), "`{message}` should say `{part}`");
    };
    refused(gelu(&Tensor::zeros(3, DType::F64, &device).unwrap()), "F64");
    refused(linear(&f32s(&[2, 3]), &f32s(&[4, 5]), None), "[2, 3]");
    refused(linear(&f32s(&[2, 5]), &f32s(&[4, 5]), Some(&f32s(&[3]))), "(4)");
    refused(layer_norm(&f32s(&[2, 3]), &f32s(&[4]), &f32s(&[3]), 1e-5), "weight");
    let ids = Tensor::new(&[[0u32, 9]], &device).unwrap();
    refused(embedding(&f32s(&[9, 2]), &ids), "`9`");
    refused(log_prob_of(&f32s(&[2, 9]), &ids.flatten_all().unwrap()), "`9`");
    let mask = AttentionMask::Padding { lengths: vec![1] };
    let q = f32s(&[2, 4, 3, 8]);
    refused(attention(&q, &q, &q, &mask, 1.0), "1 lengths");
    refused(attention(&q, &f32s(&[2, 3, 3, 8]), &f32s(&[2, 3, 3, 8]), &mask, 1.0), "belong together");
    refused(rope(&f32s(&[1, 1, 2, 3]), &f32s(&[1, 2, 1]), &f32s(&[1, 2, 1])), "even");
    refused(mean_pool(&f32s(&[1, 2, 3]), &[3]), "[3]");
}

#[test]
fn gelu_stays_within_two_ten_millionths() {
    // Φ by its power series about 0 in f64: Σ (−1)ⁿ x^(2n+1) / (2ⁿ n! (2n+1)), good to |x| < 6.
    let distribution = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / (2.0 * f64::from(n));
            sum += term / f64::from(2 * n + 1);
        }
        0.5 + sum / (2.0 * std::f64::consts::PI).sqrt()
    };
    let x: Vec<f32> = (-50_000..=50_000).map(|i| i as f32 * 1e-4).collect();
    let y = gelu(&Tensor::new(x.as_slice(), &Device::Cpu).unwrap()).unwrap().to_vec1::<f32>().unwrap();
    for (&x, y) in x.iter().zip(y) {
        let exact = f64::from(x) * distribution(f64::from(x));
        let error = (f64::from(y) - exact).abs();
        // At most 10⁻⁷ from erf / 2, the rest from rounding the result, whose last place is worth 1.2 · 10⁻⁷ beside 1.
        assert!(error < 2e-7 * f64::from(x.abs().max(1.0)), "gelu({x}) = {y}, exactly {exact}");
    }
}
