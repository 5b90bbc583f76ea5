//! `ragtune export`: what a run trained, as folders that sentence-transformers, transformers and peft load.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{finished_run, locate, print_json, print_text};
use crate::cli::ExportArgs;
use crate::config::{TrainConfig, generator_format};
use crate::cost::units;
use crate::error::{Context, Error, Result};
use crate::models::folder::replace_folder;
use crate::models::generator::Generator;
use crate::models::weights::{self, Storage};
use crate::report::RunRecord;

/// Marks a folder of several models as one that may be replaced.
const MARK: &str = "export.json";

/// One model of a run in the form it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Model {
    /// A sentence-transformers folder.
    Encoder,
    /// A Hugging Face folder of the whole generator.
    Generator,
    /// A PEFT folder of its adapter.
    Adapter,
}

impl Model {
    /// The folder's name in the run and in an export of several.
    fn name(self) -> &'static str {
        match self {
            Model::Encoder => "encoder",
            Model::Generator => "generator",
            Model::Adapter => "adapter",
        }
    }

    /// The file that every such folder has.
    fn mark(self) -> &'static str {
        match self {
            Model::Encoder => "modules.json",
            Model::Generator => "config.json",
            Model::Adapter => "adapter_config.json",
        }
    }
}

/// What `export --json` prints, and what `export.json` keeps.
#[derive(Serialize)]
struct Exported {
    run: PathBuf,
    strategy: String,
    dtype: &'static str,
    merged: bool,
    models: Vec<ExportedModel>,
}

#[derive(Serialize)]
struct ExportedModel {
    model: Model,
    folder: PathBuf,
    bytes: u64,
}

pub fn run(args: &ExportArgs) -> Result<u8> {
    let storage = Storage::parse(&args.dtype)?;
    let (config, record) = finished_run(&args.run)?;
    let models = chosen(args, &record)?;
    check_target(args, &config)?;
    let export = Export { args, config: &config, record: &record, storage };
    let place = |within: &Path, model: Model| match args.part {
        Some(_) => within.to_path_buf(),
        None => within.join(model.name()),
    };
    let mark = match models.as_slice() {
        [only] if args.part.is_some() => only.mark(),
        _ => MARK,
    };
    let mut exported = Exported {
        run: args.run.clone(),
        strategy: config.strategy.clone(),
        dtype: storage.name(),
        merged: args.merge,
        models: Vec::new(),
    };
    replace_folder(&args.out, mark, |temporary| {
        for model in &models {
            let folder = place(temporary, *model);
            fs::create_dir_all(&folder).context(|| format!("cannot create `{}`", folder.display()))?;
            export.write(*model, &folder)?;
            let (bytes, folder) = (size(&folder)?, place(&args.out, *model));
            exported.models.push(ExportedModel { model: *model, folder, bytes });
        }
        if mark == MARK {
            fs::write(temporary.join(MARK), serde_json::to_vec_pretty(&exported)?)?;
        }
        Ok(())
    })?;
    if args.json {
        print_json(&exported)?;
    } else {
        for one in &exported.models {
            let size = units::bytes(one.bytes);
            print_text(&format!("{:<10} {}  {size}, {}", one.model.name(), one.folder.display(), storage.name()))?;
        }
    }
    Ok(0)
}

/// The models to write; what the run did not train, and a merge of nothing, are refused.
fn chosen(args: &ExportArgs, record: &RunRecord) -> Result<Vec<Model>> {
    let trained = |model: Model| args.run.join(model.name()).is_dir();
    let (encoder, adapter) = (trained(Model::Encoder), trained(Model::Adapter));
    let generator = adapter || trained(Model::Generator);
    let reader = if adapter && !args.merge { Model::Adapter } else { Model::Generator };
    let as_it_was = |role: &str| {
        let model = record.models.iter().find(|model| model.role == role);
        model.map_or_else(|| "unknown".to_owned(), |model| model.name.clone())
    };
    if args.merge && (!adapter || args.part.as_deref() == Some("encoder")) {
        return Err(Error::new(format!(
            "`--merge` adds an adapter to its generator, and there is none to export from `{}`",
            args.run.display()
        ))
        .hint("leave `--merge` out: a generator that trained whole is written whole"));
    }
    let models = match args.part.as_deref() {
        None => [encoder.then_some(Model::Encoder), generator.then_some(reader)].into_iter().flatten().collect(),
        Some("encoder") if encoder => vec![Model::Encoder],
        Some("generator") if generator => vec![reader],
        Some(part @ ("encoder" | "generator")) => {
            return Err(Error::new(format!("the run `{}` trained no {part}", args.run.display()))
                .hint(format!("its {part} is `{}`, as it was", as_it_was(part))));
        }
        Some(other) => {
            return Err(Error::new(format!("unknown part `{other}`, expected `encoder` or `generator`"))
                .hint("leave `--part` out for everything that was trained"));
        }
    };
    if models.is_empty() {
        return Err(Error::new(format!(
            "the run `{}` trained nothing, so there is nothing to export",
            args.run.display()
        ))
        .hint(format!(
            "its models are `{}` and `{}`, as they were",
            as_it_was("encoder"),
            as_it_was("generator")
        )));
    }
    Ok(models)
}

/// Refuses to write over what the export is made from.
fn check_target(args: &ExportArgs, config: &TrainConfig) -> Result<()> {
    let Ok(out) = args.out.canonicalize() else { return Ok(()) };
    let sources = [Some(&args.run), config.encoder.as_ref(), Some(&config.generator)];
    for source in sources.into_iter().flatten() {
        if source.canonicalize().is_ok_and(|source| out.starts_with(&source) || source.starts_with(&out)) {
            return Err(Error::new(format!(
                "`--out {}` would write over `{}`, which the export is made from",
                args.out.display(),
                source.display()
            ))
            .hint("name a folder that does not exist yet"));
        }
    }
    Ok(())
}

/// Everything that decides what is written.
struct Export<'a> {
    args: &'a ExportArgs,
    config: &'a TrainConfig,
    record: &'a RunRecord,
    storage: Storage,
}

impl Export<'_> {
    /// Writes one model into an empty folder.
    fn write(&self, model: Model, folder: &Path) -> Result<()> {
        if model == Model::Generator && self.args.merge {
            self.merge(folder)?;
        } else {
            copy(&self.args.run.join(model.name()), folder)?;
        }
        store_as(folder, self.storage)?;
        let card = folder.join("README.md");
        if !card.exists() {
            fs::write(&card, self.card(model)).context(|| format!("cannot write `{}`", card.display()))?;
        }
        Ok(())
    }

    /// The generator with the adapter's product added to the weights it was trained on.
    fn merge(&self, folder: &Path) -> Result<()> {
        let base = locate(&self.config.pinned("generator", &self.config.generator))?;
        let mut generator = Generator::load(&base.folder, &candle_core::Device::Cpu)?;
        if let Some(format) = generator_format(&self.config.generator_dtype)? {
            generator.quantise(format)?;
        }
        generator.load_adapter(&self.args.run.join(Model::Adapter.name()))?;
        let model = self.record.models.iter().find(|model| model.role == "generator");
        let trained = model.and_then(|model| model.final_fingerprint.as_deref()).unwrap_or_default();
        if generator.params().digest()? != trained {
            return Err(Error::new(format!(
                "`{}` is not the generator that the adapter of `{}` was trained on",
                base.folder.display(),
                self.args.run.display()
            ))
            .hint(
                "put back the generator that the run began with; without `--merge` the adapter is written by itself",
            ));
        }
        // Merged into the numbers it was trained on, rounded where the run rounded them.
        generator.dequantise()?;
        generator.merge_lora()?;
        generator.save(folder)?;
        // As a run saves it beside a generator that trained whole: the prompt belongs to what was trained.
        let prompt: Value = serde_json::from_str(&self.record.prompt_template)?;
        let path = folder.join("prompt.json");
        fs::write(&path, serde_json::to_vec_pretty(&prompt)?).context(|| format!("cannot write `{}`", path.display()))
    }

    /// What people who find the folder should know; the encoder's comes with the encoder.
    fn card(&self, model: Model) -> String {
        let base = self.record.models.iter().find(|model| model.role == "generator");
        let base = base.map_or("an unknown generator", |model| model.name.as_str());
        let (library, load) = match model {
            Model::Encoder => (
                "sentence-transformers",
                "from sentence_transformers import SentenceTransformer\n\
                 vectors = SentenceTransformer(\"this folder\").encode([\"a text\"])"
                    .to_owned(),
            ),
            Model::Generator => (
                "transformers",
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\
                 model = AutoModelForCausalLM.from_pretrained(\"this folder\")\n\
                 tokenizer = AutoTokenizer.from_pretrained(\"this folder\")"
                    .to_owned(),
            ),
            Model::Adapter => (
                "peft",
                format!(
                    "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\
                     model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(\"{base}\"), \"this folder\")"
                ),
            ),
        };
        format!(
            "---\nlibrary_name: {library}\n---\n\n# {}, trained and saved by ragtune\n\n\
             Strategy `{}`, seed {}, {} steps; weights stored as {}. Trained from `{base}`.\n\n```python\n{load}\n```\n",
            match model {
                Model::Encoder => "An encoder",
                Model::Generator => "A generator",
                Model::Adapter => "A LoRA adapter",
            },
            self.record.strategy,
            self.record.seed,
            self.record.steps_done,
            self.storage.name(),
        )
    }
}

/// Copies a folder with everything in it into another, which exists.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).context(|| format!("cannot read `{}`", from.display()))? {
        let (source, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        let copied = if source.is_dir() {
            fs::create_dir_all(&target).context(|| format!("cannot create `{}`", target.display()))?;
            copy(&source, &target)
        } else {
            fs::copy(&source, &target).map(|_bytes| ()).context(|| format!("cannot copy `{}`", source.display()))
        };
        copied?;
    }
    Ok(())
}

/// Stores every file of weights under a folder in a type, and says so in the `config.json` beside it. Weights are read
/// whole on the way, so that a damaged file is found here and not by who loads it.
fn store_as(folder: &Path, storage: Storage) -> Result<()> {
    let mut weighs = false;
    for entry in fs::read_dir(folder).context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            store_as(&path, storage)?;
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            weights::convert(&path, storage)?;
            weighs = true;
        }
    }
    let path = folder.join("config.json");
    if !weighs || !path.is_file() {
        return Ok(());
    }
    let text = fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text)?;
    // A module's own configuration says nothing of types; a transformer's has its key by the older or the newer name.
    if let Some(config) = config.as_object_mut().filter(|config| config.contains_key("model_type")) {
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), storage.torch_name().into());
    }
    fs::write(&path, serde_json::to_vec_pretty(&config)?).context(|| format!("cannot write `{}`", path.display()))
}

/// Bytes of all files under a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry?.path();
        bytes += if path.is_dir() { size(&path)? } else { fs::metadata(&path)?.len() };
    }
    Ok(bytes)
}
