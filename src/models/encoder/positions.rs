//! Where a token stands: numbers that begin after the padding id (RoBERTa), buckets of distances (MPNet), angles (ModernBERT).
//!
//! N tokens of all sequences, T of the longest, H heads, Dh width of a head.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::models::batch::{Spans, TokenBatch};
use crate::models::nn;

/// Buckets of distances, half of them for each direction.
pub(super) const BUCKETS: usize = 32;
/// From this distance on all share the last bucket of their direction.
const FAR: f64 = 128.0;

/// Position of every token as RoBERTa counts, (N) u32: the padding id for a token that is itself the padding token, the
/// numbers after it, in order, for the others.
pub(super) fn after_padding(batch: &TokenBatch, padding: u32) -> Result<Tensor> {
    let ids = batch.ids.to_vec1::<u32>()?;
    let places = count_after(&ids, &batch.spans, padding);
    Ok(Tensor::from_vec(places, ids.len(), batch.ids.device())?)
}

fn count_after(ids: &[u32], spans: &Spans, padding: u32) -> Vec<u32> {
    let mut places = Vec::with_capacity(ids.len());
    for sequence in 0..spans.len() {
        let mut last = padding;
        for &id in ids.get(spans.range(sequence)).unwrap_or_default() {
            if id == padding {
                places.push(padding);
            } else {
                last += 1;
                places.push(last);
            }
        }
    }
    places
}

/// What is added to the score of query i and key j, (H, T, T): the row of `table` (32, H) of their distance's bucket (Raffel
/// et al., arXiv 1910.10683, section 2.1, both directions). Gradient to the table.
pub(super) fn distance_bias(table: &Tensor, longest: usize, device: &Device) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(longest * longest);
    for query in 0..longest {
        rows.extend((0..longest).map(|key| bucket(key as i64 - query as i64)));
    }
    let rows = Tensor::from_vec(rows, longest * longest, device)?;
    let heads = table.dim(1)?;
    Ok(nn::embedding(table, &rows)?.reshape((longest, longest, heads))?.permute((2, 0, 1))?.contiguous()?)
}

/// The bucket of a key `offset` places after its query: small distances one by one, larger ones by their logarithm.
fn bucket(offset: i64) -> u32 {
    let side = (BUCKETS / 2) as u32;
    let exact = side / 2;
    let direction = if offset > 0 { side } else { 0 };
    let distance = offset.unsigned_abs();
    if distance < u64::from(exact) {
        return direction + distance as u32;
    }
    // In f32 as transformers computes it, so that the same distances begin a bucket.
    let growth = (distance as f32 / exact as f32).ln() / (FAR / f64::from(exact)).ln() as f32;
    let bucket = exact + (growth * (side - exact) as f32) as u32;
    direction + bucket.min(side - 1)
}

/// Cosines and sines by which `nn::rope_packed` turns each token, two of (N, Dh/2): angles position · theta^(−2i/Dh), in f32
/// like transformers, whose long sequences it must match.
pub(super) fn angles(positions: &Tensor, width: usize, theta: f64) -> Result<(Tensor, Tensor)> {
    let places = positions.to_vec1::<u32>()?;
    let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / width as f32);
    let frequencies: Vec<f32> = (0..width / 2).map(frequency).collect();
    let table = |function: fn(f32) -> f32| {
        let values = places.iter().flat_map(|&place| frequencies.iter().map(move |f| function(place as f32 * f)));
        Tensor::from_vec(values.collect::<Vec<f32>>(), (places.len(), frequencies.len()), positions.device())
    };
    Ok((table(f32::cos)?, table(f32::sin)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_after_the_padding_id_and_skip_padding_tokens() {
        let spans = Spans::of_lengths(&[3, 4]);
        assert_eq!(count_after(&[0, 9, 2, 0, 1, 7, 2], &spans, 1), [2, 3, 4, 2, 1, 3, 4]);
    }

    #[test]
    fn distances_fall_into_the_buckets_of_transformers() {
        // MPNetEncoder.relative_position_bucket of key − query.
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/encoder_families.json");
        let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let expected = golden["mpnet_buckets"].as_array().unwrap();
        let reach = (expected.len() / 2) as i64;
        for (at, want) in expected.iter().enumerate() {
            let offset = at as i64 - reach;
            assert_eq!(u64::from(bucket(offset)), want.as_u64().unwrap(), "{offset}");
        }
    }
}
