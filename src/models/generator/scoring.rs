//! Log-probabilities of given answers.
//!
//! N sequences, T answer tokens of the longest answer, M answer tokens of all sequences together.

use candle_core::Tensor;

use super::super::Grad;
use super::super::batch::TokenBatch;
use super::super::dropout::{Draw, Drops};
use super::Generator;
use crate::error::{Error, Result};

/// A prompt followed by the answer to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// Prompt and answer.
    pub ids: Vec<u32>,
    /// Where the answer begins; at least 1, because the first token has nothing before it to be predicted from.
    pub answer_start: usize,
}

impl Scored {
    /// Tokens of the answer.
    pub fn answer_length(&self) -> usize {
        self.ids.len().saturating_sub(self.answer_start)
    }
}

impl Generator {
    /// log p(answer token | everything before it), (N, T) f32 in nats, 0 beyond each answer; and the mask, (N, T) f32, 1
    /// for a token of an answer and 0 beyond.
    ///
    /// With [`Grad::On`] the gradient reaches every trainable weight; the mask has none. Sequences are read one after the
    /// other without padding, and only tokens that predict one of an answer go through the end of the last layer and the
    /// output layer. An answer without tokens, one without a prompt, and a sequence beyond [`Generator::max_positions`] are
    /// errors: the caller shortens prompts.
    pub fn answer_log_probs(&self, sequences: &[Scored], grad: Grad) -> Result<(Tensor, Tensor)> {
        self.score(sequences, grad, None)
    }

    /// [`Generator::answer_log_probs`] with gradients in training: drops what [`Generator::set_dropout`] decided and what the
    /// adapter's settings say, by the random numbers of `draw`. Layers that are computed twice drop the same both times.
    pub fn answer_log_probs_drawing(&self, sequences: &[Scored], draw: Draw) -> Result<(Tensor, Tensor)> {
        self.score(sequences, Grad::On, Some(draw))
    }

    fn score(&self, sequences: &[Scored], grad: Grad, draw: Option<Draw>) -> Result<(Tensor, Tensor)> {
        let positions = Positions::of(sequences)?;
        self.check_sequences(sequences.iter().map(|sequence| sequence.ids.as_slice()))?;
        let ids: Vec<Vec<u32>> = sequences.iter().map(|sequence| sequence.ids.clone()).collect();
        let batch = TokenBatch::new(&ids, self.device())?;
        let count = positions.targets.len();
        let rows = Tensor::from_vec(positions.rows, count, self.device())?;
        let targets = Tensor::from_vec(positions.targets, count, self.device())?;
        let drops = draw.map(|draw| Drops::new(draw, self.rates, &batch.spans));
        let network = self.network_dropping(grad, drops.as_ref())?;
        let states = match self.tape().filter(|_| grad == Grad::On) {
            Some(tape) => network.states_on(&batch, Some(&rows), tape)?,
            None => network.states(&batch, Some(&rows), |_, _, _| Ok(()))?,
        };
        let picked = self.head(grad)?.log_probs(&states, &targets)?;
        // One more entry, 0, is what the places beyond an answer take.
        let extended = Tensor::cat(&[&picked, &picked.zeros_like()?.narrow(0, 0, 1)?.detach()], 0)?;
        let shape = (sequences.len(), positions.longest);
        let mask: Vec<f32> = positions.places.iter().map(|&place| f32::from(place as usize != count)).collect();
        let places = Tensor::from_vec(positions.places, shape.0 * shape.1, self.device())?;
        let log_probs = extended.index_select(&places, 0)?.reshape(shape)?;
        Ok((log_probs, Tensor::from_vec(mask, shape, self.device())?))
    }
}

/// Refuses no sequence at all, an answer without tokens and one without a prompt.
pub(super) fn check_answers(sequences: &[Scored]) -> Result<()> {
    if sequences.is_empty() {
        return Err(Error::new("there is no answer to score, expected at least one"));
    }
    for (index, sequence) in sequences.iter().enumerate() {
        if sequence.answer_length() == 0 {
            return Err(Error::new(format!(
                "the answer of sequence {index} is empty: it begins at `{}` of {} tokens",
                sequence.answer_start,
                sequence.ids.len()
            ))
            .hint("drop questions whose answer has no token, and leave room for the answer when shortening prompts"));
        }
        if sequence.answer_start == 0 {
            return Err(Error::new(format!("the answer of sequence {index} has no prompt before it")));
        }
    }
    Ok(())
}

/// Where answers stand: among the tokens of the batch, and in the (N, T) result.
struct Positions {
    /// M tokens of the batch that predict an answer token.
    rows: Vec<u32>,
    /// The M tokens they predict.
    targets: Vec<u32>,
    /// For each of the N·T places of the result, which of the M it takes; M where there is none.
    places: Vec<u32>,
    /// T.
    longest: usize,
}

impl Positions {
    fn of(sequences: &[Scored]) -> Result<Self> {
        check_answers(sequences)?;
        let (mut rows, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
        for sequence in sequences {
            let answer = sequence.ids.get(sequence.answer_start..).unwrap_or_default();
            let first = start + sequence.answer_start - 1;
            rows.extend((first..first + answer.len()).map(|row| row as u32));
            targets.extend_from_slice(answer);
            start += sequence.ids.len();
        }
        let longest = sequences.iter().map(Scored::answer_length).max().unwrap_or(0);
        let (mut places, mut next) = (Vec::with_capacity(sequences.len() * longest), 0u32);
        for sequence in sequences {
            for place in 0..longest {
                if place < sequence.answer_length() {
                    places.push(next);
                    next += 1;
                } else {
                    places.push(targets.len() as u32);
                }
            }
        }
        Ok(Self { rows, targets, places, longest })
    }
}
