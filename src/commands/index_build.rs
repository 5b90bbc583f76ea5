//! `ragtune index build`: corpus into Lance, vectors beside it, graph over them; an interrupted build goes on.

use std::path::{Path, PathBuf};

use ragtune_index::{BASE, Corpus, CreateOptions, GraphParams, Keep, Source, WriterLock};

use super::{locate, out, print_json, print_text, progress, warn_if_slow};
use crate::cli::IndexBuildArgs;
use crate::config::{at_least_one, precision};
use crate::cost::{Activity, Ledger, Phase, units};
use crate::data::{self, corpus};
use crate::error::{Context, Error, Result};
use crate::models::device;
use crate::models::encoder::Encoder;
use crate::pipeline::embed::{EmbedSettings, embed_corpus, fingerprint_of};
use crate::pipeline::held;
use crate::pipeline::identity::{BUILD_NOTE, BuildNote, stating};

pub fn run(args: &IndexBuildArgs) -> Result<u8> {
    let ledger = Ledger::new();
    let _activity = ledger.activity(Activity::Setup);
    let precision = precision(&args.precision)?;
    device::check_precision(&args.device, precision)?;
    warn_if_slow("`--precision`", precision);
    let device = device::open(&args.device)?;
    check_graph(args)?;
    at_least_one("--batch-tokens", args.batch_tokens)?;
    if let Some(typed) = &args.vectors {
        held::parse(typed)?;
    }
    out::check_index(&args.out)?;
    let located = locate(&args.encoder)?;
    // A model of the hub is noted by its commit: searches take the very same one.
    let name = if located.origin.is_some() { located.name() } else { absolute(&located.folder)? };
    let encoder = ledger.charge(Phase::Load, || Encoder::load(&located.folder, &device))?;
    let corpus = stating(ledger.charge(Phase::Write, || open_or_create(args))?, &name)?;
    let lock = corpus.lock(&format!("ragtune index build {}", args.out.display()))?;
    let by = fingerprint_of(&encoder, precision)?;
    if let Some(generation) = corpus.generation_for(&by)? {
        // Nothing to embed; a graph that was lost or damaged is built again from the stored vectors, and what a build
        // that was killed at its very end left out is made up for.
        let graph = graph_params(args);
        for done in corpus.mend(&lock, &graph, &mut |_stage| {})? {
            eprintln!("mended: {done}");
        }
        // Opened anew, as mending left it: a build that was killed right after its commit had no sidecar before.
        let corpus = Corpus::open(&args.out)?;
        let generation = corpus.generation(generation.number())?;
        eprintln!(
            "`{}` already holds these {} passages as embedded by `{}` (generation {}); nothing to embed",
            args.out.display(),
            generation.len(),
            by.id(),
            generation.number()
        );
        corpus.protect(&lock, generation.number(), BASE)?;
        words(args, &corpus, &lock, &ledger)?;
        derive(args, &corpus, &lock, &ledger)?;
        if generation.recorded(BUILD_NOTE)?.is_none() {
            generation.record(BUILD_NOTE, &serde_json::to_value(note(args, name, 0, 0, &ledger)?)?)?;
        }
        if args.json {
            print_json(&super::index_stats::gather(&args.out)?)?;
        }
        return Ok(0);
    }
    let bar = progress("embedding", corpus.len() as u64, "passages");
    let settings = EmbedSettings { batch_tokens: args.batch_tokens, graph: graph_params(args), precision };
    let embedded = embed_corpus(&encoder, &corpus, &lock, &settings, &ledger, &mut |done| {
        bar.set_position(done);
        if done == corpus.len() as u64 {
            bar.set_message("building the graph");
        }
    })?;
    bar.finish_and_clear();
    // Training refreshes supersede generations; this one stays, so that every strategy can start from it.
    corpus.protect(&lock, embedded.generation.number(), BASE)?;
    // What earlier, killed attempts left half-written; the corpus is opened anew, as the commit left it.
    for done in Corpus::open(&args.out)?.mend(&lock, &graph_params(args), &mut |_stage| {})? {
        eprintln!("mended: {done}");
    }
    words(args, &corpus, &lock, &ledger)?;
    derive(args, &corpus, &lock, &ledger)?;
    let note = note(args, name, embedded.passages, embedded.truncated, &ledger)?;
    embedded.generation.record(BUILD_NOTE, &serde_json::to_value(&note)?)?;
    super::poor_graph::announce(&embedded.generation);
    if args.json {
        print_json(&super::index_stats::gather(&args.out)?)?;
    } else {
        let graph = embedded.generation.graph();
        print_text(&format!(
            "{}: {} passages, generation {}, encoder `{}`, graph recall@10 {}\nembedded {} passages at {:.1}/s, {} of them cut to {} tokens; {} in all\nnext: ragtune index search --index {} --query \"...\"",
            args.out.display(),
            embedded.generation.len(),
            embedded.generation.number(),
            by.id(),
            graph.map_or("unknown".into(), |graph| format!("{:.4}", graph.recall_at_10)),
            note.embedded,
            note.passages_per_second,
            note.truncated,
            encoder.max_length(),
            units::seconds(note.ledger.wall_seconds),
            args.out.display(),
        ))?;
    }
    Ok(0)
}

/// Collects the words of all passages where that was asked for and they are not there.
fn words(args: &IndexBuildArgs, corpus: &Corpus, lock: &WriterLock, ledger: &Ledger) -> Result<()> {
    if args.lexical {
        let words = ledger.charge(Phase::Graph, || corpus.lexical(Keep::Under(lock)))?;
        eprintln!("{} distinct words of {} passages", words.distinct_words(), words.len());
    }
    Ok(())
}

/// Makes the files that hold the vectors as asked, where that was asked for and they are not there.
fn derive(args: &IndexBuildArgs, corpus: &Corpus, lock: &WriterLock, ledger: &Ledger) -> Result<()> {
    let Some(typed) = &args.vectors else { return Ok(()) };
    let made = ledger.charge(Phase::Graph, || corpus.derive(lock, held::parse(typed)?).map_err(Error::from))?;
    if let Some(codes) = made.and_then(|held| held.codes) {
        eprintln!(
            "vectors as {typed}: {}, recall@10 {:.4} against exact search on {} probes",
            units::bytes(codes.code_bytes),
            codes.recall_at_10,
            codes.probes
        );
    }
    Ok(())
}

/// What is noted of a build by this encoder that embedded so many passages and cut so many of them.
fn note(args: &IndexBuildArgs, encoder: PathBuf, embedded: u64, truncated: u64, ledger: &Ledger) -> Result<BuildNote> {
    let record = ledger.snapshot();
    let seconds = record.phase(Phase::Embed).seconds;
    Ok(BuildNote {
        encoder,
        corpus: absolute(&args.corpus)?,
        embedded,
        truncated,
        passages_per_second: if seconds > 0.0 { embedded as f64 / seconds } else { 0.0 },
        ledger: record,
    })
}

/// Refuses graph settings that the index would refuse, before the corpus is embedded for nothing.
fn check_graph(args: &IndexBuildArgs) -> Result<()> {
    for (flag, value, range) in
        [("--links", args.links, 4..=128), ("--ef-construction", args.ef_construction, 1..=100_000)]
    {
        if !range.contains(&value) {
            let (from, to) = range.into_inner();
            return Err(Error::new(format!("`{flag} {value}` is out of range, expected a number from {from} to {to}"))
                .hint(format!("leave `{flag}` out: its default suits most corpora")));
        }
    }
    Ok(())
}

fn graph_params(args: &IndexBuildArgs) -> GraphParams {
    GraphParams { links: args.links, ef_construction: args.ef_construction, ..GraphParams::default() }
}

/// Opens the index when it holds this very corpus, makes it when there is none, refuses otherwise.
fn open_or_create(args: &IndexBuildArgs) -> Result<Corpus> {
    let reader = corpus::open(&args.corpus).map_err(data::expected)?;
    let source = Source {
        name: args.corpus.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        blake3: reader.hash().to_owned(),
    };
    if args.out.join("corpus.lance").exists() {
        let corpus = Corpus::open(&args.out)?;
        if corpus.source().blake3 != source.blake3 {
            return Err(Error::new(format!(
                "`{}` holds another corpus: `{}` with blake3 `{}`, not `{}` with `{}`",
                args.out.display(),
                corpus.source().name,
                short(&corpus.source().blake3),
                source.name,
                short(&source.blake3)
            ))
            .hint("choose another `--out`, or remove the old index first"));
        }
        return Ok(corpus);
    }
    let made = Corpus::create(&args.out, &source, reader, &CreateOptions::default());
    if made.is_err() {
        out::discard_index(&args.out);
    }
    made.map_err(|error| match error {
        // The reader's own error names file and line and knows the remedy: nothing is said in front of it.
        ragtune_index::Error::Passages(cause) => match cause.downcast::<Error>() {
            Ok(own) => data::expected(*own),
            Err(other) => Error::new("reading the corpus failed").because(other),
        },
        other => other.into(),
    })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("`{}` is no usable path", path.display()))
}
