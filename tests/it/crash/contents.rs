//! What an index holds, read through the library: to be wholly old or wholly new.

use std::collections::BTreeSet;
use std::path::Path;

use ragtune_index::{Corpus, Error, Hit, Passage, Search, Trust};

/// All passages and the newest generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    pub ids: Vec<String>,
    pub passages: Vec<Passage>,
    pub generation: Option<Vectors>,
    /// Who keeps which generations.
    pub kept: Vec<(u32, Vec<String>)>,
}

/// A generation and what it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    pub number: u32,
    pub encoder: String,
    /// All vectors by their bits.
    pub bits: Vec<u32>,
    /// What the first vectors find, as questions, by exact search.
    pub hits: Vec<Vec<Hit>>,
}

/// A beam so narrow that the tiny corpus is walked: exact search is taken where there are not more than 20 passages for each place.
const BEAM: usize = 2;

/// What an index holds; nothing where there is none. A walk through the graph must find most of what exact search finds, each with
/// the score that it has there.
#[track_caller]
pub fn contents(index: &Path) -> Option<Contents> {
    let corpus = match Corpus::open(index) {
        Err(Error::NoIndex { .. }) => return None,
        other => other.unwrap(),
    };
    let ids = corpus.ids().unwrap().to_vec();
    let alive: Vec<u32> = (0..corpus.len() as u32).filter(|ordinal| !corpus.is_deleted(*ordinal)).collect();
    let passages = corpus.get(&alive).unwrap();
    // The id of a deleted passage is empty.
    assert!(passages.iter().map(|passage| &passage.id).eq(ids.iter().filter(|id| !id.is_empty())));
    let generation = corpus.current().unwrap().map(|generation| {
        let ask = |questions: &[f32], k, how| generation.search(questions, k, how, Trust::StaleAllowed).unwrap();
        let hits = ask(&generation.vectors()[..3 * generation.dim()], 5, Search::Exact);
        // Every passage as a question.
        let all = ask(generation.vectors(), alive.len(), Search::Exact);
        let walks = ask(generation.vectors(), BEAM, Search::Graph { ef: BEAM });
        let mut right = 0;
        for (walk, all) in walks.iter().zip(&all) {
            assert!(walk.len() == BEAM && walk.iter().all(|hit| all.contains(hit)), "{walk:?}");
            right += walk.iter().filter(|hit| hit.score >= all[BEAM - 1].score).count();
        }
        let recall = right as f64 / (BEAM * walks.len()) as f64;
        assert!(recall >= 0.7, "the graph finds {recall}");
        Vectors {
            number: generation.number(),
            encoder: generation.fingerprint().id(),
            bits: generation.vectors().iter().map(|value| value.to_bits()).collect(),
            hits,
        }
    });
    let kept = corpus.generations().unwrap().into_iter().map(|info| (info.number, info.protected_by));
    let kept = kept.filter(|(_, owners)| !owners.is_empty()).collect();
    Some(Contents { ids, passages, generation, kept })
}

/// The retained generations, and those of them that have the note of what built them.
pub fn noted(index: &Path) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let corpus = Corpus::open(index).unwrap();
    let all: BTreeSet<u32> = corpus.generations().unwrap().iter().map(|info| info.number).collect();
    let noted = all.iter().copied().filter(|number| corpus.recorded(*number, "build").unwrap().is_some()).collect();
    (all, noted)
}

/// In a few words: the whole is too long for a message.
pub fn brief(contents: &Option<Contents>) -> String {
    match contents {
        None => "no index".into(),
        Some(Contents { ids, generation: None, .. }) => format!("{} passages without vectors", ids.len()),
        Some(Contents { ids, generation: Some(vectors), kept, .. }) => {
            let bytes: Vec<u8> = vectors.bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let digest = &blake3::hash(&bytes).to_hex()[..8];
            let Vectors { number, encoder, .. } = vectors;
            format!("{} passages, generation {number} by {encoder}, vectors {digest}, kept {kept:?}", ids.len())
        }
    }
}
