//! The prompt: settings, not code. A generator folder may carry its own as `prompt.json`.
//!
//! A prompt is either plain text (instruction, passages, question) or a conversation: a system text and a user text that
//! holds passages and question, put together by the tokenizer's chat template. Without a `prompt.json` a folder with a chat
//! template gets a conversation ([`PromptTemplate::for_chat`]) and any other plain text ([`PromptTemplate::default`]).

mod chat;

use std::ops::Range;
use std::path::Path;

use ragtune_index::Passage;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::models::text::{Located, Text};
use chat::Chat;
pub use chat::ChatTemplate;

/// What the assistant is told where a folder with a chat template has no `prompt.json`.
const SYSTEM: &str = "Answer the question from the given context, in as few words as possible.";

/// How passages, question and answer are put together. `{title}`, `{text}`, `{passages}` and `{question}` are replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTemplate {
    /// Whether the prompt is a conversation rendered by the tokenizer's chat template.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub chat: bool,
    /// In a conversation: what the assistant is told first; nothing where it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// In a conversation: what the user says, with `{passages}` and `{question}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// In plain text: comes once, before everything else.
    pub instruction: String,
    /// Comes once for every passage.
    pub passage: String,
    /// In plain text: comes last; the generator continues after it.
    pub question: String,
    /// Put before an answer when it is scored or learnt (often the blank of its first word).
    pub answer_prefix: String,
    /// In plain text: whether the sequence begins with the tokenizer's begin-of-sequence token. A chat template writes it
    /// itself where there is one.
    pub bos: bool,
    /// Whether a learnt answer ends with the end-of-sequence token, in a conversation with what ends the assistant's turn.
    pub eos: bool,
    /// The most tokens a prompt may have, the answer not counted; passages are shortened to fit.
    pub max_prompt_tokens: usize,
    /// The chat template of the folder, where the prompt is a conversation.
    #[serde(skip)]
    conversation: Option<ChatTemplate>,
}

impl Default for PromptTemplate {
    fn default() -> Self {
        Self {
            chat: false,
            system: None,
            user: None,
            instruction: String::new(),
            passage: "Context: {title}: {text}\n".into(),
            question: "Question: {question}\nAnswer:".into(),
            answer_prefix: " ".into(),
            bos: true,
            eos: true,
            max_prompt_tokens: 448,
            conversation: None,
        }
    }
}

impl PromptTemplate {
    /// A conversation: a system text that asks for short answers from the context, then all passages and the question in one
    /// turn of the user.
    pub fn for_chat() -> Self {
        Self {
            chat: true,
            system: Some(SYSTEM.into()),
            user: Some("{passages}Question: {question}".into()),
            question: String::new(),
            answer_prefix: String::new(),
            bos: false,
            ..Self::default()
        }
    }

    /// Reads a template from a JSON file; keys that are absent are those of the default template of its kind.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_over(path, [Self::default(), Self::for_chat()])
    }

    /// [`PromptTemplate::read`] with other defaults: one for plain text and one for a conversation.
    fn read_over(path: &Path, defaults: [Self; 2]) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).context(|| format!("the prompt file `{}` cannot be read", path.display()))?;
        let template = understand(&text, defaults).map_err(|source| {
            Error::new(format!("the prompt file `{}` is not a prompt template", path.display())).because(source).hint(
                "its keys are instruction, passage, question, answer_prefix, bos, eos, max_prompt_tokens; with chat: \
                 system, user, passage, answer_prefix, eos, max_prompt_tokens",
            )
        })?;
        template.check().map_err(|(what, hint)| {
            Error::new(format!("the prompt file `{}` must {what}", path.display())).hint(hint)
        })?;
        Ok(template)
    }

    /// The template of a generator folder: its `prompt.json`, or the default for a folder with or without a chat template.
    pub fn of_generator(folder: &Path) -> Result<Self> {
        Self::of_folder(folder, &folder.join("prompt.json"), [Self::default(), Self::for_chat()])
    }

    /// The template in the file `path`, where there is one, or the default for a model folder without and with a chat
    /// template.
    pub(in crate::pipeline) fn of_folder(folder: &Path, path: &Path, defaults: [Self; 2]) -> Result<Self> {
        let mut template = match path.is_file() {
            true => Self::read_over(path, defaults)?,
            false => {
                let [plain, chat] = defaults;
                if ChatTemplate::of_folder(folder)?.is_some() { chat } else { plain }
            }
        };
        if template.chat {
            template.conversation = Some(ChatTemplate::of_folder(folder)?.ok_or_else(|| {
                Error::new(format!("`{}` asks for a chat template, but the tokenizer has none", path.display()))
                    .hint("take out `chat`, or put the model's chat_template.jinja or tokenizer_config.json beside it")
            })?);
        }
        Ok(template)
    }

    /// What must be otherwise, and how to mend it.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const EXAMPLE: &str = "see `prompt.json` in the example generator folder";
        let user = self.user.as_deref().unwrap_or_default();
        if !self.passage.contains("{text}") || !(self.chat || self.question.contains("{question}")) {
            return Err(("use {question} in `question` and {text} in `passage`", EXAMPLE));
        }
        if !self.chat && (self.system.is_some() || self.user.is_some()) {
            return Err(("have `chat` where it has `system` or `user`", "add \"chat\": true, or take them out"));
        }
        if self.chat && !(user.contains("{question}") && user.contains("{passages}")) {
            return Err(("use {passages} and {question} in `user`", "leave `user` out for the default one"));
        }
        if self.chat && !(self.instruction.is_empty() && self.question.is_empty()) {
            return Err(("not have `instruction` or `question` with `chat`", "put them into `system` and `user`"));
        }
        if self.chat && self.bos {
            return Err(("not ask for `bos` with `chat`", "take it out: the chat template writes what it needs"));
        }
        Ok(())
    }
}

fn understand(text: &str, [plain, chat]: [PromptTemplate; 2]) -> Result<PromptTemplate, serde_json::Error> {
    let given: serde_json::Value = serde_json::from_str(text)?;
    let defaults = if given.get("chat") == Some(&true.into()) { chat } else { plain };
    let mut whole = serde_json::to_value(defaults)?;
    match (whole.as_object_mut(), given) {
        (Some(whole), serde_json::Value::Object(given)) => whole.extend(given),
        (_, given) => return serde_json::from_value(given),
    }
    serde_json::from_value(whole)
}

/// A prompt as token ids.
#[derive(Clone, Debug)]
pub struct PromptIds {
    /// Token ids, begin-of-sequence included.
    pub ids: Vec<u32>,
    /// Whether a passage was shortened to fit.
    pub truncated: bool,
    /// The tokens of each passage as it stands in the prompt, in order; none twice. A range is empty where a chat template
    /// changed the passage's text, so that it cannot be found; an answer has no passages.
    pub passages: Vec<Range<usize>>,
}

/// A template bound to a tokenizer's special tokens.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The settings.
    pub template: PromptTemplate,
    bos: Option<u32>,
    eos: Option<u32>,
    chat: Option<Chat>,
}

impl Prompt {
    /// Binds a template to the begin- and end-of-sequence tokens of a generator; a template that asks for a token the
    /// generator does not have is refused, and so is a chat template that cannot be rendered.
    pub fn new(template: PromptTemplate, bos: Option<u32>, eos: Option<u32>) -> Result<Self> {
        if template.bos && bos.is_none() {
            return Err(Error::new("the prompt asks for a begin-of-sequence token, but the generator names none")
                .hint("set `bos` to false in prompt.json, or name `bos_token_id` in the generator's config.json"));
        }
        let chat = match (&template.conversation, template.chat) {
            (Some(conversation), true) => Some(Chat::new(conversation)?),
            (None, true) => {
                return Err(Error::new("the prompt asks for a chat template, but was not read with its generator")
                    .hint("read it with the generator's folder"));
            }
            (_, false) => None,
        };
        if eos.is_none() && chat.as_ref().and_then(Chat::end).is_none() {
            return Err(Error::new("the generator names no end-of-sequence token, so no answer would ever end")
                .hint("name `eos_token_id` in the generator's config.json"));
        }
        Ok(Self { template, bos, eos, chat })
    }

    /// The token that ends what is learnt: that of the assistant's turn in a conversation, else the end of the sequence.
    pub fn end(&self) -> Option<u32> {
        self.chat.as_ref().and_then(Chat::end).or(self.eos)
    }

    /// The tokens that end an answer: the end of the sequence, and in a conversation that of the assistant's turn.
    pub fn stop_ids(&self) -> Vec<u32> {
        let turn = self.chat.as_ref().and_then(Chat::end).filter(|end| Some(*end) != self.eos);
        self.eos.into_iter().chain(turn).collect()
    }

    /// Tokens of the prompt for a question over some passages (none: closed book), at most `limit` of them. What does not
    /// fit is cut from the end of the longest passage text, whole words at a time, until it does; the question is never cut.
    pub fn ids(&self, text: &Text, passages: &[&Passage], question: &str, limit: usize) -> Result<PromptIds> {
        let mut words: Vec<Vec<&str>> = passages.iter().map(|passage| passage.text.split(' ').collect()).collect();
        let mut assembled = self.assemble(passages, None, question)?;
        let mut encoded = text.locate(&assembled.text)?;
        let begin: Vec<u32> = self.bos.filter(|_| self.template.bos).into_iter().collect();
        let mut truncated = false;
        while begin.len() + encoded.ids.len() > limit {
            let Some(longest) = words.iter_mut().max_by_key(|words| words.len()).filter(|words| !words.is_empty())
            else {
                return Err(Error::new(format!(
                    "the question `{}` alone takes {} tokens, more than the limit of {limit}",
                    shorten(question),
                    begin.len() + encoded.ids.len()
                ))
                .hint("raise `--max-prompt-tokens`, up to the generator's position limit"));
            };
            truncated = true;
            // At least one word, at most what the excess suggests at one token a word.
            let excess = begin.len() + encoded.ids.len() - limit;
            let drop = (excess / 2).clamp(1, longest.len());
            longest.truncate(longest.len() - drop);
            assembled = self.assemble(passages, Some(&words), question)?;
            encoded = text.locate(&assembled.text)?;
        }
        let passages = assembled.passages.iter().map(|bytes| tokens_of(bytes, &encoded, begin.len())).collect();
        Ok(PromptIds { ids: [begin, encoded.ids].concat(), truncated, passages })
    }

    /// Tokens of an answer as it is learnt and scored, at most `limit` of them, and one more that ends it where the template
    /// asks for that and nothing was cut.
    pub fn answer_ids(&self, text: &Text, answer: &str, limit: usize) -> Result<PromptIds> {
        let mut ids = text.encode(&format!("{}{answer}", self.template.answer_prefix), false)?;
        if ids.is_empty() {
            return Err(Error::new(format!("the answer `{answer}` has no token"))
                .hint("give every question a non-empty answer"));
        }
        let truncated = ids.len() > limit;
        ids.truncate(limit);
        if let (true, Some(end)) = (self.template.eos && !truncated, self.end()) {
            ids.push(end);
        }
        Ok(PromptIds { ids, truncated, passages: Vec::new() })
    }

    fn assemble(&self, passages: &[&Passage], kept: Option<&[Vec<&str>]>, question: &str) -> Result<Assembled> {
        let (mut context, mut bytes) = (String::new(), Vec::with_capacity(passages.len()));
        for (index, passage) in passages.iter().enumerate() {
            let body = match kept.and_then(|kept| kept.get(index)) {
                Some(words) => words.join(" "),
                None => passage.text.clone(),
            };
            // Text last: what it contains is never taken for a placeholder.
            let start = context.len();
            context.push_str(&fill(&self.template.passage, &[("{title}", &passage.title), ("{text}", &body)]));
            bytes.push(start..context.len());
        }
        self.with_context(&context, &bytes, question)
    }

    /// Tokens of the prompt for a question over a context that is written already, however many.
    pub(in crate::pipeline) fn around(&self, text: &Text, context: &str, question: &str) -> Result<Vec<u32>> {
        let begin = self.bos.filter(|_| self.template.bos).into_iter();
        let assembled = self.with_context(context, &[], question)?;
        Ok(begin.chain(text.encode(&assembled.text, false)?).collect())
    }

    /// The prompt around a context in which the passages take these bytes.
    fn with_context(&self, context: &str, bytes: &[Range<usize>], question: &str) -> Result<Assembled> {
        let template = &self.template;
        let Some(chat) = &self.chat else {
            let question = fill(&template.question, &[("{question}", question)]);
            let passages = shifted(bytes, template.instruction.len());
            return Ok(Assembled { text: format!("{}{context}{question}", template.instruction), passages });
        };
        let user = template.user.as_deref().unwrap_or_default();
        // Where the passages begin in what the user says: a question before them is filled in first.
        let before = user.split_once("{passages}").map_or("", |(before, _)| before);
        let before = fill(before, &[("{question}", question)]).len();
        let user = fill(user, &[("{passages}", context), ("{question}", question)]);
        let text = chat.prompt(template.system.as_deref().unwrap_or_default(), &user)?;
        // Templates trim what they are given; what the user says stands last.
        let trimmed = user.len() - user.trim_start().len();
        let passages = match text.rfind(user.trim()) {
            Some(at) if before >= trimmed => shifted(bytes, at + before - trimmed),
            _ => bytes.iter().map(|_| 0..0).collect(),
        };
        Ok(Assembled { text, passages })
    }
}

/// A prompt as text.
struct Assembled {
    text: String,
    /// The bytes of each passage; an empty range where it cannot be found.
    passages: Vec<Range<usize>>,
}

fn shifted(ranges: &[Range<usize>], by: usize) -> Vec<Range<usize>> {
    ranges.iter().map(|range| range.start + by..range.end + by).collect()
}

/// The tokens that end within some bytes of the text, where `first` tokens come before those of the text: a token that takes
/// the blank before a word belongs to the word.
fn tokens_of(bytes: &Range<usize>, encoded: &Located, first: usize) -> Range<usize> {
    let within = |&(start, end): &(usize, usize)| bytes.contains(&(end.max(start + 1) - 1));
    let Some(begin) = encoded.bytes.iter().position(within) else { return 0..0 };
    let end = encoded.bytes.iter().rposition(within).map_or(begin, |last| last + 1);
    begin + first..end + first
}

/// Replaces placeholders in one pass, so that a value which looks like a placeholder stays as it is.
pub(in crate::pipeline) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len() + values.iter().map(|(_, value)| value.len()).sum::<usize>());
    let mut rest = template;
    while let Some((position, (name, value))) = values
        .iter()
        .filter_map(|pair| rest.find(pair.0).map(|position| (position, pair)))
        .min_by_key(|(position, _)| *position)
    {
        filled.push_str(&rest[..position]);
        filled.push_str(value);
        rest = &rest[position + name.len()..];
    }
    filled.push_str(rest);
    filled
}

pub(in crate::pipeline) fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests;
