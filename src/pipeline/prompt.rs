//! The prompt: settings, not code. A generator folder may carry its own as `prompt.json`.

use std::path::Path;

use ragtune_index::Passage;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::models::text::Text;

/// How passages, question and answer are put together. `{title}`, `{text}` and `{question}` are replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTemplate {
    /// Comes once, before everything else.
    pub instruction: String,
    /// Comes once for every passage.
    pub passage: String,
    /// Comes last; the generator continues after it.
    pub question: String,
    /// Put before an answer when it is scored or learnt (often the blank of its first word).
    pub answer_prefix: String,
    /// Whether the sequence begins with the tokenizer's begin-of-sequence token.
    pub bos: bool,
    /// Whether a learnt answer ends with the end-of-sequence token.
    pub eos: bool,
    /// The most tokens a prompt may have, the answer not counted; passages are shortened to fit.
    pub max_prompt_tokens: usize,
}

impl Default for PromptTemplate {
    fn default() -> Self {
        Self {
            instruction: String::new(),
            passage: "Context: {title}: {text}\n".into(),
            question: "Question: {question}\nAnswer:".into(),
            answer_prefix: " ".into(),
            bos: true,
            eos: true,
            max_prompt_tokens: 448,
        }
    }
}

impl PromptTemplate {
    /// Reads a template from a JSON file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).context(|| format!("the prompt file `{}` cannot be read", path.display()))?;
        let template: Self = serde_json::from_str(&text).map_err(|source| {
            Error::new(format!("the prompt file `{}` is not a prompt template", path.display()))
                .because(source)
                .hint("its keys are instruction, passage, question, answer_prefix, bos, eos, max_prompt_tokens")
        })?;
        if !template.question.contains("{question}") || !template.passage.contains("{text}") {
            return Err(Error::new(format!(
                "the prompt file `{}` must use {{question}} in `question` and {{text}} in `passage`",
                path.display()
            ))
            .hint("see `prompt.json` in the example generator folder"));
        }
        Ok(template)
    }

    /// The template of a generator folder: its `prompt.json`, or the default one.
    pub fn of_generator(folder: &Path) -> Result<Self> {
        let path = folder.join("prompt.json");
        if path.is_file() { Self::read(&path) } else { Ok(Self::default()) }
    }
}

/// A prompt as token ids.
#[derive(Clone, Debug)]
pub struct PromptIds {
    /// Token ids, begin-of-sequence included.
    pub ids: Vec<u32>,
    /// Whether a passage was shortened to fit.
    pub truncated: bool,
}

/// A template bound to a tokenizer's special tokens.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The settings.
    pub template: PromptTemplate,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Prompt {
    /// Binds a template to the begin- and end-of-sequence tokens of a generator; a template that asks for a token the
    /// generator does not have is refused.
    pub fn new(template: PromptTemplate, bos: Option<u32>, eos: Option<u32>) -> Result<Self> {
        if template.bos && bos.is_none() {
            return Err(Error::new("the prompt asks for a begin-of-sequence token, but the generator names none")
                .hint("set `bos` to false in prompt.json, or name `bos_token_id` in the generator's config.json"));
        }
        if eos.is_none() {
            return Err(Error::new("the generator names no end-of-sequence token, so no answer would ever end")
                .hint("name `eos_token_id` in the generator's config.json"));
        }
        Ok(Self { template, bos, eos })
    }

    /// The tokens that end an answer.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.eos.into_iter().collect()
    }

    /// Tokens of the prompt for a question over some passages (none: closed book), at most `limit` of them. What does not
    /// fit is cut from the end of the longest passage text, whole words at a time, until it does; the question is never cut.
    pub fn ids(&self, text: &Text, passages: &[&Passage], question: &str, limit: usize) -> Result<PromptIds> {
        let mut words: Vec<Vec<&str>> = passages.iter().map(|passage| passage.text.split(' ').collect()).collect();
        let mut ids = self.encode(text, &self.assemble(passages, None, question))?;
        let mut truncated = false;
        while ids.len() > limit {
            let Some(longest) = words.iter_mut().max_by_key(|words| words.len()).filter(|words| !words.is_empty())
            else {
                return Err(Error::new(format!(
                    "the question `{}` alone takes {} tokens, more than the limit of {limit}",
                    shorten(question),
                    ids.len()
                ))
                .hint("raise `--max-prompt-tokens`, up to the generator's position limit"));
            };
            truncated = true;
            // At least one word, at most what the excess suggests at one token a word.
            let excess = ids.len() - limit;
            let drop = (excess / 2).clamp(1, longest.len());
            longest.truncate(longest.len() - drop);
            ids = self.encode(text, &self.assemble(passages, Some(&words), question))?;
        }
        Ok(PromptIds { ids, truncated })
    }

    /// Tokens of an answer as it is learnt and scored, at most `limit` of them, end-of-sequence included when it fits.
    pub fn answer_ids(&self, text: &Text, answer: &str, limit: usize) -> Result<PromptIds> {
        let mut ids = text.encode(&format!("{}{answer}", self.template.answer_prefix), false)?;
        if ids.is_empty() {
            return Err(Error::new(format!("the answer `{answer}` has no token"))
                .hint("give every question a non-empty answer"));
        }
        let truncated = ids.len() > limit;
        ids.truncate(limit);
        if let (true, Some(eos)) = (self.template.eos && !truncated, self.eos) {
            ids.push(eos);
        }
        Ok(PromptIds { ids, truncated })
    }

    fn assemble(&self, passages: &[&Passage], kept: Option<&[Vec<&str>]>, question: &str) -> String {
        let mut prompt = self.template.instruction.clone();
        for (index, passage) in passages.iter().enumerate() {
            let body = match kept.and_then(|kept| kept.get(index)) {
                Some(words) => words.join(" "),
                None => passage.text.clone(),
            };
            // Text last: what it contains is never taken for a placeholder.
            prompt.push_str(&fill(&self.template.passage, &[("{title}", &passage.title), ("{text}", &body)]));
        }
        prompt.push_str(&fill(&self.template.question, &[("{question}", question)]));
        prompt
    }

    fn encode(&self, text: &Text, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if let (true, Some(bos)) = (self.template.bos, self.bos) {
            ids.push(bos);
        }
        ids.extend(text.encode(prompt, false)?);
        Ok(ids)
    }
}

/// Replaces placeholders in one pass, so that a value which looks like a placeholder stays as it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
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

fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_look_like_placeholders_are_left_alone() {
        let filled = fill("Context: {title}: {text}\n", &[("{title}", "{text}"), ("{text}", "{title}!")]);
        assert_eq!(filled, "Context: {text}: {title}!\n");
    }

    #[test]
    fn a_template_with_an_unknown_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.json");
        std::fs::write(&path, r#"{"pasage": "{text}"}"#).unwrap();
        let error = PromptTemplate::read(&path).unwrap_err();
        assert!(error.find_hint().unwrap().contains("passage"));
        std::fs::write(&path, r#"{"question": "who"}"#).unwrap();
        assert!(PromptTemplate::read(&path).unwrap_err().to_string().contains("{question}"));
    }
}
