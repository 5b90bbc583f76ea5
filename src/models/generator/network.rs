//! The decoder as one forward pass sees it: embedding, L layers, last norm.
//!
//! N tokens of all sequences one after the other, M chosen tokens, D hidden width, H query heads, Hk key and value heads,
//! Dh head width.

use std::sync::Arc;

use candle_core::Tensor;

use super::config::GeneratorConfig;
use super::decoder::Decoder;
use super::layer::{Layer, Norm};
use super::rope::{Place, Rope};
use crate::error::Result;
use crate::models::batch::TokenBatch;
use crate::models::checkpointing::Tape;
use crate::models::dropout::{Site, drop_from};
use crate::models::lora::Lora;
use crate::models::nn::{self, Attend, Dropout, Piece};
use crate::models::params::View;

/// The weights of one forward pass, variables or detached as the pass wants them.
#[derive(Clone, Debug)]
pub(in crate::models) struct Network {
    pub config: GeneratorConfig,
    pub rope: Rope,
    pub layers: Vec<Layer>,
    embedding: Tensor,
    embedding_dropout: Option<Dropout>,
    norm: Norm,
}

impl Network {
    /// Resolves every weight by name. Where the view drops something, the network is for one batch alone: the one whose
    /// tokens the dropout counts.
    pub fn new(decoder: &Decoder, root: &str, view: View<'_>, lora: Option<&Lora>) -> Result<Self> {
        let config = decoder.config();
        let layer = |index| Layer::new(config, index, root, view, lora);
        Ok(Self {
            config: config.clone(),
            rope: decoder.rope().clone(),
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            embedding: view.get(&config.embedding_name(root))?,
            embedding_dropout: view.dropout(Site::Embedding, 0)?,
            norm: Norm::new(config, &config.last_norm(root), view)?,
        })
    }

    /// States after the last norm: (N, D), or (M, D) of the tokens named by `rows` (M) u32.
    ///
    /// Every token attends to its own sequence, in a causal model to itself and what stands before it there. In the last
    /// layer only the chosen tokens go on after attention. `keep` sees each layer's keys (rotated) and values, (N, Hk·Dh).
    pub fn states(
        &self,
        batch: &TokenBatch,
        rows: Option<&Tensor>,
        mut keep: impl FnMut(usize, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let config = &self.config;
        let tables = self.rope.tables(&places(batch)?, batch.ids.device())?;
        let whole = Attend::within(&batch.spans, config.heads, config.key_value_heads, config.attention_scale);
        let mut x = self.embed(&batch.ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let (query, key, value) = layer.attention_inputs(config, &x, &tables)?;
            keep(index, &key, &value)?;
            let how = self.attend(layer, whole.pieces.clone());
            let mixed = nn::attention(&query, &key, &value, &how)?;
            let rows = rows.filter(|_| index + 1 == self.layers.len());
            x = layer.on_rows(config, &x, mixed, rows)?;
        }
        self.finish(&x)
    }

    /// [`Network::states`] with gradients, where each layer goes through `tape` and forgets its inside.
    pub fn states_on(&self, batch: &TokenBatch, rows: Option<&Tensor>, tape: &Tape) -> Result<Tensor> {
        let tables = self.rope.tables(&places(batch)?, batch.ids.device())?;
        let config = Arc::new(self.config.clone());
        let pieces = Attend::within(&batch.spans, 1, 1, 1.0).pieces;
        let mut x = self.embed(&batch.ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let (config, layer, tables) = (Arc::clone(&config), layer.clone(), tables.clone());
            let how = self.attend(&layer, pieces.clone());
            let rows = rows.filter(|_| index + 1 == self.layers.len()).cloned();
            x = tape.run(&x, move |x| {
                let (query, key, value) = layer.attention_inputs(&config, x, &tables)?;
                layer.on_rows(&config, x, nn::attention(&query, &key, &value, &how)?, rows.as_ref())
            })?;
        }
        self.finish(&x)
    }

    /// What the first layer begins with: (N, D) of token ids (N).
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let x = nn::embedding(&self.embedding, ids)?;
        let x = match self.config.embedding_scale {
            // The factor is rounded to f32 first, as in transformers.
            Some(scale) => (x * f64::from(scale as f32))?,
            None => x,
        };
        drop_from(x, self.embedding_dropout.as_ref())
    }

    /// The last norm.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(&self.config, x)
    }

    /// How a layer attends over these pieces.
    pub fn attend(&self, layer: &Layer, pieces: Vec<Piece>) -> Attend {
        let config = &self.config;
        Attend {
            pieces,
            heads: config.heads,
            key_heads: config.key_value_heads,
            scale: config.attention_scale,
            causal: config.causal,
            // A window counts the token itself, `Attend` only the others.
            window: layer.kind.window.map(|window| window - 1),
            soft_cap: config.attention_soft_cap,
            dropout: layer.attention_dropout.clone(),
        }
    }
}

/// Where each token of a batch stands in its own sequence.
pub(super) fn places(batch: &TokenBatch) -> Result<Vec<Place>> {
    let lengths = batch.spans.lengths().flat_map(|length| std::iter::repeat_n(length, length));
    let positions = batch.positions.to_vec1::<u32>()?;
    Ok(positions.into_iter().zip(lengths).map(|(at, length)| Place { position: at as usize, length }).collect())
}
