//! One vector per sequence: sequences are padded to the longest for one product or one maximum over all of them.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::graft;
use crate::models::batch::Spans;
use crate::models::nn::Pool;

pub fn pool(x: &Tensor, spans: &Spans, how: Pool) -> CandleResult<Tensor> {
    let padded = Padded::new(spans, x.device())?;
    match weights(spans, how) {
        Some(weights) => padded.weighted(x, &weights),
        None => padded.largest(x),
    }
}

/// What each token is multiplied by, sequence after sequence; `None` for a maximum.
fn weights(spans: &Spans, how: Pool) -> Option<Vec<f32>> {
    let weight = |i: usize, length: usize| {
        let n = length as f32;
        Some(match how {
            Pool::Mean => 1.0 / n,
            Pool::MeanSqrtLength => 1.0 / n.sqrt(),
            Pool::WeightedMean => (i + 1) as f32 / (n * (n + 1.0) / 2.0),
            Pool::First => f32::from(i == 0),
            Pool::Last => f32::from(i + 1 == length),
            Pool::Max => return None,
        })
    };
    spans.lengths().flat_map(|length| (0..length).map(move |i| weight(i, length))).collect()
}

/// Where the tokens of B sequences stand when all are T tokens long.
struct Padded {
    sequences: usize,
    longest: usize,
    /// For each of the B·T places its token, the first one of its sequence beyond the end, u32.
    tokens: Tensor,
    /// For each of the N tokens its place, u32.
    places: Tensor,
    /// For each of the N tokens its sequence, u32.
    owners: Tensor,
    /// B·T: whether there is a token.
    present: Vec<bool>,
}

impl Padded {
    fn new(spans: &Spans, device: &Device) -> CandleResult<Self> {
        let (sequences, longest) = (spans.len(), spans.longest());
        let mut tokens = Vec::with_capacity(sequences * longest);
        let (mut places, mut owners) = (Vec::with_capacity(spans.tokens()), Vec::with_capacity(spans.tokens()));
        let mut present = Vec::with_capacity(sequences * longest);
        for sequence in 0..sequences {
            let range = spans.range(sequence);
            for i in 0..longest {
                let real = i < range.len();
                tokens.push((range.start + if real { i } else { 0 }) as u32);
                present.push(real);
                if real {
                    places.push((sequence * longest + i) as u32);
                    owners.push(sequence as u32);
                }
            }
        }
        let ids = |ids: Vec<u32>| {
            let count = ids.len();
            Tensor::from_vec(ids, count, device)
        };
        Ok(Self { sequences, longest, tokens: ids(tokens)?, places: ids(places)?, owners: ids(owners)?, present })
    }

    /// (N, D) to (B, T, D).
    fn spread(&self, x: &Tensor) -> CandleResult<Tensor> {
        x.contiguous()?.index_select(&self.tokens, 0)?.reshape((self.sequences, self.longest, x.dim(1)?))
    }

    fn weighted(self, x: &Tensor, weights: &[f32]) -> CandleResult<Tensor> {
        let device = x.device();
        let mut next = weights.iter();
        let spread: Vec<f32> =
            self.present.iter().map(|real| if *real { next.next().copied().unwrap_or(0.0) } else { 0.0 }).collect();
        let spread = Tensor::from_vec(spread, (self.sequences, 1, self.longest), device)?;
        let y = spread.matmul(&self.spread(&x.detach())?)?.squeeze(1)?;
        let weights = Tensor::from_slice(weights, (weights.len(), 1), device)?;
        graft(&[x], y, move |dy| Ok(vec![Some(dy.index_select(&self.owners, 0)?.broadcast_mul(&weights)?)]))
    }

    /// The largest of each component; of equal ones the first gets the gradient.
    fn largest(self, x: &Tensor) -> CandleResult<Tensor> {
        // What stands beyond the end of a sequence is its first token, which changes no maximum.
        let input = x.detach();
        let y = self.spread(&input)?.max(1)?;
        let top = y.clone();
        graft(&[x], y, move |dy| {
            let shape = (self.sequences, self.longest, dy.dim(1)?);
            let equal = self.spread(&input)?.broadcast_eq(&top.unsqueeze(1)?)?.to_dtype(DType::F32)?;
            let place = Tensor::arange(0f32, self.longest as f32, dy.device())?.reshape((1, self.longest, 1))?;
            // Places of equal ones, and beyond the last place those of the others.
            let beyond = equal.affine(-(self.longest as f64), self.longest as f64)?;
            let first = beyond.broadcast_add(&place)?.min_keepdim(1)?;
            let chosen = place.broadcast_as(shape)?.broadcast_eq(&first)?.to_dtype(DType::F32)?;
            let spread = chosen.broadcast_mul(&dy.unsqueeze(1)?)?.reshape(((), shape.2))?;
            Ok(vec![Some(spread.index_select(&self.places, 0)?)])
        })
    }
}
