//! Runs a pipeline over evaluation questions: retrieve, read, answer, score every question.

use ragtune_index::{Fingerprint, Hit, Passage, Trust};

use crate::cost::{Ledger, Phase};
use crate::data::Question;
use crate::error::{Error, Result};
use crate::models::{Grad, Role};
use crate::pipeline::Pipeline;
use crate::pipeline::answer::{AnswerReader, AnswerSettings, Context, answer};
use crate::pipeline::retriever::inner_products;
use crate::pipeline::selector::{Selector, SelectorInput};
use crate::report::record::EvaluationSummary;
use crate::report::scores::{QuestionScore, RetrievedPassage};
use crate::report::selection::SelectionScore;

/// The depths recall is reported at.
pub const RECALL_AT: [u32; 4] = [1, 5, 10, 20];

/// How an evaluation is done.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateSettings {
    /// Passages read for an answer; 0 answers closed book.
    pub top_k: usize,
    /// How they are read.
    pub answer: AnswerSettings,
    /// Only so many questions, from the first; 0 for all.
    pub limit: usize,
    /// Sequences decoded at a time, every beam of every prompt one of them.
    pub sequences: usize,
}

/// Means and single scores.
pub struct Evaluation {
    /// The means.
    pub summary: EvaluationSummary,
    /// One for each question, in their order.
    pub scores: Vec<QuestionScore>,
    /// Prompts made.
    pub prompts: u64,
    /// Prompts with a shortened passage.
    pub truncated: u64,
}

/// Whose vectors the questions may be compared with: an owned form of [`Trust`].
pub enum Searcher {
    /// Those of this fingerprint only.
    Same(Fingerprint),
    /// Any, as during training between refreshes.
    Stale,
}

impl Searcher {
    /// As the index wants it.
    pub fn trust(&self) -> Trust<'_> {
        match self {
            Searcher::Same(by) => Trust::Same(by),
            Searcher::Stale => Trust::StaleAllowed,
        }
    }
}

/// Evaluates a pipeline. `progress` hears the number of questions done. Charges embed (unless neither retriever nor reader needs
/// vectors), retrieve, with a selector select, generate and evaluate.
pub fn evaluate(
    pipeline: &Pipeline,
    questions: &[Question],
    searcher: &Searcher,
    settings: &EvaluateSettings,
    name: &str,
    ledger: &Ledger,
    progress: &mut dyn FnMut(u64),
) -> Result<Evaluation> {
    let limit = if settings.limit == 0 { questions.len() } else { settings.limit.min(questions.len()) };
    let questions = questions.get(..limit).unwrap_or_default();
    let deepest = RECALL_AT.iter().copied().max().unwrap_or(1) as usize;
    let selector = pipeline.selector.as_ref().filter(|_| settings.top_k > 0);
    if selector.is_some() && settings.answer.reader != AnswerReader::Concat {
        return Err(Error::new(format!(
            "the reader `{}` weighs passages by their retrieval scores, which say nothing about a selection",
            settings.answer.reader.name()
        ))
        .hint("evaluate a selector with `--reader concat`"));
    }
    let given = selector.map_or(0, Selector::candidates);
    let depth = deepest.max(settings.top_k).max(given).min(pipeline.corpus.passages());
    let width = settings.top_k.max(1) * settings.answer.beams.max(1);
    let mut scores = Vec::with_capacity(questions.len());
    let (mut prompts, mut truncated, mut shortened, mut filled) = (0, 0, 0u64, 0u64);
    // The mixture's prior is the encoder's whatever found the passages.
    let weighs = settings.top_k > 0 && settings.answer.reader != AnswerReader::Concat;
    let mut distinct = std::collections::BTreeSet::new();
    for batch in questions.chunks((settings.sequences / width).max(1)) {
        let Retrieved { hits, weights, filled: some } = retrieve(pipeline, batch, depth, weighs, searcher, ledger)?;
        filled += some;
        let mut read = Vec::with_capacity(batch.len());
        {
            let _span = ledger.span(Phase::Retrieve);
            for row in &hits {
                let ordinals: Vec<u32> = row.iter().map(|hit| hit.ordinal).collect();
                read.push(pipeline.corpus.get(&ordinals)?);
            }
        }
        let chosen = match selector {
            Some(selector) => {
                let (chosen, cut) = select(selector, batch, &read, settings.top_k, ledger)?;
                shortened += cut;
                chosen
            }
            None => read.iter().map(|passages| (0..passages.len().min(settings.top_k) as u32).collect()).collect(),
        };
        for (row, chosen) in hits.iter().zip(&chosen) {
            distinct.extend(chosen.iter().filter_map(|place| row.get(*place as usize)).map(|hit| hit.ordinal));
        }
        let contexts: Vec<Context<'_>> = batch
            .iter()
            .zip(&weights)
            .zip(read.iter().zip(&chosen))
            .map(|((question, weights), (passages, chosen))| Context {
                question: &question.question,
                passages: chosen.iter().filter_map(|place| passages.get(*place as usize)).collect(),
                scores: chosen.iter().filter_map(|place| weights.get(*place as usize)).copied().collect(),
            })
            .collect();
        let answers = {
            let span = ledger.span(Phase::Generate);
            answer(pipeline, &contexts, &settings.answer, &span)?
        };
        prompts += answers.prompts;
        truncated += answers.truncated;
        let _span = ledger.span(Phase::Evaluate);
        let found = hits.iter().zip(&read).zip(&chosen);
        for ((question, ((hits, passages), chosen)), prediction) in batch.iter().zip(found).zip(answers.texts) {
            let retrieved = retrieved(hits, passages)?;
            let mut score = QuestionScore::of(question, Some(&prediction), &retrieved, &RECALL_AT);
            score.selection = selector.map(|_| SelectionScore::of(question, &retrieved, chosen));
            scores.push(score);
        }
        progress(scores.len() as u64);
    }
    let mut summary = EvaluationSummary {
        generation: pipeline.generation.number(),
        distinct_passages: distinct.len() as u64,
        filled_questions: filled,
        reader_mode: settings.answer.label(),
        ..EvaluationSummary::of(name, &scores)
    };
    if let Some(selection) = &mut summary.selection {
        selection.candidates = given.min(pipeline.generation.len()) as u32;
        selection.truncated_prompts = shortened as f64 / scores.len().max(1) as f64;
    }
    Ok(Evaluation { summary, scores, prompts, truncated })
}

/// What the selector chooses for each question, as places among the retrieved passages, and how many of its prompts had a
/// passage shortened.
fn select(
    selector: &Selector,
    questions: &[Question],
    read: &[Vec<Passage>],
    choose: usize,
    ledger: &Ledger,
) -> Result<(Vec<Vec<u32>>, u64)> {
    let span = ledger.span(Phase::Select);
    let mut inputs = Vec::with_capacity(questions.len());
    for (question, passages) in questions.iter().zip(read) {
        let candidates: Vec<&Passage> = passages.iter().take(selector.candidates()).collect();
        inputs.push(selector.input(&question.question, &candidates, choose)?);
    }
    let shortened = inputs.iter().filter(|input| input.truncated).count() as u64;
    let inputs: Vec<&SelectorInput> = inputs.iter().collect();
    Ok((selector.select(&inputs, choose, &span)?, shortened))
}

/// What was retrieved for a batch of questions.
struct Retrieved {
    /// Passages with the retriever's scores, a row a question, best first.
    hits: Vec<Vec<Hit>>,
    /// What a mixture weighs them by: the encoder's inner products, or, where nothing is weighed, the retriever's scores.
    weights: Vec<Vec<f32>>,
    /// Questions whose passages were filled up in the order of the corpus.
    filled: u64,
}

fn retrieve(
    pipeline: &Pipeline,
    questions: &[Question],
    depth: usize,
    weighs: bool,
    searcher: &Searcher,
    ledger: &Ledger,
) -> Result<Retrieved> {
    let texts: Vec<&str> = questions.iter().map(|question| question.question.as_str()).collect();
    let vectors = match pipeline.retriever.embeds_questions() || weighs {
        true => Some(embed(pipeline, &texts, ledger)?),
        false => None,
    };
    let span = ledger.span(Phase::Retrieve);
    span.searches(questions.len() as u64);
    let found = pipeline.find(&texts, vectors.as_deref(), depth, searcher.trust())?;
    let weights = match &vectors {
        Some(vectors) if weighs && !pipeline.retriever.is_dense() => {
            // No question: for the refusal of another encoder's vectors alone.
            pipeline.generation.search(&[], 0, pipeline.search, searcher.trust())?;
            let questions = vectors.chunks_exact(pipeline.generation.dim().max(1));
            let ordinals = |row: &Vec<Hit>| row.iter().map(|hit| hit.ordinal).collect::<Vec<u32>>();
            let rows = questions.zip(&found.hits);
            rows.map(|(vector, row)| inner_products(&pipeline.generation, vector, &ordinals(row)))
                .collect::<Result<_>>()?
        }
        _ => found.hits.iter().map(|row| row.iter().map(|hit| hit.score).collect()).collect(),
    };
    Ok(Retrieved { hits: found.hits, weights, filled: found.filled })
}

/// (B, D) vectors of questions, row-major, charged to embed.
fn embed(pipeline: &Pipeline, texts: &[&str], ledger: &Ledger) -> Result<Vec<f32>> {
    let span = ledger.span(Phase::Embed);
    let tokenized = pipeline.encoder.tokenize(texts, Role::Question)?;
    let lengths: Vec<usize> = tokenized.ids.iter().map(Vec::len).collect();
    span.tokens(lengths.iter().sum::<usize>() as u64);
    span.flops(pipeline.encoder.forward_flops(&lengths));
    Ok(pipeline.encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?)
}

/// What a question's score is made from; the deepest passages first lose nothing: recall looks at all of them.
fn retrieved(hits: &[Hit], passages: &[Passage]) -> Result<Vec<RetrievedPassage>> {
    if hits.len() != passages.len() {
        return Err(Error::new("the index returned another number of passages than was searched for"));
    }
    let row = |(hit, passage): (&Hit, &Passage)| RetrievedPassage {
        id: passage.id.clone(),
        score: hit.score,
        text: format!("{} {}", passage.title, passage.text),
    };
    Ok(hits.iter().zip(passages).map(row).collect())
}
