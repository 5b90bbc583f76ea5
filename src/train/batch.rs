//! Which questions a step sees, and how they are cut into micro-batches. Order is a pure function of (seed, epoch), so a
//! resumed run needs no iterator state.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Row numbers of the questions of one optimiser step, `batch_size` of them (repeats only across epochs), for step numbers
/// from 0.
///
/// An epoch is a permutation of all questions drawn from (seed, epoch); steps walk through the epochs without gaps, so
/// that every question is seen equally often.
pub fn rows(questions: usize, batch_size: usize, seed: u64, step: u64) -> Vec<usize> {
    let mut rows = Vec::with_capacity(batch_size);
    if questions == 0 {
        return rows;
    }
    let mut position = step as u128 * batch_size as u128;
    let mut epoch = u128::MAX;
    let mut order = Vec::new();
    while rows.len() < batch_size {
        let now = position / questions as u128;
        if now != epoch {
            epoch = now;
            order = permutation(questions, seed, epoch as u64);
        }
        if let Some(row) = order.get((position % questions as u128) as usize) {
            rows.push(*row);
        }
        position += 1;
    }
    rows
}

fn permutation(questions: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..questions).collect();
    order.shuffle(&mut rng);
    order
}

/// Cuts `questions` questions of estimated `tokens` each into runs whose sum stays within `budget` (one question at least).
pub fn micro_batches(tokens: &[usize], budget: usize) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (row, tokens) in tokens.iter().enumerate() {
        if row > start && sum + tokens > budget {
            runs.push(start..row);
            (start, sum) = (row, 0);
        }
        sum += tokens;
    }
    if start < tokens.len() {
        runs.push(start..tokens.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_question_once_and_order_depends_on_the_seed() {
        let mut seen: Vec<usize> = (0..5).flat_map(|step| rows(10, 2, 7, step)).collect();
        assert_ne!(seen, (0..5).flat_map(|step| rows(10, 2, 8, step)).collect::<Vec<_>>());
        let second: Vec<usize> = (5..10).flat_map(|step| rows(10, 2, 7, step)).collect();
        assert_ne!(seen, second);
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        // A batch larger than the set, and one that straddles two epochs.
        assert_eq!(rows(3, 7, 1, 0).len(), 7);
        assert_eq!(rows(3, 2, 1, 1).len(), 2);
        assert!(rows(0, 4, 1, 0).is_empty());
    }

    #[test]
    fn micro_batches_cover_the_batch_in_order() {
        assert_eq!(micro_batches(&[4, 4, 4, 9, 1], 8), vec![0..2, 2..3, 3..4, 4..5]);
        assert_eq!(micro_batches(&[], 8), Vec::<std::ops::Range<usize>>::new());
    }
}
