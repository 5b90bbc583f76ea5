//! One decoder layer: everything around attention, which the caller computes because it knows the sequences.
//!
//! N tokens, D hidden width, H query heads, Hk key and value heads, Dh head width. Which parts there are follows from the
//! switches of the configuration.

use candle_core::Tensor;

use super::config::{FeedForward, GeneratorConfig, LayerKind, NormKind, QueryKeyValue};
use super::rope::Tables;
use crate::error::Result;
use crate::models::lora::{self, Lora};
use crate::models::nn::{self, Base};
use crate::models::params::{Matrix, View};

/// The weights of one layer, variables or detached as the pass wants them.
#[derive(Clone, Debug)]
pub(in crate::models) struct Layer {
    pub kind: LayerKind,
    attention_norm: Norm,
    inputs: Inputs,
    query_key_norm: Option<(Norm, Norm)>,
    output: Projection,
    feed_forward_norm: Norm,
    feed_forward: Block,
    /// Norms of what attention and the feed-forward block add.
    norms_after: Option<(Norm, Norm)>,
}

#[derive(Clone, Debug)]
enum Inputs {
    Split { query: Projection, key: Projection, value: Projection },
    Joined(Projection),
    JoinedByHead(Projection),
}

#[derive(Clone, Debug)]
enum Block {
    Gated { gate: Projection, up: Projection, down: Projection },
    GatedJoined { gate_up: Projection, down: Projection },
    Plain { up: Projection, down: Projection },
}

/// A norm over the last dimension; Gemma's weight with its 1 already added.
#[derive(Clone, Debug)]
pub(super) enum Norm {
    Rms { weight: Tensor },
    Layer { weight: Tensor, bias: Tensor },
}

impl Norm {
    pub fn new(config: &GeneratorConfig, path: &str, view: View<'_>) -> Result<Self> {
        let weight = view.get(&format!("{path}.weight"))?;
        Ok(match config.norm {
            NormKind::Rms => Self::Rms { weight },
            NormKind::RmsAroundOne => Self::Rms { weight: (weight + 1.0)? },
            NormKind::Layer => Self::Layer { weight, bias: view.get(&format!("{path}.bias"))? },
        })
    }

    pub fn forward(&self, config: &GeneratorConfig, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms { weight } => nn::rms_norm(x, weight, config.norm_eps),
            Self::Layer { weight, bias } => nn::layer_norm(x, weight, Some(bias), config.norm_eps),
        }
    }

    /// The norm of each head by itself: (N, heads·Dh) to the same.
    fn of_heads(&self, config: &GeneratorConfig, x: &Tensor) -> Result<Tensor> {
        let heads = x.reshape(((), config.head_dim))?;
        Ok(self.forward(config, &heads)?.reshape(x.shape())?)
    }
}

impl Layer {
    /// Resolves the weights of layer `index` by name.
    pub fn new(
        config: &GeneratorConfig,
        index: usize,
        root: &str,
        view: View<'_>,
        lora: Option<&Lora>,
    ) -> Result<Self> {
        let names = config.layer_names();
        let path = |part: &str| format!("{root}layers.{index}.{part}");
        let norm = |part: &str| Norm::new(config, &path(part), view);
        let projection = |part: &str| Projection::new(&path(part), view, lora);
        let down = projection(names.down)?;
        Ok(Self {
            kind: config.kinds[index],
            attention_norm: norm(names.attention_norm)?,
            inputs: match config.query_key_value {
                QueryKeyValue::Split => Inputs::Split {
                    query: projection("self_attn.q_proj")?,
                    key: projection("self_attn.k_proj")?,
                    value: projection("self_attn.v_proj")?,
                },
                QueryKeyValue::Joined => Inputs::Joined(projection("self_attn.qkv_proj")?),
                QueryKeyValue::JoinedByHead => Inputs::JoinedByHead(projection("attention.query_key_value")?),
            },
            query_key_norm: match config.query_key_norm {
                true => Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)),
                false => None,
            },
            output: projection(names.output)?,
            feed_forward_norm: norm(names.feed_forward_norm)?,
            feed_forward: match config.feed_forward {
                FeedForward::Gated => {
                    Block::Gated { gate: projection("mlp.gate_proj")?, up: projection("mlp.up_proj")?, down }
                }
                FeedForward::GatedJoined => Block::GatedJoined { gate_up: projection("mlp.gate_up_proj")?, down },
                FeedForward::Plain => Block::Plain { up: projection("mlp.dense_h_to_4h")?, down },
            },
            norms_after: match config.norms_after {
                true => Some((norm(names.after_attention_norm)?, norm(names.after_feed_forward_norm)?)),
                false => None,
            },
        })
    }

    /// Queries (N, H·Dh), keys and values (N, Hk·Dh) of hidden states (N, D): normed, and queries and keys rotated.
    pub fn attention_inputs(
        &self,
        config: &GeneratorConfig,
        x: &Tensor,
        tables: &Tables,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (mut query, mut key, value) = self.inputs.forward(config, &self.attention_norm.forward(config, x)?)?;
        if let Some((query_norm, key_norm)) = &self.query_key_norm {
            query = query_norm.of_heads(config, &query)?;
            key = key_norm.of_heads(config, &key)?;
        }
        if let Some(angles) = tables.of(self.kind.rotation) {
            query = nn::rope_packed(&query, config.heads, &angles.cos, &angles.sin)?;
            key = nn::rope_packed(&key, config.key_value_heads, &angles.cos, &angles.sin)?;
        }
        Ok((query, key, value))
    }

    /// [`Layer::after_attention`] for the tokens named by `rows` alone, where there are any.
    pub fn on_rows(
        &self,
        config: &GeneratorConfig,
        x: &Tensor,
        mixed: Tensor,
        rows: Option<&Tensor>,
    ) -> Result<Tensor> {
        match rows {
            Some(rows) => self.after_attention(config, &x.index_select(rows, 0)?, &mixed.index_select(rows, 0)?),
            None => self.after_attention(config, x, &mixed),
        }
    }

    /// The rest of the layer: hidden states (N, D) it began with and what attention mixed (N, H·Dh), to (N, D).
    pub fn after_attention(&self, config: &GeneratorConfig, x: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let mut attended = self.output.forward(mixed)?;
        if let Some((norm, _)) = &self.norms_after {
            attended = norm.forward(config, &attended)?;
        }
        let middle = (x + &attended)?;
        // Side by side, both blocks read what the layer began with.
        let read = if config.parallel { x } else { &middle };
        let mut added = self.feed_forward.forward(config, &self.feed_forward_norm.forward(config, read)?)?;
        if let Some((_, norm)) = &self.norms_after {
            added = norm.forward(config, &added)?;
        }
        Ok((middle + added)?)
    }
}

impl Inputs {
    fn forward(&self, config: &GeneratorConfig, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        match self {
            Self::Split { query, key, value } => Ok((query.forward(x)?, key.forward(x)?, value.forward(x)?)),
            Self::Joined(joined) => {
                let (queries, keys) = (config.query_width(), config.key_width());
                let all = joined.forward(x)?;
                let key = all.narrow(1, queries, keys)?;
                Ok((all.narrow(1, 0, queries)?, key, all.narrow(1, queries + keys, keys)?))
            }
            Self::JoinedByHead(joined) => {
                let (rows, width) = (x.dim(0)?, config.head_dim);
                let heads = joined.forward(x)?.reshape((rows, config.heads, 3 * width))?;
                let part = |which: usize| -> Result<Tensor> {
                    Ok(heads.narrow(2, which * width, width)?.contiguous()?.reshape((rows, config.heads * width))?)
                };
                Ok((part(0)?, part(1)?, part(2)?))
            }
        }
    }
}

impl Block {
    fn forward(&self, config: &GeneratorConfig, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gated { gate, up, down } => {
                down.forward(&nn::gated(&gate.forward(x)?, &up.forward(x)?, config.activation)?)
            }
            Self::GatedJoined { gate_up, down } => {
                let (both, inner) = (gate_up.forward(x)?, config.intermediate);
                let (gate, up) = (both.narrow(1, 0, inner)?, both.narrow(1, inner, inner)?);
                down.forward(&nn::gated(&gate, &up, config.activation)?)
            }
            Self::Plain { up, down } => down.forward(&nn::activate(&up.forward(x)?, config.activation)?),
        }
    }
}

/// x·Wᵀ + b in whatever precision the pass has W, plus scale·(x·Aᵀ)·Bᵀ where an adapter sits on it.
#[derive(Clone, Debug)]
struct Projection {
    matrix: Matrix,
    adapter: Option<(Tensor, Tensor, f64)>,
}

impl Projection {
    fn new(path: &str, view: View<'_>, lora: Option<&Lora>) -> Result<Self> {
        let adapter = match lora.filter(|lora| lora.covers(path)) {
            Some(lora) => Some((view.get(&lora::name_a(path))?, view.get(&lora::name_b(path))?, lora.config().scale())),
            None => None,
        };
        Ok(Self { matrix: view.matrix(path)?, adapter })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some((a, b, scale)) = &self.adapter else { return self.matrix.forward(x) };
        let (base, bias) = match &self.matrix {
            Matrix::Dense(weight, bias) if !weight.track_op() => (Base::Dense(weight.clone()), bias),
            Matrix::Quantised(weight, bias) => (Base::Quantised(weight.clone()), bias),
            // The matrix trains beside its adapter, or is rounded or packed for passes without gradients.
            Matrix::Dense(..) | Matrix::Packed(_) | Matrix::Bf16(..) | Matrix::Int8(_) => {
                let narrow = (nn::linear(x, a, None)? * *scale)?;
                return Ok((self.matrix.forward(x)? + nn::linear(&narrow, b, None)?)?);
            }
        };
        nn::adapted_linear(x, &base, bias.as_ref(), a, b, *scale)
    }
}
