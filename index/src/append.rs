//! Adding passages behind those there are, with their vectors, in one commit.

use std::collections::HashSet;
use std::path::Path;

use ragtune_nearest::normalize;

use crate::adopt::{complete, params_like};
use crate::compact::room;
use crate::corpus::Corpus;
use crate::create::{checked, key_of};
use crate::error::{Cause, Error, Result};
use crate::fingerprint::Fingerprint;
use crate::ids::Ids;
use crate::journal;
use crate::lock::WriterLock;
use crate::passage::Passage;
use crate::publish::CommitStage;
use crate::retire::{before_change, retire};
use crate::survey::{self, Known};
use crate::table::{Piece, Table};
use crate::texts::Texts;
use crate::writer::LENGTH_TOLERANCE;

/// New fragments have at most so many passages, however many the index was created with: that many texts are in memory at a time.
pub(crate) const ROWS: usize = 4096;

/// What gives the vectors of a run of passages: row-major, each finite and of length one within 0.001.
pub type Embed<'a> = dyn FnMut(&[Passage]) -> Result<Vec<f32>, Cause> + 'a;

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Appended {
    /// Passages that are new.
    pub passages: u64,
    /// Fragments they lie in.
    pub fragments: usize,
    /// The generation they were added to: the newest.
    pub generation: u32,
    /// The version of the dataset that holds them.
    pub dataset_version: u64,
    /// How many passages at the end the graph does not know; they are searched one by one.
    pub outside_graph: usize,
    /// Whether the graph was built anew over all passages: since too many would lie outside, or since there was none to be used.
    pub graph_built: bool,
}

impl Corpus {
    /// Adds passages to the newest generation, which must be of the encoder `by` with vectors of `dim` values: texts and
    /// vectors in one commit. Ids must be unique among all passages that are not deleted. Streams: at most 4096 passages are in
    /// memory at a time, beside 16 bytes for every id.
    ///
    /// Durable on return. An error or a crash before the commit leaves the index as it was; after it, all are there. The graph
    /// is not built again before a tenth of all passages lies outside: until then the new ones are searched one by one, so that
    /// they are found exactly. What was staged of an interrupted generation is discarded, since it misses them. This corpus
    /// keeps its passages; [`reopen`](Corpus::reopen) it to see the new ones.
    pub fn append<E: Into<Cause>>(
        &self,
        lock: &WriterLock,
        by: &Fingerprint,
        dim: usize,
        passages: impl Iterator<Item = Result<Passage, E>>,
        embed: &mut Embed<'_>,
    ) -> Result<Appended> {
        lock.must_be_for(self.dir())?;
        append(self, by, dim, &mut passages.map(|passage| passage.map_err(Into::into)), embed)
    }
}

fn append(
    corpus: &Corpus,
    by: &Fingerprint,
    dim: usize,
    passages: &mut dyn Iterator<Item = Result<Passage, Cause>>,
    embed: &mut Embed<'_>,
) -> Result<Appended> {
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    let table = corpus.table().latest()?;
    let before = fitting(dir, uuid, &table, by, dim)?;
    let mut passages = checked(passages, taken(&table, &before)?).peekable();
    let room = room(&table);
    let mut pieces: Vec<Piece> = Vec::new();
    loop {
        let run: Vec<Passage> = passages.by_ref().take(room).collect::<Result<_>>()?;
        if run.is_empty() {
            break;
        }
        let vectors = unit_vectors(&run, dim, embed(&run).map_err(Error::Embedding)?)?;
        pieces.push(table.stage_new(&run, before.number, dim, &vectors)?);
    }
    if pieces.is_empty() {
        return Err(Error::Empty { name: "to append".into() });
    }
    let (fragments, added) = (pieces.len(), pieces.iter().map(|piece| piece.rows as u64).sum());
    Texts::add(dir, uuid, &table, pieces.iter().map(|piece| piece.text_file.clone()), [])?;
    let table = table.append(pieces)?;
    journal::discard(dir)?;
    let now = survey::newest(dir, uuid, &table)?.ok_or_else(|| Error::corrupt(dir, "the newest generation is gone"))?;
    let params = params_like(dir, uuid, &table, &before)?;
    let graph_built = complete(dir, uuid, &now, (&before, &[]), &params, &mut |_: CommitStage| {})?;
    let now = survey::newest(dir, uuid, &table)?.unwrap_or(now);
    retire(dir, uuid, &table, &Default::default())?;
    let outside_graph = now.manifest.as_ref().map_or(0, |manifest| now.rows.len() - manifest.len as usize);
    Ok(Appended {
        passages: added,
        fragments,
        generation: now.number,
        dataset_version: now.table.version(),
        outside_graph,
        graph_built,
    })
}

/// The newest generation, if vectors of this encoder may be added to it.
fn fitting(dir: &Path, uuid: &str, table: &Table, by: &Fingerprint, dim: usize) -> Result<Known> {
    let newest = before_change(dir, uuid, table)?.ok_or_else(|| Error::NoVectors { dir: dir.into() })?;
    if newest.fingerprint != *by {
        return Err(Error::WrongEncoder {
            asked: by.id(),
            stored: newest.fingerprint.id(),
            number: newest.number,
            differences: by.differences(&newest.fingerprint),
        });
    }
    if newest.dim != dim {
        let what = format!("the length of the new vectors, the index holds generation {}", newest.number);
        return Err(Error::Dimension { what, given: dim, expected: newest.dim });
    }
    Ok(newest)
}

/// What is remembered of the ids that are taken.
fn taken(table: &Table, known: &Known) -> Result<HashSet<[u8; 16]>> {
    let ids = Ids::load(table, known.rows.len(), &table.deleted()?)?;
    Ok(ids.live().map(key_of).collect())
}

/// The vectors of these passages, of length one; an error where there are too few or too many, or one cannot be stored.
fn unit_vectors(passages: &[Passage], dim: usize, mut vectors: Vec<f32>) -> Result<Vec<f32>> {
    let expected = passages.len() * dim;
    if vectors.len() != expected {
        let what = format!("values for {} new passages", passages.len());
        return Err(Error::Dimension { what, given: vectors.len(), expected });
    }
    for (passage, vector) in passages.iter().zip(vectors.chunks_exact_mut(dim)) {
        normalize(vector, LENGTH_TOLERANCE).map_err(|what| Error::BadVector {
            what: format!("the vector of passage `{}` cannot be stored: {what}", passage.id),
        })?;
    }
    Ok(vectors)
}
