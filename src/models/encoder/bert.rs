//! BERT and its kin: post-norm layers over learned positions (Devlin et al., arXiv 1810.04805).
//!
//! RoBERTa (arXiv 1907.11692; XLM-R and CamemBERT are the same network) counts positions from after its padding id. MPNet
//! (arXiv 2004.09297) does so too, has no segments, and adds a bias by distance to its scores. DistilBERT (arXiv 1910.01108)
//! has no segments and names of its own. One forward pass serves them all: what differs is data of [`Family`].

use candle_core::Tensor;

use super::config::Config;
use super::positions;
use crate::error::Result;
use crate::models::batch::TokenBatch;
use crate::models::dropout::{Rates, Site};
use crate::models::nn::{self, Activation, Attend, Then};
use crate::models::params::View;

/// What one family is called and has.
#[derive(Debug)]
pub(super) struct Family {
    /// `model_type` of its config.json.
    pub model_type: &'static str,
    /// Its class in transformers.
    pub class: &'static str,
    /// What checkpoints with a head put before every name.
    pub prefix: &'static str,
    /// Beginnings of the names of heads, which have no part in a vector.
    pub heads: &'static [&'static str],
    names: &'static Names,
    /// Key of each setting in config.json.
    keys: &'static Keys,
    segments: bool,
    places: Places,
    distance_bias: bool,
    /// Whether what attention adds is dropped from, as what the feed-forward block adds is.
    drops_attended: bool,
}

#[derive(Debug)]
enum Places {
    /// From 0.
    FromStart,
    /// After `pad_token_id`.
    AfterPadding,
    /// After this id, whatever config.json says.
    After(u32),
}

/// Where the parts of a layer are found.
#[derive(Debug)]
struct Names {
    layer: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attended: &'static str,
    attended_norm: &'static str,
    inner: &'static str,
    outer: &'static str,
    outer_norm: &'static str,
}

#[derive(Debug)]
struct Keys {
    hidden: &'static str,
    layers: &'static str,
    heads: &'static str,
    intermediate: &'static str,
    activation: &'static str,
    /// `None` where it is fixed at 10⁻¹².
    eps: Option<&'static str>,
    /// Of embeddings, and of what each block adds.
    dropout: &'static str,
    attention_dropout: &'static str,
}

const BERT_NAMES: Names = Names {
    layer: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attended: "attention.output.dense",
    attended_norm: "attention.output.LayerNorm",
    inner: "intermediate.dense",
    outer: "output.dense",
    outer_norm: "output.LayerNorm",
};

const MPNET_NAMES: Names = Names {
    query: "attention.attn.q",
    key: "attention.attn.k",
    value: "attention.attn.v",
    attended: "attention.attn.o",
    attended_norm: "attention.LayerNorm",
    ..BERT_NAMES
};

const DISTILBERT_NAMES: Names = Names {
    layer: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attended: "attention.out_lin",
    attended_norm: "sa_layer_norm",
    inner: "ffn.lin1",
    outer: "ffn.lin2",
    outer_norm: "output_layer_norm",
};

const BERT_KEYS: Keys = Keys {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    intermediate: "intermediate_size",
    activation: "hidden_act",
    eps: Some("layer_norm_eps"),
    dropout: "hidden_dropout_prob",
    attention_dropout: "attention_probs_dropout_prob",
};

const DISTILBERT_KEYS: Keys = Keys {
    hidden: "dim",
    layers: "n_layers",
    heads: "n_heads",
    intermediate: "hidden_dim",
    activation: "activation",
    eps: None,
    dropout: "dropout",
    attention_dropout: "attention_dropout",
};

const BERT: Family = Family {
    model_type: "bert",
    class: "BertModel",
    prefix: "bert.",
    heads: &["cls.", "classifier.", "qa_outputs."],
    names: &BERT_NAMES,
    keys: &BERT_KEYS,
    segments: true,
    places: Places::FromStart,
    distance_bias: false,
    drops_attended: true,
};

const ROBERTA: Family = Family {
    model_type: "roberta",
    class: "RobertaModel",
    prefix: "roberta.",
    heads: &["lm_head.", "classifier.", "qa_outputs."],
    places: Places::AfterPadding,
    ..BERT
};

/// Every family of this network.
pub(super) static FAMILIES: [Family; 6] = [
    BERT,
    ROBERTA,
    Family { model_type: "xlm-roberta", class: "XLMRobertaModel", ..ROBERTA },
    Family { model_type: "camembert", class: "CamembertModel", ..ROBERTA },
    Family {
        model_type: "mpnet",
        class: "MPNetModel",
        prefix: "mpnet.",
        names: &MPNET_NAMES,
        segments: false,
        // transformers does not ask config.json here.
        places: Places::After(1),
        distance_bias: true,
        ..ROBERTA
    },
    Family {
        model_type: "distilbert",
        class: "DistilBertModel",
        prefix: "distilbert.",
        heads: &[
            "vocab_transform.",
            "vocab_layer_norm.",
            "vocab_projector.",
            "pre_classifier.",
            "classifier.",
            "qa_outputs.",
        ],
        names: &DISTILBERT_NAMES,
        keys: &DISTILBERT_KEYS,
        segments: false,
        drops_attended: false,
        ..BERT
    },
];

const WORDS: &str = "embeddings.word_embeddings.weight";
const PLACES: &str = "embeddings.position_embeddings.weight";
const SEGMENTS: &str = "embeddings.token_type_embeddings.weight";
const EMBEDDING_NORM: &str = "embeddings.LayerNorm";
/// The table of MPNet's biases: a row a bucket, a column a head.
pub(super) const DISTANCES: &str = "encoder.relative_attention_bias.weight";

/// The sizes and switches of one network.
#[derive(Debug)]
pub(super) struct Bert {
    pub family: &'static Family,
    pub vocabulary: usize,
    /// D.
    pub hidden: usize,
    /// L.
    pub layers: usize,
    heads: usize,
    pub intermediate: usize,
    /// Rows of the table of positions.
    places: usize,
    /// Rows of the table of segments; 0 without one.
    segments: usize,
    /// Positions begin after this id.
    padding: Option<u32>,
    eps: f64,
    activation: Activation,
    /// Dropout by config.json.
    pub rates: Rates,
}

impl Bert {
    /// Understands a config.json; every setting that would change the arithmetic in a way we do not have is refused.
    pub fn read(family: &'static Family, config: &Config) -> Result<Self> {
        let keys = family.keys;
        if config.text("position_embedding_type", "absolute")? != "absolute" {
            return Err(config.refused("position_embedding_type", "`absolute`"));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if config.flag(key, false)? {
                return Err(config.refused(key, "`false`"));
            }
        }
        let activation = Activation::parse(config.text(keys.activation, "gelu")?)
            .ok_or_else(|| config.refused(keys.activation, "one of: gelu, gelu_new, gelu_pytorch_tanh, relu, silu"))?;
        let hidden = config.size(keys.hidden, None)?;
        let heads = config.size(keys.heads, None)?;
        if !hidden.is_multiple_of(heads) {
            return Err(config.refused(keys.heads, &format!("a divisor of {} `{hidden}`", keys.hidden)));
        }
        let places = config.size("max_position_embeddings", None)?;
        let padding = match family.places {
            Places::FromStart => None,
            Places::After(id) => Some(id),
            Places::AfterPadding => {
                let id = config.whole("pad_token_id", Some(1))?;
                Some(u32::try_from(id).map_err(|_| config.refused("pad_token_id", "a token id"))?)
            }
        };
        if padding.is_some_and(|id| id as usize + 1 >= places) {
            let expected = "more, as positions begin after the padding token's id";
            return Err(config.refused("max_position_embeddings", expected));
        }
        const BUCKETS_KEY: &str = "relative_attention_num_buckets";
        if family.distance_bias && config.whole(BUCKETS_KEY, Some(positions::BUCKETS))? != positions::BUCKETS {
            return Err(config.refused(BUCKETS_KEY, &format!("`{}`", positions::BUCKETS)));
        }
        // Absent they are 0.1 in transformers.
        let hidden_dropout = Some(config.dropout(keys.dropout, 0.1)?);
        let rates = Rates {
            embedding: hidden_dropout,
            attention: Some(config.dropout(keys.attention_dropout, 0.1)?),
            attended: hidden_dropout.filter(|_| family.drops_attended),
            feed_forward: hidden_dropout,
        };
        Ok(Self {
            family,
            vocabulary: config.size("vocab_size", None)?,
            hidden,
            layers: config.size(keys.layers, None)?,
            heads,
            intermediate: config.size(keys.intermediate, None)?,
            places,
            segments: if family.segments { config.size("type_vocab_size", Some(2))? } else { 0 },
            padding,
            eps: keys.eps.map_or(Ok(1e-12), |key| config.positive(key, 1e-12))?,
            activation,
            rates,
        })
    }

    /// The most tokens of a sequence.
    pub fn max_positions(&self) -> usize {
        self.places - self.padding.map_or(0, |id| id as usize + 1)
    }

    /// The settings that decide a vector and cannot be seen in the shapes of the weights.
    pub fn identity(&self) -> String {
        let mut text = format!("{} heads={} layer_norm_eps={:e}", self.family.model_type, self.heads, self.eps);
        if self.activation != Activation::Gelu {
            text += &format!(" activation={}", self.activation.name());
        }
        if let Some(id) = self.padding {
            text += &format!(" padding={id}");
        }
        text
    }

    /// Names and shapes of all tensors that decide a vector.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, inner, names) = (self.hidden, self.intermediate, self.family.names);
        let mut all = vec![
            (WORDS.to_owned(), vec![self.vocabulary, d]),
            (PLACES.to_owned(), vec![self.places, d]),
            (format!("{EMBEDDING_NORM}.weight"), vec![d]),
            (format!("{EMBEDDING_NORM}.bias"), vec![d]),
        ];
        if self.segments > 0 {
            all.push((SEGMENTS.to_owned(), vec![self.segments, d]));
        }
        if self.family.distance_bias {
            all.push((DISTANCES.to_owned(), vec![positions::BUCKETS, self.heads]));
        }
        for layer in 0..self.layers {
            let mut push = |part: &str, out: usize, input: Option<usize>| {
                let name = format!("{}.{layer}.{part}", names.layer);
                all.push((format!("{name}.bias"), vec![out]));
                all.push((format!("{name}.weight"), input.map_or(vec![out], |input| vec![out, input])));
            };
            for part in [names.query, names.key, names.value, names.attended] {
                push(part, d, Some(d));
            }
            push(names.attended_norm, d, None);
            push(names.inner, inner, Some(d));
            push(names.outer, d, Some(inner));
            push(names.outer_norm, d, None);
        }
        all
    }

    /// The vectors of all tokens after the last layer, (N, D).
    pub fn states(&self, view: View<'_>, batch: &TokenBatch) -> Result<Tensor> {
        let norm = |x: &Tensor, name: &str| {
            let (weight, bias) = (view.get(&format!("{name}.weight"))?, view.get(&format!("{name}.bias"))?);
            nn::layer_norm(x, &weight, Some(&bias), self.eps)
        };
        let names = self.family.names;
        let scale = 1.0 / ((self.hidden / self.heads) as f64).sqrt();
        let whole = Attend::within(&batch.spans, self.heads, self.heads, scale);
        let bias = match self.family.distance_bias {
            true => Some(positions::distance_bias(&view.get(DISTANCES)?, batch.spans.longest(), batch.ids.device())?),
            false => None,
        };
        let mut x = view.drop_from(norm(&self.embedded(view, batch)?, EMBEDDING_NORM)?, Site::Embedding, 0)?;
        for layer in 0..self.layers {
            let part = |name: &str| format!("{}.{layer}.{name}", names.layer);
            let q = view.linear(&x, &part(names.query))?;
            let k = view.linear(&x, &part(names.key))?;
            let v = view.linear(&x, &part(names.value))?;
            let how = Attend { dropout: view.dropout(Site::Attention, layer)?, ..whole.clone() };
            let attended = match &bias {
                Some(bias) => nn::attention_biased(&q, &k, &v, bias, &how)?,
                None => nn::attention(&q, &k, &v, &how)?,
            };
            let attended = view.linear_dropping(&attended, &part(names.attended), Site::Attended, layer, &x)?;
            x = norm(&attended, &part(names.attended_norm))?;
            let inner = view.linear_then(&x, &part(names.inner), Then::Activate(self.activation))?;
            let outer = view.linear_dropping(&inner, &part(names.outer), Site::FeedForward, layer, &x)?;
            x = norm(&outer, &part(names.outer_norm))?;
        }
        Ok(x)
    }

    /// Words, positions and, where there are any, the first segment, added up: (N, D).
    fn embedded(&self, view: View<'_>, batch: &TokenBatch) -> Result<Tensor> {
        let (words, places) = (view.get(WORDS)?, view.get(PLACES)?);
        let at = match self.padding {
            Some(padding) => positions::after_padding(batch, padding)?,
            None => batch.positions.clone(),
        };
        if self.segments > 0 {
            return nn::bert_embedding(&words, &places, &view.get(SEGMENTS)?, &batch.ids, &at);
        }
        Ok((nn::embedding(&words, &batch.ids)? + nn::embedding(&places, &at)?)?)
    }
}
