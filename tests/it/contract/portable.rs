//! The same contract where models compute as on another device than the CPU, and runs beside those of the CPU.

use ragtune::models::nn;
use ragtune::report::record::CurvePoint;

use super::*;

/// Of all models.
const RATE: f64 = 1e-5;

#[test]
fn gradients_reach_the_same_parts() {
    nn::portably(gradients_reach_exactly_the_parts_that_a_stage_names);
}

/// Whole runs: steps, refreshes, evaluations and checkpoints give what the CPU's layers give, up to rounding.
#[test]
fn every_strategy_trains_alike() {
    // A form is another equation over the same layers.
    for case in cases().into_iter().filter(|case| case.form == Form::Usual) {
        let folder = folder();
        let index = index_copy(folder.path());
        // A first update is as large as the learning rate however small its gradient is: rounding decides which way it goes
        // where there is next to none, so that it must not be large.
        let rate = Some(RATE);
        let args = |name: &str| {
            let args = args(&case, &index, &folder.path().join(name));
            TrainArgs { lr_encoder: rate, lr_generator: rate, lr_selector: rate, ..args }
        };
        let fused = run(&args("fused"), |_, _| {});
        let portable = nn::portably(|| run(&args("portable"), |_, _| {}));
        let numbers = |left: &Left| -> Vec<(String, f64)> {
            let of = |line: &str| {
                let point: CurvePoint = serde_json::from_str(line).unwrap();
                let norms = point.gradient_norms.into_iter();
                std::iter::once(("loss".to_owned(), point.loss)).chain(norms).collect::<Vec<_>>()
            };
            left.metrics.lines().flat_map(of).collect()
        };
        let (want, got) = (numbers(&fused), numbers(&portable));
        assert_eq!(want.len(), got.len(), "{case:?}");
        for ((name, want), (_, got)) in want.iter().zip(&got) {
            assert!((want - got).abs() <= 1e-3 * want.abs().max(1e-3), "{case:?}: {name} {got}, on the CPU {want}");
        }
        assert_eq!(fused.vectors.len(), portable.vectors.len(), "{case:?}");
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        let off = distance(&fused.vectors, &portable.vectors);
        assert!(off <= 1e-3, "{case:?}: vectors differ by {off}");
        for ([_, want], [_, got]) in [
            (&fused.encoder, &portable.encoder),
            (&fused.generator, &portable.generator),
            (&fused.selector, &portable.selector),
        ] {
            for (name, want) in want {
                let off = distance(want, &got[name]);
                assert!(off <= 5.0 * RATE as f32, "{case:?}: `{name}` differs by {off}");
            }
        }
    }
}
