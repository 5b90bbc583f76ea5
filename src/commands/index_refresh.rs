//! `ragtune index refresh`: all passages embedded again as a new generation; an interrupted refresh goes on.

use std::path::PathBuf;

use ragtune_index::{BASE, Corpus, GraphPlan};
use serde::Serialize;

use super::index_change::open;
use super::{default_encoder, locate, print_json, print_text, progress, warn_if_slow};
use crate::cli::IndexRefreshArgs;
use crate::config::{at_least_one, precision};
use crate::cost::{Activity, Ledger, Phase, units};
use crate::error::{Context, Error, Result};
use crate::models::device;
use crate::models::encoder::Encoder;
use crate::pipeline::embed::{EmbedSettings, embed_corpus_by};
use crate::pipeline::identity::{BUILD_NOTE, BuildNote, build_note, graph_params_of, precision_of, stating};

#[derive(Serialize)]
struct Report {
    generation: u32,
    dataset_version: u64,
    passages: usize,
    /// Rows embedded now: deleted ones keep their place, and an interrupted refresh has done some already.
    embedded: u64,
    truncated: u64,
    encoder: String,
    graph_recall_at_10: Option<f32>,
    graph_origin: Option<String>,
    embed_seconds: f64,
    write_seconds: f64,
    graph_seconds: f64,
}

pub fn run(args: &IndexRefreshArgs) -> Result<u8> {
    let ledger = Ledger::new();
    let _activity = ledger.activity(Activity::Setup);
    at_least_one("--batch-tokens", args.batch_tokens)?;
    let plan = args.reuse_graph.map_or(GraphPlan::Build, |max_loss| GraphPlan::Reuse { max_loss });
    plan.check()?;
    let device = device::open(&args.device)?;
    let (corpus, lock) = open(&args.index, "refresh")?;
    let newest = corpus.generations()?.pop();
    let precision = match (&args.precision, &newest) {
        (Some(name), _) => precision(name)?,
        (None, Some(newest)) => precision_of(&newest.fingerprint)?,
        (None, None) => crate::models::Precision::F32,
    };
    device::check_precision(&args.device, precision)?;
    warn_if_slow("`--precision`", precision);
    let typed = match &args.encoder {
        Some(name) => name.clone(),
        None => default_encoder(&corpus)?,
    };
    let located = locate(&typed)?;
    let name = match located.origin.is_some() {
        true => located.name(),
        false => std::path::absolute(&located.folder)
            .context(|| format!("`{}` is no usable path", located.folder.display()))?,
    };
    let encoder = ledger.charge(Phase::Load, || Encoder::load(&located.folder, &device))?;
    // Durable with the commit: a process that is killed behind it leaves a generation that searches find by its own encoder.
    let corpus = stating(corpus, &name)?;
    let settings = EmbedSettings { batch_tokens: args.batch_tokens, graph: graph_params_of(&corpus)?, precision };
    let bar = progress("embedding", corpus.len() as u64, "passages");
    let embedded = embed_corpus_by(&encoder, &corpus, &lock, &settings, plan, &ledger, &mut |done| {
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let embedded = embedded?;
    let generation = &embedded.generation;
    note(&corpus, &name, &embedded, &ledger)?;
    // Somebody asked for it: strategies can start from it until it is released, or embedded anew by the same encoder.
    corpus.protect(&lock, generation.number(), BASE)?;
    for older in corpus.generations()? {
        if older.number != generation.number() && older.fingerprint == *generation.fingerprint() {
            corpus.unprotect(&lock, older.number, BASE)?;
        }
    }
    let record = ledger.snapshot();
    let seconds = |phase| record.phase(phase).seconds;
    let graph = generation.graph();
    let report = Report {
        generation: generation.number(),
        dataset_version: generation.dataset_version(),
        passages: corpus.passages(),
        embedded: embedded.passages,
        truncated: embedded.truncated,
        encoder: generation.fingerprint().id(),
        graph_recall_at_10: graph.map(|graph| graph.recall_at_10),
        graph_origin: graph.map(|graph| graph.origin.clone()),
        embed_seconds: seconds(Phase::Embed),
        write_seconds: seconds(Phase::Write),
        graph_seconds: seconds(Phase::Graph),
    };
    super::poor_graph::announce(generation);
    if args.json {
        return print_json(&report).map(|()| 0);
    }
    print_text(&format!(
        "{}: {} passages, generation {}, encoder `{}`, graph recall@10 {} ({})\nembedded {} passages in {}, written in {}, graph in {}",
        args.index.display(),
        report.passages,
        report.generation,
        report.encoder,
        report.graph_recall_at_10.map_or("unknown".into(), |recall| format!("{recall:.4}")),
        report.graph_origin.as_deref().unwrap_or("none"),
        report.embedded,
        units::seconds(report.embed_seconds),
        units::seconds(report.write_seconds),
        units::seconds(report.graph_seconds),
    ))?;
    Ok(0)
}

/// Notes which encoder embedded the new generation, so that searches need not name it.
fn note(
    corpus: &Corpus,
    encoder: &std::path::Path,
    embedded: &crate::pipeline::embed::Embedded,
    ledger: &Ledger,
) -> Result<()> {
    let record = ledger.snapshot();
    let seconds = record.phase(Phase::Embed).seconds;
    let earlier = build_note(corpus)?;
    let corpus_file = earlier.map_or_else(|| PathBuf::from(&corpus.source().name), |note| note.corpus);
    let note = BuildNote {
        encoder: encoder.to_path_buf(),
        corpus: corpus_file,
        embedded: embedded.passages,
        truncated: embedded.truncated,
        passages_per_second: if seconds > 0.0 { embedded.passages as f64 / seconds } else { 0.0 },
        ledger: record,
    };
    let value = serde_json::to_value(&note).map_err(Error::from)?;
    Ok(embedded.generation.record(BUILD_NOTE, &value)?)
}
