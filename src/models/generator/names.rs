//! The tensors of a decoder by the names they have in checkpoints, with their shapes.
//!
//! A name is a root (`model.` in most causal language models, nothing in bare ones), then the path of the module, then
//! `weight` or `bias`.

use super::config::{Family, FeedForward, GeneratorConfig, NormKind, QueryKeyValue};

/// A linear layer of each decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) struct Linear {
    /// Its module path below the layer, such as `self_attn.q_proj`.
    pub path: &'static str,
    /// Rows of its weight.
    pub outputs: usize,
    /// Columns of its weight.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl Linear {
    /// What peft calls it: the last part of its path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}

/// The paths below a layer of its norms and of the two projections every family has.
pub(super) struct LayerNames {
    pub attention_norm: &'static str,
    pub output: &'static str,
    pub after_attention_norm: &'static str,
    pub feed_forward_norm: &'static str,
    pub down: &'static str,
    pub after_feed_forward_norm: &'static str,
}

impl GeneratorConfig {
    /// What stands before every name but the output layer's in the family's causal language models.
    pub(in crate::models) fn causal_root(&self) -> &'static str {
        match self.family {
            Family::GptNeoX => "gpt_neox.",
            _ => "model.",
        }
    }

    /// The embedding's name.
    pub(in crate::models) fn embedding_name(&self, root: &str) -> String {
        match self.family {
            Family::GptNeoX => format!("{root}embed_in.weight"),
            _ => format!("{root}embed_tokens.weight"),
        }
    }

    /// The output layer's name.
    pub(in crate::models) fn head_name(&self) -> &'static str {
        match self.family {
            Family::GptNeoX => "embed_out.weight",
            _ => "lm_head.weight",
        }
    }

    /// The path of the norm after the last layer.
    pub(super) fn last_norm(&self, root: &str) -> String {
        match self.family {
            Family::GptNeoX => format!("{root}final_layer_norm"),
            _ => format!("{root}norm"),
        }
    }

    pub(super) fn layer_names(&self) -> LayerNames {
        let (output, down) = match self.family {
            Family::GptNeoX => ("attention.dense", "mlp.dense_4h_to_h"),
            _ => ("self_attn.o_proj", "mlp.down_proj"),
        };
        // With norms on both sides, the one after attention has the name that is elsewhere the feed-forward block's.
        let feed_forward_norm = match self.norms_after {
            true => "pre_feedforward_layernorm",
            false => "post_attention_layernorm",
        };
        LayerNames {
            attention_norm: "input_layernorm",
            output,
            after_attention_norm: "post_attention_layernorm",
            feed_forward_norm,
            down,
            after_feed_forward_norm: "post_feedforward_layernorm",
        }
    }

    /// The linear layers of each decoder layer, in the order in which they work.
    pub(in crate::models) fn linears(&self) -> Vec<Linear> {
        let (hidden, queries, keys, inner) = (self.hidden, self.query_width(), self.key_width(), self.intermediate);
        let names = self.layer_names();
        let mut all = Vec::with_capacity(7);
        let mut add = |path, outputs, inputs, bias| all.push(Linear { path, outputs, inputs, bias });
        match self.query_key_value {
            QueryKeyValue::Split => {
                add("self_attn.q_proj", queries, hidden, self.input_bias);
                add("self_attn.k_proj", keys, hidden, self.input_bias);
                add("self_attn.v_proj", keys, hidden, self.input_bias);
            }
            QueryKeyValue::Joined => add("self_attn.qkv_proj", queries + 2 * keys, hidden, self.input_bias),
            QueryKeyValue::JoinedByHead => add("attention.query_key_value", 3 * queries, hidden, self.input_bias),
        }
        add(names.output, hidden, queries, self.output_bias);
        match self.feed_forward {
            FeedForward::Gated => {
                add("mlp.gate_proj", inner, hidden, self.mlp_bias);
                add("mlp.up_proj", inner, hidden, self.mlp_bias);
            }
            FeedForward::GatedJoined => add("mlp.gate_up_proj", 2 * inner, hidden, self.mlp_bias),
            FeedForward::Plain => add("mlp.dense_h_to_4h", inner, hidden, self.mlp_bias),
        }
        add(names.down, hidden, inner, self.mlp_bias);
        all
    }

    /// Names and shapes of all tensors but the output layer.
    pub(in crate::models) fn shapes(&self, root: &str) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![(self.embedding_name(root), vec![self.vocabulary, self.hidden])];
        let norm = |all: &mut Vec<(String, Vec<usize>)>, path: String, width: usize| {
            all.push((format!("{path}.weight"), vec![width]));
            if self.norm == NormKind::Layer {
                all.push((format!("{path}.bias"), vec![width]));
            }
        };
        let names = self.layer_names();
        for layer in 0..self.layers {
            let layer = format!("{root}layers.{layer}");
            norm(&mut all, format!("{layer}.{}", names.attention_norm), self.hidden);
            norm(&mut all, format!("{layer}.{}", names.feed_forward_norm), self.hidden);
            if self.norms_after {
                norm(&mut all, format!("{layer}.{}", names.after_attention_norm), self.hidden);
                norm(&mut all, format!("{layer}.{}", names.after_feed_forward_norm), self.hidden);
            }
            if self.query_key_norm {
                norm(&mut all, format!("{layer}.self_attn.q_norm"), self.head_dim);
                norm(&mut all, format!("{layer}.self_attn.k_norm"), self.head_dim);
            }
            for linear in self.linears() {
                let path = format!("{layer}.{}", linear.path);
                all.push((format!("{path}.weight"), vec![linear.outputs, linear.inputs]));
                if linear.bias {
                    all.push((format!("{path}.bias"), vec![linear.outputs]));
                }
            }
        }
        norm(&mut all, self.last_norm(root), self.hidden);
        all
    }
}
