//! Finding passages by a retriever that looks at the words they share with the question. It finds and no more: scores of what it
//! found are the encoder's, see [`Step::retrieval_scores`].

use ragtune_index::Trust;

use super::Step;
use crate::cost::Phase;
use crate::error::Result;

impl Step<'_> {
    /// The K passages of each question. Questions are embedded only where the retriever looks at vectors too.
    pub(super) fn search_words(&mut self) -> Result<Vec<Vec<u32>>> {
        let vectors = match self.pipeline.retriever.embeds_questions() {
            true => Some(self.question_vectors()?.detach().flatten_all()?.to_vec1::<f32>()?),
            false => None,
        };
        let span = self.ledger.span(Phase::Retrieve);
        span.searches(self.questions.len() as u64);
        let texts: Vec<&str> = self.questions.iter().map(|question| question.question.as_str()).collect();
        // The index may be older than the encoder, as in any search of a step.
        let found = self.pipeline.find(&texts, vectors.as_deref(), self.settings.top_k, Trust::StaleAllowed)?;
        Ok(found.hits.iter().map(|row| row.iter().map(|hit| hit.ordinal).collect()).collect())
    }
}
