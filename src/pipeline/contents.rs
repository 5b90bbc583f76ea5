//! What passages an index holds, by content. The file that an index was built from does not say: passages are appended and deleted
//! afterwards.

use ragtune_index::Corpus;

use super::embed::windows;
use crate::error::Result;

/// The passages of an index as digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Hex blake3 over ids, titles and texts of the passages that are there, in their order.
    pub passages: String,
    /// Hex blake3 over the ordinals of those that were deleted and not compacted away, where there are any: what is drawn at random
    /// among ordinals depends on them.
    pub gaps: Option<String>,
}

/// Reads every passage of an index once.
pub fn contents(corpus: &Corpus) -> Result<Contents> {
    let mut hasher = blake3::Hasher::new();
    for fragment in corpus.fragments() {
        for window in windows(&fragment) {
            let first = fragment.first + window.start;
            for (ordinal, passage) in (first..).zip(corpus.read(&fragment, window)?) {
                if corpus.is_deleted(ordinal) {
                    continue;
                }
                for text in [&passage.id, &passage.title, &passage.text] {
                    // With its length before it: no two texts are the same as two others end to end.
                    hasher.update(&(text.len() as u64).to_le_bytes());
                    hasher.update(text.as_bytes());
                }
            }
        }
    }
    let gaps = (!corpus.deleted().is_empty()).then(|| {
        let mut hasher = blake3::Hasher::new();
        corpus.deleted().iter().for_each(|ordinal| {
            hasher.update(&ordinal.to_le_bytes());
        });
        hasher.finalize().to_hex().to_string()
    });
    Ok(Contents { passages: hasher.finalize().to_hex().to_string(), gaps })
}
