//! Cached gradients (Gao et al., arXiv 2101.06983): vectors of a batch are computed in chunks whose inside is thrown away,
//! and each chunk is computed again when the gradient of its vectors is known. A ranking loss then sees batches of any size
//! in the memory of one chunk; the gradients are those of the whole batch. Both passes over a chunk drop the same numbers.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::Encoder;
use crate::error::Result;
use crate::models::Grad;
use crate::models::checkpointing::seeded;
use crate::models::dropout::Draw;

/// Chunks whose backward pass is still to come.
pub(super) struct Cache {
    /// The most tokens of a chunk.
    tokens: usize,
    chunks: Mutex<Vec<Chunk>>,
}

struct Chunk {
    sequences: Vec<Vec<u32>>,
    /// Tokens at the beginning of each that the pooling leaves out.
    prompt: usize,
    /// What both passes draw from.
    draw: Option<Draw>,
    /// Their vectors, as a leaf.
    vectors: Var,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a cache of {} chunks", self.lock().len())
    }
}

impl Cache {
    /// One that makes chunks of the same size.
    pub fn empty(&self) -> Self {
        Self { tokens: self.tokens, chunks: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chunk>> {
        // Whoever panicked while holding it left a list of whole chunks.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Encoder {
    /// Whether passes with gradients run in chunks of at most so many tokens (one sequence at least), each computed twice.
    /// Their gradients are then complete only after [`Encoder::finish_backward`].
    pub fn set_chunks(&mut self, tokens: Option<usize>) {
        self.cache = tokens.map(|tokens| Cache { tokens, chunks: Mutex::default() });
    }

    /// Completes the gradients of `loss.backward()` and returns the modelled operations of the forward passes that were done
    /// again for it; without chunks there is nothing to do.
    pub fn finish_backward(&self, gradients: &mut GradStore) -> Result<f64> {
        let Some(cache) = &self.cache else { return Ok(0.0) };
        let mut again_flops = 0.0;
        let chunks = std::mem::take(&mut *cache.lock());
        for Chunk { sequences, prompt, draw, vectors } in chunks {
            // Vectors on which the loss does not depend.
            let Some(dy) = gradients.remove(&vectors) else { continue };
            again_flops += self.forward_flops(&sequences.iter().map(Vec::len).collect::<Vec<_>>());
            let again = self.forward_after(&sequences, prompt, self.params.view(Grad::On), draw)?;
            if again.track_op() {
                gradients.extend(seeded(&again, dy)?.backward()?)?;
            }
        }
        Ok(again_flops)
    }

    /// The vectors of a pass with gradients; a batch that fits one chunk is computed as a whole.
    pub(super) fn forward_in_chunks(
        &self,
        sequences: &[Vec<u32>],
        prompt: usize,
        cache: &Cache,
        draw: Option<Draw>,
    ) -> Result<Tensor> {
        let chunks = cut(sequences, cache.tokens);
        if chunks.len() < 2 {
            return self.forward_after(sequences, prompt, self.params.view(Grad::On), draw);
        }
        let (mut parts, mut first) = (Vec::with_capacity(chunks.len()), 0);
        for sequences in chunks {
            let draw = draw.map(|draw| draw.beginning_at(first));
            first += sequences.len();
            let vectors = self.forward_after(sequences, prompt, self.params.view(Grad::Off), draw)?;
            let vectors = Var::from_tensor(&vectors)?;
            parts.push(vectors.as_tensor().clone());
            cache.lock().push(Chunk { sequences: sequences.to_vec(), prompt, draw, vectors });
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

/// Consecutive sequences with at most `tokens` tokens together, one at least.
fn cut(sequences: &[Vec<u32>], tokens: usize) -> Vec<&[Vec<u32>]> {
    let mut chunks = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, sequence) in sequences.iter().enumerate() {
        if i > start && sum + sequence.len() > tokens {
            chunks.push(&sequences[start..i]);
            (start, sum) = (i, 0);
        }
        sum += sequence.len();
    }
    if start < sequences.len() {
        chunks.push(&sequences[start..]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Role;
    use crate::models::dropout::Dropping;
    use candle_core::Device;
    use std::path::Path;

    #[test]
    fn gradients_of_chunks_are_those_of_the_whole_batch() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/encoder");
        let mut encoder = Encoder::load(&dir, &Device::Cpu).unwrap();
        let texts =
            ["a short one", "what is the capital of france and who said so first", "rain", "the long and winding road"];
        let ids = encoder.tokenize(&texts, Role::Passage).unwrap().ids;
        let gradients = |encoder: &Encoder, draw: Option<Draw>| {
            let vectors = match draw {
                Some(draw) => encoder.forward_drawing(&ids, Role::Passage, draw).unwrap(),
                None => encoder.forward_as(&ids, Role::Passage, Grad::On).unwrap(),
            };
            let scores = vectors.matmul(&vectors.t().unwrap()).unwrap();
            let mut gradients = scores.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            encoder.finish_backward(&mut gradients).unwrap();
            (vectors.to_vec2::<f32>().unwrap(), gradients)
        };
        encoder.set_dropout(Dropping::Share(0.3));
        for draw in [None, Some(Draw::new(5).of(2))] {
            encoder.set_chunks(None);
            let (whole, want) = gradients(&encoder, draw);
            encoder.set_chunks(Some(12));
            let (parts, got) = gradients(&encoder, draw);
            // Not to the bit: products of few rows are added up in another order.
            for (whole, parts) in whole.iter().flatten().zip(parts.iter().flatten()) {
                assert!((whole - parts).abs() < 1e-6, "{whole} {parts}");
            }
            for (name, var) in encoder.params().trainable() {
                let (want, got) = (want.get(var).unwrap(), got.get(var).unwrap());
                let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
                let error = norm(&(got - want).unwrap());
                assert!(error <= 1e-5 * norm(want) + 1e-6, "{name}: {error} of {}", norm(want));
            }
        }
        assert_eq!(format!("{:?}", encoder.cache.as_ref().unwrap()), "a cache of 0 chunks");
    }

    #[test]
    fn cuts_keep_order_and_limit() {
        let sequences: Vec<Vec<u32>> = [3usize, 3, 5, 9, 1].iter().map(|n| vec![0; *n]).collect();
        let lengths: Vec<Vec<usize>> =
            cut(&sequences, 6).iter().map(|chunk| chunk.iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![3, 3], vec![5], vec![9], vec![1]]);
        assert!(cut(&[], 6).is_empty());
    }
}
