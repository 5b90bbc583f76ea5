//! Where the generator looks while it would say the answer.

use candle_core::Tensor;

use super::Step;
use crate::cost::Phase;
use crate::error::{Error, Result};

impl Step<'_> {
    /// (B, K) attention mass times value norm that the answer's tokens give to each passage of the prompt with all of them,
    /// best first, averaged over heads, layers and answer tokens (Izacard and Grave 2021, arXiv 2012.04584). Constants, not
    /// negative, in no unit.
    pub fn attention_mass(&mut self) -> Result<Tensor> {
        let retrieved = self.retrieved_ordinals()?;
        let span = self.ledger.span(Phase::Score);
        let (mut sequences, mut segments) = (Vec::with_capacity(retrieved.len()), Vec::with_capacity(retrieved.len()));
        for (question, row) in retrieved.iter().enumerate() {
            let (prompt, sequence) = self.prompt_and_answer(question, row)?;
            self.observed.prompts += 1;
            self.observed.truncated_prompts += u64::from(prompt.truncated);
            if let Some(empty) = prompt.passages.iter().position(|tokens| tokens.is_empty()) {
                return Err(Error::new(format!(
                    "passage {} of question `{}` has no token in its prompt, so nothing can look at it",
                    empty + 1,
                    self.questions.get(question).map_or("", |question| question.id.as_str())
                ))
                .hint(
                    "lower `--top-k` or raise `--max-prompt-tokens`; a chat template must leave passages as they are",
                ));
            }
            segments.push(prompt.passages);
            sequences.push(sequence);
        }
        self.charge_generator(&sequences, &span);
        self.pipeline.generator.attention_mass(&sequences, &segments)
    }
}
