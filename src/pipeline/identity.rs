//! Who may search what: the encoder an index was built with, and the vectors an encoder's questions may be compared with.

use std::path::{Path, PathBuf};

use ragtune_index::{Corpus, Fingerprint, Generation, GraphInfo, GraphParams};
use serde::{Deserialize, Serialize};

use super::embed::fingerprint_of;
use crate::cost::LedgerRecord;
use crate::error::{Error, Result};
use crate::models::Precision;
use crate::models::encoder::Encoder;
use crate::models::folder::replace_file;

/// What a build leaves beside its generation: who embedded it and what that took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildNote {
    /// The encoder folder.
    pub encoder: PathBuf,
    /// The corpus file.
    pub corpus: PathBuf,
    /// Passages embedded by this call (fewer than the corpus when it resumed an interrupted build).
    pub embedded: u64,
    /// Passages cut to the encoder's maximum length.
    pub truncated: u64,
    /// Passages embedded a second of embedding.
    pub passages_per_second: f64,
    /// What the build was charged.
    pub ledger: LedgerRecord,
}

/// The name a [`BuildNote`] is recorded under.
pub const BUILD_NOTE: &str = "build";

/// What is noted of the newest build of an index, if anything is.
pub fn build_note(corpus: &Corpus) -> Result<Option<BuildNote>> {
    let mut generations = corpus.generations()?;
    generations.sort_by_key(|info| std::cmp::Reverse(info.number));
    for info in generations {
        if let Some(value) = corpus.recorded(info.number, BUILD_NOTE)? {
            return Ok(Some(serde_json::from_value(value)?));
        }
    }
    Ok(None)
}

/// The name under which a generation states its encoder from its commit on, where a [`BuildNote`] comes only when all is done.
const ENCODER: &str = "encoder";

/// An index whose generations, as far as they are begun through it, state that this encoder embedded them.
pub fn stating(corpus: Corpus, encoder: &Path) -> Result<Corpus> {
    let path = encoder.to_str().ok_or_else(|| {
        Error::new(format!("`{}` is no usable path: it is not UTF-8", encoder.display()))
            .hint("rename the folder of the encoder")
    })?;
    Ok(corpus.stating(ENCODER, path)?)
}

/// The encoder that an index names.
#[derive(Debug)]
pub struct NamedEncoder {
    /// Its folder, or its name on the hub.
    pub encoder: PathBuf,
    /// The generation that names it.
    pub generation: u32,
    /// The newest generation. Where that is another one, it does not say what embedded it.
    pub newest: u32,
}

/// The encoder folder an index was built with.
pub fn encoder_of(corpus: &Corpus) -> Result<PathBuf> {
    Ok(named_encoder(corpus)?.encoder)
}

/// The same, with the generation that names it: the newest that names any.
pub fn named_encoder(corpus: &Corpus) -> Result<NamedEncoder> {
    let mut generations: Vec<u32> = corpus.generations()?.into_iter().map(|info| info.number).collect();
    generations.sort_unstable_by(|one, other| other.cmp(one));
    let newest = generations.first().copied().unwrap_or(0);
    for generation in generations {
        let noted = match corpus.recorded(generation, BUILD_NOTE)? {
            Some(note) => Some(serde_json::from_value::<BuildNote>(note)?.encoder),
            None => corpus.stated(generation, ENCODER)?.map(PathBuf::from),
        };
        if let Some(encoder) = noted {
            return Ok(NamedEncoder { encoder, generation, newest });
        }
    }
    Err(Error::new(format!("the index `{}` does not say which encoder built it", corpus.dir().display()))
        .hint("name the encoder folder with `--encoder DIR`"))
}

/// What the passages of these vectors were rounded to: a refresh or an append embeds them likewise.
pub fn precision_of(by: &Fingerprint) -> Result<Precision> {
    by.get("passage_dtype").map_or(Ok(Precision::F32), crate::config::precision)
}

/// How the newest graph of an index was built; the defaults where there is none.
pub fn graph_params_of(corpus: &Corpus) -> Result<GraphParams> {
    let found = corpus.generations()?.into_iter().rev().find_map(|info| Some((info.graph?, info.len)));
    Ok(found.map_or_else(GraphParams::default, |(graph, passages)| graph_params(&graph, passages)))
}

/// How a graph over so many passages was built and measured: one that is to keep its edges must be asked for alike.
/// Where all passages were probes, it may have been for want of more.
pub fn graph_params(graph: &GraphInfo, passages: usize) -> GraphParams {
    let GraphInfo { links, ef_construction, ef, probes, .. } = *graph;
    let least = if probes < passages { 1 } else { GraphParams::default().probes };
    GraphParams { links, ef_construction, ef, probes: probes.max(least) }
}

/// What an encoder folder says of itself beside its weights, in `ragtune.json`: which vectors its questions may search,
/// where those are not its own (only the question side was trained).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionSide {
    searches: Fingerprint,
}

const QUESTION_SIDE: &str = "ragtune.json";

/// The fingerprint of the vectors that questions of this encoder may be compared with.
pub fn searches(encoder: &Encoder, folder: &Path) -> Result<Fingerprint> {
    let path = folder.join(QUESTION_SIDE);
    if !path.is_file() {
        return fingerprint_of(encoder, Precision::F32);
    }
    let text = std::fs::read_to_string(&path)?;
    let side: QuestionSide = serde_json::from_str(&text).map_err(|source| {
        Error::new(format!("`{}` cannot be understood", path.display()))
            .because(source)
            .hint("it names the vectors that a question-side encoder searches; take the folder from the run again")
    })?;
    Ok(side.searches)
}

/// Notes in an encoder folder that its questions search the vectors of another fingerprint.
pub fn mark_question_side(folder: &Path, searches: &Fingerprint) -> Result<()> {
    let side = QuestionSide { searches: searches.clone() };
    let text = serde_json::to_vec_pretty(&side)?;
    replace_file(&folder.join(QUESTION_SIDE), |path| Ok(std::fs::write(path, &text)?))
}

/// The newest generation of these passages that this encoder may search, with the fingerprint it was embedded by. An index
/// without one is refused with both fingerprints and the command that mends it.
pub fn searched_by(corpus: &Corpus, encoder: &Encoder, folder: &Path) -> Result<(Generation, Fingerprint)> {
    if let Some(found) = first_of(encoder, folder, |by| Ok(corpus.generation_for(by)?))? {
        return Ok(found);
    }
    match first_of(encoder, folder, |by| Ok(corpus.with_generation_for(by)?))? {
        Some(((_, earlier), _)) => Err(ragtune_index::Error::OtherPassages { number: earlier.number() }.into()),
        None => Err(none_for(corpus, encoder, folder)?),
    }
}

/// The same over whatever passages the index had when this encoder embedded them, with the corpus of those.
pub fn searched_with(corpus: &Corpus, encoder: &Encoder, folder: &Path) -> Result<(Corpus, Generation, Fingerprint)> {
    match first_of(encoder, folder, |by| Ok(corpus.with_generation_for(by)?))? {
        Some(((corpus, generation), by)) => Ok((corpus, generation, by)),
        None => Err(none_for(corpus, encoder, folder)?),
    }
}

/// The first of the fingerprints that this encoder may search for which there is something.
fn first_of<T>(
    encoder: &Encoder,
    folder: &Path,
    look: impl Fn(&Fingerprint) -> Result<Option<T>>,
) -> Result<Option<(T, Fingerprint)>> {
    let by = searches(encoder, folder)?;
    if let Some(found) = look(&by)? {
        return Ok(Some((found, by)));
    }
    // Passages that this encoder embedded with rounded matrices are its own as well.
    if by == fingerprint_of(encoder, Precision::F32)? {
        for precision in Precision::ALL {
            let rounded = fingerprint_of(encoder, precision)?;
            if let Some(found) = look(&rounded)? {
                return Ok(Some((found, rounded)));
            }
        }
    }
    Ok(None)
}

/// That an index has nothing this encoder may search.
fn none_for(corpus: &Corpus, encoder: &Encoder, folder: &Path) -> Result<Error> {
    let by = searches(encoder, folder)?;
    let dir = corpus.dir().display();
    let Some(newest) = corpus.generations()?.pop() else {
        return Ok(Error::new(format!("the index `{dir}` holds passages but no vectors: its build was interrupted"))
            .hint("run the same `ragtune index build` again; it goes on where it stopped"));
    };
    let (stored, encoder_folder) = (newest.fingerprint, folder.display());
    // Vectors of one index have one length.
    let hint = match newest.dim == encoder.dim() {
        true => format!(
            "embed the passages with this encoder too: ragtune index refresh --index {dir} --encoder {encoder_folder}; or build \
             an index of its own: ragtune index build --corpus <corpus file> --encoder {encoder_folder} --out <new folder>"
        ),
        false => format!(
            "its vectors have {} numbers, those of this index {}, so it needs an index of its own: ragtune index build --corpus \
             <corpus file> --encoder {encoder_folder} --out <new folder>",
            encoder.dim(),
            newest.dim
        ),
    };
    Ok(Error::new(format!(
        "the encoder `{}` has fingerprint `{}`, but the vectors of the index `{dir}` were embedded by `{}`; they differ in {}",
        folder.display(),
        by.id(),
        stored.id(),
        stored.differences(&by).join("; ")
    ))
    .hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_asked_for_as_it_was_built_and_measured() {
        let of = |ef, probes, passages| {
            let text = format!(
                r#"{{"recall_at_10": 1.0, "probes": {probes}, "ef": {ef}, "links": 8, "ef_construction": 60,
                "origin": "build", "unreachable_relinked": 0, "bytes": 1}}"#
            );
            graph_params(&serde_json::from_str(&text).unwrap(), passages)
        };
        assert_eq!(of(32, 20, 300), GraphParams { links: 8, ef_construction: 60, probes: 20, ef: 32 });
        // All that there were: a corpus that grows is measured on more.
        assert_eq!(of(64, 60, 60).probes, GraphParams::default().probes);
        assert_eq!(of(64, 300, 300).probes, 300);
    }
}
