//! Likelihoods that a frozen generator gave, kept from step to step: they do not change, so that a question that comes again
//! with a passage it had before costs no pass of the generator.
//!
//! A prompt is known by what decides it: question, answer, the passages in the order they are read, and the token limits. So
//! prompts of one passage, of all, and of all but one share what they have in common. The memo holds for one state of one
//! generator with one prompt template ([`Memo::follow`]) and for one corpus; a step that trains the generator empties it.
//!
//! Memory is bounded: while there is room every likelihood is kept, then nothing new is, and what is kept stays. (Steps walk
//! through all questions before one comes again: throwing out what was used longest ago would throw out what comes next.)

use std::collections::HashMap;
use std::rc::Rc;

use super::prompt::Prompt;
use super::step::StepSettings;
use crate::error::Result;
use crate::models::generator::Generator;

/// What identifies a prompt with its answer: the first 16 bytes of a blake3 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of an answer after some passages, in the order they are read.
    pub fn of(id: &str, question: &str, answer: &str, passages: &[u32], settings: &StepSettings) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in [id, question, answer] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for limit in [settings.max_prompt_tokens, settings.max_answer_tokens] {
            hasher.update(&(limit as u64).to_le_bytes());
        }
        for ordinal in passages {
            hasher.update(&ordinal.to_le_bytes());
        }
        let mut key = [0; 16];
        key.copy_from_slice(hasher.finalize().as_bytes().get(..16).unwrap_or(&[0; 16]));
        Self(key)
    }
}

/// One answer after one prompt.
#[derive(Debug)]
pub struct Known {
    /// log p of each answer token, in nats.
    pub log_probs: Box<[f32]>,
    /// Tokens of prompt and answer.
    pub tokens: usize,
    /// Whether a passage of the prompt was shortened.
    pub truncated: bool,
}

impl Known {
    /// What was computed over `tokens` tokens.
    pub fn new(log_probs: Vec<f32>, tokens: usize, truncated: bool) -> Self {
        Self { log_probs: log_probs.into_boxed_slice(), tokens, truncated }
    }

    /// Bytes it takes: numbers, the value itself with its counts, and the key and pointer in a table that is at most half
    /// empty.
    fn bytes(&self) -> usize {
        let entry = std::mem::size_of::<(Key, Rc<Known>)>() + 1;
        4 * self.log_probs.len() + std::mem::size_of::<Known>() + 2 * std::mem::size_of::<usize>() + 2 * entry
    }
}

/// What a memo did in one step or many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoUse {
    /// Prompts whose likelihood was known, or was computed for an equal one in the same step.
    pub hits: u64,
    /// Prompts that were computed.
    pub misses: u64,
    /// Of those, the ones that found no room.
    pub refused: u64,
    /// Tokens of prompts and answers that the generator did not have to read.
    pub tokens: u64,
    /// Modelled operations that were saved.
    pub flops: f64,
}

impl MemoUse {
    /// Adds what another step did.
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.refused += other.refused;
        self.tokens += other.tokens;
        self.flops += other.flops;
    }
}

/// The memo.
#[derive(Debug)]
pub struct Memo {
    known: HashMap<Key, Rc<Known>>,
    bytes: usize,
    budget: usize,
    follows: Option<String>,
}

impl Memo {
    /// An empty memo that takes at most `budget` bytes; with 0 it keeps nothing.
    pub fn new(budget: usize) -> Self {
        Self { known: HashMap::new(), bytes: 0, budget, follows: None }
    }

    /// Makes it hold for the generator's present weights and this prompt: what it kept for others is forgotten. To be called
    /// when a stage begins; it reads all weights once.
    pub fn follow(&mut self, generator: &Generator, prompt: &Prompt) -> Result<()> {
        let template = serde_json::to_string(&prompt.template)?;
        let state = format!("{} {}", generator.params().digest()?, blake3::hash(template.as_bytes()).to_hex());
        if self.follows.as_ref() != Some(&state) {
            self.forget();
            self.follows = Some(state);
        }
        Ok(())
    }

    /// Forgets everything, and for which weights it held.
    pub fn forget(&mut self) {
        self.known.clear();
        self.bytes = 0;
        self.follows = None;
    }

    /// What is known of a prompt.
    pub fn get(&self, key: &Key) -> Option<Rc<Known>> {
        self.known.get(key).cloned()
    }

    /// Keeps what was computed; false where the budget has no room for it.
    pub fn keep(&mut self, key: Key, known: &Rc<Known>) -> bool {
        if self.bytes + known.bytes() > self.budget {
            return false;
        }
        if self.known.insert(key, Rc::clone(known)).is_none() {
            self.bytes += known.bytes();
        }
        true
    }

    /// How many likelihoods are kept.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Bytes they take, at most the budget.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: StepSettings = StepSettings { top_k: 2, max_prompt_tokens: 64, max_answer_tokens: 8 };

    #[test]
    fn keys_tell_apart_whatever_changes_a_prompt() {
        let key = |id, question, answer, passages: &[u32], settings| Key::of(id, question, answer, passages, settings);
        let shorter = StepSettings { max_prompt_tokens: 32, ..SETTINGS };
        let cut = StepSettings { max_answer_tokens: 4, ..SETTINGS };
        let all = [
            key("1", "q", "a", &[1, 2], &SETTINGS),
            key("2", "q", "a", &[1, 2], &SETTINGS),
            key("1", "qa", "", &[1, 2], &SETTINGS),
            key("1", "q", "b", &[1, 2], &SETTINGS),
            key("1", "q", "a", &[2, 1], &SETTINGS),
            key("1", "q", "a", &[1], &SETTINGS),
            key("1", "q", "a", &[1, 2], &shorter),
            key("1", "q", "a", &[1, 2], &cut),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().enumerate().all(|(j, other)| (i == j) == (one == other)), "{i}");
        }
        // How many passages are retrieved is no part of a prompt.
        assert_eq!(all[0], key("1", "q", "a", &[1, 2], &StepSettings { top_k: 9, ..SETTINGS }));
    }

    #[test]
    fn a_full_memo_keeps_what_it_has() {
        let known = |n: usize| Rc::new(Known::new(vec![-1.0; n], 10, false));
        let key = |passage| Key::of("1", "q", "a", &[passage], &SETTINGS);
        let mut memo = Memo::new(2 * known(4).bytes());
        assert!(memo.keep(key(1), &known(4)) && memo.keep(key(2), &known(4)));
        assert!(!memo.keep(key(3), &known(1)), "no room");
        assert_eq!((memo.len(), memo.bytes()), (2, 2 * known(4).bytes()));
        assert!(memo.get(&key(1)).is_some() && memo.get(&key(3)).is_none());
        memo.forget();
        assert!(memo.is_empty() && memo.bytes() == 0);
        assert!(!Memo::new(0).keep(key(1), &known(1)));
    }
}
