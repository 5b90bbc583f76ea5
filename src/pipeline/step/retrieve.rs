//! Finding passages, and vectors of both sides: live where their side trains, stored otherwise.

use candle_core::Tensor;
use ragtune_index::Trust;

use super::{Candidates, Step};
use crate::cost::Phase;
use crate::error::{Error, Result};
use crate::models::encoder::Encoder;
use crate::models::{Grad, Role, nn};
use crate::pipeline::embed::passage_text;

impl Step<'_> {
    /// (B, K) f32 inner products of live question vectors with the retrieved passages' vectors: live where the passage side
    /// trains, stored otherwise. Gradient to the encoder through whichever is live.
    pub fn retrieval_scores(&mut self) -> Result<Tensor> {
        let retrieved = self.retrieved()?;
        let scores = self.candidate_scores(&retrieved)?;
        self.observed.scores = scores.to_vec2::<f32>()?;
        Ok(scores)
    }

    /// The K passages of each question, best first.
    pub fn retrieved(&mut self) -> Result<Candidates> {
        Candidates::new(self.retrieved_ordinals()?, self.pipeline.encoder.device())
    }

    /// The same as ordinals: those the caller gave, else what the retriever finds. Their texts are read.
    pub(super) fn retrieved_ordinals(&mut self) -> Result<Vec<Vec<u32>>> {
        if let Some(retrieved) = &self.retrieved {
            return Ok(retrieved.clone());
        }
        let rows = match self.given {
            Some(given) => {
                self.questions.iter().map(|question| given_to(given, &question.id)).collect::<Result<_>>()?
            }
            None => self.search()?,
        };
        let width = rows.first().map_or(0, Vec::len);
        if let Some((question, row)) = self.questions.iter().zip(&rows).find(|(_, row)| row.len() != width) {
            return Err(Error::new(format!(
                "question `{}` has {} passages, others of its batch have {width}",
                question.id,
                row.len()
            ))
            .hint("give every question the same number of passages"));
        }
        {
            let span = self.ledger.span(Phase::Retrieve);
            span.passages(self.read_passages(&rows.concat())?);
        }
        self.observed.single_passage = width == 1 && self.trains.encoder();
        self.observed.retrieved.clone_from(&rows);
        self.retrieved = Some(rows.clone());
        Ok(rows)
    }

    fn search(&mut self) -> Result<Vec<Vec<u32>>> {
        if !self.pipeline.retriever.is_dense() {
            return self.search_words();
        }
        let questions = self.question_vectors()?;
        let span = self.ledger.span(Phase::Retrieve);
        let vectors = questions.detach().flatten_all()?.to_vec1::<f32>()?;
        if let Some(fresh) = self.fresh {
            drop(span);
            return fresh.borrow_mut().nearest(self.pipeline, &vectors, self.settings.top_k, self.ledger);
        }
        span.searches(self.questions.len() as u64);
        // Training declares that the index may be older than the encoder: that is what refreshes are for.
        let hits = self.pipeline.generation.search(
            &vectors,
            self.settings.top_k,
            self.pipeline.search,
            Trust::StaleAllowed,
        )?;
        Ok(hits.into_iter().map(|row| row.into_iter().map(|hit| hit.ordinal).collect()).collect())
    }

    /// Reads the texts of those passages that this step has not read yet; how many they were.
    pub(super) fn read_passages(&mut self, ordinals: &[u32]) -> Result<u64> {
        let mut missing: Vec<u32> =
            ordinals.iter().copied().filter(|ordinal| !self.passages.contains_key(ordinal)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let read = self.pipeline.corpus.get(&missing)?;
            self.passages.extend(missing.iter().copied().zip(read));
        }
        Ok(missing.len() as u64)
    }

    /// (B, D) vectors of the questions, live.
    pub(super) fn question_vectors(&mut self) -> Result<Tensor> {
        if let Some(vectors) = &self.question_vectors {
            return Ok(vectors.clone());
        }
        let grad = if self.trains.questions { Grad::On } else { Grad::Off };
        let vectors = self.embed(&self.pipeline.encoder, &self.question_texts(), Role::Question, grad)?;
        self.question_vectors = Some(vectors.clone());
        Ok(vectors)
    }

    pub(super) fn question_texts(&self) -> Vec<String> {
        self.questions.iter().map(|question| question.question.clone()).collect()
    }

    /// (N, D) vectors of passages given by ordinal, repeats allowed: live with gradient where the passage side trains, else
    /// the stored ones.
    pub(super) fn passage_vectors(&mut self, ordinals: &[u32]) -> Result<Tensor> {
        if self.trains.passages {
            return self.embed_passages(&self.pipeline.encoder, ordinals, Grad::On);
        }
        let d = self.pipeline.encoder.dim();
        let mut stored = Vec::with_capacity(ordinals.len() * d);
        for ordinal in ordinals {
            stored.extend_from_slice(self.pipeline.generation.vector(*ordinal)?);
        }
        Ok(Tensor::from_vec(stored, (ordinals.len(), d), self.pipeline.encoder.device())?)
    }

    /// (N, D) vectors of passages given by ordinal by some encoder; each distinct one is embedded once.
    pub(super) fn embed_passages(&mut self, encoder: &Encoder, ordinals: &[u32], grad: Grad) -> Result<Tensor> {
        let mut distinct = ordinals.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        {
            let _span = self.ledger.span(Phase::Retrieve);
            self.read_passages(&distinct)?;
        }
        let texts: Vec<String> =
            distinct.iter().filter_map(|ordinal| self.passages.get(ordinal)).map(passage_text).collect();
        let vectors = self.embed(encoder, &texts, Role::Passage, grad)?;
        let rows: Vec<u32> =
            ordinals.iter().map(|ordinal| distinct.binary_search(ordinal).unwrap_or_default() as u32).collect();
        let rows = Tensor::from_vec(rows, (1, ordinals.len()), vectors.device())?;
        Ok(nn::embedding(&vectors, &rows)?.squeeze(0)?)
    }

    /// Vectors of texts by some encoder, charged; with a gradient the backward pass to come is noted too.
    pub(super) fn embed(&mut self, encoder: &Encoder, texts: &[String], role: Role, grad: Grad) -> Result<Tensor> {
        let span = self.ledger.span(Phase::Embed);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokenized = encoder.tokenize(&texts, role)?;
        let lengths: Vec<usize> = tokenized.ids.iter().map(Vec::len).collect();
        let flops = encoder.forward_flops(&lengths);
        span.tokens(lengths.iter().sum::<usize>() as u64);
        span.flops(flops);
        if role == Role::Passage {
            span.passages(texts.len() as u64);
        }
        if grad == Grad::On {
            self.observed.encoder_flops += flops;
        }
        match self.draw(grad) {
            Some(draw) => encoder.forward_drawing(&tokenized.ids, role, draw),
            None => encoder.forward_as(&tokenized.ids, role, grad),
        }
    }
}

/// The passages that the caller gave to a question.
fn given_to(given: &super::ByQuestion, id: &str) -> Result<Vec<u32>> {
    let row = given.get(id).filter(|row| !row.is_empty()).ok_or_else(|| {
        Error::new(format!("no passages were chosen for question `{id}`"))
            .hint("choose passages for every training question, or let the index be searched")
    })?;
    let mut sorted = row.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair.first() == pair.last()) {
        None => Ok(row.clone()),
        Some(pair) => Err(Error::new(format!(
            "passage number `{}` was chosen twice for question `{id}`",
            pair.first().copied().unwrap_or_default()
        ))
        .hint("choose every passage once: a passage that stands twice would count twice")),
    }
}
