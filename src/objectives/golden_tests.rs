//! Losses and gradients against PyTorch autograd: `fixtures/golden/objectives.py`.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::testing::{check_golden, close, var as variable};
use super::{mnrl_loss, rag_sequence_loss, rag_token_loss, sft_loss};
use crate::models::nn;

fn golden(objective: &str) -> HashMap<String, Tensor> {
    super::testing::golden("objectives", objective)
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

#[test]
fn rag_losses_equal_transformers() {
    for kind in ["token", "sequence"] {
        let golden = super::testing::golden("objectives_retriever", &format!("transformers_{kind}"));
        let (scores, logits) = (variable(&golden["scores"]), variable(&golden["logits"]));
        let (questions, passages, tokens, vocabulary) = logits.dims4().unwrap();
        let rows = logits.reshape((questions * passages * tokens, vocabulary)).unwrap();
        let targets = golden["targets"].to_dtype(DType::U32).unwrap().unsqueeze(1).unwrap();
        let targets = targets.repeat((1, passages, 1)).unwrap().flatten_all().unwrap();
        let log_probs = nn::log_prob_of(&rows, &targets).unwrap().reshape((questions, passages, tokens)).unwrap();
        let loss = match kind {
            "token" => rag_token_loss(&scores, 1.0, &log_probs, &golden["mask"]),
            _ => rag_sequence_loss(&scores, 1.0, &log_probs, &golden["mask"]),
        };
        check_golden(kind, &golden, &loss.unwrap(), &[("scores", &scores), ("logits", &logits)]);
    }
}

#[test]
fn mnrl_with_hard_negatives_equals_pytorch() {
    let golden = super::testing::golden("objectives_retriever", "hard_negatives");
    let [questions, passages, negatives] = ["questions", "passages", "negatives"].map(|name| variable(&golden[name]));
    let candidates = Tensor::cat(&[passages.as_tensor(), negatives.as_tensor()], 0).unwrap();
    let scores = questions.matmul(&candidates.t().unwrap()).unwrap();
    let (count, columns) = scores.dims2().unwrap();
    let gold = Tensor::arange(0u32, count as u32, &Device::Cpu).unwrap();
    let none = Tensor::zeros((count, columns), DType::F32, &Device::Cpu).unwrap();
    let loss = mnrl_loss(&scores, &gold, &none, 20.0).unwrap();
    let variables = [("questions", &questions), ("passages", &passages), ("negatives", &negatives)];
    check_golden("mnrl", &golden, &loss, &variables);
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
