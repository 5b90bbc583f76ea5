//! Prompts as conversations: the chat template of a tokenizer, rendered as transformers does it.
//!
//! A template is Jinja text in `chat_template.jinja` or in `tokenizer_config.json`. It sees `messages`, the tokenizer's
//! special tokens by name (`bos_token` and so on) and `add_generation_prompt`, and writes special tokens as text, which the
//! tokenizer turns into their ids.
//!
//! One thing is otherwise than in transformers: `strftime_now` gives 26 July 2024, the date that Llama 3's own template
//! takes where it knows none. A prompt that changed overnight would make evaluation differ from training, and a resumed run
//! from one that was never stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde::Serialize;

use crate::error::{Context, Error, Result};

/// What a tokenizer folder says about conversations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    /// The template.
    source: String,
    /// Special tokens by the names under which templates use them.
    variables: BTreeMap<String, String>,
    /// Ids of the tokens that the tokenizer takes whole.
    added: BTreeMap<String, u32>,
}

impl ChatTemplate {
    /// The template of a model folder, where it has one. Of several, the one called `default`.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let config = json(&folder.join("tokenizer_config.json"))?;
        let file = folder.join("chat_template.jinja");
        let source = if file.is_file() {
            std::fs::read_to_string(&file).context(|| format!("cannot read `{}`", file.display()))?
        } else {
            match config.get("chat_template") {
                None | Some(serde_json::Value::Null) => return Ok(None),
                Some(given) => one_of(given, folder)?,
            }
        };
        let mut variables = BTreeMap::new();
        // The older file serves for what the newer one leaves out.
        for named in [&json(&folder.join("special_tokens_map.json"))?, &config] {
            let entries = named.as_object().into_iter().flatten();
            for (name, token) in entries.filter(|(name, _)| name.ends_with("_token")) {
                if let Some(token) = token.as_str().or_else(|| token.get("content")?.as_str()) {
                    variables.insert(name.clone(), token.to_owned());
                }
            }
        }
        let tokenizer = json(&folder.join("tokenizer.json"))?;
        let added = tokenizer.get("added_tokens").and_then(serde_json::Value::as_array);
        let entry = |token: &serde_json::Value| {
            let id = u32::try_from(token.get("id")?.as_u64()?).ok()?;
            Some((token.get("content")?.as_str()?.to_owned(), id))
        };
        let added = added.into_iter().flatten().filter_map(entry).collect();
        Ok(Some(Self { source, variables, added }))
    }
}

fn one_of(given: &serde_json::Value, folder: &Path) -> Result<String> {
    if let Some(source) = given.as_str() {
        return Ok(source.to_owned());
    }
    let named = |entry: &serde_json::Value| {
        let text = |key: &str| Some(entry.get(key)?.as_str()?.to_owned());
        Some((text("name")?, text("template")?))
    };
    let mut several: BTreeMap<String, String> = given.as_array().into_iter().flatten().filter_map(named).collect();
    several.remove("default").ok_or_else(|| {
        let names: Vec<String> = several.into_keys().collect();
        Error::new(format!(
            "the chat template of `{}` is neither a text nor a list with a `default` one, but has: {}",
            folder.display(),
            names.join(", ")
        ))
        .hint("put the template to use into the folder as chat_template.jinja")
    })
}

fn json(path: &Path) -> Result<serde_json::Value> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(serde_json::Value::Null),
        Err(error) => Err(Error::new(format!("cannot read `{}`", path.display())).because(error)),
    }
}

/// A template ready to render, and how it takes a conversation.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    environment: Environment<'static>,
    variables: BTreeMap<String, Value>,
    /// Whether the template knows a system role. Where it does not, or drops what is said in it, the system text stands
    /// before the user's, as Gemma 3's template has it.
    system_role: bool,
    /// The token that ends the assistant's turn, where the template ends it with one.
    end: Option<u32>,
}

/// Stands for a text in a trial rendering; no template writes it by itself.
const MARK: &str = "ragtune-trial-text";

impl Chat {
    /// Compiles a template and tries it.
    pub fn new(template: &ChatTemplate) -> Result<Self> {
        let environment = environment(&template.source).map_err(|source| {
            Error::new("the generator's chat template cannot be understood")
                .because(source)
                .hint("write a prompt.json without `chat` beside its config.json, or correct the template")
        })?;
        let variables = template.variables.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let mut chat = Self { environment, variables: variables.collect(), system_role: false, end: None };
        let user = Message::new("user", "trial");
        let with_system = chat.render(&[Message::new("system", MARK), user.clone()], true);
        chat.system_role = with_system.is_ok_and(|rendered| rendered.contains(MARK));
        // A template that renders no plain question is of no use: its error is told now.
        chat.render(std::slice::from_ref(&user), true)?;
        // Not every template takes an assistant's words; such a turn ends with the model's own end of text.
        if let Ok(rendered) = chat.render(&[user, Message::new("assistant", MARK)], false) {
            let after = rendered.split_once(MARK).map_or("", |(_, after)| after).trim_start();
            let ends =
                template.added.iter().filter(|(token, _)| !token.is_empty() && after.starts_with(token.as_str()));
            chat.end = ends.max_by_key(|(token, _)| token.len()).map(|(_, id)| *id);
        }
        Ok(chat)
    }

    /// The prompt after which the assistant speaks.
    pub fn prompt(&self, system: &str, user: &str) -> Result<String> {
        if system.is_empty() {
            self.render(&[Message::new("user", user)], true)
        } else if self.system_role {
            self.render(&[Message::new("system", system), Message::new("user", user)], true)
        } else {
            self.render(&[Message::new("user", &format!("{system}\n\n{user}"))], true)
        }
    }

    /// The token that ends the assistant's turn.
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let mut seen = self.variables.clone();
        let messages: Vec<Value> = messages.iter().cloned().map(Value::from_object).collect();
        seen.insert("messages".to_owned(), Value::from(messages));
        seen.insert("add_generation_prompt".to_owned(), Value::from(add_generation_prompt));
        seen.insert("tools".to_owned(), Value::from(()));
        seen.insert("documents".to_owned(), Value::from(()));
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(seen));
        rendered.map_err(|source| {
            Error::new("the generator's chat template does not take a question")
                .because(source)
                .hint("write a prompt.json without `chat` beside its config.json, or correct the template")
        })
    }
}

const NAME: &str = "chat_template";

/// What somebody says. Its keys keep their order, which `tojson` shows.
#[derive(Clone, Debug)]
struct Message {
    role: &'static str,
    content: String,
}

impl Message {
    fn new(role: &'static str, content: &str) -> Self {
        Self { role, content: content.to_owned() }
    }
}

impl Object for Message {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(self.role)),
            "content" => Some(Value::from(self.content.as_str())),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

/// The environment in which transformers renders chat templates.
fn environment(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime);
    environment.add_filter("tojson", tojson);
    environment.add_template_owned(NAME, without_generation_tags(source))?;
    Ok(environment)
}

/// Replaces the tags `generation` and `endgeneration`, by which transformers marks what the assistant said and which render
/// as nothing, by a condition that always holds: blanks around them are treated as before.
fn without_generation_tags(source: &str) -> String {
    let mut replaced = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        replaced.push_str(before);
        replaced.push_str("{%");
        let Some((inside, after)) = tag.split_once("%}") else {
            rest = tag;
            break;
        };
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => replaced.push_str(&inside.replacen("generation", "if true", 1)),
            "endgeneration" => replaced.push_str(&inside.replacen("endgeneration", "endif", 1)),
            _ => replaced.push_str(inside),
        }
        replaced.push_str("%}");
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it; `indent` is the only option.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let style = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, style))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)),
    };
    let bad = |source: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, "cannot write JSON").with_source(source)
    };
    written.map_err(bad)?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&bytes).into_owned()))
}

/// One line with a blank after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `datetime.strftime` of the first moment of 26 July 2024, a Friday.
fn strftime(format: String) -> Result<String, minijinja::Error> {
    let mut written = String::with_capacity(format.len());
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            written.push(character);
            continue;
        }
        let mut directive = characters.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = characters.next();
        }
        let text = match directive {
            Some('d' | 'e') => "26",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('B') => "July",
            Some('b' | 'h') => "Jul",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('j') => "208",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('F') => "2024-07-26",
            Some('T') => "00:00:00",
            Some('%') => "%",
            other => {
                let name = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now does not know `%{name}`");
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        written.push_str(match (unpadded, text) {
            (true, "07") => "7",
            (true, "00") => "0",
            _ => text,
        });
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
