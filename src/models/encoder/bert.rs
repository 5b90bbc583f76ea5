//! The transformer: names and shapes of its tensors, and its forward pass (Devlin et al., arXiv 1810.04805).

use candle_core::Tensor;

use super::config::BertConfig;
use crate::error::{Error, Result};
use crate::models::batch::TokenBatch;
use crate::models::nn::{self, AttentionMask};
use crate::models::params::{Params, View};
use crate::models::weights::Weights;

/// Whether a tensor of the model has no part in a vector.
pub(super) fn is_unused(name: &str) -> bool {
    name.starts_with("pooler.")
}

/// Takes the weights of a BERT out of a checkpoint; second the names of tensors that belong to other tasks and are not
/// kept. A tensor of the model that is missing or misshapen and one that nothing explains are errors.
pub(super) fn take_params(config: &BertConfig, weights: &mut Weights) -> Result<(Params, Vec<String>)> {
    let mut params = Params::new();
    for (name, shape) in tensors(config) {
        params.insert(name.clone(), weights.take(&name, &shape)?, true)?;
    }
    let mut dropped: Vec<String> = weights.buffers().keys().cloned().collect();
    let left: Vec<String> = weights.names().map(str::to_owned).collect();
    for name in left {
        if is_unused(&name) {
            if let Some(tensor) = weights.take_any(&name)? {
                params.insert(name, tensor, false)?;
            }
        } else if name.starts_with("cls.") || name == "embeddings.position_ids" {
            // Heads of the pre-training, and positions that some versions store as numbers.
            dropped.push(name);
        } else {
            return Err(Error::new(format!(
                "`{}` holds a tensor `{name}` that a BERT of {} layers lacks",
                weights.origin().display(),
                config.num_hidden_layers
            ))
            .hint("the weights do not belong to this `config.json`: copy the whole model folder again"));
        }
    }
    Ok((params, dropped))
}

/// Names and shapes of all tensors that decide a vector.
fn tensors(config: &BertConfig) -> Vec<(String, Vec<usize>)> {
    let (d, inner) = (config.hidden_size, config.intermediate_size);
    let mut all = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![config.vocab_size, d]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![config.max_position_embeddings, d]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![config.type_vocab_size, d]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![d]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![d]),
    ];
    for layer in 0..config.num_hidden_layers {
        let mut push = |part: &str, out: usize, input: Option<usize>| {
            let name = format!("encoder.layer.{layer}.{part}");
            all.push((format!("{name}.bias"), vec![out]));
            all.push((format!("{name}.weight"), input.map_or(vec![out], |input| vec![out, input])));
        };
        push("attention.self.query", d, Some(d));
        push("attention.self.key", d, Some(d));
        push("attention.self.value", d, Some(d));
        push("attention.output.dense", d, Some(d));
        push("attention.output.LayerNorm", d, None);
        push("intermediate.dense", inner, Some(d));
        push("output.dense", d, Some(inner));
        push("output.LayerNorm", d, None);
    }
    all
}

/// The vectors of all tokens after the last layer, (B, T, D). Those of padding mean nothing.
pub(super) fn forward(config: &BertConfig, weights: &View<'_>, batch: &TokenBatch) -> Result<Tensor> {
    let get = |name: &str| weights.get(name);
    let norm = |x: &Tensor, name: &str| {
        let (weight, bias) = (get(&format!("{name}.weight"))?, get(&format!("{name}.bias"))?);
        nn::layer_norm(x, &weight, &bias, config.layer_norm_eps)
    };
    let dense = |x: &Tensor, name: &str| {
        let (weight, bias) = (get(&format!("{name}.weight"))?, get(&format!("{name}.bias"))?);
        nn::linear(x, &weight, Some(&bias))
    };
    let heads = config.num_attention_heads;
    let scale = 1.0 / ((config.hidden_size / heads) as f64).sqrt();
    let mask = AttentionMask::Padding { lengths: batch.lengths.clone() };

    let embedded = nn::bert_embedding(
        &get("embeddings.word_embeddings.weight")?,
        &get("embeddings.position_embeddings.weight")?,
        &get("embeddings.token_type_embeddings.weight")?,
        &batch.ids,
    )?;
    let mut x = norm(&embedded, "embeddings.LayerNorm")?;
    for layer in 0..config.num_hidden_layers {
        let part = |name: &str| format!("encoder.layer.{layer}.{name}");
        let q = dense(&x, &part("attention.self.query"))?;
        let k = dense(&x, &part("attention.self.key"))?;
        let v = dense(&x, &part("attention.self.value"))?;
        let attended = nn::attention_packed(&q, &k, &v, (heads, heads), &mask, scale)?;
        let attended = dense(&attended, &part("attention.output.dense"))?;
        x = norm(&(attended + &x)?, &part("attention.output.LayerNorm"))?;
        let inner = nn::gelu(&dense(&x, &part("intermediate.dense"))?)?;
        let inner = dense(&inner, &part("output.dense"))?;
        x = norm(&(inner + &x)?, &part("output.LayerNorm"))?;
    }
    Ok(x)
}
