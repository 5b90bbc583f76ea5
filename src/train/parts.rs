//! The models a stage begins with: the base models, or what an earlier stage left.

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::config::{TrainConfig, generator_format};
use crate::error::Result;
use crate::hub::Origin;
use crate::models::encoder::Encoder;
use crate::models::folder::replace_file;
use crate::models::generator::Generator;
use crate::models::lora::LoraConfig;
use crate::pipeline::Pipeline;
use crate::pipeline::identity::mark_question_side;
use crate::pipeline::selector::{Kind, Selector};
use crate::strategies::Trains;

/// Where the base models are.
#[derive(Clone, Debug)]
pub struct Bases {
    /// Folder of the encoder.
    pub encoder: PathBuf,
    /// Folder of the generator.
    pub generator: PathBuf,
    /// Folder of the selector, where the strategy has one.
    pub selector: Option<PathBuf>,
}

/// Folder of a trained encoder, within a run or a stage.
pub const ENCODER: &str = "encoder";
/// Folder of a generator that trained whole.
pub const GENERATOR: &str = "generator";
/// Folder of a trained selector.
pub const SELECTOR: &str = "selector";
/// Folder of a trained adapter.
pub const ADAPTER: &str = "adapter";

/// Loads an encoder as training wants it.
pub fn encoder(config: &TrainConfig, folder: &Path, device: &Device) -> Result<Encoder> {
    let mut encoder = Encoder::load(folder, device)?;
    // A ranking loss needs its whole batch at once; the encoder still takes no more tokens than that at a time.
    encoder.set_chunks(Some(config.batch_tokens));
    encoder.set_dropout(config.dropout);
    Ok(encoder)
}

/// Loads the base generator, or with `left` the one that a stage left in that folder.
pub fn generator(config: &TrainConfig, base: &Path, left: Option<&Path>, device: &Device) -> Result<Generator> {
    let whole = left.map(|left| left.join(GENERATOR)).filter(|whole| whole.is_dir());
    let format = generator_format(&config.generator_dtype)?;
    let mut generator = Generator::load_as(whole.as_deref().unwrap_or(base), device, format)?;
    generator.set_checkpointing(config.gradient_checkpointing);
    generator.set_dropout(config.dropout);
    if let Some(adapter) = left.map(|left| left.join(ADAPTER)).filter(|adapter| adapter.is_dir()) {
        generator.load_adapter(&adapter)?;
    }
    Ok(generator)
}

/// Loads the base selector, or with `left` the one that a stage left in that folder.
pub fn selector(config: &TrainConfig, base: &Path, left: Option<&Path>, device: &Device) -> Result<Selector> {
    let format = generator_format(&config.generator_dtype)?;
    let candidates = config.dro.candidates;
    let mut selector = match left.map(|left| left.join(SELECTOR)) {
        None => Selector::of_generator(base, candidates, format, device)?,
        Some(left) => {
            let base = matches!(Selector::kind(&left)?, Kind::Adapter(_)).then_some(base);
            Selector::load(&left, base, candidates, format, device)?
        }
    };
    selector.generator.set_checkpointing(config.gradient_checkpointing);
    selector.generator.set_dropout(config.dropout);
    Ok(selector)
}

/// Puts a new adapter on a generator where the settings ask for one and it has none.
pub fn adapt(config: &TrainConfig, generator: &mut Generator) -> Result<()> {
    let (Some(rank), None) = (config.lora_rank, generator.lora()) else { return Ok(()) };
    let lora = LoraConfig {
        rank,
        alpha: config.lora_alpha,
        dropout: config.lora_dropout,
        targets: config.lora_targets.clone(),
        rank_stabilised: config.rslora,
    };
    lora.check_rank(generator.config())?;
    generator.add_lora(&lora, config.seed)
}

/// Writes what was trained into `dir`: the encoder, which searches the pipeline's generation where only its question side
/// moved, and the adapter or the whole generator.
pub fn save(config: &TrainConfig, pipeline: &Pipeline, trains: Trains, dir: &Path) -> Result<()> {
    if trains.encoder() {
        pipeline.encoder.save(&dir.join(ENCODER))?;
        if !trains.passages {
            mark_question_side(&dir.join(ENCODER), pipeline.generation.fingerprint())?;
        }
    }
    if let (true, Some(selector)) = (trains.selector, &pipeline.selector) {
        selector.save(&dir.join(SELECTOR))?;
    }
    if trains.generator {
        if pipeline.generator.lora().is_some() {
            pipeline.generator.save_adapter(&dir.join(ADAPTER))?;
            if let Some(origin) = config.hub.get("generator") {
                name_base(&dir.join(ADAPTER), origin)?;
            }
        } else {
            let folder = dir.join(GENERATOR);
            pipeline.generator.save(&folder)?;
            let template = serde_json::to_vec_pretty(&pipeline.prompt.template)?;
            replace_file(&folder.join("prompt.json"), |path| Ok(std::fs::write(path, &template)?))?;
        }
    }
    Ok(())
}

/// Names the base of an adapter as the hub does: a folder of this machine's cache would tell others nothing.
fn name_base(adapter: &Path, origin: &Origin) -> Result<()> {
    let path = adapter.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["base_model_name_or_path"] = origin.repo.as_str().into();
    config["revision"] = origin.commit.as_str().into();
    let text = serde_json::to_vec_pretty(&config)?;
    replace_file(&path, |temporary| Ok(std::fs::write(temporary, &text)?))
}
