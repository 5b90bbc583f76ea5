//! candle-transformers as an independent oracle for the forward pass. Its layers cannot train (their fused norms, softmax
//! and rotations record no backward pass), so what trains is ours; what both can compute must agree.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, llama};

use super::Grad;
use super::encoder::Encoder;
use super::generator::Generator;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn weights(folder: &Path) -> VarBuilder<'static> {
    let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

#[test]
fn bert_agrees_with_candle_transformers() {
    // The golden encoder pools by mean and normalises.
    let folder = golden("golden/encoder");
    let ours = Encoder::load(&folder, &Device::Cpu).unwrap();
    let config: bert::Config =
        serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let theirs = bert::BertModel::load(weights(&folder), &config).unwrap();
    let ids: Vec<u32> = vec![2, 7, 9, 11, 5, 3];
    let vector =
        ours.forward(std::slice::from_ref(&ids), Grad::Off).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();

    let input = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let hidden = theirs.forward(&input, &input.zeros_like().unwrap(), None).unwrap();
    let pooled = hidden.mean(1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let norm = pooled.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (ours, theirs) in vector.iter().zip(&pooled) {
        assert!((ours - theirs / norm).abs() < 1e-5, "{ours} against {}", theirs / norm);
    }
}

#[test]
fn llama_agrees_with_candle_transformers() {
    let folder = golden("models/qa-llama");
    let ours = Generator::load(&folder, &Device::Cpu).unwrap();
    let config: llama::LlamaConfig =
        serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let config = config.into_config(false);
    let theirs = llama::Llama::load(weights(&folder), &config).unwrap();
    let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
    let prompt = ours.prompt_ids("Context: Rain: Rain falls.\nQuestion: what falls\nAnswer:").unwrap();
    let ours = ours.start(std::slice::from_ref(&prompt)).unwrap().log_probs().unwrap().flatten_all().unwrap();

    let input = Tensor::new(prompt.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let logits = theirs.forward(&input, 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let normaliser = largest + logits.iter().map(|x| (x - largest).exp()).sum::<f32>().ln();
    for (ours, logit) in ours.to_vec1::<f32>().unwrap().iter().zip(&logits) {
        assert!((ours - (logit - normaliser)).abs() < 2e-4, "{ours} against {}", logit - normaliser);
    }
}
