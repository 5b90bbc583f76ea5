//! The text of `ragtune inspect`.

use std::collections::BTreeMap;

use super::inspected::{Inspected, Shape, SpecialToken};
use crate::cost::units;

/// Before the names of strategies.
const INDENT: &str = "  ";

/// One property a line, names in a column of their own.
pub(super) fn describe(model: &Inspected) -> String {
    let mut lines = Vec::new();
    let longest = model.trains.iter().map(|trained| trained.strategy.len() + INDENT.len()).max().unwrap_or_default();
    let width = (longest + 2).max(14);
    let mut say = |name: &str, value: String| lines.push(format!("{name:<width$}{value}"));
    say("folder", model.folder.display().to_string());
    if let Some(origin) = &model.hub {
        say("hub", format!("{} at {} (commit {})", origin.repo, origin.revision, origin.commit));
    }
    let architecture = model.architecture.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    say("kind", format!("{} of the family {}{architecture}", model.kind, model.family));
    let parameters = &model.parameters;
    let mut counts = format!("{} ({})", parameters.total, units::count(parameters.total));
    if parameters.embedding > 0 {
        counts += &format!(", {} of them in embeddings", parameters.embedding);
    }
    if parameters.unused > 0 {
        counts += &format!(", {} in tensors that play no part", parameters.unused);
    }
    say("parameters", counts);
    let stored: Vec<String> = model.stored.iter().map(|(kind, numbers)| format!("{kind} {numbers}")).collect();
    say("stored as", format!("{} in {} tensors", stored.join(", "), model.tensors));
    if let Some(shape) = &model.shape {
        say("shape", sizes(shape));
    }
    if let Some(encoder) = &model.encoder {
        say("vectors", format!("{} numbers, texts cut to {} tokens", encoder.dimension, encoder.max_length));
        say("modules", encoder.modules.join(", "));
        let normalised = if encoder.normalize { ", scaled to unit length" } else { "" };
        say("pooling", format!("{}{normalised}", encoder.pooling));
        say("prompts", format!("question {:?}, passage {:?}", encoder.question_prompt, encoder.passage_prompt));
        say("dropout", shares(&encoder.dropout));
        if !encoder.unused.is_empty() {
            say("unused", encoder.unused.join(", "));
        }
    }
    if let Some(generator) = &model.generator {
        let begin = generator.begin.map_or_else(|| "none".to_owned(), |id| id.to_string());
        say("positions", format!("{} tokens of prompt and answer", generator.max_positions));
        say("prompt", format!("{}; begins with token {begin}, ends with {:?}", generator.prompt, generator.end));
        say("dropout", shares(&generator.dropout));
    }
    if let Some(adapter) = &model.adapter {
        let known = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        let rank = known(adapter.rank.map(|rank| rank.to_string()));
        let alpha = known(adapter.alpha.map(|alpha| alpha.to_string()));
        let stabilised = if adapter.rank_stabilised == Some(true) { ", rank-stabilised" } else { "" };
        say(
            "adapter",
            format!("rank {rank}, alpha {alpha}{stabilised}, on {} modules: {}", adapter.modules, adapter.targets),
        );
        say("dropout", format!("{} of its inputs in training", known(adapter.dropout.map(|share| share.to_string()))));
        say("base", known(adapter.base.clone()));
    }
    if let Some(tokenizer) = &model.tokenizer {
        let special: Vec<String> =
            tokenizer.special.iter().map(|(part, token)| token_of(part, token.as_ref())).collect();
        say("tokenizer", format!("{}, {} tokens; {}", tokenizer.kind, tokenizer.vocabulary, special.join(", ")));
    }
    for trained in &model.trains {
        let what = match (trained.parameters, trained.lora) {
            (0, _) => "nothing of it".to_owned(),
            (numbers, lora) => {
                let how = if lora { " as a LoRA adapter" } else { "" };
                format!("{numbers} ({}) in {} tensors{how}", units::count(numbers), trained.tensors)
            }
        };
        say(&format!("{INDENT}{}", trained.strategy), format!("trains {what}"));
    }
    say("files", format!("{}, {}", model.files.len(), units::bytes(model.bytes)));
    for (name, bytes) in &model.files {
        say("", format!("{name}  {}", units::bytes(*bytes)));
    }
    lines.join("\n")
}

fn sizes(shape: &Shape) -> String {
    let all = [
        ("width", shape.width),
        ("inner width", shape.inner),
        ("layers", shape.layers),
        ("heads", shape.heads),
        ("key and value heads", shape.key_value_heads),
        ("positions", shape.positions),
        ("vocabulary", shape.vocabulary),
    ];
    let known = all.iter().filter_map(|(name, size)| Some(format!("{name} {}", (*size)?)));
    known.collect::<Vec<_>>().join(", ")
}

/// What `--dropout config` would drop.
fn shares(dropout: &BTreeMap<&'static str, f64>) -> String {
    let all: Vec<String> =
        dropout.iter().map(|(place, share)| format!("{} {share}", place.replace('_', " "))).collect();
    format!("{} by config.json; training drops it with `--dropout config`", all.join(", "))
}

fn token_of(part: &str, token: Option<&SpecialToken>) -> String {
    match token {
        None => format!("no {part}"),
        Some(SpecialToken { token, id: Some(id) }) => format!("{part} {token} ({id})"),
        Some(SpecialToken { token, id: None }) => format!("{part} {token} (not in the vocabulary)"),
    }
}
