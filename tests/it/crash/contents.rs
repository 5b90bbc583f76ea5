//! What an index holds, read through the library: to be wholly old or wholly new.

use std::path::Path;

use ragtune_index::{Corpus, Error, Hit, Passage, Search, Trust};

/// All passages and the newest generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    pub ids: Vec<String>,
    pub passages: Vec<Passage>,
    pub generation: Option<Vectors>,
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

/// What an index holds; nothing where there is none. Searching through the graph, with a beam over everything, must find
/// what exact search finds.
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
        let questions = &generation.vectors()[..3 * generation.dim()];
        let ask = |how| generation.search(questions, 5, how, Trust::StaleAllowed).unwrap();
        let hits = ask(Search::Exact);
        assert_eq!(hits, ask(Search::Graph { ef: corpus.len() }));
        Vectors {
            number: generation.number(),
            encoder: generation.fingerprint().id(),
            bits: generation.vectors().iter().map(|value| value.to_bits()).collect(),
            hits,
        }
    });
    Some(Contents { ids, passages, generation })
}

/// In a few words: the whole is too long for a message.
pub fn brief(contents: &Option<Contents>) -> String {
    match contents {
        None => "no index".into(),
        Some(Contents { ids, generation: None, .. }) => format!("{} passages without vectors", ids.len()),
        Some(Contents { ids, generation: Some(vectors), .. }) => {
            let bytes: Vec<u8> = vectors.bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let digest = &blake3::hash(&bytes).to_hex()[..8];
            format!("{} passages, generation {} by {}, vectors {digest}", ids.len(), vectors.number, vectors.encoder)
        }
    }
}
