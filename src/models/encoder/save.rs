//! An encoder as a sentence-transformers folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Encoder, modules};
use crate::error::{Context, Error, Result};
use crate::models::folder::replace_folder;
use crate::models::weights;

/// The model card of a folder.
pub(super) const CARD: &str = "README.md";
/// The first line of the cards we write.
const TITLE: &str = "# An encoder saved by ragtune";
/// What is put below somebody else's card, once.
const NOTE: &str = "## Saved by ragtune";

/// Writes weights, configuration, modules, tokenizer and model card; durable and whole on return.
pub(super) fn save(encoder: &Encoder, dir: &Path) -> Result<()> {
    if let Some((name, packed)) = encoder.params.quantised().next() {
        let format = packed.format().name();
        return Err(Error::new(format!("`{name}` is kept as {format}, so the encoder has no f32 weights to save"))
            .hint("load the encoder with f32 weights to save it"));
    }
    replace_folder(dir, modules::FILE, |folder| {
        let of_transformer = |name: &str| !encoder.modules.chain.iter().any(|module| module.owns(name));
        let own = encoder.params.iter().filter(|(name, _)| of_transformer(name));
        let own: BTreeMap<_, _> = own.map(|(name, param)| (name.to_owned(), param.var.as_detached_tensor())).collect();
        weights::write(&folder.join(weights::SINGLE), &own)?;
        encoder.text.write_files(folder)?;
        write_json(&folder.join("config.json"), &encoder.backbone.saved_config())?;
        write_json(&folder.join(modules::FILE), &encoder.modules.saved_list())?;
        write_json(&folder.join(modules::SETTINGS), encoder.modules.saved_settings())?;
        let limits = json!({
            "max_seq_length": encoder.limits.max_length,
            "do_lower_case": encoder.limits.do_lower_case,
        });
        write_json(&folder.join("sentence_bert_config.json"), &limits)?;
        let pooling = folder.join("1_Pooling");
        fs::create_dir(&pooling)?;
        write_json(&pooling.join("config.json"), &encoder.modules.pooling.saved_config())?;
        for module in &encoder.modules.chain {
            module.save(folder, &encoder.params)?;
        }
        let card = folder.join(CARD);
        fs::write(&card, model_card(encoder)).context(|| format!("cannot write `{}`", card.display()))
    })
}

/// The card of the folder the encoder came from, with a note below it; one of our own where there was none.
fn model_card(encoder: &Encoder) -> String {
    match encoder.card.as_deref() {
        Some(card) if card.contains(NOTE) => card.to_owned(),
        Some(card) if !card.contains(TITLE) => {
            format!("{}\n\n{NOTE}\n\nThe weights were saved by ragtune. {}\n", card.trim_end(), description(encoder))
        }
        _ => format!(
            "---\nlibrary_name: sentence-transformers\ntags:\n- sentence-transformers\n- feature-extraction\n---\n\n\
             {TITLE}\n\n{}\n\n\
             ```python\nfrom sentence_transformers import SentenceTransformer\n\
             vectors = SentenceTransformer(\"this folder\").encode([\"a text\"])\n```\n",
            description(encoder)
        ),
    }
}

fn description(encoder: &Encoder) -> String {
    let backbone = &encoder.backbone;
    format!(
        "`{}` of {} layers and width {}, f32. A text is cut to {} tokens. Modules: {}; pooling: {}. A vector has {} numbers{}.",
        backbone.family(),
        backbone.layers(),
        backbone.hidden(),
        encoder.max_length(),
        encoder.module_names().join(", "),
        encoder.pooling_name(),
        encoder.dim(),
        if encoder.is_normalized() { " and unit length" } else { "" }
    )
}

/// Writes a JSON file.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    fs::write(path, text + "\n").context(|| format!("cannot write `{}`", path.display()))
}
