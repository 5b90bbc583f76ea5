//! `ragtune index append`: new passages, embedded and added in one commit.

use ragtune_index::{Appended, Corpus};
use serde::Serialize;

use super::index_change::open;
use super::{OF_THE_INDEX, default_encoder, locate, print_json, print_text, progress, warn_if_slow};
use crate::cli::IndexAppendArgs;
use crate::config::at_least_one;
use crate::cost::{Activity, Ledger, Phase, units};
use crate::data::{self, corpus};
use crate::error::{Error, Result};
use crate::models::device;
use crate::models::encoder::Encoder;
use crate::pipeline::embed::{EmbedSettings, Embedder, fingerprint_of};
use crate::pipeline::identity::{graph_params_of, precision_of};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    appended: Appended,
    /// Passages cut to the encoder's maximum length.
    truncated: u64,
    embed_seconds: f64,
    seconds: f64,
}

pub fn run(args: &IndexAppendArgs) -> Result<u8> {
    let ledger = Ledger::new();
    let _activity = ledger.activity(Activity::Setup);
    at_least_one("--batch-tokens", args.batch_tokens)?;
    let device = device::open(&args.device)?;
    let (corpus, lock) = open(&args.index, "append")?;
    let newest = newest(&corpus)?;
    let precision = precision_of(&newest)?;
    device::check_precision(&args.device, precision)?;
    warn_if_slow(OF_THE_INDEX, precision);
    let name = match &args.encoder {
        Some(name) => name.clone(),
        None => default_encoder(&corpus)?,
    };
    let encoder = ledger.charge(Phase::Load, || Encoder::load(&locate(&name)?.folder, &device))?;
    let by = fingerprint_of(&encoder, precision)?;
    let reader = corpus::open(&args.corpus).map_err(data::expected)?;
    let settings = EmbedSettings { batch_tokens: args.batch_tokens, graph: graph_params_of(&corpus)?, precision };
    let embedder = ledger.charge(Phase::Embed, || Embedder::new(&encoder, &settings))?;
    let bar = progress("embedding", 0, "passages");
    let mut truncated = 0;
    let appended = corpus.append(&lock, &by, encoder.dim(), reader, &mut |passages| {
        let span = ledger.span(Phase::Embed);
        let embedded = embedder.vectors(passages, &mut |counts| {
            span.add(*counts);
            bar.inc(counts.passages);
        })?;
        truncated += embedded.truncated;
        Ok(embedded.vectors)
    });
    bar.finish_and_clear();
    let appended = appended.map_err(own)?;
    if appended.graph_built {
        eprintln!("note: the graph was built anew over all passages");
        super::poor_graph::announce_newest(&corpus)?;
    }
    let record = ledger.snapshot();
    let report =
        Report { appended, truncated, embed_seconds: record.phase(Phase::Embed).seconds, seconds: record.wall_seconds };
    if args.json {
        return print_json(&report).map(|()| 0);
    }
    print_text(&format!(
        "{}: {} passages appended to generation {} (version {}) in {}, {} of them cut to {} tokens; {} outside the graph are searched one by one",
        args.index.display(),
        appended.passages,
        appended.generation,
        appended.dataset_version,
        units::seconds(report.seconds),
        truncated,
        encoder.max_length(),
        appended.outside_graph,
    ))?;
    Ok(0)
}

/// What embedded the newest generation.
fn newest(corpus: &Corpus) -> Result<ragtune_index::Fingerprint> {
    let newest = corpus.generations()?.pop();
    Ok(newest.ok_or_else(|| ragtune_index::Error::NoVectors { dir: corpus.dir().to_path_buf() })?.fingerprint)
}

/// An error of the reader or of the encoder names the place and knows the remedy: nothing is said in front of it.
fn own(error: ragtune_index::Error) -> Error {
    use ragtune_index::Error as Index;
    let (cause, doing) = match error {
        Index::Passages(cause) => (cause, "reading the new passages failed"),
        Index::Embedding(cause) => (cause, "embedding the new passages failed"),
        other => return other.into(),
    };
    match cause.downcast::<Error>() {
        Ok(own) => data::expected(*own),
        Err(other) => Error::new(doing).because(other),
    }
}
