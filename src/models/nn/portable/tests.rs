//! The portable layers on the CPU: against PyTorch, by the very tests of the fused ones, and against those in sizes where
//! pieces make several groups.

use candle_core::{DType, Tensor, Var};

use super::output::by_chunks;
use super::portably;
use crate::error::Result;
use crate::models::batch::Spans;
use crate::models::nn::testing::{noise, norm};
use crate::models::nn::{self, Attend, Base, Format, Piece, Quantised, tests};

#[test]
fn every_layer_and_its_gradients_equal_pytorch() {
    portably(|| {
        assert!(forced());
        tests::every_layer_and_its_gradients_equal_pytorch();
        tests::rotary_embedding_equals_pytorch_for_whole_and_part_of_a_head();
        tests::attention_equals_pytorch_under_every_mask();
        tests::keys_that_pieces_share_are_read_but_get_no_gradient();
        tests::infinite_logits_give_probability_nought_and_not_nan();
        tests::what_cannot_be_computed_is_refused_by_name();
    });
    assert!(!forced());
}

/// Whether this thread is inside [`portably`].
fn forced() -> bool {
    super::FORCED.get()
}

fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&noise(seed, shape)).unwrap()
}

/// Result and every gradient of `layer` both ways: to 10⁻⁵ and, relative to their size, to 10⁻⁴.
fn agree(what: &str, arguments: &[Var], layer: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let tensors: Vec<Tensor> = arguments.iter().map(|argument| argument.as_tensor().clone()).collect();
    let run = || {
        let y = layer(&tensors).unwrap();
        let weights = noise(99, y.dims());
        let gradients = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let of = |argument: &Var| gradients.get(argument).unwrap().clone();
        (y, arguments.iter().map(of).collect::<Vec<Tensor>>())
    };
    let ((want, want_gradients), (got, got_gradients)) = (run(), portably(run));
    assert_eq!(got.dims(), want.dims(), "{what}");
    let worst = (&got - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let largest = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst <= 1e-5 * largest.max(1.0), "{what}: {worst} of {largest}");
    for (at, (got, want)) in got_gradients.iter().zip(&want_gradients).enumerate() {
        let error = norm(&(got - want).unwrap());
        assert!(error <= 1e-4 * norm(want) + 1e-7, "{what}, gradient {at}: {error} of {}", norm(want));
    }
}

#[test]
fn attention_over_groups_of_many_lengths_is_the_fused_one() {
    let lengths = [3usize, 150, 40, 12, 38, 1, 90];
    let spans = Spans::of_lengths(&lengths);
    let arguments = |heads: usize, key_heads: usize| {
        let (rows, width) = (spans.tokens() + 2, 8);
        [var(1, &[rows, heads * width]), var(2, &[rows, key_heads * width]), var(3, &[rows, key_heads * width])]
    };
    for (what, causal, window, soft_cap, heads, key_heads) in [
        ("plain", false, None, None, 2, 2),
        ("causal", true, None, None, 4, 2),
        ("window", false, Some(5), None, 4, 1),
        ("causal window, capped", true, Some(20), Some(1.5), 2, 1),
    ] {
        let how = Attend { causal, window, soft_cap, ..Attend::within(&spans, heads, key_heads, 0.4) };
        agree(what, &arguments(heads, key_heads), |a| nn::attention(&a[0], &a[1], &a[2], &how));
    }
    // Fewer queries than keys, the other way round (the first queries see nothing), and keys of no piece.
    let pieces = vec![
        Piece { queries: 0..4, keys: 0..30 },
        Piece { queries: 4..10, keys: 30..33 },
        Piece { queries: 12..13, keys: 40..80 },
    ];
    let how = Attend { pieces, causal: true, ..Attend::within(&Spans::of_lengths(&[]), 2, 1, 0.7) };
    let few = [var(4, &[14, 16]), var(5, &[90, 8]), var(6, &[90, 8])];
    agree("pieces", &few, |a| nn::attention(&a[0], &a[1], &a[2], &how));
    let how = Attend::within(&spans, 3, 3, 0.4);
    let [q, k, v] = [7, 8, 9].map(|seed| var(seed, &[spans.tokens(), 12]));
    agree("biased", &[q, k, v, var(10, &[3, 160, 160])], |a| nn::attention_biased(&a[0], &a[1], &a[2], &a[3], &how));
}

#[test]
fn layers_over_many_rows_are_the_fused_ones() {
    let x = || var(1, &[7, 30, 64]);
    agree("layer_norm", &[x(), var(2, &[64]), var(3, &[64])], |a| nn::layer_norm(&a[0], &a[1], Some(&a[2]), 1e-5));
    agree("rms_norm", &[x(), var(2, &[64])], |a| nn::rms_norm(&a[0], &a[1], 1e-6));
    agree("linear", &[x(), var(2, &[20, 64]), var(3, &[20])], |a| nn::linear(&a[0], &a[1], Some(&a[2])));
    let added = [x(), var(2, &[20, 64]), var(3, &[20]), var(4, &[7, 30, 20])];
    agree("linear_then", &added, |a| nn::linear_then(&a[0], &a[1], Some(&a[2]), nn::Then::Add(&a[3])));
    let [x0, weight, bias, other] = added.map(|var| var.as_detached_tensor());
    for then in [nn::Then::Activate(nn::Activation::Gelu), nn::Then::Add(&other)] {
        let run = || nn::DenseMatrix::new(&weight, Some(&bias)).unwrap().forward(&x0, Some(then)).unwrap();
        let (want, got) = (run(), portably(run));
        assert!(norm(&(got - &want).unwrap()) <= 1e-6 * norm(&want), "{then:?}");
        let layers = portably(|| nn::linear_then(&x0, &weight, Some(&bias), then)).unwrap();
        assert!(norm(&(layers - &want).unwrap()) <= 1e-6 * norm(&want), "{then:?}");
    }
    agree("l2_normalize", &[x()], |a| nn::l2_normalize(&a[0], 1e-12));
    let shorter = Var::from_tensor(&(noise(1, &[4, 8]) * 1e-3).unwrap()).unwrap();
    agree("l2_normalize below eps", &[shorter], |a| nn::l2_normalize(&a[0], 1.0));
    let targets = Tensor::arange(0u32, 33, x().device()).unwrap();
    for cap in [None, Some(2.0)] {
        let arguments = [var(4, &[33, 16]), var(5, &[50, 16])];
        agree("linear_log_prob", &arguments, |a| nn::linear_log_prob(&a[0], &a[1], &targets, cap));
        // The same in chunks of four rows, the last of one.
        agree("linear_log_prob in chunks", &arguments, |a| match forced() {
            true => Ok(by_chunks(&a[0], &a[1], &targets, cap, 200)?),
            false => nn::linear_log_prob(&a[0], &a[1], &targets, cap),
        });
    }
}

#[test]
fn matrices_in_fewer_bits_are_multiplied_as_on_the_cpu() {
    let (weight, bias) = (noise(1, &[24, 256]), noise(2, &[24]));
    let x = var(3, &[2, 9, 256]);
    for format in Format::ALL {
        let (packed, portable) =
            (Quantised::new(&weight, format).unwrap(), portably(|| Quantised::new(&weight, format).unwrap()));
        let name = format.name();
        assert_eq!(norm(&(packed.dequantise().unwrap() - portable.dequantise().unwrap()).unwrap()), 0.0, "{name}");
        let bytes = |it: &Quantised| {
            let mut all = Vec::new();
            it.visit_bytes(|bytes| all.extend_from_slice(bytes)).unwrap();
            all
        };
        assert_eq!(bytes(&packed), bytes(&portable), "{name}: one digest on every device");
        if format == Format::Bf16 {
            // Results are rounded to bf16 too: 2⁻⁸ of each.
            let (want, got) = (packed.forward(&x, None).unwrap(), portable.forward(&x, None).unwrap());
            assert!(norm(&(got - &want).unwrap()) < 4e-3 * norm(&want));
            assert_eq!(portable.bytes(), 2 * 24 * 256, "kept once, not for each direction");
            continue;
        }
        assert_eq!(packed.bytes(), portable.bytes(), "{name}");
        let chosen = || if forced() { portable.clone() } else { packed.clone() };
        agree(name, std::slice::from_ref(&x), |a| chosen().forward(&a[0], Some(&bias)));
        agree(name, &[x.clone(), var(4, &[3, 256]), var(5, &[24, 3])], |a| {
            nn::adapted_linear(&a[0], &Base::Quantised(chosen()), Some(&bias), &a[1], &a[2], 0.5, None)
        });
    }
    agree("dense", &[x, var(4, &[3, 256]), var(5, &[24, 3])], |a| {
        nn::adapted_linear(&a[0], &Base::Dense(weight.clone()), Some(&bias), &a[1], &a[2], 0.5, None)
    });
}

#[test]
fn a_graft_hands_each_argument_its_own_gradient() {
    for count in 1..=5 {
        let arguments: Vec<Var> = (0..count).map(|seed| var(seed as u64, &[2, 3])).collect();
        for free in 0..count {
            let of = |at: usize| match at == free {
                true => arguments[at].as_tensor().clone(),
                false => arguments[at].as_detached_tensor(),
            };
            let tensors: Vec<Tensor> = (0..count).map(of).collect();
            let result = Tensor::ones((4, 2), DType::F32, tensors[0].device()).unwrap().narrow(0, 1, 2).unwrap();
            let backward = move |dy: &Tensor| {
                assert_eq!(dy.dims(), [2, 2]);
                let of = |at: usize| Tensor::full(at as f32 + 1.0, (2, 3), dy.device());
                (0..count).map(|at| if at == free { of(at).map(Some) } else { Ok(None) }).collect()
            };
            let y = super::graft(&tensors.iter().collect::<Vec<_>>(), result, backward).unwrap();
            assert_eq!(y.to_vec2::<f32>().unwrap(), [[1.0; 2]; 2]);
            let gradients = y.sum_all().unwrap().backward().unwrap();
            for (at, argument) in arguments.iter().enumerate() {
                let found = gradients.get(argument).map(|found| found.to_vec2::<f32>().unwrap());
                assert_eq!(found, (at == free).then(|| vec![vec![at as f32 + 1.0; 3]; 2]), "{at} of {count}");
            }
        }
    }
}
