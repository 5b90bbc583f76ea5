//! Every layer against PyTorch (fixtures/golden/nn.py), and what no golden number shows: frozen arguments, bits, refusals.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::testing::noise;
use super::*;
use crate::error::Result;
use crate::models::batch::Spans;

/// Tensors of one golden case.
struct Case<'a> {
    all: &'a HashMap<String, Tensor>,
    name: &'a str,
}

impl Case<'_> {
    fn tensor(&self, key: &str) -> Tensor {
        self.all.get(&format!("{}/{key}", self.name)).unwrap_or_else(|| panic!("{}/{key}", self.name)).clone()
    }

    /// Runs `f` on variables made of the arguments and compares the result and every gradient; then with all but one frozen.
    fn agrees(&self, arguments: &[&str], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let (vars, grads) = self.agrees_as_a_whole(arguments, &f);

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

    /// The first half of [`Case::agrees`].
    fn agrees_as_a_whole(
        &self,
        arguments: &[&str],
        f: &impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> (Vec<Var>, candle_core::backprop::GradStore) {
        let vars: Vec<Var> = arguments.iter().map(|key| Var::from_tensor(&self.tensor(key)).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let y = f(&tensors).unwrap();
        assert_close(&format!("{}/y", self.name), &y, &self.tensor("y"), 1e-6);
        let grads = (y * self.tensor("r")).unwrap().sum_all().unwrap().backward().unwrap();
        for (key, var) in arguments.iter().zip(&vars) {
            let found = grads.get(var).unwrap_or_else(|| panic!("{}: no gradient for {key}", self.name));
            assert_close(&format!("{}/d{key}", self.name), found, &self.tensor(&format!("d{key}")), 2e-6);
        }
        (vars, grads)
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
pub(super) fn every_layer_and_its_gradients_equal_pytorch() {
    let all = golden();
    let case = |name| Case { all: &all, name };
    case("linear").agrees(&["x", "weight", "bias"], |a| linear(&a[0], &a[1], Some(&a[2])));
    case("linear_odd").agrees(&["x", "weight"], |a| linear(&a[0], &a[1], None));
    case("layer_norm").agrees(&["x", "weight", "bias"], |a| layer_norm(&a[0], &a[1], Some(&a[2]), 1e-12));
    case("layer_norm_flat").agrees(&["x", "weight", "bias"], |a| layer_norm(&a[0], &a[1], Some(&a[2]), 1e-5));
    case("rms_norm").agrees(&["x", "weight"], |a| rms_norm(&a[0], &a[1], 1e-5));
    case("l2_normalize").agrees(&["x"], |a| l2_normalize(&a[0], 1e-12));
    case("softmax").agrees(&["x"], |a| softmax(&a[0]));
    case("log_softmax").agrees(&["x"], |a| log_softmax(&a[0]));
    case("log_sum_exp").agrees(&["x"], |a| log_sum_exp(&a[0]));
    let targets = case("log_prob_of").tensor("targets");
    case("log_prob_of").agrees(&["logits"], |a| log_prob_of(&a[0], &targets));
    case("layer_norm_unbiased").agrees(&["x", "weight"], |a| layer_norm(&a[0], &a[1], None, 1e-5));
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_tanh", Activation::GeluTanh),
        ("silu", Activation::Silu),
        ("relu", Activation::Relu),
    ] {
        case(name).agrees(&["x"], |a| activate(&a[0], activation));
        assert_eq!(Activation::parse(activation.name()), Some(activation));
    }
    for (name, activation) in
        [("silu_gated", Activation::Silu), ("gelu_gated", Activation::Gelu), ("gelu_tanh_gated", Activation::GeluTanh)]
    {
        case(name).agrees(&["gate", "up"], |a| gated(&a[0], &a[1], activation));
    }
    let ids = case("embedding").tensor("ids");
    case("embedding").agrees(&["table"], |a| embedding(&a[0], &ids));
    let (ids, places) = (case("bert_embedding").tensor("ids"), case("bert_embedding").tensor("places"));
    case("bert_embedding")
        .agrees(&["word", "position", "segment"], |a| bert_embedding(&a[0], &a[1], &a[2], &ids, &places));
    for (name, cap) in [("linear_log_prob", None), ("linear_log_prob_capped", Some(3.0))] {
        let targets = case(name).tensor("targets");
        case(name).agrees(&["x", "weight"], |a| linear_log_prob(&a[0], &a[1], &targets, cap));
    }
    for (name, how) in [
        ("pool_mean", Pool::Mean),
        ("pool_mean_sqrt_length", Pool::MeanSqrtLength),
        ("pool_weighted_mean", Pool::WeightedMean),
        ("pool_max", Pool::Max),
        ("pool_first", Pool::First),
        ("pool_last", Pool::Last),
    ] {
        case(name).agrees(&["x"], |a| pool(&a[0], &Spans::of_lengths(&[4, 1, 7]), how));
    }
}

#[test]
fn gradients_that_round_away_beside_others_count_as_none_and_small_ones_by_themselves_do_not() {
    let (x, weight) = (noise(1, &[3, 5]), noise(2, &[7, 5]));
    let gradient = |dy: [f32; 3]| {
        let x = Var::from_tensor(&x).unwrap();
        let y = linear_log_prob(&x, &weight, &Tensor::new(&[1u32, 4, 6], &Device::Cpu).unwrap(), None).unwrap();
        let dy = Tensor::new(&dy, &Device::Cpu).unwrap();
        let grads = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
        grads.get(&x).unwrap().to_vec2::<f32>().unwrap()
    };
    let (whole, mixed, tiny) =
        (gradient([1.0, 1.0, 1.0]), gradient([1.0, 1e-13, 1e-9]), gradient([1e-20, 1e-21, 1e-31]));
    assert_eq!(mixed[0], whole[0]);
    assert_eq!(mixed[1], [0.0; 5], "below a billionth of a thousandth of the first");
    for (of, row, scale) in [(&mixed, 2, 1e-9), (&tiny, 0, 1e-20), (&tiny, 1, 1e-21), (&tiny, 2, 1e-31)] {
        for (found, one) in of[row].iter().zip(&whole[row]) {
            assert!((found / scale - one).abs() <= 1e-5 * one.abs().max(1e-3), "{found} for {one} times {scale}");
        }
    }
}

#[test]
pub(super) fn rotary_embedding_equals_pytorch_for_whole_and_part_of_a_head() {
    let all = golden();
    for (name, heads) in [("rope", 3), ("rope_part", 2)] {
        let case = Case { all: &all, name };
        let (cos, sin) = (case.tensor("cos"), case.tensor("sin"));
        case.agrees(&["x"], |a| rope_packed(&a[0], heads, &cos, &sin));
    }
}

#[test]
pub(super) fn attention_equals_pytorch_under_every_mask() {
    let all = golden();
    let scale = 1.0 / 6f64.sqrt();
    let whole =
        |lengths: &[usize], heads, key_heads| Attend::within(&Spans::of_lengths(lengths), heads, key_heads, scale);
    let cached = vec![Piece { queries: 0..3, keys: 1..6 }, Piece { queries: 4..5, keys: 6..9 }];
    for (name, how) in [
        ("attention_plain", whole(&[7, 3], 3, 3)),
        ("attention_causal", Attend { causal: true, ..whole(&[7, 1, 4], 4, 2) }),
        ("attention_cached", Attend { causal: true, pieces: cached, ..whole(&[], 2, 1) }),
        ("attention_window", Attend { window: Some(2), ..whole(&[9, 4], 2, 2) }),
        ("attention_sliding", Attend { causal: true, window: Some(3), soft_cap: Some(2.0), ..whole(&[9, 4], 4, 1) }),
        ("attention_blocks", Attend { causal: true, window: Some(70), scale: 0.3, ..whole(&[150, 20], 2, 1) }),
    ] {
        let case = Case { all: &all, name };
        case.agrees(&["q", "k", "v"], |a| attention(&a[0], &a[1], &a[2], &how));
        // Parts of a wider matrix are read in place.
        case.agrees_as_a_whole(&["q", "k", "v"], &|a: &[Tensor]| {
            let (q, k) = (a[0].dims()[1], a[1].dims()[1]);
            let (rows, keys) = (a[0].dims()[0], a[1].dims()[0]);
            if rows != keys {
                return attention(&a[0], &a[1], &a[2], &how);
            }
            let all = Tensor::cat(&[&a[0], &a[1], &a[2]], 1)?;
            attention(&all.narrow(1, 0, q)?, &all.narrow(1, q, k)?, &all.narrow(1, q + k, k)?, &how)
        });
    }
    let case = Case { all: &all, name: "attention_biased" };
    let how = whole(&[7, 3], 2, 2);
    // Keys and values go in as one tensor, so that a frozen one of the two has its gradient computed all the same.
    case.agrees_as_a_whole(&["q", "k", "v", "bias"], &|a: &[Tensor]| {
        attention_biased(&a[0], &a[1], &a[2], &a[3], &how)
    });
}

/// The masks of fixtures/golden/dropout.py, which hashes by itself.
#[test]
fn dropout_equals_pytorch_with_the_same_masks() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/dropout.safetensors");
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let case = |name| Case { all: &all, name };
    let rows = |lengths: &[(u64, u64)]| -> std::sync::Arc<[u64]> {
        lengths.iter().flat_map(|&(sequence, length)| (0..length).map(move |at| (sequence << 32) | at)).collect()
    };
    let some = Dropout::new(0.3, (1 << 63) + 5, rows(&[(0, 5), (3, 4)])).unwrap();
    case("dropout").agrees(&["x"], |a| dropout(&a[0], &some));
    // Of any rank: rows are rows.
    let cube = |x: &Tensor| x.reshape((3, 3, 37));
    let flat = |x: Tensor| x.reshape((9, 37));
    case("dropout").agrees(&["x"], |a| Ok(flat(dropout(&cube(&a[0])?, &some)?)?));

    let scale = 1.0 / 6f64.sqrt();
    let attend = |lengths: &[usize], heads, key_heads, key, rate| {
        let numbered: Vec<(u64, u64)> = lengths.iter().enumerate().map(|(i, &n)| (i as u64, n as u64)).collect();
        let dropout = Dropout::new(rate, key, rows(&numbered)).unwrap();
        Attend { dropout: Some(dropout), ..Attend::within(&Spans::of_lengths(lengths), heads, key_heads, scale) }
    };
    let sliding = attend(&[9, 4], 4, 1, 8, 0.4);
    for (name, how) in [
        ("dropped_plain", attend(&[7, 3], 3, 3, 7, 0.25)),
        ("dropped_sliding", Attend { causal: true, window: Some(3), soft_cap: Some(2.0), ..sliding }),
        ("dropped_blocks", Attend { causal: true, window: Some(70), scale: 0.3, ..attend(&[150, 20], 2, 1, 9, 0.1) }),
    ] {
        case(name).agrees(&["q", "k", "v"], |a| attention(&a[0], &a[1], &a[2], &how));
    }
    let how = attend(&[7, 3], 2, 2, 10, 0.3);
    case("dropped_biased").agrees_as_a_whole(&["q", "k", "v", "bias"], &|a: &[Tensor]| {
        attention_biased(&a[0], &a[1], &a[2], &a[3], &how)
    });
    // A sequence by itself drops what it drops among others, when it keeps its number.
    let (q, k, v) = (noise(1, &[10, 18]), noise(2, &[10, 18]), noise(3, &[10, 18]));
    let whole = attention(&q, &k, &v, &attend(&[7, 3], 3, 3, 7, 0.25)).unwrap();
    let dropout = Some(Dropout::new(0.25, 7, rows(&[(1, 3)])).unwrap());
    let alone = Attend { dropout, ..Attend::within(&Spans::of_lengths(&[3]), 3, 3, scale) };
    let [q, k, v] = [q, k, v].map(|x| x.narrow(0, 7, 3).unwrap());
    assert_close("alone", &attention(&q, &k, &v, &alone).unwrap(), &whole.narrow(0, 7, 3).unwrap(), 1e-6);
    let error = attention(&q, &k, &v, &attend(&[2], 3, 3, 7, 0.25)).unwrap_err();
    assert!(error.to_string().contains("2 rows, expected 3"), "{error}");

    let adapter = case("dropped_adapter");
    let (weight, bias) = (adapter.tensor("weight"), adapter.tensor("bias"));
    let dropped = Dropout::new(0.35, 11, rows(&[(0, 5), (3, 4)])).unwrap();
    let adapted = |a: &[Tensor], dropout: &Dropout| {
        adapted_linear(&a[0], &Base::Dense(weight.clone()), Some(&bias), &a[1], &a[2], 0.5, Some(dropout))
    };
    adapter.agrees(&["x", "a", "b"], |a| adapted(a, &dropped));
    let tensors = ["x", "a", "b"].map(|name| adapter.tensor(name));
    let error = adapted(&tensors, &dropped.of_rows(&[1, 2])).unwrap_err();
    assert!(error.to_string().contains("2 rows of 32"), "{error}");
}

#[test]
pub(super) fn keys_that_pieces_share_are_read_but_get_no_gradient() {
    let x = Var::from_tensor(&noise(9, &[4, 6])).unwrap();
    let pieces = vec![Piece { queries: 0..1, keys: 0..3 }, Piece { queries: 1..2, keys: 0..3 }];
    let how = Attend { pieces, ..Attend::within(&Spans::of_lengths(&[]), 2, 2, 1.0) };
    let q = Var::from_tensor(&noise(8, &[2, 6])).unwrap();
    let read = attention(&q, &x.as_detached_tensor(), &x.as_detached_tensor(), &how).unwrap();
    assert!(read.sum_all().unwrap().backward().unwrap().get(&q).is_some());
    let error = attention(&q, &x, &x, &how).unwrap().sum_all().unwrap().backward().unwrap_err();
    assert!(error.to_string().contains("share keys"), "{error}");
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
        let y = layer_norm(&x, &weight, Some(&bias), 1e-5).unwrap();
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
pub(super) fn infinite_logits_give_probability_nought_and_not_nan() {
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
pub(super) fn what_cannot_be_computed_is_refused_by_name() {
    let device = Device::Cpu;
    let f32s = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).unwrap();
    let refused = |result: Result<Tensor>, part: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part), "`{message}` should say `{part}`");
    };
    refused(activate(&Tensor::zeros(3, DType::F64, &device).unwrap(), Activation::Gelu), "F64");
    refused(linear(&f32s(&[2, 3]), &f32s(&[4, 5]), None), "[2, 3]");
    refused(linear(&f32s(&[2, 5]), &f32s(&[4, 5]), Some(&f32s(&[3]))), "(4)");
    refused(layer_norm(&f32s(&[2, 3]), &f32s(&[4]), Some(&f32s(&[3])), 1e-5), "weight");
    let ids = Tensor::new(&[[0u32, 9]], &device).unwrap();
    refused(embedding(&f32s(&[9, 2]), &ids), "`9`");
    refused(log_prob_of(&f32s(&[2, 9]), &ids.flatten_all().unwrap()), "`9`");
    let how = |lengths: &[usize]| Attend::within(&Spans::of_lengths(lengths), 2, 2, 1.0);
    let q = f32s(&[5, 8]);
    refused(attention(&q, &q, &q, &how(&[4, 2])), "4..6");
    refused(attention(&q, &q, &q, &how(&[5, 0])), "5..5");
    refused(attention(&q, &f32s(&[5, 6]), &f32s(&[5, 6]), &how(&[5])), "belong together");
    refused(attention_biased(&q, &q, &q, &f32s(&[2, 4, 4]), &how(&[5])), "at least 5");
    refused(rope_packed(&f32s(&[2, 6]), 2, &f32s(&[2, 2]), &f32s(&[2, 2])), "at most 1");
    refused(pool(&f32s(&[2, 3]), &Spans::of_lengths(&[3]), Pool::Mean), "(3, width)");
    refused(linear_log_prob(&q, &f32s(&[9, 8]), &Tensor::new(&[9u32; 5], &device).unwrap(), None), "`9`");
}

/// Φ by its power series about 0 in f64: Σ (−1)ⁿ x^(2n+1) / (2ⁿ n! (2n+1)), good to |x| < 6.
fn distribution(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / (2.0 * f64::from(n));
        sum += term / f64::from(2 * n + 1);
    }
    0.5 + sum / (2.0 * std::f64::consts::PI).sqrt()
}

#[test]
fn gelu_stays_within_two_ten_millionths() {
    let x: Vec<f32> = (-55_000..=55_000).map(|i| i as f32 * 1e-4).collect();
    let tensor = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
    let alone = activate(&tensor, Activation::Gelu).unwrap();
    // The formula behind gates and gradients, which is also what processors without AVX-512 take.
    let gate = gated(&tensor, &tensor.ones_like().unwrap(), Activation::Gelu).unwrap();
    for y in [alone, gate] {
        for (&x, y) in x.iter().zip(y.to_vec1::<f32>().unwrap()) {
            let exact = f64::from(x) * distribution(f64::from(x));
            let error = (f64::from(y) - exact).abs();
            // At most 10⁻⁷ from Φ, the rest from rounding the result, whose last place is worth 1.2 · 10⁻⁷ beside 1.
            assert!(error < 2e-7 * f64::from(x.abs().max(1.0)), "gelu({x}) = {y}, exactly {exact}");
        }
    }
}

#[test]
fn gelu_far_out_and_of_no_number() {
    let x = [-1e30f32, -6.0, -5.999, -0.0, 0.0, 5.999, 6.0, 1e30, f32::NAN, 1.0, -1.0, f32::INFINITY];
    // Every number stands once in a whole register and once in what is left over.
    let twice: Vec<f32> = x.iter().chain(&x).copied().collect();
    let y = activate(&Tensor::new(twice.as_slice(), &Device::Cpu).unwrap(), Activation::Gelu).unwrap();
    let y = y.to_vec1::<f32>().unwrap();
    for (i, (&x, &y)) in twice.iter().zip(&y).enumerate() {
        match x {
            _ if x.is_nan() => assert!(y.is_nan()),
            // The next layer would make NaN of infinity in any case.
            _ if x.is_infinite() => assert!(!y.is_finite()),
            _ if x > 5.0 => assert_eq!(y, x),
            _ if x < -5.0 => assert!((-1e-7..=0.0).contains(&y), "gelu({x}) = {y}"),
            // The bound of the test above: the formula of processors without AVX-512 uses more of it than the table of the others.
            _ => assert!((f64::from(y) - f64::from(x) * distribution(f64::from(x))).abs() < 2e-7, "gelu({x}) = {y}"),
        }
        assert_eq!(
            y.to_bits(),
            activate(&Tensor::new(&[x], &Device::Cpu).unwrap(), Activation::Gelu).unwrap().to_vec1::<f32>().unwrap()[0]
                .to_bits(),
            "number {i} alone"
        );
    }
}
