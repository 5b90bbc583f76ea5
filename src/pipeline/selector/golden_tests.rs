//! Lists' log-probabilities and gradients against PyTorch: `fixtures/golden/dro.py`.

use serde::Deserialize;

use super::*;
use crate::models::Grad;
use crate::models::generator::golden::*;
use crate::models::weights::Weights;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Vec<u32>>,
    cases: Vec<Case>,
    first: Vec<Vec<u32>>,
    later: Vec<Vec<u32>>,
    every: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Case {
    prompt: usize,
    passages: usize,
    lists: Vec<Vec<u32>>,
}

fn golden() -> (Golden, Weights) {
    let dir = fixture("dro");
    let text = std::fs::read_to_string(dir.join("dro.json")).unwrap();
    let tensors = Weights::read_file(&dir.join("dro.safetensors"), &Device::Cpu).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

fn selector() -> Selector {
    Selector::of_generator(&fixture("dro"), 12, None, &Device::Cpu).unwrap()
}

#[test]
fn identifiers_are_the_tokens_that_the_scripts_takes() {
    let (golden, _) = golden();
    let selector = selector();
    for (passage, (first, later)) in golden.first.iter().zip(&golden.later).enumerate() {
        let list = [passage as u32, (passage as u32 + 1) % 12];
        let follows = golden.later[list[1] as usize].clone();
        assert_eq!(selector.identifiers.of_list(&list).unwrap(), [first.clone(), follows].concat());
        assert_ne!(first, later);
    }
}

#[test]
fn log_probabilities_of_lists_and_their_gradients_equal_pytorch() {
    let (golden, mut tensors) = golden();
    let selector = selector();
    let inputs: Vec<SelectorInput> = golden
        .cases
        .iter()
        .map(|case| SelectorInput {
            ids: golden.prompts[case.prompt].clone(),
            passages: case.passages,
            truncated: false,
        })
        .collect();
    let questions: Vec<(&SelectorInput, &[Vec<u32>])> =
        inputs.iter().zip(golden.cases.iter().map(|case| case.lists.as_slice())).collect();
    let weights = tensors.take_any("weights").unwrap().unwrap();
    for (name, scoring) in [("trie", Scoring::Trie), ("free", Scoring::Free)] {
        let log_probs = selector.log_probs(&questions, scoring, Grad::On).unwrap();
        let expected = tensors.take(&format!("{name}.log_probs"), log_probs.dims()).unwrap();
        assert_near(name, &log_probs, &expected, 1e-4);
        let store = (&log_probs * &weights).unwrap().sum_all().unwrap().backward().unwrap();
        for (parameter, var) in selector.generator.params().trainable() {
            let expected = tensors.take(&format!("{name}.grad.{parameter}"), var.dims()).unwrap();
            let largest = values(&expected).into_iter().fold(0f32, |most, value| most.max(value.abs()));
            assert!(largest > 0.0, "the golden gradient of {parameter} is zero: it shows nothing");
            assert_near(&format!("{name} {parameter}"), store.get(var).unwrap(), &expected, 2e-4 * largest);
        }
    }
}

#[test]
fn every_list_has_its_probability() {
    let (golden, mut tensors) = golden();
    let input = SelectorInput { ids: golden.prompts[0].clone(), passages: 4, truncated: false };
    let log_probs = selector().log_probs(&[(&input, &golden.every)], Scoring::Trie, Grad::Off).unwrap();
    assert_near("every list", &log_probs, &tensors.take("every", &[12]).unwrap(), 1e-4);
}
