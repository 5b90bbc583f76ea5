//! `config.json` of each family to sizes and switches, with the defaults that transformers has for absent keys.
//!
//! What a switch cannot say is refused by name: nothing is computed differently from what the file asks for. Dropout, on which
//! answers do not depend, is read by `decoder`.

mod layers;

use serde_json::Value;

use super::config::{Family, FeedForward, GeneratorConfig, LayerKind, NormKind, QueryKeyValue, Rotation, SUPPORTED};
use super::reader::Reader;
use super::scaling::{RopeScaling, Surroundings};
use crate::error::{Error, Result};
use crate::models::nn::Activation;
use layers::{rotated_layers, slide, window};

/// Keys that change what a model computes in a way that no switch has, and what is expected instead.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("quantization_config", "full-precision weights"),
    ("num_local_experts", "one feed-forward block a layer instead of a mixture of experts"),
    ("num_experts", "one feed-forward block a layer instead of a mixture of experts"),
    ("n_routed_experts", "one feed-forward block a layer instead of a mixture of experts"),
    ("attention_sinks", "attention without sinks"),
];

/// What transformers takes for keys that are absent.
struct Defaults {
    positions: usize,
    eps: f64,
    theta: f64,
    tied: bool,
    activation: &'static str,
    /// H/Hk = 1 where there is none.
    key_value_heads: Option<usize>,
    /// D/H where there is none.
    head_dim: Option<usize>,
}

impl Defaults {
    fn of(family: Family) -> Self {
        let llama = Self {
            positions: 2048,
            eps: 1e-6,
            theta: 1e4,
            tied: false,
            activation: "silu",
            key_value_heads: None,
            head_dim: None,
        };
        let qwen = Self { positions: 32_768, key_value_heads: Some(32), ..llama };
        let gemma = Self {
            positions: 8192,
            tied: true,
            activation: "gelu_pytorch_tanh",
            key_value_heads: Some(4),
            head_dim: Some(256),
            ..llama
        };
        match family {
            Family::Llama => llama,
            Family::Mistral => Self { positions: 131_072, key_value_heads: Some(8), ..llama },
            Family::Qwen2 => qwen,
            Family::Qwen3 => Self { head_dim: Some(128), ..qwen },
            Family::SmolLm3 => Self { positions: 32_768, theta: 2e6, tied: true, key_value_heads: Some(4), ..llama },
            Family::Gemma2 => gemma,
            Family::Gemma3 => Self { positions: 131_072, theta: 1e6, ..gemma },
            Family::GptNeoX => Self { eps: 1e-5, activation: "gelu", ..llama },
            Family::Phi3 => Self { positions: 4096, eps: 1e-5, ..llama },
        }
    }
}

/// Understands the content of a `config.json`.
pub(super) fn parse(value: &Value) -> Result<GeneratorConfig> {
    let name = value.get("model_type").and_then(Value::as_str).unwrap_or("");
    let Some(family) = Family::parse(name) else {
        return Err(Error::new(format!(
            "model type `{name}` is not supported, expected one of: {}",
            SUPPORTED.join(", ")
        ))
        .hint("choose a model whose config.json says one of these as `model_type`"));
    };
    let read = Reader::new(value);
    for (key, expected) in UNSUPPORTED {
        if read.get(key).is_some_and(|value| !is_off(value)) {
            return Err(Error::new(format!("`{key}` is set, expected {expected}"))
                .hint("choose another checkpoint of the model: this one cannot be trained here"));
        }
    }
    let mut config = sizes(family, &read)?;
    switch(&mut config, &read)?;
    check(&config)?;
    Ok(config)
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(entries) => entries.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        _ => false,
    }
}

/// A decoder of these sizes with the switches of Llama.
fn sizes(family: Family, read: &Reader<'_>) -> Result<GeneratorConfig> {
    let defaults = Defaults::of(family);
    let (hidden, heads, layers) =
        (read.required("hidden_size")?, read.required("num_attention_heads")?, read.required("num_hidden_layers")?);
    // Null says "as many as query heads" wherever the key is known.
    let key_value_heads = match read.size("num_key_value_heads")? {
        _ if family == Family::GptNeoX => heads,
        Some(given) => given,
        None if read.has("num_key_value_heads") => heads,
        None => defaults.key_value_heads.unwrap_or(heads),
    };
    for (key, size) in [
        ("hidden_size", hidden),
        ("num_attention_heads", heads),
        ("num_hidden_layers", layers),
        ("num_key_value_heads", key_value_heads),
    ] {
        if size == 0 {
            return Err(Error::new(format!("`{key}` is `0`, expected at least 1")));
        }
    }
    let head_dim = match read.size("head_dim")?.filter(|_| family != Family::GptNeoX).or(defaults.head_dim) {
        Some(given) => given,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::new(format!(
                "`hidden_size` is `{hidden}`, expected a multiple of `num_attention_heads`, which is `{heads}`"
            )));
        }
    };
    let positions = read.size("max_position_embeddings")?.unwrap_or(defaults.positions);
    let entries = rope_entries(read);
    let rotary = rotary(family, head_dim, read, entries)?;
    let around = Surroundings {
        max_positions: positions,
        rotary,
        original: match (family, read.size("original_max_position_embeddings")?) {
            (Family::Phi3, None) if !entries.is_some_and(|entries| entries.has(ORIGINAL)) => Some(4096),
            (_, given) => given,
        },
        yarn_is_long: family == Family::Phi3,
    };
    let rope_scaling = match entries {
        Some(entries) => RopeScaling::parse(&entries, &around)?,
        None => RopeScaling::None,
    };
    let theta_key = if family == Family::GptNeoX { "rotary_emb_base" } else { "rope_theta" };
    let inside = match entries {
        Some(entries) => entries.positive("rope_theta")?,
        None => None,
    };
    let outside = match read.positive(theta_key)? {
        Some(theta) => Some(theta),
        None => read.positive("rope_theta")?,
    };
    let gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    let eps_key = if family == Family::GptNeoX { "layer_norm_eps" } else { "rms_norm_eps" };
    let norm_eps = read.number(eps_key)?.unwrap_or(defaults.eps);
    if norm_eps < 0.0 {
        return Err(Error::new(format!("`{eps_key}` is `{norm_eps}`, expected a number from 0")));
    }
    Ok(GeneratorConfig {
        family,
        vocabulary: read.required("vocab_size")?,
        hidden,
        intermediate: read.required("intermediate_size")?,
        layers,
        heads,
        key_value_heads,
        head_dim,
        rotary,
        max_positions: positions,
        norm: NormKind::Rms,
        norm_eps,
        rope_theta: inside.or(outside).unwrap_or(defaults.theta),
        rope_local_theta: 1e4,
        rope_scaling,
        kinds: vec![LayerKind { window: None, rotation: Rotation::Global }; layers],
        causal: true,
        query_key_value: QueryKeyValue::Split,
        input_bias: false,
        output_bias: false,
        query_key_norm: false,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_soft_cap: None,
        parallel: false,
        norms_after: false,
        feed_forward: FeedForward::Gated,
        activation: activation(read, if gemma { "hidden_activation" } else { "hidden_act" }, defaults.activation)?,
        mlp_bias: false,
        embedding_scale: None,
        logit_soft_cap: None,
        tied: read.flag("tie_word_embeddings", defaults.tied)?,
    })
}

const ORIGINAL: &str = "original_max_position_embeddings";

/// The entries about rotary frequencies, in the newer key or the older one. Where they are kept for each kind of layer,
/// those of layers without a window.
fn rope_entries<'a>(read: &Reader<'a>) -> Option<Reader<'a>> {
    let entries = read.get("rope_parameters").or_else(|| read.get("rope_scaling"))?;
    let of_full = entries.get("full_attention").unwrap_or(entries);
    Some(Reader::inside(of_full, " of rope scaling"))
}

/// R.
fn rotary(family: Family, head_dim: usize, read: &Reader<'_>, entries: Option<Reader<'_>>) -> Result<usize> {
    let key = if family == Family::GptNeoX { "rotary_pct" } else { "partial_rotary_factor" };
    let inside = match entries {
        Some(entries) => entries.positive("partial_rotary_factor")?,
        None => None,
    };
    let given = match inside {
        Some(share) => Some(share),
        None => read.positive(key)?,
    };
    let share = given.unwrap_or(if family == Family::GptNeoX { 0.25 } else { 1.0 });
    if share > 1.0 || (share != 1.0 && !matches!(family, Family::GptNeoX | Family::Phi3)) {
        let expected = if share > 1.0 { "at most 1" } else { "1 for this model type" };
        return Err(Error::new(format!("`{key}` is `{share}`, expected {expected}")));
    }
    let rotary = (head_dim as f64 * share) as usize;
    if rotary == 0 || !rotary.is_multiple_of(2) {
        return Err(match share == 1.0 {
            true => Error::new(format!("`head_dim` is `{head_dim}`, expected an even number above 0")),
            false => Error::new(format!(
                "`{key}` is `{share}`, which rotates `{rotary}` of {head_dim} numbers, expected an even number above 0"
            )),
        });
    }
    Ok(rotary)
}

fn activation(read: &Reader<'_>, key: &str, default: &str) -> Result<Activation> {
    let name = read.text(key)?.unwrap_or(default);
    Activation::parse(name).ok_or_else(|| {
        Error::new(format!(
            "`{key}` is `{name}`, expected one of: silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu"
        ))
    })
}

/// Sets what the family does otherwise than Llama.
fn switch(config: &mut GeneratorConfig, read: &Reader<'_>) -> Result<()> {
    match config.family {
        Family::Llama => {
            (config.input_bias, config.output_bias) = attention_bias(read, false)?;
            config.mlp_bias = read.flag("mlp_bias", false)?;
        }
        Family::Mistral => {
            let window = if read.has("sliding_window") { window(read)? } else { Some(4096) };
            config.kinds.iter_mut().for_each(|kind| kind.window = window);
        }
        Family::Qwen2 | Family::Qwen3 => {
            if config.family == Family::Qwen2 {
                config.input_bias = true;
            } else {
                (config.input_bias, config.output_bias) = attention_bias(read, false)?;
                config.query_key_norm = true;
            }
            let used = read.flag("use_sliding_window", false)?;
            let window = if read.has("sliding_window") { window(read)? } else { Some(4096) };
            let window = window.filter(|_| used);
            let from = read.size("max_window_layers")?.unwrap_or(28);
            slide(config, read, window, |layer| window.is_some() && layer >= from)?;
        }
        Family::SmolLm3 => {
            (config.input_bias, config.output_bias) = attention_bias(read, false)?;
            config.mlp_bias = read.flag("mlp_bias", false)?;
            let rotated = rotated_layers(config.layers, read)?;
            for (kind, rotated) in config.kinds.iter_mut().zip(&rotated) {
                kind.rotation = if *rotated { Rotation::Global } else { Rotation::None };
            }
            let window = window(read)?;
            let used = window.is_some() && read.flag("use_sliding_window", false)?;
            slide(config, read, window, |layer| used && !rotated[layer])?;
        }
        Family::Gemma2 | Family::Gemma3 => gemma(config, read)?,
        Family::GptNeoX => {
            config.norm = NormKind::Layer;
            config.query_key_value = QueryKeyValue::JoinedByHead;
            (config.input_bias, config.output_bias) = attention_bias(read, true)?;
            config.feed_forward = FeedForward::Plain;
            config.mlp_bias = true;
            config.parallel = read.flag("use_parallel_residual", true)?;
        }
        Family::Phi3 => {
            config.query_key_value = QueryKeyValue::Joined;
            config.feed_forward = FeedForward::GatedJoined;
            let window = window(read)?;
            config.kinds.iter_mut().for_each(|kind| kind.window = window);
        }
    }
    Ok(())
}

fn gemma(config: &mut GeneratorConfig, read: &Reader<'_>) -> Result<()> {
    config.norm = NormKind::RmsAroundOne;
    config.norms_after = true;
    (config.input_bias, config.output_bias) = attention_bias(read, false)?;
    config.attention_scale = 1.0 / read.positive("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt();
    config.embedding_scale = Some((config.hidden as f64).sqrt());
    let window = if read.has("sliding_window") { window(read)? } else { Some(4096) };
    // Null is "none"; an absent key is what Gemma 2 was trained with.
    let cap = |key: &str, default: f64| match read.positive(key)? {
        None if config.family == Family::Gemma2 && !read.has(key) => Ok(Some(default)),
        given => Ok::<Option<f64>, Error>(given),
    };
    let (scores, logits) = (cap("attn_logit_softcapping", 50.0)?, cap("final_logit_softcapping", 30.0)?);
    config.logit_soft_cap = logits;
    if config.family == Family::Gemma2 {
        config.attention_soft_cap = scores;
        return slide(config, read, window, |layer| layer.is_multiple_of(2));
    }
    if let Some(cap) = scores {
        return Err(Error::new(format!("`attn_logit_softcapping` is `{cap}`, expected null: Gemma 3 has no such cap"))
            .hint("set it to null in config.json: transformers does not use it either"));
    }
    config.query_key_norm = true;
    config.causal = !read.flag("use_bidirectional_attention", false)?;
    let local = read.get("rope_parameters").and_then(|entries| entries.get("sliding_attention"));
    let inside = match local {
        Some(entries) => Reader::inside(entries, " of rope scaling").positive("rope_theta")?,
        None => None,
    };
    config.rope_local_theta = match inside {
        Some(theta) => theta,
        None => read.positive("rope_local_base_freq")?.unwrap_or(1e4),
    };
    let every = read.size("sliding_window_pattern")?.unwrap_or(6).max(1);
    // A token that sees both sides sees half as far on each.
    let window = if config.causal { window } else { window.map(|window| window / 2 + 1) };
    slide(config, read, window, |layer| !(layer + 1).is_multiple_of(every))?;
    for kind in &mut config.kinds {
        kind.rotation = if kind.window.is_some() { Rotation::Local } else { Rotation::Global };
    }
    Ok(())
}

/// The biases of query, key and value projections, and of the one after attention.
fn attention_bias(read: &Reader<'_>, default: bool) -> Result<(bool, bool)> {
    let bias = read.flag("attention_bias", default)?;
    Ok((bias, bias))
}

fn check(config: &GeneratorConfig) -> Result<()> {
    for (key, size) in [
        ("vocab_size", config.vocabulary),
        ("intermediate_size", config.intermediate),
        ("max_position_embeddings", config.max_positions),
    ] {
        if size == 0 {
            return Err(Error::new(format!("`{key}` is `0`, expected at least 1")));
        }
    }
    if !config.heads.is_multiple_of(config.key_value_heads) {
        return Err(Error::new(format!(
            "`num_key_value_heads` is `{}`, expected a divisor of `num_attention_heads`, which is `{}`",
            config.key_value_heads, config.heads
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
