//! The pipeline that is deployed and evaluated: corpus, generation, encoder, generator, prompt.

use ragtune_index::{Corpus, Generation, Search};

use crate::models::encoder::Encoder;
use crate::models::generator::Generator;

pub mod answer;
pub mod contents;
pub mod embed;
pub mod fresh;
pub mod held;
pub mod identity;
pub mod memo;
pub mod overlay;
pub mod prompt;
pub mod retriever;
pub mod selector;
pub mod step;

use prompt::Prompt;
use retriever::Retriever;
use selector::Selector;

/// Everything that answers a question.
pub struct Pipeline {
    /// The passages.
    pub corpus: Corpus,
    /// Their vectors, as one encoder state saw them, with the graph that searches them.
    pub generation: Generation,
    /// Embeds questions (and passages, when they are live).
    pub encoder: Encoder,
    /// Reads passages and answers.
    pub generator: Generator,
    /// How a question and its passages become the generator's input.
    pub prompt: Prompt,
    /// How the index is searched.
    pub search: Search,
    /// What finds passages: the index alone, or the words of the passages too.
    pub retriever: Retriever,
    /// Chooses what the generator reads from what was retrieved, where there is one.
    pub selector: Option<Selector>,
}
