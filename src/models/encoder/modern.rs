//! ModernBERT (Warner et al., arXiv 2412.13663): pre-norm layers, rotated queries and keys, gated feed-forward blocks, and
//! attention to near tokens only in all but every few layers.

use candle_core::Tensor;

use super::config::Config;
use super::positions;
use crate::error::Result;
use crate::models::batch::TokenBatch;
use crate::models::dropout::{Rates, Site};
use crate::models::nn::{self, Activation, Attend, Then};
use crate::models::params::View;

/// `model_type` of its config.json.
pub(super) const MODEL_TYPE: &str = "modernbert";
/// Its class in transformers.
pub(super) const CLASS: &str = "ModernBertModel";
/// What checkpoints with a head put before every name.
pub(super) const PREFIX: &str = "model.";
/// Beginnings of the names of heads, which have no part in a vector.
pub(super) static HEADS: [&str; 3] = ["head.", "decoder.", "classifier."];

const WORDS: &str = "embeddings.tok_embeddings.weight";
const EMBEDDING_NORM: &str = "embeddings.norm";
const FINAL_NORM: &str = "final_norm";

/// The sizes and switches of one network.
#[derive(Debug)]
pub(super) struct ModernBert {
    pub vocabulary: usize,
    /// D.
    pub hidden: usize,
    /// L.
    pub layers: usize,
    pub max_positions: usize,
    heads: usize,
    pub intermediate: usize,
    eps: f64,
    activation: Activation,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    /// Layers 0, n, 2n, ... see the whole sequence.
    global_every: usize,
    /// How far the other layers see on either side.
    reach: usize,
    global_theta: f64,
    local_theta: f64,
    /// Dropout by config.json.
    pub rates: Rates,
}

impl ModernBert {
    /// Understands a config.json.
    pub fn read(config: &Config) -> Result<Self> {
        const ACTIVATION: &str = "hidden_activation";
        let activation = Activation::parse(config.text(ACTIVATION, "gelu")?)
            .ok_or_else(|| config.refused(ACTIVATION, "one of: gelu, gelu_new, gelu_pytorch_tanh, relu, silu"))?;
        let (hidden, heads) = (config.size("hidden_size", None)?, config.size("num_attention_heads", None)?);
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(2) {
            let expected = format!("hidden_size `{hidden}` divided by it to be a whole, even number");
            return Err(config.refused("num_attention_heads", &expected));
        }
        for key in ["rope_scaling", "rope_parameters"] {
            if config.get(key).is_some() {
                return Err(config.refused(key, "none: only `global_rope_theta` and `local_rope_theta` are supported"));
            }
        }
        let global_theta = config.positive("global_rope_theta", 160_000.0)?;
        // Absent it is 10⁴, but written as null it is the global one.
        let local_theta = match config.raw().get("local_rope_theta").is_some_and(serde_json::Value::is_null) {
            true => global_theta,
            false => config.positive("local_rope_theta", 10_000.0)?,
        };
        let attention = Some(config.dropout("attention_dropout", 0.0)?);
        Ok(Self {
            vocabulary: config.size("vocab_size", None)?,
            hidden,
            layers: config.size("num_hidden_layers", None)?,
            max_positions: config.size("max_position_embeddings", Some(8192))?,
            heads,
            intermediate: config.size("intermediate_size", None)?,
            eps: config.positive("norm_eps", 1e-5)?,
            activation,
            norm_bias: config.flag("norm_bias", false)?,
            attention_bias: config.flag("attention_bias", false)?,
            mlp_bias: config.flag("mlp_bias", false)?,
            global_every: config.size("global_attn_every_n_layers", Some(3))?,
            reach: config.whole("local_attention", Some(128))? / 2,
            global_theta,
            local_theta,
            rates: Rates {
                embedding: Some(config.dropout("embedding_dropout", 0.0)?),
                attention,
                // By the same key.
                attended: attention,
                feed_forward: Some(config.dropout("mlp_dropout", 0.0)?),
            },
        })
    }

    /// The settings that decide a vector and cannot be seen in the shapes of the weights.
    pub fn identity(&self) -> String {
        format!(
            "{MODEL_TYPE} heads={} norm_eps={:e} activation={} global_every={} reach={} rope_theta={},{}",
            self.heads,
            self.eps,
            self.activation.name(),
            self.global_every,
            self.reach,
            self.global_theta,
            self.local_theta
        )
    }

    fn is_global(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.global_every)
    }

    /// Modelled operations of attention over one sequence of `tokens`: 4·D for every pair of a query and a key it sees.
    pub fn attention_flops(&self, tokens: f64) -> f64 {
        let seen = |layer| if self.is_global(layer) { tokens } else { tokens.min((2 * self.reach + 1) as f64) };
        (0..self.layers).map(|layer| 4.0 * self.hidden as f64 * tokens * seen(layer)).sum()
    }

    /// Names and shapes of all tensors that decide a vector.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, inner) = (self.hidden, self.intermediate);
        let mut all = vec![(WORDS.to_owned(), vec![self.vocabulary, d])];
        let mut push = |name: String, biased: bool, out: usize, input: Option<usize>| {
            if biased {
                all.push((format!("{name}.bias"), vec![out]));
            }
            all.push((format!("{name}.weight"), input.map_or(vec![out], |input| vec![out, input])));
        };
        for name in [EMBEDDING_NORM, FINAL_NORM] {
            push(name.to_owned(), self.norm_bias, d, None);
        }
        for layer in 0..self.layers {
            let part = |name: &str| format!("layers.{layer}.{name}");
            if layer > 0 {
                push(part("attn_norm"), self.norm_bias, d, None);
            }
            push(part("attn.Wqkv"), self.attention_bias, 3 * d, Some(d));
            push(part("attn.Wo"), self.attention_bias, d, Some(d));
            push(part("mlp_norm"), self.norm_bias, d, None);
            push(part("mlp.Wi"), self.mlp_bias, 2 * inner, Some(d));
            push(part("mlp.Wo"), self.mlp_bias, d, Some(inner));
        }
        all
    }

    /// The vectors of all tokens after the final norm, (N, D).
    pub fn states(&self, view: View<'_>, batch: &TokenBatch) -> Result<Tensor> {
        let norm = |x: &Tensor, name: &str| {
            let bias = if self.norm_bias { Some(view.get(&format!("{name}.bias"))?) } else { None };
            nn::layer_norm(x, &view.get(&format!("{name}.weight"))?, bias.as_ref(), self.eps)
        };
        let (d, inner, width) = (self.hidden, self.intermediate, self.hidden / self.heads);
        let whole = Attend::within(&batch.spans, self.heads, self.heads, 1.0 / (width as f64).sqrt());
        let near = Attend { window: Some(self.reach), ..whole.clone() };
        let global = positions::angles(&batch.positions, width, self.global_theta)?;
        let local = positions::angles(&batch.positions, width, self.local_theta)?;

        let x = norm(&nn::embedding(&view.get(WORDS)?, &batch.ids)?, EMBEDDING_NORM)?;
        let mut x = view.drop_from(x, Site::Embedding, 0)?;
        for layer in 0..self.layers {
            let part = |name: &str| format!("layers.{layer}.{name}");
            let (how, (cos, sin)) = if self.is_global(layer) { (&whole, &global) } else { (&near, &local) };
            // The first layer finds its input normed by the embedding.
            let normed = if layer == 0 { x.clone() } else { norm(&x, &part("attn_norm"))? };
            let fused = view.linear(&normed, &part("attn.Wqkv"))?;
            let q = nn::rope_packed(&fused.narrow(1, 0, d)?, self.heads, cos, sin)?;
            let k = nn::rope_packed(&fused.narrow(1, d, d)?, self.heads, cos, sin)?;
            let how = Attend { dropout: view.dropout(Site::Attention, layer)?, ..how.clone() };
            let attended = nn::attention(&q, &k, &fused.narrow(1, 2 * d, d)?, &how)?;
            x = view.linear_dropping(&attended, &part("attn.Wo"), Site::Attended, layer, &x)?;

            let fused = view.linear(&norm(&x, &part("mlp_norm"))?, &part("mlp.Wi"))?;
            let (gate, up) = (fused.narrow(1, 0, inner)?, fused.narrow(1, inner, inner)?);
            let gated = view.drop_from(nn::gated(&gate, &up, self.activation)?, Site::FeedForward, layer)?;
            x = view.linear_then(&gated, &part("mlp.Wo"), Then::Add(&x))?;
        }
        norm(&x, FINAL_NORM)
    }
}
