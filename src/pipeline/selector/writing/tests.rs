use super::*;

fn counts(log_probs: &[f64], sampling: Sampling, draws: usize) -> (Vec<usize>, Vec<f64>) {
    let mut random = SampleKey { seed: 5, step: 0 }.generator("q", 0);
    let (mut counts, mut logs) = (vec![0; log_probs.len()], vec![f64::NEG_INFINITY; log_probs.len()]);
    for _ in 0..draws {
        let (taken, log_proposal) = draw(log_probs, sampling, &mut random);
        counts[taken] += 1;
        logs[taken] = log_proposal;
    }
    (counts, logs)
}

#[test]
fn draws_follow_the_tempered_nucleus_and_say_how_likely_they_were() {
    let log_probs: Vec<f64> = [0.5f64, 0.2, 0.2, 0.1].iter().map(|p| p.ln()).collect();
    for (temperature, top_p) in [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8), (2.0, 0.75), (1.0, 1e-9)] {
        let tempered: Vec<f64> = log_probs.iter().map(|log| (log / temperature).exp()).collect();
        let sum: f64 = tempered.iter().sum();
        let tempered: Vec<f64> = tempered.iter().map(|p| p / sum).collect();
        // Entries are in descending order already.
        let mut reached = 0.0;
        let kept: Vec<f64> = tempered
            .iter()
            .map(|&p| {
                let keep = reached < top_p;
                reached += p;
                if keep { p } else { 0.0 }
            })
            .collect();
        let sum: f64 = kept.iter().sum();
        let draws = 20_000;
        let (counts, logs) = counts(&log_probs, Sampling { temperature, top_p }, draws);
        for ((count, log), expected) in counts.iter().zip(logs).zip(kept.iter().map(|p| p / sum)) {
            let share = *count as f64 / draws as f64;
            // Four standard errors.
            let tolerance = 4.0 * (expected * (1.0 - expected) / draws as f64).sqrt();
            assert!((share - expected).abs() <= tolerance, "{temperature} {top_p}: {share} {expected}");
            if *count > 0 {
                assert!((log.exp() - expected).abs() < 1e-12, "{temperature} {top_p}");
            }
        }
    }
}

#[test]
fn randomness_depends_on_seed_step_question_and_number_alone() {
    let first = |key: SampleKey, question: &str, sample: usize| key.generator(question, sample).next_u64();
    let key = SampleKey { seed: 1, step: 2 };
    assert_eq!(first(key, "q", 0), first(key, "q", 0));
    let others = [
        first(SampleKey { seed: 2, step: 2 }, "q", 0),
        first(SampleKey { seed: 1, step: 3 }, "q", 0),
        first(key, "r", 0),
        first(key, "q", 1),
    ];
    assert!(others.iter().all(|other| *other != first(key, "q", 0)), "{others:?}");
}

#[test]
fn what_is_no_distribution_is_refused() {
    for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, 1.5), (1.0, f64::NAN)] {
        assert!(Sampling { temperature, top_p }.check().is_err(), "{temperature} {top_p}");
    }
    assert!(Sampling::default().check().is_ok());
    assert!(among(&[f32::NAN, 0.0], &[3, 9], &[3, 9]).is_err());
    assert!(among(&[0.0, 0.0], &[3, 9], &[3, 4]).is_err());
}
