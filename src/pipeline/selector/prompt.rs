//! What a selector reads: the question and its candidates, numbered `[1]` to `[n]`. The same text when lists are drawn, scored
//! and learnt, so that a number always means the same passage (DRO's released weighting script leaves the numbers out).

use std::path::Path;

use ragtune_index::Passage;

use crate::error::{Error, Result};
use crate::models::generator::Generator;
use crate::models::text::Text;
use crate::pipeline::prompt::{Prompt, PromptIds, PromptTemplate, fill, shorten};

/// The template of a selector folder, with the keys of `prompt.json`; `passage` holds `{number}`.
pub const FILE: &str = "selector_prompt.json";

const SYSTEM: &str = "You choose the passages that help to answer a question.";
const ASK: &str = "{passages}\nQuestion: {question}\nName the passages that help most to answer the question, the most \
     helpful first, as in [2] > [1]. Write nothing else.";

/// How a question and its candidates become the selector's input.
#[derive(Clone, Debug)]
pub struct SelectorPrompt {
    prompt: Prompt,
}

impl SelectorPrompt {
    /// The template of a folder (its `selector_prompt.json`), or the default for a folder with or without a chat template;
    /// `folder` is where tokenizer files are, `own` where the template is looked for first.
    pub fn of_folder(folder: &Path, own: &Path, generator: &Generator) -> Result<Self> {
        let special = generator.special();
        let template = PromptTemplate::of_folder(folder, &own.join(FILE), [plain(special.bos.is_some()), chat()])?;
        if !template.passage.contains("{number}") {
            return Err(Error::new(format!(
                "the template `{}` does not number its passages",
                own.join(FILE).display()
            ))
            .hint("use {number} in `passage`, as in \"[{number}] {title}: {text}\\n\""));
        }
        Ok(Self { prompt: Prompt::new(template, special.bos, special.eos.first().copied())? })
    }

    /// The settings.
    pub fn template(&self) -> &PromptTemplate {
        &self.prompt.template
    }

    /// What ends a list that is learnt as free text.
    pub fn end(&self) -> Option<u32> {
        self.prompt.end()
    }

    /// Tokens of the prompt, at most `limit` of them: where the passages do not fit, every text keeps the same number of
    /// words from its beginning (all it has, where it has fewer), the largest that fits. Question and titles are never cut.
    pub fn ids(&self, text: &Text, passages: &[&Passage], question: &str, limit: usize) -> Result<PromptIds> {
        let words: Vec<Vec<&str>> = passages.iter().map(|passage| passage.text.split(' ').collect()).collect();
        let longest = words.iter().map(Vec::len).max().unwrap_or(0);
        let with = |kept: usize| self.prompt.around(text, &self.context(passages, &words, kept), question);
        let whole = with(longest)?;
        if whole.len() <= limit {
            return Ok(PromptIds { ids: whole, truncated: false, passages: Vec::new() });
        }
        let mut best = with(0)?;
        if best.len() > limit {
            return Err(Error::new(format!(
                "the question `{}` with the titles of {} passages takes {} tokens, more than the limit of {limit}",
                shorten(question),
                passages.len(),
                best.len()
            ))
            .hint(
                "lower `--dro candidates=..` in training or `--candidates` in `ragtune eval`, or take a selector with more \
                 positions",
            ));
        }
        // `fits` words fit, `too_many` do not.
        let (mut fits, mut too_many) = (0, longest);
        while fits + 1 < too_many {
            let middle = fits.midpoint(too_many);
            let ids = with(middle)?;
            if ids.len() <= limit {
                (fits, best) = (middle, ids);
            } else {
                too_many = middle;
            }
        }
        Ok(PromptIds { ids: best, truncated: true, passages: Vec::new() })
    }

    fn context(&self, passages: &[&Passage], words: &[Vec<&str>], kept: usize) -> String {
        let mut context = String::new();
        for (index, (passage, words)) in passages.iter().zip(words).enumerate() {
            let body = words.get(..kept.min(words.len())).unwrap_or_default().join(" ");
            let number = (index + 1).to_string();
            let values = [("{number}", number.as_str()), ("{title}", &passage.title), ("{text}", &body)];
            context.push_str(&fill(&self.prompt.template.passage, &values));
        }
        context
    }
}

/// How a candidate stands in either template.
const PASSAGE: &str = "[{number}] {title}: {text}\n";
/// The most tokens of a prompt in either template: 20 passages of 100 words.
const PROMPT_TOKENS: usize = 3072;

/// The default text.
fn plain(bos: bool) -> PromptTemplate {
    let mut template = PromptTemplate::default();
    template.passage = PASSAGE.into();
    template.question = "Question: {question}\nMost useful passages:".into();
    template.bos = bos;
    template.max_prompt_tokens = PROMPT_TOKENS;
    template
}

/// The default conversation.
fn chat() -> PromptTemplate {
    let mut template = PromptTemplate::for_chat();
    template.system = Some(SYSTEM.into());
    template.user = Some(ASK.into());
    template.passage = PASSAGE.into();
    template.max_prompt_tokens = PROMPT_TOKENS;
    template
}
