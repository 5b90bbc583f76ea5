//! The papers' quantities for one batch, computed and charged when they are first asked for.
//!
//! Dimension letters: B questions, K retrieved passages a question, T answer tokens, D vector width, C candidates.
//! Retrieval is over the current generation, however stale; scores are recomputed from live vectors where the passage
//! side trains (REALM, arXiv 2002.08909, section 3.3: the index only selects).

use std::collections::BTreeMap;

use candle_core::Tensor;
use ragtune_index::{Hit, Passage, Trust};

use super::Pipeline;
use super::embed::passage_text;
use super::prompt::PromptIds;
use crate::cost::{Ledger, Phase};
use crate::data::Question;
use crate::error::{Error, Result};
use crate::models::generator::Scored;
use crate::models::{Grad, Role, nn};
use crate::strategies::Trains;

/// Settings of a step that no objective changes.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// K, passages retrieved for a question.
    pub top_k: usize,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The most tokens of an answer, end-of-sequence not counted.
    pub max_answer_tokens: usize,
}

/// Scores of every question of the batch against every distinct gold passage of the batch.
pub struct BatchScores {
    /// (B, C) f32 inner products, C distinct gold passages.
    pub scores: Tensor,
    /// (B) u32, the column of each question's gold passage.
    pub gold: Tensor,
    /// (B, C) f32, 1 where a candidate is gold for the question without being the chosen one.
    pub excluded: Tensor,
}

/// What was seen while a step's quantities were computed: for reports, never for losses.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Ordinals of the retrieved passages, a row a question.
    pub retrieved: Vec<Vec<u32>>,
    /// Prompts with a shortened passage.
    pub truncated_prompts: u64,
    /// Prompts made.
    pub prompts: u64,
    /// Mean entropy of the prior is computed from these scores: (B, K) row-major.
    pub scores: Vec<Vec<f32>>,
    /// FLOPs of forward passes that a backward pass will follow: encoder.
    pub encoder_flops: f64,
    /// The same for the generator.
    pub generator_flops: f64,
}

/// The quantities of one batch of questions.
pub struct Step<'a> {
    pipeline: &'a Pipeline,
    questions: &'a [&'a Question],
    trains: Trains,
    settings: StepSettings,
    ledger: &'a Ledger,
    question_vectors: Option<Tensor>,
    hits: Option<Vec<Vec<Hit>>>,
    passages: BTreeMap<u32, Passage>,
    /// What was seen on the way.
    pub observed: Observed,
}

impl<'a> Step<'a> {
    /// A step over some questions; nothing is computed yet.
    pub fn new(
        pipeline: &'a Pipeline,
        questions: &'a [&'a Question],
        trains: Trains,
        settings: StepSettings,
        ledger: &'a Ledger,
    ) -> Self {
        Self {
            pipeline,
            questions,
            trains,
            settings,
            ledger,
            question_vectors: None,
            hits: None,
            passages: BTreeMap::new(),
            observed: Observed::default(),
        }
    }

    /// (B, K) f32 inner products of live question vectors with the retrieved passages' vectors: live where the passage side
    /// trains, stored otherwise. Gradient to the encoder through whichever is live.
    pub fn retrieval_scores(&mut self) -> Result<Tensor> {
        let questions = self.question_vectors()?;
        let hits = self.hits()?;
        let (b, k, d) = (hits.len(), self.settings.top_k, self.pipeline.encoder.dim());
        let ordinals: Vec<u32> = hits.iter().flatten().map(|hit| hit.ordinal).collect();
        let passages = self.passage_vectors(&ordinals)?.reshape((b, k, d))?;
        let scores = questions.unsqueeze(1)?.broadcast_mul(&passages)?.sum(2)?;
        self.observed.scores = scores.to_vec2::<f32>()?;
        Ok(scores)
    }

    /// Scores of the B questions against the C distinct gold passages of the batch (each question's first gold passage).
    pub fn batch_scores(&mut self) -> Result<BatchScores> {
        let mut chosen = Vec::with_capacity(self.questions.len());
        let mut gold_sets = Vec::with_capacity(self.questions.len());
        for question in self.questions {
            let mut ordinals = Vec::with_capacity(question.gold_passages.len());
            for id in &question.gold_passages {
                ordinals.push(self.pipeline.corpus.ordinal(id)?.ok_or_else(|| {
                    Error::new(format!(
                        "question `{}` names gold passage `{id}`, which is not in the corpus",
                        question.id
                    ))
                    .hint("run `ragtune data check` on the questions and rebuild the index from their corpus")
                })?);
            }
            let first = ordinals.first().copied().ok_or_else(|| {
                Error::new(format!("question `{}` has no gold passage", question.id))
                    .hint("train with `--strategy generator` or `--strategy joint`, which need answers only")
            })?;
            chosen.push(first);
            gold_sets.push(ordinals);
        }
        let mut candidates = chosen.clone();
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
        let (b, c, device) = (chosen.len(), candidates.len(), questions.device());
        Ok(BatchScores {
            scores: questions.matmul(&passages.t()?)?,
            gold: Tensor::from_vec(gold, b, device)?,
            excluded: Tensor::from_vec(excluded, (b, c), device)?,
        })
    }

    /// (B, K, T) log p(y_t | x, z_k, y_<t) in nats, one prompt a passage, and the mask (B, T). Gradient to the generator
    /// where it trains.
    pub fn answer_token_log_probs(&mut self) -> Result<(Tensor, Tensor)> {
        let hits = self.hits()?;
        let (b, k) = (hits.len(), self.settings.top_k);
        let span = self.ledger.span(Phase::Score);
        let mut sequences = Vec::with_capacity(b * k);
        for (question, hits) in self.questions.iter().zip(&hits) {
            let answer = self.answer_ids(question)?;
            for hit in hits {
                let passage =
                    self.passages.get(&hit.ordinal).ok_or_else(|| Error::new("a retrieved passage was not read"))?;
                let prompt = self.prompt_ids(&[passage], &question.question)?;
                self.observed.prompts += 1;
                self.observed.truncated_prompts += u64::from(prompt.truncated);
                sequences.push(scored(prompt, &answer));
            }
        }
        let (log_probs, mask) = self.score(&sequences, &span)?;
        let tokens = log_probs.dim(1)?;
        let log_probs = log_probs.reshape((b, k, tokens))?;
        let mask = mask.reshape((b, k, tokens))?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        Ok((log_probs, mask))
    }

    /// (B, T) log p(y_t | x, z_1..z_K, y_<t) in nats, all passages in one prompt, best first, and the mask (B, T).
    pub fn answer_token_log_probs_concat(&mut self) -> Result<(Tensor, Tensor)> {
        let hits = self.hits()?;
        let span = self.ledger.span(Phase::Score);
        let mut sequences = Vec::with_capacity(hits.len());
        for (question, hits) in self.questions.iter().zip(&hits) {
            let passages: Vec<&Passage> = hits.iter().filter_map(|hit| self.passages.get(&hit.ordinal)).collect();
            let prompt = self.prompt_ids(&passages, &question.question)?;
            self.observed.prompts += 1;
            self.observed.truncated_prompts += u64::from(prompt.truncated);
            sequences.push(scored(prompt, &self.answer_ids(question)?));
        }
        self.score(&sequences, &span)
    }

    /// (B, D) vectors of the questions, live.
    fn question_vectors(&mut self) -> Result<Tensor> {
        if let Some(vectors) = &self.question_vectors {
            return Ok(vectors.clone());
        }
        let texts: Vec<&str> = self.questions.iter().map(|question| question.question.as_str()).collect();
        let grad = if self.trains.questions { Grad::On } else { Grad::Off };
        let vectors = self.embed_live(&texts, Role::Question, grad)?;
        self.question_vectors = Some(vectors.clone());
        Ok(vectors)
    }

    /// The K passages of each question in the current generation.
    fn hits(&mut self) -> Result<Vec<Vec<Hit>>> {
        if let Some(hits) = &self.hits {
            return Ok(hits.clone());
        }
        let questions = self.question_vectors()?;
        let span = self.ledger.span(Phase::Retrieve);
        let vectors = questions.detach().flatten_all()?.to_vec1::<f32>()?;
        // Training declares that the index may be older than the encoder: that is what refreshes are for.
        let hits = self.pipeline.generation.search(
            &vectors,
            self.settings.top_k,
            self.pipeline.search,
            Trust::StaleAllowed,
        )?;
        let mut ordinals: Vec<u32> = hits.iter().flatten().map(|hit| hit.ordinal).collect();
        ordinals.sort_unstable();
        ordinals.dedup();
        let passages = self.pipeline.corpus.get(&ordinals)?;
        self.passages = ordinals.iter().copied().zip(passages).collect();
        span.passages(ordinals.len() as u64);
        self.observed.retrieved = hits.iter().map(|row| row.iter().map(|hit| hit.ordinal).collect()).collect();
        self.hits = Some(hits.clone());
        Ok(hits)
    }

    /// (N, D) vectors of passages given by ordinal, repeats allowed: live with gradient where the passage side trains, else
    /// the stored ones.
    fn passage_vectors(&mut self, ordinals: &[u32]) -> Result<Tensor> {
        let d = self.pipeline.encoder.dim();
        if !self.trains.passages {
            let mut stored = Vec::with_capacity(ordinals.len() * d);
            for ordinal in ordinals {
                stored.extend_from_slice(self.pipeline.generation.vector(*ordinal)?);
            }
            return Ok(Tensor::from_vec(stored, (ordinals.len(), d), self.pipeline.encoder.device())?);
        }
        let mut distinct = ordinals.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let missing: Vec<u32> =
            distinct.iter().copied().filter(|ordinal| !self.passages.contains_key(ordinal)).collect();
        if !missing.is_empty() {
            let _span = self.ledger.span(Phase::Retrieve);
            let read = self.pipeline.corpus.get(&missing)?;
            self.passages.extend(missing.into_iter().zip(read));
        }
        let texts: Vec<String> =
            distinct.iter().filter_map(|ordinal| self.passages.get(ordinal)).map(passage_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = self.embed_live(&texts, Role::Passage, Grad::On)?;
        let rows: Vec<u32> =
            ordinals.iter().map(|ordinal| distinct.binary_search(ordinal).unwrap_or_default() as u32).collect();
        let rows = Tensor::from_vec(rows, (1, ordinals.len()), vectors.device())?;
        Ok(nn::embedding(&vectors, &rows)?.squeeze(0)?)
    }

    fn embed_live(&mut self, texts: &[&str], role: Role, grad: Grad) -> Result<Tensor> {
        let span = self.ledger.span(Phase::Embed);
        let encoder = &self.pipeline.encoder;
        let tokenized = encoder.tokenize(texts, role)?;
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
        encoder.forward_as(&tokenized.ids, role, grad)
    }

    fn prompt_ids(&self, passages: &[&Passage], question: &str) -> Result<PromptIds> {
        self.pipeline.prompt.ids(self.pipeline.generator.text(), passages, question, self.settings.max_prompt_tokens)
    }

    fn answer_ids(&self, question: &Question) -> Result<Vec<u32>> {
        let answer = question.answers.first().ok_or_else(|| {
            Error::new(format!("question `{}` has no answer to learn from", question.id))
                .hint("remove it from the training questions, or train with `--strategy embedder`, which needs gold passages only")
        })?;
        let text = self.pipeline.generator.text();
        Ok(self.pipeline.prompt.answer_ids(text, answer, self.settings.max_answer_tokens)?.ids)
    }

    fn score(&mut self, sequences: &[Scored], span: &crate::cost::Span) -> Result<(Tensor, Tensor)> {
        let generator = &self.pipeline.generator;
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.ids.len()).collect();
        let logits = sequences.iter().map(|sequence| sequence.ids.len() - sequence.answer_start).sum();
        let flops = generator.forward_flops(&lengths, logits);
        span.tokens(lengths.iter().sum::<usize>() as u64);
        span.flops(flops);
        let grad = if self.trains.generator { Grad::On } else { Grad::Off };
        if grad == Grad::On {
            self.observed.generator_flops += flops;
        }
        generator.answer_log_probs(sequences, grad)
    }
}

fn scored(prompt: PromptIds, answer: &[u32]) -> Scored {
    let answer_start = prompt.ids.len();
    let mut ids = prompt.ids;
    ids.extend_from_slice(answer);
    Scored { ids, answer_start }
}
