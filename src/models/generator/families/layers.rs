//! What `config.json` says of single layers: which see a window only, which know positions.

use super::super::config::GeneratorConfig;
use super::super::reader::Reader;
use crate::error::{Error, Result};

/// Tokens a token sees in layers with a window, itself included.
pub(super) fn window(read: &Reader<'_>) -> Result<Option<usize>> {
    match read.size("sliding_window")? {
        Some(0) => Err(Error::new("`sliding_window` is `0`, expected at least 1, or null for none")),
        given => Ok(given),
    }
}

/// Gives the window to the layers that `layer_types` names, or to those of `by_rule` where it is absent.
pub(super) fn slide(
    config: &mut GeneratorConfig,
    read: &Reader<'_>,
    window: Option<usize>,
    by_rule: impl Fn(usize) -> bool,
) -> Result<()> {
    let types = read.texts("layer_types")?;
    if let Some(types) = &types {
        if types.len() != config.layers {
            return Err(Error::new(format!(
                "`layer_types` has `{}` entries, expected one for each of {} layers",
                types.len(),
                config.layers
            )));
        }
        if let Some(other) = types.iter().find(|kind| !["full_attention", "sliding_attention"].contains(kind)) {
            return Err(Error::new(format!(
                "`layer_types` holds `{other}`, expected `full_attention` or `sliding_attention`"
            )));
        }
    }
    for (layer, kind) in config.kinds.iter_mut().enumerate() {
        let slides = match &types {
            Some(types) => types[layer] == "sliding_attention",
            None => by_rule(layer),
        };
        if slides && window.is_none() {
            return Err(Error::new(format!("layer {layer} has sliding attention, but no `sliding_window` is in use"))
                .hint("set `sliding_window` in config.json, with `use_sliding_window` where the model has it"));
        }
        kind.window = window.filter(|_| slides);
    }
    Ok(())
}

/// Whether each layer of a SmolLM 3 rotates queries and keys; the key says so despite its name.
pub(super) fn rotated_layers(layers: usize, read: &Reader<'_>) -> Result<Vec<bool>> {
    if let Some(given) = read.numbers("no_rope_layers")? {
        return match given.len() == layers {
            true => Ok(given.into_iter().map(|rotated| rotated != 0.0).collect()),
            false => Err(Error::new(format!(
                "`no_rope_layers` has `{}` entries, expected one for each of {layers} layers",
                given.len()
            ))),
        };
    }
    let every = read.size("no_rope_layer_interval")?.unwrap_or(4).max(1);
    Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(every)).collect())
}
