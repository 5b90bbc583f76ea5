//! Scores to probabilities and back: loops over rows of scores.

use std::ops::Range;

use crate::models::nn::kernel::{exp_of_negative, fold, simd, sum_by_two};
use crate::models::nn::tiles::LANES;

simd! {
    /// Scores to exponentials of scale · scores, row by row: over the keys seen, 0 elsewhere; and 1 over their sums.
    /// `scale` is positive.
    pub fn soften(scores: &mut [f32], width: usize, scale: f32, seen: &[Range<usize>], inverse: &mut [f32]) {
        for ((row, seen), inverse) in scores.chunks_exact_mut(width).zip(seen).zip(inverse) {
            if seen.is_empty() {
                row.fill(0.0);
                *inverse = 0.0;
                continue;
            }
            let (lines, _) = row.as_chunks_mut::<LANES>();
            // NaN may get lost here, but not in the sum.
            let larger = |x: f32, y: f32| if y > x { y } else { x };
            let mut tops = [f32::NEG_INFINITY; LANES];
            for (at, line) in lines.iter_mut().enumerate() {
                let columns = at * LANES..(at + 1) * LANES;
                if columns.start < seen.start || columns.end > seen.end {
                    // Whole registers are computed: e to the −∞ is 0.
                    let (start, end) = (seen.start as u32, seen.end as u32);
                    for (lane, score) in line.iter_mut().enumerate() {
                        let column = columns.start as u32 + lane as u32;
                        *score = if column < start || column >= end { f32::NEG_INFINITY } else { *score };
                    }
                }
                for lane in 0..LANES {
                    tops[lane] = larger(tops[lane], line[lane]);
                }
            }
            let top = fold(tops, larger);
            let mut sums = [0f32; LANES];
            for line in lines {
                for lane in 0..LANES {
                    line[lane] = exp_of_negative((line[lane] - top) * scale);
                    sums[lane] += line[lane];
                }
            }
            *inverse = 1.0 / fold(sums, |x, y| x + y);
        }
    }
}

simd! {
    /// Every row times its own number.
    pub fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
        for (row, &factor) in rows.chunks_exact_mut(width).zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

simd! {
    /// ds = p · (dp − Σ p · dp), written over dp, in `columns` of rows of `width`; 0 where p is 0.
    pub fn soften_backward(p: &[f32], dp: &mut [f32], width: usize, columns: Range<usize>) {
        for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
            let (p, dp) = (&p[columns.clone()], &mut dp[columns.clone()]);
            let mean = sum_by_two(p, dp, |p, dp| p * dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - mean);
            }
        }
    }
}

simd! {
    /// Every number in `columns` of rows of `width` times its factor, where they lie densely.
    pub fn multiply_columns(rows: &mut [f32], width: usize, columns: Range<usize>, factors: &[f32]) {
        for (row, factors) in rows.chunks_exact_mut(width).zip(factors.chunks_exact(columns.len())) {
            for (value, &factor) in row[columns.clone()].iter_mut().zip(factors) {
                *value *= factor;
            }
        }
    }
}
