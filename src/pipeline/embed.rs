//! The one function behind `index build` and every refresh: embed the whole corpus and commit it as a new generation; and the
//! same for some passages, without a commit.

use ragtune_index::{
    CommitStage, Corpus, Fingerprint, Fragment, Generation, GraphParams, GraphPlan, Passage, WriterLock,
};

use crate::cost::{Counts, Ledger, Phase, Span};
use crate::error::{Error, Result};
use crate::models::encoder::{Encoder, Rounded};
use crate::models::{Precision, Role};

/// Passages read from the corpus at a time: they are sorted by length before they are cut into batches.
const WINDOW: u32 = 1024;

/// How a corpus is embedded.
#[derive(Clone, Copy, Debug)]
pub struct EmbedSettings {
    /// The most tokens of one encoder batch.
    pub batch_tokens: usize,
    /// How the graph is built and probed.
    pub graph: GraphParams,
    /// What the encoder's matrices are rounded to while it embeds passages.
    pub precision: Precision,
}

/// A committed embedding of the whole corpus.
pub struct Embedded {
    /// The new generation.
    pub generation: Generation,
    /// Passages embedded now (fewer than the corpus when an interrupted refresh was resumed).
    pub passages: u64,
    /// Passages that an interrupted process had embedded with the same weights.
    pub taken_over: u64,
    /// Passages cut to the encoder's maximum length.
    pub truncated: u64,
}

/// Embeds every passage with the encoder's present weights and commits the vectors as a new generation with its graph.
///
/// Memory: one fragment of vectors and one window of text; then, for the graph, all vectors. Durable when it returns; a
/// crash before leaves the earlier generation and the fragments already embedded, which the next call with the same
/// weights takes over. Charges `embed`, `write` and `graph`. `progress` hears the number of passages done.
pub fn embed_corpus(
    encoder: &Encoder,
    corpus: &Corpus,
    lock: &WriterLock,
    settings: &EmbedSettings,
    ledger: &Ledger,
    progress: &mut dyn FnMut(u64),
) -> Result<Embedded> {
    embed_corpus_by(encoder, corpus, lock, settings, GraphPlan::Build, ledger, progress)
}

/// [`embed_corpus`] with another way to the graph.
pub fn embed_corpus_by(
    encoder: &Encoder,
    corpus: &Corpus,
    lock: &WriterLock,
    settings: &EmbedSettings,
    plan: GraphPlan,
    ledger: &Ledger,
    progress: &mut dyn FnMut(u64),
) -> Result<Embedded> {
    let fingerprint = {
        let _span = ledger.span(Phase::Embed);
        fingerprint_of(encoder, settings.precision)?
    };
    let mut writer = {
        let _span = ledger.span(Phase::Write);
        corpus.begin(lock, &fingerprint, encoder.dim())?
    };
    let pending = writer.pending();
    let already: u64 = corpus.len() as u64 - pending.iter().map(|fragment| u64::from(fragment.rows)).sum::<u64>();
    let (mut passages, mut truncated) = (0u64, 0u64);
    progress(already);
    if !pending.is_empty() {
        let embedder = {
            let _span = ledger.span(Phase::Embed);
            Embedder::new(encoder, settings)?
        };
        for fragment in &pending {
            let vectors = embed_fragment(&embedder, corpus, fragment, ledger, &mut truncated, &mut |done| {
                progress(already + passages + done);
            })?;
            passages += u64::from(fragment.rows);
            let span = ledger.span(Phase::Write);
            writer.write(fragment, &vectors)?;
            span.bytes(vectors.len() as u64 * 4);
        }
    }
    let mut open: Option<Span> = None;
    let generation = writer.commit(&settings.graph, plan, &mut |stage| {
        // The earlier stage's span ends before the next begins: one clock, no nesting.
        open = None;
        open = Some(ledger.span(match stage {
            CommitStage::Graph | CommitStage::Probe => Phase::Graph,
            CommitStage::Commit | CommitStage::Publish => Phase::Write,
        }));
    })?;
    drop(open);
    if let Some(graph) = generation.graph() {
        ledger.span(Phase::Write).bytes(graph.bytes);
    }
    Ok(Embedded { generation, passages, taken_over: already, truncated })
}

/// Embeds some passages, given by ordinal, with the encoder's present weights: (N, D) row-major in their order. Charges `embed`.
pub fn embed_some(
    encoder: &Encoder,
    corpus: &Corpus,
    ordinals: &[u32],
    settings: &EmbedSettings,
    ledger: &Ledger,
) -> Result<Vec<f32>> {
    let mut vectors = Vec::with_capacity(ordinals.len() * encoder.dim());
    if ordinals.is_empty() {
        return Ok(vectors);
    }
    let span = ledger.span(Phase::Embed);
    let embedder = Embedder::new(encoder, settings)?;
    for window in ordinals.chunks(WINDOW as usize) {
        let passages = corpus.get(window)?;
        let embedded = embedder.vectors(&passages, &mut |counts| {
            span.add(*counts);
        })?;
        vectors.extend(embedded.vectors);
    }
    Ok(vectors)
}

/// An encoder made ready to embed many passages: its matrices packed, and rounded where that was asked for.
pub struct Embedder<'a> {
    encoder: &'a Encoder,
    rounded: Rounded<'a>,
    batch_tokens: usize,
}

/// Vectors of some passages.
pub struct Embeddings {
    /// (N, D) row-major.
    pub vectors: Vec<f32>,
    /// Passages cut to the encoder's maximum length.
    pub truncated: u64,
}

impl<'a> Embedder<'a> {
    /// The encoder as it is now; to be made again when its weights have changed.
    pub fn new(encoder: &'a Encoder, settings: &EmbedSettings) -> Result<Self> {
        Ok(Self { encoder, rounded: encoder.rounded(settings.precision)?, batch_tokens: settings.batch_tokens })
    }

    /// The vectors of passages in their order; `each` hears what every batch took.
    pub fn vectors(&self, passages: &[Passage], each: &mut dyn FnMut(&Counts)) -> Result<Embeddings> {
        self.vectors_unless(passages, &mut |counts| {
            each(counts);
            Ok(())
        })
    }

    /// The same; `each` may end it with an error.
    pub fn vectors_unless(
        &self,
        passages: &[Passage],
        each: &mut dyn FnMut(&Counts) -> Result<()>,
    ) -> Result<Embeddings> {
        let dim = self.encoder.dim();
        let mut vectors = vec![0f32; passages.len() * dim];
        let texts: Vec<String> = passages.iter().map(passage_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokenized = self.encoder.tokenize(&texts, Role::Passage)?;
        for batch in by_length(&tokenized.ids, self.batch_tokens) {
            let ids: Vec<Vec<u32>> = batch.iter().filter_map(|row| tokenized.ids.get(*row).cloned()).collect();
            let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
            let rows = self.rounded.forward(&ids, Role::Passage)?.to_vec2::<f32>()?;
            for (row, vector) in batch.iter().zip(rows) {
                let slot = vectors.get_mut(row * dim..(row + 1) * dim);
                slot.ok_or_else(|| Error::new("a vector does not fit its fragment"))?.copy_from_slice(&vector);
            }
            each(&Counts {
                tokens: lengths.iter().sum::<usize>() as u64,
                flops: self.encoder.forward_flops(&lengths),
                passages: batch.len() as u64,
                ..Counts::default()
            })?;
        }
        Ok(Embeddings { vectors, truncated: tokenized.truncated as u64 })
    }
}

/// What this encoder's present weights and settings would embed: the encoder's own fingerprint, how a passage becomes its
/// text, and what its matrices are rounded to. Questions are never rounded, so that vectors of any precision may be searched.
pub fn fingerprint_of(encoder: &Encoder, precision: Precision) -> Result<Fingerprint> {
    let mut fields = encoder.fingerprint()?;
    fields.insert("passage_text".into(), "{title} {text}".into());
    // Said only where it is unusual, so that indexes made before there was a choice stay valid.
    if precision != Precision::F32 {
        fields.insert("passage_dtype".into(), precision.name().into());
    }
    Ok(Fingerprint::new(fields))
}

fn embed_fragment(
    embedder: &Embedder<'_>,
    corpus: &Corpus,
    fragment: &Fragment,
    ledger: &Ledger,
    truncated: &mut u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<f32>> {
    let mut vectors = Vec::with_capacity(fragment.rows as usize * embedder.encoder.dim());
    let mut done = 0;
    for window in windows(fragment) {
        let span = ledger.span(Phase::Embed);
        let passages = corpus.read(fragment, window)?;
        let embedded = embedder.vectors(&passages, &mut |counts| {
            span.add(*counts);
            done += counts.passages;
            progress(done);
        })?;
        *truncated += embedded.truncated;
        vectors.extend(embedded.vectors);
    }
    Ok(vectors)
}

/// The rows of a fragment that are read and embedded at a time, in order.
pub fn windows(fragment: &Fragment) -> impl Iterator<Item = std::ops::Range<u32>> + use<> {
    let rows = fragment.rows;
    (0..rows).step_by(WINDOW as usize).map(move |start| start..rows.min(start + WINDOW))
}

/// The text of a passage as the encoder sees it: title, blank, text.
pub fn passage_text(passage: &ragtune_index::Passage) -> String {
    if passage.title.is_empty() { passage.text.clone() } else { format!("{} {}", passage.title, passage.text) }
}

/// Cuts sequences into batches of similar length that hold at most `batch_tokens` tokens (one sequence at least). Returns row
/// numbers, longest first; every row occurs once. Order depends on the lengths only. Batches are packed, so that similar
/// lengths save nothing; they make batches of equal work.
pub fn by_length(ids: &[Vec<u32>], batch_tokens: usize) -> Vec<Vec<usize>> {
    let length = |row: usize| ids.get(row).map_or(0, Vec::len);
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&row| (std::cmp::Reverse(length(row)), row));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for row in order {
        match batches.last_mut() {
            Some(batch) if tokens + length(row) <= batch_tokens => batch.push(row),
            _ => {
                tokens = 0;
                batches.push(vec![row]);
            }
        }
        tokens += length(row);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_row_once_and_keep_to_the_budget() {
        let ids: Vec<Vec<u32>> = [5usize, 1, 9, 3, 9, 2, 7, 40].iter().map(|n| vec![0; *n]).collect();
        let batches = by_length(&ids, 18);
        let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        for batch in &batches {
            let tokens: usize = batch.iter().map(|row| ids[*row].len()).sum();
            assert!(batch.len() == 1 || tokens <= 18, "{batch:?}");
        }
        assert_eq!(batches[0], vec![7]);
    }
}
