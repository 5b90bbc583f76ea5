//! What an answer maximises, by name.

use serde::{Deserialize, Serialize};

use super::Order;
use crate::error::{Error, Result};
use crate::strategies::Reader;

/// What is maximised when an answer is read off the retrieved passages z_1..z_K.
///
/// A generator can be trained one way and read another, which makes another system: records name both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerReader {
    /// Π_t Σ_k p_k p(y_t | x, z_k, y_<t): RAG-Token decoding, one prompt a passage, searched as one model (arXiv
    /// 2005.11401, section 2.5).
    #[default]
    Mixture,
    /// p(y | x, z_1..z_K), all passages in one prompt, in some [`Order`].
    Concat,
    /// Σ_k p_k p(y | x, z_k): RAG-Sequence; each passage's search gives hypotheses, and each is scored under all K passages
    /// (arXiv 2005.11401, section 2.5, "thorough decoding").
    SequenceThorough,
    /// The same, where a passage whose own search did not find a hypothesis counts 0 for it ("fast decoding").
    SequenceFast,
}

impl AnswerReader {
    /// Every reader.
    pub const ALL: [Self; 4] = [Self::Mixture, Self::Concat, Self::SequenceThorough, Self::SequenceFast];

    /// The name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixture => "mixture",
            Self::Concat => "concat",
            Self::SequenceThorough => "sequence-thorough",
            Self::SequenceFast => "sequence-fast",
        }
    }

    /// The reader of that name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|reader| reader.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join("`, `");
            Error::new(format!("unknown reader `{name}`; expected one of `{known}`")).hint(
                "`concat` reads all passages in one prompt, the others one prompt a passage: `mixture` decodes as \
                 RAG-Token, `sequence-thorough` and `sequence-fast` as RAG-Sequence",
            )
        })
    }

    /// Reader, order and search as records and tables name them: `mixture`, `concat both-ends`, `concat beam 4 penalty 0.6`.
    pub fn label(self, order: Order, beams: usize, length_penalty: f64) -> String {
        let mut label = self.name().to_owned();
        if order != Order::BestFirst {
            label.push_str(&format!(" {}", order.name()));
        }
        if beams > 1 {
            label.push_str(&format!(" beam {beams}"));
        }
        if length_penalty != 0.0 {
            label.push_str(&format!(" penalty {length_penalty}"));
        }
        label
    }
}

impl From<Reader> for AnswerReader {
    /// The reader that goes with how a generator was trained.
    fn from(trained: Reader) -> Self {
        match trained {
            Reader::Mixture => Self::Mixture,
            Reader::Concat => Self::Concat,
        }
    }
}

/// Refuses an order of the passages of one prompt for a reader of one passage a prompt.
pub fn check_order(reader: AnswerReader, order: Order) -> Result<()> {
    if order == Order::BestFirst || reader == AnswerReader::Concat {
        return Ok(());
    }
    Err(Error::new(format!(
        "the order `{}` is one of passages in one prompt, and the reader `{}` reads a prompt for each passage",
        order.name(),
        reader.name()
    ))
    .hint("read answers off with the `concat` reader, or leave the order out"))
}

/// Refuses settings of a search that cannot be followed.
pub fn check_search(beams: usize, length_penalty: f64) -> Result<()> {
    if beams == 0 {
        return Err(Error::new("`--beams 0` follows no hypothesis; expected at least 1")
            .hint("leave `--beams` out for greedy decoding, or use `--beams 4`"));
    }
    if !length_penalty.is_finite() {
        return Err(Error::new(format!("`--length-penalty {length_penalty}` is not a finite number"))
            .hint("leave `--length-penalty` out for none"));
    }
    if beams == 1 && length_penalty != 0.0 {
        return Err(Error::new(format!(
            "`--length-penalty {length_penalty}` compares hypotheses of different lengths, and `--beams 1` follows one only"
        ))
        .hint("add `--beams 4`, or use `--length-penalty 0`"));
    }
    Ok(())
}
