//! Losses and gradients against PyTorch autograd: `fixtures/golden/objectives.py`.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::{mnrl_loss, rag_token_loss, sft_loss};
use crate::models::nn;

fn golden(objective: &str) -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/objectives.safetensors");
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let prefix = format!("{objective}.");
    all.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor))).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(what: &str, got: &Tensor, expected: &Tensor) {
    let (got, expected) = (values(got), values(expected));
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f32, |scale, value| scale.max(value.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-5 * scale, "{what}: {got} against {expected}");
    }
}

fn variable(tensor: &Tensor) -> Var {
    Var::from_tensor(tensor).unwrap()
}

#[test]
fn rag_token_equals_pytorch() {
    let golden = golden("rag_token");
    let (scores, log_probs) = (variable(&golden["scores"]), variable(&golden["log_probs"]));
    let loss = rag_token_loss(&scores, 0.05, &log_probs, &golden["mask"]).unwrap();
    close("loss", &loss, &golden["loss"]);
    let gradients = loss.backward().unwrap();
    close("gradient of the scores", gradients.get(&scores).unwrap(), &golden["scores.grad"]);
    close("gradient of the log-probabilities", gradients.get(&log_probs).unwrap(), &golden["log_probs.grad"]);
}

#[test]
fn mnrl_equals_pytorch() {
    let golden = golden("mnrl");
    let (questions, passages) = (variable(&golden["questions"]), variable(&golden["passages"]));
    let scores = questions.matmul(&passages.t().unwrap()).unwrap();
    let count = scores.dim(0).unwrap();
    let gold = Tensor::arange(0u32, count as u32, &Device::Cpu).unwrap();
    let none = Tensor::zeros((count, count), DType::F32, &Device::Cpu).unwrap();
    let loss = mnrl_loss(&scores, &gold, &none, 20.0).unwrap();
    close("loss", &loss, &golden["loss"]);
    let gradients = loss.backward().unwrap();
    close("gradient of the questions", gradients.get(&questions).unwrap(), &golden["questions.grad"]);
    close("gradient of the passages", gradients.get(&passages).unwrap(), &golden["passages.grad"]);
}

#[test]
fn sft_equals_pytorch() {
    let golden = golden("sft");
    let logits = variable(&golden["logits"]);
    let (questions, tokens, vocabulary) = logits.dims3().unwrap();
    let targets = golden["targets"].flatten_all().unwrap().to_dtype(DType::U32).unwrap();
    let rows = logits.reshape((questions * tokens, vocabulary)).unwrap();
    let log_probs = nn::log_prob_of(&rows, &targets).unwrap().reshape((questions, tokens)).unwrap();
    let loss = sft_loss(&(log_probs * &golden["mask"]).unwrap()).unwrap();
    close("loss", &loss, &golden["loss"]);
    let gradients = loss.backward().unwrap();
    close("gradient of the logits", gradients.get(&logits).unwrap(), &golden["logits.grad"]);
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn the_same_on_portable_layers() {
    crate::models::nn::portably(|| {
        rag_token_equals_pytorch();
        mnrl_equals_pytorch();
        sft_equals_pytorch();
    });
}
