//! Passages that labels name: gold, hard negatives, those a teacher scored; and scores of any candidates, by the encoder that
//! trains and by the one it began as.

use candle_core::{Device, Tensor};

use super::Step;
use crate::data::Question;
use crate::error::{Error, Result};
use crate::models::{Grad, Role};

/// Scores of every question of the batch against every candidate of the batch.
pub struct BatchScores {
    /// (B, C) f32 inner products, C distinct candidates: gold passages and hard negatives.
    pub scores: Tensor,
    /// (B) u32, the column of each question's gold passage.
    pub gold: Tensor,
    /// (B, C) f32, 1 where a candidate is gold for the question without being the chosen one.
    pub excluded: Tensor,
}

/// Some passages for each question, as ordinals of the corpus: at least one, rows of different lengths filled up.
#[derive(Clone, Debug)]
pub struct Candidates {
    rows: Vec<Vec<u32>>,
    mask: Tensor,
}

impl Candidates {
    /// Fills rows up to the longest with copies of their first passage, which the mask leaves out.
    pub fn new(mut rows: Vec<Vec<u32>>, device: &Device) -> Result<Self> {
        let longest = rows.iter().map(Vec::len).max().unwrap_or_default();
        let mut mask = Vec::with_capacity(rows.len() * longest);
        for row in &mut rows {
            let first = *row.first().ok_or_else(|| Error::new("a question was given no passage at all"))?;
            mask.extend((0..longest).map(|k| f32::from(u8::from(k < row.len()))));
            row.resize(longest, first);
        }
        let mask = Tensor::from_vec(mask, (rows.len(), longest), device)?;
        Ok(Self { rows, mask })
    }

    /// Ordinals, (B, C) row by row.
    pub fn rows(&self) -> &[Vec<u32>] {
        &self.rows
    }

    /// (B, C) f32, 1 where there is a candidate and 0 where a row was filled up.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }
}

impl Step<'_> {
    /// Scores of the B questions against the C distinct candidates of the batch: each question's first gold passage, and up
    /// to `hard_negatives` of its hard negatives, mined ones before those of the question file.
    pub fn batch_scores(&mut self, hard_negatives: usize) -> Result<BatchScores> {
        let (mut chosen, mut gold_sets, mut candidates) = (Vec::new(), Vec::new(), Vec::new());
        for question in self.questions {
            let gold = self.gold(question)?;
            let first = gold.first().copied().unwrap_or_default();
            candidates.push(first);
            candidates.extend(self.hard_negatives(question, &gold, hard_negatives)?);
            chosen.push(first);
            gold_sets.push(gold);
        }
        self.observed.hard_negatives += (candidates.len() - chosen.len()) as u64;
        candidates.sort_unstable();
        candidates.dedup();
        let column = |ordinal: u32| candidates.binary_search(&ordinal).unwrap_or_default() as u32;
        let gold: Vec<u32> = chosen.iter().map(|ordinal| column(*ordinal)).collect();
        let mut excluded = Vec::with_capacity(chosen.len() * candidates.len());
        for (set, gold) in gold_sets.iter().zip(&chosen) {
            excluded.extend(candidates.iter().map(|c| if c != gold && set.contains(c) { 1f32 } else { 0.0 }));
        }
        let questions = self.question_vectors()?;
        let passages = self.passage_vectors(&candidates)?;
        let (b, c) = (chosen.len(), candidates.len());
        Ok(BatchScores {
            scores: questions.matmul(&passages.t()?)?,
            gold: Tensor::from_vec(gold, b, self.pipeline.encoder.device())?,
            excluded: Tensor::from_vec(excluded, (b, c), self.pipeline.encoder.device())?,
        })
    }

    /// (B, C) f32 inner products of live question vectors with candidates' vectors: live where the passage side trains,
    /// stored otherwise. Gradient to the encoder through whichever is live; entries beyond a row mean nothing.
    pub fn candidate_scores(&mut self, candidates: &Candidates) -> Result<Tensor> {
        let questions = self.question_vectors()?;
        let passages = self.passage_vectors(&candidates.rows.concat())?;
        products(&questions, &passages, candidates)
    }

    /// The same by the encoder as it was when the stage began, without gradient. Passages that do not train have the same
    /// stored vectors on both sides; those that do are embedded by the reference too.
    pub fn reference_scores(&mut self, candidates: &Candidates) -> Result<Tensor> {
        let reference = self.reference.ok_or_else(|| {
            Error::new("this objective compares with the encoder as it was, but the step was not given it")
                .hint("keep a copy of the encoder when the stage begins and give it to the step")
        })?;
        let questions = self.embed(reference, &self.question_texts(), Role::Question, Grad::Off)?;
        let ordinals = candidates.rows.concat();
        let passages = match self.trains.passages {
            true => self.embed_passages(reference, &ordinals, Grad::Off)?,
            false => self.passage_vectors(&ordinals)?,
        };
        products(&questions, &passages, candidates)
    }

    /// Each question's gold passages, then those retrieved that are not gold, then up to `hard_negatives` hard negatives;
    /// and (B, C) f32, 1 for gold.
    pub fn gold_among_retrieved(&mut self, hard_negatives: usize) -> Result<(Candidates, Tensor)> {
        let retrieved = self.retrieved_ordinals()?;
        let (mut rows, mut counts) = (Vec::with_capacity(retrieved.len()), Vec::with_capacity(retrieved.len()));
        for (question, retrieved) in self.questions.iter().zip(retrieved) {
            let mut row = self.gold(question)?;
            counts.push(row.len());
            let negatives = self.hard_negatives(question, &row, hard_negatives)?;
            self.observed.hard_negatives += negatives.len() as u64;
            for ordinal in retrieved.into_iter().chain(negatives) {
                if !row.contains(&ordinal) {
                    row.push(ordinal);
                }
            }
            rows.push(row);
        }
        let candidates = Candidates::new(rows, self.pipeline.encoder.device())?;
        let width = candidates.mask.dim(1)?;
        let gold: Vec<f32> =
            counts.iter().flat_map(|count| (0..width).map(move |c| f32::from(u8::from(c < *count)))).collect();
        let gold = Tensor::from_vec(gold, (counts.len(), width), self.pipeline.encoder.device())?;
        Ok((candidates, gold))
    }

    /// The passages of each question that a teacher scored, in the order of their ids, and its scores (B, C), 0 where a row
    /// was filled up. A question with fewer than two is an error.
    pub fn scored_by_teacher(&mut self) -> Result<(Candidates, Tensor)> {
        let (mut rows, mut scores) = (Vec::new(), Vec::new());
        for question in self.questions {
            if question.teacher_scores.len() < 2 {
                return Err(Error::new(format!(
                    "question `{}` has teacher scores for {} passages, expected two at least",
                    question.id,
                    question.teacher_scores.len()
                ))
                .hint("add `\"teacher_scores\": {\"passage id\": score, ..}` to it, or leave the question out"));
            }
            let ids = question.teacher_scores.iter().map(|(id, _)| id);
            rows.push(self.ordinals(question, ids, "scored passage")?);
            scores.push(question.teacher_scores.iter().map(|(_, score)| *score).collect::<Vec<f32>>());
        }
        let candidates = Candidates::new(rows, self.pipeline.encoder.device())?;
        let shape = candidates.mask.dims2()?;
        for row in &mut scores {
            row.resize(shape.1, 0.0);
        }
        Ok((candidates, Tensor::from_vec(scores.concat(), shape, self.pipeline.encoder.device())?))
    }

    /// The gold passages of a question, in the file's order; at least one.
    pub(super) fn gold(&self, question: &Question) -> Result<Vec<u32>> {
        if question.gold_passages.is_empty() {
            return Err(Error::new(format!("question `{}` has no gold passage", question.id))
                .hint("train with `--strategy generator` or `--strategy joint`, which need answers only"));
        }
        self.ordinals(question, question.gold_passages.iter(), "gold passage")
    }

    /// The first of a question's hard negatives that are not gold, hardest first.
    fn hard_negatives(&self, question: &Question, gold: &[u32], most: usize) -> Result<Vec<u32>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut found = match self.mined.and_then(|mined| mined.get(&question.id)) {
            Some(mined) => mined.clone(),
            None => self.ordinals(question, question.hard_negatives.iter(), "hard negative")?,
        };
        found.retain(|ordinal| !gold.contains(ordinal));
        found.truncate(most);
        Ok(found)
    }

    fn ordinals<'i>(&self, question: &Question, ids: impl Iterator<Item = &'i String>, what: &str) -> Result<Vec<u32>> {
        ids.map(|id| {
            self.pipeline.corpus.ordinal(id)?.ok_or_else(|| {
                Error::new(format!("question `{}` names {what} `{id}`, which is not in the corpus", question.id))
                    .hint("run `ragtune data check` on the questions and rebuild the index from their corpus")
            })
        })
        .collect()
    }
}

/// (B, C) inner products of questions (B, D) with their own candidates (B·C, D).
fn products(questions: &Tensor, passages: &Tensor, candidates: &Candidates) -> Result<Tensor> {
    let (b, c) = candidates.mask.dims2()?;
    let passages = passages.reshape((b, c, questions.dim(1)?))?;
    Ok(questions.unsqueeze(1)?.broadcast_mul(&passages)?.sum(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_up_and_masked() {
        let candidates = Candidates::new(vec![vec![4, 7, 1], vec![9]], &Device::Cpu).unwrap();
        assert_eq!(candidates.rows(), [vec![4, 7, 1], vec![9, 9, 9]]);
        assert_eq!(candidates.mask().to_vec2::<f32>().unwrap(), [[1.0; 3], [1.0, 0.0, 0.0]]);
        assert!(Candidates::new(vec![vec![1], vec![]], &Device::Cpu).is_err());
    }
}
