//! Adapters on disk as peft writes them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::generator::Generator;
use super::super::weights::Weights;
use super::super::{folder, weights};
use super::{ALL_LINEAR, LoraConfig, name_a, name_b};
use crate::error::{Context, Error, Result};

/// The settings of an adapter.
const CONFIG: &str = "adapter_config.json";
/// The weights of an adapter.
const WEIGHTS: &str = "adapter_model.safetensors";

impl Generator {
    /// Writes the adapter, in f32, to a folder that peft and [`Generator::load_adapter`] read. Durable when it returns; a
    /// crash leaves the old folder or the new one.
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        let Some(lora) = &self.lora else {
            return Err(Error::new("the generator has no adapter to save").hint("save the generator itself"));
        };
        let mut tensors = BTreeMap::new();
        for path in &lora.modules {
            for name in [name_a(path), name_b(path)] {
                let tensor = self.params.get(&name)?.var.as_detached_tensor();
                tensors.insert(name, tensor);
            }
        }
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.origin().to_string_lossy(),
            "r": lora.config.rank,
            "lora_alpha": lora.config.alpha,
            "lora_dropout": lora.config.dropout,
            "use_rslora": lora.config.rank_stabilised,
            "target_modules": lora.config.targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
        });
        folder::replace_folder(dir, CONFIG, |temporary| {
            let text = serde_json::to_string_pretty(&config)?;
            std::fs::write(temporary.join(CONFIG), text).context(|| format!("cannot write `{}`", dir.display()))?;
            weights::write(&temporary.join(WEIGHTS), &tensors)
        })
    }

    /// Puts a saved adapter on the generator and freezes everything else.
    ///
    /// Settings of peft that change what an adapter computes and are not supported here are errors that name them, and so
    /// are missing, surplus, misshapen and non-finite tensors; the generator is then as before.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|source| {
            Error::new(format!("cannot read the adapter's `{}`", path.display()))
                .hint("give the folder of a LoRA adapter: adapter_config.json and adapter_model.safetensors")
                .because(source)
        })?;
        let value: Map<String, Value> =
            serde_json::from_str(&text).context(|| format!("`{}` is not a JSON object", path.display()))?;
        let config = understand(&value).map_err(|error| {
            let hint = error.find_hint().unwrap_or_else(|| "train a plain LoRA adapter".to_owned());
            Error::new(format!("cannot use the adapter `{}`: {error}", dir.display())).hint(hint)
        })?;
        let file = dir.join(WEIGHTS);
        let mut found = Weights::read_file(&file, self.device())?;
        config.check()?;
        let known = config.modules(self.config())?;
        let expected: Vec<String> = known.iter().flat_map(|path| [name_a(path), name_b(path)]).collect();
        if let Some(surplus) = found.names().find(|name| !expected.iter().any(|known| known == name)) {
            return Err(Error::new(format!(
                "`{}` holds a tensor `{surplus}` that none of its target modules needs",
                file.display()
            ))
            .hint("load the adapter on the generator it was trained for"));
        }
        self.install(&config, |path, a_shape, b_shape| {
            let a = found.take(&name_a(path), &[a_shape.0, a_shape.1])?;
            let b = found.take(&name_b(path), &[b_shape.0, b_shape.1])?;
            Ok((a, b))
        })
    }
}

/// Settings of peft that must be absent, null, false or empty: each makes an adapter compute something else.
const UNSUPPORTED: [&str; 21] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "exclude_modules",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "lora_ga_config",
    "ensure_weight_tying",
];

fn understand(value: &Map<String, Value>) -> Result<LoraConfig> {
    let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("");
    if kind != "LORA" {
        return Err(Error::new(format!("`peft_type` is `{kind}`, expected `LORA`")));
    }
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(entries) => entries.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        _ => false,
    };
    if let Some(key) = UNSUPPORTED.iter().find(|key| value.get(**key).is_some_and(|value| !is_off(value))) {
        return Err(Error::new(format!("`{key}` is `{}`, which is not supported", value[*key])));
    }
    match value.get("bias") {
        None | Some(Value::Null) => {}
        Some(Value::String(bias)) if bias == "none" => {}
        Some(other) => return Err(Error::new(format!("`bias` is `{other}`, expected `none`"))),
    }
    let number = |key: &str| {
        value.get(key).and_then(Value::as_f64).ok_or_else(|| Error::new(format!("`{key}` is missing or not a number")))
    };
    let rank = value.get("r").and_then(Value::as_u64).and_then(|rank| usize::try_from(rank).ok());
    let rank = rank.ok_or_else(|| Error::new("`r` is missing or not a whole number"))?;
    let named = |target: &Value| target.as_str().map(str::to_owned);
    let targets: Option<Vec<String>> = match value.get("target_modules") {
        Some(Value::Array(targets)) => targets.iter().map(named).collect(),
        Some(Value::String(all)) if all.eq_ignore_ascii_case(ALL_LINEAR) => Some(vec![ALL_LINEAR.to_owned()]),
        _ => None,
    };
    let targets = targets.ok_or_else(|| {
        Error::new(format!("`target_modules` is neither a list of module names nor `{ALL_LINEAR}`"))
            .hint("write the modules that a pattern stands for as a list into adapter_config.json")
    })?;
    let dropout = if value.contains_key("lora_dropout") { number("lora_dropout")? } else { 0.0 };
    let rank_stabilised = match value.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(used)) => *used,
        Some(other) => return Err(Error::new(format!("`use_rslora` is `{other}`, expected true or false"))),
    };
    Ok(LoraConfig { rank, alpha: number("lora_alpha")?, dropout, targets, rank_stabilised })
}
