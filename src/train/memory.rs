//! How much memory a run will take, before it takes it.
//!
//! What is loaded is measured, of a device with its own memory counted; what training adds is computed. A pass with gradients keeps, for each token and layer, every
//! tensor that a backward pass reads: 10·D + 2·I numbers in a BERT of width D and feed-forward width I, 7·D + 3·Q + 3·K + 3·I in
//! a Llama with query heads of width Q and key heads of width K together. A trained number takes its gradient, the sum of
//! gradients and two moments: 16 bytes. Lengths are those of sampled questions and passages.

use super::batch;
use super::refresh::{Policy, RefreshSettings};
use super::reindex::probe_questions;
use super::session::{EVALUATION_SEQUENCES, Session};
use crate::config::TrainConfig;
use crate::cost::{machine, units};
use crate::error::{Error, Result};
use crate::models::Role;
use crate::pipeline::answer::AnswerReader;
use crate::pipeline::embed::passage_text;
use crate::strategies::{Lists, Stage};

/// Questions and passages whose lengths are looked at.
const SAMPLE: usize = 64;
/// What a graph takes beside the vectors while it is built, bytes a passage (16 links; measured with hnsw_rs).
const GRAPH_BYTES: f64 = 2048.0;
/// A run is refused when it needs this much more than there is: estimates may be a fifth too high.
const CERTAIN: f64 = 1.25;

/// How the part of gradients and moments is called.
const GRADIENTS: &str = "gradients and moments";

/// What a run will take at its peak, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Models, vectors and graph: what the process has now.
    pub loaded: f64,
    /// Gradients and moments of what trains.
    pub training: f64,
    /// What the largest pass with gradients keeps, and what a refresh policy keeps beside it.
    pub activations: f64,
    /// What a refresh adds: new vectors and their graph.
    pub refresh: f64,
    /// What the answering of evaluation questions adds: cached keys and values.
    pub evaluation: f64,
    /// Whether this is the memory of a device that has its own, which holds models and what trains them, and not of this
    /// machine, which holds vectors and graph all the same.
    pub on_device: bool,
}

impl Estimate {
    /// The peak: steps, refreshes and evaluations follow each other.
    pub fn peak(&self) -> f64 {
        self.loaded + self.training + self.activations.max(self.refresh).max(self.evaluation)
    }

    fn place(&self) -> &'static str {
        if self.on_device { "the device's memory" } else { "this machine's memory" }
    }

    /// Refuses a run that surely does not fit into `available` bytes beside what is loaded, naming what to change.
    pub fn check(&self, available: f64, config: &TrainConfig) -> Result<()> {
        let wanted = self.peak() - self.loaded;
        if wanted <= CERTAIN * available {
            return Ok(());
        }
        let bytes = |value: f64| units::bytes(value as u64);
        // What helps against the largest part comes first.
        let mut flags = vec![
            format!("`--batch-tokens` below {}", config.batch_tokens),
            format!("`--top-k` below {}", config.top_k),
        ];
        if !config.gradient_checkpointing {
            flags.push("`--gradient-checkpointing`".into());
        }
        let (largest, _) = self.largest();
        let adapter = match config.lora_rank {
            None => "`--lora-rank 16`".into(),
            Some(rank) => format!("`--lora-rank` below {rank}"),
        };
        let first = if largest == GRADIENTS { 0 } else { flags.len() };
        flags.insert(first, adapter);
        Err(Error::new(format!(
            "training would take about {} of {} more than the {} that are loaded, and {} are free: {} for gradients and moments, \
             {} for activations, {} for a refresh, {} for evaluation",
            bytes(wanted),
            self.place(),
            bytes(self.loaded),
            bytes(available),
            bytes(self.training),
            bytes(self.activations),
            bytes(self.refresh),
            bytes(self.evaluation)
        ))
        .hint(format!("most of it is for {largest}: try {}", flags.join(", "))))
    }

    /// The part that adds most, with its bytes.
    fn largest(&self) -> (&'static str, f64) {
        let parts = [
            (GRADIENTS, self.training),
            ("activations", self.activations),
            ("a refresh", self.refresh),
            ("evaluation", self.evaluation),
        ];
        parts.into_iter().fold((GRADIENTS, 0.0), |most, part| if part.1 > most.1 { part } else { most })
    }
}

/// Mean and standard deviation.
#[derive(Clone, Copy, Default)]
struct Lengths {
    mean: f64,
    deviation: f64,
}

impl Lengths {
    fn of(lengths: impl Iterator<Item = usize>) -> Self {
        let lengths: Vec<f64> = lengths.map(|length| length as f64).collect();
        let count = lengths.len().max(1) as f64;
        let mean = lengths.iter().sum::<f64>() / count;
        let variance = lengths.iter().map(|length| (length - mean) * (length - mean)).sum::<f64>() / count;
        Self { mean, deviation: variance.sqrt() }
    }

    /// Tokens of `count` texts together in the larger batches: a standard deviation above the mean.
    fn of_batch(&self, count: usize) -> f64 {
        let count = count as f64;
        count * self.mean + self.deviation * count.sqrt()
    }
}

/// Estimates a run whose models are loaded.
pub fn estimate(session: &Session, config: &TrainConfig, stages: &[Stage]) -> Result<Estimate> {
    let pipeline = &session.pipeline;
    let (encoder, generator) = (&pipeline.encoder, &pipeline.generator);
    let sample = sample(session, config)?;
    let dim = 4.0 * encoder.dim() as f64;
    // The f32 values of matrices that are kept in fewer bits were freed as large blocks, which serve again.
    let freed: usize =
        generator.params().quantised().map(|(_, it)| (4 * it.dims().0 * it.dims().1).saturating_sub(it.bytes())).sum();
    let on_device = !encoder.device().is_cpu();
    let mut estimate = Estimate {
        loaded: match on_device {
            true => {
                let selector = pipeline.selector.as_ref().map_or(0, |selector| selector.generator.params().bytes());
                (encoder.params().bytes() + generator.params().bytes() + selector) as f64
            }
            false => machine::resident_bytes().unwrap_or(0).saturating_sub(freed as u64) as f64,
        },
        on_device,
        evaluation: evaluation(session, config, &sample)?,
        ..Estimate::default()
    };
    for stage in stages {
        let longest = session.max_prompt_tokens + config.max_answer_tokens + 1;
        let questions = match stage.objective.per_question() {
            true => batch::micro_batches(&vec![longest * config.top_k; config.batch_size], config.batch_tokens)
                .iter()
                .map(|run| run.len())
                .max()
                .unwrap_or(1),
            false => config.batch_size,
        };
        let passages = if stage.objective.per_question() { questions * config.top_k } else { questions };
        let chunk = |tokens: f64| tokens.min(config.batch_tokens as f64);
        let (mut trained, mut activations) = (0usize, 0.0);
        if stage.trains.encoder() {
            trained += encoder.params().trainable().map(|(_, var)| var.elem_count()).sum::<usize>();
            activations += encoder.activation_bytes(chunk(sample.question.of_batch(questions)));
            if stage.trains.passages {
                activations += encoder.activation_bytes(chunk(sample.passage.of_batch(passages)));
                let on_machine = if on_device { 0.0 } else { pipeline.corpus.len() as f64 * (2.0 * dim + GRAPH_BYTES) };
                // Embedding keeps a packed copy of the matrices beside them.
                let packed = if on_device { 0.0 } else { encoder.params().bytes() as f64 };
                let pass = packed + encoder.inside_bytes(config.batch_tokens as f64);
                estimate.refresh = on_machine + pass;
                activations += kept_beside(session, config, pass)?;
            }
        }
        let needs = stage.objective.needs();
        if stage.trains.generator {
            trained += generator.params().trainable().map(|(_, var)| var.elem_count()).sum::<usize>();
        }
        if let (Some(lists), Some(selector)) = (&stage.lists, &pipeline.selector) {
            let choose = config.top_k;
            let (samples, list) = match lists {
                Lists::Drawn(expectation) => (expectation.samples, selector.identifiers().longest_list(choose)),
                Lists::Taught(_) => (1, selector.identifiers().longest_list(choose)),
            };
            // The prompt of all candidates is read once for its lists.
            let prompt = (sample.passage.mean * config.dro.candidates as f64).min(selector.prompt_limit(choose) as f64);
            let tokens = questions as f64 * (prompt + (samples * list) as f64);
            let scored = questions as f64 * (samples * list) as f64;
            let model = &selector.generator;
            if stage.trains.selector {
                trained += model.params().trainable().map(|(_, var)| var.elem_count()).sum::<usize>();
                activations += model.activation_bytes(tokens, scored);
            } else {
                activations += model.inside_bytes(tokens, scored);
            }
            let (tokens, prompts) = (sample.whole.of_batch(questions) * samples as f64, (questions * samples) as f64);
            if matches!(lists, Lists::Drawn(_)) {
                activations += match stage.trains.generator {
                    true => generator.activation_bytes(tokens, prompts * sample.answer),
                    false => generator.inside_bytes(tokens, prompts * sample.answer),
                };
            }
        }
        // One prompt a passage, all in one, or all but one: which of them gets a gradient is the objective's.
        let k = config.top_k as f64;
        let (alone, whole) = (sample.prompt.of_batch(questions * config.top_k), sample.whole.of_batch(questions));
        let kinds: [(bool, f64, f64, bool); 3] = [
            (needs.single_prompts, alone, questions as f64 * k, !needs.concat),
            (needs.concat, whole, questions as f64, true),
            (needs.leave_one_out, whole * (k - 1.0), questions as f64 * k, false),
        ];
        for (_, tokens, prompts, learns) in kinds.into_iter().filter(|(reads, ..)| *reads && stage.lists.is_none()) {
            activations += match learns && stage.trains.generator {
                true => generator.activation_bytes(tokens, prompts * sample.answer),
                false => generator.inside_bytes(tokens, prompts * sample.answer),
            };
        }
        estimate.training = estimate.training.max(16.0 * trained as f64);
        estimate.activations = estimate.activations.max(activations);
    }
    Ok(estimate)
}

/// What a refresh policy keeps while steps go on; `pass` is what embedding passages takes besides.
fn kept_beside(session: &Session, config: &TrainConfig, pass: f64) -> Result<f64> {
    let following = RefreshSettings::of(config)?;
    let encoder = &session.pipeline.encoder;
    let corpus = session.pipeline.corpus.len();
    let vectors = |passages: usize| 4.0 * (passages.min(corpus) * encoder.dim()) as f64;
    let ranked = config.batch_size.saturating_mul(following.depth);
    let live =
        || vectors(ranked.saturating_mul(usize::try_from(following.age).unwrap_or(usize::MAX).saturating_add(1)));
    Ok(match following.policy {
        // The snapshot and its packed matrices, the vectors that are not staged yet.
        Policy::Background => encoder.params().bytes() as f64 + pass + vectors(corpus),
        Policy::Lazy => pass + live(),
        // The overlay before and after, and what was embedded at a point, for the step after it.
        Policy::Rows => {
            let candidates = probe_questions(following.sample).saturating_mul(following.depth).saturating_mul(2);
            let measured = following.sample.saturating_add(candidates);
            // As they were made, and as they are offered to the step after.
            let made = 2.0 * (vectors(following.rows_of(corpus)) + vectors(measured));
            pass + live() + 2.0 * vectors(corpus) + made
        }
        Policy::Adapter => vectors(corpus),
        Policy::Full | Policy::FullReuse | Policy::Drift | Policy::Question | Policy::Never => 0.0,
    })
}

/// Of a batch of evaluation questions.
fn evaluation(session: &Session, config: &TrainConfig, sample: &Sample) -> Result<f64> {
    let reader = config.eval_reader()?;
    let prompts = if reader == AnswerReader::Concat { &sample.whole } else { &sample.prompt };
    let mut rows = EVALUATION_SEQUENCES.max(config.top_k * config.beams);
    if reader == AnswerReader::SequenceThorough {
        // The prompts as they were read stay beside what continues them.
        rows += rows / config.beams;
    }
    // The longest of some dozens lies two to three deviations above the mean.
    let most = session.max_prompt_tokens as f64;
    let (prompt, longest) = (prompts.mean.min(most), (prompts.mean + 2.5 * prompts.deviation).min(most));
    Ok(session.pipeline.generator.decoding_bytes(rows, prompt, longest, config.max_answer_tokens as f64))
}

/// Lengths in tokens: the encoder's of questions and passages, the generator's of prompts with their answers.
struct Sample {
    question: Lengths,
    passage: Lengths,
    /// Of one passage.
    prompt: Lengths,
    /// Of all passages together.
    whole: Lengths,
    /// Mean length of an answer.
    answer: f64,
}

fn sample(session: &Session, config: &TrainConfig) -> Result<Sample> {
    let pipeline = &session.pipeline;
    let all = &session.questions.questions;
    let count = SAMPLE.min(all.len());
    let questions: Vec<_> = batch::rows(all.len(), count, config.seed, 0).into_iter().map(|row| &all[row]).collect();
    let corpus = pipeline.corpus.len();
    let ordinals: Vec<u32> = (0..SAMPLE.min(corpus)).map(|i| (i * corpus / SAMPLE.min(corpus)) as u32).collect();
    let passages = pipeline.corpus.get(&ordinals)?;
    let tokens = |texts: &[&str], role: Role| -> Result<Lengths> {
        Ok(Lengths::of(pipeline.encoder.tokenize(texts, role)?.ids.iter().map(Vec::len)))
    };
    let texts: Vec<String> = passages.iter().map(passage_text).collect();
    let mut answers = Vec::with_capacity(count);
    let mut lengths = |together: usize| {
        let mut lengths = Vec::with_capacity(count);
        for (i, question) in questions.iter().enumerate() {
            let read: Vec<_> = (0..together).map(|k| &passages[(i * together + k) % passages.len()]).collect();
            let text = pipeline.generator.text();
            // A question that cannot be read or answered is refused by the step that needs it to be; ranking does not.
            let Ok(prompt) = pipeline.prompt.ids(text, &read, &question.question, session.max_prompt_tokens) else {
                continue;
            };
            let answer = question.answers.first();
            let answer =
                answer.and_then(|answer| pipeline.prompt.answer_ids(text, answer, config.max_answer_tokens).ok());
            let answer = answer.map_or(0, |answer| answer.ids.len());
            lengths.push(prompt.ids.len() + answer);
            answers.push(answer as f64);
        }
        Lengths::of(lengths.into_iter())
    };
    let (prompt, whole) = (lengths(1), lengths(config.top_k));
    let asked: Vec<&str> = questions.iter().map(|question| question.question.as_str()).collect();
    Ok(Sample {
        question: tokens(&asked, Role::Question)?,
        passage: tokens(&texts.iter().map(String::as_str).collect::<Vec<_>>(), Role::Passage)?,
        answer: answers.iter().sum::<f64>() / answers.len().max(1) as f64,
        prompt,
        whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_takes_the_largest_of_what_follows_each_other() {
        let estimate = Estimate {
            loaded: 10.0,
            training: 5.0,
            activations: 7.0,
            refresh: 20.0,
            evaluation: 1.0,
            on_device: false,
        };
        assert_eq!(estimate.peak(), 35.0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_flags_to_change() {
        let config = crate::config::TrainConfig::resolve(&crate::cli::TrainArgs::of_tests()).unwrap();
        let estimate = Estimate { loaded: 1e9, training: 2e9, activations: 6e9, ..Estimate::default() };
        estimate.check(6.5e9, &config).unwrap();
        let error = estimate.check(6e9, &config).unwrap_err();
        assert!(error.to_string().contains("activations") && error.to_string().contains("this machine's"), "{error}");
        let error = Estimate { on_device: true, ..estimate }.check(6e9, &config).unwrap_err();
        assert!(error.to_string().contains("the device's"), "{error}");
        let hint = error.find_hint().unwrap();
        for flag in ["--batch-tokens", "--top-k", "--gradient-checkpointing", "--lora-rank"] {
            assert!(hint.contains(flag), "{hint}");
        }
        assert!(hint.starts_with("most of it is for activations: try `--batch-tokens`"), "{hint}");
        // An adapter that is too large is the first thing to make smaller.
        let adapted = crate::config::TrainConfig { lora_rank: Some(512), ..config };
        let error = Estimate { training: 9e9, ..estimate }.check(6e9, &adapted).unwrap_err();
        let hint = error.find_hint().unwrap();
        assert!(hint.starts_with("most of it is for gradients and moments: try `--lora-rank` below 512"), "{hint}");
    }

    #[test]
    fn a_large_batch_is_longer_than_its_mean() {
        let lengths = Lengths::of([10, 30].into_iter());
        assert_eq!((lengths.mean, lengths.deviation), (20.0, 10.0));
        assert_eq!(lengths.of_batch(4), 100.0);
    }
}
