//! STRATEGIES oracle 9.12: with every list enumerated, DRO's weighted gradient is that of the marginal likelihood.

use candle_core::Tensor;
use serde::Deserialize;

use super::*;
use crate::models::Grad;
use crate::models::generator::Scored;
use crate::models::generator::golden::*;
use crate::models::nn;
use crate::models::weights::Weights;
use crate::objectives::{Weighting, weighted_loss};

#[derive(Deserialize)]
struct Small {
    prompts: Vec<Vec<u32>>,
    every: Vec<Vec<u32>>,
    answer: Vec<u32>,
    reader: Vec<Vec<u32>>,
}

/// A selector and a generator over the 12 ordered pairs of 4 passages, with PyTorch's marginal log p(y|x) and its gradient.
struct Case {
    selector: Selector,
    generator: Generator,
    input: SelectorInput,
    lists: Vec<Vec<u32>>,
    answers: Vec<Scored>,
    golden: Weights,
}

fn case() -> Case {
    let dir = fixture("dro");
    let small: Small = serde_json::from_str(&std::fs::read_to_string(dir.join("dro.json")).unwrap()).unwrap();
    let answer =
        |prompt: &Vec<u32>| Scored { ids: [prompt.as_slice(), &small.answer].concat(), answer_start: prompt.len() };
    Case {
        selector: Selector::of_generator(&dir, 4, None, &Device::Cpu).unwrap(),
        generator: load(&dir.join("generator")),
        input: SelectorInput { ids: small.prompts[0].clone(), passages: 4, truncated: false },
        answers: small.reader.iter().map(answer).collect(),
        lists: small.every,
        golden: Weights::read_file(&dir.join("dro.safetensors"), &Device::Cpu).unwrap(),
    }
}

impl Case {
    /// log p(z|x) and log p(y|x,d_z) of every list, (12) each, with gradients.
    fn log_probs(&self, scoring: Scoring) -> (Tensor, Tensor) {
        let prior = self.selector.log_probs(&[(&self.input, &self.lists)], scoring, Grad::On).unwrap();
        let (likelihood, _) = self.generator.answer_log_probs(&self.answers, Grad::On).unwrap();
        (prior, likelihood.sum(1).unwrap())
    }

    /// As if every list had been drawn once, each with the same probability.
    fn enumerated(&self) -> Vec<Drawn> {
        let (prior, likelihood) = self.log_probs(Scoring::Trie);
        let free = values(&self.log_probs(Scoring::Free).0);
        let numbers = values(&prior).into_iter().zip(values(&likelihood)).zip(free);
        self.lists
            .iter()
            .zip(numbers)
            .map(|(list, ((prior, likelihood), free))| Drawn {
                list: list.clone(),
                count: 1,
                log_prob: f64::from(prior),
                log_free: Some(f64::from(free)),
                log_proposal: -(12f64.ln()),
                log_likelihood: f64::from(likelihood),
                answer_tokens: 5,
            })
            .collect()
    }

    /// How far the gradients of -Σ wᵢ (log p(zᵢ|x) + log p(y|x,d_zᵢ)) are from `-scale` times those of PyTorch's log p(y|x):
    /// the largest difference of any number, relative to the largest number of its tensor.
    fn error(&mut self, weights: &[f64], scale: f64) -> f32 {
        let (prior, likelihood) = self.log_probs(Scoring::Trie);
        let loss =
            (weighted_loss(&prior, weights, 1).unwrap() + weighted_loss(&likelihood, weights, 1).unwrap()).unwrap();
        let store = loss.backward().unwrap();
        let mut error = 0f32;
        for (part, params) in [("selector", self.selector.generator.params()), ("generator", self.generator.params())] {
            for (name, var) in params.trainable() {
                let exact = self.golden.take(&format!("marginal.{part}.grad.{name}"), var.dims()).unwrap();
                let expected = values(&(exact * -scale).unwrap());
                let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                assert!(largest > 0.0, "{part} {name}");
                for (got, expected) in values(store.get(var).unwrap()).into_iter().zip(expected) {
                    error = error.max((got - expected).abs() / largest);
                }
            }
        }
        error
    }
}

/// Of the largest number of a tensor: sums of f32 over 12 lists, in another order than PyTorch's.
const TOLERANCE: f32 = 5e-4;

#[test]
fn probabilities_of_all_lists_add_up_to_one() {
    let case = case();
    for choose in 1..=4 {
        let mut lists: Vec<Vec<u32>> = vec![Vec::new()];
        for _ in 0..choose {
            let longer = |list: &Vec<u32>| -> Vec<Vec<u32>> {
                let open = (0..4).filter(|passage| !list.contains(passage));
                open.map(|passage| [list.as_slice(), &[passage]].concat()).collect()
            };
            lists = lists.iter().flat_map(longer).collect();
        }
        let log_probs = case.selector.log_probs(&[(&case.input, &lists)], Scoring::Trie, Grad::Off).unwrap();
        let sum: f64 = values(&log_probs).into_iter().map(|log| f64::from(log).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{choose} of 4: {sum}");
    }
}

#[test]
fn normalised_weights_of_all_lists_give_the_gradient_of_the_log_marginal() {
    let mut case = case();
    let weights = Weighting::default().weights(&case.enumerated(), Scoring::Trie).unwrap();
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let error = case.error(&weights, 1.0);
    assert!(error < TOLERANCE, "{error}");
}

/// The same where lists are scored as free text: the exact marginal of the model that is learnt, by automatic differentiation.
#[test]
fn weights_by_free_text_give_the_gradient_of_its_own_log_marginal() {
    let case = case();
    let (prior, likelihood) = case.log_probs(Scoring::Free);
    let exact = nn::log_sum_exp(&(&prior + &likelihood).unwrap().unsqueeze(0).unwrap()).unwrap();
    let exact = exact.sum_all().unwrap().neg().unwrap().backward().unwrap();
    let error = |weights: &[f64]| -> f32 {
        let terms = [&prior, &likelihood].map(|term| weighted_loss(term, weights, 1).unwrap());
        let store = (&terms[0] + &terms[1]).unwrap().backward().unwrap();
        let mut error = 0f32;
        for params in [case.selector.generator.params(), case.generator.params()] {
            for (name, var) in params.trainable() {
                let expected = values(exact.get(var).unwrap());
                let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                assert!(largest > 0.0, "{name}");
                for (got, expected) in values(store.get(var).unwrap()).into_iter().zip(expected) {
                    error = error.max((got - expected).abs() / largest);
                }
            }
        }
        error
    };
    let found = error(&Weighting::default().weights(&case.enumerated(), Scoring::Free).unwrap());
    assert!(found < TOLERANCE, "{found}");
    // The weights of another p(z|x) belong to another marginal.
    let other = error(&Weighting::default().weights(&case.enumerated(), Scoring::Trie).unwrap());
    assert!(other > 100.0 * TOLERANCE, "{other}");
}

#[test]
fn weights_that_are_not_normalised_give_it_times_the_marginal() {
    let mut case = case();
    let marginal = f64::from(values(&case.golden.take("marginal", &[1]).unwrap())[0]).exp();
    let weights: Vec<f64> =
        case.enumerated().iter().map(|drawn| (drawn.log_prob + drawn.log_likelihood).exp()).collect();
    assert!((weights.iter().sum::<f64>() - marginal).abs() < 1e-4 * marginal);
    let error = case.error(&weights, marginal);
    assert!(error < TOLERANCE, "{error}");
}

/// Without the correction, lists that were drawn uniformly aim elsewhere: the tests above can fail.
#[test]
fn weights_without_the_proposal_give_another_gradient() {
    let mut case = case();
    let weighting = Weighting { correction: false, ..Weighting::default() };
    let weights = weighting.weights(&case.enumerated(), Scoring::Trie).unwrap();
    let error = case.error(&weights, 1.0);
    assert!(error > 100.0 * TOLERANCE, "{error}");
}
