use candle_core::{Device, Var};

use super::*;

fn drawn(log_likelihood: f64, count: u32) -> Drawn {
    Drawn {
        list: vec![count],
        count,
        log_prob: -1.0,
        log_free: None,
        log_proposal: -1.0,
        log_likelihood,
        answer_tokens: 4,
    }
}

fn weights(weighting: Weighting, lists: &[Drawn]) -> Vec<f64> {
    let weights = weighting.weights(lists, Scoring::Trie).unwrap();
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    weights
}

fn close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-9, "{got} {expected}");
    }
}

#[test]
fn one_list_weighs_one_and_equal_lists_weigh_the_same() {
    // STRATEGIES oracle 9.12.
    for reward in [0.0, -3.0, -900.0] {
        close(&weights(Weighting::default(), &[drawn(reward, 1)]), &[1.0]);
        close(&weights(Weighting::default(), &[drawn(reward, 1), drawn(reward, 1), drawn(reward, 1)]), &[1.0 / 3.0; 3]);
    }
}

#[test]
fn hand_computed_weights() {
    // Likelihoods 0.6, 0.3 and 0.1, the first drawn twice: 1.2, 0.3, 0.1 of 1.6.
    let logs = [0.6f64, 0.3, 0.1].map(f64::ln);
    let lists = [drawn(logs[0], 2), drawn(logs[1], 1), drawn(logs[2], 1)];
    let plain = Weighting::default();
    close(&weights(plain, &lists), &[0.75, 0.1875, 0.0625]);
    close(&weights(Weighting { distinct: true, ..plain }, &lists), &[0.6, 0.3, 0.1]);
    // Means of four tokens: fourth roots.
    let roots = [0.6f64, 0.3, 0.1].map(|p| p.powf(0.25));
    let sum: f64 = roots.iter().sum();
    let mean = Weighting { length: Length::Mean, distinct: true, ..plain };
    close(&weights(mean, &lists), &roots.map(|root| root / sum));
    // Drawn half and twice as often as the selector itself would: 1.2 · 2, 0.3 / 2, 0.1.
    let mut tempered = lists.clone();
    tempered[0].log_proposal -= 2f64.ln();
    tempered[1].log_proposal += 2f64.ln();
    close(&weights(plain, &tempered), &[2.4 / 2.65, 0.15 / 2.65, 0.1 / 2.65]);
    close(&weights(Weighting { correction: false, ..plain }, &tempered), &[0.75, 0.1875, 0.0625]);
    // The mean of the four weights is 0.4: at most 0.5, then 1.0, 0.3, 0.1 of 1.4.
    let clipped = Weighting { clip: Some(1.25), ..plain };
    close(&weights(clipped, &lists), &[1.0 / 1.4, 0.3 / 1.4, 0.1 / 1.4]);
    // A clip at the mean is not yet uniform; one that nothing reaches changes nothing.
    close(&weights(Weighting { clip: Some(2.0), ..plain }, &lists), &[0.75, 0.1875, 0.0625]);
}

/// By free text a list may be less likely than by the trie it was drawn from: the weight is what is learnt.
#[test]
fn weights_are_by_the_probability_that_is_learnt() {
    let free = |log_free: f64| Drawn { log_free: Some(-1.0 + log_free), ..drawn(0.0, 1) };
    let lists = [free(0.0), free(-(4f64.ln()))];
    let plain = Weighting::default();
    close(&plain.weights(&lists, Scoring::Free).unwrap(), &[0.8, 0.2]);
    close(&plain.weights(&lists, Scoring::Trie).unwrap(), &[0.5, 0.5]);
    close(&Weighting { correction: false, ..plain }.weights(&lists, Scoring::Free).unwrap(), &[0.5, 0.5]);
    // A probability that nobody looked up is not made up.
    assert!(
        plain.weights(&[drawn(0.0, 1)], Scoring::Free).unwrap_err().to_string().contains("was not scored by `free`")
    );
    let told = Dro { scoring: Scoring::Free, ..Dro::default() }.settings();
    assert!(told.contains(&("corrected for the proposal", "yes, with p(z|x) as free text".to_owned())));
}

#[test]
fn likelihoods_of_any_size_and_no_number_at_all() {
    close(&weights(Weighting::default(), &[drawn(-5000.0, 1), drawn(-5000.0 + 2f64.ln(), 1)]), &[1.0 / 3.0, 2.0 / 3.0]);
    for bad in [f64::NAN, f64::NEG_INFINITY] {
        assert!(Weighting::default().weights(&[drawn(-1.0, 1), drawn(bad, 1)], Scoring::Trie).is_err());
    }
    for clip in [0.5, f64::NAN, f64::INFINITY] {
        assert!(
            Weighting { clip: Some(clip), ..Weighting::default() }.weights(&[drawn(-1.0, 1)], Scoring::Trie).is_err()
        );
    }
}

#[test]
fn the_gradient_of_a_log_probability_is_its_weight() {
    let log_probs = Var::new(&[-1f32, -2.0, -3.0], &Device::Cpu).unwrap();
    let loss = weighted_loss(&log_probs, &[0.25, 0.75, 1.0], 2).unwrap();
    assert!((loss.to_scalar::<f32>().unwrap() - 2.375).abs() < 1e-6);
    let gradient = loss.backward().unwrap().get(&log_probs).unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(gradient, [-0.125, -0.375, -0.5]);
}

/// On-policy and with one list, the expected gradient of the selector is Σ_z p(z) ∇ log p(z) = 0 whatever the rewards; with
/// more lists it is not: why m = 1 is refused.
#[test]
fn one_list_teaches_nothing_in_expectation() {
    let (p, reward) = ([0.5f64, 0.3, 0.2], [-0.1f64, -2.0, -5.0]);
    // d log p(z) / d logit_j = [z = j] - p_j.
    let score = |z: usize, j: usize| f64::from(u8::from(z == j)) - p[j];
    let one: f64 = (0..3).map(|z| p[z] * score(z, 0)).sum();
    assert!(one.abs() < 1e-12);
    let mut two = 0.0;
    for a in 0..3 {
        for b in 0..3 {
            let w = normalised(&[reward[a], reward[b]], &[1.0, 1.0], None);
            two += p[a] * p[b] * (w[0] * score(a, 0) + w[1] * score(b, 0));
        }
    }
    assert!(two > 0.1, "{two}");
}

#[test]
fn settings_and_needs_are_told() {
    let dro = Dro { mode: Mode::Selector, ..Dro::default() };
    assert!(dro.settings().contains(&("mode", "selector".to_owned())));
    assert!(dro.needs().moves_selector && !dro.needs().moves_generator && dro.needs().answers);
    assert!(Dro { mode: Mode::Generator, ..dro }.needs().moves_generator);
    let taught = |teacher| SelectorSft { teacher, scoring: Scoring::Free }.needs().labels();
    assert_eq!((taught(Teacher::GoldFirst), taught(Teacher::Likelihood)), (vec!["gold passages"], vec!["answers"]));
}

#[test]
fn what_an_e_step_is_worth_telling() {
    let selection = |lists: Vec<Drawn>| Selection { question: "q".into(), candidates: vec![0, 1], lists };
    let (even, sure) = (vec![drawn(-1.0, 1), drawn(-1.0, 1)], vec![drawn(-1.0, 3), drawn(-2000.0, 1)]);
    let measured = Dro::default().measure(&[selection(even), selection(sure)]).unwrap();
    let expected = [
        ("answer_log_likelihood", (-1.0 - 2003.0 / 4.0) / 2.0),
        ("distinct_lists", 2.0),
        ("effective_samples", 1.5),
        ("no_signal", 0.5),
        ("weight_entropy", 2f64.ln() / 2.0),
    ];
    assert_eq!(measured.len(), expected.len());
    for (name, value) in expected {
        assert!((measured[name] - value).abs() < 1e-9, "{name}: {}", measured[name]);
    }
}
