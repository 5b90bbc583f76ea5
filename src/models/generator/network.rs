//! The Llama network: embedding, L layers of attention and feed-forward, final norm, output layer.
//!
//! B sequences, T tokens, D hidden width, H query heads, Hk key and value heads, Dh head width, M chosen positions.

use candle_core::Tensor;

use super::super::batch::TokenBatch;
use super::super::lora::{self, Lora};
use super::super::nn::{self, AttentionMask};
use super::super::params::View;
use super::config::GeneratorConfig;
use super::rope::Rope;
use super::{EMBEDDING, HEAD};
use crate::error::Result;

/// The projections of a layer that have the shape of a linear layer: module path below the layer.
pub(in crate::models) const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The weights of one forward pass, variables or detached as the pass wants them.
#[derive(Clone, Debug)]
pub(in crate::models) struct Network {
    pub config: GeneratorConfig,
    pub rope: Rope,
    pub embedding: Tensor,
    pub layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
}

#[derive(Clone, Debug)]
pub(in crate::models) struct Layer {
    attention_norm: Tensor,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    feed_forward_norm: Tensor,
    gate: Projection,
    up: Projection,
    down: Projection,
}

/// x·Wᵀ + b, plus scale·(x·Aᵀ)·Bᵀ where an adapter sits on it.
#[derive(Clone, Debug)]
struct Projection {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<(Tensor, Tensor, f64)>,
}

impl Network {
    /// Resolves every weight by name.
    pub fn new(config: &GeneratorConfig, rope: &Rope, view: View<'_>, lora: Option<&Lora>) -> Result<Self> {
        let embedding = view.get(EMBEDDING)?;
        let head = if config.tied { embedding.clone() } else { view.get(HEAD)? };
        let layers = (0..config.layers).map(|index| Layer::new(index, view, lora)).collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            rope: rope.clone(),
            embedding,
            layers,
            norm: view.get("model.norm.weight")?,
            head,
        })
    }

    /// Hidden states before the final norm at `rows`, flat positions `b·T + t` of the batch: (M, D).
    ///
    /// Every row attends to itself and what stands before it in its own sequence. In the last layer only the chosen
    /// positions go on after attention. `keep` sees each layer's keys (rotated) and values, (B, T, Hk·Dh).
    pub fn hidden(
        &self,
        batch: &TokenBatch,
        rows: &Tensor,
        mut keep: impl FnMut(usize, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let config = &self.config;
        let (sequences, longest) = batch.ids.dims2()?;
        let device = batch.ids.device();
        let (cos, sin) = self.rope.tables(0, longest);
        let shape = (1, longest, config.head_dim / 2);
        let (cos, sin) = (Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?);
        let mask = AttentionMask::Causal { lengths: batch.lengths.clone() };
        let mut x = nn::embedding(&self.embedding, &batch.ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let (query, key, value) = layer.attention_inputs(config, &x)?;
            let query = nn::rope_packed(&query, config.heads, &cos, &sin)?;
            let key = nn::rope_packed(&key, config.key_value_heads, &cos, &sin)?;
            keep(index, &key, &value)?;
            let scale = self.attention_scale();
            let heads = (config.heads, config.key_value_heads);
            let mut mixed = nn::attention_packed(&query, &key, &value, heads, &mask, scale)?;
            if index + 1 == self.layers.len() {
                let flat = |tensor: &Tensor| tensor.reshape((sequences * longest, ()))?.index_select(rows, 0);
                mixed = flat(&mixed)?;
                x = flat(&x)?;
            }
            x = layer.after_attention(config, &x, &mixed)?;
        }
        Ok(x)
    }

    /// Logits of hidden states before the final norm: (…, D) to (…, V).
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        nn::linear(&nn::rms_norm(hidden, &self.norm, self.config.norm_eps)?, &self.head, None)
    }

    /// What attention scores are multiplied by: 1/√Dh.
    pub fn attention_scale(&self) -> f64 {
        1.0 / (self.config.head_dim as f64).sqrt()
    }
}

impl Layer {
    fn new(index: usize, view: View<'_>, lora: Option<&Lora>) -> Result<Self> {
        let norm = |name: &str| view.get(&format!("model.layers.{index}.{name}.weight"));
        let projection = |name: &str| Projection::new(&format!("model.layers.{index}.{name}"), view, lora);
        let [query, key, value, output, gate, up, down] = PROJECTIONS.map(projection);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            query: query?,
            key: key?,
            value: value?,
            output: output?,
            feed_forward_norm: norm("post_attention_layernorm")?,
            gate: gate?,
            up: up?,
            down: down?,
        })
    }

    /// Queries (…, H·Dh), keys and values (…, Hk·Dh) of hidden states (…, D), not yet rotated.
    pub fn attention_inputs(&self, config: &GeneratorConfig, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let normed = nn::rms_norm(x, &self.attention_norm, config.norm_eps)?;
        Ok((self.query.forward(&normed)?, self.key.forward(&normed)?, self.value.forward(&normed)?))
    }

    /// The rest of the layer: hidden states (…, D) it began with and what attention mixed (…, H·Dh), to (…, D).
    pub fn after_attention(&self, config: &GeneratorConfig, x: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let x = (x + self.output.forward(mixed)?)?;
        let normed = nn::rms_norm(&x, &self.feed_forward_norm, config.norm_eps)?;
        let gated = nn::silu_mul(&self.gate.forward(&normed)?, &self.up.forward(&normed)?)?;
        Ok((x + self.down.forward(&gated)?)?)
    }
}

impl Projection {
    fn new(path: &str, view: View<'_>, lora: Option<&Lora>) -> Result<Self> {
        let bias_name = format!("{path}.bias");
        let bias = if view.contains(&bias_name) { Some(view.get(&bias_name)?) } else { None };
        let adapter = match lora.filter(|lora| lora.covers(path)) {
            Some(lora) => Some((view.get(&lora::name_a(path))?, view.get(&lora::name_b(path))?, lora.config().scale())),
            None => None,
        };
        Ok(Self { weight: view.get(&format!("{path}.weight"))?, bias, adapter })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let plain = nn::linear(x, &self.weight, self.bias.as_ref())?;
        let Some((a, b, scale)) = &self.adapter else { return Ok(plain) };
        // The scale acts on the narrow side, where it costs least.
        let narrow = (nn::linear(x, a, None)? * *scale)?;
        Ok((plain + nn::linear(&narrow, b, None)?)?)
    }
}

/// Names and shapes of all weights but the embedding and the output layer.
pub(super) fn shapes(config: &GeneratorConfig) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("model.norm.weight".to_owned(), vec![config.hidden])];
    for layer in 0..config.layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("model.layers.{layer}.{norm}.weight"), vec![config.hidden]));
        }
        for projection in PROJECTIONS {
            let (output, input) = projection_shape(config, projection);
            all.push((format!("model.layers.{layer}.{projection}.weight"), vec![output, input]));
            let biased = if projection.starts_with("mlp.") { config.mlp_bias } else { config.attention_bias };
            if biased {
                all.push((format!("model.layers.{layer}.{projection}.bias"), vec![output]));
            }
        }
    }
    all
}

/// Outputs and inputs of a projection.
pub(in crate::models) fn projection_shape(config: &GeneratorConfig, projection: &str) -> (usize, usize) {
    let (heads, key_values) = (config.heads * config.head_dim, config.key_value_heads * config.head_dim);
    match projection {
        "self_attn.q_proj" => (heads, config.hidden),
        "self_attn.k_proj" | "self_attn.v_proj" => (key_values, config.hidden),
        "self_attn.o_proj" => (config.hidden, heads),
        "mlp.down_proj" => (config.hidden, config.intermediate),
        _ => (config.intermediate, config.hidden),
    }
}
