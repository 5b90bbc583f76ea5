//! What a sentence-transformers folder puts around its transformer: pooling, further modules, prompts, a cut of the vector.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::chain::{self, Module};
use super::config::Config;
use super::pooling::Pooling;
use crate::error::{Error, Result};

/// The file that lists the modules.
pub(super) const FILE: &str = "modules.json";
/// The file of prompts and the cut.
pub(super) const SETTINGS: &str = "config_sentence_transformers.json";
/// Key of the width that vectors are cut to.
const TRUNCATE: &str = "truncate_dim";

/// Everything after and around the transformer that decides a vector.
#[derive(Clone, Debug)]
pub(super) struct Modules {
    /// Folder of the transformer inside the model's.
    pub transformer_path: PathBuf,
    pub pooling: Pooling,
    /// What follows the pooling, in order.
    pub chain: Vec<Module>,
    pub query_prompt: String,
    pub passage_prompt: String,
    /// Width that vectors are cut to at the end of the chain.
    truncate: Option<usize>,
    /// `config_sentence_transformers.json`, to be saved again.
    raw: Value,
}

impl Modules {
    /// Reads `modules.json` and the files it names, but for the transformer's own.
    pub fn read(dir: &Path) -> Result<Self> {
        let list_path = dir.join(FILE);
        let list = Config::read(&list_path)?.ok_or_else(|| {
            Error::new(format!("there is no `{}`, so the pooling is not known", list_path.display())).hint(
                "give a sentence-transformers folder; from a bare transformer make one with \
                 SentenceTransformer(modules=[Transformer(DIR), Pooling(...), Normalize()]).save(OUT)",
            )
        })?;
        let mut listed = parts(&list)?.into_iter();
        let (Some((transformer, transformer_path)), Some((pooling, pooling_path))) = (listed.next(), listed.next())
        else {
            return Err(not_a_chain(&list_path, "fewer than two modules"));
        };
        if transformer != "Transformer" || pooling != "Pooling" {
            return Err(not_a_chain(&list_path, &format!("the modules `{transformer}, {pooling}, ...`")));
        }
        let pooling = Pooling::read(&dir.join(pooling_path).join("config.json"))?;
        let mut width = pooling.output_width();
        let mut chain = Vec::new();
        for (at, (kind, path)) in listed.enumerate() {
            let module = Module::read(dir, &kind, path, at + 2, width)?
                .ok_or_else(|| not_a_chain(&list_path, &format!("the module `{kind}`")))?;
            width = module.output_width(width);
            chain.push(module);
        }

        let settings = Config::read_or_empty(&dir.join(SETTINGS))?;
        let default = match settings.get("default_prompt_name").and_then(Value::as_str) {
            None => String::new(),
            Some(name) => prompt(&settings, name).ok_or_else(|| {
                Error::new(format!("`default_prompt_name` of `{}` is `{name}`, which is no prompt", dir.display()))
                    .hint("add it to `prompts` in config_sentence_transformers.json, or set the name to null")
            })?,
        };
        // The names encode_query and encode_document of sentence-transformers look for, in their order.
        let query_prompt = prompt(&settings, "query").unwrap_or_else(|| default.clone());
        let passage_prompt =
            ["document", "passage", "corpus"].iter().find_map(|name| prompt(&settings, name)).unwrap_or(default);
        let truncate = match settings.get(TRUNCATE) {
            None => None,
            Some(_) => Some(settings.size(TRUNCATE, None)?),
        };
        if truncate.is_some_and(|dim| dim > width) {
            return Err(settings.refused(TRUNCATE, &format!("at most {width}, the width of the vectors")));
        }
        let raw = settings.raw().clone();
        Ok(Self { transformer_path, pooling, chain, query_prompt, passage_prompt, truncate, raw })
    }

    /// Refuses a pooling made for vectors of another width than the transformer's.
    pub fn check_width(&self, hidden: usize, transformer: &Path) -> Result<()> {
        if self.pooling.input_width() == hidden {
            return Ok(());
        }
        Err(Error::new(format!(
            "pooling expects vectors of `{}` numbers, the transformer of `{}` gives {hidden}",
            self.pooling.input_width(),
            transformer.display()
        ))
        .hint("pooling and transformer come from different models: copy both from one"))
    }

    /// Width of a vector after the last module, uncut.
    pub fn whole_width(&self) -> usize {
        self.chain.iter().fold(self.pooling.output_width(), |width, module| module.output_width(width))
    }

    /// Width that vectors are cut to; `None` where they are left whole.
    pub fn cut(&self) -> Option<usize> {
        self.truncate.filter(|dim| *dim < self.whole_width())
    }

    /// Cuts vectors to a width, which later saves will say.
    pub fn truncate(&mut self, dim: usize) -> Result<()> {
        let whole = self.whole_width();
        if dim == 0 || dim > whole {
            return Err(Error::new(format!("vectors cannot be cut to `{dim}` numbers, expected 1 to {whole}"))
                .hint("choose a width the model was trained for (Matryoshka)"));
        }
        self.truncate = Some(dim);
        if let Some(map) = self.raw.as_object_mut() {
            map.insert(TRUNCATE.to_owned(), json!(dim));
        }
        Ok(())
    }

    /// Whether the chain ends by scaling vectors to unit length.
    pub fn ends_normalized(&self) -> bool {
        self.chain.last().is_some_and(Module::is_normalize)
    }

    /// Names of all modules in order.
    pub fn names(&self) -> Vec<&'static str> {
        ["Transformer", "Pooling"].into_iter().chain(self.chain.iter().map(Module::name)).collect()
    }

    /// Every prompt of the folder with its name.
    pub fn prompts(&self) -> Vec<(String, String)> {
        let all = self.raw.get("prompts").and_then(Value::as_object).into_iter().flatten();
        all.filter_map(|(name, prompt)| Some((name.clone(), prompt.as_str()?.to_owned()))).collect()
    }

    /// `modules.json`, with the class names that every version of sentence-transformers knows.
    pub fn saved_list(&self) -> Value {
        let folders = ["", "1_Pooling"].into_iter().chain(self.chain.iter().map(|module| module.folder.as_str()));
        let entry = |(at, (path, class)): (usize, (&str, &str))| {
            json!({
                "idx": at,
                "name": at.to_string(),
                "path": path,
                "type": format!("sentence_transformers.models.{class}"),
            })
        };
        folders.zip(self.names()).enumerate().map(entry).collect()
    }

    /// `config_sentence_transformers.json`.
    pub fn saved_settings(&self) -> &Value {
        &self.raw
    }
}

/// Kind and folder of every module of the list.
fn parts(list: &Config) -> Result<Vec<(String, PathBuf)>> {
    let path = list.path().display();
    let mut chain = Vec::new();
    for module in list.raw().as_array().map(Vec::as_slice).unwrap_or_default() {
        let field = |key: &str| module.get(key).and_then(Value::as_str);
        let (Some(kind), Some(folder)) = (field("type"), field("path")) else {
            return Err(Error::new(format!("a module of `{path}` lacks `type` or `path`")));
        };
        let folder = PathBuf::from(folder);
        if folder.components().any(|part| !matches!(part, Component::Normal(_))) {
            let message = format!("`{path}` names the folder `{}`, expected one inside", folder.display());
            return Err(Error::new(message));
        }
        chain.push((kind.rsplit('.').next().unwrap_or_default().to_owned(), folder));
    }
    Ok(chain)
}

fn not_a_chain(path: &Path, got: &str) -> Error {
    let further = chain::KINDS.join(", ");
    Error::new(format!("`{}` lists {got}, expected `Transformer, Pooling` and then any of: {further}", path.display()))
        .hint("choose an encoder without other modules")
}

fn prompt(settings: &Config, name: &str) -> Option<String> {
    settings.get("prompts")?.get(name)?.as_str().map(str::to_owned)
}
