//! `ragtune inspect`: what a model folder holds, and what of it a strategy would train.
//!
//! Weights are loaded as training loads them, so that the counts are what would train and a folder that cannot be used is
//! refused here as there. Types are those in the files.

mod describe;
mod inspected;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use self::inspected::{
    AdapterPart, EncoderPart, GeneratorPart, Inspected, Parameters, SCHEMA, Shape, SpecialToken, TokenizerPart, Trained,
};
use super::{locate, print_json, print_text};
use crate::cli::InspectArgs;
use crate::error::{Context, Error, Result};
use crate::models::Role;
use crate::models::encoder::Encoder;
use crate::models::generator::Generator;
use crate::models::lora::LoraConfig;
use crate::models::params::Params;
use crate::models::text::Text;
use crate::models::weights::{self, Surveyed};
use crate::strategies::{self, STRATEGIES, Strategy};

pub fn run(args: &InspectArgs) -> Result<u8> {
    let named = args.strategy.as_deref().map(strategies::find).transpose()?;
    let strategies: Vec<&Strategy> = named.map_or_else(|| STRATEGIES.iter().collect(), |one| vec![one]);
    let located = locate(&args.model)?;
    let folder = located.folder.as_path();
    let kind = kind_of(folder)?;
    if args.lora_rank.is_some() && kind != "generator" {
        return Err(Error::new(format!("`--lora-rank` is about generators, `{}` is an {kind}", folder.display()))
            .hint("leave `--lora-rank` out"));
    }
    let mut inspected = match kind {
        "adapter" => adapter(folder, &strategies)?,
        "encoder" => encoder(folder, &strategies)?,
        _ => generator(folder, &strategies, lora(args))?,
    };
    inspected.hub = located.origin;
    if args.json {
        print_json(&inspected)?;
    } else {
        print_text(&describe::describe(&inspected))?;
    }
    Ok(0)
}

/// Decides by the files that only one kind of folder has.
fn kind_of(folder: &Path) -> Result<&'static str> {
    if !folder.is_dir() {
        return Err(Error::new(format!("there is no model folder `{}`", folder.display())).hint(
            "give the folder of an encoder, a generator or an adapter, or the name of a model on the hub: owner/name",
        ));
    }
    let has = |name: &str| folder.join(name).is_file();
    if has("adapter_config.json") {
        return Ok("adapter");
    }
    if has("modules.json") {
        return Ok("encoder");
    }
    let Some(config) = read(&folder.join("config.json"))? else {
        let what = if has("record.json") { "a run, not a model" } else { "no model folder" };
        return Err(Error::new(format!(
            "`{}` is {what}: it has neither modules.json nor config.json nor adapter_config.json",
            folder.display()
        ))
        .hint(
            "give the folder that holds the model's config.json; of a run, its encoder, generator or adapter folder",
        ));
    };
    let writes = |name: &Value| name.as_str().is_some_and(|name| name.contains("CausalLM") || name.contains("LMHead"));
    let generates = config.get("architectures").and_then(Value::as_array).is_some_and(|names| names.iter().any(writes));
    Ok(if generates { "generator" } else { "encoder" })
}

fn encoder(folder: &Path, strategies: &[&Strategy]) -> Result<Inspected> {
    let encoder = Encoder::load(folder, &Device::Cpu)?;
    let modules = read(&folder.join("modules.json"))?.unwrap_or_default();
    let modules: Vec<(String, String)> =
        modules.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(module).collect();
    let inner =
        modules.iter().find(|(kind, _)| kind == "Transformer").map_or(Path::new(""), |(_, path)| Path::new(path));
    let inner = folder.join(inner);
    let mut surveyed = weights::survey(&inner, None)?;
    for (_, path) in &modules {
        // A Dense module has weights of its own.
        let dir = folder.join(path);
        if dir != inner && dir.join(weights::SINGLE).is_file() {
            surveyed.add(weights::survey(&dir, None)?);
        }
    }
    let total = encoder.params().count() as u64;
    let unused = encoder.unused();
    let dead = |name: &str| unused.iter().any(|unused| unused == name);
    let idle: u64 = counted(encoder.params(), |name, _| dead(name)).1;
    let embedding = total.saturating_sub(idle + encoder.non_embedding_parameters() as u64);
    Ok(Inspected {
        parameters: Parameters { total, embedding, unused: idle },
        encoder: Some(EncoderPart {
            dimension: encoder.dim(),
            max_length: encoder.max_length(),
            pooling: encoder.pooling_name(),
            normalize: encoder.is_normalized(),
            question_prompt: encoder.prompt(Role::Question).to_owned(),
            passage_prompt: encoder.prompt(Role::Passage).to_owned(),
            prompts: encoder.prompts().into_iter().collect(),
            modules: encoder.module_names(),
            unused,
            dropout: encoder.dropout().named().collect(),
        }),
        tokenizer: Some(tokenizer(encoder.text())),
        trains: trained(strategies, encoder.params(), false, |trains| trains.encoder())?,
        ..common("encoder", folder, &inner, surveyed)?
    })
}

fn generator(folder: &Path, strategies: &[&Strategy], lora: Option<LoraConfig>) -> Result<Inspected> {
    let mut generator = Generator::load(folder, &Device::Cpu)?;
    let total = generator.parameter_count() as u64;
    let layers = generator.non_embedding_parameters() as u64;
    if let Some(lora) = &lora {
        lora.check_rank(generator.config())?;
        generator.add_lora(lora, 0)?;
    }
    let has = |name: &str| folder.join(name).is_file();
    let settings = read(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let chats = has("chat_template.jinja") || settings.get("chat_template").is_some_and(|template| !template.is_null());
    Ok(Inspected {
        parameters: Parameters { total, embedding: total.saturating_sub(layers), unused: 0 },
        generator: Some(GeneratorPart {
            max_positions: generator.max_positions(),
            prompt: match (has("prompt.json"), chats) {
                (true, _) => "prompt.json",
                (false, true) => "chat template",
                (false, false) => "default",
            },
            begin: generator.special().bos,
            end: generator.special().eos.clone(),
            dropout: generator.dropout().named().collect(),
        }),
        tokenizer: Some(tokenizer(generator.text())),
        trains: trained(strategies, generator.params(), lora.is_some(), |trains| trains.generator)?,
        ..common("generator", folder, folder, weights::survey(folder, None)?)?
    })
}

/// An adapter by itself: its base may not be here.
fn adapter(folder: &Path, strategies: &[&Strategy]) -> Result<Inspected> {
    let config = read(&folder.join("adapter_config.json"))?.unwrap_or_default();
    let surveyed = weights::survey(folder, Some("adapter_model.safetensors"))?;
    let (tensors, total) = (surveyed.tensors, surveyed.stored.values().sum());
    let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut trains = Vec::new();
    for strategy in strategies {
        let moves = moves(strategy).generator;
        let (tensors, parameters) = if moves { (tensors, total) } else { (0, 0) };
        trains.push(Trained { strategy: strategy.name, tensors, parameters, lora: moves });
    }
    let inspected = common("adapter", folder, folder, surveyed)?;
    Ok(Inspected {
        family: text("peft_type").unwrap_or_else(|| "unknown".to_owned()),
        architecture: None,
        shape: None,
        parameters: Parameters { total, embedding: 0, unused: 0 },
        adapter: Some(AdapterPart {
            rank: config.get("r").and_then(Value::as_u64),
            alpha: config.get("lora_alpha").and_then(Value::as_f64),
            dropout: config.get("lora_dropout").and_then(Value::as_f64),
            rank_stabilised: config.get("use_rslora").and_then(Value::as_bool),
            targets: config.get("target_modules").cloned().unwrap_or_default(),
            modules: tensors / 2,
            base: text("base_model_name_or_path"),
        }),
        trains,
        ..inspected
    })
}

/// What every kind of folder has; `inner` holds the configuration and the weights.
fn common(kind: &'static str, folder: &Path, inner: &Path, surveyed: Surveyed) -> Result<Inspected> {
    let config = read(&inner.join("config.json"))?.unwrap_or_default();
    // A model for several senses keeps its language model's sizes one level down.
    let sizes = config.get("text_config").unwrap_or(&config);
    let size = |keys: &[&str]| keys.iter().find_map(|key| sizes.get(*key)?.as_u64());
    let architecture = config.get("architectures").and_then(|names| names.get(0)?.as_str()).map(str::to_owned);
    let mut files = BTreeMap::new();
    list(folder, "", &mut files)?;
    Ok(Inspected {
        schema: SCHEMA,
        folder: folder.to_path_buf(),
        hub: None,
        kind,
        family: config.get("model_type").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
        architecture,
        parameters: Parameters { total: 0, embedding: 0, unused: 0 },
        tensors: surveyed.tensors,
        stored: surveyed.stored,
        shape: Some(Shape {
            width: size(&["hidden_size", "dim", "n_embd", "d_model"]),
            inner: size(&["intermediate_size", "hidden_dim", "n_inner"]),
            layers: size(&["num_hidden_layers", "n_layers", "n_layer"]),
            heads: size(&["num_attention_heads", "n_heads", "n_head"]),
            key_value_heads: size(&["num_key_value_heads"]),
            positions: size(&["max_position_embeddings", "n_positions"]),
            vocabulary: size(&["vocab_size"]),
        }),
        encoder: None,
        generator: None,
        adapter: None,
        tokenizer: None,
        trains: Vec::new(),
        bytes: files.values().sum(),
        files,
    })
}

fn lora(args: &InspectArgs) -> Option<LoraConfig> {
    let targets = args.lora_targets.clone().unwrap_or_else(crate::config::lora_targets);
    args.lora_rank.map(|rank| LoraConfig { rank, targets, ..LoraConfig::default() })
}

/// Class, without the package it is from, and folder of a module.
fn module(entry: &Value) -> (String, String) {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    (text("type").rsplit('.').next().unwrap_or_default().to_owned(), text("path").to_owned())
}

fn tokenizer(text: &Text) -> TokenizerPart {
    let mut special: BTreeMap<&'static str, Option<SpecialToken>> = BTreeMap::from([("pad", None)]);
    for (part, (token, id)) in text.special() {
        special.insert(part, Some(SpecialToken { token, id }));
    }
    TokenizerPart { kind: text.kind(), vocabulary: text.vocab_size(), special }
}

/// What each strategy trains of these weights.
fn trained(
    strategies: &[&Strategy],
    params: &Params,
    lora: bool,
    of_this: impl Fn(&strategies::Trains) -> bool,
) -> Result<Vec<Trained>> {
    let (tensors, parameters) = counted(params, |_, trainable| trainable);
    let mut all = Vec::with_capacity(strategies.len());
    for strategy in strategies {
        let moves = of_this(&moves(strategy));
        let (tensors, parameters) = if moves { (tensors, parameters) } else { (0, 0) };
        all.push(Trained { strategy: strategy.name, tensors, parameters, lora: lora && moves });
    }
    Ok(all)
}

/// The parts that all stages of a strategy move together, with its usual settings.
fn moves(strategy: &Strategy) -> strategies::Trains {
    strategy.usual().iter().fold(strategies::Trains::default(), |sum, stage| sum.and(&stage.trains))
}

/// Tensors and numbers of the weights that `chosen(name, trainable)` takes.
fn counted(params: &Params, chosen: impl Fn(&str, bool) -> bool) -> (usize, u64) {
    let taken = params.iter().filter(|(name, param)| chosen(name, param.trainable));
    taken.fold((0, 0), |(tensors, numbers), (_, param)| (tensors + 1, numbers + param.var.elem_count() as u64))
}

/// A JSON file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| {
            Error::new(format!("`{}` is not JSON", path.display())).because(source).hint("copy the file again")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(format!("cannot read `{}`", path.display())).because(error)),
    }
}

/// Every file under a folder by its name from the top, with its bytes.
fn list(folder: &Path, within: &str, into: &mut BTreeMap<String, u64>) -> Result<()> {
    for entry in std::fs::read_dir(folder).context(|| format!("cannot read `{}`", folder.display()))? {
        let entry = entry?;
        let name = format!("{within}{}", entry.file_name().to_string_lossy());
        // Through links: in a cache every file is one.
        let about = std::fs::metadata(entry.path()).context(|| format!("cannot read `{name}`"))?;
        if about.is_dir() {
            list(&entry.path(), &format!("{name}/"), into)?;
        } else {
            into.insert(name, about.len());
        }
    }
    Ok(())
}
